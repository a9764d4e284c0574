"""What a copy of a file must hold, worked out row by row in plain Python, in another way than the reader does it."""

from __future__ import annotations

import base64
from datetime import date, timedelta
from typing import Any

import pyarrow as pa

from biocloud_assets.raw.dsi.contract import CONTRACT, RESULT
from biocloud_assets.schema import Field, ListOf, Struct

Record = dict[str, Any]


def expected_rows(folder: str, of: pa.Table) -> list[Record]:
    """The rows of a copy of a table, with what is rescued as Python values instead of JSON texts.

    Args:
        folder: the folder, whose known columns are in the contract's types.
        of: the table, with unknown fields of any type at any level.
    """
    fields = CONTRACT.folder(folder).fields
    rows = []
    for index in range(of.num_rows):
        scalars = {name: of.column(name)[index] for name in of.column_names}
        known, rescued = _split(scalars, fields)
        rows.append(known | {"_rescued": rescued or None})
    if folder == RESULT:
        for row in rows:
            for prediction in row["predictions"] or []:
                _pass_down(prediction)
    return rows


def _pass_down(prediction: Record) -> None:
    """A prediction has no row of its own: its taxa keep what is rescued of it."""
    items = (prediction["taxa"] or {}).get("items")
    if not items:
        return
    above = prediction["_rescued"] or {}
    prediction["_rescued"] = None
    for item in items:
        merged = {name: value for name, value in above.items() if name != "taxa"}
        taxa = dict(above.get("taxa", {}))
        if item["_rescued"]:
            taxa["items"] = item["_rescued"]
        if taxa:
            merged["taxa"] = taxa
        item["_rescued"] = merged or None


def _split(scalars: dict[str, pa.Scalar], fields: tuple[Field, ...]) -> tuple[Record, Record]:
    """The known fields of a structure, and what is rescued of it."""
    known: Record = {}
    rescued: Record = {}
    by_name = {field.name: field for field in fields}
    for name, scalar in scalars.items():
        if name not in by_name and json_value(scalar) is not None:
            rescued[name] = json_value(scalar)
    for name, field in by_name.items():
        scalar = scalars[name]
        if not scalar.is_valid:
            known[name] = None
        elif isinstance(field.type, Struct):
            known[name], below = _split(dict(zip(_names(scalar.type), scalar.values(), strict=True)), field.type.fields)
            if below:
                rescued[name] = below
        elif isinstance(field.type, ListOf):
            known[name] = []
            for element in scalar:
                parts = dict(zip(_names(element.type), element.values(), strict=True))
                row, below = _split(parts, field.type.element.fields)
                known[name].append(row | {"_rescued": below or None})
        else:
            known[name] = scalar.as_py()
    return known, rescued


def _names(type_: pa.StructType) -> list[str]:
    return [field.name for field in type_]


def json_value(scalar: pa.Scalar) -> Any:
    """A value as `json.loads` must give it back from `_rescued`."""
    t, type_ = pa.types, scalar.type
    if isinstance(scalar, pa.ExtensionScalar):
        return json_value(scalar.value) if scalar.is_valid else None
    if t.is_dictionary(type_):
        return json_value(scalar.value)
    if not scalar.is_valid:
        return None
    if t.is_struct(type_):
        parts = {name: json_value(part) for name, part in zip(_names(type_), scalar.values(), strict=True)}
        return {name: value for name, value in parts.items() if value is not None}
    if t.is_map(type_):
        entries = [tuple(json_value(part) for part in entry.values()) for entry in scalar.values]
        names = [key if isinstance(key, str) else _bare(key) for key, _ in entries]
        if t.is_nested(type_.key_type) or len(set(names)) < len(names):
            return [{"key": key, "value": value} for key, value in entries]
        return {name: value for name, (_, value) in zip(names, entries, strict=True)}
    if t.is_nested(type_):
        return [json_value(element) for element in scalar]
    if t.is_floating(type_):
        value = scalar.as_py()
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(str(float(value)), float(value))
    if t.is_decimal(type_):
        return f"{scalar.as_py():f}"
    if t.is_timestamp(type_):
        digits = {"s": 0, "ms": 3, "us": 6, "ns": 9}[type_.unit]
        seconds, rest = divmod(scalar.value, 10**digits)
        days, second = divmod(seconds, 86_400)
        clock = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
        fraction = f".{rest:0{digits}}".rstrip("0").rstrip(".") if digits else ""
        return f"{_day(days)}T{clock}{fraction}Z"
    if t.is_date(type_):
        return _day(scalar.value if t.is_date32(type_) else scalar.value // 86_400_000)
    if t.is_time(type_):
        digits = {"s": 0, "ms": 3, "us": 6, "ns": 9}[type_.unit]
        second, rest = divmod(scalar.value, 10**digits)
        fraction = f".{rest:0{digits}}".rstrip("0").rstrip(".") if digits else ""
        return f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}{fraction}"
    if t.is_duration(type_):
        digits = {"s": 0, "ms": 3, "us": 6, "ns": 9}[type_.unit]
        seconds, rest = divmod(abs(scalar.value), 10**digits)
        fraction = f".{rest:0{digits}}".rstrip("0").rstrip(".") if digits else ""
        return f"PT{'-' if scalar.value < 0 else ''}{seconds}{fraction}S"
    value = scalar.as_py()
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _bare(key: Any) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _day(days: int) -> str:
    """The date of a day since 1970, in ISO 8601, in any year: 400 years of this calendar are 146,097 days."""
    cycles, rest = divmod(days - date(2000, 1, 1).toordinal() + date(1970, 1, 1).toordinal(), 146_097)
    day = date(2000, 1, 1) + timedelta(days=rest)
    year = day.year + 400 * cycles
    sign = "+" if year > 9999 else "-" if year < 0 else ""
    return f"{sign}{abs(year):04}-{day.month:02}-{day.day:02}"
