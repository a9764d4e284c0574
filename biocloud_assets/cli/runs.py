"""Run a job in this process, as a run that Dagster's UI lists and can execute again; close runs of killed processes.

Dagster's public ways to run a job in a process (`execute_in_process`, `execute_job`) store no remote origin with the
run, so that the UI neither lists it under its job nor can execute it again (dagster#17707, #19458). So the run is
created here with the origin that the UI would give it. Check at Dagster 1.14 whether there is a public way;
`tests/browser/test_ui.py` fails if this one changes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import psutil
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run_iterator
from dagster._core.remote_origin import ManagedGrpcPythonEnvCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

MODULE = "biocloud_assets.definitions"
"""The module that `biocloud dev` and workspace.yaml load."""

_REPOSITORY = "__repository__"  # how Dagster calls the repository of a `Definitions` object

_PROCESS_TAG = "biocloud/process"
"""The process that created a run. If it is killed before the run starts, no event of the run names it."""

_RUN_CONFIG = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
"""The command prints results itself; the events of the run are in Dagster's log."""


def create_run(instance: dg.DagsterInstance, job: dg.JobDefinition, tags: Mapping[str, str]) -> dg.DagsterRun:
    """Create a run of a whole job, with the origin of the code location.

    Args:
        instance: the instance that stores it.
        job: the job, from the definitions of this process.
        tags: of the run, besides those of the job; `dagster/partition` among them.
    """
    target = LoadableTargetOrigin(
        executable_path=sys.executable, module_name=MODULE, working_directory=str(Path.cwd()), attribute=None
    )
    location = ManagedGrpcPythonEnvCodeLocationOrigin(target, location_name=MODULE)
    return instance.create_run_for_job(
        job,
        run_config=_RUN_CONFIG,
        tags={**job.tags, **tags, _PROCESS_TAG: str(os.getpid())},
        remote_job_origin=RemoteJobOrigin(RemoteRepositoryOrigin(location, _REPOSITORY), job.name),
    )


def execute(instance: dg.DagsterInstance, job: dg.JobDefinition, run: dg.DagsterRun) -> Iterator[dg.DagsterEvent]:
    """Execute a run in this process, and yield its events as they happen.

    A step that fails is an event; only an error of Dagster itself is raised.
    """
    yield from execute_run_iterator(InMemoryJob(job), run, instance)


def close_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark the runs whose process doesn't exist any more as failed, so that none looks as if it went on.

    Dagster does so itself only for the runs of a code server that is still up. A home belongs to one machine: the
    processes are looked for on this one.

    Returns:
        the identifiers of the runs.
    """
    status = dg.DagsterRunStatus
    closed = []
    statuses = [status.NOT_STARTED, status.STARTING, status.STARTED, status.CANCELING]
    for record in instance.get_run_records(dg.RunsFilter(statuses=statuses)):
        run = record.dagster_run
        process = _creator_of(record) if run.status is status.NOT_STARTED else _process_of(instance, run.run_id)
        if process is None or process.exists():
            continue
        if run.status is status.CANCELING:
            instance.report_run_canceled(run, message=f"The process of this run, {process.pid}, has ended.")
        else:
            instance.report_run_failed(run, message=f"The process of this run, {process.pid}, was killed.")
        closed.append(run.run_id)
    return closed


@dataclass(frozen=True)
class _Process:
    """A process that executed a run: its identifier, and a time (Unix) at which it existed."""

    pid: int
    time: float

    def exists(self) -> bool:
        """Whether it still does; a later process may have got the same identifier."""
        try:
            return psutil.Process(self.pid).create_time() <= self.time + _CLOCK_SECONDS
        except psutil.NoSuchProcess:
            return False
        except psutil.Error:  # it is there, and belongs to someone else
            return True


_CLOCK_SECONDS = 2
"""By how much the start of a process may seem to be later than it was."""


def _creator_of(record: dg.RunRecord) -> _Process | None:
    """The command that created a run that hasn't started; None if it wasn't a command."""
    run = record.dagster_run
    pid = run.tags.get(_PROCESS_TAG)
    # A re-execution from the UI has the tags of its parent.
    if pid is None or run.parent_run_id is not None:
        return None
    return _Process(int(pid), record.create_timestamp.timestamp())


def _process_of(instance: dg.DagsterInstance, run_id: str) -> _Process | None:
    """The process that a run was last executed in, from the run's events; None if they don't say."""
    found = None
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        metadata = entry.get_dagster_event().engine_event_data.metadata
        if "pid" in metadata:
            found = _Process(int(str(metadata["pid"].value)), entry.timestamp)
    return found
