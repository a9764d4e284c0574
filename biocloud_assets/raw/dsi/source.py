"""A folder's files as the contract has them: one frame with its columns, types and order, and the rest rescued.

What belongs here: casting what may be widened, and keeping what the contract doesn't know as JSON in `_rescued`. What
doesn't: judging files (`files`, `validation`) and un-nesting (`unnest`).

A structure that stands in a list gets a `_rescued` of its own, for it becomes a row of its own. Where it doesn't (a
prediction, which has one row for each of its taxa), what is rescued goes down to the innermost list's rows, as a JSON
object of the same nesting; an element whose innermost list is empty keeps it itself, for that keeps a row too.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark.sql import functions as F

from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi import contract
from biocloud_assets.raw.dsi.contract import RESCUED_COLUMN, Field, Folder, ListOf, Struct
from biocloud_assets.spark.session import file_path, on_sail

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

    from biocloud_assets.raw.dsi.files import SourceFile

# What is rescued: the names that lead to it from the row that keeps it, and its values.
_Rescued = list[tuple[tuple[str, ...], "Column"]]

_OWN_ROWS = {table.levels[-1] for table in contract.TABLES if table.levels}
_INNERMOST = {table.levels[-2]: table.levels[-1] for table in contract.TABLES if table.keeps_empty}


def read(
    spark: SparkSession,
    landing: DataLake,
    folder: Folder,
    files: Iterable[SourceFile],
    *,
    lists: Container[str] | None = None,
    rebuild: bool = False,
) -> DataFrame:
    """A folder's files as one frame.

    Args:
        spark: the session.
        landing: the landing zone.
        folder: the folder.
        files: its files. A field in one that can't be used (`SourceFile.unusable`) reads as null.
        lists: the list columns that are needed; the others stay as they are in the files, which for files that need
            casting saves the engine much planning. All if None.
        rebuild: build every structure anew, also where nothing needs to be cast, so that every structure in a list has
            a `_rescued` and a null structure becomes one whose fields are all null.

    Returns:
        the columns of the folder in the contract's order and types, and `_rescued`: a JSON object of the columns that
        the contract doesn't know, or null.
    """
    groups: dict[tuple[pa.Schema, frozenset[str]], list[str]] = {}
    for file in files:
        # Files of one schema are read together; which are read is said by name, so that they are those inspected.
        groups.setdefault((file.schema, file.unusable), []).append(file_path(landing, file.info.path))
    # A list that is as the contract has it stays as it is, without `_rescued` in it: not if it has to go with others.
    several = len(groups) > 1
    frames = [
        _conform(
            spark.read.parquet(*paths),
            folder,
            schema,
            _Builder(unusable, None if several else lists, rebuild, rebuild or several),
        )
        for (schema, unusable), paths in groups.items()
    ]
    return reduce(lambda left, right: left.unionByName(right), frames)


def _conform(frame: DataFrame, folder: Folder, schema: pa.Schema, builder: _Builder) -> DataFrame:
    """Bring a frame, read from files of one schema, to the contract's columns and types."""
    found = {item.name: item.type for item in schema}
    values, rescued = builder.level(lambda name: F.col(_quoted(name)), folder.fields, found, "", (), [], False)
    return frame.select(*values, _json(rescued).alias(RESCUED_COLUMN))


