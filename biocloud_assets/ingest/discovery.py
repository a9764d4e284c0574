"""Which deliveries are there, and in which state: the same rules for sensors, the command line and Airflow.

A delivery is complete when each folder of the contract holds at least one Parquet file and nothing in it has changed
for a quiet time. One that is older than the look-back window is left to a person, who ingests it by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from biocloud_assets.ingest.delivery import DeliveryFiles, format_name, list_delivery, window_start
from biocloud_assets.lake import DataLake
from biocloud_assets.schema import Contract

_LISTINGS = 8
"""How many deliveries are listed at the same time; a listing mostly waits for S3."""


@dataclass(frozen=True)
class Arrival:
    """How far a delivery has arrived.

    Attributes:
        files: what it held when it was listed.
        incomplete: why it isn't complete; None if it is.
    """

    files: DeliveryFiles
    incomplete: str | None

    @property
    def delivery(self) -> str:
        """The delivery's name."""
        return self.files.delivery


def arrival(files: DeliveryFiles, *, now: datetime, quiet_seconds: float) -> Arrival:
    """How far a delivery has arrived.

    Args:
        files: what it holds.
        now: the present time, UTC.
        quiet_seconds: for how long nothing in it may have changed.
    """
    if files.missing:
        return Arrival(files, f"arriving: {', '.join(files.missing)} still missing")
    if files.quiet_for(now) < quiet_seconds:
        return Arrival(files, f"arriving: changed less than {quiet_seconds:g} seconds ago")
    return Arrival(files, None)


def list_arrivals(
    landing: DataLake, contract: Contract, deliveries: Iterable[str], *, quiet_seconds: float
) -> Iterator[Arrival]:
    """List deliveries, several at a time, in the given order: on S3 one request for each 1,000 files of a delivery."""
    with ThreadPoolExecutor(_LISTINGS, thread_name_prefix="list") as pool:
        for files in pool.map(partial(list_delivery, landing, contract), deliveries):
            yield arrival(files, now=datetime.now(UTC), quiet_seconds=quiet_seconds)


def lookback_start(settled: Iterable[str], lookback_days: int) -> str:
    """The name after which deliveries are looked for: the look-back window before the newest settled delivery.

    Args:
        settled: the names of the deliveries that need no further attention, such as those that are ingested.
        lookback_days: how many days before the newest one a late delivery may be.

    Returns:
        the name, or "" if nothing is settled. A delivery that is named after a future day doesn't move the window past
        today.
    """
    newest = max(settled, default="")
    return window_start(min(newest, format_name(datetime.now(UTC))), lookback_days) if newest else ""
