"""A delivery in the landing zone: its name, its files, how new ones are found and when one is complete.

A delivery lies at `<landing root>/<source>/<datetime>/<folder>/*.parquet`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

from biocloud_assets.errors import DeliveryNameError
from biocloud_assets.lake import DataLake, FileInfo
from biocloud_assets.schema import Contract

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
        f"delivery {name[:100]!r}",
        expected="a real date and time as yyyy-mm-dd-HH:MM:SS, for instance 2026-01-31-06:00:00",
        found=repr(name[:100]),
        hint="`biocloud deliveries` lists the deliveries.",
    )


def is_name(name: str) -> bool:
    """Whether a name is the name of a delivery."""
    try:
        parse_name(name)
    except DeliveryNameError:
        return False
    return True


def format_name(time: datetime) -> str:
    """The name of a delivery of that time (UTC)."""
    return time.astimezone(UTC).strftime(_FORMAT).rjust(19, "0")  # strftime writes the year 1 as "1" on Linux


def window_start(newest: str, lookback_days: int) -> str:
    """The name after which to look for deliveries, so that those which arrive late are still found.

    Args:
        newest: the name of the newest delivery that needs no further attention.
        lookback_days: how many days before it a late one may be.
    """
    try:
        return format_name(parse_name(newest) - timedelta(days=lookback_days))
    except OverflowError:
        return ""


def delivery_path(contract: Contract, delivery: str, folder: str = "") -> str:
    """The path of a delivery, or of a folder in it, below the landing root.

    Raises:
        DeliveryNameError: `delivery` is not the name of a delivery.
    """
    parse_name(delivery)
    return "/".join(filter(None, (contract.source, delivery, folder)))


def discover(landing: DataLake, contract: Contract, *, start_after: str = "") -> tuple[list[str], list[str]]:
    """The deliveries in the landing zone, oldest first, and the names of other folders there.

    On S3 that is one request for each 1,000 names after `start_after`; the files in them aren't listed.
    """
    folders = landing.list(contract.source, start_after=start_after).folders
    return [name for name in folders if is_name(name)], [name for name in folders if not is_name(name)]


@dataclass(frozen=True)
class DeliveryFiles:
    """What a delivery held when it was listed.

    Attributes:
        delivery: its name.
        files: for each folder of the contract, the Parquet files in it.
        other_files: files that the contract doesn't provide for. Marks aren't among them: `_SUCCESS`, `_metadata`,
            checksums (`.crc`) and other names that begin with `_` or `.`, and empty files that aren't
            `<folder>/*.parquet`.
    """

    delivery: str
    files: dict[str, tuple[FileInfo, ...]]
    other_files: tuple[FileInfo, ...] = ()

    @cached_property
    def others(self) -> tuple[str, ...]:
        """The paths of the other files, relative to the delivery."""
        return tuple(file.path.partition(f"/{self.delivery}/")[2] for file in self.other_files)

    @property
    def missing(self) -> tuple[str, ...]:
        """The folders without a Parquet file."""
        return tuple(folder for folder, files in self.files.items() if not files)

    @cached_property
    def all_files(self) -> tuple[FileInfo, ...]:
        """All Parquet files."""
        return tuple(file for files in self.files.values() for file in files)

    @property
    def exists(self) -> bool:
        """Whether there is any file at all."""
        return bool(self.all_files or self.other_files)

    @property
    def size(self) -> int:
        """The size of all Parquet files together, bytes."""
        return sum(file.size for file in self.all_files)

    @cached_property
    def fingerprint(self) -> str:
        """A digest that changes when a file is added, removed or written again."""
        digest = hashlib.sha256()
        for file in self.all_files:
            line = f"{file.path}\0{file.size}\0{file.etag or file.modified.isoformat()}\n"
            digest.update(line.encode(errors="surrogateescape"))  # a name in a folder may hold bytes that are no text
        return digest.hexdigest()[:16]

    def quiet_for(self, now: datetime) -> float:
        """For how many seconds nothing in it has changed; infinite for an empty one."""
        return min(((now - file.modified).total_seconds() for file in self.all_files), default=float("inf"))


def list_delivery(landing: DataLake, contract: Contract, delivery: str) -> DeliveryFiles:
    """List a delivery's files: on S3 one request for each 1,000 files.

    Raises:
        DeliveryNameError: `delivery` is not the name of a delivery.
        LakeError: a folder in it can't be listed.
    """
    root = delivery_path(contract, delivery)
    files: dict[str, list[FileInfo]] = {folder.name: [] for folder in contract.folders}
    others: list[FileInfo] = []
    for file in landing.walk(root):
        folder, _, name = file.path.removeprefix(f"{root}/").partition("/")
        if folder in files and name.endswith(".parquet") and not name.startswith(("_", ".")) and "/" not in name:
            files[folder].append(file)
        elif file.size and not file.name.startswith(("_", ".")) and not file.name.endswith(".crc"):
            others.append(file)
    return DeliveryFiles(delivery, {folder: tuple(found) for folder, found in files.items()}, tuple(others))


def require_delivery(landing: DataLake, contract: Contract, delivery: str) -> DeliveryFiles:
    """List a delivery that must be there.

    Raises:
        DeliveryNameError: `delivery` is not the name of a delivery, or there is no such folder.
    """
    files = list_delivery(landing, contract, delivery)
    if not files.exists and delivery not in landing.list(contract.source).folders:
        raise DeliveryNameError(
            f"delivery {delivery}",
            expected=f"a folder at {landing.uri(delivery_path(contract, delivery))}",
            found="none",
            hint="`biocloud deliveries` lists the deliveries that are there.",
        )
    return files
