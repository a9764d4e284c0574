"""Writing one partition of a Delta table with the engine.

Sail 0.7 differs from Delta on a JVM in three points: it ignores dynamic partition overwrite and overwrites the whole
table; it doesn't refuse rows that violate the `replaceWhere` predicate; and `replaceWhere` fails if there is no table
yet. So the table is created first, the partition's value is set here for every row that is written, and dynamic
partition overwrite is never used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pyspark.sql import functions as F
from pyspark.sql.types import StructType
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from biocloud_assets.errors import TableError
from biocloud_assets.lake import DataLake
from biocloud_assets.spark import delta_log

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import DataType

_T = TypeVar("_T")

_CONFLICT = re.compile(
    # Sail 0.7 and delta-rs
    r"Failed to commit transaction|Transaction failed|[Vv]ersion \d+ already exists|VersionAlreadyExists"
    # Delta on a JVM: io.delta.exceptions.*, and the error classes of newer versions
    r"|Concurrent(Append|DeleteRead|DeleteDelete|Transaction|Write|Modification)Exception|DELTA_CONCURRENT_\w+"
    r"|ProtocolChangedException|MetadataChangedException|DELTA_METADATA_CHANGED|DELTA_PROTOCOL_CHANGED"
)
"""The messages of a commit that lost against another one and can be repeated."""

_ATTEMPTS = 12


def replace_partition(
    spark: SparkSession,
    lake: DataLake,
    path: str,
    rows: DataFrame | None,
    schema: StructType,
    column: str,
    value: str,
    *,
    catalog: str | None = None,
) -> None:
    """Replace exactly the rows of one partition, in one commit. The same rows twice leave the same table.

    Args:
        spark: the session.
        lake: the lake.
        path: the table's path in it; the table is created if there is none.
        rows: the partition's new rows, with the columns and types of `schema` but without `column`, which is added here
            so that no row can belong to another partition; None to empty it. The engine refuses rows of other types.
        schema: the table's schema.
        column: the column that the table is partitioned by, a string.
        value: the partition's value.
        catalog: the catalog of Unity Catalog in which the table is registered, if there is one.

    Raises:
        TableError: the existing table has other columns or types. Nothing was written.
    """
    uri = lake.uri(path)
    _retry_conflicts(lambda: _ensure_table(spark, lake, path, schema, column))
    new = _empty(spark, schema) if rows is None else rows.withColumn(column, F.lit(value)).select(*schema.names)
    predicate = f"{column} = '{_escaped(value)}'"
    _retry_conflicts(lambda: new.write.format("delta").mode("overwrite").option("replaceWhere", predicate).save(uri))
    if catalog is not None:
        _register(spark, lake, path, catalog)


def read_table(spark: SparkSession, lake: DataLake, path: str) -> DataFrame:
    """All rows of a table."""
    return spark.read.format("delta").load(lake.uri(path))


def table_name(path: str, catalog: str) -> str:
    """The name of a table in Unity Catalog: `raw/dsi/sensor` is `<catalog>.raw_dsi.sensor`."""
    *folders, table = path.split("/")
    return f"{catalog}.{'_'.join(folders)}.{table}"


def _register(spark: SparkSession, lake: DataLake, path: str, catalog: str) -> None:
    """Register a table in Unity Catalog; its files stay where they are."""
    name = ".".join(f"`{part}`" for part in table_name(path, catalog).split("."))
    spark.sql(f"CREATE SCHEMA IF NOT EXISTS {name.rpartition('.')[0]}")
    spark.sql(f"CREATE TABLE IF NOT EXISTS {name} USING DELTA LOCATION '{_escaped(lake.uri(path))}'")


def _empty(spark: SparkSession, schema: StructType) -> DataFrame:
    # Built from expressions, because these have the engine's own types, and are planned quickly.
    return spark.range(0).select(*(F.lit(None).cast(field.dataType).alias(field.name) for field in schema))


def _ensure_table(spark: SparkSession, lake: DataLake, path: str, schema: StructType, column: str) -> None:
    """Create the table if there is none; add the columns that it lacks; refuse one of other types.

    The existing table's schema is read from its log, which takes a tenth of the time of asking the engine.
    """
    uri = lake.uri(path)
    existing = _existing_schema(lake, path)
    if existing is None:
        (
            _empty(spark, schema)
            .write.format("delta")
            .mode("ignore")
            .partitionBy(column)
            # No statistics for doubles: they leave NaN out, and an engine that trusts them reads NaN as a number.
            .option("delta.dataSkippingStatsColumns", ",".join(_indexed_columns(schema, column)))
            .save(uri)
        )
        existing = _existing_schema(lake, path)
        assert existing is not None, uri
    common = [field.name for field in schema if field.name in existing.names]
    _check_schema(uri, StructType([existing[n] for n in common]), StructType([schema[n] for n in common]))
    if len(common) < len(schema):
        _empty(spark, schema).write.format("delta").mode("append").option("mergeSchema", "true").save(uri)
        existing = _existing_schema(lake, path) or existing
    _check_schema(uri, existing, schema)


def _existing_schema(lake: DataLake, path: str) -> StructType | None:
    table = delta_log.open_table(lake, path)
    return None if table is None else StructType.fromJson(json.loads(table.schema().to_json()))


def _indexed_columns(schema: StructType, partition: str) -> list[str]:
    scalars = {"string", "integer", "long", "timestamp"}
    return [f.name for f in schema if f.dataType.typeName() in scalars and f.name != partition]


def _check_schema(uri: str, found: StructType, expected: StructType) -> None:
    def plain(type_: DataType) -> str:
        return type_.simpleString()

    wrong = {field.name: plain(field.dataType) for field in found}
    right = {field.name: plain(field.dataType) for field in expected}
    if wrong != right:
        names = [name for name in {**right, **wrong} if right.get(name) != wrong.get(name)]
        raise TableError(
            uri,
            expected=", ".join(f"{name}: {right.get(name, 'no such column')}" for name in names),
            found=", ".join(f"{name}: {wrong.get(name, 'no such column')}" for name in names),
            hint="Nothing was written. Migrate the table, or move it away, first.",
        )


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")


def _retry_conflicts(action: Callable[[], _T]) -> _T:
    """Repeat a commit, after a random pause, as long as another one came first."""
    return Retrying(
        retry=retry_if_exception(is_conflict),
        wait=wait_random_exponential(multiplier=0.1, max=5),
        stop=stop_after_attempt(_ATTEMPTS),
        reraise=True,
    )(action)


def is_conflict(error: BaseException) -> bool:
    """Whether an error says that another commit came first, so that this one can be repeated."""
    return _CONFLICT.search(f"{type(error).__name__}: {error}") is not None
