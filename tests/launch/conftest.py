"""An environment in the local workspace: its file, the repository that its clusters check out, its data in folders."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.reconstruct import ReconstructableJob, ReconstructableRepository
from dagster._core.execution.api import create_execution_plan, execute_run_iterator
from dagster._core.snap import snapshot_from_execution_plan

from biocloud_assets import definitions
from biocloud_assets.definitions import build_definitions
from biocloud_assets.launch import launcher
from biocloud_assets.settings import Settings
from tests.databricks_workspace.fixture import GIT_URL
from tests.databricks_workspace.server import POOL_ID, SPARK_VERSION, Workspace
from tests.ingest.deliveries import write

ROOT = Path(__file__).parents[2]
REGION = "eu-west-1"
DELIVERIES = "dsi_delivery"
"""The name of the partitions of the raw assets."""

_RUN_CONFIG = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}

FIRST_DELAY_SECONDS = launcher.REMOTE_RETRY_DELAY_SECONDS
"""The pause before a first retry; the tests make it shorter."""

LAUNCHERS = ("step_launcher", "pipes")


@pytest.fixture(scope="session")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the code of this checkout, committed to `main`."""
    root = tmp_path_factory.mktemp("code") / "biocloud"
    for part in ("biocloud_assets", "databricks"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    git(root, "init", "--quiet", "--initial-branch=main")
    commit(root, "Initial commit")
    return root


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True, timeout=60)
    return done.stdout.strip()


def commit(root: Path, message: str) -> None:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    git(root, "add", "--all")
    git(root, *identity, "commit", "--quiet", "--message", message)


@dataclass(frozen=True)
class Executed:
    """A run that has ended, and its events."""

    instance: dg.DagsterInstance
    run_id: str
    events: list[dg.DagsterEvent]

    @property
    def run(self) -> dg.DagsterRun:
        run = self.instance.get_run_by_id(self.run_id)
        assert run is not None
        return run

    @property
    def success(self) -> bool:
        return self.run.status is dg.DagsterRunStatus.SUCCESS

    @property
    def failure(self) -> str:
        """Why the run failed, if that was outside of its steps."""
        found = [event for event in self.events if event.is_job_failure or event.is_failure]
        return "\n".join(repr(event) for event in found)

    @property
    def errors(self) -> str:
        """The errors of the steps that failed or are to be repeated."""
        found = [event for event in self.events if event.is_step_failure or event.is_step_up_for_retry]
        return "\n".join(f"{event.message} {event.event_specific_data.error.to_string()}" for event in found)

    @property
    def retries(self) -> int:
        return sum(event.is_step_up_for_retry for event in self.events)

    @property
    def materialized(self) -> dict[str, dict[str, Any]]:
        """The metadata of each asset's materialization, except what differs from run to run."""
        changing = {"run", "ingested_at", "dagster/uri"}
        return {
            event.asset_key.to_user_string(): {
                name: value for name, value in event.materialization.metadata.items() if name not in changing
            }
            for event in self.events
            if event.is_step_materialization and event.asset_key is not None
        }

    @property
    def checks(self) -> dict[str, Any]:
        """The results of the checks: passed, severity, description and metadata of `raw/dsi/sensor:key`."""
        found = [
            event.asset_check_evaluation_data
            for event in self.events
            if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION
        ]
        return {
            f"{check.asset_key.to_user_string()}:{check.check_name}": (
                check.passed,
                check.severity,
                check.description,
                check.metadata,
            )
            for check in found
        }


