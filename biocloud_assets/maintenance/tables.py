"""Maintenance of one Delta table: merge small files, delete replaced files, delete old log files.

What is worth doing follows from how the tables are written. They are partitioned by delivery, and an ingest replaces
one partition in one commit. Measured for 150 deliveries of 100 results, written by Sail 0.7:

- **Compaction** merges the files of one partition. Sail writes one file for each delivery and table, so there is
  nothing to merge. A JVM and Databricks write several files for a large delivery. Files of different deliveries are
  never merged, because a delivery is replaced by itself.
- **Vacuum** deletes the files of replaced deliveries, and those that a killed process has left. Without either, there
  is nothing to delete.
- **The log** is what grows: 2.2 MB for each table, where the data is 0.5 to 2.6 MB. Sail writes a checkpoint with
  every tenth commit, which names all files (1.2 KB for each), and deletes none, so the size grows with the square of
  the number of deliveries. Therefore old log files are deleted too. Spark does that itself when it writes a checkpoint.

The time to read the log stays the same: the newest checkpoint and at most nine commits, 4 ms, before and after.

A table is only changed if there is something to do, so that a repetition commits nothing.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from biocloud_assets.errors import SettingsError, TableError
from biocloud_assets.lake import DataLake
from biocloud_assets.spark import delta_log
from biocloud_assets.spark.table_reader import quoted_name

if TYPE_CHECKING:
    from deltalake import DeltaTable, PostCommitHookProperties
    from pyspark.sql import SparkSession

DEFAULT_DAYS = 7
"""For how many days replaced files are kept by default; Delta's own default and least."""

LOG_DAYS = 30
"""For how many days log files are kept at least; Delta's own default."""

_TARGET_SIZE = 100 * 1024 * 1024
"""The size in bytes up to which files are merged; delta-rs's own default."""

_ATTEMPTS = 6
"""How often a commit is tried, if other commits to the same partition come first."""

_LOG_FILE = re.compile(r"(\d{20})\.(json|crc|checkpoint\.parquet)")


@dataclass(frozen=True)
class TableMaintenance:
    """The outcome for one table, or in a dry run the outcome that is expected.

    Attributes:
        table: its address, `raw/dsi/sensor`.
        files_before: how many data files the table has.
        files_after: how many it has when small ones are merged.
        deleted_files: how many data files were deleted that the table no longer has.
        deleted_log_files: how many log files were deleted.
        reclaimed: the size of all deleted files, bytes.
        dry_run: whether nothing was changed.
    """

    table: str
    files_before: int
    files_after: int
    deleted_files: int
    deleted_log_files: int
    reclaimed: int
    dry_run: bool


def check_days(days: int | None) -> int:
    """The number of days for which replaced files are kept.

    Args:
        days: the given number; None for the default.

    Raises:
        SettingsError: it is below Delta's least, 168 hours.
    """
    if days is None:
        return DEFAULT_DAYS
    if isinstance(days, bool) or not isinstance(days, int) or days < DEFAULT_DAYS:
        raise SettingsError(
            "the retention of replaced files",
            expected=f"at least {DEFAULT_DAYS} days, so that no running reader or writer loses a file",
            found=repr(days),
            hint="Nothing was changed. Give another number of days.",
        )
    return days


