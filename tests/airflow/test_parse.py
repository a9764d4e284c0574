"""Every supported Airflow loads the exported files, and reads in them what the Dagster definitions say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from biocloud_assets.airflow import collect
from biocloud_assets.airflow.model import Export
from biocloud_assets.launch.launcher import REMOTE_MAX_RETRIES, REMOTE_RETRY_DELAY_SECONDS
from biocloud_assets.raw.dsi.contract import CONTRACT
from tests.airflow.conftest import VERSIONS, Airflow, Site

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module", params=VERSIONS)
def parsed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Export, dict[str, Any]]:
    """The export of these definitions, and what an Airflow reads in it."""
    root = tmp_path_factory.mktemp("parse")
    with pytest.MonkeyPatch.context() as patch:
        site = Site(root, patch)
        export = site.export()
        return export, Airflow(request.param, root / "home", site.dags).inside("parse")


@pytest.fixture(scope="module")
def jobs() -> dict[str, dg.JobDefinition]:
    definitions, _ = collect.build_definitions("development")
    repository = definitions.get_repository_def()
    return {job.name: job for job in repository.get_all_jobs() if not job.name.startswith("__")}


def test_every_file_is_loaded_without_error_or_warning(parsed: tuple[Export, dict[str, Any]]) -> None:
    export, read = parsed
    assert read["errors"] == {}
    assert read["warnings"] == []
    assert set(read["dags"]) == {dag.name for dag in (*export.jobs, *export.dispatchers)}


def test_each_job_is_one_task(parsed: tuple[Export, dict[str, Any]], jobs: dict[str, dg.JobDefinition]) -> None:
    tasks = {name: list(parsed[1]["dags"][name]["tasks"]) for name in jobs}
    assert tasks == {
        "dsi_raw": ["ingest_dsi"],
        "dsi_curated": ["dsi_curated"],
        "group_sync": ["sync_groups"],
        "table_maintenance": ["maintain_tables"],
    }


def test_a_step_is_retried_as_the_launcher_of_dagster_does(parsed: tuple[Export, dict[str, Any]]) -> None:
    dags = parsed[1]["dags"]
    for task in (dags["dsi_raw"]["tasks"]["ingest_dsi"], dags["dsi_curated"]["tasks"]["dsi_curated"]):
        assert (task["retries"], task["retry_delay"]) == (REMOTE_MAX_RETRIES, REMOTE_RETRY_DELAY_SECONDS)
        assert task["exponential"]
        assert sum(task["retry_delay"] * 2**retry for retry in range(task["retries"])) >= 30 * 60
        assert task["one_at_a_time"]
    assert dags["table_maintenance"]["tasks"]["maintain_tables"]["retries"] == REMOTE_MAX_RETRIES
    assert dags["group_sync"]["tasks"]["sync_groups"]["retries"] == 0


def test_the_outlets_are_the_assets_of_the_job(parsed: tuple[Export, dict[str, Any]]) -> None:
    ingest = parsed[1]["dags"]["dsi_raw"]["tasks"]["ingest_dsi"]
    folders = {f"s3://example/in/dsi/{folder.name}" for folder in CONTRACT.folders}
    tables = {f"s3://example/out/raw/dsi/{table.name}" for table in (*CONTRACT.tables, CONTRACT.log)}
    assert (set(ingest["outlets"]), ingest["inlets"]) == (folders | tables, [])
    publish = parsed[1]["dags"]["dsi_curated"]["tasks"]["dsi_curated"]
    names = ("manifest", "observation", "retention")
    assert publish["outlets"] == [f"s3://example/out/curated/dsi/{name}" for name in names]
    assert "s3://example/out/raw/dsi/delivery" in publish["inlets"]


def test_schedules_are_those_of_dagster(parsed: tuple[Export, dict[str, Any]]) -> None:
    dags = parsed[1]["dags"]
    assert (dags["group_sync"]["cron"], dags["group_sync"]["timezone"]) == ("15 5 * * *", "UTC")
    assert (dags["dsi_curated"]["cron"], dags["dsi_curated"]["timezone"]) == ("30 6 * * *", "UTC")
    assert (dags["table_maintenance"]["cron"], dags["table_maintenance"]["timezone"]) == ("45 3 * * 0", "UTC")
    assert dags["dsi_raw"]["cron"] is None
    assert dags["dsi_deliveries"]["cron"] == "*/5 * * * *"
    for dag in dags.values():
        assert dag["catchup"] is False
        assert dag["max_active_runs"] == 1
        assert dag["start_date"].startswith("2026-01-01")


def test_a_dag_that_runs_by_itself_is_paused_when_it_is_created(parsed: tuple[Export, dict[str, Any]]) -> None:
    paused = {name: dag["paused"] for name, dag in parsed[1]["dags"].items()}
    by_themselves = ("dsi_curated", "dsi_deliveries", "group_sync", "table_maintenance")
    assert paused == {"dsi_raw": False, **dict.fromkeys(by_themselves, True)}


def test_a_run_needs_a_delivery_and_accepts_a_branch(parsed: tuple[Export, dict[str, Any]]) -> None:
    params = parsed[1]["dags"]["dsi_raw"]["params"]
    assert params["delivery"]["default"] is None
    assert params["delivery"]["schema"]["type"] == "string"
    assert params["git_branch"]["default"] is None
    assert params["git_branch"]["schema"]["type"] == ["null", "string"]


def test_a_task_submits_a_run_of_the_branch_on_the_pool(parsed: tuple[Export, dict[str, Any]]) -> None:
    task = parsed[1]["dags"]["dsi_raw"]["tasks"]["ingest_dsi"]
    (step,) = task["json"]["tasks"]
    assert step["new_cluster"]["instance_pool_id"]
    assert task["json"]["git_source"]["git_branch"] == "main"
    assert step["spark_python_task"]["python_file"] == "databricks/run_step.py"
    assert "--delivery={{ params.delivery }}" in step["spark_python_task"]["parameters"]
    assert all("==" in library["pypi"]["package"] for library in step["libraries"])
    assert task["timeout"] == 360


def test_the_documentation_names_owner_lineage_and_page(parsed: tuple[Export, dict[str, Any]]) -> None:
    for dag in parsed[1]["dags"].values():
        assert "Owner: " in dag["doc"]
        assert "Lineage: " in dag["doc"]
        assert "Docs: [" in dag["doc"]


def test_dagster_reads_a_dag_back_as_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path, monkeypatch)
    site.export()
    read = Airflow("dagster-airflow", tmp_path / "home", site.dags).inside("round_trip", "dsi_raw")
    assert (read["ops"], read["edges"]) == (["dsi_raw__ingest_dsi"], [])
