"""Launching a step by the step launcher of dagster-databricks: Dagster runs it on a cluster, with this very code.

What belongs here: what is staged, what the cluster is told, and clearing up. What doesn't: the step.

The launcher stages the code on DBFS and pickles a reference to the step; the cluster unpacks both, loads
`biocloud_assets.definitions` with the settings that it is given here, and runs the step as at home.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_databricks.databricks import DatabricksError
from dagster_databricks.databricks_pyspark_step_launcher import DatabricksPySparkStepLauncher

import biocloud_assets
from biocloud_assets.launch import workspace
from biocloud_assets.settings import Settings

# Superseded by Pipes, which is the other choice; there is no plan to remove it.
warnings.filterwarnings("ignore", category=dg.SupersessionWarning, message=".*StepLauncher.*")

_LIBRARIES = ["boto3", "dagster", "dagster-databricks", "dagster-pyspark", "databricks-sdk", "pyyaml", "requests"]
"""What the definitions need on a cluster, besides what the environment names for any step."""

_STAGING = "/dagster_staging"


def resource(settings: Settings) -> dg.ResourceDefinition:
    """The resource `step_launcher` for the step launcher."""

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
    """Put the package's code, and nothing else, into a folder: no data, no settings, nothing that lies beside it."""
    package = Path(biocloud_assets.__file__).parent
    for source in package.rglob("*.py"):
        target = folder / package.name / source.relative_to(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


class _Launcher(DatabricksPySparkStepLauncher):
    """The step launcher for an environment."""

    def __init__(self, settings: Settings, code: str) -> None:
        environment = settings.environment
        cluster = environment.new_cluster()
        size = {"autoscale": cluster.pop("autoscale")}
        nodes = {"instance_pool_id": cluster.pop("instance_pool_id")}
        super().__init__(
            run_config={
                "run_name": f"biocloud {settings.env}",
                "cluster": {"new": {**cluster, "size": size, "nodes": nodes}},
                "libraries": workspace.libraries(sorted({*environment.libraries, *_LIBRARIES})),
                # They are all there already, and the default for databricks-sdk has a typing error in its version.
                "install_default_libraries": False,
                "timeout_seconds": environment.timeout_seconds,
            },
            permissions={},
            databricks_host=workspace.host(settings),  # credentials: the Databricks-standard way
            oauth_credentials={},
            azure_credentials={},
            secrets_to_env_variables=[],
            env_variables=_cluster_settings(settings),
            # One folder for each launcher, so that all that it staged can be removed at once.
            staging_prefix=f"{_STAGING}/{uuid.uuid4().hex}",
            wait_for_logs=False,
            max_completion_wait_time_seconds=environment.start_timeout_seconds + environment.timeout_seconds,
            poll_interval_sec=environment.poll_seconds,  # type: ignore[arg-type]  # it takes fractions too
            local_dagster_job_package_path=code,
            verbose_logs=False,
        )

    def launch_step(self, step_context: Any) -> Iterator[dg.DagsterEvent]:
        self.run_config = {
            **self.run_config,
            "idempotency_token": workspace.idempotency_token(
                step_context.run_id, step_context.step.key, step_context.previous_attempt_count
            ),
        }
        yield from super().launch_step(step_context)

    def step_events_iterator(
        self, step_context: Any, step_key: str, databricks_run_id: int
    ) -> Iterator[dg.DagsterEvent]:
        try:
            yield from super().step_events_iterator(step_context, step_key, databricks_run_id)
        except DatabricksError as error:  # it only says that the run failed, not why
            client = self.databricks_runner.client.workspace_client
            reason = workspace.reason(client, client.jobs.get_run(databricks_run_id))
            raise dg.Failure(f"{error} {reason}") from error

    def clear(self) -> None:
        """Remove all that was staged on DBFS."""
        self.databricks_runner.client.workspace_client.dbfs.delete(self.staging_prefix, recursive=True)


def _cluster_settings(settings: Settings) -> dict[str, str]:
    """The settings of the process on the cluster. Nothing in them is secret."""
    given = {
        "BIOCLOUD_ENV": settings.env,
        "BIOCLOUD_ENGINE": "databricks",
        "BIOCLOUD_LAUNCHER": "none",
        "BIOCLOUD_IN_CHARGE": settings.leader,
        "BIOCLOUD_LANDING_ROOT": settings.landing,
        "BIOCLOUD_LAKE_ROOT": settings.lake,
        "BIOCLOUD_CURATED_ROOT": settings.curated,
        "BIOCLOUD_CATALOG": settings.environment.catalog,
    }
    return {name: value for name, value in given.items() if value is not None}
