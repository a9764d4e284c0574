"""Writing one partition of a Delta table with the engine, and reading tables.

Where there is Unity Catalog, a table is created as an external table, and then written and read by its name, so that
the grants on the table and on its location's `CREATE EXTERNAL TABLE` are enough; elsewhere by its path.

Sail 0.7 differs from Delta on a JVM in four points: it ignores dynamic partition overwrite and overwrites the whole
table; it doesn't refuse rows that violate the `replaceWhere` predicate; `replaceWhere` fails if there is no table yet;
and it can't read most versions that are older than a table's latest checkpoint. So the table is created first, the
partition's value is set here for every row that is written, dynamic partition overwrite is never used, and what another
commit has disturbed is repeated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from pyspark.sql import functions as F
from pyspark.sql.types import StructType
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from biocloud_assets.errors import TableError
from biocloud_assets.lake import DataLake
from biocloud_assets.settings import Engine
from biocloud_assets.spark import delta_log
from biocloud_assets.spark.table_reader import DeltaRsReader, TableReader, quoted_name

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
    # Sail 0.7 lists a log from its last checkpoint on. If that is newer than the version that it reads, because another
    # commit came meanwhile, it misses the commits before.
    r"|Missing commit file: expected version \d+, found \d+"
)
"""The messages of an action that another commit has disturbed, so that it can be repeated."""

_ATTEMPTS = 12


PROPERTIES = {
    "delta.checkpointPolicy": "classic",
    "delta.columnMapping.mode": "none",
    "delta.enableDeletionVectors": "false",
    "delta.enableRowTracking": "false",
    "delta.enableTypeWidening": "false",
}
"""The properties of every table, so that the defaults of a workspace add no table feature that others can't read.

With them the protocol is the oldest, reader version 1 and writer version 2. The two versions aren't given as properties
too: Sail 0.7 stores these as if they were properties.
"""

_WRITABLE_FEATURES: dict[Engine, frozenset[str]] = {
    "sail": frozenset(
        {
            *("allowColumnDefaults", "checkConstraints", "columnMapping", "deletionVectors", "generatedColumns"),
            *("identityColumns", "inCommitTimestamp", "timestampNtz", "v2Checkpoint", "variantType"),
        }
    )
}
"""The table features with which an engine can write a table, for those that can't write all. Tried with Sail 0.7.2."""


def require_writable(
    reader: TableReader,
    lake: DataLake,
    schemas: Mapping[str, StructType],
    engine: Engine,
    *,
    registered: Callable[[str], str | None] | None = None,
) -> dict[str, StructType]:
    """Refuse tables that can't be written, before anything is written.

    Args:
        reader: reads what the tables are.
        lake: the lake.
        schemas: what will be written, by the tables' paths in the lake; a table that doesn't exist will be created.
        engine: what will write them.
        registered: returns the address at which a catalog has the table of a path, None if it has none; for a reader
            that reads tables by their paths although they are written by their names.

    Returns:
        the schemas of the tables that exist, by path.

    Raises:
        TableError: a table has a table feature that the engine can't write, or delta-rs can't read; or other types, or
            columns that aren't written; or the catalog has a table of that name at another place.
    """
    writable = _WRITABLE_FEATURES.get(engine)
    existing = {}
    for path, schema in schemas.items():
        _check_place(lake, path, registered(path) if registered is not None else None)
        found = reader.detail(path)
        if found is None:
            continue
        _check_place(lake, path, found.location)
        if refused := found.features & delta_log.UNREADABLE_FEATURES:
            raise delta_log.unsupported(lake.uri(path), refused, "delta-rs")
        if writable is not None and (refused := found.features - writable):
            raise delta_log.unsupported(lake.uri(path), refused, f"the engine {engine}")
        _check_columns(lake.uri(path), found.schema, schema)
        existing[path] = found.schema
    return existing


def _check_place(lake: DataLake, path: str, location: str | None) -> None:
    if location is not None and _bare(location) != _bare(lake.uri(path)):
        raise TableError(
            f"the table of {path} in Unity Catalog",
            expected=f"an external table at {lake.uri(path)}",
            found=f"one at {location}",
            hint="Nothing was written. Drop it, or set the lake's root of the environment to where it is.",
        )


