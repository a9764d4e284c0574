"""The current rows of the raw tables: the latest state of each thing, across deliveries, as of a day.

The raw tables keep what each delivery said. A delivery counts on a day if its name, a time in UTC, is of that day or
an earlier one, and if it is in the delivery log. Of the rows with the same key, that of the latest such delivery is the
current one: a correction that is delivered later wins, whatever its `updated_at` says. For the tables that are
un-nested from a folder, the key is the record's, and a record is taken as a whole: the one that is delivered later
replaces all elements of the older one. A row that a later delivery doesn't have stays current, because a delivery holds
only new and changed rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from biocloud_assets.errors import TableError
from biocloud_assets.ingest import delivery_log
from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.schema import DELIVERY_COLUMN, Contract, Table
from biocloud_assets.spark.table_reader import TableReader

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_ATTEMPTS = 5
"""How often the lake is read again if a delivery is logged at the same moment."""


@dataclass(frozen=True)
class Snapshot:
    """One state of the raw tables.

    Attributes:
        run_date: the day as of which it is.
        deliveries: the deliveries that count, oldest first.
        versions: the Delta version of each table, by its name.
        log_version: that of the delivery log.
    """

    run_date: date
    deliveries: tuple[str, ...]
    versions: dict[str, int]
    log_version: int


def take_snapshot(tables: TableReader, contract: Contract, run_date: date) -> Snapshot:
    """Versions of all tables that hold the same deliveries completely.

    A delivery whose files have changed is removed from the log before its tables change, and added again after. So if
    the log is the same before and after the tables' versions are read, each of these versions holds every delivery of
    the log. One that is ingested again from the same files stays in the log, and its rows are replaced by the same.

    Args:
        tables: reads the tables' versions.
        contract: the contract of the tables.
        run_date: the day; deliveries of later days don't count.

    Raises:
        TableError: no delivery of that day or an earlier one is in the log, or the log changed at every attempt.
    """
    log = contract.address(contract.log)
    for _ in range(_ATTEMPTS):
        before = tables.version(log)
        ingested = delivery_log.ingested(tables, contract)
        deliveries = tuple(sorted(name for name in ingested if name[:10] <= run_date.isoformat()))
        versions = {table.name: tables.version(contract.address(table)) for table in contract.tables}
        if before is None or not deliveries:
            raise TableError(
                log,
                expected=f"an ingested delivery of {run_date} or earlier",
                found="none",
                hint="Ingest one first: `biocloud ingest`.",
            )
        if tables.version(log) == before:
            existing = {name: version for name, version in versions.items() if version is not None}
            return Snapshot(run_date, deliveries, existing, before)
    raise TableError(
        log,
        expected="a moment in which no delivery is being logged",
        found=f"a new version at each of {_ATTEMPTS} attempts",
        hint="Try again when the running ingests have ended.",
    )


def current_rows(context: IngestContext, of: Snapshot, table: Table) -> DataFrame:
    """The current rows of a raw table, with all its columns.

    Args:
        context: what the ingest works with.
        of: the state of the tables to read.
        table: the table.

    Raises:
        TableError: there was no such table at that state.
    """
    from pyspark.sql import functions as F

    assert table.folder is not None, table
    rows = _read(context, of, table)
    owner = context.contract.record_table(table.folder)
    key, owner_key = table.key[0], owner.key[0]
    latest = (
        _read(context, of, owner)
        .groupBy(F.col(owner_key).alias(key))
        .agg(F.max(DELIVERY_COLUMN).alias(DELIVERY_COLUMN))
    )
    # Joined by name, so that each of the columns is in the result once.
    return rows.join(latest, [key, DELIVERY_COLUMN], "left_semi").select(*(column.name for column in table.columns))


def _read(context: IngestContext, of: Snapshot, table: Table) -> DataFrame:
    from pyspark.sql import functions as F

    if table.name not in of.versions:
        raise TableError(
            context.lake.uri(context.contract.address(table)),
            expected="a Delta table",
            found="none",
            hint="Ingest a delivery: it creates the tables that are missing.",
        )
    rows = context.read_table(table, version=of.versions[table.name])
    return rows.where(F.col(DELIVERY_COLUMN).isin(*of.deliveries))
