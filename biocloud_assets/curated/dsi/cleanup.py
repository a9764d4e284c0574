"""Deleting the folders of days that are no longer offered.

What belongs here: which folders go, and in what order. What doesn't: how files are deleted (`lake`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

from biocloud_assets.curated.dsi.paths import MANIFEST, is_date, parse_run_date
from biocloud_assets.errors import LakeError, RunDateError
from biocloud_assets.lake import DataLake

MAXIMUM_DAYS = 36_525
"""For how many days data may be kept: a hundred years. More is taken for a mistake."""

_FAULTS_SHOWN = 20
"""How many faults the message of an error has; all of them are in its `cleanup`."""


@dataclass(frozen=True)
class Removal:
    """A folder that was deleted, or in a dry run would be.

    Attributes:
        date: its name.
        path: relative to the lake's root.
        files: how many files are gone, besides the manifest.
        size: their size together, bytes.
        faults: for each file that could not be deleted, its path and the reason; none if all of the folder is gone.
    """

    date: date
    path: str
    files: int
    size: int
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cleanup:
    """What became of the folders below a root.

    Attributes:
        root: the path, relative to the lake's root.
        cutoff: the oldest day that stays.
        removals: the folders of older days, oldest first.
        kept: the days whose folders stay, oldest first.
        dry_run: whether nothing was deleted.
    """

    root: str
    cutoff: date
    removals: tuple[Removal, ...]
    kept: tuple[date, ...]
    dry_run: bool

    @property
    def faults(self) -> tuple[str, ...]:
        """Every file that could not be deleted, with the reason."""
        return tuple(fault for removal in self.removals for fault in removal.faults)


class CleanupError(LakeError):
    """Some files could not be deleted. `cleanup` tells what became of every folder, and of every such file."""

    def __init__(self, cleanup: Cleanup, lake: DataLake) -> None:
        self.cleanup = cleanup
        faults = cleanup.faults
        shown = [
            *faults[:_FAULTS_SHOWN],
            *([f"and {len(faults) - _FAULTS_SHOWN:,} more"] * (len(faults) > _FAULTS_SHOWN)),
        ]
        super().__init__(
            lake.uri(cleanup.root),
            expected="all folders of days before " + cleanup.cutoff.isoformat() + " deleted",
            found="; ".join(shown),
            hint="What could be deleted is gone. Check the permissions, then repeat.",
        )


def cleanup_curated_folders(
    dsi_curated_root_path: str,
    data_lake: DataLake,
    run_date: date | str,
    amount_of_data_days: int,
    *,
    dry_run: bool = False,
) -> Cleanup:
    """Delete the folders of days before `run_date` minus `amount_of_data_days`, with all that they hold.

    What goes: a folder directly below the root whose name is a real date as `yyyy-mm-dd`, older than that day. The
    folder of exactly that day stays, and so do later ones, names that are no real dates, files, links' targets, folders
    with a date for a name that lie deeper, and whatever lies beside the root.

    A folder's manifest goes first, so that a half-deleted folder is never read as whole; if it can't be deleted, the
    folder stays whole. On S3, files go in batches of 1,000. A file that can't be deleted keeps neither other files nor
    other folders from going; all such files are reported in the end, each with its reason. A repetition takes what was
    left.

    Args:
        dsi_curated_root_path: the folder that holds the days, relative to the lake's root.
        data_lake: the lake that holds it.
        run_date: the day from which is counted back; a date, or one as `yyyy-mm-dd`.
        amount_of_data_days: how many days before the run date are kept, 0 to 36,525.
        dry_run: count what would go, and delete nothing.

    | parameter | type | example |
    | --- | --- | --- |
    | `dsi_curated_root_path` | `str` | `"dsi"` |
    | `data_lake` | `DataLake` | `DataLake.at("s3://bucket/curated")` |
    | `run_date` | `date` or `str` | `date(2026, 1, 31)` |
    | `amount_of_data_days` | `int` | `30`: 2026-01-01 stays, 2025-12-31 goes |
    | `dry_run` | `bool` | `False` |

    Returns:
        which folders went and which stayed.

    Raises:
        CleanupError: some files could not be deleted.
        LakeError: the root is empty, `/`, or leaves the lake's root, or it can't be listed. Nothing was deleted.
        RunDateError: the run date is no date, or the number of days is negative, absurd or none. Nothing was deleted.
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
    if cleanup.faults:
        raise CleanupError(cleanup, data_lake)
    return cleanup


def _cutoff(run_date: date, days: int) -> date:
    """The oldest day that stays."""
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
        return Removal(day, path, 0, 0, (str(error),))
    return Removal(day, path, deletion.files, deletion.size, deletion.faults)
