"""Dagster's home on this machine: one for each environment, and a message where it can't be used."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg
import pytest

from biocloud_assets.cli.home import open_instance, prepare_home
from biocloud_assets.errors import SettingsError
from biocloud_assets.settings import Settings


@pytest.fixture(autouse=True)
def no_dagster_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "")


def settings(home: Path, env: str = "local") -> Settings:
    return Settings(home=home, env=env, landing_root="in", lake_root="out")  # type: ignore[arg-type]


def test_each_environment_has_a_home_of_its_own(tmp_path: Path) -> None:
    homes = {settings(tmp_path, env).dagster for env in ("local", "development", "production")}
    assert homes == {tmp_path / "dagster", tmp_path / "dagster_development", tmp_path / "dagster_production"}


def test_a_home_that_is_set_belongs_to_the_environment_that_used_it_first(tmp_path: Path) -> None:
    local, production = settings(tmp_path), settings(tmp_path, "production")
    shared = {"dagster_home": tmp_path / "shared"}
    prepare_home(local.model_copy(update=shared))
    with pytest.raises(SettingsError, match="expected that of the environment production, found that of local"):
        prepare_home(production.model_copy(update=shared))
    prepare_home(local.model_copy(update=shared))


def test_the_instance_is_in_the_home_and_can_be_opened_by_dagster(tmp_path: Path) -> None:
    with open_instance(settings(tmp_path)) as instance:
        instance.add_dynamic_partitions("dsi_delivery", ["2026-01-31-06:00:00"])
    with dg.DagsterInstance.from_config(str(tmp_path / "dagster")) as other:
        assert other.get_dynamic_partitions("dsi_delivery") == ["2026-01-31-06:00:00"]


def test_a_configuration_that_a_person_has_written_is_kept(tmp_path: Path) -> None:
    configuration = tmp_path / "dagster" / "dagster.yaml"
    configuration.parent.mkdir()
    content = f"storage: {{sqlite: {{base_dir: '{tmp_path / 'elsewhere'}'}}}}\n"
    configuration.write_text(content)
    with open_instance(settings(tmp_path)) as instance:
        instance.add_dynamic_partitions("dsi_delivery", ["2026-01-31-06:00:00"])
    assert configuration.read_text() == content
    assert list((tmp_path / "elsewhere").rglob("*.db"))


def test_a_home_that_cannot_be_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"Dagster's home .*file/dagster: expected a folder that can be written"):
        prepare_home(settings(tmp_path / "file"))
    assert os.environ["DAGSTER_HOME"] == ""
