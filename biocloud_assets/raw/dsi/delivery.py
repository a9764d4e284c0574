"""A delivery in the landing zone: its name, its files, how new ones are found and when one is complete.

What belongs here: names, listings and times. What doesn't: what is inside the files (`files`, `validation`, `source`).

A delivery lies at `<landing root>/dsi/<datetime>/<folder>/*.parquet`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

from biocloud_assets.errors import DeliveryNameError
from biocloud_assets.lake import DataLake, FileInfo
from biocloud_assets.raw.dsi.contract import FOLDERS

ROOT = "dsi"
"""The folder of DSI's deliveries below the landing root."""

_FORMAT = "%Y-%m-%d-%H:%M:%S"
_SHAPE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}-[0-9]{2}:[0-9]{2}:[0-9]{2}")


def parse_name(name: str) -> datetime:
    """The time that a delivery's name stands for.

    Args:
        name: `yyyy-mm-dd-HH:MM:SS`, a real date and time, UTC.

    Raises:
        DeliveryNameError: it is anything else.
    """
    try:
        if _SHAPE.fullmatch(name):
            return datetime.strptime(name, _FORMAT).replace(tzinfo=UTC)
    except ValueError:  # of the right shape, but no such date or time
        pass
    raise DeliveryNameError(
        f"delivery {name!r}",
        expected="a real date and time as yyyy-mm-dd-HH:MM:SS, for instance 2026-01-31-06:00:00",
        found=repr(name),
        hint="`biocloud deliveries` lists the deliveries.",
    )


def format_name(time: datetime) -> str:
    """The name of a delivery of that time (UTC)."""
    return time.astimezone(UTC).strftime(_FORMAT).rjust(19, "0")  # strftime writes the year 1 as "1" on Linux


def window_start(newest: str, lookback_days: int) -> str:
    """The name after which to look for deliveries, so that those which arrive late are still found.

    Args:
        newest: the name of the newest delivery that is settled.
        lookback_days: how many days before it a late one may lie.
    """
    try:
        return format_name(parse_name(newest) - timedelta(days=lookback_days))
    except OverflowError:
        return ""


def path(delivery: str, folder: str = "") -> str:
    """The path of a delivery, or of a folder in it, below the landing root.

    Raises:
        DeliveryNameError: `delivery` is not a delivery's name.
    """
    parse_name(delivery)
    return "/".join(filter(None, (ROOT, delivery, folder)))


def discover(landing: DataLake, *, start_after: str = "") -> tuple[list[str], list[str]]:
    """The deliveries in the landing zone, oldest first, and the names there that aren't deliveries.

    On S3 that is one request for each 1,000 names behind `start_after`; the files in them aren't listed.
    """
    names, others = [], []
    for name in landing.list(ROOT, start_after=start_after).folders:
        try:
            parse_name(name)
            names.append(name)
        except DeliveryNameError:
            others.append(name)
    return names, others


@dataclass(frozen=True)
class Contents:
    """What a delivery held at one look.

    Attributes:
        delivery: its name.
        files: for each folder of the contract, the Parquet files in it.
        others: the paths, relative to the delivery, of what the contract doesn't know and nobody reads.
    """

    delivery: str
    files: dict[str, tuple[FileInfo, ...]]
    others: tuple[str, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """The folders without a Parquet file."""
        return tuple(folder for folder, files in self.files.items() if not files)

    @cached_property
    def all_files(self) -> tuple[FileInfo, ...]:
        """All Parquet files."""
        return tuple(file for files in self.files.values() for file in files)

    @property
    def size(self) -> int:
        """The size of all Parquet files together, bytes."""
        return sum(file.size for file in self.all_files)

    @cached_property
    def fingerprint(self) -> str:
        """A digest that changes when a file is added, removed or written again."""
        digest = hashlib.sha256()
        for file in self.all_files:
            digest.update(f"{file.path}\0{file.size}\0{file.etag or file.modified.isoformat()}\n".encode())
        return digest.hexdigest()[:16]

    def quiet_for(self, now: datetime) -> float:
        """For how many seconds nothing in it has changed; infinite for an empty one."""
        return min(((now - file.modified).total_seconds() for file in self.all_files), default=float("inf"))


def look(landing: DataLake, delivery: str) -> Contents:
    """List a delivery's files: on S3 one request for each 1,000 files.

    Raises:
        DeliveryNameError: `delivery` is not a delivery's name.
    """
    root = path(delivery)
    files: dict[str, list[FileInfo]] = {folder.name: [] for folder in FOLDERS}
    others = []
    for file in landing.walk(root):
        folder, _, name = file.path.removeprefix(f"{root}/").partition("/")
        if folder in files and name.endswith(".parquet") and not name.startswith(("_", ".")) and "/" not in name:
            files[folder].append(file)
        elif not file.name.startswith(("_", ".")):  # _SUCCESS and its like are how writers say "done"
            others.append(file.path.removeprefix(f"{root}/"))
    return Contents(delivery, {folder: tuple(found) for folder, found in files.items()}, tuple(others))
