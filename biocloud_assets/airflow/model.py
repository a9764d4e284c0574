"""The export as data: DAGs, their tasks, and the mapping of every Dagster definition."""

from __future__ import annotations

from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

DEFAULT_BRANCH = "main"
"""The branch for which the committed export is made, and the only one that is deployed to production."""

EXPORT_ROOT = Path("airflow_export")
"""The folder of the committed export, which holds a folder for each environment."""

BRANCH_PATTERN = r"^[\w./+#@-]+$"
COMMIT_PATTERN = r"^[0-9a-f]{40}$"

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,200}$", description="an identifier that Airflow accepts")]
Uri = Annotated[str, Field(pattern=r"^(s3|file)://[^/]*/.*[^/]$", description="no trailing slash: Airflow cuts it off")]
Branch = Annotated[str, Field(pattern=BRANCH_PATTERN)]
Commit = Annotated[str, Field(pattern=COMMIT_PATTERN)]
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
    """When a DAG runs. It is paused when it is created, so that a person decides when it begins.

    Attributes:
        cron: five fields.
        timezone: the time zone of the fields.
    """

    cron: Annotated[str, Field(pattern=r"^\S+( \S+){4}$")]
    timezone: str = "UTC"


class Task(_Part):
    """One operator: a run on Databricks.

    Attributes:
        name: the task's identifier.
        description: what it does.
        submission: the body of `runs/submit`. Airflow's templates are in `run_name` and in the script's `parameters`;
            everywhere else, `{{` stands for itself.
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
    submission: dict[str, Any]
    upstream: tuple[Name, ...] = ()
    retries: Annotated[int, Field(ge=0)] = 0
    retry_delay: Seconds = 0
    exponential: bool = False
    one_at_a_time: bool = False
    inlets: tuple[Uri, ...] = ()
    outlets: tuple[Uri, ...] = ()

    @property
    def parameters(self) -> list[str]:
        """The arguments of the script."""
        (task,) = self.submission["tasks"]
        return list(task["spark_python_task"]["parameters"])


class JobDag(_Part):
    """The DAG of one Dagster job.

    Attributes:
        name: its identifier, the name of the job.
        description: what it does.
        owner: the owners of its assets.
        lineage: what it makes, in a sentence.
        docs: the address of the page about it.
        tags: for the list of DAGs.
        params: the parameters of a run, besides the branch.
        run_date: how a run computes its date if none is given.
        schedule: when it runs by itself.
        tasks: in topological order.
        dispatched: whether a dispatcher starts its runs, and needs to know which of them may be repeated.
    """

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
    dispatched: bool = False

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
        starts_task: the task of that DAG.
        schedule: when it looks; None if Airflow isn't the scheduler.
        source: the folder below the landing root that holds the deliveries.
        landing: the bucket and the prefix of the landing root; the prefix is empty or ends with a slash.
        markers: the bucket and the prefix of the markers of ingested deliveries; it ends with a slash.
        folders: the folders of a complete delivery.
        not_before: the first day, yyyy-mm-dd, whose deliveries are looked for; "" for all.
        lookback_days: how many days before the newest ingested delivery a late one may be.
        quiet_seconds: for how long nothing in a complete delivery has changed.
        max_listed: of how many deliveries the files are listed in one run.
        max_started: how many runs are started in one run.
        pause_seconds: the pause before a delivery is ingested again whose run failed because of the infrastructure.
        max_runs_per_day: how many such runs of one delivery there are in 24 hours.
    """

    name: Name
    description: str
    owner: str
    docs: str
    tags: tuple[str, ...]
    starts: Name
    starts_task: Name
    schedule: Schedule | None
    source: Name
    landing: tuple[str, str]
    markers: tuple[str, str]
    folders: Annotated[tuple[str, ...], Field(min_length=1)]
    not_before: Annotated[str, Field(pattern=r"^(\d{4}-\d{2}-\d{2})?$")] = ""
    lookback_days: Annotated[int, Field(ge=0)]
    quiet_seconds: Seconds
    max_listed: Annotated[int, Field(ge=1)]
    max_started: Annotated[int, Field(ge=1, le=1000)]  # Airflow maps a task to at most 1024
    pause_seconds: Seconds
    max_runs_per_day: Annotated[int, Field(ge=1)]


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
        commit: the commit whose code runs, instead of the newest one of the branch.
        timeout_seconds: for how long a run on Databricks may run once its cluster has started.
        start_timeout_seconds: for how long it may wait for its cluster.
        poll_seconds: the pause between two requests for the state of a run.
        jobs: the DAGs of jobs.
        dispatchers: the DAGs of sensors.
        mapping: the mapping of every Dagster definition.
    """

    environment: Literal["development", "production"]
    branch: Branch
    commit: Commit | None = None
    timeout_seconds: int
    start_timeout_seconds: int
    poll_seconds: float
    jobs: tuple[JobDag, ...]
    dispatchers: tuple[Dispatcher, ...]
    mapping: tuple[MappingRow, ...]
