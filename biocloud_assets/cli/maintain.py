"""`biocloud maintain`: the maintenance of the Delta tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg
from rich.table import Table

from biocloud_assets.cli.home import open_instance
from biocloud_assets.cli.output import out
from biocloud_assets.lake import DataLake
from biocloud_assets.launch.results import to_dagster
from biocloud_assets.maintenance.step import maintain_tables, observation
from biocloud_assets.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def maintain(*, days: int | None, dry_run: bool) -> None:
    """Maintain each table, and print the outcome; the UI shows it on the table's page.

    Args:
        days: for how many days replaced files are kept; None for the default.
        dry_run: change nothing.

    Raises:
        SettingsError: the number of days is too small.
        TableError: ingests wrote a table at every attempt.
    """
    settings = Settings.load()

    def get_session() -> SparkSession:
        from biocloud_assets.spark.session import get_session as start

        return start(settings.engine, s3_endpoint=settings.s3_endpoint)

    lake = DataLake.at(settings.lake, endpoint=settings.s3_endpoint)
    outcomes = list(maintain_tables(settings.engine, get_session, lake, days=days, dry_run=dry_run))
    if not outcomes:
        out.print(f"There is no table in {lake.root}.")
        return
    table = Table("Table", box=None, pad_edge=False, show_footer=True)
    total = f"{sum(outcome.reclaimed for outcome in outcomes):,}"
    deleted = "to delete" if dry_run else "deleted"
    for heading, footer in (
        ("Files before", ""),
        ("after", ""),
        (f"Files {deleted}", ""),
        (f"Log files {deleted}", ""),
        ("Bytes to reclaim" if dry_run else "Bytes reclaimed", total),
    ):
        table.add_column(heading, footer, justify="right")
    for outcome in outcomes:
        numbers = (
            outcome.files_before,
            outcome.files_after,
            outcome.deleted_files,
            outcome.deleted_log_files,
            outcome.reclaimed,
        )
        table.add_row(outcome.table, *(f"{number:,}" for number in numbers))
    out.print(table)
    if dry_run:
        return
    with open_instance(settings) as instance:
        for outcome in outcomes:
            observed = to_dagster(observation(outcome))
            assert isinstance(observed, dg.AssetObservation), observed
            instance.report_runless_asset_event(observed)
