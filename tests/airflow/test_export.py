"""The export: every definition has a counterpart or a reason, and the same definitions give the same files."""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import typer.testing

from biocloud_assets import raw
from biocloud_assets.airflow import collect, render
from biocloud_assets.airflow.model import Export
from biocloud_assets.cli.commands import app
from biocloud_assets.errors import ExportError, SettingsError
from biocloud_assets.ingest.step import all_checks
from biocloud_assets.launch.launcher import REMOTE_MAX_RETRIES
from biocloud_assets.launch.script import NOT_IN_AIRFLOW, script_tags
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.run_step import _parser, _request
from biocloud_assets.settings import Settings

ROOT = Path(__file__).parents[2]
DAYS = dg.DailyPartitionsDefinition("2026-01-01")


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@cache
def definitions() -> tuple[dg.Definitions, Settings]:
    return collect.build_definitions("development")


def export(*more: dg.Definitions) -> Export:
    own, settings = definitions()
    return collect.collect(dg.Definitions.merge(own, *more) if more else own, settings, branch="main")


@dg.op(tags=script_tags("databricks/publish.py", ["--run-date", "{run_date}", "--root", "{curated_root}"]))
def make_day() -> int:
    return 1


@dg.op(tags=script_tags("databricks/manifest.py", ["{run_date}"]), retry_policy=dg.RetryPolicy(max_retries=4, delay=9))
def note_day(published: int) -> int:
    return published


@dg.graph_asset(key=["example", "dsi", "day"], partitions_def=DAYS)
def day() -> Any:
    """A graph of two ops with scripts of their own, which makes one asset."""
    return note_day(make_day())


@dg.schedule(
    job=dg.define_asset_job("daily_example", [day]),
    cron_schedule="0 4 * * *",
    execution_timezone="Europe/Amsterdam",
)
def every_day(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    return dg.RunRequest(partition_key=(context.scheduled_execution_time - timedelta(days=1)).strftime("%Y-%m-%d"))


DAILY = dg.Definitions(assets=[day], schedules=[every_day])


def test_the_committed_export_is_that_of_the_definitions() -> None:
    found = typer.testing.CliRunner().invoke(app, ["airflow", "export", "--check"])
    assert found.exit_code == 0, found.output


def test_the_difference_to_a_stale_export_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("biocloud_assets.cli.airflow.EXPORT_ROOT", tmp_path)
    run = typer.testing.CliRunner().invoke
    assert run(app, ["airflow", "export", "--env", "development", "--git-branch", "feature"]).exit_code == 0
    (tmp_path / "development/dags/of_a_removed_job.py").write_text("")
    (tmp_path / "development/equivalence.md").write_text("the name of the mapping before version 0.2")
    found = run(app, ["airflow", "export", "--env", "development", "--check"])
    assert found.exit_code == 1
    assert re.search(r'^- +"git_branch": "feature",\n^\+ +"git_branch": "main",', found.output, re.MULTILINE)
    assert run(app, ["airflow", "export", "--env", "development"]).exit_code == 0
    assert run(app, ["airflow", "export", "--env", "development", "--check"]).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "development").iterdir()) == ["dags", "mapping.md"]
    assert not (tmp_path / "development/dags/of_a_removed_job.py").exists()


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--git-commit", "HEAD", "40 hexadecimal digits, as `git rev-parse HEAD` prints them"),
        ("--git-commit", "0123456789ab", "40 hexadecimal digits"),
        ("--git-branch", "fix(scope)", "a branch whose name has only letters, digits"),
        ("--git-branch", "", "a branch whose name has only letters, digits"),
    ],
)
def test_a_commit_or_a_branch_that_a_dag_cannot_name_is_refused(option: str, value: str, expected: str) -> None:
    found = typer.testing.CliRunner().invoke(app, ["airflow", "export", "--check", option, value])
    assert isinstance(found.exception, SettingsError)
    message = str(found.exception)
    assert message.startswith(f"{option}: expected {expected}")
    assert f"found {value!r}" in message
    assert "collect.py" not in message


def test_the_same_definitions_give_the_same_bytes() -> None:
    assert render.render(export()) == render.render(export())


def test_the_environment_of_the_exporting_process_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = render.render(export())
    for name, value in {
        "BIOCLOUD_SCHEDULER": "airflow",
        "BIOCLOUD_RETENTION_DAYS": "7",
        "BIOCLOUD_LOOKBACK_DAYS": "7",
        "BIOCLOUD_QUIET_SECONDS": "700",
        "BIOCLOUD_LAKE_ROOT": "s3://other",
        "BIOCLOUD_CATALOG": "other",
        "BIOCLOUD_LAUNCHER": "pipes",
    }.items():
        monkeypatch.setenv(name, value)
    own, settings = collect.build_definitions("development")
    assert render.render(collect.collect(own, settings, branch="main")) == before


def test_the_files_import_only_airflow_and_the_standard_library() -> None:
    for content in render.render(export(DAILY)).values():
        if content.startswith("<!--"):
            continue
        imported = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(content))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert imported - {"pendulum", "airflow"} <= sys.stdlib_module_names


