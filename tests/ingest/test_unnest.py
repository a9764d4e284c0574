"""Un-nesting loses nothing: whatever the contract allows can be built again from the five tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.ingest.delivery import list_delivery
from biocloud_assets.ingest.inspection import inspect
from biocloud_assets.ingest.tables import writing_tables
from biocloud_assets.ingest.unnest import renest
from biocloud_assets.raw.dsi.contract import CONTRACT, RESULT
from biocloud_assets.schema import (
    DELIVERY_COLUMN,
    RESCUED_COLUMN,
    Field,
    ListOf,
    Presence,
    Struct,
    arrow_schema,
    arrow_type,
)
from tests.ingest.deliveries import DELIVERY, write
from tests.ingest.lakehouse import context_at

FOLDER = CONTRACT.folder(RESULT)
FIVE = CONTRACT.tables_of(RESULT)

_SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "string": st.text(st.characters(exclude_categories=("Cs",)), max_size=8),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "double": st.one_of(
        st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 0.0, 0.5, 5e-324, 1.7976931348623157e308]),
        st.floats(0, 1),
    ),
    "timestamp": st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999).map(
        lambda micros: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
    ),
}


def _values(type_: Any) -> st.SearchStrategy[Any]:
    if isinstance(type_, Struct):
        return st.fixed_dictionaries({field.name: st.none() | _values(field.type) for field in type_.fields})
    if isinstance(type_, ListOf):
        return st.lists(_values(type_.element), max_size=3)
    return _SCALARS[type_]


def _records(fields: tuple[Field, ...]) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Any records that the contract allows: unique keys, no null where there may be none, no null in a list."""
    record = st.fixed_dictionaries(
        {
            field.name: _values(field.type)
            if field.presence is not Presence.OPTIONAL
            else st.none() | _values(field.type)
            for field in fields
        }
    )
    return st.lists(record, max_size=6, unique_by=lambda item: item["id"])


def _normal(value: Any, type_: Any) -> Any:
    """A value as it must come back: a null structure as one of nulls, and something that compares NaN as equal."""
    if isinstance(type_, Struct):
        return {field.name: _normal((value or {}).get(field.name), field.type) for field in type_.fields}
    if isinstance(type_, ListOf):
        return None if value is None else [_normal(item, type_.element) for item in value]
    return repr(value) if isinstance(value, float) else value


