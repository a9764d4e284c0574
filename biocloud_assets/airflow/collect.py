"""From the Dagster definitions to the model: what each becomes in Airflow, or why it becomes nothing.

What belongs here: reading the definitions, and a disposition for every one of them. What doesn't: how a DAG file looks
(`render`). It is the one module of the export that imports Dagster.

A task's place in the graph is that of its step in Dagster's own execution plan, so that whatever makes a step wait for
another (data, a blocking check) does so in Airflow too.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NoReturn

import dagster as dg
from dagster._core.execution.api import create_execution_plan
from dagster._core.execution.plan.step import ExecutionStep
from pydantic import ValidationError

from biocloud_assets.airflow.model import Dispatcher, Export, JobDag, Param, Row, RunDate, Schedule, Task
from biocloud_assets.environments import Environment, pinned
from biocloud_assets.errors import ExportError
from biocloud_assets.launch.script import ARGUMENTS_TAG, LIBRARIES_TAG, NOT_IN_AIRFLOW, SCRIPT_TAG, VARIABLES_TAG
from biocloud_assets.raw.dsi import delivery
from biocloud_assets.raw.dsi.contract import DELIVERY_COLUMN, FOLDERS, LOG
from biocloud_assets.raw.dsi.partitions import deliveries
from biocloud_assets.run_step import SCRIPT, Step
from biocloud_assets.settings import Settings

EnvironmentName = Literal["development", "production"]

_DELIVERY = "{{ params.delivery }}"
_RUN_DATE = "{{ params.run_date or run_date(dag_run) }}"
_RUN_ID = "{{ run_id }}"

_DELIVERY_PARAM = Param(
    name="delivery",
    pattern=r"^\d{4}-\d{2}-\d{2}-\d{2}:\d{2}:\d{2}$",
    description="The delivery, yyyy-mm-dd-HH:MM:SS: the name of its folder in the landing zone.",
)
_RUN_DATE_PARAM = Param(
    name="run_date",
    pattern=r"^\d{4}-\d{2}-\d{2}$",
    description="The day, yyyy-mm-dd; without one, the day that the schedule stands for.",
    optional=True,
)

# A run of Airflow's takes a scheduler and a worker, where a tick of Dagster's is a call: it looks less often.
_SHORTEST_INTERVAL_MINUTES = 5
_RUNS_PER_TICK = 20

_RESOURCES = {
    "lakehouse": "the arguments `--landing-root`, `--lake-root`, `--curated-root`, `--catalog` and `--days` of a task",
    "step_launcher": "`DatabricksSubmitRunOperator` with the connection `databricks_default`",
}
_EXECUTORS = {
    "in_process": "Airflow's own executor; the tasks do nothing but wait for Databricks",
    "multiprocess": "Airflow's own executor; the tasks do nothing but wait for Databricks",
}


def build_definitions(name: EnvironmentName) -> tuple[dg.Definitions, Settings]:
    """The definitions of an environment, and its settings: those of the environments' file and nothing local."""
    from biocloud_assets.definitions import build_definitions as build

    defaults = Settings.model_fields
    settings = Settings(
        env=name,
        # From the file, whatever the process that exports has in its environment: the same everywhere.
        landing_root=None,
        lake_root=None,
        curated_root=None,
        in_charge="dagster",  # to see what is on and off where Dagster starts the runs: so it is to be in Airflow
        curated_days=defaults["curated_days"].default,
        launcher="none",
        engine="databricks",
        lookback_days=defaults["lookback_days"].default,
        quiet_seconds=defaults["quiet_seconds"].default,
    )
    return build(settings), settings


def collect(
    definitions: dg.Definitions,
    settings: Settings,
    *,
    branch: str,
    lock: Path = Path("uv.lock"),
) -> Export:
    """Everything that is exported, of all definitions.

    Args:
        definitions: those of the environment.
        settings: those that they were made with.
        branch: the branch whose code the DAGs run.
        lock: the file uv.lock.

    Raises:
        ExportError: a definition has no counterpart in Airflow, and doesn't say why; all of these are named.
        SettingsError: a library is not in uv.lock.
    """
    try:
        return _Collector(definitions, settings, lock).export(branch)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise _cannot("the Dagster definitions", "values that fit into a DAG", "; ".join(faults)) from None