@dataclass(frozen=True)
class _Builder:
    unusable: frozenset[str]
    lists: Container[str] | None
    rebuild: bool
    rebuild_lists: bool

    def level(
        self,
        get: Callable[[str], Column],
        fields: tuple[Field, ...],
        found: dict[str, pa.DataType],
        path: str,
        at: tuple[str, ...],
        above: _Rescued,
        passes_down: bool,
    ) -> tuple[list[Column], _Rescued]:
        """The fields of one structure, and what is rescued so far.

        Args:
            get: the column of a field of the structure.
            fields: the contract's fields of it.
            found: the fields in the files.
            path: the contract's path of it, with a dot behind unless it is the whole record.
            at: the names that lead to it from the row that keeps what is rescued.
            above: what was rescued on the way to it.
            passes_down: whether what is rescued goes down to the rows of a list in it.
        """
        known = {item.name for item in fields}
        rescued = list(above)
        rescued += [((*at, name), _jsonable(get(name), type_)) for name, type_ in found.items() if name not in known]
        values: dict[str, Column] = {}
        # Lists last: they may have to take down what is rescued of the structures beside them.
        for item in sorted(fields, key=lambda item: isinstance(item.type, ListOf)):
            type_, here = found.get(item.name), f"{path}{item.name}"
            if type_ is None or here in self.unusable or pa.types.is_null(type_):
                values[item.name] = _null(item.type)
            elif isinstance(item.type, ListOf):
                values[item.name] = self._list(
                    get(item.name), item, item.type.element, type_, here, at, rescued, passes_down
                )
            elif _is_canonical(item.type, type_) and not self.rebuild and not _has_list(item.type):
                values[item.name] = get(item.name)
            elif isinstance(item.type, Struct):
                inner = {field.name: field.type for field in _fields(type_)}
                parts, rescued = self.level(
                    get(item.name).getField, item.type.fields, inner, f"{here}.", (*at, item.name), rescued, passes_down
                )
                values[item.name] = _struct(parts)
            else:
                values[item.name] = _microseconds(get(item.name), type_).cast(contract.spark_type(item.type))
        return [values[item.name].alias(item.name) for item in fields], rescued

    def _list(
        self,
        column: Column,
        item: Field,
        element: Struct,
        found: pa.DataType,
        path: str,
        at: tuple[str, ...],
        rescued: _Rescued,
        passes_down: bool,
    ) -> Column:
        if pa.types.is_null(found.value_type):  # lists that are all empty, or of nulls
            return F.transform(column, lambda _: F.element_at(_null(item.type), 1))
        taken = rescued if passes_down else []
        if _is_canonical(item.type, found) and not self.rebuild_lists and not taken:
            return column
        if self.lists is not None and path.partition("[]")[0] not in self.lists:
            return column
        here = f"{path}[]"
        fields = {field.name: field.type for field in _fields(found.value_type)}

        def build(value: Column) -> Column:
            start = (*at, item.name) if passes_down else ()
            values, inner = self.level(
                value.getField, element.fields, fields, f"{here}.", start, taken, here not in _OWN_ROWS
            )
            kept = _json(inner)
            if here in _INNERMOST:
                names = _INNERMOST[here].removeprefix(f"{here}.").removesuffix("[]").split(".")
                below = reduce(lambda inner_value, name: inner_value.getField(name), names, value)
                kept = F.when(F.coalesce(F.array_size(below), F.lit(0)) == 0, kept)
            return F.when(value.isNotNull(), _struct([*values, kept.alias(RESCUED_COLUMN)]))

        return F.transform(column, build)


def _null(type_: contract.Scalar | Struct | ListOf) -> Column:
    return F.lit(None).cast(contract.spark_type(type_, rescued=True))


def _struct(parts: list[Column]) -> Column:
    return F.struct(*parts)


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _fields(type_: pa.StructType) -> list[pa.Field]:
    return [type_.field(index) for index in range(type_.num_fields)]


def _has_list(type_: contract.Scalar | Struct | ListOf) -> bool:
    return isinstance(type_, Struct) and any(
        _has_list(item.type) or isinstance(item.type, ListOf) for item in type_.fields
    )


