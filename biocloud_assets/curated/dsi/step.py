"""The steps of a day's publication.

    publish  ──►  manifest  ──►  cleanup

Each can be run on its own, and repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any

from biocloud_assets.curated.dsi import paths, results
from biocloud_assets.curated.dsi.cleanup import Cleanup, CleanupError, cleanup_curated_folders
from biocloud_assets.curated.dsi.manifest import Manifest, write_manifest
from biocloud_assets.curated.dsi.observation import SOURCES, observations
from biocloud_assets.curated.dsi.publication import Publication, publish_rows
from biocloud_assets.curated.dsi.results import MANIFEST, OBSERVATION, RETENTION
from biocloud_assets.errors import LakeError, SettingsError
from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.ingest.snapshot import current_rows, take_snapshot
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.spark import delta
from biocloud_assets.steps import Materialization, Observation, StepRequest, Value

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def curated_step(
    context: IngestContext, curated: DataLake, request: StepRequest
) -> Iterator[Materialization | Observation]:
    """Run the selected steps of a day, in their order.

    Args:
        context: the raw tables; the engine is started only if there is something to publish.
        curated: the lake of the curated layer.
        request: the assets to materialise, the run date, and for the cleanup the number of days that are kept. In a dry
            run nothing is written or deleted; what would be materialised is yielded as an observation.

    Yields:
        a materialization for each asset, and observations about the days whose folders were deleted.

    Raises:
        SettingsError: an address is none of the curated layer's, or the cleanup's number of days is missing.
        RunDateError, TableError, LakeError, CleanupError: as the steps say.
    """
    for address in request.assets:
        if address not in (OBSERVATION, MANIFEST, RETENTION):
            raise SettingsError(
                f"asset {address}",
                expected=f"{OBSERVATION}, {MANIFEST} or {RETENTION}",
                found=repr(address),
                hint="See docs/data-architecture/curated/dsi.md.",
            )
    day, dry_run = paths.parse_run_date(request.run_date or "").isoformat(), request.dry_run

    def made(asset: str, metadata: dict[str, Value]) -> Materialization | Observation:
        return Observation(asset, day, metadata) if dry_run else Materialization(asset, metadata)

    if OBSERVATION in request.assets:
        published = publish(context, curated, day, dry_run=dry_run)
        yield made(OBSERVATION, results.of_publication(published))
    if MANIFEST in request.assets:
        written = manifest(curated, day, dry_run=dry_run)
        yield made(MANIFEST, results.of_manifest(written, dry_run=dry_run))
    if RETENTION in request.assets:
        if request.retention_days is None:
            raise SettingsError(
                f"asset {RETENTION}",
                expected="the number of days that are kept",
                found="none",
                hint="Give it by --retention-days.",
            )
        try:
            cleaned = cleanup(curated, day, request.retention_days, dry_run=dry_run)
        except CleanupError as error:
            yield from results.of_removals(error.cleanup)
            yield Observation(RETENTION, day, results.of_cleanup(error.cleanup))
            raise
        yield from results.of_removals(cleaned)
        yield made(RETENTION, results.of_cleanup(cleaned))


def publish(context: IngestContext, curated: DataLake, run_date: date | str, *, dry_run: bool = False) -> Publication:
    """Publish the observations of a day: the current state as of its end, of all deliveries up to it.

    Args:
        context: the raw tables, and the engine.
        curated: the lake of the curated layer.
        run_date: the day.
        dry_run: do everything but write.

    Returns:
        the content of the day's folder, with the deliveries and the version of the log that it is made from.

    Raises:
        RunDateError: the run date is no date.
        TableError: there is nothing to publish up to that day.
        LakeError: a file can't be read, written or deleted.
    """
    day = paths.parse_run_date(run_date)

    def publish_now() -> Publication:
        state = take_snapshot(context.tables, CONTRACT, day)
        frame = observations({name: current_rows(context, state, CONTRACT.table(name)) for name in SOURCES})
        published = publish_rows(curated, day, _rows(frame), dry_run=dry_run)
        return replace(published, deliveries=state.deliveries, log_version=state.log_version)

    # Sail can't read most versions that are older than a table's latest checkpoint: then from a new snapshot.
    return delta.retry_conflicts(publish_now)


def _rows(frame: DataFrame) -> Iterator[dict[str, Any]]:
    # The only public way to read rows one by one on both Spark Connect and a JVM.
    for row in frame.orderBy("occurrenceID").toLocalIterator():
        yield row.asDict(recursive=True)


def manifest(curated: DataLake, run_date: date | str, *, dry_run: bool = False) -> Manifest:
    """Write the manifest of a day that was published.

    Args:
        curated: the lake of the curated layer.
        run_date: the day.
        dry_run: do everything but write.

    Raises:
        RunDateError: the run date is no date.
        LakeError: nothing was published on that day, its publication was interrupted or is running, or the lake can't
            be read or written.
    """
    path = paths.day(run_date)
    if not dry_run and any(file.name == paths.PUBLISHING for file in curated.list(path).files):
        raise LakeError(
            curated.uri(path),
            expected="a day whose publication was completed",
            found="one that was interrupted or is running",
            hint="Publish it again: `biocloud curated publish`.",
        )
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

    Raises:
        CleanupError, LakeError, RunDateError: as `cleanup_curated_folders` says.
    """
    return cleanup_curated_folders(paths.ROOT, curated, run_date, amount_of_data_days, dry_run=dry_run)
