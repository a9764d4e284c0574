"""An Airflow of each supported version in an environment of its own, with the DAGs that this code exports.

uv creates the environments below `.biocloud/` from the lists in `environments/`; they are kept.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml

from biocloud_assets.airflow import collect, render
from biocloud_assets.airflow.model import Export
from biocloud_assets.lake import DataLake
from biocloud_assets.run_step import NOT_RETRYABLE
from tests.databricks_workspace.fixture import GIT_URL
from tests.databricks_workspace.server import POOL_ID, SPARK_VERSION, Workspace
from tests.needs import unavailable
from tests.repository import code, commit, git  # noqa: F401

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = Path(__file__).with_name("environments")
INSIDE = Path(__file__).with_name("inside.py")
HTTPS_ONLY = Path(__file__).with_name("https_only")
"""A folder for the PYTHONPATH of an Airflow whose provider for Databricks can't use http."""

VERSIONS = ("airflow-2-10", "airflow-3-3", "airflow-2-11", "airflow-3-0")
OLDEST_AND_NEWEST = VERSIONS[:2]


def _python(group: str) -> Path:
    """The Python of an environment, which is created if it doesn't exist.

    If that is impossible, the test is skipped with the reason, or fails where every environment is required.
    """
    folder = ROOT / ".biocloud/environments" / group
    if shutil.which("uv") is None:
        unavailable("uv, which creates the environment of Airflow, is not installed")
    python = folder / "bin/python"
    done = subprocess.run(
        f"uv venv --quiet --allow-existing --python=3.11 '{folder}' && "
        f"uv pip sync --quiet --python '{python}' '{ENVIRONMENTS / group}.txt'",
        shell=True,
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode:
        unavailable(f"uv can't create the environment {group}: {done.stderr[-500:]}")
    return python


class Airflow:
    """One Airflow: its home, its DAG folder, and commands in its environment."""

    def __init__(self, group: str, home: Path, dags: Path) -> None:
        self.group, self.home, self.dags = group, home, dags
        self.python = _python(group)
        self.major = int(group.split("-")[1]) if group.startswith("airflow") else 2
        self.settings: dict[str, str] = {}
        home.mkdir(parents=True, exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "NO_PROXY") if name in os.environ}
        return {
            **kept,
            "PATH": f"{self.python.parent}:{kept['PATH']}",  # Airflow starts its own processes by name
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
            "AIRFLOW__METRICS__TIMER_UNIT_CONSISTENCY": "True",  # without it, Airflow 2 warns
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.home}/airflow.db",
            "PYTHONWARNINGS": "ignore",
            **self.settings,
        }

    def inside(self, *arguments: str, timeout: float = 600) -> Any:
        """Run a command of `inside.py`, and return its answer."""
        done = self.call(str(self.python), "-P", str(INSIDE), *arguments, timeout=timeout)
        answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
        assert answers, done.stdout[-8000:] + done.stderr[-8000:]
        return {**json.loads(answers[-1].removeprefix("ANSWER ")), "log": done.stdout + done.stderr}

    def airflow(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command of Airflow."""
        return self.call(str(self.python), "-P", "-m", "airflow", *arguments, timeout=timeout)

    def call(self, *command: str, timeout: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.home, env=self.environment, capture_output=True, text=True, timeout=timeout
        )

    def migrate(self) -> None:
        done = self.airflow("db", "migrate", timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Site:
    """An environment `development` in S3, whose steps run in the local workspace, exported to a DAG folder."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch, bucket: str = "s3://example") -> None:
        self.root, self._patch, self.bucket = root, patch, bucket
        self.dags = root / "dags"
        self.environment: dict[str, Any] = {
            "region": "us-east-1",
            "landing_root": f"{bucket}/in",
            "lake_root": f"{bucket}/out",
            "curated_root": f"{bucket}/out/curated",
            "dags": "s3://airflow/dags",
            "scheduler": "airflow",
            "catalog": "sail",
            "git": {"url": GIT_URL},
            "cluster": {
                "spark_version": SPARK_VERSION,
                "instance_pool_id": POOL_ID,
                "autoscale": {"min_workers": 1, "max_workers": 2},
                "spark_env_vars": {"A_TOKEN": "{{secrets/scope/key}}", "PLAIN": "{# 50 % #} {{ 1 }} 'quoted'"},
            },
            "libraries": ["dagster-pipes", "deltalake", "pydantic-settings", "tenacity"],
            "timeout_seconds": 300,
            "start_timeout_seconds": 60,
            "poll_seconds": 0.2,
            "messages": f"{bucket}/messages",
        }

    def export(self, branch: str = "main", commit: str | None = None, quick: bool = False, **keys: Any) -> Export:
        """Export the definitions for this environment into the DAG folder.

        Args:
            branch: the branch whose code the DAGs run.
            commit: the commit whose code they run instead.
            quick: without pauses: before a retry, after a failed run, and before a delivery counts as complete.
            keys: keys of the environment to change; None removes one.
        """
        self.environment = {name: value for name, value in {**self.environment, **keys}.items() if value is not None}
        file = self.root / "environments.yml"
        file.write_text(yaml.safe_dump({"development": self.environment, "production": self.environment}))
        self._patch.setenv("BIOCLOUD_ENVIRONMENTS", str(file))
        self._patch.chdir(ROOT)  # uv.lock has the versions of the libraries
        definitions, settings = collect.build_definitions("development")
        export = collect.collect(definitions, settings, branch=branch, commit=commit)
        if quick:
            dispatchers = [
                dag.model_copy(update={"quiet_seconds": 0, "pause_seconds": 0}) for dag in export.dispatchers
            ]
            jobs = [
                dag.model_copy(
                    update={"tasks": tuple(task.model_copy(update={"retry_delay": 0}) for task in dag.tasks)}
                )
                for dag in export.jobs
            ]
            export = export.model_copy(update={"dispatchers": tuple(dispatchers), "jobs": tuple(jobs)})
        render.write(render.render(export), self.dags.parent)
        return export


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


class Deployed:
    """The exported DAGs in an Airflow, beside a Databricks workspace, with data in S3."""

    def __init__(self, site: Site, airflow: Airflow, workspace: Workspace, endpoint: str) -> None:
        self.site, self.airflow, self.workspace, self.endpoint = site, airflow, workspace, endpoint
        workspace.secrets = {"scope": {"key": "s3cr3t"}}
        workspace.instance_profile = {
            name: os.environ[name] for name in os.environ if name.startswith("AWS_") and name != "AWS_PROFILE"
        }
        host, port = workspace.url.removeprefix("http://").split(":")
        databricks = {"conn_type": "databricks", "host": host, "port": int(port), "schema": "http"}
        keys = {"conn_type": "aws", "login": os.environ["AWS_ACCESS_KEY_ID"], "password": "testing"}
        if airflow.group == "airflow-2-10":
            airflow.settings |= {"BIOCLOUD_TEST_WORKSPACE": workspace.url, "PYTHONPATH": str(HTTPS_ONLY)}
        airflow.settings |= {
            "AIRFLOW_CONN_DATABRICKS_DEFAULT": json.dumps({**databricks, "password": workspace.token}),
            "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(
                {**keys, "extra": {"endpoint_url": endpoint, "region_name": "us-east-1"}}
            ),
        }

    @cached_property
    def landing(self) -> DataLake:
        return DataLake.at(self.site.environment["landing_root"], endpoint=self.endpoint)

    @cached_property
    def lake(self) -> DataLake:
        return DataLake.at(self.site.environment["lake_root"], endpoint=self.endpoint)

    def prepare(self) -> None:
        """Create Airflow's database, and load the DAGs into it."""
        self.airflow.migrate()
        done = self.airflow.airflow("dags", "reserialize")
        assert done.returncode == 0, done.stdout + done.stderr

    def test(self, dag: str, timeout: float = 600, run_id: str = "", **conf: str) -> Any:
        return self.airflow.inside("test", dag, json.dumps(conf), run_id, timeout=timeout)

    def runs(self, dag: str) -> dict[str, Any]:
        """The runs of a DAG: state, configuration, and each task's state."""
        found: dict[str, Any] = self.airflow.inside("runs", dag)["runs"]
        return found

    def printed(self) -> dict[str, Any]:
        """What the script of `quick` printed when it last ran."""
        log = list(self.workspace.runs.values())[-1].tasks[0].log
        (line,) = [line for line in log.splitlines() if line.startswith("STEP ")]
        found: dict[str, Any] = json.loads(line.removeprefix("STEP "))
        return found

    def clusters(self) -> list[str]:
        """The task for which each cluster was started, in order."""
        return [task.key for run in self.workspace.runs.values() for task in run.tasks if task.cluster_id is not None]


