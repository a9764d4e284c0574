"""Un-nest a folder's records into tables, and its inverse: pure PySpark, from frames to frames, as the contract says.

A null list has a null count and an empty list has 0, so the tables lose nothing: `renest` builds the records again. A
null structure outside a list reads as one whose fields are all null.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from biocloud_assets.schema import (
    DELIVERY_COLUMN,
    RESCUED_COLUMN,
    Column,
    Contract,
    Field,
    Folder,
    Struct,
    Table,
    list_element,
    spark_type,
    walk,
)

if TYPE_CHECKING:
    from pyspark.sql import Column as SparkColumn
    from pyspark.sql import DataFrame

_INDEX, _ELEMENT, _ITEMS, _ABOVE = "_index", "_element", "_items", "_rescued_above"


def unnest(records: DataFrame, table: Table, *, rescued: bool) -> DataFrame:
    """The rows of one table.

    Args:
        records: a folder's records, with at least the fields of the table, see `source_fields`.
        table: the table.
        rescued: whether the records have a `_rescued` column and one in every structure of a list, see
            `schema.arrow_schema`. The engine would have to be asked for it.

    Returns:
        the columns of the table in its order and types, except `_delivery`.
    """
    levels = ("", *table.levels)
    own = [column for column in table.columns if column.source is not None]
    by_level = {level: [c for c in own if _level_of(c.source or "", levels) == level] for level in levels}
    frame, done = records, [_rescued(F.col, rescued)] if len(levels) == 1 else []
    get: Callable[[str], SparkColumn] = F.col
    for depth, level in enumerate(levels):
        here = [_value(column, level, get) for column in by_level[level]]
        if depth:
            kept = _rescued(get, rescued)
            if depth == len(levels) - 1:
                above = [F.col(_ABOVE)] if table.keeps_empty else []
                here.append(F.coalesce(kept, *above).alias(RESCUED_COLUMN))
            elif table.keeps_empty:
                here.append(kept.alias(_ABOVE))
        if depth < len(levels) - 1:
            inner = levels[depth + 1]
            explode = F.posexplode_outer if table.keeps_empty and depth == len(levels) - 2 else F.posexplode
            items = _resolve(get, inner.removesuffix("[]"), level)
            # An explode copies every other column for each element, so columns that aren't needed are dropped first.
            frame = frame.select(*done, *here, items.alias(_ITEMS))
            done = [F.col(column.name) for shallower in levels[: depth + 1] for column in by_level[shallower]]
            done += [F.col(_ABOVE)] if depth and table.keeps_empty else []
            frame = frame.select(*done, explode(_ITEMS).alias(_INDEX, _ELEMENT))
            get = lambda name: F.col(_ELEMENT).getField(name)  # noqa: E731
        else:
            frame = frame.select(*done, *here)
    return frame.select(
        *(
            # A structure too: to one that is read with a schema, Sail 0.7 adds metadata with which it can't be written.
            F.col(column.name).cast(spark_type(column.type)).alias(column.name)
            for column in table.columns
            if column.name != DELIVERY_COLUMN
        )
    )


def source_fields(table: Table) -> set[str]:
    """The paths of the fields that `unnest` needs for a table."""
    return {source.removesuffix("[]") for column in table.columns if (source := column.source)} | {
        level.removesuffix("[]") for level in table.levels
    }


def _level_of(source: str, levels: tuple[str, ...]) -> str:
    """The innermost of the lists that contain a path; `""` for the record."""
    return max((level for level in levels if source.startswith(level)), key=len)


def _resolve(get: Callable[[str], SparkColumn], path: str, level: str) -> SparkColumn:
    first, *rest = path.removeprefix(level).removeprefix(".").split(".")
    value = get(first)
    for name in rest:
        value = value.getField(name)
    return value


def _value(column: Column, level: str, get: Callable[[str], SparkColumn]) -> SparkColumn:
    source = column.source or ""
    if column.takes == "index":
        return F.col(_INDEX).alias(column.name)
    value = _resolve(get, source, level)
    # array_size is null for null on every engine; size is -1 on some.
    return (F.array_size(value) if column.takes == "size" else value).alias(column.name)


def _rescued(get: Callable[[str], SparkColumn], rescued: bool) -> SparkColumn:
    return (get(RESCUED_COLUMN) if rescued else F.lit(None).cast("string")).alias(RESCUED_COLUMN)


def renest(contract: Contract, folder: Folder, tables: Mapping[str, DataFrame]) -> DataFrame:
    """Build a folder's records again: the inverse of `unnest`.

    Args:
        contract: the contract of the folder.
        folder: the folder.
        tables: the tables of one delivery that are made from the folder, by name, with the columns of the contract.

    Returns:
        the columns of the folder and `_rescued`; every structure in a list has a `_rescued`.
    """
    return _Renesting(contract, folder, tables).records()


class _Renesting:
    """The lists of one folder, gathered from the innermost to the outermost.

    A level is the path of a list with `[]`; `""` is the record. Each level has one table with its columns.
    """

    def __init__(self, contract: Contract, folder: Folder, frames: Mapping[str, DataFrame]) -> None:
        self._folder, self._frames = folder, frames
        self._tables: dict[str, Table] = {"": contract.record_table(folder.name)}
        for table in contract.tables_of(folder.name):
            if table.levels:
                self._tables[table.levels[-1]] = table
            if table.keeps_empty:  # its rows also stand for the elements of the list around the innermost one
                self._tables[table.levels[-2]] = table

    def records(self) -> DataFrame:
        """The records."""
        return self._rows("").select(
            *(self._field(field, field.name, "").alias(field.name) for field in self._folder.fields), RESCUED_COLUMN
        )

    def _column(self, level: str, source: str, takes: str) -> str:
        """The name of the column of a level's table that is made from a path."""
        return next(c.name for c in self._tables[level].columns if c.source == source and c.takes == takes)

    def _outer(self, level: str) -> str:
        """The level that contains a list."""
        return _level_of(level.removesuffix("[]"), ("", *(other for other in self._tables if other != level)))

    def _key(self, level: str, of: str) -> list[str]:
        """The columns that identify an element of a level, as they are called in the table of another level."""
        key = [self._column(of, self._folder.key, "value")]
        path = ""
        for step in level.split("[]")[:-1]:
            path += f"{step}[]"
            if path in self._tables:
                key.append(self._column(of, path, "index"))
        return key

    def _rows(self, level: str) -> DataFrame:
        """One row per element of a level: the columns of its table, and a column for each list in the element."""
        table = self._tables[level]
        frame = self._frames[table.name]
        inner = [other for other in self._tables if other and self._outer(other) == level]
        if level and level != table.levels[-1]:  # the table has one row per element of the innermost list
            innermost = table.levels[-1]
            inner.remove(innermost)
            index = F.col(self._column(level, innermost, "index"))
            levels = ("", *table.levels)
            by = [c.name for c in table.columns if c.source and _level_of(c.source, levels) != innermost]
            frame = frame.groupBy(*by).agg(
                self._collect(innermost, only=index.isNotNull()).alias(innermost),
                F.max(F.when(index.isNull(), F.col(RESCUED_COLUMN))).alias(RESCUED_COLUMN),
            )
            frame = self._sized(frame, level, innermost)
        for other in inner:
            key = self._key(level, level)
            gathered = self._rows(other).groupBy(*self._key(level, other)).agg(self._collect(other).alias(other))
            renamed = dict(zip(self._key(level, other), key, strict=True))
            gathered = gathered.select(*(F.col(old).alias(new) for old, new in renamed.items()), _quoted(other))
            frame = self._sized(frame.join(gathered, key, "left"), level, other)
        return frame

    def _sized(self, frame: DataFrame, level: str, inner: str) -> DataFrame:
        """A list as it was delivered: null for a null count, empty for 0, else what was collected."""
        path = inner.removesuffix("[]")
        count = F.col(self._column(level, path, "size"))
        type_ = dict(walk(self._folder.fields))[path].type
        empty = F.array().cast(spark_type(type_, rescued=True))
        value = F.when(count.isNull(), None).when(count == 0, empty).otherwise(_quoted(inner))
        return frame.withColumn(inner, value)

    def _collect(self, level: str, only: SparkColumn | None = None) -> SparkColumn:
        """The elements of a list, in the order of their index."""
        element = F.struct(
            *(
                self._field(field, f"{level}.{field.name}", level).alias(field.name)
                for field in list_element(self._folder, level).fields
            ),
            F.col(RESCUED_COLUMN),
        )
        pair = F.struct(F.col(self._column(level, level, "index")).alias("index"), element.alias("element"))
        collected = F.collect_list(pair if only is None else F.when(only, pair))
        return F.transform(F.array_sort(collected), lambda item: item.getField("element"))

    def _field(self, field: Field, path: str, level: str) -> SparkColumn:
        """A field of an element, from the columns of its level's rows."""
        if f"{path}[]" in self._tables:
            return _quoted(f"{path}[]")
        if isinstance(field.type, Struct):
            return F.struct(
                *(self._field(inner, f"{path}.{inner.name}", level).alias(inner.name) for inner in field.type.fields)
            )
        if not level:  # a copied table keeps structures as they are
            top = path.partition(".")[0]
            if any(c.source == top and isinstance(c.type, Struct) for c in self._tables[""].columns):
                first, *rest = path.split(".")
                value = F.col(first)
                for name in rest:
                    value = value.getField(name)
                return value
        return F.col(self._column(level, path, "value"))


def _quoted(level: str) -> SparkColumn:
    return F.col(f"`{level}`")