def registered_location(spark: SparkSession, path: str, catalog: str) -> str | None:
    """The address at which a catalog has the table of a path; None if it has none.

    Args:
        spark: the session.
        path: the table's path in the lake.
        catalog: the name of the catalog.
    """
    name = quoted_name(path, catalog)
    if not spark.catalog.tableExists(name):
        return None
    # Not DESCRIBE DETAIL, which Sail 0.7 doesn't have.
    described = spark.sql(f"DESCRIBE TABLE EXTENDED {name}").where("col_name = 'Location'").collect()
    return str(described[0]["data_type"])


def _bare(address: str) -> str:
    """An address without its scheme: engines say s3a:// or file: for what is s3:// or a folder here."""
    return re.sub(r"^\w+:/*", "/", address).strip("/")


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
    reader: TableReader | None = None,
    existing: StructType | None = None,
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
        catalog: the catalog of Unity Catalog that has the table, if there is one.
        reader: reads the table's schema; by default delta-rs, which takes a tenth of the time of asking the engine.
        existing: the schema that the table has, if the caller has read it; None to read it here.

    Raises:
        TableError: the existing table has other columns or types. Nothing was written.
    """
    reader = reader or DeltaRsReader(lake)
    retry_conflicts(lambda: _ensure_table(spark, lake, path, schema, column, catalog, reader, existing))
    new = _empty(spark, schema) if rows is None else rows.withColumn(column, F.lit(value)).select(*schema.names)
    if catalog is not None:
        # Not `saveAsTable` with `replaceWhere`: Sail 0.7 overwrites the whole table then.
        by_name, condition = new.writeTo(quoted_name(path, catalog)), F.col(column) == F.lit(value)
        retry_conflicts(lambda: by_name.overwrite(condition))
        return
    write = new.write.format("delta").mode("overwrite").option("replaceWhere", f"{column} = '{_escaped(value)}'")
    retry_conflicts(lambda: write.save(lake.uri(path)))


def read_table(
    spark: SparkSession, lake: DataLake, path: str, *, catalog: str | None = None, version: int | None = None
) -> DataFrame:
    """All rows of an existing table.

    Args:
        spark: the session.
        lake: the lake.
        path: the table's path in it.
        catalog: the catalog of Unity Catalog that has the table, if there is one.
        version: the version to read; the latest if None.

    Returns:
        the columns of the table, as it has them: those of `Table.columns` for one of the raw layer.
    """
    if catalog is None:
        reader = spark.read.format("delta")
        return (reader if version is None else reader.option("versionAsOf", version)).load(lake.uri(path))
    name = quoted_name(path, catalog)
    if not spark.catalog.tableExists(name):  # it was written by its path, before there was a catalog
        _register(spark, lake, path, catalog)
    return spark.table(name) if version is None else spark.sql(f"SELECT * FROM {name} VERSION AS OF {version:d}")


def _register(spark: SparkSession, lake: DataLake, path: str, catalog: str) -> None:
    """Register a table that exists at its path in Unity Catalog; its files stay where they are."""
    name = quoted_name(path, catalog)
    spark.sql(f"CREATE SCHEMA IF NOT EXISTS {name.rpartition('.')[0]}")
    spark.sql(f"CREATE TABLE IF NOT EXISTS {name} USING DELTA LOCATION '{_escaped(lake.uri(path))}'")


def _empty(spark: SparkSession, schema: StructType) -> DataFrame:
    # Built from expressions, because these have the engine's own types, and are planned quickly. The types are given as
    # text: as an object, Spark Connect 4.2 makes `string collate UTF8_BINARY` of a string, which delta-rs can't read.
    types = ((field.name, field.dataType.simpleString()) for field in schema)
    return spark.range(0).select(*(F.lit(None).cast(type_).alias(name) for name, type_ in types))


def _ensure_table(
    spark: SparkSession,
    lake: DataLake,
    path: str,
    schema: StructType,
    column: str,
    catalog: str | None,
    reader: TableReader,
    existing: StructType | None,
) -> None:
    """Create the table if there is none; add the columns that it lacks; refuse one of other types."""
    uri = lake.uri(path)
    existing = existing or reader.schema(path)
    if existing is None:
        _create(spark, lake, path, schema, column, catalog)
        existing = reader.schema(path)
        assert existing is not None, uri
    elif catalog is not None and not spark.catalog.tableExists(quoted_name(path, catalog)):
        _register(spark, lake, path, catalog)
    _check_columns(uri, existing, schema)
    if len(existing) < len(schema):
        columns = _empty(spark, schema).write.format("delta").mode("append").option("mergeSchema", "true")
        if catalog is None:
            columns.save(uri)
        else:
            columns.saveAsTable(quoted_name(path, catalog))
        existing = reader.schema(path) or existing
        _check_columns(uri, existing, schema)


def _create(
    spark: SparkSession, lake: DataLake, path: str, schema: StructType, column: str, catalog: str | None
) -> None:
    # No statistics for doubles: they leave NaN out, and an engine that trusts them reads NaN as a number.
    properties = {**PROPERTIES, "delta.dataSkippingStatsColumns": ",".join(_indexed_columns(schema, column))}
    if catalog is None:
        write = _empty(spark, schema).write.format("delta").mode("ignore").partitionBy(column)
        write.options(**properties).save(lake.uri(path))
        return
    name = quoted_name(path, catalog)
    columns = ", ".join(f"`{field.name}` {field.dataType.simpleString()}" for field in schema)
    listed = ", ".join(f"'{key}' = '{value}'" for key, value in properties.items())
    spark.sql(f"CREATE SCHEMA IF NOT EXISTS {name.rpartition('.')[0]}")
    try:
        spark.sql(
            f"CREATE TABLE IF NOT EXISTS {name} ({columns}) USING DELTA PARTITIONED BY (`{column}`) "
            f"LOCATION '{_escaped(lake.uri(path))}' TBLPROPERTIES ({listed})"
        )
    except Exception as error:
        if _OTHER_TABLE.search(str(error)) is None:
            raise
        # The path has a table already, for instance one with fewer columns: it is registered, and then checked.
        _register(spark, lake, path, catalog)


_OTHER_TABLE = re.compile(
    r"DELTA_CREATE_TABLE_\w*MISMATCH|DELTA_CREATE_TABLE_WITH_DIFFERENT_\w+|table already exists at"
)
"""The messages of a CREATE TABLE at a path that has a table with another schema, other partitions or properties."""


def _indexed_columns(schema: StructType, partition: str) -> list[str]:
    scalars = {"string", "integer", "long", "timestamp"}
    return [f.name for f in schema if f.dataType.typeName() in scalars and f.name != partition]


def _check_columns(uri: str, found: StructType, expected: StructType) -> None:
    """Refuse a table with other types, or with columns that aren't expected; those that it lacks can be added."""

    def plain(type_: DataType) -> str:
        return type_.simpleString()

    wrong = {field.name: plain(field.dataType) for field in found}
    right = {field.name: plain(field.dataType) for field in expected}
    names = [name for name in {**right, **wrong} if name in wrong and right.get(name) != wrong[name]]
    if names:
        raise TableError(
            uri,
            expected=", ".join(f"{name}: {right.get(name, 'no such column')}" for name in names),
            found=", ".join(f"{name}: {wrong[name]}" for name in names),
            hint="Nothing was written. Migrate the table, or move it away, first.",
        )


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")


def retry_conflicts(action: Callable[[], _T]) -> _T:
    """Repeat an action, after a random pause, as long as another commit disturbs it.

    Args:
        action: something that can be repeated as a whole.

    Returns:
        what the action returns.

    Raises:
        Exception: that of the action, if it is no conflict or at the last attempt.
    """
    return Retrying(
        retry=retry_if_exception(is_conflict),
        wait=wait_random_exponential(multiplier=0.1, max=5),
        stop=stop_after_attempt(_ATTEMPTS),
        reraise=True,
    )(action)


def is_conflict(error: BaseException) -> bool:
    """Whether an error says that another commit came first, so that this one can be repeated.

    Args:
        error: what an engine or delta-rs has raised.
    """
    message = f"{type(error).__name__}: {error}"
    return _CONFLICT.search(message) is not None and "Unsupported table features" not in message
