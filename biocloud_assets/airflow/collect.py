"""From the Dagster definitions to the model: the counterpart of every definition in Airflow.

The ops of a job that run by `databricks/run_step.py` become one task, so that a run of the job starts one cluster. An
op with the tags of `launch.script` becomes a task of its own. Of the export, only this module imports Dagster.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NoReturn

import dagster as dg

# No public name in Dagster 1.13 gives the steps of a job with their outputs and dependencies.
from dagster._core.execution.api import create_execution_plan
from dagster._core.execution.plan.step import ExecutionStep
from pydantic import ValidationError

from biocloud_assets.airflow.model import Dispatcher, Export, JobDag, MappingRow, Param, RunDate, Schedule, Task
from biocloud_assets.curated.dsi.results import MANIFEST, OBSERVATION, RETENTION
from biocloud_assets.environments import Environment, pinned
from biocloud_assets.errors import ExportError
from biocloud_assets.ingest.delivery_log import markers_path
from biocloud_assets.launch.attempts import INFRASTRUCTURE_PAUSE, MAX_RUNS_PER_DAY
from biocloud_assets.launch.launcher import REMOTE_MAX_RETRIES, REMOTE_RETRY_DELAY_SECONDS
from biocloud_assets.launch.script import ARGUMENTS_TAG, LIBRARIES_TAG, NOT_IN_AIRFLOW, SCRIPT_TAG, SINGLE_NODE_TAG
from biocloud_assets.launch.workspace import GitReference
from biocloud_assets.raw import contract_of
from biocloud_assets.schema import Contract
from biocloud_assets.settings import Settings
from biocloud_assets.steps import STEP_SCRIPT, StepRequest

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
    description="The day, yyyy-mm-dd; without one, the day of the schedule.",
    optional=True,
)

# A run of a DAG needs a scheduler and a worker, so it costs more than a tick of a Dagster sensor.
_SHORTEST_INTERVAL_MINUTES = 5
_LISTED_PER_RUN = 60
_STARTED_PER_RUN = 20

_STEP_RETRIES: dict[str, Any] = {
    "retries": REMOTE_MAX_RETRIES,
    "retry_delay": REMOTE_RETRY_DELAY_SECONDS,
    "exponential": True,
}

_RESOURCES = {
    "lakehouse": "the arguments `--landing-root`, `--lake-root`, `--curated-root` and `--catalog` of a task",
    "step_launcher": "`DatabricksSubmitRunOperator` with the connection `databricks_default`",
}
_EXECUTORS = dict.fromkeys(("in_process", "multiprocess"), "Airflow's executor; the tasks only wait for Databricks")


def build_definitions(name: EnvironmentName) -> tuple[dg.Definitions, Settings]:
    """The definitions of an environment and its settings, from the environments' file and nothing local."""
    from biocloud_assets.definitions import build_definitions as build

    defaults = Settings.model_fields
    settings = Settings(
        env=name,
        # Whatever the exporting process has in its environment, the export is the same.
        landing_root=None,
        lake_root=None,
        curated_root=None,
        catalog=None,
        git_branch=None,
        scheduler_override="dagster",  # shows which schedules are running by default
        retention_days=None,
        launcher="none",
        webhook_url=None,
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
    commit: str | None = None,
    lock: Path = Path("uv.lock"),
) -> Export:
    """The export of all definitions.

    Args:
        definitions: those of the environment.
        settings: those that they were built with.
        branch: the branch whose code the DAGs run.
        commit: the commit whose code they run, instead of the newest one of the branch.
        lock: the file uv.lock.

    Raises:
        ExportError: definitions have no counterpart in Airflow and no reason for it; all of them are named.
        SettingsError: a library is not in uv.lock.
    """
    try:
        return _Collector(definitions, settings, lock, branch, commit).export()
    except ValidationError as error:
        errors = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise _error("the Dagster definitions", "values that fit into a DAG", "; ".join(errors)) from None