def asset_uri(environment: Environment, address: str) -> str:
    """The URI by which Airflow knows an asset: where it lies, without a slash at the end.

    Args:
        environment: whose landing zone and lake.
        address: `raw/dsi/sensor`. What lies in the landing zone or the curated folder has a root of its own.
    """
    head, _, rest = address.partition("/")
    roots = {"landing": environment.landing_root, "curated": environment.curated_root}
    root = roots.get(head, f"{environment.lake_root.rstrip('/')}/{head}").rstrip("/")
    return f"{root if '://' in root else f'file://{root}'}/{rest}"


def _cannot(thing: str, expected: str, found: str) -> NoReturn:
    raise ExportError(
        thing,
        expected=expected,
        found=found,
        hint="Teach biocloud_assets/airflow/collect.py what it becomes in Airflow, or say in its metadata, "
        f"`{NOT_IN_AIRFLOW}`, why it becomes nothing.",
    )


@dataclass
class _Collector:
    definitions: dg.Definitions
    settings: Settings
    lock: Path

    def __post_init__(self) -> None:
        self.repository = self.definitions.get_repository_def()
        self.graph = self.repository.asset_graph
        self.environment = self.settings.environment
        self.name: EnvironmentName = self.settings.env  # type: ignore[assignment]  # never local
        self.rows: list[Row] = []
        self.homeless: list[str] = []
        self.shared_pools: set[str] = set()
        self.airflow_rules = self.environment.in_charge == "airflow"

    @cached_property
    def jobs(self) -> list[dg.JobDefinition]:
        """The jobs that are written by hand, in order; Dagster adds some of its own."""
        return sorted(
            (job for job in self.repository.get_all_jobs() if not job.name.startswith("__")), key=lambda job: job.name
        )

    @cached_property
    def ops_of_pool(self) -> dict[str, set[tuple[str, str]]]:
        """Which ops, of which jobs, share a pool."""
        found: dict[str, set[tuple[str, str]]] = defaultdict(set)
        for job in self.jobs:
            for step in _steps(job):
                if step.pool:
                    found[step.pool].add((job.name, str(step.node_handle)))
        return found

    def export(self, branch: str) -> Export:
        jobs = tuple(self.job(job) for job in self.jobs)
        dispatchers = tuple(self.sensors())
        self.schedules()
        self.assets()
        self.resources()
        if self.homeless:
            _cannot(
                "the Dagster definitions",
                "a counterpart in Airflow for each, or the reason why there is none",
                "\n".join(["", *(f"  - {thing}" for thing in self.homeless), ""]),
            )
        new_cluster = self.environment.new_cluster()
        git = {"git_url": self.environment.git.url, "git_provider": self.environment.git.provider}
        return Export(
            environment=self.name,
            branch=branch,
            git=git,
            cluster=new_cluster,
            timeout_seconds=self.environment.timeout_seconds,
            start_timeout_seconds=self.environment.start_timeout_seconds,
            poll_seconds=self.environment.poll_seconds,
            jobs=jobs,
            dispatchers=dispatchers,
            rows=tuple(self.rows),
        )

    def row(self, kind: str, name: str, counterpart: str = "", reason: str = "") -> None:
        self.rows.append(Row(kind=kind, name=name, counterpart=counterpart, reason=reason))

    def excused(self, kind: str, name: str, metadata: Mapping[str, Any]) -> bool:
        """Whether a definition says itself why it isn't in Airflow."""
        reason = metadata.get(NOT_IN_AIRFLOW)
        if reason is None:
            return False
        self.row(kind, name, reason=str(getattr(reason, "value", reason)))
        return True

    # --- jobs, ops, policies ---

    def job(self, job: dg.JobDefinition) -> JobDag:
        params, run_date = self.partitions(job)
        schedule = self.schedule_of(job)
        steps = _steps(job)
        names = {step.key: step.node_handle.name for step in steps}
        tasks = tuple(self.task(job, step, names, params) for step in steps)
        assets = [key for step in steps for key in _assets(step)]
        owners = sorted({owner for key in assets for owner in self.graph.get(key).owners})
        domains = sorted({key.path[-2] for key in assets if len(key.path) > 2})
        self.row("job", job.name, f"DAG `{job.name}`")
        self.row(
            "executor",
            f"{job.executor_def.name} of {job.name}",
            _EXECUTORS.get(job.executor_def.name) or self.unknown(f"executor {job.executor_def.name} of {job.name}"),
        )
        return JobDag(
            name=job.name,
            description=job.description or "",
            owner=", ".join(owner.removeprefix("team:") for owner in owners) or "biocloud",
            lineage=f"makes {', '.join(sorted(key.to_user_string() for key in assets))}" if assets else "no assets",
            docs=self.docs(assets, job.name),
            tags=("biocloud", "generated", self.name, *domains),
            params=tuple(params),
            run_date=run_date,
            schedule=schedule,
            paused=schedule is not None and schedule.paused,
            tasks=tasks,
        )

    def docs(self, assets: Iterable[dg.AssetKey], job: str) -> str:
        """The page about a job, in the repository's web view."""
        pages = {f"docs/data-architecture/{'/'.join(key.path[:2])}.md" for key in assets}
        existing = sorted(page for page in pages if (self.lock.parent / page).is_file())
        page = existing[0] if existing else "docs/airflow.md"
        return f"{self.environment.git.url.removesuffix('.git')}/-/blob/HEAD/{page}"

    def task(self, job: dg.JobDefinition, step: ExecutionStep, names: Mapping[str, str], params: list[Param]) -> Task:
        handle = step.node_handle
        op = job.graph.get_node(handle).definition
        label = f"op {handle} of {job.name}"
        assets = _assets(step)
        checks = _checks(step)
        tags = dict(op.tags)
        variables: dict[str, str] = {}
        libraries = list(self.environment.libraries)
        if SCRIPT_TAG in tags:
            script = tags[SCRIPT_TAG]
            arguments = self.fill(label, json.loads(tags[ARGUMENTS_TAG]), params)
            libraries = sorted({*libraries, *json.loads(tags[LIBRARIES_TAG])})
            variables = json.loads(tags[VARIABLES_TAG]).get(self.name, {})
        elif assets or checks:
            script = SCRIPT
            # A step that makes assets makes their checks with them.
            addresses = tuple(key.to_user_string() for key in assets)
            checked = () if assets else tuple(dict.fromkeys(key.asset_key.to_user_string() for key in checks))
            given = {param.name for param in params}
            step_ = Step(
                addresses,
                checked,
                delivery=_DELIVERY if "delivery" in given else None,
                run_date=_RUN_DATE if "run_date" in given else None,
            )
            arguments = [*step_.arguments(), *self.place()]
        else:
            script, arguments = SCRIPT, []
            self.unknown(f"{label}: it makes and checks no asset, and has no tag {SCRIPT_TAG}")
        reads = sorted({parent for key in assets for parent in self.graph.get(key).parent_keys} - set(assets))
        self.row("op", f"{handle} of {job.name}", f"task `{handle.name}` of DAG `{job.name}`")
        retries = self.retries(job, op, handle, label)
        return Task(
            name=handle.name,
            description=self.purpose(op, assets),
            script=script,
            arguments=tuple(arguments),
            libraries=tuple(pinned(libraries, self.lock)),
            variables=variables,
            upstream=tuple(sorted(names[key] for key in step.get_execution_dependency_keys())),
            one_at_a_time=self.pool(job, step, label),
            inlets=tuple(asset_uri(self.environment, key.to_user_string()) for key in reads),
            outlets=tuple(asset_uri(self.environment, key.to_user_string()) for key in assets),
            **retries,
        )

    def purpose(self, op: Any, assets: list[dg.AssetKey]) -> str:
        """What an op does: the first paragraph of what it, or else its assets, say."""
        text = op.description or " ".join(self.graph.get(key).description or "" for key in assets)
        return " ".join(text.strip().partition("\n\n")[0].split())

    def place(self) -> list[str]:
        """Where a step finds its data, and who asks for it."""
        environment = self.environment
        where = ["--landing-root", environment.landing_root, "--lake-root", environment.lake_root]
        where += ["--curated-root", environment.curated_root, "--days", str(self.settings.curated_days)]
        where += ["--catalog", environment.catalog] if environment.catalog is not None else []
        return [*where, "--orchestrator", "airflow", "--run-id", _RUN_ID]

    def fill(self, label: str, arguments: list[str], params: list[Param]) -> list[str]:
        """The arguments of a script with values for what stands in braces."""
        given = {param.name for param in params}
        values = {
            "environment": self.name,
            "landing_root": self.environment.landing_root,
            "lake_root": self.environment.lake_root,
            "curated_root": self.environment.curated_root,
            "catalog": self.environment.catalog or "",
            "run_id": _RUN_ID,
            **({"delivery": _DELIVERY} if "delivery" in given else {}),
            **({"run_date": _RUN_DATE} if "run_date" in given else {}),
        }
        try:
            return [argument.format_map(values) for argument in arguments]
        except KeyError as error:
            _cannot(
                f"{label}, tag {ARGUMENTS_TAG}", ", ".join(f"{{{name}}}" for name in values), f"{{{error.args[0]}}}"
            )

    def retries(self, job: dg.JobDefinition, op: Any, handle: Any, label: str) -> dict[str, Any]:
        policy: dg.RetryPolicy | None = job.get_retry_policy_for_handle(handle)
        name = f"{handle} of {job.name}"
        if policy is None:
            self.row("retry policy", f"none for {name}", "`retries=0`")
            return {}
        if policy.backoff == dg.Backoff.LINEAR:
            self.unknown(f"{label}: a retry policy with linear back-off, which Airflow doesn't have")
        exponential = policy.backoff == dg.Backoff.EXPONENTIAL
        delay = policy.delay or 0
        text = f"`retries={policy.max_retries}`, `retry_delay` {delay:g} s"
        reason = ""
        if exponential:
            text += ", `retry_exponential_backoff`, with Airflow's own jitter"
        elif policy.jitter is not None:
            reason = "Airflow has jitter only with exponential back-off"
        self.row("retry policy", name, text, reason)
        return {"retries": policy.max_retries, "retry_delay": delay, "exponential": exponential}

    def pool(self, job: dg.JobDefinition, step: ExecutionStep, label: str) -> bool:
        """Whether an op has a pool; one that the ops of several jobs share has no counterpart."""
        if not step.pool:
            return False
        others = self.ops_of_pool[step.pool] - {(job.name, str(step.node_handle))}
        if others:
            if any(name != job.name for name, _ in others):
                shared = ", ".join(f"{handle} of {name}" for name, handle in sorted(others))
                self.unknown(f"{label}: the pool {step.pool}, which it shares with {shared}")
            elif step.pool not in self.shared_pools:
                self.shared_pools.add(step.pool)
                self.row("pool", step.pool, f"`max_active_runs=1` of DAG `{job.name}`, whose tasks share it")
            return True
        self.row(
            "pool",
            step.pool,
            f"`max_active_tis_per_dag=1` of `{step.node_handle.name}`",
            "Not a pool of Airflow's: one that nobody has made keeps its tasks waiting for ever",
        )
        return True

    def partitions(self, job: dg.JobDefinition) -> tuple[list[Param], RunDate | None]:
        partitions = job.partitions_def
        match partitions:
            case None:
                return [], None
            case dg.DynamicPartitionsDefinition() if partitions.name == deliveries.name:
                self.row("partitions definition", f"{partitions.name} of {job.name}", "parameter `delivery`, validated")
                return [_DELIVERY_PARAM], None
            case dg.DailyPartitionsDefinition():
                # The newest partition that there is at a time, as Dagster's own schedules of partitioned jobs have it.
                run_date = RunDate(timezone=str(partitions.timezone), days_before=max(0, 1 - partitions.end_offset))
                self.row(
                    "partitions definition",
                    f"daily, of {job.name}",
                    f"parameter `run_date`, validated; by default the day {run_date.days_before} before the run's",
                )
                return [_RUN_DATE_PARAM], run_date
        self.unknown(f"partitions definition {partitions} of job {job.name}")
        return [], None

    # --- schedules, sensors ---

    def schedule_of(self, job: dg.JobDefinition) -> Schedule | None:
        found = [
            schedule
            for schedule in self.repository.schedule_defs
            if schedule.job_name == job.name and NOT_IN_AIRFLOW not in schedule.metadata
        ]
        if not found or not self.airflow_rules:
            return None
        (schedule,) = found if len(found) == 1 else _cannot(f"job {job.name}", "one schedule", f"{len(found)}")
        if not isinstance(schedule.cron_schedule, str):
            _cannot(f"schedule {schedule.name}", "one cron schedule", str(schedule.cron_schedule))
        return Schedule(
            cron=schedule.cron_schedule,
            timezone=schedule.execution_timezone or "UTC",
            paused=schedule.default_status is dg.DefaultScheduleStatus.STOPPED,
        )

    def schedules(self) -> None:
        for schedule in sorted(self.repository.schedule_defs, key=lambda found: found.name):
            if self.excused("schedule", schedule.name, schedule.metadata):
                continue
            if schedule.job_name not in {job.name for job in self.jobs}:
                self.unknown(f"schedule {schedule.name}: it starts {schedule.job_name}, which is not exported")
            elif not self.airflow_rules:
                self.row("schedule", schedule.name, reason=f"Dagster is in charge of {self.name}: `schedule=None`")
            else:
                paused = schedule.default_status is dg.DefaultScheduleStatus.STOPPED
                self.row(
                    "schedule",
                    schedule.name,
                    f"`{schedule.cron_schedule}`, {schedule.execution_timezone or 'UTC'}, of DAG `{schedule.job_name}`"
                    ", `catchup=False`" + (", paused until someone switches it on, as in Dagster" if paused else ""),
                )

    def sensors(self) -> Iterator[Dispatcher]:
        by_name = {job.name: job for job in self.jobs}
        for sensor in sorted(self.repository.sensor_defs, key=lambda found: found.name):
            if self.excused("sensor", sensor.name, sensor.metadata):
                continue
            starts = [target.job_name for target in sensor.targets]
            job = by_name.get(starts[0]) if len(starts) == 1 else None
            if job is None or getattr(job.partitions_def, "name", None) != deliveries.name:
                self.unknown(f"sensor {sensor.name}: it doesn't start one job for each delivery")
                continue
            for root in (self.environment.landing_root, self.environment.lake_root):
                if not root.startswith("s3://"):
                    _cannot(f"sensor {sensor.name}", "a landing zone and a lake in S3", root)
            minutes = max(_SHORTEST_INTERVAL_MINUTES, -(-(sensor.minimum_interval_seconds or 0) // 60))
            dag = f"DAG `{sensor.name}`"
            if self.airflow_rules:
                self.row("sensor", sensor.name, f"{dag}, every {minutes} minutes")
            else:
                self.row("sensor", sensor.name, dag, f"Dagster is in charge of {self.name}: `schedule=None`")
            yield Dispatcher(
                name=sensor.name,
                description=f"Start {job.name} for each new complete delivery in the landing zone, once.",
                owner="biocloud",
                docs=self.docs(_assets_of(job), job.name),
                tags=("biocloud", "generated", self.name, "dsi"),
                starts=job.name,
                schedule=Schedule(cron=f"*/{minutes} * * * *", paused=False) if self.airflow_rules else None,
                landing=_s3(self.environment.landing_root, delivery.ROOT),
                log=_s3(self.environment.lake_root, LOG.path),
                column=DELIVERY_COLUMN,
                folders=tuple(folder.name for folder in FOLDERS),
                lookback_days=self.settings.lookback_days,
                # Dagster compares two looks; a single one can tell as much by the age of the youngest file.
                quiet_seconds=max(self.settings.quiet_seconds, sensor.minimum_interval_seconds or 0),
                most=_RUNS_PER_TICK,
            )

    # --- assets, checks, resources ---

    def assets(self) -> None:
        where: dict[Any, list[str]] = defaultdict(list)
        for job in self.jobs:
            for step in _steps(job):
                for key in (*_assets(step), *_checks(step)):
                    where[key].append(f"`{step.node_handle.name}` of DAG `{job.name}`")
        for key in sorted(self.graph.get_all_asset_keys()):
            node, name = self.graph.get(key), key.to_user_string()
            if not self.excused("asset", name, node.metadata):
                uri = asset_uri(self.environment, name)
                tasks = self.place_of(where, key, f"asset {name}")
                self.row("asset", name, f"`{uri}`, outlet of {tasks}" if tasks else "", "" if tasks else "unknown")
            if node.freshness_policy is not None:
                self.row(
                    "freshness policy",
                    name,
                    reason="Airflow 2 and 3 have nothing in common for it (SLAs went, deadlines came); Dagster, which "
                    "sees what Airflow ingested, goes on watching it",
                )
            if node.automation_condition is not None and not self.excused("automation condition", name, node.metadata):
                self.unknown(f"automation condition of asset {name}")
        for check in sorted(self.graph.asset_check_keys, key=lambda found: found.to_user_string()):
            name = check.to_user_string()
            tasks = self.place_of(where, check, f"asset check {name}")
            blocking = self.graph.get(check).blocking
            effect = "it fails the task, and what depends on it" if blocking else "in the task's log"
            self.row("asset check", name, f"{tasks}: {effect}" if tasks else "", "" if tasks else "unknown")

    def place_of(self, where: Mapping[Any, list[str]], key: Any, label: str) -> str:
        if key not in where:
            self.unknown(f"{label}: it is in no job")
        return ", ".join(where.get(key, ()))

    def resources(self) -> None:
        for name in sorted(self.repository.get_top_level_resources()):
            if name in _RESOURCES:
                self.row("resource", name, _RESOURCES[name])
            else:
                self.unknown(f"resource {name}")

    def unknown(self, thing: str) -> str:
        """Note a definition without a disposition; all are told at once."""
        self.homeless.append(thing)
        return "unknown"


def _steps(job: dg.JobDefinition) -> list[ExecutionStep]:
    steps = create_execution_plan(job).get_all_steps_in_topo_order()
    return [step for step in steps if isinstance(step, ExecutionStep)]  # a dynamic step is none, and none is there


def _assets(step: ExecutionStep) -> list[dg.AssetKey]:
    return [output.properties.asset_key for output in step.step_outputs if output.properties.asset_key is not None]


def _checks(step: ExecutionStep) -> list[dg.AssetCheckKey]:
    found = (output.properties.asset_check_key for output in step.step_outputs)
    return [key for key in found if key is not None]


def _assets_of(job: dg.JobDefinition) -> list[dg.AssetKey]:
    return [key for step in _steps(job) for key in _assets(step)]


def _s3(root: str, path: str) -> tuple[str, str]:
    """Bucket and prefix of a path below an `s3://` root."""
    bucket, _, prefix = root.removeprefix("s3://").partition("/")
    return bucket, "/".join(filter(None, (prefix.strip("/"), path)))
