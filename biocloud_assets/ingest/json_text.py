"""Arrow values of any type as JSON text: the form in which `_rescued` keeps what the contract doesn't know.

| Arrow or Parquet type | JSON |
|---|---|
| boolean, integer | `true`, `12` |
| float | a number with all its digits: `0.1`, `100.0`, `1e-10`; `"NaN"`, `"Infinity"`, `"-Infinity"` |
| decimal | text with all its decimals: `"12.50"` |
| string, ENUM, JSON | text |
| binary, UUID, interval, geometry | text, Base64 (RFC 4648) |
| date | text, ISO 8601: `"2026-01-31"` |
| timestamp | text, ISO 8601 in UTC, with as many decimals as it needs: `"2026-01-31T06:00:00.5Z"` |
| time of day | text: `"23:59:59.5"` |
| duration | text, ISO 8601 in seconds: `"PT1.5S"` |
| struct | an object; a field that is null is left out |
| list | an array; an element that is null is `null` |
| map | an object, whose names are the keys, as text; a value that is null is `null` |
| map with a repeated or nested key | an array of objects with `key` and `value`, in the order of the file |

A timestamp without zone is taken for UTC. A year before 0 or after 9999 has a sign, as ISO 8601 says: `"+10000-01-01"`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Container
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from biocloud_assets.ingest.footers import is_list, plain_type

FIRST_GREGORIAN_DAY = -141_427
"""1582-10-15 in days since 1970. Spark's legacy calendar counts earlier days in another way."""

FIRST_EQUAL_SECOND = -2_208_988_800
"""1900-01-01 in seconds since 1970. From here on a timestamp is the same in Spark's legacy calendar, in every zone."""


class NotJsonError(Exception):
    """A value or a type that has no JSON form. Its message names it."""


@dataclass(frozen=True)
class JsonWriter:
    """Writes values as JSON.

    Attributes:
        texts: the paths of fields whose bytes are text, in UTF-8.
        in_legacy_calendar: whether old dates and timestamps are in Spark's legacy calendar; these are refused.
    """

    texts: Container[str] = ()
    in_legacy_calendar: bool = False

    def text(self, values: pa.Array, path: str = "") -> pa.StringArray:
        """Write values as JSON.

        Args:
            values: of any type.
            path: the path of the field that they are of.

        Returns:
            for each value its JSON text; null for a null.

        Raises:
            NotJsonError: the type has no form in JSON, or a date or time is one that no calendar has.
            pyarrow.ArrowInvalid: a text is not UTF-8, or longer than 2 GiB.
        """
        t = pa.types
        values = plain(values)
        type_ = values.type
        if t.is_null(type_):
            return pa.nulls(len(values), pa.string())
        if t.is_boolean(type_) or t.is_integer(type_):
            return values.cast(pa.string())
        if t.is_floating(type_):
            return _number_text(values)
        if t.is_string(type_) or t.is_large_string(type_) or t.is_string_view(type_) or path in self.texts:
            return _quoted(values.cast(pa.string()))
        if _is_binary(type_):
            return _each(values, lambda value: f'"{base64.b64encode(value).decode()}"')
        if t.is_decimal(type_):
            return _join('"', _decimal_text(values), '"')
        if t.is_duration(type_):
            return _each(values.view(pa.int64()), lambda count: f'"PT{_seconds(count, type_.unit)}S"')
        if t.is_temporal(type_) and not t.is_interval(type_):
            return _join('"', self._time_text(values), '"')
        if t.is_struct(type_):
            return self._struct_text(values, path)
        if t.is_map(type_):
            return self._map_text(values, path)
        if is_list(type_):
            lists = as_list(values)
            return _array_text(lists, self.text(lists.flatten(), f"{path}[]"))
        raise NotJsonError(f"the type {type_}")

    def _time_text(self, values: pa.Array) -> pa.StringArray:
        type_ = values.type
        if pa.types.is_timestamp(type_):
            values = in_utc(values)
            first = FIRST_EQUAL_SECOND * ticks(type_)
        elif pa.types.is_date(type_):
            values = values.cast(pa.date32())
            first = FIRST_GREGORIAN_DAY
        if self.in_legacy_calendar and not pa.types.is_time(type_):
            counts = values.view(pa.int32() if pa.types.is_date(type_) else pa.int64())
            if pc.any(pc.less(counts, first)).as_py():
                raise NotJsonError(f"a {type_} of a time when Spark's legacy calendar, which the file has, differs")
        text = values.cast(pa.string())
        if pc.any(pc.starts_with(text, "<")).as_py():  # Arrow's way to tell that it can't
            raise NotJsonError(f"a {type_} that no calendar or clock has")
        if pa.types.is_date(type_):
            return _signed_year(text)
        text = pc.replace_substring_regex(text, r"(\.\d*?)0+$", r"\1")
        text = pc.replace_substring_regex(text, r"\.$", "")
        if pa.types.is_time(type_):
            return text
        return _join(_signed_year(pc.replace_substring(text, " ", "T")), "Z")

    def _struct_text(self, values: pa.StructArray, path: str) -> pa.StringArray:
        parts = [
            (field.name, self.text(part, f"{path}.{field.name}"))
            for field, part in zip(values.type, values.flatten(), strict=True)
        ]
        return pc.if_else(values.is_valid(), object_text(parts, len(values)), pa.scalar(None, pa.string()))

    def _map_text(self, values: pa.MapArray, path: str) -> pa.StringArray:
        entries = as_list(values)
        keys, items = entries.flatten().flatten()
        key = self.text(keys, f"{path}[].key")
        item = self.text(items, f"{path}[].value").fill_null("null")
        owner = pc.list_parent_indices(entries)
        as_array = _array_text(entries, _join('{"key":', key.fill_null("null"), ',"value":', item, "}"))
        if pa.types.is_nested(plain_type(keys.type)):
            return as_array
        name = pc.if_else(pc.starts_with(key, '"'), key, _join('"', key, '"'))
        as_object = _array_text(entries, _join(name.fill_null('""'), ":", item), "{", "}")
        groups = pa.table({"owner": owner, "name": name}).group_by(["owner", "name"]).aggregate([([], "count_all")])
        unfit = groups.filter(pc.or_(pc.greater(groups["count_all"], 1), groups["name"].is_null()))["owner"]
        if not len(unfit):
            return as_object
        index = pa.array(range(len(values)), pa.int64())
        return pc.if_else(pc.is_in(index, unfit.combine_chunks().cast(pa.int64())), as_array, as_object)


