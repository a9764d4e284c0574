"""What is exported, as data: DAGs, their tasks, and what becomes of every Dagster definition.

What belongs here: the words of the export and their rules. What doesn't: where it comes from (`collect`), and what it
looks like (`render`).
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

DEFAULT_BRANCH = "main"
"""The branch for which the committed export is made, and the only one that goes to production."""

EXPORT_ROOT = Path("airflow_export")
"""The folder of the committed export, below which each environment has one."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,200}$", description="an id as Airflow takes it")]
Uri = Annotated[str, Field(pattern=r"^(s3|file)://[^/]*/.*[^/]$", description="no trailing slash: Airflow cuts it off")]
Branch = Annotated[str, Field(pattern=r"^[\w./+#@-]+$")]
Seconds = Annotated[float, Field(ge=0)]

_SECRET = re.compile(r"\{\{secrets/[^/{}]+/[^/{}]+\}\}")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Param(_Part):
    """What a run can be given.

    Attributes:
        name: how it is called.
        pattern: a regular expression that a value must match as a whole.
        description: for the form.
        default: what it is if it isn't given; none for a run that can't do without.
        optional: whether a run may have none, and finds a value itself.
    """

    name: Name
    pattern: str
    description: str
    default: str | None = None
    optional: bool = False


class RunDate(_Part):
    """The day that a run is about, if it isn't given.

    Attributes:
        timezone: where it is that day.
        days_before: how many days it lies before the day of the run.
    """

    timezone: str
    days_before: Annotated[int, Field(ge=0, le=31)]


class Schedule(_Part):
    """When a DAG runs.

    Attributes:
        cron: five fields.
        timezone: in which they are read.
        paused: whether it waits, at first, for someone to switch it on.
    """

    cron: Annotated[str, Field(pattern=r"^\S+( \S+){4}$")]
    timezone: str = "UTC"
    paused: bool


class Task(_Part):
    """One operator: a run on Databricks.

    Attributes:
        name: the task's id, the name of the Dagster op.
        description: what it does.
        script: the path in the repository of what it runs.
        arguments: what the script is given; Airflow's templates stand in them.
        libraries: packages with their versions.
        variables: the cluster's environment variables besides those of the environment.
        upstream: the tasks that must have succeeded before.
        retries: how many tries there are after the first.
        retry_delay: before the first retry, in seconds.
        exponential: whether the delay doubles, with jitter.
        one_at_a_time: whether only one of all runs may be at it, as the Dagster pool has it.
        inlets: the addresses of the assets that it reads.
        outlets: the addresses of the assets that it makes.
    """

    name: Name
    description: str
    script: str
    arguments: tuple[str, ...]
    libraries: tuple[str, ...]
    variables: dict[str, str] = {}
    upstream: tuple[Name, ...] = ()
    retries: Annotated[int, Field(ge=0)] = 0
    retry_delay: Seconds = 0
    exponential: bool = False
    one_at_a_time: bool = False
    inlets: tuple[Uri, ...] = ()
    outlets: tuple[Uri, ...] = ()

    @model_validator(mode="after")
    def _no_secret(self) -> Task:
        for name, value in self.variables.items():
            if re.search(r"TOKEN|SECRET|PASSWORD|CREDENTIAL", name) and not _SECRET.fullmatch(value):
                raise ValueError(f"the variable {name} of {self.name} to be a reference, {{{{secrets/<scope>/<key>}}}}")
        return self


class JobDag(_Part):
    """The DAG of one Dagster job."""

    name: Name
    description: str
    owner: str
    lineage: str
    docs: str
    tags: tuple[str, ...]
    params: tuple[Param, ...]
    run_date: RunDate | None = None
    schedule: Schedule | None = None
    paused: bool
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _connected(self) -> JobDag:
        names = Counter(task.name for task in self.tasks)
        repeated = [name for name, count in names.items() if count > 1]
        if repeated:
            raise ValueError(f"one task of a name in {self.name}, not two of {', '.join(repeated)}")
        unknown = {name for task in self.tasks for name in task.upstream} - set(names)
        if unknown:
            raise ValueError(f"the tasks {', '.join(sorted(unknown))} in {self.name}, on which others depend")
        return self


class Dispatcher(_Part):
    """The DAG of a sensor: it looks for deliveries and starts a run of another DAG for each.

    Attributes:
        name: the DAG's id, the name of the sensor.
        starts: the DAG that it starts.
        schedule: when it looks; none if Airflow isn't in charge.
        landing: the bucket and the prefix below which deliveries lie, without a slash at its end.
        log: the bucket and the prefix of the delivery log's Delta table.
        column: the log's partition column with the delivery.
        folders: what a complete delivery holds.
        lookback_days: how many days before the newest ingested delivery late ones are looked for.
        quiet_seconds: for how long nothing in a delivery may have changed.
        most: how many runs are started at once.
    """

    name: Name
    description: str
    owner: str
    docs: str
    tags: tuple[str, ...]
    starts: Name
    schedule: Schedule | None
    landing: tuple[str, str]
    log: tuple[str, str]
    column: str
    folders: Annotated[tuple[str, ...], Field(min_length=1)]
    lookback_days: Annotated[int, Field(ge=0)]
    quiet_seconds: Seconds
    most: Annotated[int, Field(ge=1, le=1000)]  # Airflow's own limit for mapped tasks is 1024


class Row(_Part):
    """What became of a Dagster definition: its counterpart, or the reason why there is none."""

    kind: str
    name: str
    counterpart: str = ""
    reason: str = ""

    @model_validator(mode="after")
    def _something(self) -> Row:
        if not self.counterpart and not self.reason:
            raise ValueError(f"a counterpart of the {self.kind} {self.name}, or a reason why there is none")
        return self


class Export(_Part):
    """All of it, for one environment.

    Attributes:
        environment: which.
        branch: the branch whose code runs.
        git: `git_source` without its branch.
        cluster: `new_cluster`.
        timeout_seconds: how long a run on Databricks may take.
        start_timeout_seconds: how long it may wait for its cluster.
        poll_seconds: the pause between two looks at a run.
    """

    environment: Literal["development", "production"]
    branch: Branch
    git: dict[str, str]
    cluster: dict[str, Any]
    timeout_seconds: int
    start_timeout_seconds: int
    poll_seconds: float
    jobs: tuple[JobDag, ...]
    dispatchers: tuple[Dispatcher, ...]
    rows: tuple[Row, ...]
