"""Deliveries with edge cases in every type and at every level that the contract allows, the same ones on every call."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa

from biocloud_assets.raw.dsi.contract import CONTRACT, RESULT
from biocloud_assets.schema import ListOf, Presence, Struct, arrow_schema, arrow_type
from tests.ingest.deliveries import record, table, write

PLAIN, UNKNOWN, WIDE = "2026-01-31-06:00:00", "2026-02-28-06:00:00", "2026-03-31-06:00:00"

_SCALARS: dict[str, list[Any]] = {
    "string": [
        "",
        " ",
        "a",
        "Zoë 李雷 🦊",
        "null",
        '{"a": "\\"b\\""}',
        "tab\tnew\nline\\\r\x00\x12\x7f",
        "NaN",
        "'`\"%_",
    ],
    "int": [0, 1, -1, -(2**31), 2**31 - 1],
    "long": [0, 1, -(2**63), 2**63 - 1, 2**53 + 1],
    "double": [
        *(0.0, -0.0, 0.5, 1e-7, 1e7, 123456789.123456789, 5e-324, 1.7976931348623157e308),
        *(float(name) for name in ("nan", "inf", "-inf")),
    ],
    # The years 1 and 9999, the last Julian day, and times before 1970 with microseconds.
    "timestamp": [
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC),
        datetime(1582, 10, 4, 23, 59, 59, 999_999, UTC),
        datetime(1899, 12, 31, 23, 59, 59, 1, UTC),
    ],
}

NAME = "Un known.`field`"
"""The name of the field that the contract doesn't know."""

_LEVELS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "": (pa.int64(), [2**63 - 1, 0]),
    "generated_by": (pa.list_(pa.int32()), [[], [1, None]]),
    "media[]": (pa.string(), ["", "é\n\"'/</script>", "\u2028 🦊"]),
    "region_groups[]": (pa.decimal128(30, 4), [Decimal("12345678901234567890123456.7891"), Decimal("-0.0001")]),
    "region_groups[].regions[]": (pa.bool_(), [True, False]),
    "region_groups[].regions[].box": (pa.struct([("a", pa.int8()), ("b", pa.string())]), [{"a": 1, "b": None}]),
    "predictions[]": (pa.dictionary(pa.int32(), pa.string()), ["x", "é"]),
    "predictions[].taxa": (pa.date32(), [date(1, 1, 1), date(1582, 10, 4), date(2024, 2, 29), date(9999, 12, 31)]),
    "predictions[].taxa.items[]": (pa.map_(pa.string(), pa.int32()), [[("k", 1), ("l", None)], []]),
}

_COLUMNS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "int8": (pa.int8(), [-128, 127]),
    "uint8": (pa.uint8(), [0, 255]),
    "uint32": (pa.uint32(), [0, 2**32 - 1]),
    "float": (pa.float32(), [0.1, 16777216.0, 1e-10]),
    "double": (pa.float64(), [0.1, 100.0, 1e7, 1e-5, 1e300, -0.0]),
    "not a number": (pa.float64(), [float("nan"), float("inf"), float("-inf")]),
    "timestamp": (pa.timestamp("us", "UTC"), _SCALARS["timestamp"]),
    "local": (pa.timestamp("us"), [value.replace(tzinfo=None) for value in _SCALARS["timestamp"]]),
    "nanoseconds": (pa.timestamp("ns", "UTC"), [1_700_000_000_123_456_789, -1]),
    "time": (pa.time64("us"), [time(23, 59, 59, 999_999), time(0)]),
    "text": (pa.large_string(), _SCALARS["string"]),
    "binary": (pa.binary(), [b"", b"\x00\xff", b"text"]),
    "structs": (pa.list_(pa.struct([("a", pa.float64()), ("B", pa.date32())])), [[{"a": 1.5, "B": None}, None], []]),
    "NAME": (pa.string(), ["of the same name but for its case"]),
}


def _values(rng: random.Random, type_: Any, path: str, *, unknown: bool) -> Any:
    """A value of a type of the contract; a field that may be null is so now and then."""
    if isinstance(type_, ListOf):
        count = rng.choice([0, 1, 2, 3])
        return [_values(rng, type_.element, f"{path}[]", unknown=unknown) for _ in range(count)]
    if not isinstance(type_, Struct):
        return rng.choice(_SCALARS[type_])
    value = {
        field.name: None
        if field.presence is Presence.OPTIONAL and rng.random() < 0.2
        else _values(rng, field.type, f"{path}.{field.name}".lstrip("."), unknown=unknown)
        for field in type_.fields
    }
    if unknown and path in _LEVELS and rng.random() < 0.7:
        value[NAME] = rng.choice(_LEVELS[path][1])
    return value


