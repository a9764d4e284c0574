"""Un-nesting results into five tables, and its inverse.

What belongs here: pure PySpark, from frames to frames. What doesn't: reading and writing. Which table has which columns
is said by the contract; this module only interprets it.

A list that is null has a null count and one that is empty has 0, so the five tables lose nothing: `renest` builds the
records again. A null structure (`generated_by`, `box`, `taxa`) reads as one whose fields are all null.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from biocloud_assets.raw.dsi import contract
from biocloud_assets.raw.dsi.contract import RESCUED_COLUMN, Field, ListOf, Struct, Table

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame
    from pyspark.sql.types import DataType

_INDEX, _ELEMENT, _ABOVE = "_index", "_element", "_rescued_above"


def unnest(records: DataFrame, table: Table) -> DataFrame:
    """The rows of one table.

    Args:
        records: a folder's records as `source.read` gives them: the contract's columns and `_rescued`.
        table: the table.

    Returns:
        the columns of the table in its order and types, but for `_delivery`.
    """
    levels = ("", *table.levels)
    own = [column for column in table.columns if column.source is not None]
    by_level = {level: [c for c in own if _level_of(c.source or "", levels) == level] for level in levels}
    # Only of the list at hand: others may still have types that Spark has no name for.
    schema = records.select(levels[1].partition("[]")[0]).schema if table.levels else None
    frame, done = records, [F.col(RESCUED_COLUMN)] if len(levels) == 1 else []
    get: Callable[[str], Column] = F.col
    for depth, level in enumerate(levels):
        here = [_column(column, level, get) for column in by_level[level]]
        if schema is not None and depth:
            has_rescued = RESCUED_COLUMN in _names_at(schema, level)
            rescued = get(RESCUED_COLUMN) if has_rescued else F.lit(None).cast("string")
            if depth == len(levels) - 1:
                above = [F.col(_ABOVE)] if table.keeps_empty else []
                here.append(F.coalesce(rescued, *above).alias(RESCUED_COLUMN))
            elif table.keeps_empty:
                here.append(rescued.alias(_ABOVE))
        if depth < len(levels) - 1:
            inner = levels[depth + 1]
            explode = F.posexplode_outer if table.keeps_empty and depth == len(levels) - 2 else F.posexplode
            items = _resolve(get, inner.removesuffix("[]"), level)
            frame = frame.select(*done, *here, explode(items).alias(_INDEX, _ELEMENT))
            done = [F.col(column.name) for shallower in levels[: depth + 1] for column in by_level[shallower]]
            done += [F.col(_ABOVE)] if depth and table.keeps_empty else []
            get = lambda name: F.col(_ELEMENT).getField(name)  # noqa: E731
        else:
            frame = frame.select(*done, *here)
    return frame.select(
        *(
            F.col(column.name).cast(contract.spark_type(column.type)).alias(column.name)
            if not isinstance(column.type, Struct)
            else F.col(column.name)
            for column in table.columns
            if column.name != contract.DELIVERY_COLUMN
        )
    )


def _level_of(source: str, levels: tuple[str, ...]) -> str:
    """The innermost of the lists that a path stands in; `""` for the record."""
    return max((level for level in levels if source.startswith(level)), key=len)


def _resolve(get: Callable[[str], Column], path: str, level: str) -> Column:
    first, *rest = path.removeprefix(level).removeprefix(".").split(".")
    value = get(first)
    for name in rest:
        value = value.getField(name)
    return value


def _column(column: contract.Column, level: str, get: Callable[[str], Column]) -> Column:
    source = column.source or ""
    if column.takes == "index":
        return F.col(_INDEX).alias(column.name)
    value = _resolve(get, source, level)
    # array_size is null for null on every engine; size is -1 on some.
    return (F.array_size(value) if column.takes == "size" else value).alias(column.name)


def _names_at(schema: DataType, level: str) -> list[str]:
    """The names of the fields of a list's elements."""
    from pyspark.sql.types import ArrayType, StructType

    type_ = schema
    for step in level.replace("[]", ".[]").split("."):
        if step == "[]" and isinstance(type_, ArrayType):
            type_ = type_.elementType
        elif isinstance(type_, StructType):
            type_ = type_[step].dataType
    return type_.names if isinstance(type_, StructType) else []


