"""Earlier runs for the same data: whether a sensor may request another one."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

MAX_ATTEMPTS = 3
"""How many runs a sensor requests for the same data."""

PAUSE = timedelta(minutes=10)
"""The pause after the first failed run; it grows by the same with each further one."""


@dataclass(frozen=True)
class Attempts:
    """The runs for one state of some data.

    Attributes:
        records: the runs.
        refused: whether one of them found that the data breaks its contract.
    """

    records: Sequence[dg.RunRecord]
    refused: bool = False

    @property
    def count(self) -> int:
        """How many runs there were, also those that were never launched: the next run's key is made of it."""
        return len(self.records)

    def reason_to_wait(self, now: datetime) -> str | None:
        """Why no further run is requested now; None if one is.

        Args:
            now: the present time, UTC.
        """
        if self.refused:
            return "refused, and unchanged since"
        # A run that was created and never launched holds nothing back.
        launched = [record for record in self.records if record.dagster_run.status != dg.DagsterRunStatus.NOT_STARTED]
        if any(not record.dagster_run.is_finished for record in launched):
            return "a run is in progress"
        if len(launched) >= MAX_ATTEMPTS:
            return f"{len(launched)} runs haven't succeeded; start one by hand when the cause is removed"
        newest = max((record.update_timestamp.replace(tzinfo=UTC) for record in launched), default=None)
        if newest is not None and now - newest < PAUSE * len(launched):
            return "a run failed a short while ago"
        return None