def object_text(parts: list[tuple[str, pa.StringArray]], count: int) -> pa.StringArray:
    """JSON objects of the JSON texts of their fields; a field that is null is left out.

    Args:
        parts: for each field its name and its values.
        count: the number of objects.
    """
    if not parts:
        return pa.repeat("{}", count)
    named = [_join(f",{json.dumps(name, ensure_ascii=False)}:", values) for name, values in parts]
    # `null_handling="skip"` would need no comma to be taken off, but drops rows in which all are null (pyarrow 26).
    joined = pc.binary_join_element_wise(*named, "", null_handling="replace", null_replacement="")
    return _join("{", pc.utf8_ltrim(joined, ","), "}")


def plain(values: pa.Array) -> pa.Array:
    """The values themselves, without a dictionary or an extension around them."""
    while True:
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        elif isinstance(values.type, pa.BaseExtensionType):
            values = values.storage
        else:
            return values


def as_list(values: pa.Array) -> pa.Array:
    """Lists of any layout, or maps, as lists whose elements can be taken out by `flatten()`."""
    if pa.types.is_list(values.type):
        return values
    if not pa.types.is_map(values.type):
        return list_of(values, values.flatten())
    # A cast would do, but it breaks lists of nulls in the map (pyarrow 26).
    entries = pa.StructArray.from_arrays([values.keys, values.items], names=["key", "value"])
    is_start = pa.concat_arrays([values.is_valid(), pa.array([True])])
    return pa.ListArray.from_arrays(pc.if_else(is_start, values.offsets, pa.scalar(None, pa.int32())), entries)


def list_of(lists: pa.Array, elements: pa.Array, type_: pa.ListType | None = None) -> pa.ListArray:
    """Lists like others, null where they are null, of other elements.

    Args:
        lists: the others, of any layout.
        elements: for each element of these, another one.
        type_: the type of the lists.
    """
    lengths = pc.list_value_length(lists)
    ends = pc.cumulative_sum_checked(lengths.cast(pa.int32()).fill_null(0))
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends])
    return pa.ListArray.from_arrays(offsets, elements, type_, mask=lists.is_null() if lists.null_count else None)


def in_utc(values: pa.TimestampArray) -> pa.TimestampArray:
    """Timestamps as they are in UTC, without zone; those without one are taken for UTC."""
    return values.view(pa.timestamp(values.type.unit))


def ticks(type_: pa.DataType) -> int:
    """How many units of a timestamp or duration a second has."""
    return {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[type_.unit]


def _array_text(lists: pa.ListArray, elements: pa.StringArray, start: str = "[", end: str = "]") -> pa.StringArray:
    return _join(start, pc.binary_join(list_of(lists, elements.fill_null("null")), ","), end)


def _is_binary(type_: pa.DataType) -> bool:
    t = pa.types
    return bool(
        t.is_binary(type_) or t.is_large_binary(type_) or t.is_fixed_size_binary(type_) or t.is_binary_view(type_)
    )


def _join(*parts: pa.StringArray | str) -> pa.StringArray:
    """Texts of parts, a text for all or an array of texts; null where one is null."""
    return pc.binary_join_element_wise(*parts, "")


def _each(values: pa.Array, write: Callable[[Any], str]) -> pa.StringArray:
    return pa.array([None if value is None else write(value) for value in values.to_pylist()], pa.string())


def _replaced(texts: pa.StringArray, where: pa.BooleanArray, write: Callable[[str], str]) -> pa.StringArray:
    where = where.fill_null(False)
    if not where.true_count:
        return texts
    return pc.replace_with_mask(texts, where, _each(texts.filter(where), write))


def _quoted(texts: pa.StringArray) -> pa.StringArray:
    special = pc.match_substring_regex(texts, r'["\\\x00-\x1f]')
    inside = _replaced(texts, special, lambda text: json.dumps(text, ensure_ascii=False)[1:-1])
    return _join('"', inside, '"')


def _number_text(values: pa.Array) -> pa.StringArray:
    texts = pc.replace_substring_regex(values.cast(pa.float64()).cast(pa.string()), r"^-?\d+$", r"\0.0")
    names = {"nan": '"NaN"', "-nan": '"NaN"', "inf": '"Infinity"', "-inf": '"-Infinity"'}
    return _replaced(texts, pc.match_substring_regex(texts, "n"), lambda text: names[text])


def _decimal_text(values: pa.Array) -> pa.StringArray:
    texts = values.cast(pa.string())
    return _replaced(texts, pc.match_substring(texts, "E"), lambda text: f"{Decimal(text):f}")


def _seconds(count: int, unit: str) -> str:
    text = f"{Decimal(count).scaleb(-('s', 'ms', 'us', 'ns').index(unit) * 3):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _signed_year(texts: pa.StringArray) -> pa.StringArray:
    return pc.replace_substring_regex(texts, r"^(\d{5,}-)", r"+\1")
