"""The group sync in GitLab CI: in which pipelines its jobs run, their scripts, and what they install."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from databricks_workspace import TOKEN, DatabricksWorkspace
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
JOBS: dict[str, Any] = yaml.safe_load((ROOT / ".gitlab" / "group-sync.yml").read_text())
PIPELINE: dict[str, Any] = yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text())

_BRANCH = {"CI_DEFAULT_BRANCH": "main"}
PIPELINES = {
    "merge request": _BRANCH | {"CI_PIPELINE_SOURCE": "merge_request_event"},
    "push to the default branch": _BRANCH | {"CI_PIPELINE_SOURCE": "push", "CI_COMMIT_BRANCH": "main"},
    "push to a branch": _BRANCH | {"CI_PIPELINE_SOURCE": "push", "CI_COMMIT_BRANCH": "x"},
    "push to a branch with a merge request": _BRANCH
    | {"CI_PIPELINE_SOURCE": "push", "CI_COMMIT_BRANCH": "x", "CI_OPEN_MERGE_REQUESTS": "group/project!1"},
    "push to the default branch with a merge request": _BRANCH
    | {"CI_PIPELINE_SOURCE": "push", "CI_COMMIT_BRANCH": "main", "CI_OPEN_MERGE_REQUESTS": "group/project!2"},
    "schedule": _BRANCH | {"CI_PIPELINE_SOURCE": "schedule", "CI_COMMIT_BRANCH": "main"},
    "web": _BRANCH | {"CI_PIPELINE_SOURCE": "web", "CI_COMMIT_BRANCH": "main"},
    "web on a branch": _BRANCH | {"CI_PIPELINE_SOURCE": "web", "CI_COMMIT_BRANCH": "x"},
    "tag": _BRANCH | {"CI_PIPELINE_SOURCE": "push", "CI_COMMIT_TAG": "v1"},
}


def is_true(expression: str, variables: dict[str, str]) -> bool:
    """Evaluate a rule's `if` that consists of variables, strings, ==, !=, && and ||."""
    python = re.sub(r"\$(\w+)", r"variables.get('\1', '')", expression).replace("&&", "and").replace("||", "or")
    assert re.fullmatch(r"(variables\.get\('\w+', ''\)|\"\w*\"|==|!=|and|or|\s)+", python), expression
    return bool(eval(python, {"variables": variables}))


def when(rules: list[dict[str, Any]], pipeline: str) -> str:
    """Return `when` of the first rule that matches, if the files of `changes` changed; `never` if none does."""
    variables = PIPELINES[pipeline]
    return next(
        (rule.get("when", "on_success") for rule in rules if is_true(rule.get("if", '"x"'), variables)), "never"
    )


def started(job: str) -> dict[str, str]:
    """Return how a job starts in each kind of pipeline that is created, without those in which it isn't."""
    found = {}
    for name in PIPELINES:
        if when(PIPELINE["workflow"]["rules"], name) != "never":
            found[name] = when(JOBS[job]["rules"], name)
    return {name: how for name, how in found.items() if how != "never"}


def test_a_merge_request_has_one_pipeline() -> None:
    created = {name for name in PIPELINES if when(PIPELINE["workflow"]["rules"], name) != "never"}
    assert created == PIPELINES.keys() - {"push to a branch with a merge request"}


def test_the_merge_requests_pipeline_can_deploy_the_branch_as_the_branchs_can() -> None:
    rules = PIPELINE["deploy_dags_development"]["rules"]
    assert when(rules, "merge request") == when(rules, "push to a branch") == "manual"
    assert when(PIPELINE["deploy_dags_production"]["rules"], "merge request") == "never"


def test_a_merge_request_plans_and_the_default_branch_applies_also_on_schedule_and_by_hand() -> None:
    assert started("group-sync-plan") == {"merge request": "on_success"}
    default = ["push to the default branch", "push to the default branch with a merge request", "schedule", "web"]
    assert started("group-sync-apply") == dict.fromkeys(default, "on_success")
    assert started("group-sync-apply-production") == dict.fromkeys(default, "manual")
    assert "--dry-run" in str(JOBS["group-sync-plan"]["script"])


def test_what_was_applied_is_kept_for_a_year() -> None:
    job = JOBS["group-sync-apply"]
    assert job["artifacts"] == {"when": "always", "paths": ["group-sync/"], "expire_in": "1 year"}
    assert '--markdown "group-sync/$ENVIRONMENT.md"' in job["script"][-1]


