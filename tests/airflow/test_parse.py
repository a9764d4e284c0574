"""The exported files load in every Airflow, and say there what the Dagster definitions say here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.api import create_execution_plan

from biocloud_assets.airflow import collect
from biocloud_assets.airflow.model import Export
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


def steps_of(job: dg.JobDefinition) -> list[Any]:
    """The steps of Dagster's own plan of a job."""
    return list(create_execution_plan(job).get_all_steps_in_topo_order())


def test_every_file_is_read_without_error_or_warning(parsed: tuple[Export, dict[str, Any]]) -> None:
    export, read = parsed
    assert read["errors"] == {}
    assert read["warnings"] == []
    assert set(read["dags"]) == {dag.name for dag in (*export.jobs, *export.dispatchers)}


def test_tasks_and_edges_are_those_of_the_dagster_job(
    parsed: tuple[Export, dict[str, Any]], jobs: dict[str, dg.JobDefinition]
) -> None:
    for name, job in jobs.items():
        steps = steps_of(job)
        names = {step.key: step.node_handle.name for step in steps}
        expected = {
            names[step.key]: sorted(names[key] for key in step.get_execution_dependency_keys()) for step in steps
        }
        assert {task: found["upstream"] for task, found in parsed[1]["dags"][name]["tasks"].items()} == expected


def test_the_delivery_log_waits_for_the_checks(parsed: tuple[Export, dict[str, Any]]) -> None:
    assert "check_tables" in parsed[1]["dags"]["dsi_raw"]["tasks"]["raw__dsi__delivery"]["upstream"]


def test_retries_and_pools_are_those_of_the_ops(
    parsed: tuple[Export, dict[str, Any]], jobs: dict[str, dg.JobDefinition]
) -> None:
    for name, job in jobs.items():
        for step in steps_of(job):
            task = parsed[1]["dags"][name]["tasks"][step.node_handle.name]
            policy = job.get_retry_policy_for_handle(step.node_handle)
            assert task["retries"] == (policy.max_retries if policy else 0)
            if policy:
                assert task["retry_delay"] == (policy.delay or 0)
                assert task["exponential"] == (policy.backoff is dg.Backoff.EXPONENTIAL)
            assert task["one_at_a_time"] == bool(step.pool)


def test_outlets_are_where_the_assets_lie(parsed: tuple[Export, dict[str, Any]]) -> None:
    tasks = parsed[1]["dags"]["dsi_raw"]["tasks"]
    assert tasks["raw__dsi__sensor"]["outlets"] == ["s3://example/out/raw/dsi/sensor"]
    assert tasks["raw__dsi__sensor"]["inlets"] == ["s3://example/in/dsi/sensor"]
    assert "s3://example/in/dsi/sensor" in tasks["inspect_delivery"]["outlets"]
    assert len(tasks["raw__dsi__analysis_group_result"]["outlets"]) == 5
    assert tasks["check_tables"]["outlets"] == []


def test_schedules_are_those_of_dagster(parsed: tuple[Export, dict[str, Any]]) -> None:
    dags = parsed[1]["dags"]
    assert (dags["group_sync"]["cron"], dags["group_sync"]["timezone"]) == ("15 5 * * *", "UTC")
    assert dags["group_sync"]["paused"] is True  # as in Dagster, until someone switches it on
    assert dags["dsi_raw"]["cron"] is None
    assert dags["dsi_deliveries"]["cron"] == "*/5 * * * *"
    for dag in dags.values():
        assert dag["catchup"] is False
        assert dag["max_active_runs"] == 1
        assert dag["start_date"].startswith("2026-01-01")


def test_a_run_needs_a_delivery_and_may_be_given_a_branch(parsed: tuple[Export, dict[str, Any]]) -> None:
    params = parsed[1]["dags"]["dsi_raw"]["params"]
    assert params["delivery"]["default"] is None
    assert params["delivery"]["schema"]["type"] == "string"
    assert params["git_branch"]["default"] == "main"


def test_a_step_is_a_run_on_the_pool_of_the_branch(parsed: tuple[Export, dict[str, Any]]) -> None:
    task = parsed[1]["dags"]["dsi_raw"]["tasks"]["raw__dsi__sensor"]
    (step,) = task["json"]["tasks"]
    assert step["new_cluster"]["instance_pool_id"]
    assert task["json"]["git_source"]["git_branch"] == "{{ params.git_branch }}"
    assert step["spark_python_task"]["python_file"] == "databricks/run_step.py"
    assert step["spark_python_task"]["parameters"][:4] == [
        "--step",
        "raw/dsi/sensor",
        "--delivery",
        "{{ params.delivery }}",
    ]
    assert all("==" in library["pypi"]["package"] for library in step["libraries"])
    assert task["timeout"] == 360


def test_the_documentation_says_what_whose_and_where(parsed: tuple[Export, dict[str, Any]]) -> None:
    for dag in parsed[1]["dags"].values():
        assert "Owner: " in dag["doc"]
        assert "Lineage: " in dag["doc"]
        assert "Docs: [" in dag["doc"]


def test_dagster_reads_the_dag_back_as_a_job_with_the_same_edges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: dict[str, dg.JobDefinition]
) -> None:
    site = Site(tmp_path, monkeypatch)
    site.export()
    read = Airflow("dagster-airflow", tmp_path / "home", site.dags).inside("round_trip", "dsi_raw")
    steps = steps_of(jobs["dsi_raw"])
    edges = [
        [f"dsi_raw__{up}", f"dsi_raw__{step.key}"] for step in steps for up in step.get_execution_dependency_keys()
    ]
    assert read["edges"] == sorted(edges), read["ops"]