def renest(tables: Mapping[str, DataFrame]) -> DataFrame:
    """Build the nested records again: the inverse of `unnest`.

    Args:
        tables: the five tables of one delivery, by name, with the columns of the contract.

    Returns:
        the columns of the folder `analysis_group_result`, and `_rescued`; every structure in a list has a `_rescued`.
    """
    result = tables["analysis_group_result"]
    media = _gather(tables["analysis_group_result_media"], ["result_id"], "media_index", "media[]", "_media")
    regions = _gather(
        tables["analysis_group_result_region"],
        ["result_id", "region_group_index"],
        "region_index",
        "region_groups[].regions[]",
        "_regions",
    )
    groups = tables["analysis_group_result_region_group"].join(regions, ["result_id", "region_group_index"], "left")
    groups = _gather(
        groups.withColumn("_regions", _sized("region_count", "_regions", "region_groups[].regions")),
        ["result_id"],
        "region_group_index",
        "region_groups[]",
        "_region_groups",
        {"region_groups[].regions": "_regions"},
    )
    taxa = tables["analysis_group_result_prediction"]
    item = "predictions[].taxa.items[]"
    by = ["result_id", "prediction_index", "region_group_id", "taxa_type", "taxon_count"]
    predictions = taxa.groupBy(*by).agg(
        _collect("taxon_index", item, {}, only=F.col("taxon_index").isNotNull()).alias("_items"),
        F.max(F.when(F.col("taxon_index").isNull(), F.col(RESCUED_COLUMN))).alias(RESCUED_COLUMN),
    )
    predictions = _gather(
        predictions.withColumn("_items", _sized("taxon_count", "_items", "predictions[].taxa.items")),
        ["result_id"],
        "prediction_index",
        "predictions[]",
        "_predictions",
        {"predictions[].taxa.items": "_items"},
    )
    joined = result
    for lists in (media, groups, predictions):
        joined = joined.join(lists.withColumnRenamed("result_id", "id"), "id", "left")
    made = {
        "media": _sized("media_count", "_media", "media"),
        "region_groups": _sized("region_group_count", "_region_groups", "region_groups"),
        "predictions": _sized("prediction_count", "_predictions", "predictions"),
    }
    fields = contract.folder(contract.RESULT).fields
    return joined.select(
        *(_build(field, field.name, "analysis_group_result", made).alias(field.name) for field in fields),
        RESCUED_COLUMN,
    )


def _gather(
    rows: DataFrame, by: list[str], index: str, level: str, name: str, made: Mapping[str, str] | None = None
) -> DataFrame:
    """One list for each group of rows, in the order of the index."""
    return rows.groupBy(*by).agg(_collect(index, level, made or {}).alias(name))


def _collect(index: str, level: str, made: Mapping[str, str], only: Column | None = None) -> Column:
    table = _table_of(level)
    columns = {path: F.col(name) for path, name in made.items()}
    element = F.struct(
        *(_build(field, f"{level}.{field.name}", table, columns).alias(field.name) for field in _element(level).fields),
        F.col(RESCUED_COLUMN),
    )
    pair = F.struct(F.col(index).alias("index"), element.alias("element"))
    collected = F.collect_list(pair if only is None else F.when(only, pair))
    return F.transform(F.array_sort(collected), lambda item: item.getField("element"))


def _table_of(level: str) -> str:
    """The table that has the columns of a list's elements."""
    return next(table.name for table in contract.TABLES if level in table.levels and _has_columns(table, level))


def _has_columns(table: Table, level: str) -> bool:
    return any(c.takes == "value" and _level_of(c.source or "", ("", *table.levels)) == level for c in table.columns)


def _element(level: str) -> Struct:
    fields = dict(contract.walk(contract.folder(contract.RESULT).fields))
    type_ = fields[level.removesuffix("[]")].type
    assert isinstance(type_, ListOf), level
    return type_.element


def _build(field: Field, path: str, table: str, made: Mapping[str, Column]) -> Column:
    """A field of the record from the columns of a table."""
    if path in made:
        return made[path]
    if isinstance(field.type, Struct):
        return F.struct(
            *(_build(inner, f"{path}.{inner.name}", table, made).alias(inner.name) for inner in field.type.fields)
        )
    return F.col(next(c.name for c in contract.table(table).columns if c.source == path and c.takes == "value"))


def _sized(count: str, collected: str, path: str) -> Column:
    """A list as it was: null for a null count, empty for 0, else what was collected."""
    fields = dict(contract.walk(contract.folder(contract.RESULT).fields))
    empty = F.array().cast(contract.spark_type(fields[path].type, rescued=True))
    return F.when(F.col(count).isNull(), None).when(F.col(count) == 0, empty).otherwise(F.col(collected))
