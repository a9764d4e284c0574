"""Delete the curated folders of days before the retention period."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

from biocloud_assets.curated.dsi.paths import MANIFEST, is_date, parse_run_date
from biocloud_assets.errors import LakeError, RunDateError
from biocloud_assets.lake import DataLake

MAXIMUM_DAYS = 36_525
"""The longest retention that is accepted, a hundred years; a larger number is probably a mistake."""

_FAILURES_SHOWN = 20
"""How many failures the message of an error has; all of them are in its `cleanup`."""


@dataclass(frozen=True)
class Removal:
    """A folder that was deleted, or in a dry run would be.

    Attributes:
        date: its name.
        path: relative to the lake's root.
        files: how many files were deleted, not counting the manifest.
        size: their size together, bytes.
        failures: for each file that could not be deleted, its path and the reason.
        transient: whether the reasons may pass by themselves.
    """

    date: date
    path: str
    files: int
    size: int
    failures: tuple[str, ...] = ()
    transient: bool = False


@dataclass(frozen=True)
class Cleanup:
    """The outcome for the folders below a root.

    Attributes:
        root: the path, relative to the lake's root.
        cutoff: the oldest day that is kept.
        removals: the folders of older days, oldest first.
        kept: the days whose folders are kept, oldest first.
        dry_run: whether nothing was deleted.
    """

    root: str
    cutoff: date
    removals: tuple[Removal, ...]
    kept: tuple[date, ...]
    dry_run: bool

    @property
    def failures(self) -> tuple[str, ...]:
        """Every file that could not be deleted, with the reason."""
        return tuple(fault for removal in self.removals for fault in removal.failures)


class CleanupError(LakeError):
    """Some files could not be deleted. The message names up to 20 of them, each with the reason.

    Args:
        cleanup: the outcome of every folder, with every such file; also an attribute of the error.
        lake: the lake, for the address in the message.
    """

    def __init__(self, cleanup: Cleanup, lake: DataLake) -> None:
        self.cleanup = cleanup
        failures = cleanup.failures
        shown = [
            *failures[:_FAILURES_SHOWN],
            *([f"and {len(failures) - _FAILURES_SHOWN:,} more"] * (len(failures) > _FAILURES_SHOWN)),
        ]
        super().__init__(
            lake.uri(cleanup.root),
            expected="all folders of days before " + cleanup.cutoff.isoformat() + " deleted",
            found="; ".join(shown),
            hint="All other files were deleted. Check the permissions, then repeat.",
            transient=all(removal.transient for removal in cleanup.removals if removal.failures),
        )


def cleanup_curated_folders(
    dsi_curated_root_path: str,
    data_lake: DataLake,
    run_date: date | str,
    amount_of_data_days: int,
    *,
    dry_run: bool = False,
) -> Cleanup:
    """Delete the folders of days before `run_date` minus `amount_of_data_days`, with everything in them.

    Deleted are folders directly below the root whose name is a real date, `yyyy-mm-dd`, before that day. Kept are the
    folder of exactly that day and later ones, folders with other names, dates that are nested deeper, files, and the
    targets of links.

    The manifest of a folder is deleted first, so that no reader takes a half-deleted folder for a complete one; if that
    fails, the folder is kept. On S3, files are deleted in batches of 1,000. A file that can't be deleted doesn't stop
    the deletion of others; all such files are reported in the end, each with its reason. A repetition deletes the rest.

    Args:
        dsi_curated_root_path: `str`, the folder that holds the days, relative to the lake's root; for instance `dsi`.
        data_lake: `DataLake`, the lake that holds it; for instance `DataLake.at("s3://bucket/curated")`.
        run_date: `date`, or `str` as `yyyy-mm-dd`: the day from which is counted back.
        amount_of_data_days: `int`, 0 to 36,525: how many days before the run date are kept. With 30 and the run date
            2026-01-31, the folder 2026-01-01 is kept and 2025-12-31 is deleted.
        dry_run: `bool`: count what would be deleted, and delete nothing.

    Returns:
        the folders that were deleted and those that were kept.

    Raises:
        CleanupError: some files could not be deleted.
        LakeError: the root is empty, `/`, or leaves the lake's root, or it can't be listed. Nothing was deleted.
        RunDateError: the run date is no date, or the number of days is missing or out of range. Nothing was deleted.
    """
    cutoff = _cutoff(parse_run_date(run_date), amount_of_data_days)
    if not dsi_curated_root_path.strip("/ "):
        raise LakeError(
            f"the curated root {dsi_curated_root_path!r}",
            expected="the path of a folder below the lake's root, for instance 'dsi'",
            found="none",
            hint="Nothing was deleted. Name the folder that holds the days.",
        )
    days = sorted(date.fromisoformat(name) for name in data_lake.list(dsi_curated_root_path).folders if is_date(name))
    removals = tuple(
        _remove(data_lake, f"{dsi_curated_root_path}/{day}", day, dry_run=dry_run) for day in days if day < cutoff
    )
    kept = tuple(day for day in days if day >= cutoff)
    cleanup = Cleanup(dsi_curated_root_path, cutoff, removals, kept, dry_run)
    if cleanup.failures:
        raise CleanupError(cleanup, data_lake)
    return cleanup


def _cutoff(run_date: date, days: int) -> date:
    """The oldest day that is kept."""
    if isinstance(days, bool) or not isinstance(days, int) or not 0 <= days <= MAXIMUM_DAYS:
        raise RunDateError(
            "amount_of_data_days",
            expected=f"a whole number of days from 0 to {MAXIMUM_DAYS:,}",
            found=repr(days),
            hint="Nothing was deleted. Give the number of days before the run date that are kept.",
        )
    try:
        return run_date - timedelta(days=days)
    except OverflowError:
        return date.min


def _remove(lake: DataLake, path: str, day: date, *, dry_run: bool) -> Removal:
    if dry_run:
        files = size = 0
        for file in lake.walk(path):
            if file.path != f"{path}/{MANIFEST}":
                files, size = files + 1, size + file.size
        return Removal(day, path, files, size)
    try:
        deletion = lake.delete_folder(path, first=MANIFEST)
    except LakeError as error:
        return Removal(day, path, 0, 0, (str(error),), error.transient)
    return Removal(day, path, deletion.files, deletion.size, deletion.failures)