def maintain_table(
    lake: DataLake,
    path: str,
    *,
    days: int = DEFAULT_DAYS,
    dry_run: bool = False,
    get_spark: Callable[[], SparkSession] | None = None,
    catalog: str | None = None,
) -> TableMaintenance | None:
    """Merge small files, delete files that were replaced some time ago, and delete old log files.

    Versions of the last `days` days stay readable. The rows, the delivery log and the files of running ingests stay as
    they are.

    Args:
        lake: the lake.
        path: the table's path in it.
        days: for how many days replaced files are kept, and files that no commit names, since these may belong to a
            running write. At least 7.
        dry_run: change nothing.
        get_spark: returns the session of a Spark that has OPTIMIZE and VACUUM: a JVM's or that of Databricks. Without
            it, delta-rs does the work, since Sail 0.7 has neither statement.
        catalog: the catalog of Unity Catalog that has the table, if there is one; Spark then uses its name.

    Returns:
        the outcome; None if there is no table.

    Raises:
        SettingsError: the number of days is too small.
        TableError: other commits came first at every attempt. What was done before stays done; the rest is done by a
            repetition.
    """
    days = check_days(days)
    table = delta_log.open_table(lake, path)
    if table is None:
        return None
    before = {file.path: file.size for file in lake.walk(path)}
    small, merged = _mergeable(table)
    # delta-rs also lists the files that an earlier vacuum has deleted, as long as the log names their removal.
    unused = [name for name in (f"{path}/{file}" for file in _vacuumed(table, days)) if name in before]
    old_log_files = [] if get_spark is not None else _old_log_files(lake, path, days)
    files = _count(table)
    if dry_run:
        gone = {*unused, *old_log_files}
        after = {name: size for name, size in before.items() if name not in gone}
        return _outcome(path, before, after, files, files - small + merged, dry_run=True)
    name = quoted_name(path, catalog) if catalog is not None else f"delta.`{lake.uri(path).replace('`', '``')}`"
    if merged < small:
        _commit(lake, path, lambda current: _compact(current, name, get_spark))
    if unused:
        _commit(lake, path, lambda current: _vacuum(current, name, days, get_spark))
    lake.delete(old_log_files)
    current = delta_log.open_table(lake, path)
    assert current is not None, path
    # By what is there: other processes add files meanwhile, but delete none.
    after = {file.path: file.size for file in lake.walk(path)}
    return _outcome(path, before, after, files, _count(current), dry_run=False)


def maintain_named_table(
    spark: SparkSession, path: str, catalog: str, *, days: int = DEFAULT_DAYS, dry_run: bool = False
) -> TableMaintenance | None:
    """Do the same by the table's name in Unity Catalog, with no access to its files but the engine's.

    Args:
        spark: a Spark that has OPTIMIZE and VACUUM. It deletes old log files itself.
        path: the table's path in the lake.
        catalog: the catalog that has it.
        days: for how many days replaced files are kept. At least 7.
        dry_run: change nothing; how many files a merge would leave isn't known then.

    Returns:
        the outcome; None if there is no table. The size of deleted files is that of its history, where VACUUM is
        recorded.

    Raises:
        SettingsError: the number of days is too small.
        TableError: other commits came first at every attempt.
    """
    days, name = check_days(days), quoted_name(path, catalog)
    if not spark.catalog.tableExists(name):
        return None
    before = _file_count(spark, name)
    vacuum = f"VACUUM {name} RETAIN {days * 24} HOURS"
    if dry_run:
        return TableMaintenance(path, before, before, spark.sql(f"{vacuum} DRY RUN").count(), 0, 0, True)
    _retry(name, lambda: spark.sql(f"OPTIMIZE {name}").collect())
    after, unused = _file_count(spark, name), spark.sql(f"{vacuum} DRY RUN").count()
    reclaimed = 0
    if unused:
        _retry(name, lambda: spark.sql(vacuum).collect())
        history = spark.sql(f"DESCRIBE HISTORY {name}").where("operation = 'VACUUM START'")
        latest = history.orderBy("version", ascending=False).select("operationMetrics").limit(1).collect()
        reclaimed = sum(int(row["operationMetrics"].get("sizeOfDataToDelete", 0)) for row in latest)
    return TableMaintenance(path, before, after, unused, 0, reclaimed, False)


def _file_count(spark: SparkSession, name: str) -> int:
    (detail,) = spark.sql(f"DESCRIBE DETAIL {name}").select("numFiles").collect()
    return int(detail["numFiles"])


def _outcome(
    path: str, before: dict[str, int], after: dict[str, int], files: int, files_after: int, *, dry_run: bool
) -> TableMaintenance:
    deleted = before.keys() - after.keys()
    log = [name for name in deleted if name.startswith(f"{path}/_delta_log/")]
    size = sum(before[name] for name in deleted)
    return TableMaintenance(path, files, files_after, len(deleted) - len(log), len(log), size, dry_run)