class Site:
    """An environment `development`, whose steps run in the local workspace."""

    def __init__(self, root: Path, workspace: Workspace, code: Path, patch: pytest.MonkeyPatch) -> None:
        self.root, self.workspace, self._patch = root, workspace, patch
        self.landing, self.lake, self.curated = root / "in", root / "out", root / "curated"
        workspace.repositories[GIT_URL] = code
        (root / "dagster").mkdir()
        self.environment: dict[str, Any] = {
            "region": REGION,
            "landing_root": str(self.landing),
            "lake_root": str(self.lake),
            "curated_root": str(self.curated),
            "dags": "s3://airflow/dags",
            "scheduler": "dagster",
            "catalog": "sail",
            "git": {"url": GIT_URL},
            "cluster": {
                "spark_version": SPARK_VERSION,
                "instance_pool_id": POOL_ID,
                "autoscale": {"min_workers": 1, "max_workers": 2},
            },
            "libraries": ["dagster-pipes", "deltalake", "pydantic-settings", "tenacity"],
            "timeout_seconds": 90,
            "start_timeout_seconds": 60,
            "poll_seconds": 0.2,
            "messages": "/Volumes/main/biocloud/staging",
        }
        self.set(
            BIOCLOUD_ENV="development",
            BIOCLOUD_ENVIRONMENTS=str(root / "environments.yml"),
            BIOCLOUD_GIT_BRANCH="main",
            DAGSTER_HOME=str(root / "dagster"),
            DATABRICKS_HOST=workspace.url,
            DATABRICKS_TOKEN=workspace.token,
        )
        for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):  # Settings.load() sets them; they are unset after the test
            patch.setenv(name, "")
            patch.delenv(name)
        self.configure()

    def set(self, **variables: str) -> None:
        for name, value in variables.items():
            self._patch.setenv(name, value)

    def configure(self, **keys: Any) -> None:
        """Write the environments' file, with some other keys."""
        self.environment |= keys
        both = {"development": self.environment, "production": self.environment}
        (self.root / "environments.yml").write_text(yaml.safe_dump(both))

    def run(
        self,
        instance: dg.DagsterInstance,
        partition: str | None,
        launcher: str,
        *assets: str,
        checks: Sequence[str] | None = None,
        job: str = "dsi_raw",
    ) -> Executed:
        """Run a job for a delivery or a day as Dagster's daemon does: from the code location.

        Args:
            instance: where the run is stored.
            partition: the delivery or the day, if the job has one.
            launcher: where the steps run.
            assets: the assets to materialise; all of the job if there are neither assets nor checks.
            checks: the checks to run, `raw/dsi/sensor:key`; without them all checks of the selected assets.
            job: the name of the job.
        """
        self.set(BIOCLOUD_LAUNCHER=launcher)
        self._patch.setattr(definitions, "defs", build_definitions(Settings.load()))
        if job == "dsi_raw" and partition is not None:
            instance.add_dynamic_partitions(DELIVERIES, [partition])
        repository = ReconstructableRepository.for_module("biocloud_assets.definitions", "defs")
        recon_job = repository.get_reconstructable_job(job)
        # Dagster caches the definitions of a process, in which each run here has other settings.
        ReconstructableJob.get_definition.cache_clear()
        ReconstructableJob.get_repository_definition.cache_clear()
        run = _create_run(
            instance,
            recon_job.get_definition(),
            partition,
            frozenset(dg.AssetKey(asset.split("/")) for asset in assets) or None,
            None if checks is None else frozenset(map(_check_key, checks)),
        )
        return Executed(instance, run.run_id, list(execute_run_iterator(recon_job, run, instance)))

    def land(self, delivery: str, **folders: Any) -> None:
        write(self.landing, delivery, **folders)


def _create_run(
    instance: dg.DagsterInstance,
    job: dg.JobDefinition,
    partition: str | None,
    assets: frozenset[dg.AssetKey] | None,
    checks: frozenset[dg.AssetCheckKey] | None,
) -> dg.DagsterRun:
    """Create a run as the webserver does; `create_run_for_job` takes no selection of checks."""
    if assets is not None or checks is not None:
        job = job.get_subset(asset_selection=assets, asset_check_selection=checks)
    plan = create_execution_plan(job, run_config=_RUN_CONFIG, instance_ref=instance.get_ref())
    return instance.create_run(
        job_name=job.name,
        run_id=None,
        run_config=_RUN_CONFIG,
        status=None,
        tags={} if partition is None else {"dagster/partition": partition},
        root_run_id=None,
        parent_run_id=None,
        step_keys_to_execute=None,
        execution_plan_snapshot=snapshot_from_execution_plan(plan, job.get_job_snapshot_id()),
        job_snapshot=job.get_job_snapshot(),
        parent_job_snapshot=job.get_parent_job_snapshot(),
        asset_selection=assets,
        asset_check_selection=checks,
        resolved_op_selection=None,
        op_selection=None,
        remote_job_origin=None,
        job_code_origin=None,
        asset_graph=job.asset_layer.asset_graph,
    )


def _check_key(check: str) -> dg.AssetCheckKey:
    asset, _, name = check.partition(":")
    return dg.AssetCheckKey(dg.AssetKey(asset.split("/")), name)


@pytest.fixture
def site(
    tmp_path: Path, databricks_workspace: Workspace, code: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    monkeypatch.chdir(ROOT)  # uv.lock has the versions of the libraries
    monkeypatch.setattr(launcher, "REMOTE_RETRY_DELAY_SECONDS", 0.01)
    yield Site(tmp_path, databricks_workspace, code, monkeypatch)


@pytest.fixture
def instance(site: Site) -> Iterator[dg.DagsterInstance]:
    (site.root / "dagster/dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.get() as instance:
        yield instance
