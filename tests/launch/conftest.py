"""An environment on the local workspace: its file, the repository that its clusters check out, its data in folders."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.reconstruct import ReconstructableRepository

from biocloud_assets import definitions
from biocloud_assets.definitions import build_definitions
from biocloud_assets.raw.dsi.partitions import deliveries
from biocloud_assets.settings import Settings
from tests.databricks_workspace.fixture import GIT_URL
from tests.databricks_workspace.server import POOL_ID, SPARK_VERSION, Workspace
from tests.raw.dsi.deliveries import write

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the code as it lies here, committed to `main`."""
    root = tmp_path_factory.mktemp("code") / "biocloud"
    for part in ("biocloud_assets", "databricks"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    git(root, "init", "--quiet", "--initial-branch=main")
    commit(root, "All of it")
    return root


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, timeout=60)


def commit(root: Path, message: str) -> None:
    who = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    git(root, "add", "--all")
    git(root, *who, "commit", "--quiet", "--message", message)


class Site:
    """An environment `development`, whose steps run in the local workspace."""

    def __init__(self, root: Path, workspace: Workspace, code: Path, patch: pytest.MonkeyPatch) -> None:
        self.root, self.workspace, self._patch = root, workspace, patch
        self.landing, self.lake = root / "in", root / "out"
        workspace.repositories[GIT_URL] = code
        (root / "dagster").mkdir()
        self._environment: dict[str, Any] = {
            "landing_root": str(self.landing),
            "lake_root": str(self.lake),
            "curated_root": str(root / "curated"),
            "dags": "s3://airflow/dags",
            "in_charge": "dagster",
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
        self.configure()

    def set(self, **variables: str) -> None:
        for name, value in variables.items():
            self._patch.setenv(name, value)

    def configure(self, **keys: Any) -> None:
        """Write the environments' file, with some other keys."""
        self._environment |= keys
        both = {"development": self._environment, "production": self._environment}
        (self.root / "environments.yml").write_text(yaml.safe_dump(both))

    def run(
        self,
        instance: dg.DagsterInstance,
        partition: str,
        launcher: str,
        *assets: str,
        job: str = "dsi_raw",
    ) -> dg.ExecuteJobResult:
        """Run a job for a delivery or a day as Dagster's daemon would: in processes, from the code location."""
        self.set(BIOCLOUD_LAUNCHER=launcher)
        self._patch.setattr(definitions, "defs", build_definitions(Settings.load()))
        if job == "dsi_raw":
            instance.add_dynamic_partitions(str(deliveries.name), [partition])
        repository = ReconstructableRepository.for_module("biocloud_assets.definitions", "defs")
        return dg.execute_job(
            repository.get_reconstructable_job(job),
            instance=instance,
            tags={"dagster/partition": partition},
            asset_selection=[dg.AssetKey(asset.split("/")) for asset in assets] or None,
        )

    def job(self, launcher: str) -> dg.JobDefinition:
        """The job, for runs in this process."""
        self.set(BIOCLOUD_LAUNCHER=launcher)
        return build_definitions(Settings.load()).resolve_job_def("dsi_raw")

    def land(self, delivery: str, **folders: Any) -> None:
        write(self.landing, delivery, **folders)


@pytest.fixture
def site(
    tmp_path: Path, databricks_workspace: Workspace, code: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    monkeypatch.chdir(ROOT)  # uv.lock has the versions of the libraries
    yield Site(tmp_path, databricks_workspace, code, monkeypatch)


@pytest.fixture
def instance(site: Site) -> Iterator[dg.DagsterInstance]:
    (site.root / "dagster/dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.get() as instance:
        yield instance


@pytest.fixture
def run_here(site: Site, instance: dg.DagsterInstance) -> Callable[..., dg.ExecuteInProcessResult]:
    """Run some assets of a delivery through Pipes, in this process."""

    def run(delivery: str, assets: Sequence[str]) -> dg.ExecuteInProcessResult:
        instance.add_dynamic_partitions(str(deliveries.name), [delivery])
        return site.job("pipes").execute_in_process(
            instance=instance,
            partition_key=delivery,
            asset_selection=[dg.AssetKey(asset.split("/")) for asset in assets],
            raise_on_error=False,
        )

    return run