def _count(table: DeltaTable) -> int:
    return len(table.file_uris())


def _mergeable(table: DeltaTable) -> tuple[int, int]:
    """How many small files share a partition with another one, and how many files they would be."""
    import pyarrow as pa

    actions = pa.RecordBatchReader.from_stream(table.get_add_actions(flatten=True)).read_all()
    columns = [name for name in actions.column_names if name.startswith("partition.")]
    sizes: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for file in actions.select([*columns, "size_bytes"]).to_pylist():
        if file["size_bytes"] < _TARGET_SIZE:
            sizes[tuple(file[name] for name in columns)].append(file["size_bytes"])
    together = [found for found in sizes.values() if len(found) > 1]
    return sum(map(len, together)), sum(max(1, math.ceil(sum(found) / _TARGET_SIZE)) for found in together)


def _vacuumed(table: DeltaTable, days: int) -> list[str]:
    """The files that a vacuum deletes: replaced long ago, or named by no commit and old."""
    return table.vacuum(days * 24, dry_run=True, full=True)


def _old_log_files(lake: DataLake, path: str, days: int) -> list[str]:
    """The log files that are older than the log is kept, and that no version since needs.

    As Delta's protocol says under "Metadata Cleanup": those before the newest checkpoint that is itself so old. (The
    method of delta-rs, `cleanup_metadata`, has no dry run, and leaves the checksum files.)
    """
    found = [
        (int(match.group(1)), match.group(2), file)
        for file in lake.walk(f"{path}/_delta_log")
        if (match := _LOG_FILE.fullmatch(file.name))
    ]
    cutoff = datetime.now(UTC) - timedelta(days=max(days, LOG_DAYS))
    checkpoints = [version for version, kind, file in found if kind == "checkpoint.parquet" and file.modified <= cutoff]
    oldest = max(checkpoints, default=0)
    return [file.path for version, _, file in found if version < oldest]


def _compact(table: DeltaTable, name: str, get_spark: Callable[[], SparkSession] | None) -> None:
    if get_spark is not None:
        get_spark().sql(f"OPTIMIZE {name}").collect()
        return
    table.optimize.compact(target_size=_TARGET_SIZE, post_commithook_properties=_no_checkpoint())


def _vacuum(table: DeltaTable, name: str, days: int, get_spark: Callable[[], SparkSession] | None) -> None:
    if get_spark is not None:
        get_spark().sql(f"VACUUM {name} RETAIN {days * 24} HOURS").collect()
        return
    table.vacuum(days * 24, dry_run=False, full=True, post_commithook_properties=_no_checkpoint())


def _no_checkpoint() -> PostCommitHookProperties:
    """No checkpoint with this commit: Sail 0.7 can't read most versions before that of `_last_checkpoint`."""
    from deltalake import PostCommitHookProperties

    return PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


def _commit(lake: DataLake, path: str, action: Callable[[DeltaTable], None]) -> None:
    """Change a table; if another commit came first, do it again with the table as it is then."""

    def attempt() -> None:
        table = delta_log.open_table(lake, path)
        assert table is not None, path
        action(table)

    _retry(lake.uri(path), attempt)


def _retry(table: str, action: Callable[[], object]) -> None:
    """Do something with a table; again, if another commit came first."""
    from biocloud_assets.spark.delta import is_conflict

    try:
        Retrying(
            retry=retry_if_exception(is_conflict),
            wait=wait_random_exponential(multiplier=0.5, max=10),
            stop=stop_after_attempt(_ATTEMPTS),
            reraise=True,
        )(action)
    except Exception as error:
        if not is_conflict(error):
            raise
        raise TableError(
            table,
            expected="a moment in which no ingest writes the same partition",
            found=f"a conflict at each of {_ATTEMPTS} attempts",
            hint="Nothing is lost. Repeat the maintenance when the running ingests have ended.",
        ) from error