def _records(rng: random.Random, folder: str, count: int, *, unknown: bool = False) -> list[dict[str, Any]]:
    type_ = Struct(CONTRACT.folder(folder).fields)
    keys = [*_SCALARS["string"], *(f"key {number}" for number in range(count))][:count]
    return [_values(rng, type_, "", unknown=unknown) | {"id": key} for key in keys]


def _with_unknown(type_: Any, path: str) -> pa.DataType:
    if isinstance(type_, Struct):
        fields = [(field.name, _with_unknown(field.type, f"{path}.{field.name}".lstrip("."))) for field in type_.fields]
        return pa.struct([*fields, *([(NAME, _LEVELS[path][0])] if path in _LEVELS else [])])
    if isinstance(type_, ListOf):
        return pa.list_(_with_unknown(type_.element, f"{path}[]"))
    return arrow_type(type_)


def _plus(of: pa.Table, columns: dict[str, tuple[pa.DataType, list[Any]]]) -> pa.Table:
    """A table with columns that the contract doesn't know, each null in every third row."""
    for name, (type_, values) in columns.items():
        chosen = [None if row % 3 == 2 else values[row % len(values)] for row in range(of.num_rows)]
        of = of.append_column(name, pa.array(chosen, type_))
    return of


def _other(schema: pa.Schema, **types: pa.DataType) -> pa.Schema:
    """A schema with some columns of other types."""
    return pa.schema([pa.field(field.name, types.get(field.name, field.type)) for field in schema])


def _wide() -> dict[str, list[pa.Table]]:
    """Folders whose files have types that can be widened to the contract's, and not all the same ones."""
    algorithm, media_item = (arrow_schema(CONTRACT.folder(f)) for f in ("algorithm", "sensor_media_item"))
    moments = [datetime(2024, 1, 1, 12, 0, 0, 123_000, UTC), datetime(1950, 7, 1, 0, 0, 0, 1_000, UTC), None]
    algorithms = [
        record("algorithm", id=f"{part} {row}", version=None, created_at=moment, updated_at=moment)
        for part in range(3)
        for row, moment in enumerate(moments)
    ]
    zoned = {"created_at": pa.timestamp("ns", "UTC"), "updated_at": pa.timestamp("ms", "Europe/Amsterdam")}
    local = {"created_at": pa.timestamp("us"), "updated_at": pa.timestamp("ns")}
    texts = {"id": pa.large_string(), "name": pa.dictionary(pa.int8(), pa.string()), "version": pa.null()}
    naive = [
        {name: value.replace(tzinfo=None) if isinstance(value, datetime) else value for name, value in item.items()}
        for item in algorithms[6:]
    ]
    numbers = {"width_px": pa.uint8(), "height_px": pa.int16(), "size_bytes": pa.uint64(), "duration_s": pa.float32()}
    media = record("sensor_media_item")["media"] | {"height_px": -3, "duration_s": 0.5}
    items = [record("sensor_media_item", id=f"item-{n}", media=media | {"width_px": n}) for n in (1, 255)]
    narrow = pa.struct(list(_other(pa.schema(list(media_item.field("media").type)), **numbers)))
    return {
        "algorithm": [
            table("algorithm", algorithms[:3]),
            pa.Table.from_pylist(algorithms[3:6], _other(algorithm, **zoned, **texts)),
            pa.Table.from_pylist(naive, _other(algorithm, **local)),
        ],
        "sensor_media_item": [pa.Table.from_pylist(items, _other(media_item, media=narrow))],
    }


def write_all(root: Path) -> list[str]:
    """Write the deliveries below a landing root, and return their names.

    The first has every value that the contract allows, in files of its schema. The second has fields that the contract
    doesn't know, of many types and at every level. The third has types that are widened to the contract's, and differ
    between files.
    """
    rng = random.Random(3)
    folders = [folder.name for folder in CONTRACT.folders]
    write(root, PLAIN, **{name: _records(rng, name, 60 if name == RESULT else 12) for name in folders})

    results = _records(rng, RESULT, 60, unknown=True)
    schema = pa.schema(list(_with_unknown(Struct(CONTRACT.folder(RESULT).fields), "")))
    sensors = _plus(table("sensor", _records(rng, "sensor", 20)), _COLUMNS)
    write(root, UNKNOWN, sensor=sensors, analysis_group_result=pa.Table.from_pylist(results, schema))

    columns = arrow_schema(CONTRACT.folder(RESULT))
    lists = _other(columns, media=pa.list_(pa.null()), region_groups=pa.null(), predictions=pa.list_(pa.null()))
    nothing = [record(RESULT, id="result-2", media=[], region_groups=None, predictions=[])]
    write(root, WIDE, **_wide(), analysis_group_result=[table(RESULT), pa.Table.from_pylist(nothing, lists)])
    return [PLAIN, UNKNOWN, WIDE]
