"""The Dagster job: what a run does and shows, and that no run starts on its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from databricks_workspace import TOKEN, DatabricksWorkspace

from biocloud_assets.access import jobs


@pytest.fixture
def definitions() -> dg.Definitions:
    return dg.Definitions(jobs=[jobs.job], schedules=[jobs.schedule])


@pytest.fixture(autouse=True)
def _environment(workspace: DatabricksWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "development_group.yml").write_text(
        "biologists: [ada@biocloud.example]\nbotanists: [ada@biocloud.example, bob@biocloud.example]\n"
    )
    bob = workspace.add_user("bob@biocloud.example")
    workspace.add_group("biologists", [bob, workspace.add_service_principal("etl")])
    monkeypatch.setenv("BIOCLOUD_GROUPS", str(tmp_path))
    monkeypatch.setenv("DATABRICKS_HOST_TEST", workspace.host)
    monkeypatch.setenv("DATABRICKS_TOKEN_TEST", TOKEN)


def run(definitions: dg.Definitions, instance: dg.DagsterInstance, **config: Any) -> dg.ExecuteInProcessResult:
    return definitions.resolve_job_def("group_sync").execute_in_process(
        run_config={"ops": {"sync_groups": {"config": config}}}, raise_on_error=False, instance=instance
    )


def shown(result: dg.ExecuteInProcessResult) -> str:
    """Return the report in the metadata of the run's output, or of its failure."""
    metadata: Any = {}
    for event in result.all_events:
        if event.is_successful_output:
            metadata = event.step_output_data.metadata
        elif event.is_step_failure and event.step_failure_data.user_failure_data:
            metadata = event.step_failure_data.user_failure_data.metadata
    return str(metadata["report"].value).replace("\\", "")


def test_by_default_a_run_only_plans(workspace: DatabricksWorkspace, definitions: dg.Definitions) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = run(definitions, instance)
    assert result.success
    assert workspace.writes == []
    report = shown(result)
    assert "development: plan" in report
    assert "- add ada@biocloud.example" in report
    assert "- remove bob@biocloud.example" in report
    assert "- keep etl (a service principal)" in report
    assert re.search(r"\| botanists +\| workspace \| 0 +\| 2 +\| 0 +\| planned", report)


def test_a_run_that_is_not_dry_shows_what_it_did(workspace: DatabricksWorkspace, definitions: dg.Definitions) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = run(definitions, instance, environment="development", dry_run=False)
    assert result.success
    assert workspace.people("biologists") == {"ada@biocloud.example"}
    assert workspace.people("botanists") == {"ada@biocloud.example", "bob@biocloud.example"}
    report = shown(result)
    assert "development: result" in report
    assert "- added ada@biocloud.example\n- removed bob@biocloud.example" in report


def test_a_group_over_its_limit_fails_the_run_which_shows_why(
    workspace: DatabricksWorkspace, definitions: dg.Definitions
) -> None:
    workspace.add_group("botanists", [workspace.add_user(f"user{n}@biocloud.example") for n in range(8)])
    with dg.DagsterInstance.ephemeral() as instance:
        for dry_run in (True, False):
            result = run(definitions, instance, dry_run=dry_run)
            assert not result.success
            assert "- botanists: 8 of its 8 user members would be removed" in shown(result)
        assert len(workspace.people("botanists")) == 8
        assert workspace.people("biologists") == {"ada@biocloud.example"}
        assert run(definitions, instance, dry_run=False, allow_removals=["botanists"]).success
    assert workspace.people("botanists") == {"ada@biocloud.example", "bob@biocloud.example"}


@pytest.mark.parametrize("fault", ["refused", "stopped", "changed"])
def test_the_token_is_in_no_event_of_a_run(
    workspace: DatabricksWorkspace, definitions: dg.Definitions, fault: str
) -> None:
    if fault == "refused":
        workspace.behave(
            intercept=lambda request: (
                (403, {}, {"detail": f"not with {request.authorization}"}) if request.method == "PATCH" else None
            )
        )
    elif fault == "stopped":
        workspace.behave(intercept=lambda request: (401, {}, {"detail": f"not with {request.authorization}"}))
    with dg.DagsterInstance.ephemeral() as instance:
        result = run(definitions, instance, dry_run=False)
        events = instance.all_logs(result.run_id)
        assert result.success == (fault == "changed")
        assert events
        assert TOKEN not in "".join(event.to_json() for event in events)


def test_the_schedule_is_off_until_somebody_turns_it_on(definitions: dg.Definitions) -> None:
    schedule = definitions.get_repository_def().get_schedule_def("group_sync_daily")
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED


@pytest.mark.parametrize("env", ["development", "production"])
def test_the_schedule_synchronises_the_environment_that_dagster_runs_in(
    monkeypatch: pytest.MonkeyPatch, env: str
) -> None:
    monkeypatch.setenv("BIOCLOUD_ENV", env)
    monkeypatch.setenv("BIOCLOUD_LAKE_ROOT", "s3://lake")
    monkeypatch.setenv("BIOCLOUD_LANDING_ROOT", "s3://landing")
    tick = jobs.schedule(dg.build_schedule_context())
    assert isinstance(tick, dg.RunRequest)
    config = tick.run_config["ops"]["sync_groups"]["config"]
    assert (config["environment"], config["dry_run"]) == (env, False)
    assert dg.validate_run_config(jobs.job, tick.run_config)


def test_the_schedule_skips_the_local_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOCLOUD_ENV", "local")
    assert isinstance(jobs.schedule(dg.build_schedule_context()), dg.SkipReason)
