"""The command: what it shows, what it refuses, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from databricks_workspace import ADMIN, TOKEN, DatabricksWorkspace

from biocloud_assets.access.sync_groups import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def groups(workspace: DatabricksWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment as in CI: the workspace in variables, and a file with one group that is to change."""
    folder = tmp_path / "groups"
    folder.mkdir()
    (folder / "development_group.yml").write_text("biologists:\n  - ada@biocloud.example\n")
    workspace.add_group("biologists", [workspace.add_user("bob@biocloud.example")])
    monkeypatch.setenv("DATABRICKS_HOST_TEST", workspace.host)
    monkeypatch.setenv("DATABRICKS_TOKEN_TEST", TOKEN)
    monkeypatch.chdir(tmp_path)
    return folder


def run(*arguments: str) -> int:
    """Run the command in this process; return its exit code."""
    before, sys.argv = sys.argv, ["sync_groups.py", *arguments]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


def script(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script as CI does, in a process of its own."""
    return subprocess.run(
        [sys.executable, str(ROOT / "databricks" / "sync_groups.py"), *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_script_plans_and_then_does_what_it_planned(workspace: DatabricksWorkspace, groups: Path) -> None:
    planned = script("development", "--dry-run", "--markdown", str(groups / "plan.md"), cwd=groups.parent)
    assert planned.returncode == 0, planned.stderr
    assert "+ ada@biocloud.example (a new user)" in planned.stdout
    assert "- bob@biocloud.example" in planned.stdout
    assert {request.method for request in workspace.log} == {"GET"}
    assert "+ ada@biocloud.example" in (groups / "plan.md").read_text().replace("\\", "")

    done = script("development", cwd=groups.parent)
    assert done.returncode == 0, done.stderr
    assert workspace.people("biologists") == {"ada@biocloud.example"}
    for output in (planned, done):
        assert TOKEN not in output.stdout + output.stderr


def test_the_script_holds_the_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """For whoever uses them from a notebook; and the folder doesn't shadow Databricks' own package."""
    code = (
        "import sync_groups as s, sys;"
        "print([hasattr(s, name) for name in s.__all__], len(s.__all__), 'databricks' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "databricks", capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{[True] * 8} 8 False"


def test_the_plan_that_is_shown_is_the_plan_that_is_applied(
    workspace: DatabricksWorkspace, groups: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("development", "--json", "--dry-run") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["results"] is None
    assert run("development", "--json") == 0
    done = json.loads(capsys.readouterr().out)
    (group,), (result,) = done["groups"], done["results"]
    assert done | {"results": None} == plan
    assert group["add"] == [{"email": "ada@biocloud.example", "id": None}]
    assert [person["email"] for person in group["remove"]] == ["bob@biocloud.example"]
    assert result["added"] == ["ada@biocloud.example"] == result["created"]
    assert result["removed"] == ["bob@biocloud.example"]
    assert run("development", "--json") == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["outcome"] == "unchanged"


def test_the_markdown_shows_names_as_they_are(workspace: DatabricksWorkspace, groups: Path) -> None:
    (groups / "development_group.yml").write_text("'a|b *c* <d>':\n  - x_y|z@biocloud.example\n")
    assert run("development", "--dry-run", "--markdown", "plan.md") == 0
    (row,) = [line for line in Path("plan.md").read_text().splitlines() if line.startswith(("| a", "|a"))]
    assert row == (
        "| a\\|b \\*c\\* &lt;d> | 0 | + the group is created<br>+ x\\_y\\|z\\@biocloud.example \\(a new user\\) |"
    )


def test_brackets_in_a_name_are_no_markup(groups: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (groups / "development_group.yml").write_text("'[red]a[/nope]':\n  - ada@biocloud.example\n")
    assert run("development", "--dry-run") == 0
    assert "[red]a[/nope]" in capsys.readouterr().out


def test_a_group_over_its_limit_is_exit_code_1_also_when_planning(
    workspace: DatabricksWorkspace, groups: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = [workspace.add_user(f"user{n}@biocloud.example") for n in range(8)]
    workspace.add_group("botanists", ids)
    (groups / "development_group.yml").write_text(
        "botanists: [ada@biocloud.example]\nbiologists: [ada@biocloud.example]\n"
    )
    assert run("development", "--dry-run") == 1
    assert run("development") == 1
    assert "botanists" in capsys.readouterr().out
    assert len(workspace.people("botanists")) == 8
    assert workspace.people("biologists") == {"ada@biocloud.example"}
    assert run("development", "--allow-removals", "botanists") == 0
    assert workspace.people("botanists") == {"ada@biocloud.example"}


def test_the_required_members_of_the_file_are_kept(workspace: DatabricksWorkspace, groups: Path) -> None:
    (groups / "development_group.yml").write_text(
        "_required: [Bob@biocloud.example]\nbiologists: [ada@biocloud.example]\n"
    )
    assert run("development") == 0
    assert workspace.people("biologists") == {"ada@biocloud.example", "bob@biocloud.example"}


def test_an_empty_list_needs_the_flag(workspace: DatabricksWorkspace, groups: Path) -> None:
    (groups / "development_group.yml").write_text("biologists: []\n")
    assert run("development") == 2
    assert workspace.log == []
    assert run("development", "--allow-empty") == 0
    assert workspace.people("biologists") == set()


def test_a_workspace_that_cannot_be_read_is_exit_code_1(
    workspace: DatabricksWorkspace, groups: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.behave(admin=False)
    assert run("development") == 1
    assert "administrator" in capsys.readouterr().err
    assert workspace.writes == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "environment"),
        (["staging"], "invalid choice"),
        (["production"], "production_group.yml"),
        (["development", "--protected", "Biologists"], "protected group"),
        (["development", "--allow-removals", "typo"], "--allow-removals typo"),
        (["development", "--fast"], "--fast"),
    ],
)
def test_wrong_use_is_exit_code_2_and_no_request(
    workspace: DatabricksWorkspace, groups: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert run(*arguments) == 2
    assert says in capsys.readouterr().err
    assert workspace.log == []


@pytest.mark.parametrize("variable", ["DATABRICKS_HOST_TEST", "DATABRICKS_TOKEN_TEST"])
def test_a_missing_variable_is_named(
    groups: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str
) -> None:
    monkeypatch.delenv(variable)
    assert run("development") == 2
    assert variable in capsys.readouterr().err


def test_production_has_a_workspace_and_a_file_of_its_own(
    workspace: DatabricksWorkspace, groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (groups / "production_group.yml").write_text(f"biologists: [bob@biocloud.example, {ADMIN}]\n")
    monkeypatch.setenv("DATABRICKS_HOST_TEST", "https://not-this-one.example")
    assert run("production") == 2
    monkeypatch.setenv("DATABRICKS_HOST_PROD", workspace.host)
    monkeypatch.setenv("DATABRICKS_TOKEN_PROD", TOKEN)
    assert run("production") == 0
    assert workspace.people("biologists") == {"bob@biocloud.example", ADMIN}


def test_in_ci_a_merge_request_only_plans_and_production_is_applied_by_hand() -> None:
    jobs = yaml.safe_load((ROOT / ".gitlab" / "group-sync.yml").read_text())
    for name, job in jobs.items():
        rules = str(job.get("rules", jobs["group-sync-apply"]["rules"])) if isinstance(job, dict) else ""
        script = str(job.get("script", "")) if isinstance(job, dict) else ""
        assert "merge_request_event" not in rules or "--dry-run" in script, name
        assert "sync_groups.py" not in script or "--dry-run" in script or "$CI_DEFAULT_BRANCH" in rules, name
    production = jobs["group-sync-apply-production"]
    assert production["variables"]["ENVIRONMENT"] == "production"
    assert {rule["when"] for rule in production["rules"]} == {"manual"}


def test_the_sample_of_grants_has_no_parameter_that_it_does_not_explain() -> None:
    comments, statements = [], []
    for line in (ROOT / "databricks" / "Privileges_sample.sql").read_text().splitlines():
        (comments if line.startswith("--") else statements).append(line)
    used, explained = (set(re.findall(r"\$\{(\w+)\}", "\n".join(lines))) for lines in (statements, comments))
    assert used == explained == {"catalog", "raw_schema", "curated_schema", "group", "default_group"}
    # The new group has its access before the default group loses any, and nobody writes.
    verbs = [(line.split()[0], "default_group" in line) for line in statements if line.startswith(("GRANT", "REVOKE"))]
    assert verbs.index(("REVOKE", True)) > max(n for n, verb in enumerate(verbs) if verb == ("GRANT", False))
    assert not re.search(r"GRANT[^;]*(ALL|MODIFY|WRITE|CREATE|MANAGE)", "\n".join(statements))
