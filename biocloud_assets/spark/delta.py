"""Writing one partition of a Delta table, safely, and reading a table's log.

What belongs here: what is true of every table. What doesn't: which tables there are.

The engines differ where it hurts: Sail 0.7 ignores dynamic partition overwrite and overwrites the whole table, doesn't
refuse rows that break the `replaceWhere` predicate, and fails on `replaceWhere` into a table that isn't there. So a
table is created first, the partition's value is set here for every row that is written, and dynamic partition overwrite
is never used.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pyspark.sql import functions as F
from pyspark.sql.types import StructType
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from biocloud_assets.errors import TableError
from biocloud_assets.lake import DataLake

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import DataType

_T = TypeVar("_T")

_CONFLICTS = (
    "Failed to commit transaction",  # Sail
    "Transaction failed",
    "version already exists",
    "already exists",
    "Concurrent",  # Delta on a JVM: ConcurrentAppendException and its kin
    "DELTA_CONCURRENT",
    "ProtocolChangedException",
    "MetadataChangedException",
)
_ATTEMPTS = 12


def open_table(lake: DataLake, path: str) -> DeltaTable | None:
    """A table's log, read by delta-rs without an engine; None where there is no table.

    Args:
        lake: the lake.
        path: the table's path in it.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    options = {"allow_http": "true"} if lake.root.startswith("s3://") and lake.insecure else None
    try:
        return DeltaTable(lake.uri(path), storage_options=options)
    except TableNotFoundError:
        return None


def version(lake: DataLake, path: str) -> int | None:
    """The version of a table; None where there is no table."""
    table = open_table(lake, path)
    return None if table is None else table.version()


def partition_values(lake: DataLake, path: str, column: str) -> set[str]:
    """The values of a partition column for which a table holds files, from its log alone."""
    table = open_table(lake, path)
    return set() if table is None else {partition[column] for partition in table.partitions()}


def partition_size(lake: DataLake, path: str, column: str, value: str) -> tuple[int, int]:
    """The size of a partition's files in bytes, and the version of the table."""
    sizes, version = partition_sizes(lake, path, column)
    return sizes.get(value, 0), version


def partition_sizes(lake: DataLake, path: str, column: str) -> tuple[dict[str, int], int]:
    """The size of each partition's files in bytes, and the version of the table; -1 where there is none."""
    table = open_table(lake, path)
    if table is None:
        return {}, -1
    sizes: dict[str, int] = {}
    for value, _, size in _files(table, column):
        sizes[value] = sizes.get(value, 0) + size
    return sizes, table.version()


@dataclass(frozen=True)
class Version:
    """A version of one table.

    Attributes:
        table: the table's identifier: one that was made anew in the same place has another.
        number: counts its commits.
    """

    table: str
    number: int


def changed_partitions(
    lake: DataLake, path: str, column: str, since: Version | None
) -> tuple[Version | None, set[str]]:
    """What has happened to a table: its version, and the partitions that hold other files than before.

    Args:
        lake: the lake.
        path: the table's path in it.
        column: the column that it is partitioned by.
        since: the version to compare with. Where there is none, or the history no longer goes back so far, or it is of
            another table, all partitions count as changed.

    Returns:
        the version, None where there is no table; and the values of the partition column. A partition that was emptied
        isn't among them.
    """
    from deltalake.exceptions import DeltaError

    table = open_table(lake, path)
    if table is None:
        return None, set()
    now = Version(str(table.metadata().id), table.version())
    if now == since:
        return now, set()
    before: set[tuple[str, str, int]] = set()
    files = set(_files(table, column))
    if since is not None and since.table == now.table and since.number < now.number:
        try:
            table.load_as_version(since.number)
            before = set(_files(table, column))
        except DeltaError:  # cleaned up
            before = set()
    return now, {value for value, _, _ in files - before}


def _files(table: DeltaTable, column: str) -> list[tuple[str, str, int]]:
    """The files of a table: partition, path, bytes."""
    import pyarrow as pa

    files = pa.table(table.get_add_actions(flatten=True)).to_pydict()
    if not files["path"]:  # then it doesn't name the partition's column either
        return []
    return list(zip(files[f"partition.{column}"], files["path"], files["size_bytes"], strict=True))


