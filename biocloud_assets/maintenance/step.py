"""The maintenance of all tables of the lake: those of each source, and its delivery log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from biocloud_assets import steps
from biocloud_assets.lake import DataLake
from biocloud_assets.maintenance.tables import TableMaintenance, check_days, maintain_named_table, maintain_table
from biocloud_assets.raw import contracts
from biocloud_assets.settings import Engine
from biocloud_assets.steps import Observation, StepRequest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def maintain_tables(
    engine: Engine,
    get_session: Callable[[], SparkSession],
    lake: DataLake,
    *,
    days: int | None,
    dry_run: bool,
    catalog: str | None = None,
    files_are_reachable: bool = True,
) -> Iterator[TableMaintenance]:
    """Maintain each table that exists.

    Args:
        engine: on `jvm` and `databricks`, Spark does it; on `sail` and `connect`, delta-rs.
        get_session: returns the Spark session; called only if Spark has something to do.
        lake: the lake.
        days: for how many days replaced files are kept; None for the default, 7.
        dry_run: change nothing.
        catalog: the catalog of Unity Catalog that has the tables, if there is one.
        files_are_reachable: whether this process can read the files of the tables. Otherwise there is a catalog, and
            all is asked of the engine.

    Yields:
        the outcome of each table, as soon as it is known.

    Raises:
        SettingsError: the number of days is too small.
        TableError: ingests wrote a table at every attempt.
    """
    days = check_days(days)
    get_spark = None if engine in ("sail", "connect") else get_session
    for contract in contracts():
        for table in (*contract.tables, contract.log):
            path = contract.address(table)
            if catalog is not None and not files_are_reachable:
                outcome = maintain_named_table(get_session(), path, catalog, days=days, dry_run=dry_run)
            else:
                outcome = maintain_table(lake, path, days=days, dry_run=dry_run, get_spark=get_spark, catalog=catalog)
            if outcome is not None:
                yield outcome


def maintenance_step(
    engine: Engine,
    get_session: Callable[[], SparkSession],
    lake: DataLake,
    request: StepRequest,
    catalog: str | None = None,
    files_are_reachable: bool = True,
) -> Iterator[Observation]:
    """Maintain all tables, as a step. The arguments that aren't described here are those of `maintain_tables`.

    Args:
        request: `retention_days`, for how many days replaced files are kept, and `dry_run`.

    Yields:
        an observation of each table.

    Raises:
        SettingsError, TableError: as `maintain_tables` says.
    """
    days, dry_run = request.retention_days, request.dry_run
    for outcome in maintain_tables(
        engine,
        get_session,
        lake,
        days=days,
        dry_run=dry_run,
        catalog=catalog,
        files_are_reachable=files_are_reachable,
    ):
        yield observation(outcome)


def observation(outcome: TableMaintenance) -> Observation:
    """The outcome of a table, as an observation of its asset, with a metadata entry for each number.

    Args:
        outcome: the outcome; its sizes are in bytes.
    """
    metadata = {
        "files_before": steps.integer(outcome.files_before),
        "files_after": steps.integer(outcome.files_after),
        "deleted_files": steps.integer(outcome.deleted_files),
        "deleted_log_files": steps.integer(outcome.deleted_log_files),
        "reclaimed_bytes": steps.integer(outcome.reclaimed),
        "dry_run": steps.boolean(outcome.dry_run),
    }
    return Observation(outcome.table, None, metadata)