def test_every_definition_has_a_counterpart_or_a_reason() -> None:
    repository = definitions()[0].get_repository_def()
    mapped = {(row.kind, row.name) for row in export().mapping}
    graph = repository.asset_graph
    assert {("asset", key.to_user_string()) for key in graph.get_all_asset_keys()} <= mapped
    assert {("asset check", key.to_user_string()) for key in graph.asset_check_keys} <= mapped
    jobs = {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")}
    assert {("job", name) for name in jobs} <= mapped
    assert {("sensor", sensor.name) for sensor in repository.sensor_defs} <= mapped
    assert {("schedule", schedule.name) for schedule in repository.schedule_defs} <= mapped
    assert ("freshness policy", "raw/dsi/delivery") in mapped
    assert {("pool", "dsi_ingest"), ("pool", "curated_dsi")} <= mapped
    assert {("resource", name) for name in repository.get_top_level_resources()} <= mapped


def test_all_definitions_without_a_counterpart_are_named() -> None:
    @dg.asset
    def stray() -> None: ...

    @dg.op
    def opaque() -> None: ...

    @dg.job
    def mystery() -> None:
        opaque()

    @dg.sensor(job=mystery)
    def watcher() -> None: ...

    @dg.asset
    def elsewhere() -> None: ...

    unknown = dg.define_asset_job("unknown", [elsewhere])
    more = dg.Definitions(assets=[stray, elsewhere], jobs=[mystery, unknown], sensors=[watcher], resources={"thing": 1})
    with pytest.raises(ExportError) as caught:
        export(more)
    names = ("asset stray", "op opaque of mystery", "op elsewhere of unknown", "sensor watcher", "resource thing")
    for name in names:
        assert f"- {name}" in str(caught.value)


def test_a_pool_that_jobs_share_is_refused() -> None:
    def job(name: str) -> dg.JobDefinition:
        @dg.op(name=f"op_of_{name}", tags=script_tags("databricks/publish.py", []), pool="shared")
        def work() -> None: ...

        @dg.job(name=name)
        def made() -> None:
            work()

        return made

    with pytest.raises(ExportError, match="pool shared: the jobs first, second share it"):
        export(dg.Definitions(jobs=[job("first"), job("second")]))


def test_a_definition_may_give_the_reason_why_it_is_not_in_airflow() -> None:
    @dg.sensor(metadata={NOT_IN_AIRFLOW: "It tells Dagster what Airflow did."}, asset_selection=["raw/dsi/delivery"])
    def follower() -> None: ...

    (row,) = [row for row in export(dg.Definitions(sensors=[follower])).mapping if row.name == "follower"]
    assert (row.counterpart, row.reason) == ("", "It tells Dagster what Airflow did.")


def test_the_ops_that_run_by_run_step_become_one_task() -> None:
    (dag,) = [dag for dag in export().jobs if dag.name == "dsi_curated"]
    (task,) = dag.tasks
    assert (task.name, task.retries, task.upstream) == ("dsi_curated", REMOTE_MAX_RETRIES, ())
    outlets = [uri.removeprefix("s3://example-lake-development/") for uri in task.outlets]
    assert outlets == ["curated/dsi/manifest", "curated/dsi/observation", "curated/dsi/retention"]
    assert "--run-date={{ params.run_date or run_date(dag_run) }}" in task.parameters


def test_the_task_of_a_delivery_asks_for_all_assets_and_all_checks() -> None:
    (dag,) = [dag for dag in export().jobs if dag.name == "dsi_raw"]
    request = _request(_parser().parse_args(dag.tasks[0].parameters))
    assert (dag.tasks[0].name, set(request.assets)) == ("ingest_dsi", set(CONTRACT.addresses))
    assert set(request.checks) == set(all_checks(CONTRACT))
    assert request.delivery == "{{ params.delivery }}"


def test_ops_with_scripts_become_tasks_of_their_own() -> None:
    (dag,) = [dag for dag in export(DAILY).jobs if dag.name == "daily_example"]
    first, second = dag.tasks
    assert (first.name, second.name, second.upstream) == ("make_day", "note_day", (first.name,))
    assert first.parameters[:2] == ["--run-date", "{{ params.run_date or run_date(dag_run) }}"]
    assert first.parameters[3] == "s3://example-lake-development/curated"
    assert (second.retries, second.retry_delay, second.exponential) == (4, 9, False)
    assert second.outlets == ("s3://example-lake-development/example/dsi/day",)
    assert first.outlets == ()
    assert dag.run_date is not None
    assert dag.run_date.days_before == 1
    assert dag.schedule is not None
    assert (dag.schedule.cron, dag.schedule.timezone) == ("0 4 * * *", "Europe/Amsterdam")


def test_each_source_has_its_own_dags(monkeypatch: pytest.MonkeyPatch) -> None:
    birds = replace(CONTRACT, source="birds", folders=CONTRACT.folders, owner="team:birds")
    monkeypatch.setattr(raw, "contracts", lambda: (birds, CONTRACT))
    monkeypatch.setattr("biocloud_assets.definitions.contracts", lambda: (birds, CONTRACT))
    own, settings = collect.build_definitions("development")
    found = collect.collect(own, settings, branch="main")
    (dag,) = [dag for dag in found.jobs if dag.name == "birds_raw"]
    assert [task.name for task in dag.tasks] == ["ingest_birds"]
    assert "--asset=raw/birds/sensor" in dag.tasks[0].parameters
    assert not [argument for argument in dag.tasks[0].parameters if "/dsi/" in argument]
    (dispatcher,) = [dag for dag in found.dispatchers if dag.name == "birds_deliveries"]
    assert (dispatcher.starts, dispatcher.source) == ("birds_raw", "birds")
    assert dispatcher.markers == ("example-lake-development", "_files/ingested/birds/")
    assert {dag.name for dag in found.dispatchers} == {"birds_deliveries", "dsi_deliveries"}


def test_where_dagster_is_the_scheduler_no_dag_has_a_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = definitions()[1]
    monkeypatch.setitem(
        settings.__dict__, "environment", settings.environment.model_copy(update={"scheduler": "dagster"})
    )
    found = export()
    assert {dag.schedule for dag in (*found.jobs, *found.dispatchers)} == {None}
    dispatcher = render.render(found)["dags/dsi_deliveries.py"]
    assert "schedule=None" in dispatcher
    assert "is_paused_upon_creation=True" in dispatcher
