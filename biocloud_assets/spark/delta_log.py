"""Reading a Delta table's log and small tables with delta-rs, without an engine."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from biocloud_assets.errors import TableError
from biocloud_assets.lake import DataLake

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable


UNREADABLE_FEATURES = frozenset({"typeWidening", "typeWidening-preview", "vacuumProtocolCheck"})
"""The table features with which delta-rs 1.6.6 opens a table but can't query it."""

LEGACY_FEATURES = frozenset({"appendOnly", "invariants"})
"""What the protocol versions 1 and 2 include, which every table here has; DESCRIBE DETAIL lists them as features."""

_CANNOT_OPEN = re.compile(r"Feature '(?P<feature>\w[\w-]*)' is not supported|(?P<managed>catalog-managed)")
"""The messages of delta-rs 1.6.6 about a table with a feature that it doesn't know."""


def open_table(lake: DataLake, path: str) -> DeltaTable | None:
    """A table's log; None if there is no table.

    Args:
        lake: the lake.
        path: the table's path in it.

    Raises:
        TableError: the table has a feature that delta-rs can't read.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    options = {"allow_http": "true"} if lake.root.startswith("s3://") and lake.insecure else None
    try:
        table = DeltaTable(lake.uri(path), storage_options=options)
    except TableNotFoundError:
        return None
    except DeltaError as error:
        found = _CANNOT_OPEN.search(str(error))
        if found is None:
            raise
        raise unsupported(lake.uri(path), [found["feature"] or "catalogManaged"], "delta-rs") from error
    if unreadable := features(table) & UNREADABLE_FEATURES:
        raise unsupported(lake.uri(path), unreadable, "delta-rs")
    return table


def unsupported(table: str, found: Collection[str], software: str) -> TableError:
    """The error about a table with features that some software can't handle.

    Args:
        table: the table's address.
        found: the features, by the names of the Delta protocol
            (https://github.com/delta-io/delta/blob/master/PROTOCOL.md#table-features).
        software: what can't handle them.
    """
    names = ", ".join(sorted(found))
    return TableError(
        table,
        expected=f"a table that {software} can read and write",
        found=f"the table feature{'s' if len(found) > 1 else ''} {names}, which it can't",
        hint=f"Nothing was written. On Databricks, disable what needs {names} and run "
        "`ALTER TABLE … DROP FEATURE …`, or move the table away and ingest its deliveries again.",
    )


def features(table: DeltaTable) -> frozenset[str]:
    """The table features of a table's protocol, without those that every table has.

    Args:
        table: an open table.
    """
    protocol = table.protocol()
    return frozenset([*(protocol.reader_features or ()), *(protocol.writer_features or ())]) - LEGACY_FEATURES


def schema(table: DeltaTable) -> dict[str, Any]:
    """The schema of a table, as the JSON that Delta's log and Spark's `StructType.fromJson` have.

    Args:
        table: an open table.
    """
    found: dict[str, Any] = json.loads(table.schema().to_json())
    return found


def version(lake: DataLake, path: str) -> int | None:
    """The number of a table's latest version, from 0; None if there is no table.

    Args:
        lake: the lake.
        path: the table's path in it.

    Raises:
        TableError: the table has a feature that delta-rs can't read.
    """
    table = open_table(lake, path)
    return None if table is None else table.version()


def partition_values(lake: DataLake, path: str, column: str) -> set[str]:
    """The values of a partition column for which a table holds files, from its log alone; empty if there is no table.

    Args:
        lake: the lake.
        path: the table's path in it.
        column: the column that it is partitioned by.

    Raises:
        TableError: the table has a feature that delta-rs can't read.
    """
    table = open_table(lake, path)
    return set() if table is None else {partition[column] for partition in table.partitions()}


def exists(lake: DataLake, path: str) -> bool:
    """Whether there is a table: one list request on S3, where opening it takes one for each commit too.

    Args:
        lake: the lake.
        path: the table's path in it.
    """
    # Not `DeltaTable.is_deltatable`: deltalake 1.6 keeps Python's lock while it waits for S3. A commit that is being
    # written has another ending.
    return any(file.name.endswith((".json", ".parquet")) for file in lake.walk(f"{path}/_delta_log"))


@dataclass(frozen=True)
class Partition:
    """One partition of a table.

    Attributes:
        version: the version of the table.
        size: the size of the partition's files, bytes.
        first_rows: a few of its rows.
    """

    version: int
    size: int
    first_rows: list[dict[str, Any]]


def read_partition(lake: DataLake, path: str, column: str, value: str, *, limit: int) -> Partition:
    """The size and a few rows of one partition of an existing table.

    Args:
        lake: the lake.
        path: the table's path in it.
        column: the column that it is partitioned by.
        value: the partition's value.
        limit: how many rows.
    """
    table = open_table(lake, path)
    assert table is not None, path
    size = sum(size for partition, _, size in _files(table, column) if partition == value)
    return Partition(table.version(), size, _query(table, column, [value], limit))


def partition_sizes(lake: DataLake, path: str, column: str) -> tuple[dict[str, int], int]:
    """The sizes of the partitions of a table.

    Args:
        lake: the lake.
        path: the table's path in it.
        column: the column that it is partitioned by.

    Returns:
        for each value of that column the size of its files, bytes; and the version of the table, -1 if there is none.

    Raises:
        TableError: the table has a feature that delta-rs can't read.
    """
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
        table: the table's identifier; a table that was created again at the same path has another one.
        number: the number of the version, from 0.
    """

    table: str
    number: int


def changed_partitions(
    lake: DataLake, path: str, column: str, since: Version | None
) -> tuple[Version | None, set[str]]:
    """The version of a table, and the partitions whose files have changed since another version.

    Args:
        lake: the lake.
        path: the table's path in it.
        column: the column that it is partitioned by.
        since: the version to compare with. If it is None, of another table, or no longer in the history, all partitions
            count as changed.

    Returns:
        the version, None if there is no table; and the values of the partition column. A partition that was emptied
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
        except DeltaError:  # no longer in the history
            before = set()
    return now, {value for value, _, _ in files - before}


def read_rows(lake: DataLake, path: str, column: str, values: Collection[str]) -> dict[str, dict[str, Any]]:
    """The rows of a small table with one row per partition.

    Args:
        lake: the lake.
        path: the table's path in it.
        column: the column that it is partitioned by.
        values: the partitions to read; no others are read.

    Returns:
        the rows by their partition's value.
    """
    table = open_table(lake, path) if values else None
    if table is None:
        return {}
    return {row[column]: row for row in _query(table, column, values)}


def _query(table: DeltaTable, column: str, values: Collection[str], limit: int | None = None) -> list[dict[str, Any]]:
    from deltalake import QueryBuilder

    # Not `to_pyarrow_table`: a process that ends soon after it sometimes aborts (delta-io/delta-rs#2184).
    names = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    query = f"SELECT * FROM rows WHERE {column} IN ({names})" + (f" LIMIT {limit}" if limit is not None else "")
    rows: list[dict[str, Any]] = _read(QueryBuilder().register("rows", table).execute(query)).to_pylist()
    return rows


def _files(table: DeltaTable, column: str) -> list[tuple[str, str, int]]:
    """The files of a table: partition, path, bytes."""
    actions = _read(table.get_add_actions(flatten=True))
    if not actions.num_rows:  # an empty table has no column for the partition either
        return []
    return list(
        zip(*(actions[name].to_pylist() for name in (f"partition.{column}", "path", "size_bytes")), strict=True)
    )


def _read(stream: Any) -> pa.Table:
    import pyarrow as pa

    # Not `pa.table(stream)`, which imports pandas: half a second.
    return pa.RecordBatchReader.from_stream(stream).read_all()