def replace_partition(
    spark: SparkSession,
    lake: DataLake,
    path: str,
    rows: DataFrame | None,
    schema: StructType,
    column: str,
    value: str,
) -> None:
    """Replace exactly the rows of one partition, in one commit. The same rows twice leave the same table.

    Args:
        spark: the session.
        lake: the lake.
        path: the table's path in it; the table is created where there is none.
        rows: the partition's new rows, with the columns and types of `schema` but without `column`, which is added here
            so that no row can be of another partition; none to empty it.
        schema: the table's schema.
        column: the column that the table is partitioned by, a string.
        value: the partition's value.

    Raises:
        TableError: the rows or the table that is there have other columns or types, or the lake's root has signs in it
            that an engine writes to another place. Nothing was written.
    """
    uri = lake.uri(path)
    _check_uri(uri)
    # Made of expressions, for these have the engine's own types to the last detail, and are planned in no time.
    empty = spark.range(0).select(*(F.lit(None).cast(field.dataType).alias(field.name) for field in schema))
    if rows is not None:
        there = StructType([field for field in schema if field.name != column])
        _check_schema(uri, "the rows to write", rows.schema, there)
    new = empty if rows is None else rows.withColumn(column, F.lit(value)).select(*schema.names)
    _retrying(lambda: _ensure_table(spark, uri, empty, schema, column))
    predicate = f"{column} = '{_escaped(value)}'"
    _retrying(lambda: new.write.format("delta").mode("overwrite").option("replaceWhere", predicate).save(uri))


def read_partition(spark: SparkSession, lake: DataLake, path: str, column: str, value: str) -> DataFrame:
    """The rows of one partition."""
    return spark.read.format("delta").load(lake.uri(path)).where(F.col(column) == value)


def register(spark: SparkSession, lake: DataLake, path: str, catalog: str) -> str:
    """Make a table known to Unity Catalog: `raw/dsi/sensor` is `<catalog>.raw_dsi.sensor`. Its files stay in place.

    Args:
        spark: the session of a runtime with that catalog.
        lake: the lake.
        path: the table's path in it.
        catalog: the catalog; it is there already.

    Returns:
        the table's name.
    """
    *folders, table = path.split("/")
    schema = f"`{catalog}`.`{'_'.join(folders)}`"
    spark.sql(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    spark.sql(f"CREATE TABLE IF NOT EXISTS {schema}.`{table}` USING DELTA LOCATION '{_escaped(lake.uri(path))}'")
    return f"{catalog}.{'_'.join(folders)}.{table}"


def _check_uri(uri: str) -> None:
    """Refuse a root that Sail 0.7 percent-encodes when it writes Delta, which makes another folder of it."""
    odd = sorted(set(re.sub(r"[\w./:&'@+,=~-]", "", uri, flags=re.ASCII)))
    if odd:
        raise TableError(
            uri,
            expected="a lake below a root of plain letters, digits and . _ - + : & ' @ , = ~",
            found=f"{' '.join(map(repr, odd))} in it",
            hint="Set BIOCLOUD_LAKE_ROOT to another folder.",
        )


def _ensure_table(spark: SparkSession, uri: str, empty: DataFrame, schema: StructType, column: str) -> None:
    """Create the table where there is none; add the columns that it lacks; refuse one of other types."""
    (
        empty.write.format("delta")
        .mode("ignore")
        .partitionBy(column)
        # No statistics for doubles: they leave NaN out, and an engine that trusts them reads NaN as a number.
        .option("delta.dataSkippingStatsColumns", ",".join(_indexed_columns(schema, column)))
        .save(uri)
    )
    there = spark.read.format("delta").load(uri).schema
    common = [field.name for field in schema if field.name in there.names]
    _check_schema(
        uri, "the table that is there", StructType([there[n] for n in common]), StructType([schema[n] for n in common])
    )
    if len(common) < len(schema):
        empty.write.format("delta").mode("append").option("mergeSchema", "true").save(uri)
        there = spark.read.format("delta").load(uri).schema
    _check_schema(uri, "the table that is there", there, schema)


def _indexed_columns(schema: StructType, partition: str) -> list[str]:
    scalars = {"string", "integer", "long", "timestamp"}
    return [f.name for f in schema if f.dataType.typeName() in scalars and f.name != partition]


def _check_schema(uri: str, what: str, found: StructType, expected: StructType) -> None:
    def plain(type_: DataType) -> str:
        return type_.simpleString()

    wrong = {field.name: plain(field.dataType) for field in found}
    right = {field.name: plain(field.dataType) for field in expected}
    if wrong != right:
        names = [name for name in {**right, **wrong} if right.get(name) != wrong.get(name)]
        raise TableError(
            uri,
            expected=", ".join(f"{name}: {right.get(name, 'no such column')}" for name in names),
            found=", ".join(f"{name}: {wrong.get(name, 'no such column')}" for name in names) + f" in {what}",
            hint="Nothing was written. A table of other columns or types has to be migrated, or moved away, first.",
        )


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")


def _retrying(action: Callable[[], _T]) -> _T:
    """Do it again, after a random while, as long as another commit came first."""
    return Retrying(
        retry=retry_if_exception(_is_conflict),
        wait=wait_random_exponential(multiplier=0.1, max=5),
        stop=stop_after_attempt(_ATTEMPTS),
        reraise=True,
    )(action)


def _is_conflict(error: BaseException) -> bool:
    text = f"{type(error).__name__}: {error}"
    return any(sign in text for sign in _CONFLICTS)
