"""Who starts runs by itself in an environment, Airflow or Dagster: never both, and it is one setting."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from biocloud_assets.definitions import build_definitions
from biocloud_assets.environments import load_environment
from biocloud_assets.settings import Settings

ROOT = Path(__file__).parents[1]
AT_HOME = {"dsi_curated_daily", "dsi_curated_on_delivery", "dsi_deliveries"}
"""What starts runs where Dagster is in charge, and nobody has turned anything on or off."""


def repository(env: str, **settings: str) -> dg.RepositoryDefinition:
    file = ROOT / "databricks/environments.yml"
    return build_definitions(Settings(env=env, environments=file, **settings)).get_repository_def()  # type: ignore[arg-type]


def running(found: dg.RepositoryDefinition) -> set[str]:
    """The sensors and schedules that are on if nobody has turned them on or off."""
    automations = (*found.sensor_defs, *found.schedule_defs)
    return {one.name for one in automations if one.default_status.value == "RUNNING"}


@pytest.mark.parametrize("env", ["development", "production"])
@pytest.mark.parametrize(("in_charge", "on"), [("airflow", {"dsi_outside"}), ("dagster", AT_HOME)])
def test_who_is_in_charge_decides_what_is_on(env: str, in_charge: str, on: set[str]) -> None:
    assert running(repository(env, in_charge=in_charge)) == on


def test_at_home_dagster_is_in_charge_whatever_is_set() -> None:
    assert running(repository("local")) == running(repository("local", in_charge="airflow")) == AT_HOME


@pytest.mark.parametrize("env", ["development", "production"])
def test_without_the_setting_it_is_the_environments_file_that_says_so(env: str) -> None:
    file = ROOT / "databricks/environments.yml"
    expected = load_environment(file, env).in_charge  # type: ignore[arg-type]
    assert Settings(env=env, environments=file).leader == expected  # type: ignore[arg-type]
    other = "dagster" if expected == "airflow" else "airflow"
    assert Settings(env=env, environments=file, in_charge=other).leader == other  # type: ignore[arg-type]


def test_with_airflow_in_charge_nothing_of_dagsters_starts_a_run_though_it_is_turned_on() -> None:
    found = repository("production", in_charge="airflow")
    starting = [one for one in (*found.sensor_defs, *found.schedule_defs) if one.name != "dsi_outside"]
    assert {one.name for one in starting} == {*AT_HOME, "group_sync_daily"}
    with dg.DagsterInstance.ephemeral() as instance:
        for one in starting:
            tick = (
                one.evaluate_tick(dg.build_sensor_context(instance))
                if isinstance(one, dg.SensorDefinition)
                else one.evaluate_tick(dg.build_schedule_context(instance))
            )
            assert not tick.run_requests
            assert "Airflow is in charge in production" in str(tick.skip_message)


def test_whoever_is_in_charge_the_definitions_are_the_same() -> None:
    """So a person can run every job, and Airflow's DAGs can be made of all of them."""
    ours, theirs = (repository("production", in_charge=name) for name in ("dagster", "airflow"))
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


def test_a_cluster_which_has_no_environments_file_is_told_by_the_launcher(tmp_path: Path) -> None:
    from biocloud_assets.launch.step_launcher import _cluster_settings

    sent = _cluster_settings(Settings(env="production", environments=ROOT / "databricks/environments.yml"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for name, value in sent.items():
            patch.setenv(name, value)
        assert running(build_definitions(Settings.load()).get_repository_def()) == {"dsi_outside"}
