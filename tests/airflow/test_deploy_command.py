"""`biocloud airflow deploy`: which code the deployed DAGs run."""

from __future__ import annotations

import shutil
from pathlib import Path

import boto3
import pytest
import typer.testing

from biocloud_assets.cli.commands import app
from biocloud_assets.errors import DeployError, SettingsError
from biocloud_assets.version import is_on_branch
from tests.repository import commit, git

ROOT = Path(__file__).parents[2]
BUCKETS = {name: f"example-airflow-{name}" for name in ("development", "production")}


@pytest.fixture
def checkout(tmp_path: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout as a runner of GitLab makes one: a commit of `main`, which only the remote branch names."""
    for name in ("airflow_export", "databricks", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "uv.lock", tmp_path)
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    commit(tmp_path, "Initial commit")
    git(tmp_path, "update-ref", "refs/remotes/origin/main", "HEAD")
    git(tmp_path, "checkout", "--quiet", "--detach")
    git(tmp_path, "branch", "--quiet", "-D", "main")
    monkeypatch.chdir(tmp_path)
    s3 = boto3.resource("s3", endpoint_url=s3_server)
    for bucket in BUCKETS.values():
        s3.create_bucket(Bucket=bucket)
        s3.Bucket(bucket).objects.all().delete()
    return tmp_path


def deploy(environment: str, *options: str) -> str:
    """Deploy, and return the file of one DAG in the bucket."""
    found = typer.testing.CliRunner().invoke(app, ["airflow", "deploy", environment, *options])
    if found.exception is not None:
        raise found.exception
    return boto3.resource("s3").Object(BUCKETS[environment], "dags/dsi_raw.py").get()["Body"].read().decode()


def test_production_runs_the_commit_of_the_folder_or_the_branch_that_is_named(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    for options in ((), ("--git-commit", head)):
        deployed = deploy("production", *options)
        assert f'"git_commit": "{head}"' in deployed
        assert f'@ {head[:12]}"' in deployed
    assert '"git_branch": "main"' in deploy("production", "--git-branch", "main")


def test_a_commit_that_is_not_on_main_goes_to_development_only(checkout: Path) -> None:
    (checkout / "another").write_text("file")
    commit(checkout, "Add a file")
    head = git(checkout, "rev-parse", "HEAD")
    with pytest.raises(DeployError, match=f"commit {head}: expected a commit of main"):
        deploy("production")
    assert f'"git_commit": "{head}"' in deploy("development", "--git-commit", head)


def test_a_commit_that_is_not_checked_out_is_refused(checkout: Path) -> None:
    with pytest.raises(DeployError, match="expected the commit of the current folder, whose definitions are exported"):
        deploy("production", "--git-commit", "0" * 40)


@pytest.mark.parametrize("environment", ["development", "production"])
def test_a_branch_and_a_commit_together_are_refused(checkout: Path, environment: str) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    with pytest.raises(DeployError, match="expected one of --git-branch and --git-commit, found both"):
        deploy(environment, "--git-branch", "main", "--git-commit", head)


def test_a_branch_that_a_dag_cannot_name_is_refused_with_the_option(checkout: Path) -> None:
    with pytest.raises(SettingsError, match=r"--git-branch: expected a branch whose name .*, found 'fix\(scope\)'"):
        deploy("development", "--git-branch", "fix(scope)")


def test_a_commit_is_on_a_branch_if_it_is_one_of_its_ancestors(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    commits = []
    for branch in ("main", "main", "feature"):
        git(tmp_path, "checkout", "--quiet", "-B", branch)
        (tmp_path / "file").write_text(str(len(commits)))
        commit(tmp_path, "Change the file")
        commits.append(git(tmp_path, "rev-parse", "HEAD"))
    assert [is_on_branch(one, "main", tmp_path) for one in commits] == [True, True, False]
    assert [is_on_branch(one, "feature", tmp_path) for one in commits] == [True, True, True]
    assert not is_on_branch(commits[0], "unknown", tmp_path)
    assert not is_on_branch(commits[0], "main", tmp_path / "nowhere")