REFUSED = "2020-01-01-00:00:00"

STEP = f"""
import json, os, sys
print("STEP", json.dumps({{"branch": "BRANCH", "arguments": sys.argv[1:], "environment": dict(os.environ)}}))
if "--delivery={REFUSED}" in sys.argv:
    raise ValueError("the delivery is refused [{NOT_RETRYABLE}]")
"""


@pytest.fixture
def quick(deployed: Deployed, tmp_path: Path) -> Deployed:
    """Clusters without Spark, whose script prints its arguments, and fails for the delivery REFUSED."""
    folder = tmp_path / "repository"
    (folder / "databricks").mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    for branch in ("main", "feature"):
        (folder / "databricks/run_step.py").write_text(STEP.replace("BRANCH", branch))
        git(folder, "checkout", "--quiet", "-B", branch)
        commit(folder, f"The script of {branch}")
    deployed.workspace.engine = None
    deployed.workspace.repositories[GIT_URL] = folder
    return deployed


@pytest.fixture
def deployed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    s3_root: str,
    s3_server: str,
    databricks_workspace: Workspace,
    code: Path,  # noqa: F811
    version: str,
) -> Deployed:
    databricks_workspace.repositories[GIT_URL] = code
    site = Site(tmp_path, monkeypatch, s3_root)
    site.export(quick=True)
    return Deployed(site, Airflow(version, tmp_path / "home", site.dags), databricks_workspace, s3_server)
