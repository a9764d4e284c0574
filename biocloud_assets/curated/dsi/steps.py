"""The steps of a day's publication, whatever orchestrates them: Dagster, Airflow or a person's script.

What belongs here: each step as one call that takes a session, lakes and plain values and returns plain data. What
doesn't: how it is done, and how it is shown.

    publish ──► manifest ──► cleanup

Each can be run on its own and again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any

from biocloud_assets.curated.dsi import paths, reports
from biocloud_assets.curated.dsi.cleanup import Cleanup, CleanupError, cleanup_curated_folders
from biocloud_assets.curated.dsi.manifest import Manifest, write_manifest
from biocloud_assets.curated.dsi.observation import SOURCES, observations
from biocloud_assets.curated.dsi.publication import Publication, publish_rows
from biocloud_assets.curated.dsi.reports import DAYS, MANIFEST, OBSERVATION
from biocloud_assets.errors import LakeError, SettingsError
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi import contract
from biocloud_assets.raw.dsi.current import current, snapshot
from biocloud_assets.steps import Report, Sighting, Value

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def run(
    spark: SparkSession,
    lake: DataLake,
    curated: DataLake,
    assets: Collection[str],
    run_date: date | str,
    amount_of_data_days: int | None,
    *,
    dry_run: bool = False,
) -> Iterator[Report | Sighting]:
    """Do some of the steps of a day, in their order, and report them.

    Args:
        spark: the session.
        lake: the lake with the raw tables.
        curated: the lake of the curated layer.
        assets: the addresses of what the steps make.
        run_date: the day.
        amount_of_data_days: for the cleanup: how many days before it are kept.
        dry_run: do all but write and delete; what would be made is only seen.

    Yields:
        a report for each asset, and what was seen besides.

    Raises:
        SettingsError: an address is none of this room, or the cleanup isn't told how many days to keep.
        RunDateError, TableError, LakeError, CleanupError: as the steps say.
    """
    for address in assets:
        if address not in (OBSERVATION, MANIFEST, DAYS):
            raise SettingsError(
                f"step {address}",
                expected=f"{OBSERVATION}, {MANIFEST} or {DAYS}",
                found=address,
                hint="See docs/data-architecture/curated/dsi.md.",
            )
    day = paths.parse_run_date(run_date).isoformat()

    def made(asset: str, metadata: dict[str, Value]) -> Report | Sighting:
        return Sighting(asset, day, metadata) if dry_run else Report(asset, metadata)

    if OBSERVATION in assets:
        published = publish(spark, lake, curated, day, dry_run=dry_run)
        yield made(OBSERVATION, reports.of_publication(published))
    if MANIFEST in assets:
        written = manifest(curated, day, dry_run=dry_run)
        yield made(MANIFEST, reports.of_manifest(written, dry_run=dry_run))
    if DAYS in assets:
        if amount_of_data_days is None:
            raise SettingsError(
                f"step {DAYS}", expected="how many days are kept", found="nothing", hint="Say so, by --days."
            )
        try:
            cleaned = cleanup(curated, day, amount_of_data_days, dry_run=dry_run)
        except CleanupError as error:
            yield from reports.of_removals(error.cleanup)
            yield Sighting(DAYS, day, reports.of_cleanup(error.cleanup))
            raise
        yield from reports.of_removals(cleaned)
        yield made(DAYS, reports.of_cleanup(cleaned))


def publish(
    spark: SparkSession, lake: DataLake, curated: DataLake, run_date: date | str, *, dry_run: bool = False
) -> Publication:
    """Publish the observations of a day: the current state as of its end, of all deliveries up to it.

    Args:
        spark: the session.
        lake: the lake with the raw tables.
        curated: the lake of the curated layer.
        run_date: the day.
        dry_run: do all but write.

    Raises:
        RunDateError: the run date is no date.
        TableError: there is nothing to publish up to that day.
        LakeError: a file can't be read, written or deleted.
    """
    day = paths.parse_run_date(run_date)
    state = snapshot(lake, day)
    frame = observations({name: current(spark, lake, state, contract.table(name)) for name in SOURCES})
    published = publish_rows(curated, day, _rows(frame), dry_run=dry_run)
    return replace(published, deliveries=state.deliveries, log_version=state.log_version)


def _rows(frame: DataFrame) -> Iterator[dict[str, Any]]:
    # The one way to take rows little by little that is public on Spark Connect and on a JVM.
    for row in frame.orderBy("occurrenceID").toLocalIterator():
        yield row.asDict(recursive=True)


def manifest(curated: DataLake, run_date: date | str, *, dry_run: bool = False) -> Manifest:
    """Write the manifest of a day that was published.

    Args:
        curated: the lake of the curated layer.
        run_date: the day.
        dry_run: do all but write.

    Raises:
        RunDateError: the run date is no date.
        LakeError: nothing was published on that day, or the lake can't be read or written.
    """
    path = paths.day(run_date)
    if not dry_run and not curated.list(paths.observation(run_date)).files:
        raise LakeError(
            curated.uri(path),
            expected="a day that was published",
            found="no observations",
            hint="Publish it first: `biocloud curated publish`.",
        )
    return write_manifest(path, curated, run_date, dry_run=dry_run)


def cleanup(curated: DataLake, run_date: date | str, amount_of_data_days: int, *, dry_run: bool = False) -> Cleanup:
    """Delete the folders of days before `run_date` minus `amount_of_data_days`; see `cleanup_curated_folders`.

    Args:
        curated: the lake of the curated layer.
        run_date: the day from which is counted back.
        amount_of_data_days: how many days before it are kept.
        dry_run: delete nothing.
    """
    return cleanup_curated_folders(paths.ROOT, curated, run_date, amount_of_data_days, dry_run=dry_run)
