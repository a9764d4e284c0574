"""The Dagster job: what a run does, what it shows, and that nothing runs by itself."""

from __future__ import annotations

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


def tables(result: dg.ExecuteInProcessResult) -> dict[str, list[dict[str, Any]]]:
    """Return the tables that a run shows, of its output or of its failure."""
    metadata: Any = {}
    for event in result.all_events:
        if event.is_successful_output:
            metadata = event.step_output_data.metadata
        elif event.is_step_failure and event.step_failure_data.user_failure_data:
            metadata = event.step_failure_data.user_failure_data.metadata
    return {name: [record.data for record in value.records] for name, value in metadata.items()}


def test_by_default_a_run_only_plans(workspace: DatabricksWorkspace, definitions: dg.Definitions) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = run(definitions, instance)
    assert result.success
    assert workspace.writes == []
    shown = tables(result)
    assert set(shown) == {"plan"}
    rows = [(row["group"], row["change"], row["what"]) for row in shown["plan"]]
    assert rows == [
        ("biologists", "add", "ada@biocloud.example (a new user)"),
        ("biologists", "remove", "bob@biocloud.example"),
        ("biologists", "keep", "etl (a service principal) stays"),
        ("botanists", "add", "the group is created"),
        ("botanists", "add", "ada@biocloud.example (a new user)"),
        ("botanists", "add", "bob@biocloud.example"),
    ]


def test_a_run_that_is_not_dry_shows_plan_and_result(
    workspace: DatabricksWorkspace, definitions: dg.Definitions
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = run(definitions, instance, environment="development", dry_run=False)
    assert result.success
    assert workspace.people("biologists") == {"ada@biocloud.example"}
    assert workspace.people("botanists") == {"ada@biocloud.example", "bob@biocloud.example"}
    rows = [(row["group"], row["result"], row["added"], row["removed"]) for row in tables(result)["result"]]
    assert rows == [("biologists", "changed", 1, 1), ("botanists", "changed", 2, 0)]


def test_a_group_over_its_limit_fails_the_run_which_shows_why(
    workspace: DatabricksWorkspace, definitions: dg.Definitions, tmp_path: Path
) -> None:
    ids = [workspace.add_user(f"user{n}@biocloud.example") for n in range(8)]
    workspace.add_group("botanists", ids)
    with dg.DagsterInstance.ephemeral() as instance:
        result = run(definitions, instance, dry_run=False)
        assert not result.success
        shown = tables(result)
        assert [row["result"] for row in shown["result"]] == ["changed", "left untouched"]
        assert any(row["change"] == "refuse" for row in shown["plan"])
        assert len(workspace.people("botanists")) == 8
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


def test_the_schedule_is_off_until_it_is_switched_on(definitions: dg.Definitions) -> None:
    schedule = definitions.get_repository_def().get_schedule_def("group_sync_daily")
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED


@pytest.mark.parametrize("env", ["development", "production"])
def test_the_schedule_syncs_the_environment_that_dagster_runs_in(monkeypatch: pytest.MonkeyPatch, env: str) -> None:
    monkeypatch.setenv("BIOCLOUD_ENV", env)
    monkeypatch.setenv("BIOCLOUD_LAKE_ROOT", "s3://lake")
    monkeypatch.setenv("BIOCLOUD_LANDING_ROOT", "s3://landing")
    tick = jobs.schedule(dg.build_schedule_context())
    assert isinstance(tick, dg.RunRequest)
    config = tick.run_config["ops"]["sync_groups"]["config"]
    assert (config["environment"], config["dry_run"]) == (env, False)
    assert dg.validate_run_config(jobs.job, tick.run_config)


def test_the_schedule_does_nothing_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOCLOUD_ENV", "local")
    assert isinstance(jobs.schedule(dg.build_schedule_context()), dg.SkipReason)
