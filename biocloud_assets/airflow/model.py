"""The export as data: DAGs, their tasks, and the mapping of every Dagster definition."""

from __future__ import annotations

from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from biocloud_assets.environments import refuse_secrets

DEFAULT_BRANCH = "main"
"""The branch for which the committed export is made, and the only one that is deployed to production."""

EXPORT_ROOT = Path("airflow_export")
"""The folder of the committed export, which holds a folder for each environment."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,200}$", description="an identifier that Airflow accepts")]
Uri = Annotated[str, Field(pattern=r"^(s3|file)://[^/]*/.*[^/]$", description="no trailing slash: Airflow cuts it off")]
Branch = Annotated[str, Field(pattern=r"^[\w./+#@-]+$")]
Seconds = Annotated[float, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Param(_Part):
    """A parameter of a DAG's run.

    Attributes:
        name: its name.
        pattern: a regular expression that the whole value must match.
        description: for the form in the UI.
        optional: whether a run without a value computes one; otherwise a run needs a value.
    """

    name: Name
    pattern: str
    description: str
    optional: bool = False


class RunDate(_Part):
    """How a run computes its date if none is given.

    Attributes:
        timezone: the time zone of the day.
        days_before: how many days it is before the day of the run.
    """

    timezone: str
    days_before: Annotated[int, Field(ge=0, le=31)]


class Schedule(_Part):
    """When a DAG runs.

    Attributes:
        cron: five fields.
        timezone: the time zone of the fields.
        paused: whether the DAG is paused when it is created.
    """

    cron: Annotated[str, Field(pattern=r"^\S+( \S+){4}$")]
    timezone: str = "UTC"
    paused: bool


class Task(_Part):
    """One operator: a run on Databricks.

    Attributes:
        name: the task's identifier.
        description: what it does.
        script: the path in the repository of the script that it runs.
        arguments: the arguments of the script, with Airflow's templates.
        libraries: packages with their versions.
        variables: environment variables of the cluster besides those of the environment.
        upstream: the tasks that must have succeeded before.
        retries: how many tries follow the first one.
        retry_delay: the pause before the first retry, seconds.
        exponential: whether the pause doubles with each retry, with jitter.
        one_at_a_time: whether tasks of different runs exclude each other.
        inlets: the URIs of the assets that it reads.
        outlets: the URIs of the assets that it writes.
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
        refuse_secrets(f"task {self.name}", self.variables)
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
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _is_a_graph(self) -> JobDag:
        names = Counter(task.name for task in self.tasks)
        repeated = [name for name, count in names.items() if count > 1]
        if repeated:
            raise ValueError(f"one task of each name in {self.name}, not two of {', '.join(repeated)}")
        unknown = {name for task in self.tasks for name in task.upstream} - set(names)
        if unknown:
            raise ValueError(f"the upstream tasks {', '.join(sorted(unknown))} in {self.name}")
        try:
            TopologicalSorter({task.name: task.upstream for task in self.tasks}).prepare()
        except CycleError as error:
            raise ValueError(f"tasks of {self.name} without a cycle, not {' > '.join(error.args[1])}") from None
        return self


class Dispatcher(_Part):
    """The DAG of a sensor: it looks for new deliveries of a source, and starts a run of another DAG for each.

    Attributes:
        name: the DAG's identifier, the name of the sensor.
        starts: the DAG that it starts.
        schedule: when it looks; None if Airflow isn't the scheduler.
        source: the folder below the landing root that holds the deliveries.
        landing: the bucket and the prefix of the landing root; the prefix is empty or ends with a slash.
        markers: the bucket and the prefix of the markers of ingested deliveries; it ends with a slash.
        folders: the folders of a complete delivery.
        lookback_days: how many days before the newest ingested delivery a late one may be.
        quiet_seconds: for how long nothing in a complete delivery has changed.
        max_listed: of how many deliveries the files are listed in one run.
        max_started: how many runs are started in one run.
    """

    name: Name
    description: str
    owner: str
    docs: str
    tags: tuple[str, ...]
    starts: Name
    schedule: Schedule | None
    source: Name
    landing: tuple[str, str]
    markers: tuple[str, str]
    folders: Annotated[tuple[str, ...], Field(min_length=1)]
    lookback_days: Annotated[int, Field(ge=0)]
    quiet_seconds: Seconds
    max_listed: Annotated[int, Field(ge=1)]
    max_started: Annotated[int, Field(ge=1, le=1000)]  # Airflow maps a task to at most 1024


class MappingRow(_Part):
    """The counterpart of a Dagster definition in Airflow, or the reason why there is none."""

    kind: str
    name: str
    counterpart: str = ""
    reason: str = ""

    @model_validator(mode="after")
    def _not_empty(self) -> MappingRow:
        if not self.counterpart and not self.reason:
            raise ValueError(f"a counterpart of the {self.kind} {self.name}, or a reason why there is none")
        return self


class Export(_Part):
    """Everything that is exported for one environment.

    Attributes:
        environment: its name.
        branch: the branch whose code runs.
        git: `git_source` without the branch.
        cluster: `new_cluster`.
        timeout_seconds: for how long a run on Databricks may run once its cluster has started.
        start_timeout_seconds: for how long it may wait for its cluster.
        poll_seconds: the pause between two requests for the state of a run.
        jobs: the DAGs of jobs.
        dispatchers: the DAGs of sensors.
        mapping: the mapping of every Dagster definition.
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
    mapping: tuple[MappingRow, ...]