def _is_canonical(type_: contract.Scalar | Struct | ListOf, found: pa.DataType) -> bool:
    """Whether files have a field just as the contract does, names and order of nested fields included."""
    if isinstance(type_, Struct):
        return (
            pa.types.is_struct(found)
            and [item.name for item in type_.fields] == [item.name for item in _fields(found)]
            and all(
                _is_canonical(item.type, inner.type) for item, inner in zip(type_.fields, _fields(found), strict=True)
            )
        )
    if isinstance(type_, ListOf):
        return pa.types.is_list(found) and _is_canonical(type_.element, found.value_type)
    if pa.types.is_timestamp(found) and found.tz is not None:
        found = pa.timestamp(found.unit, tz="UTC")
    return bool(found == contract.arrow_type(type_))


def _jsonable(column: Column, type_: pa.DataType) -> Column:
    """A column of a type that the contract doesn't know, as something that every engine writes to JSON without loss."""
    t = pa.types
    if t.is_timestamp(type_):
        return _time_text(column, type_)
    if _is_text_in_json(type_):
        return column.cast("string")
    if t.is_float32(type_):
        return column.cast("double")
    if t.is_struct(type_):
        parts = [_jsonable(column.getField(item.name), item.type).alias(item.name) for item in _fields(type_)]
        return F.when(column.isNotNull(), F.struct(*parts)) if parts else column.cast("string")
    if t.is_map(type_):
        values = F.transform(F.map_values(column), lambda value: _jsonable(value, type_.item_type))
        return F.map_from_arrays(F.map_keys(column), values)
    if t.is_list(type_) or t.is_large_list(type_) or t.is_fixed_size_list(type_):
        return F.transform(column, lambda value: _jsonable(value, type_.value_type))
    return column


def _is_text_in_json(type_: pa.DataType) -> bool:
    """Whether a scalar has to be written as text: decimals would go through a double, and the engines' JSON doesn't
    know times of day, durations and dictionaries."""
    t = pa.types
    return (
        t.is_decimal(type_) or t.is_time(type_) or t.is_duration(type_) or t.is_float16(type_) or t.is_dictionary(type_)
    )


def _microseconds(column: Column, type_: pa.DataType) -> Column:
    """A timestamp of nanoseconds as one of microseconds, where the engine reads it as a number; else the column."""
    if not _is_number_of_nanoseconds(type_):
        return column
    return F.timestamp_micros(F.call_function("div", column - F.pmod(column, F.lit(1000)), F.lit(1000)))


def _time_text(column: Column, type_: pa.DataType) -> Column:
    """A timestamp in ISO 8601, with all its decimals but for zeros at the end; one without zone is taken for UTC."""
    text = column.cast("string")
    if _is_number_of_nanoseconds(type_):
        seconds = F.date_trunc("second", _microseconds(column, type_)).cast("string")
        decimals = F.lpad(F.pmod(column, F.lit(10**9)).cast("string"), 9, "0")
        text = F.regexp_replace(F.concat(seconds, F.lit("."), decimals), r"\.?0*$", "")
    return F.concat(F.translate(text, " ", "T"), F.lit("Z"))


def _is_number_of_nanoseconds(type_: pa.DataType) -> bool:
    return pa.types.is_timestamp(type_) and type_.unit == "ns" and not on_sail()


def _json(rescued: _Rescued) -> Column:
    """A JSON object of what is rescued, nulls left out; null where nothing is left."""
    if not rescued:
        return F.lit(None).cast("string")
    tree: dict[str, Any] = {}
    for names, value in rescued:
        branch = tree
        for name in names[:-1]:
            branch = branch.setdefault(name, {})
        branch[names[-1]] = value

    def build(branch: dict[str, Any]) -> tuple[Column, Column]:
        """The values of a branch, null if all are, and whether there is one."""
        built = {
            name: build(value) if isinstance(value, dict) else (value, value.isNotNull())
            for name, value in branch.items()
        }
        is_any = reduce(or_, (present for _, present in built.values()))
        return F.when(is_any, F.struct(*(value.alias(name) for name, (value, _) in built.items()))), is_any

    values, is_any = build(tree)
    return F.when(is_any, F.to_json(values))
