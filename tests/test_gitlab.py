"""The GitLab pipeline: that GitLab understands it, what runs on which branch, and that its jobs really do their work.

The jobs run here by gitlab-ci-local, in a clone of the repository as it is on this disk, with moto for the buckets.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from biocloud_assets.environments import load_environment
from tests.needs import unavailable

ROOT = Path(__file__).parents[1]

# The newest that runs on Node.js 20 too.
GITLAB_CI_LOCAL = "gitlab-ci-local@4.70.1"

AUTOMATIC = {"lint", "type_check", "docs", "schemas", "export_drift", "tests", "asset_checks"}

# The whole of the tests would run these here again.
FEW_TESTS = "tests/test_settings.py"


def test_gitlabs_published_schema_accepts_the_pipeline() -> None:
    files = [".gitlab-ci.yml", *(str(path.relative_to(ROOT)) for path in (ROOT / ".gitlab").glob("*.yml"))]
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.gitlab-ci", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_two_deployments_to_one_environment_never_run_at_once() -> None:
    jobs = yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text())
    groups = [jobs[f"deploy_dags_{env}"]["resource_group"] for env in ("development", "production")]
    assert len(set(groups)) == 2


class Clone:
    """A clone with an origin, and what a runner does in it."""

    def __init__(self, root: Path, command: Path) -> None:
        self.root, self.command = root, command

    def git(self, *arguments: str) -> str:
        who = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
        done = subprocess.run(["git", *who, *arguments], cwd=self.root, check=True, capture_output=True, text=True)
        return done.stdout

    def switch(self, branch: str) -> None:
        self.git("checkout", "-q", "-B", branch, "main")

    def call(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        cache = subprocess.run(["uv", "cache", "dir"], check=True, capture_output=True, text=True).stdout.strip()
        given = {"UV_CACHE_DIR": cache, **variables}
        return subprocess.run(
            [
                *(str(self.command), "--home", str(self.root.parent), "--force-shell-executor", "--no-shell-isolation"),
                *(argument for name, value in given.items() for argument in ("--variable", f"{name}={value}")),
                *arguments,
            ],
            cwd=self.root,
            # What the tests' own process was started with is not for the jobs.
            env={name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "VIRTUAL_ENV"))},
            capture_output=True,
            text=True,
            timeout=1500,
        )

    def listed(self) -> dict[str, dict[str, Any]]:
        """The jobs and how they start on the branch that is checked out."""
        done = self.call("--list-json")
        assert done.returncode == 0, done.stderr
        return {job["name"]: job for job in json.loads(done.stdout)}

    def run(self, *jobs: str, **variables: str) -> dict[str, str]:
        """Run jobs, or without any the pipeline; returns how each ended."""
        done = self.call(*jobs, **variables)
        found = re.findall(r"^ *(PASS|FAIL|WARN) +(\S+)", re.sub(r"\x1b\[[0-9;]*m", "", done.stdout), re.MULTILINE)
        ends = {name: end for end, name in found}
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
        return ends


@pytest.fixture(scope="module")
def gitlab_ci_local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command, from npm's registry."""
    for needed in ("npm", "rsync", "git", "uv"):
        if shutil.which(needed) is None:
            unavailable(f"there is no {needed}")
    folder = tmp_path_factory.mktemp("npm")
    done = subprocess.run(
        ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder, GITLAB_CI_LOCAL],
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        unavailable(f"npm can't install {GITLAB_CI_LOCAL}: {done.stderr[-500:]}")
    return folder / "node_modules/.bin/gitlab-ci-local"


