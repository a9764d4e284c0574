"""Launch a step with the step launcher of dagster-databricks: Dagster runs the whole op on a cluster, with this code.

The launcher stages the code on DBFS and pickles a reference to the op. The cluster unpacks both, loads
`biocloud_assets.definitions` with the settings that it is given here, and runs the op as a local process would. It is
for workspaces that still have DBFS, which new ones don't
(https://docs.databricks.com/aws/en/dbfs/disable-dbfs-root-mounts), and needs a cluster in dedicated access mode.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_databricks.databricks import DatabricksError, DatabricksJobRunner
from dagster_databricks.databricks_pyspark_step_launcher import DatabricksPySparkStepLauncher
from databricks.sdk.errors import NotFound, PermissionDenied

import biocloud_assets
from biocloud_assets.environments import Environment, pinned
from biocloud_assets.errors import SettingsError, is_transient
from biocloud_assets.launch import workspace
from biocloud_assets.launch.cluster_setup import ClusterSetup
from biocloud_assets.launch.launcher import (
    FAILED,
    INFRASTRUCTURE,
    PARTITION_TAG,
    REFUSAL_TAGS,
    REMOTE_MAX_RETRIES,
    failure_tags,
    retry,
    tag_run,
)
from biocloud_assets.launch.workspace import Cause
from biocloud_assets.settings import Settings
from biocloud_assets.version import COMMIT_FILE, code_commit

# Superseded by Pipes; Dagster has no plan to remove it.
warnings.filterwarnings("ignore", category=dg.SupersessionWarning, message=".*StepLauncher.*")

_LIBRARIES = ["dagster"]
"""What the definitions need on a cluster, besides what the environment names for any step and the runtime has."""

_STAGING = "/dagster_staging"


def resource(settings: Settings) -> dg.ResourceDefinition:
    """The resource `step_launcher` for the step launcher. It stages the code while a run uses it, and removes it then.

    Args:
        settings: of an environment on Databricks.
    """

    @contextmanager
    def launcher(_: dg.InitResourceContext) -> Iterator[_Launcher]:
        with tempfile.TemporaryDirectory(prefix="biocloud-") as folder:
            _stage(Path(folder))
            launcher = _Launcher(settings, folder)
            try:
                yield launcher
            finally:
                launcher.clear()

    return dg.ResourceDefinition(launcher, description="Runs steps on Databricks, by the step launcher.")


def _stage(folder: Path) -> None:
    """Copy the package's Python code into a folder, and note its commit: no data, no settings, no other files."""
    package = Path(biocloud_assets.__file__).parent
    for source in package.rglob("*.py"):
        target = folder / package.name / source.relative_to(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    (folder / COMMIT_FILE).write_text(code_commit() or "")


class _RunFailedError(Exception):
    """A run on Databricks failed, or took too long, before its step had ended."""

    def __init__(self, message: str, cause: Cause) -> None:
        super().__init__(message)
        self.cause = cause


class _JobRunner(DatabricksJobRunner):
    """Submits a run with all that the environment says; Dagster's own leaves out some keys, such as run_as."""

    def __init__(self, host: str, environment: Environment) -> None:
        super().__init__(
            host=host,  # credentials: the Databricks-standard way
            poll_interval_sec=environment.poll_seconds,
            max_wait_time_sec=environment.start_timeout_seconds + environment.timeout_seconds,
        )
        libraries = pinned(sorted({*environment.libraries, *_LIBRARIES}), Path("uv.lock"))
        self._compute = environment.compute(libraries)
        self._settings = environment.run_settings(libraries)

    def submit_run(self, run_config: Mapping[str, Any], task: Mapping[str, Any]) -> int:
        tasks = [{**self._compute, **task, "task_key": "step"}]
        return workspace.submit(self.client.workspace_client, {**self._settings, **run_config, "tasks": tasks})


class _Launcher(DatabricksPySparkStepLauncher):
    """The step launcher for an environment."""

    def __init__(self, settings: Settings, code: str) -> None:
        environment = settings.environment
        environment.new_cluster()  # raises if there is none
        if environment.volumes is not None:
            raise SettingsError(
                "volumes",
                expected="BIOCLOUD_LAUNCHER=pipes for an environment with volumes",
                found="step_launcher",
                hint="The step launcher runs a whole Dagster op, which needs an instance profile.",
            )
        super().__init__(
            run_config={},
            permissions={},
            databricks_host=workspace.host(settings),
            oauth_credentials={},
            azure_credentials={},
            secrets_to_env_variables=[],
            # One folder for each launcher, so that everything that it staged can be removed at once.
            staging_prefix=f"{_STAGING}/{uuid.uuid4().hex}",
            wait_for_logs=False,
            max_completion_wait_time_seconds=0,  # that of the runner counts
            local_dagster_job_package_path=code,
            verbose_logs=False,
        )
        self._variables = _cluster_settings(settings)
        self.databricks_runner = _JobRunner(workspace.host(settings), environment)

    def create_remote_config(self) -> ClusterSetup:  # type: ignore[override]  # it has what is used of the other one
        return ClusterSetup(self._variables)

    def launch_step(self, step_context: Any) -> Iterator[dg.DagsterEvent]:
        run = step_context.dagster_run
        what = run.tags.get(PARTITION_TAG, "")
        self.run_config = {
            "run_name": f"{run.job_name} {step_context.step.key} {what}".strip() + f" @ {(code_commit() or '')[:12]}",
            "idempotency_token": workspace.idempotency_token(
                run.run_id, step_context.step.key, step_context.previous_attempt_count
            ),
        }
        ended = False
        try:
            for event in super().launch_step(step_context):
                if event.is_step_failure and (failure := event.step_failure_data.user_failure_data) is not None:
                    tags = {
                        name: str(failure.metadata[name].value) for name in REFUSAL_TAGS if name in failure.metadata
                    }
                    tag_run(step_context.instance, run.run_id, tags)
                elif event.is_step_failure and step_context.previous_attempt_count >= REMOTE_MAX_RETRIES:
                    # Only an error of the infrastructure is repeated as often.
                    tag_run(step_context.instance, run.run_id, failure_tags(INFRASTRUCTURE, str(event.message)))
                ended = ended or event.is_step_success or event.is_step_failure or event.is_step_up_for_retry
                yield event
        except Exception as error:
            if ended:  # how the step ended is known, whatever then happened to its cluster
                step_context.log.error(f"After the end of the step: {error}")
                return
            raised = self._raised(error, step_context.previous_attempt_count)
            if isinstance(raised, dg.Failure):
                tag_run(step_context.instance, run.run_id, failure_tags(FAILED, str(error)))
            elif raised.max_retries == REMOTE_MAX_RETRIES <= step_context.previous_attempt_count:
                tag_run(step_context.instance, run.run_id, failure_tags(INFRASTRUCTURE, str(error)))
            raise raised from error

    def _raised(self, error: Exception, attempt: int) -> dg.Failure | dg.RetryRequested:
        """What is raised for an error before the step's end: a failure, or the request to repeat the step."""
        cause = error.cause if isinstance(error, _RunFailedError) else None
        if cause is Cause.INFRASTRUCTURE or is_transient(error):
            return retry(attempt, remote=True)
        if cause is Cause.UNKNOWN:
            return retry(attempt, remote=True, retries=1)
        if isinstance(error, PermissionDenied) and "DBFS" in str(error):
            settings_error = SettingsError(
                "BIOCLOUD_LAUNCHER=step_launcher",
                expected="a workspace with DBFS, where the step launcher stages the code",
                found=str(error),
                hint="Set BIOCLOUD_LAUNCHER=pipes.",
            )
            return dg.Failure(str(settings_error), allow_retries=False)
        return dg.Failure(str(error), allow_retries=False)

    def step_events_iterator(
        self, step_context: Any, step_key: str, databricks_run_id: int
    ) -> Iterator[dg.DagsterEvent]:
        try:
            yield from super().step_events_iterator(step_context, step_key, databricks_run_id)
        except DatabricksError as error:  # it says only that the run failed or took too long, not why
            client = self.databricks_runner.client.workspace_client
            run = client.jobs.get_run(databricks_run_id)
            cause = workspace.cause(run) if workspace.has_ended(run) else Cause.INFRASTRUCTURE
            raise _RunFailedError(f"{error} {workspace.reason(client, run)}", cause) from error

    def clear(self) -> None:
        """Delete everything that was staged on DBFS; without DBFS nothing was."""
        with contextlib.suppress(NotFound, PermissionDenied):
            self.databricks_runner.client.workspace_client.dbfs.delete(self.staging_prefix, recursive=True)


def _cluster_settings(settings: Settings) -> dict[str, str]:
    """The settings of the process on the cluster, none of which is secret."""
    given = {
        "BIOCLOUD_ENV": settings.env,
        "BIOCLOUD_ENGINE": "databricks",
        "BIOCLOUD_LAUNCHER": "none",
        "BIOCLOUD_SCHEDULER": settings.scheduler,
        "BIOCLOUD_LANDING_ROOT": settings.landing,
        "BIOCLOUD_LAKE_ROOT": settings.lake,
        "BIOCLOUD_CURATED_ROOT": settings.curated,
        "BIOCLOUD_RETENTION_DAYS": str(settings.retention),
        "BIOCLOUD_CATALOG": settings.environment.catalog,
    }
    return {name: value for name, value in given.items() if value is not None}