def _through_the_lake(root: Path, parts: list[pa.Table]) -> dict[str, Any]:
    """Write files, un-nest them into Delta tables, and return the frames that read those."""
    context: IngestContext = context_at(root)
    write(root / "in", **{RESULT: parts})
    inspection = inspect(context, list_delivery(context.landing, CONTRACT, DELIVERY), context.staging.below("test"))
    assert inspection.errors == ()
    with writing_tables(context, inspection, FIVE) as tables:
        written = list(tables)
    assert sorted(table.name for table in written) == sorted(table.name for table in FIVE)
    frames = {table.name: context.read_table(table).where(f"{DELIVERY_COLUMN} = '{DELIVERY}'") for table in FIVE}
    assert {name: frame.count() for name, frame in frames.items()} == {
        table.name: inspection.rows[table.name] for table in FIVE
    }
    return frames


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(records=_records(FOLDER.fields), cut=st.integers(0, 6))
def test_records_come_back_from_the_tables_as_they_were(
    records: list[dict[str, Any]], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    schema = arrow_schema(FOLDER)
    parts = [pa.Table.from_pylist(part, schema) for part in (records[:cut], records[cut:])]
    tables = _through_the_lake(tmp_path_factory.mktemp("lake"), parts)

    media = sum(len(record["media"] or ()) for record in records)
    groups = [group for record in records for group in record["region_groups"] or ()]
    predictions = [prediction for record in records for prediction in record["predictions"] or ()]
    expected = {
        "analysis_group_result": len(records),
        "analysis_group_result_media": media,
        "analysis_group_result_region_group": len(groups),
        "analysis_group_result_region": sum(len(group["regions"] or ()) for group in groups),
        "analysis_group_result_prediction": sum(
            max(1, len((prediction["taxa"] or {}).get("items") or ())) for prediction in predictions
        ),
    }
    assert {name: frame.count() for name, frame in tables.items()} == expected

    record_type = Struct(FOLDER.fields)
    found = [_normal(row, record_type) for row in renest(CONTRACT, FOLDER, tables).toArrow().to_pylist()]
    assert sorted(found, key=lambda r: r["id"]) == sorted(
        (_normal(record, record_type) for record in records), key=lambda r: r["id"]
    )


# Unknown fields at every level, of types that are hard to write as JSON, and how their values read there.
_UNKNOWN: dict[str, tuple[pa.DataType, st.SearchStrategy[Any], Any]] = {
    "": (pa.int64(), st.integers(-(2**63), 2**63 - 1), lambda v: v),
    "generated_by": (pa.list_(pa.int32()), st.lists(st.integers(0, 9) | st.none(), max_size=2), lambda v: v),
    "media[]": (pa.string(), st.text(st.characters(exclude_categories=("Cs",)), max_size=4), lambda v: v),
    "region_groups[]": (pa.decimal128(30, 4), st.decimals(-(10**25), 10**25, places=4), lambda v: format(v, "f")),
    "region_groups[].regions[]": (pa.bool_(), st.booleans(), lambda v: v),
    "region_groups[].regions[].box": (pa.struct([("a", pa.int8())]), st.just({"a": 1}), lambda v: v),
    "predictions[]": (pa.dictionary(pa.int32(), pa.string()), st.sampled_from(["x", "é"]), lambda v: v),
    "predictions[].taxa": (pa.date32(), st.dates(), lambda v: v.isoformat()),
    "predictions[].taxa.items[]": (pa.map_(pa.string(), pa.int32()), st.just([("k", 1)]), dict),
}
_NAME = "Un known.`field`"


def _with_unknown(type_: Any, path: str) -> pa.DataType:
    if isinstance(type_, Struct):
        fields = [(f.name, _with_unknown(f.type, f"{path}.{f.name}".lstrip("."))) for f in type_.fields]
        return pa.struct([*fields, *([(_NAME, _UNKNOWN[path][0])] if path in _UNKNOWN else [])])
    if isinstance(type_, ListOf):
        return pa.list_(_with_unknown(type_.element, f"{path}[]"))
    return arrow_type(type_)


def _values_with_unknown(type_: Any, path: str) -> st.SearchStrategy[Any]:
    if isinstance(type_, Struct):
        fields = {f.name: _values_with_unknown(f.type, f"{path}.{f.name}".lstrip(".")) for f in type_.fields}
        if path in _UNKNOWN:
            fields[_NAME] = st.none() | _UNKNOWN[path][1]
        return st.fixed_dictionaries(fields)
    if isinstance(type_, ListOf):
        return st.none() | st.lists(_values_with_unknown(type_.element, f"{path}[]"), max_size=2)
    return _SCALARS[type_]


def _rescued(value: dict[str, Any] | None, path: str) -> dict[str, Any]:
    """What must be rescued of one structure and the structures in it, outside lists."""
    value = value or {}
    kept = {}
    if value.get(_NAME) is not None:
        kept[_NAME] = _UNKNOWN[path][2](value[_NAME])
    for name, inner in value.items():
        if isinstance(inner, dict) and name != _NAME and (below := _rescued(inner, f"{path}.{name}".lstrip("."))):
            kept[name] = below
    return kept


def _expected_rescues(record: dict[str, Any]) -> Iterator[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """For each row of each table: its key, and what must be rescued in it."""
    yield "analysis_group_result", (record["id"],), _rescued(record, "")
    for m, medium in enumerate(record["media"] or ()):
        yield "analysis_group_result_media", (record["id"], m), _rescued(medium, "media[]")
    for g, group in enumerate(record["region_groups"] or ()):
        yield "analysis_group_result_region_group", (record["id"], g), _rescued(group, "region_groups[]")
        for r, region in enumerate(group["regions"] or ()):
            kept = _rescued(region, "region_groups[].regions[]")
            yield "analysis_group_result_region", (record["id"], g, r), kept
    for p, prediction in enumerate(record["predictions"] or ()):
        kept = _rescued(prediction, "predictions[]")
        items = prediction["taxa"]["items"] or ()
        if not items:
            yield "analysis_group_result_prediction", (record["id"], p, None), kept
        for i, item in enumerate(items):
            below = _rescued(item, "predictions[].taxa.items[]")
            whole = {**kept, "taxa": {**kept.get("taxa", {}), "items": below}} if below else kept
            yield "analysis_group_result_prediction", (record["id"], p, i), whole


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_fields_that_the_contract_does_not_know_are_kept_in_the_row_that_they_belong_to(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    record_type = Struct(FOLDER.fields)
    records = data.draw(st.lists(_values_with_unknown(record_type, ""), max_size=3, unique_by=lambda r: r["id"]))
    schema = pa.schema(list(_with_unknown(record_type, "")))
    tables = _through_the_lake(tmp_path_factory.mktemp("lake"), [pa.Table.from_pylist(records, schema)])

    expected = {(table, key): kept for record in records for table, key, kept in _expected_rescues(record)}
    found = {}
    for name, frame in tables.items():
        for row in frame.toArrow().to_pylist():
            key = tuple(row[column] for column in CONTRACT.table(name).key)
            found[name, key] = json.loads(row[RESCUED_COLUMN]) if row[RESCUED_COLUMN] is not None else {}
            assert row[RESCUED_COLUMN] != "{}"
    assert found == expected

    known = [_normal(row, record_type) for row in renest(CONTRACT, FOLDER, tables).toArrow().to_pylist()]
    assert sorted(known, key=lambda r: r["id"]) == sorted(
        (_normal(record, record_type) for record in records), key=lambda r: r["id"]
    )
