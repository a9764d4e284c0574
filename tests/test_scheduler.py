"""The scheduler of an environment, Airflow or Dagster: never both, and one setting decides."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from biocloud_assets.definitions import build_definitions
from biocloud_assets.environments import load_environment, region_variables
from biocloud_assets.settings import Settings

ROOT = Path(__file__).parents[1]
STARTS_RUNS = {"dsi_curated_daily", "dsi_curated_on_delivery", "dsi_deliveries", "table_maintenance_weekly"}
"""The sensors and schedules that run by default if Dagster is the scheduler."""
START_NONE = {"dsi_external_ingests", "run_failure_messages"}
"""Sensors that start no run, whatever is the scheduler."""


def repository(env: str, **settings: str) -> dg.RepositoryDefinition:
    file = ROOT / "databricks/environments.yml"
    return build_definitions(Settings(env=env, environments=file, **settings)).get_repository_def()  # type: ignore[arg-type]


def running(found: dg.RepositoryDefinition) -> set[str]:
    """The sensors and schedules that run by default."""
    automations = (*found.sensor_defs, *found.schedule_defs)
    return {one.name for one in automations if one.default_status.value == "RUNNING"}


@pytest.mark.parametrize("env", ["development", "production"])
@pytest.mark.parametrize(("scheduler", "expected"), [("airflow", {"dsi_external_ingests"}), ("dagster", STARTS_RUNS)])
def test_the_scheduler_decides_what_runs_by_default(env: str, scheduler: str, expected: set[str]) -> None:
    assert running(repository(env, scheduler_override=scheduler)) == expected


def test_locally_dagster_is_the_scheduler_whatever_is_set() -> None:
    assert running(repository("local")) == running(repository("local", scheduler_override="airflow")) == STARTS_RUNS


@pytest.mark.parametrize("env", ["development", "production"])
def test_without_the_setting_the_environments_file_decides(env: str) -> None:
    file = ROOT / "databricks/environments.yml"
    expected = load_environment(file, env).scheduler  # type: ignore[arg-type]
    assert Settings(env=env, environments=file).scheduler == expected  # type: ignore[arg-type]
    other = "dagster" if expected == "airflow" else "airflow"
    overridden = Settings(env=env, environments=file, scheduler_override=other)  # type: ignore[arg-type]
    assert overridden.scheduler == other


def test_if_airflow_is_the_scheduler_no_sensor_or_schedule_starts_a_run_even_if_it_is_started() -> None:
    found = repository("production", scheduler_override="airflow")
    starting = [one for one in (*found.sensor_defs, *found.schedule_defs) if one.name not in START_NONE]
    assert {one.name for one in starting} == {*STARTS_RUNS, "group_sync_daily"}
    with dg.DagsterInstance.ephemeral() as instance:
        for one in starting:
            tick = (
                one.evaluate_tick(dg.build_sensor_context(instance))
                if isinstance(one, dg.SensorDefinition)
                else one.evaluate_tick(dg.build_schedule_context(instance))
            )
            assert not tick.run_requests
            assert "Airflow is the scheduler of production" in str(tick.skip_message)


def test_the_definitions_are_the_same_whatever_the_scheduler_is() -> None:
    """So a person can run every job, and the Airflow DAGs are generated from all of them."""
    ours, theirs = (repository("production", scheduler_override=name) for name in ("dagster", "airflow"))
    for found in (ours, theirs):
        assert found.has_job("dsi_raw")
        assert found.has_job("group_sync")
    sensors = [
        {one.name: (one.minimum_interval_seconds, one.description) for one in found.sensor_defs}
        for found in (ours, theirs)
    ]
    assert sensors[0] == sensors[1]
    assert ours.get_sensor_def("dsi_deliveries").job_name == theirs.get_sensor_def("dsi_deliveries").job_name
    schedules = [
        {one.name: (one.cron_schedule, one.execution_timezone, one.job_name) for one in found.schedule_defs}
        for found in (ours, theirs)
    ]
    assert schedules[0] == schedules[1]


def test_a_cluster_which_has_no_environments_file_gets_the_setting_from_the_launcher(tmp_path: Path) -> None:
    from biocloud_assets.launch.step_launcher import _cluster_settings

    settings = Settings(env="production", environments=ROOT / "databricks/environments.yml")
    sent = _cluster_settings(settings) | region_variables(settings.environment.region)  # the latter by new_cluster
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for name, value in sent.items():
            patch.setenv(name, value)
        assert running(build_definitions(Settings.load()).get_repository_def()) == {"dsi_external_ingests"}
