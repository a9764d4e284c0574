"""From raw to current: the latest state of each thing, across deliveries, as of a day.

What belongs here: which deliveries count, and which of their rows. What doesn't: what is made of them (`curated`).

The raw tables keep what each delivery said. A delivery counts on a day if its name, a time in UTC, is of that day or an
earlier one, and if it is in the delivery log. Of the rows with the same `id`, that of the latest such delivery is the
current one: a correction that is delivered later wins, whatever its `updated_at` says. For the five tables of results
the `id` is the result's, and a result is taken as a whole: the one that is delivered later replaces all of the older
one, also the region groups and predictions that it no longer has. Nothing is ever taken for deleted because a later
delivery doesn't have it, for a delivery brings what is new.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from biocloud_assets.errors import TableError
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi import contract, log
from biocloud_assets.raw.dsi.contract import DELIVERY_COLUMN, LOG, RESULT, TABLES, Table
from biocloud_assets.spark import delta

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_LOOKS = 5
"""How often the lake is looked at anew if a delivery is being ingested just then."""


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


def snapshot(lake: DataLake, run_date: date) -> Snapshot:
    """The state of the raw tables to work from: versions of all tables that hold the same deliveries wholly.

    A delivery is taken out of the log before its tables change, and put back after. So if the log is the same before
    and after the tables' versions are noted, each of these versions holds all that the log tells of.

    Args:
        lake: the lake.
        run_date: the day; deliveries of later days don't count.

    Raises:
        TableError: no delivery of that day or an earlier one is in the log, or the log changed at every look.
    """
    for _ in range(_LOOKS):
        before = delta.version(lake, LOG.path)
        deliveries = tuple(sorted(name for name in log.ingested(lake) if name[:10] <= run_date.isoformat()))
        versions = {table.name: delta.version(lake, table.path) for table in TABLES}
        if before is None or not deliveries:
            raise TableError(
                LOG.path,
                expected=f"an ingested delivery of {run_date} or earlier",
                found="none",
                hint="Ingest one first: `biocloud ingest`.",
            )
        if delta.version(lake, LOG.path) == before:
            there = {name: version for name, version in versions.items() if version is not None}
            return Snapshot(run_date, deliveries, there, before)
    raise TableError(
        LOG.path,
        expected="a moment in which no delivery is being logged",
        found=f"a new version at each of {_LOOKS} looks",
        hint="Try again when the deliveries that are being ingested are in.",
    )


def current(spark: SparkSession, lake: DataLake, of: Snapshot, table: Table) -> DataFrame:
    """The current rows of a raw table, with all its columns.

    Args:
        spark: the session.
        lake: the lake.
        of: the state of the tables to take them from.
        table: the table.
    """
    rows = _read(spark, lake, of, table)
    owner = contract.table(RESULT) if table.folder == RESULT else table
    key, owner_key = "result_id" if owner is not table else owner.key[0], owner.key[0]
    latest = (
        _read(spark, lake, of, owner)
        .groupBy(F.col(owner_key).alias(key))
        .agg(F.max(DELIVERY_COLUMN).alias(DELIVERY_COLUMN))
    )
    # By name, so that each of the columns is there once.
    return rows.join(latest, [key, DELIVERY_COLUMN], "left_semi").select(*(column.name for column in table.columns))


def _read(spark: SparkSession, lake: DataLake, of: Snapshot, table: Table) -> DataFrame:
    rows = spark.read.format("delta").option("versionAsOf", of.versions[table.name]).load(lake.uri(table.path))
    return rows.where(F.col(DELIVERY_COLUMN).isin(*of.deliveries))
