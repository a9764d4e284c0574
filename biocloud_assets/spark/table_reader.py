"""Reading versions, schemas and small amounts of data of Delta tables, with an engine or without one.

Two implementations of one interface. `DeltaRsReader` needs no engine, but access to the files of the tables; sensors,
the command line and every step outside Unity Catalog use it. `EngineReader` asks the engine for tables by their names
in Unity Catalog, which is all that a cluster in standard mode or on serverless compute may do: Python code has no
access to their files there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from biocloud_assets.lake import DataLake
from biocloud_assets.spark import delta_log
from biocloud_assets.spark.delta_log import Partition

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType


@dataclass(frozen=True)
class Detail:
    """What a table is.

    Attributes:
        location: the address of its files.
        features: the table features of its protocol, without those of the legacy versions.
        schema: its columns.
    """

    location: str
    features: frozenset[str]
    schema: StructType


class TableReader(Protocol):
    """What is read of Delta tables besides their rows.

    In every method, `path` is the table's path in the lake, `raw/dsi/sensor`, and `column` the one that the table is
    partitioned by. A method of `DeltaRsReader` raises a TableError if delta-rs can't read the table.
    """

    def exists(self, path: str) -> bool:
        """Whether there is a table."""

    def version(self, path: str) -> int | None:
        """The version of a table; None if there is no table."""

    def schema(self, path: str) -> StructType | None:
        """The schema of a table; None if there is no table."""

    def detail(self, path: str) -> Detail | None:
        """What a table is; None if there is no table."""

    def partition_values(self, path: str, column: str) -> set[str]:
        """The values of the partition column for which a table holds files; empty if there is no table."""

    def rows(self, path: str, column: str, values: Collection[str]) -> dict[str, dict[str, Any]]:
        """The rows of a small table with one row per partition, by their partition's value.

        Args:
            path: the table.
            column: its partition column.
            values: the partitions to read; those that the table doesn't have are left out.

        Returns:
            each row by its columns; times are in UTC.
        """

    def partition(self, path: str, column: str, value: str, *, limit: int) -> Partition:
        """The size and a few rows of one partition of an existing table.

        Args:
            path: the table.
            column: its partition column.
            value: the partition's value.
            limit: how many rows at most.
        """


@dataclass(frozen=True)
class DeltaRsReader:
    """Reads the files of the tables with delta-rs, without an engine.

    Attributes:
        lake: the lake.
    """

    lake: DataLake

    def exists(self, path: str) -> bool:
        return delta_log.exists(self.lake, path)

    def version(self, path: str) -> int | None:
        return delta_log.version(self.lake, path)

    def schema(self, path: str) -> StructType | None:
        table = delta_log.open_table(self.lake, path)
        return None if table is None else _schema(table)

    def detail(self, path: str) -> Detail | None:
        table = delta_log.open_table(self.lake, path)
        return None if table is None else Detail(self.lake.uri(path), delta_log.features(table), _schema(table))

    def partition_values(self, path: str, column: str) -> set[str]:
        return delta_log.partition_values(self.lake, path, column)

    def rows(self, path: str, column: str, values: Collection[str]) -> dict[str, dict[str, Any]]:
        return delta_log.read_rows(self.lake, path, column, values)

    def partition(self, path: str, column: str, value: str, *, limit: int) -> Partition:
        return delta_log.read_partition(self.lake, path, column, value, limit=limit)


@dataclass(frozen=True)
class EngineReader:
    """Asks a Spark with Delta for tables by their names in Unity Catalog.

    DESCRIBE HISTORY and DESCRIBE DETAIL: https://docs.databricks.com/aws/en/delta/history and
    https://docs.databricks.com/aws/en/delta/table-details; `_metadata`:
    https://docs.databricks.com/aws/en/ingestion/file-metadata-column.

    Attributes:
        get_session: returns the Spark session.
        catalog: the catalog of Unity Catalog.
    """

    get_session: Callable[[], SparkSession]
    catalog: str

    def exists(self, path: str) -> bool:
        return self.get_session().catalog.tableExists(self._name(path))

    def version(self, path: str) -> int | None:
        if not self.exists(path):
            return None
        (latest,) = self.get_session().sql(f"DESCRIBE HISTORY {self._name(path)} LIMIT 1").select("version").collect()
        return int(latest["version"])

    def schema(self, path: str) -> StructType | None:
        return self._table(path).schema if self.exists(path) else None

    def detail(self, path: str) -> Detail | None:
        if not self.exists(path):
            return None
        (row,) = self.get_session().sql(f"DESCRIBE DETAIL {self._name(path)}").collect()
        features = frozenset(row["tableFeatures"] or ()) - delta_log.LEGACY_FEATURES
        return Detail(row["location"], features, self._table(path).schema)

    def partition_values(self, path: str, column: str) -> set[str]:
        if not self.exists(path):
            return set()
        return {row[column] for row in self._table(path).select(column).distinct().collect()}

    def rows(self, path: str, column: str, values: Collection[str]) -> dict[str, dict[str, Any]]:
        from pyspark.sql import functions as F

        if not values or not self.exists(path):
            return {}
        found = _to_dicts(self._table(path).where(F.col(column).isin(*values)))
        return {row[column]: row for row in found}

    def partition(self, path: str, column: str, value: str, *, limit: int) -> Partition:
        from pyspark.sql import functions as F

        rows = self._table(path).where(F.col(column) == value)
        files = rows.select("_metadata.file_path", "_metadata.file_size").distinct()
        size = files.agg(F.sum("file_size").alias("size")).collect()[0]["size"]
        version = self.version(path)
        assert version is not None, path
        return Partition(version, size or 0, _to_dicts(rows.limit(limit)))

    def _name(self, path: str) -> str:
        return quoted_name(path, self.catalog)

    def _table(self, path: str) -> DataFrame:
        return self.get_session().table(self._name(path))


def table_name(path: str, catalog: str) -> str:
    """The name of a table in Unity Catalog: `raw/dsi/sensor` is `<catalog>.raw_dsi.sensor`.

    Args:
        path: the table's path in the lake.
        catalog: the name of the catalog.
    """
    *folders, table = path.split("/")
    return f"{catalog}.{'_'.join(folders)}.{table}"


def quoted_name(path: str, catalog: str) -> str:
    """The name of a table in Unity Catalog, quoted for SQL."""
    return ".".join(f"`{part}`" for part in table_name(path, catalog).split("."))


def _schema(table: DeltaTable) -> StructType:
    from pyspark.sql.types import StructType

    return StructType.fromJson(delta_log.schema(table))


def _to_dicts(frame: DataFrame) -> list[dict[str, Any]]:
    """The rows of a small frame; times are in UTC, whatever the time zone of this process."""
    from pyspark.sql import functions as F

    times = {field.name for field in frame.schema if field.dataType.typeName() == "timestamp"}
    # `collect` returns times without a zone, in that of the process.
    plain = frame.select(*(F.unix_micros(name).alias(name) if name in times else name for name in frame.columns))
    rows = [row.asDict(recursive=True) for row in plain.collect()]
    for row in rows:
        for name in times:
            if row[name] is not None:
                row[name] = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=row[name])
    return rows