class Runner:
    """Runs a job's script as a runner does: line by line in one shell, which stops at the first failure."""

    def __init__(self, folder: Path, workspace: DatabricksWorkspace) -> None:
        self.folder, self.workspace = folder, workspace
        (folder / "groups").mkdir()
        for environment in ("development", "production"):
            (folder / "groups" / f"{environment}_group.yml").write_text("biologists: [ada@biocloud.example]\n")
        self.connection = {"DATABRICKS_HOST_TEST": workspace.host, "DATABRICKS_TOKEN_TEST": TOKEN}

    def run(self, job: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = f"{sys.executable} {ROOT / 'databricks' / 'sync_groups.py'}"
        given = {"ENVIRONMENT": "development", "SUFFIX": "TEST", "GROUP_SYNC": command}
        return subprocess.run(
            ["bash", "-c", "set -eo pipefail\n" + "\n".join(JOBS[job]["script"])],
            cwd=self.folder,
            env=os.environ | given | variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def record(self) -> str:
        return (self.folder / "group-sync" / "development.md").read_text().replace("\\", "")


@pytest.fixture
def runner(tmp_path: Path, workspace: DatabricksWorkspace) -> Runner:
    workspace.add_group("biologists", [workspace.add_user(f"user{n}@biocloud.example") for n in range(8)])
    return Runner(tmp_path, workspace)


@pytest.mark.parametrize("missing", ["DATABRICKS_HOST_TEST", "DATABRICKS_TOKEN_TEST"])
def test_a_merge_request_without_the_variables_says_so_and_is_allowed_to_fail(runner: Runner, missing: str) -> None:
    done = runner.run("group-sync-plan", **runner.connection | {missing: ""})
    assert done.returncode in JOBS["group-sync-plan"]["allow_failure"]["exit_codes"]
    assert "needs the variables DATABRICKS_HOST_TEST and DATABRICKS_TOKEN_TEST" in done.stdout
    assert "needs the variables" in runner.record()
    assert runner.workspace.log == []


def test_a_merge_request_over_the_cap_shows_the_plan_and_can_be_merged(runner: Runner) -> None:
    done = runner.run("group-sync-plan", **runner.connection)
    assert done.returncode in JOBS["group-sync-plan"]["allow_failure"]["exit_codes"]
    assert "8 of its 8 user members would be removed" in runner.record()
    assert runner.workspace.writes == []


def test_a_wrong_file_fails_the_plan(runner: Runner) -> None:
    (runner.folder / "groups" / "development_group.yml").write_text("biologists: nobody\n")
    done = runner.run("group-sync-plan", **runner.connection)
    assert done.returncode == 2
    assert done.returncode not in JOBS["group-sync-plan"]["allow_failure"]["exit_codes"]


def test_a_reorganisation_over_the_cap_is_applied_with_the_flags_of_the_pipeline(runner: Runner) -> None:
    assert runner.run("group-sync-apply", **runner.connection).returncode == 1
    assert len(runner.workspace.people("biologists")) == 8
    flags = "--allow-removals biologists --json"
    assert runner.run("group-sync-apply", **runner.connection, GROUP_SYNC_FLAGS=flags).returncode == 0
    assert runner.workspace.people("biologists") == {"ada@biocloud.example"}
    assert "- added ada@biocloud.example" in runner.record()


def test_the_flags_of_the_pipeline_are_options_and_not_commands(runner: Runner) -> None:
    done = runner.run("group-sync-apply", **runner.connection, GROUP_SYNC_FLAGS="; touch reached $(touch reached)")
    assert done.returncode == 2
    assert not (runner.folder / "reached").exists()


def test_the_jobs_install_exactly_what_the_script_imports() -> None:
    """The dependency group holds every distribution that the script imports, and none that it doesn't."""
    assert JOBS[".group-sync"]["variables"]["GROUP_SYNC"] == (
        "uv run --frozen --only-group group-sync databricks/sync_groups.py"
    )
    group = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["group-sync"]
    code = "import sync_groups, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    imported = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "databricks", capture_output=True, text=True, check=True
    ).stdout.split()
    owners = importlib.metadata.packages_distributions()
    used = {canonicalize_name(name) for module in imported for name in owners.get(module, [])} - {"biocloud-assets"}

    def closure(name: str) -> set[str]:
        required = [Requirement(one) for one in importlib.metadata.requires(name) or []]
        needed = [one.name for one in required if not one.marker or one.marker.evaluate({"extra": ""})]
        return {canonicalize_name(name)}.union(*map(closure, needed))

    direct = {canonicalize_name(Requirement(one).name) for one in group}
    installed = set().union(*map(closure, direct))
    assert used - {"setuptools", "pip"} <= installed, f"not in the dependency group: {used - installed}"
    assert direct <= used