@pytest.fixture(scope="module")
def clone(gitlab_ci_local: Path, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The repository as it is on this disk, on its default branch."""
    root = tmp_path_factory.mktemp("gitlab") / "biocloud"
    root.mkdir()
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    for name in filter(None, files.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    clone = Clone(root, gitlab_ci_local)
    clone.git("init", "-q", "-b", "main")
    clone.git("add", "-A")
    clone.git("commit", "-q", "-m", "As it is")
    clone.git("clone", "-q", "--bare", ".", "../origin.git")
    clone.git("remote", "add", "origin", "../origin.git")
    clone.git("fetch", "-q", "origin")
    clone.git("remote", "set-head", "origin", "main")
    clone.git("remote", "set-url", "origin", "https://gitlab.com/example/biocloud.git")
    return clone


@pytest.fixture
def buckets(s3_server: str) -> Iterator[Buckets]:
    """The buckets of the environments' file, empty."""
    found = Buckets(s3_server)
    yield found
    found.clear()


class Buckets:
    """Airflow's buckets, as `databricks/environments.yml` names them."""

    def __init__(self, endpoint: str) -> None:
        import boto3

        self.s3 = boto3.resource("s3", endpoint_url=endpoint)
        file = ROOT / "databricks/environments.yml"
        self.places = {
            env: load_environment(file, env).dags.removeprefix("s3://").partition("/")  # type: ignore[arg-type]
            for env in ("development", "production")
        }
        for bucket, _, _ in self.places.values():
            self.s3.create_bucket(Bucket=bucket)

    def clear(self) -> None:
        for bucket, _, _ in self.places.values():
            self.s3.Bucket(bucket).objects.all().delete()

    def dags(self, environment: str) -> dict[str, str]:
        """What lies in the bucket, by its path below the environment's folder of DAGs."""
        bucket, _, folder = self.places[environment]
        return {
            found.key.removeprefix(f"{folder}/"): found.get()["Body"].read().decode()
            for found in self.s3.Bucket(bucket).objects.all()
        }


def committed(environment: str) -> dict[str, str]:
    folder = ROOT / "airflow_export" / environment / "dags"
    return {path.name: path.read_text() for path in folder.glob("*.py")}


@pytest.mark.gitlab
@pytest.mark.timeout(1800)
def test_what_runs_by_itself_and_what_by_hand_depends_on_the_branch(clone: Clone) -> None:
    clone.switch("main")
    on_default = clone.listed()
    clone.switch("feature/x")
    on_feature = clone.listed()
    for jobs in (on_default, on_feature):
        assert {name for name in AUTOMATIC if jobs[name]["when"] == "on_success"} == AUTOMATIC
    assert on_default["deploy_dags_development"]["when"] == "on_success"
    assert on_feature["deploy_dags_development"]["when"] == "manual"
    assert on_default["deploy_dags_production"]["when"] == "manual"
    assert on_feature.get("deploy_dags_production", {"when": "never"})["when"] == "never"


@pytest.mark.gitlab
@pytest.mark.timeout(1800)
def test_the_pipeline_of_the_default_branch_checks_all_and_deploys_to_development_only(
    clone: Clone, buckets: Buckets
) -> None:
    clone.switch("main")
    ends = clone.run(PYTEST_ADDOPTS=FEW_TESTS)
    assert ends == dict.fromkeys([*AUTOMATIC, "deploy_dags_development", "pages"], "PASS")
    assert (clone.root / "public/index.html").exists()
    assert buckets.dags("development") == committed("development") != {}
    assert buckets.dags("production") == {}
    checks = [one["checks"] for one in json.loads((clone.root / "asset-checks.json").read_text())["deliveries"]]
    assert len(checks) == 4
    assert all(found["passed"] and not found["failed"] for found in checks)


@pytest.mark.gitlab
@pytest.mark.timeout(1800)
def test_the_deployment_of_a_feature_branch_runs_that_branchs_code(clone: Clone, buckets: Buckets) -> None:
    clone.switch("feature/x")
    assert clone.run("deploy_dags_development") == {"deploy_dags_development": "PASS"}
    deployed = buckets.dags("development")
    assert deployed.keys() == committed("development").keys()
    assert all("feature/x" in text for text in deployed.values())


@pytest.mark.gitlab
@pytest.mark.timeout(1800)
def test_production_is_deployed_by_hand_and_runs_the_commit_that_was_built(clone: Clone, buckets: Buckets) -> None:
    clone.switch("main")
    assert clone.run("deploy_dags_production") == {"deploy_dags_production": "PASS"}
    deployed, head = buckets.dags("production"), clone.git("rev-parse", "HEAD").strip()
    assert deployed.keys() == committed("production").keys()
    assert f'"git_commit": "{head}"' in deployed["dsi_raw.py"]
    assert 'git_branch": "' not in deployed["dsi_raw.py"]
    assert buckets.dags("development") == {}


@pytest.mark.gitlab
@pytest.mark.timeout(1800)
def test_a_stale_export_stops_the_pipeline_before_anything_is_deployed(clone: Clone, buckets: Buckets) -> None:
    clone.switch("stale")
    file = next((clone.root / "airflow_export/development/dags").glob("*.py"))
    file.write_text(file.read_text() + "# by hand\n")
    clone.git("commit", "-q", "-a", "-m", "Stale")
    drift = clone.call("export_drift")
    assert drift.returncode != 0
    assert file.name in drift.stdout
    deployment = clone.call("deploy_dags_development")  # by hand, so that its failure stops nothing else
    assert "Nothing was deployed" in deployment.stdout + deployment.stderr
    assert buckets.dags("development") == {}


@pytest.mark.gitlab
@pytest.mark.timeout(1800)
def test_a_failing_asset_check_makes_its_job_fail(clone: Clone, tmp_path: Path) -> None:
    clone.switch("faulty")
    sample = clone.root / "biocloud_assets/sample/deliveries/2020-07-10-06.00.00"
    sensors = pq.read_table(sample / "sensor/part-0.parquet")
    pq.write_table(pa.concat_tables([sensors, sensors]), sample / "sensor/part-0.parquet")  # every key is there twice
    done = clone.call("asset_checks", BIOCLOUD_HOME=str(tmp_path))
    clone.git("checkout", "-q", "--", ".")
    assert done.returncode != 0
    assert '"refused"' in done.stdout


@pytest.mark.gitlab
@pytest.mark.timeout(1800)
def test_the_plan_of_the_group_sync_without_variables_is_a_warning(clone: Clone) -> None:
    clone.switch("feature/x")
    assert clone.run("group-sync-plan") == {"group-sync-plan:": "WARN"}  # both jobs of the matrix
