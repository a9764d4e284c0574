"""Earlier runs for the same data: whether a sensor may request another one."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from biocloud_assets.launch.launcher import FAILED, INFRASTRUCTURE, OUTCOME_TAG, REFUSED

MAX_ATTEMPTS = 3
"""How many runs a sensor requests for the same data that fail without a reason, for example because they are killed."""

PAUSE = timedelta(minutes=10)
"""The pause after the first such run; it grows by the same with each further one."""

MAX_RUNS_PER_DAY = 4
"""How many runs for the same data there are within a day if the infrastructure fails each, after its own retries."""

INFRASTRUCTURE_PAUSE = timedelta(hours=1)
"""The pause after such a run."""


@dataclass(frozen=True)
class Attempts:
    """The runs for one state of some data.

    Attributes:
        records: the runs; the tag `OUTCOME_TAG` of each says how it failed.
    """

    records: Sequence[dg.RunRecord]

    @property
    def count(self) -> int:
        """How many runs there were, also those that were never launched: the next run's key is made of it."""
        return len(self.records)

    def reason_to_wait(self, now: datetime) -> str | None:
        """Why no further run is requested now; None if one is.

        Args:
            now: the present time, UTC.
        """
        # A run that was created and never launched holds nothing back.
        launched = [record for record in self.records if record.dagster_run.status != dg.DagsterRunStatus.NOT_STARTED]
        if any(record.dagster_run.tags.get(OUTCOME_TAG) == REFUSED for record in self.records):
            return "refused, and unchanged since"
        if any(not record.dagster_run.is_finished for record in launched):
            return "a run is in progress"
        newest = max(launched, key=lambda record: record.update_timestamp, default=None)
        if newest is not None and newest.dagster_run.tags.get(OUTCOME_TAG) == FAILED:
            return "a run failed, and a repetition can't help; start one by hand when the cause is removed"
        ages: dict[bool, list[timedelta]] = {True: [], False: []}
        for record in launched:
            by_infrastructure = record.dagster_run.tags.get(OUTCOME_TAG) == INFRASTRUCTURE
            ages[by_infrastructure].append(now - record.update_timestamp.replace(tzinfo=UTC))
        if len(ages[False]) >= MAX_ATTEMPTS:
            return f"{len(ages[False])} runs haven't succeeded; start one by hand when the cause is removed"
        if len([age for age in ages[True] if age < timedelta(days=1)]) >= MAX_RUNS_PER_DAY:
            return f"{MAX_RUNS_PER_DAY} runs were failed by the infrastructure within a day"
        too_soon = [age for age in ages[False] if age < PAUSE * len(ages[False])]
        if too_soon or any(age < INFRASTRUCTURE_PAUSE for age in ages[True]):
            return "a run failed a short while ago"
        return None