def asset_uri(environment: Environment, address: str) -> str:
    """The URI by which Airflow knows an asset: where it is stored, without a slash at the end.

    Args:
        environment: with the roots of the landing zone, the lake and the curated layer.
        address: the asset's address, `raw/dsi/sensor`.
    """
    layer, _, path = address.partition("/")
    roots = {"landing": environment.landing_root, "curated": environment.curated_root}
    root, path = (roots[layer], path) if layer in roots else (environment.lake_root, address)
    return f"{root if '://' in root else f'file://{root}'}".rstrip("/") + f"/{path}"


def _error(thing: str, expected: str, found: str) -> ExportError:
    return ExportError(
        thing,
        expected=expected,
        found=found,
        hint="Add the counterpart to biocloud_assets/airflow/collect.py, or give the definition the metadata "
        f"`{NOT_IN_AIRFLOW}` with the reason why it has none.",
    )


def _fail(thing: str, expected: str, found: str) -> NoReturn:
    raise _error(thing, expected, found)


class _Collector:
    def __init__(
        self, definitions: dg.Definitions, settings: Settings, lock: Path, branch: str, commit: str | None
    ) -> None:
        self.settings, self.lock, self.branch, self.commit = settings, lock, branch, commit
        self.reference = GitReference("branch", branch) if commit is None else GitReference("commit", commit)
        self.repository = definitions.get_repository_def()
        self.graph = self.repository.asset_graph
        self.environment = settings.environment
        assert settings.env != "local"
        self.name: EnvironmentName = settings.env
        self.airflow_schedules = self.environment.scheduler == "airflow"
        self.mapping: list[MappingRow] = []
        self.unmapped: list[str] = []
        self.tasks_of: dict[dg.AssetKey | dg.AssetCheckKey, list[str]] = defaultdict(list)

    @cached_property
    def jobs(self) -> list[dg.JobDefinition]:
        """The jobs by name, without those that Dagster adds."""
        return sorted(
            (job for job in self.repository.get_all_jobs() if not job.name.startswith("__")), key=lambda job: job.name
        )

    def export(self) -> Export:
        jobs = [self.job(job) for job in self.jobs]
        dispatchers = tuple(self.sensors())
        started = {dispatcher.starts for dispatcher in dispatchers}
        self.schedules()
        self.pools()
        self.assets()
        self.resources()
        if self.unmapped:
            _fail(
                "the Dagster definitions",
                "a counterpart in Airflow for each, or the reason why there is none",
                "\n".join(["", *(f"  - {thing}" for thing in self.unmapped), ""]),
            )
        return Export(
            environment=self.name,
            branch=self.branch,
            commit=self.commit,
            timeout_seconds=self.environment.timeout_seconds,
            start_timeout_seconds=self.environment.start_timeout_seconds,
            poll_seconds=self.environment.poll_seconds,
            jobs=tuple(dag.model_copy(update={"dispatched": dag.name in started}) for dag in jobs),
            dispatchers=dispatchers,
            mapping=tuple(self.mapping),
        )

    def add(self, kind: str, name: str, counterpart: str = "", reason: str = "") -> None:
        self.mapping.append(MappingRow(kind=kind, name=name, counterpart=counterpart, reason=reason))

    def is_exempt(self, kind: str, name: str, metadata: Mapping[str, Any]) -> bool:
        """Whether a definition has the reason why it isn't in Airflow."""
        reason = metadata.get(NOT_IN_AIRFLOW)
        if reason is None:
            return False
        self.add(kind, name, reason=str(getattr(reason, "value", reason)))
        return True

    # --- jobs, ops, policies ---

    def job(self, job: dg.JobDefinition) -> JobDag:
        params, run_date = self.partitions(job)
        steps_of_task: dict[str, list[ExecutionStep]] = defaultdict(list)
        steps = _steps(job)
        by_run_step = [step for step in steps if SCRIPT_TAG not in _op(job, step).tags]
        for step in steps:
            merged = step in by_run_step and len(by_run_step) > 1
            steps_of_task[job.name if merged else step.node_handle.name].append(step)
        task_of_step = {step.key: name for name, found in steps_of_task.items() for step in found}
        tasks = []
        for name, found in steps_of_task.items():
            upstream = {task_of_step[key] for step in found for key in step.get_execution_dependency_keys()} - {name}
            tasks.append(self.task(job, name, found, tuple(sorted(upstream)), params))
        assets = _assets(steps)
        owners = sorted({owner for key in assets for owner in self.graph.get(key).owners})
        domains = sorted({key.path[-2] for key in assets if len(key.path) > 2})
        executor = job.executor_def.name
        self.add("job", job.name, f"DAG `{job.name}`")
        if executor not in _EXECUTORS:
            self.unmapped.append(f"executor {executor} of {job.name}")
        self.add("executor", f"{executor} of {job.name}", _EXECUTORS.get(executor, "unmapped"))
        return JobDag(
            name=job.name,
            description=job.description or "",
            owner=", ".join(owner.removeprefix("team:") for owner in owners) or "biocloud",
            lineage=f"makes {', '.join(map(_address, assets))}" if assets else "no assets",
            docs=self.docs(assets),
            tags=("biocloud", "generated", self.name, *domains),
            params=tuple(params),
            run_date=run_date,
            schedule=self.schedule_of(job),
            tasks=tuple(tasks),
        )

    def docs(self, assets: Iterable[dg.AssetKey]) -> str:
        """The page about a job, in the repository's web view."""
        pages = sorted({f"docs/data-architecture/{'/'.join(key.path[:2])}.md" for key in assets})
        page = next((page for page in pages if (self.lock.parent / page).is_file()), "docs/airflow.md")
        return f"{self.environment.git.url.removesuffix('.git')}/-/blob/HEAD/{page}"

    def task(
        self,
        job: dg.JobDefinition,
        name: str,
        steps: list[ExecutionStep],
        upstream: tuple[str, ...],
        params: list[Param],
    ) -> Task:
        """The task of some steps: of one with a script of its own, or of all that run by `run_step`."""
        ops = [_op(job, step) for step in steps]
        assets = _assets(steps)
        environment, libraries = self.environment, list(self.environment.libraries)
        if SCRIPT_TAG in ops[0].tags:
            label, tags = f"op {name} of {job.name}", ops[0].tags
            script = tags[SCRIPT_TAG]
            arguments = self.fill(label, json.loads(tags[ARGUMENTS_TAG]), params)
            libraries = sorted({*libraries, *json.loads(tags[LIBRARIES_TAG])})
            if json.loads(tags[SINGLE_NODE_TAG]):
                environment, libraries = environment.single_node(), json.loads(tags[LIBRARIES_TAG])
            retries = _STEP_RETRIES if script == STEP_SCRIPT else self.retry_policy(job, steps[0], label)
        else:
            script, arguments = STEP_SCRIPT, self.step_arguments(job, steps, params)
            retries = _STEP_RETRIES
        for step in steps:
            self.add("op", f"{step.node_handle} of {job.name}", f"task `{name}` of DAG `{job.name}`")
        keys: list[dg.AssetKey | dg.AssetCheckKey] = [*assets, *_checks(steps)]
        for key in keys:
            self.tasks_of[key].append(f"`{name}` of DAG `{job.name}`")
        reads = {parent for key in assets for parent in self.graph.get(key).parent_keys} - set(assets)
        description = (job if len(steps) > 1 else ops[0]).description or ""
        return Task(
            name=name,
            description=" ".join(description.strip().partition("\n\n")[0].split()),
            submission=environment.submission(
                run_name=" ".join(filter(None, (job.name, name, _partition(params)))) + f" @ {self.reference}",
                git_reference=self.reference.git_source,
                task_key=name,
                script=script,
                parameters=arguments,
                libraries=pinned(libraries, self.lock),
            ),
            upstream=upstream,
            one_at_a_time=any(step.pool for step in steps),
            inlets=tuple(asset_uri(self.environment, address) for address in sorted(map(_address, reads))),
            outlets=tuple(asset_uri(self.environment, _address(key)) for key in assets),
            **retries,
        )

    def step_arguments(self, job: dg.JobDefinition, steps: list[ExecutionStep], params: list[Param]) -> list[str]:
        """The arguments of `run_step` for some steps; `--check` with an asset alone selects all of its checks."""
        assets, checks = [_address(key) for key in _assets(steps)], set(_checks(steps))
        for step in steps:
            addresses = [_address(key) for key in (*_assets([step]), *(check.asset_key for check in _checks([step])))]
            if not addresses or not all(map(_is_known, addresses)):
                self.unmapped.append(
                    f"op {step.node_handle} of {job.name}: {STEP_SCRIPT} can't run it, and it has no tag {SCRIPT_TAG}"
                )
        checked = sorted({key.asset_key for key in checks})
        names = []
        for asset in checked:
            all_checks = {key for key in self.graph.asset_check_keys if key.asset_key == asset}
            some = sorted(f"{_address(asset)}:{key.name}" for key in checks & all_checks)
            names += [_address(asset)] if checks >= all_checks else some
        given = {param.name for param in params}
        request = StepRequest(
            tuple(assets),
            tuple(names),
            delivery=_DELIVERY if "delivery" in given else None,
            run_date=_RUN_DATE if "run_date" in given else None,
            retention_days=self.settings.retention if RETENTION in assets else None,
        )
        environment = self.environment
        locations = environment.locations(environment.landing_root, environment.lake_root, environment.curated_root)
        arguments = [*request.arguments(), *locations]
        arguments += ["--region", environment.region, "--orchestrator", "airflow", "--run-id", _RUN_ID]
        return [f"{option}={value}" for option, value in zip(arguments[::2], arguments[1::2], strict=True)]

    def fill(self, label: str, arguments: list[str], params: list[Param]) -> list[str]:
        """The arguments of a script, with values for the names in braces."""
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
            _fail(f"{label}, tag {ARGUMENTS_TAG}", ", ".join(f"{{{name}}}" for name in values), f"{{{error.args[0]}}}")

    def retry_policy(self, job: dg.JobDefinition, step: ExecutionStep, label: str) -> dict[str, Any]:
        policy: dg.RetryPolicy | None = job.get_retry_policy_for_handle(step.node_handle)
        if policy is None:
            return {}
        if policy.backoff == dg.Backoff.LINEAR:
            self.unmapped.append(f"{label}: a retry policy with linear back-off, which Airflow doesn't have")
        exponential = policy.backoff == dg.Backoff.EXPONENTIAL
        delay = policy.delay or 0
        self.add(
            "retry policy",
            label.removeprefix("op "),
            f"`retries={policy.max_retries}`, `retry_delay` {delay:g} s"
            + (", `retry_exponential_backoff`" if exponential else ""),
        )
        return {"retries": policy.max_retries, "retry_delay": delay, "exponential": exponential}

    def partitions(self, job: dg.JobDefinition) -> tuple[list[Param], RunDate | None]:
        partitions = job.partitions_def
        match partitions:
            case None:
                return [], None
            case dg.DynamicPartitionsDefinition() if _contract(job) is not None:
                self.add("partitions definition", f"{partitions.name} of {job.name}", "parameter `delivery`, validated")
                return [_DELIVERY_PARAM], None
            case dg.DailyPartitionsDefinition():
                # The newest complete partition, as Dagster's own schedules of partitioned jobs choose it.
                run_date = RunDate(timezone=str(partitions.timezone), days_before=max(0, 1 - partitions.end_offset))
                self.add(
                    "partitions definition",
                    f"daily, of {job.name}",
                    f"parameter `run_date`, validated; by default the day {run_date.days_before} before the run's",
                )
                return [_RUN_DATE_PARAM], run_date
        self.unmapped.append(f"partitions definition {partitions} of job {job.name}")
        return [], None

    def pools(self) -> None:
        """Map each pool of Dagster; Airflow has no counterpart of one that several jobs share."""
        jobs: dict[str, set[str]] = defaultdict(set)
        for job in self.jobs:
            for step in _steps(job):
                if step.pool:
                    jobs[step.pool].add(job.name)
        for pool, names in sorted(jobs.items()):
            if len(names) > 1:
                self.unmapped.append(f"pool {pool}: the jobs {', '.join(sorted(names))} share it")
            self.add(
                "pool",
                pool,
                f"`max_active_runs=1` and `max_active_tis_per_dag=1` of DAG `{min(names)}`",
                "A task in a pool of Airflow that nobody has created is never started",
            )

    # --- schedules, sensors ---

    def schedule_of(self, job: dg.JobDefinition) -> Schedule | None:
        found = [
            schedule
            for schedule in self.repository.schedule_defs
            if schedule.job_name == job.name and NOT_IN_AIRFLOW not in schedule.metadata
        ]
        if not found or not self.airflow_schedules:
            return None
        (schedule,) = found if len(found) == 1 else _fail(f"job {job.name}", "one schedule", f"{len(found)}")
        if not isinstance(schedule.cron_schedule, str):
            _fail(f"schedule {schedule.name}", "one cron schedule", str(schedule.cron_schedule))
        return Schedule(cron=schedule.cron_schedule, timezone=schedule.execution_timezone or "UTC")

    def schedules(self) -> None:
        for schedule in sorted(self.repository.schedule_defs, key=lambda found: found.name):
            if self.is_exempt("schedule", schedule.name, schedule.metadata):
                continue
            if schedule.job_name not in {job.name for job in self.jobs}:
                self.unmapped.append(f"schedule {schedule.name}: it starts {schedule.job_name}, which isn't exported")
            elif not self.airflow_schedules:
                self.add("schedule", schedule.name, reason=self.dagster_schedules)
            else:
                self.add(
                    "schedule",
                    schedule.name,
                    f"`{schedule.cron_schedule}`, {schedule.execution_timezone or 'UTC'}, of DAG `{schedule.job_name}`"
                    ", `catchup=False`, paused when it is created",
                )

    @property
    def dagster_schedules(self) -> str:
        return f"Dagster is the scheduler of {self.name}: `schedule=None`"

    def sensors(self) -> Iterator[Dispatcher]:
        by_name = {job.name: job for job in self.jobs}
        for sensor in sorted(self.repository.sensor_defs, key=lambda found: found.name):
            if self.is_exempt("sensor", sensor.name, sensor.metadata):
                continue
            starts = [target.job_name for target in sensor.targets]
            job = by_name.get(starts[0]) if len(starts) == 1 else None
            contract = _contract(job) if job is not None else None
            if job is None or contract is None or not isinstance(job.partitions_def, dg.DynamicPartitionsDefinition):
                self.unmapped.append(f"sensor {sensor.name}: it doesn't start one job for each delivery of a source")
                continue
            minutes = max(_SHORTEST_INTERVAL_MINUTES, -(-(sensor.minimum_interval_seconds or 0) // 60))
            if self.airflow_schedules:
                self.add(
                    "sensor", sensor.name, f"DAG `{sensor.name}`, every {minutes} minutes, paused when it is created"
                )
            else:
                self.add("sensor", sensor.name, f"DAG `{sensor.name}`", self.dagster_schedules)
            yield Dispatcher(
                name=sensor.name,
                description=f"Start {job.name} for each new complete delivery in the landing zone, once.",
                owner="biocloud",
                docs=self.docs(_assets(_steps(job))),
                tags=("biocloud", "generated", self.name, contract.source),
                starts=job.name,
                starts_task=_steps(job)[0].node_handle.name,
                schedule=Schedule(cron=f"*/{minutes} * * * *") if self.airflow_schedules else None,
                source=contract.source,
                landing=_bucket_and_prefix(sensor.name, self.environment.landing_root),
                markers=_bucket_and_prefix(sensor.name, self.environment.lake_root, markers_path(contract)),
                folders=tuple(folder.name for folder in contract.folders),
                not_before=self.settings.not_before,
                lookback_days=self.settings.lookback_days,
                quiet_seconds=max(self.settings.quiet_seconds, sensor.minimum_interval_seconds or 0),
                max_listed=_LISTED_PER_RUN,
                max_started=_STARTED_PER_RUN,
                pause_seconds=INFRASTRUCTURE_PAUSE.total_seconds(),
                max_runs_per_day=MAX_RUNS_PER_DAY,
            )

    # --- assets, checks, resources ---

    def assets(self) -> None:
        for key in sorted(self.graph.get_all_asset_keys()):
            node, address = self.graph.get(key), _address(key)
            if not self.is_exempt("asset", address, node.metadata):
                uri = asset_uri(self.environment, address)
                self.add("asset", address, f"`{uri}`, outlet of {self.tasks_text(f'asset {address}', key)}")
            if node.freshness_policy is not None:
                self.add(
                    "freshness policy",
                    address,
                    reason="Airflow 2 has service-level agreements and Airflow 3 has deadlines; Dagster, which knows "
                    "what Airflow has ingested, evaluates the policy",
                )
            if node.automation_condition is not None and not self.is_exempt(
                "automation condition", address, node.metadata
            ):
                self.unmapped.append(f"automation condition of asset {address}")
        for check in sorted(self.graph.asset_check_keys, key=lambda found: found.to_user_string()):
            name = check.to_user_string()
            effect = (
                "a failed check fails the task" if self.graph.get(check).blocking else "a warning in the task's log"
            )
            self.add("asset check", name, f"{self.tasks_text(f'asset check {name}', check)}: {effect}")

    def tasks_text(self, label: str, key: dg.AssetKey | dg.AssetCheckKey) -> str:
        if key not in self.tasks_of:
            self.unmapped.append(f"{label}: it is in no job")
        return ", ".join(self.tasks_of.get(key, ()))

    def resources(self) -> None:
        for name in sorted(self.repository.get_top_level_resources()):
            if name not in _RESOURCES:
                self.unmapped.append(f"resource {name}")
            self.add("resource", name, _RESOURCES.get(name, "unmapped"))


def _steps(job: dg.JobDefinition) -> list[ExecutionStep]:
    steps = create_execution_plan(job).get_all_steps_in_topo_order()
    return [step for step in steps if isinstance(step, ExecutionStep)]  # there are no dynamic steps


def _op(job: dg.JobDefinition, step: ExecutionStep) -> Any:
    return job.graph.get_node(step.node_handle).definition


def _assets(steps: Iterable[ExecutionStep]) -> list[dg.AssetKey]:
    """The assets that some steps make, by address."""
    keys = (output.properties.asset_key for step in steps for output in step.step_outputs)
    return sorted(key for key in keys if key is not None)


def _checks(steps: Iterable[ExecutionStep]) -> list[dg.AssetCheckKey]:
    keys = (output.properties.asset_check_key for step in steps for output in step.step_outputs)
    return [key for key in keys if key is not None]


def _address(key: dg.AssetKey) -> str:
    return key.to_user_string()


def _partition(params: Iterable[Param]) -> str:
    """The template of what a run is for: its delivery or its day."""
    templates = {_DELIVERY_PARAM.name: _DELIVERY, _RUN_DATE_PARAM.name: _RUN_DATE}
    return next((templates[param.name] for param in params), "")


def _is_known(address: str) -> bool:
    """Whether `run_step` can make or check an asset."""
    return contract_of(address) is not None or address in {OBSERVATION, MANIFEST, RETENTION}


def _contract(job: dg.JobDefinition) -> Contract | None:
    """The contract of the source whose deliveries a job ingests; None if it ingests none."""
    contracts = [contract_of(_address(key)) for key in _assets(_steps(job))]
    return contracts[0] if contracts and all(one == contracts[0] for one in contracts) else None


def _bucket_and_prefix(sensor: str, root: str, path: str = "") -> tuple[str, str]:
    """The bucket, and the prefix of a path below an `s3://` root; the prefix is empty or ends with a slash."""
    if not root.startswith("s3://"):
        _fail(f"sensor {sensor}", "a landing zone and a lake in S3", root)
    bucket, _, prefix = root.removeprefix("s3://").partition("/")
    return bucket, "".join(f"{part}/" for part in (prefix.strip("/"), path) if part)
