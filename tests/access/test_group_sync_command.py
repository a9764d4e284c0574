"""The command: what it shows, writes and refuses, and its exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from databricks_workspace import ACCOUNT_ID, ACCOUNT_ROOT, ADMIN, TOKEN, DatabricksWorkspace, Request

from biocloud_assets.access.sync_groups import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def groups(workspace: DatabricksWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment as in CI: the workspace in variables, and a file with one group that has to change."""
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


def start(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.Popen[str]:
    """Start the script as CI does, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "databricks" / "sync_groups.py"), *arguments],
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def script(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script as CI does; return its output and exit code."""
    process = start(*arguments, cwd=cwd, **environment)
    output, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def test_the_script_plans_and_then_does_what_it_planned(workspace: DatabricksWorkspace, groups: Path) -> None:
    planned = script("development", "--dry-run", "--markdown", str(groups / "plan.md"), cwd=groups.parent)
    assert planned.returncode == 0, planned.stderr
    assert "- add ada@biocloud.example\n- remove bob@biocloud.example" in planned.stdout
    assert "Users to create:\n\n- ada@biocloud.example" in planned.stdout
    assert {request.method for request in workspace.log} == {"GET"}
    assert "- add ada@biocloud.example" in (groups / "plan.md").read_text().replace("\\", "")

    done = script("development", cwd=groups.parent)
    assert done.returncode == 0, done.stderr
    assert "- added ada@biocloud.example\n- removed bob@biocloud.example" in done.stdout
    assert workspace.people("biologists") == {"ada@biocloud.example"}
    for output in (planned, done):
        assert TOKEN not in output.stdout + output.stderr


def test_the_script_holds_the_public_functions() -> None:
    """A notebook can import them; and the folder doesn't shadow Databricks' own package."""
    code = (
        "import sync_groups as s, sys;"
        "print([hasattr(s, name) for name in s.__all__], len(s.__all__), 'databricks' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "databricks", capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{[True] * 8} 8 False"


def test_the_plan_that_is_shown_is_the_plan_that_is_applied(groups: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("development", "--json", "--dry-run") == 0
    plan = json.loads(capsys.readouterr().out)
    assert run("development", "--json") == 0
    done = json.loads(capsys.readouterr().out)
    assert (plan["applied"], done["applied"]) == (False, True)
    (planned,), (group,) = plan["groups"], done["groups"]
    assert planned["add"] == group["add"] == {"ada@biocloud.example": None}
    assert list(planned["remove"].values()) == list(group["remove"].values()) == ["bob@biocloud.example"]
    assert (planned["outcome"], group["outcome"]) == ("planned", "changed")
    assert group["added"] == ["ada@biocloud.example"] == done["users_created"]
    assert group["removed"] == ["bob@biocloud.example"]
    assert run("development", "--json") == 0
    assert json.loads(capsys.readouterr().out)["groups"][0]["outcome"] == "unchanged"


def test_the_markdown_shows_names_as_they_are(groups: Path) -> None:
    (groups / "development_group.yml").write_text("'a|b *c* <d>':\n  - x_y|z@biocloud.example\n")
    assert run("development", "--dry-run", "--markdown", "plan.md") == 0
    text = Path("plan.md").read_text()
    assert "| a\\|b \\*c\\* &lt;d> | workspace | 0       | 1   | 0      | planned |" in text
    assert "- add x\\_y\\|z\\@biocloud.example\n" in text


def test_the_markdown_is_the_record_of_what_was_done(workspace: DatabricksWorkspace, groups: Path) -> None:
    workspace.add_group("botanists", [workspace.add_user(f"user{n}@biocloud.example") for n in range(8)])
    (groups / "development_group.yml").write_text(
        "biologists: [ada@biocloud.example]\nbotanists: [ada@biocloud.example]\n"
    )
    assert run("development", "--markdown", "record.md") == 1
    text = Path("record.md").read_text().replace("\\", "")
    assert text.startswith("# Group sync of development: result\n")
    assert "- added ada@biocloud.example\n- removed bob@biocloud.example\n" in text
    assert "Users created:\n\n- ada@biocloud.example\n" in text
    assert "Not as in the file:\n\n- botanists: 8 of its 8 user members would be removed" in text


def test_the_record_is_complete_up_to_the_group_at_which_the_process_is_killed(
    workspace: DatabricksWorkspace, groups: Path
) -> None:
    (groups / "development_group.yml").write_text(
        "biologists: [ada@biocloud.example]\nbotanists: [ada@biocloud.example]\n"
    )
    process: subprocess.Popen[str]

    def kill(request: Request) -> None:
        if request.method == "POST" and request.path == "/Groups":
            process.kill()

    workspace.behave(intercept=kill)
    process = start("development", "--markdown", "record.md", cwd=groups.parent)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    text = (groups.parent / "record.md").read_text().replace("\\", "")
    assert "biologists:\n\n- added ada@biocloud.example\n- removed bob@biocloud.example\n" in text
    assert "botanists:\n\n- add ada@biocloud.example" in text


def test_a_run_that_cannot_make_a_plan_leaves_the_reason_in_the_markdown(
    workspace: DatabricksWorkspace, groups: Path
) -> None:
    workspace.behave(intercept=lambda request: (403, {}, {"message": "No entry"}))
    assert run("development", "--markdown", "record.md") == 3
    assert "HTTP 403: No entry" in Path("record.md").read_text()


def test_markdown_into_a_missing_folder_is_an_error_before_anything_is_sent(
    workspace: DatabricksWorkspace, groups: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("development", "--markdown", "missing/record.md") == 2
    assert capsys.readouterr().err == (
        "--markdown missing/record.md: expected a file that can be written, found No such file or directory. "
        "Create its folder first, or choose another.\n"
    )
    assert workspace.log == []


def test_at_80_columns_names_and_reasons_are_whole_and_failures_stand_below_the_table(
    workspace: DatabricksWorkspace, groups: Path
) -> None:
    name = "biocloud_" + "very_" * 12 + "long_name"
    workspace.add_group(name, [workspace.add_user(f"user{n}@biocloud.example") for n in range(8)])
    (groups / "development_group.yml").write_text(f"{name}: [{ADMIN}]\nbiologists: [ada@biocloud.example]\n")
    done = script("development", cwd=groups.parent, COLUMNS="80", TERM="xterm")
    assert done.returncode == 1
    result = done.stdout[done.stdout.index("development: result") :]
    reason = (
        f"- {name}: 8 of its 8 user members would be removed, and at most 2 may be removed in one run; "
        f"if the file is right, allow it once with --allow-removals '{name}'"
    )
    assert result.rstrip().splitlines()[-1] == reason
    assert f"| {name} | workspace |" in result
    assert result.index("| outcome") < result.index("Not as in the file:") < result.index(reason)


def test_a_group_over_its_limit_is_exit_code_1_also_when_planning(
    workspace: DatabricksWorkspace, groups: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.add_group("botanists", [workspace.add_user(f"user{n}@biocloud.example") for n in range(8)])
    (groups / "development_group.yml").write_text(
        "botanists: [ada@biocloud.example]\nbiologists: [ada@biocloud.example]\n"
    )
    assert run("development", "--dry-run") == 1
    assert workspace.writes == []
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


def test_an_empty_list_removes_everybody_only_with_the_option(workspace: DatabricksWorkspace, groups: Path) -> None:
    (groups / "development_group.yml").write_text("biologists: []\n")
    assert run("development") == 1
    assert workspace.people("biologists") == {"bob@biocloud.example"}
    assert run("development", "--allow-removals", "biologists") == 0
    assert workspace.people("biologists") == set()


def refused_by(status: int) -> dict[str, Any]:
    return {"intercept": lambda request: (status, {}, {"message": "No entry"})}


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        (refused_by(401), "create a new one"),
        (refused_by(403), "must be an administrator"),
        ({"admin": False}, "Use an administrator's token"),
        ({"faults_from": (1, "a log-in page")}, "expected a JSON object"),
        ({"intercept": lambda request: (200, {}, {"totalResults": 5})}, "expected a complete list, found 0 of 5"),
    ],
    ids=["401", "403", "no administrator", "a log-in page", "an incomplete list"],
)
def test_a_server_that_cannot_be_read_is_exit_code_3(
    workspace: DatabricksWorkspace,
    groups: Path,
    capsys: pytest.CaptureFixture[str],
    behaviour: dict[str, Any],
    says: str,
) -> None:
    workspace.behave(**behaviour)
    assert run("development") == 3
    assert says in capsys.readouterr().err
    assert workspace.writes == []


def test_a_server_that_cannot_be_reached_is_exit_code_3(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_HOST_TEST", "http://127.0.0.1:9")
    monkeypatch.setattr("biocloud_assets.access.scim.time.sleep", lambda _: None)
    assert run("development") == 3


def test_an_interrupted_run_ends_with_one_line_and_exit_code_130(workspace: DatabricksWorkspace, groups: Path) -> None:
    process: subprocess.Popen[str]

    def interrupt(request: Request) -> None:
        process.send_signal(signal.SIGINT)

    workspace.behave(intercept=interrupt, slow=2.0, faults={0: "no answer in time"})
    process = start("development", cwd=groups.parent)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines() == [
        "Interrupted. The groups that the log names are done; run again for the others.",
    ]
    assert output == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "environment"),
        (["staging"], "invalid choice"),
        (["production"], "production_group.yml"),
        (["development", "--allow-removals", "typo"], "--allow-removals typo"),
        (["development", "--protected", "biologists"], "--protected"),
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


def test_an_account_id_that_is_none_is_refused(
    workspace: DatabricksWorkspace, groups: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABRICKS_ACCOUNT_ID_TEST", "../../preview")
    assert run("development") == 2
    assert "DATABRICKS_ACCOUNT_ID_TEST" in capsys.readouterr().err
    assert workspace.log == []


def test_the_variable_of_the_account_selects_the_account(
    workspace: DatabricksWorkspace, groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABRICKS_ACCOUNT_ID_TEST", ACCOUNT_ID)
    before = workspace.everything()
    workspace.add_account_user("account.admin@biocloud.example")
    assert run("development") == 0
    assert {group.display_name for group in workspace.account.of("Group")} == {"biologists"}
    assert all(request.path.startswith(ACCOUNT_ROOT) for request in workspace.log)
    assert workspace.everything() == before


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


def test_on_databricks_host_and_token_come_from_a_secret_scope(
    workspace: DatabricksWorkspace, groups: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DATABRICKS_HOST_TEST", "DATABRICKS_TOKEN_TEST"):
        monkeypatch.delenv(name)
    kept = {("scope", "group-sync-host"): workspace.host, ("scope", "group-sync-token"): TOKEN}
    utilities = SimpleNamespace(secrets=SimpleNamespace(get=lambda scope, key: kept[scope, key]))
    monkeypatch.setattr(sys.modules["__main__"], "dbutils", utilities, raising=False)
    monkeypatch.chdir(ROOT)
    assert run("development", "--groups", str(groups), "--secret-scope", "scope") == 0
    assert workspace.people("biologists") == {"ada@biocloud.example"}
    shown = capsys.readouterr()
    assert TOKEN not in shown.out + shown.err


def test_a_secret_scope_elsewhere_is_wrong_use(groups: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("development", "--secret-scope", "scope") == 2
    assert "--secret-scope: expected a Databricks cluster or serverless compute" in capsys.readouterr().err
