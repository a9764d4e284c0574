"""The environments' file: that it is valid, and the message for each mistake in one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from databricks.sdk.service.compute import DataSecurityMode

from biocloud_assets.environments import load_environment, pinned, schema
from biocloud_assets.errors import SettingsError

ROOT = Path(__file__).parents[1]
FILE = ROOT / "databricks/environments.yml"


def broken(tmp_path: Path, path: str, value: Any) -> Path:
    """The file with another value at a path; without the key, if that is None."""
    content = copy.deepcopy(yaml.safe_load(FILE.read_text()))
    *parents, name = path.split(".")
    section = content
    for parent in parents:
        section = section[parent]
    if value is None:
        del section[name]
    else:
        section[name] = value
    file = tmp_path / "environments.yml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_a_cluster_comes_from_the_pool_and_names_no_node_type() -> None:
    for name in ("development", "production"):
        cluster = load_environment(FILE, name).new_cluster()  # type: ignore[arg-type]
        assert cluster["instance_pool_id"].endswith(name)
        assert not {"node_type_id", "driver_node_type_id"} & set(cluster)


def test_the_schema_for_editors_is_that_of_the_code() -> None:
    """`python -m biocloud_assets.environments > databricks/environments.schema.json` writes it."""
    assert (ROOT / "databricks/environments.schema.json").read_text() == schema()


@pytest.mark.parametrize("mode", [mode.value for mode in DataSecurityMode])
def test_every_access_mode_of_databricks_is_accepted(tmp_path: Path, mode: str) -> None:
    file = broken(tmp_path, "development.cluster.data_security_mode", mode)
    assert load_environment(file, "development").new_cluster()["data_security_mode"] == mode


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("production.cluster.instance_pool", "x", "production.cluster.instance_pool: Extra inputs are not permitted"),
        ("production.cluster.instance_pool_id", None, "production.cluster.instance_pool_id: Field required"),
        ("staging", {}, "staging: Extra inputs are not permitted"),
        ("development.timeout_seconds", "soon", "development.timeout_seconds: Input should be a valid integer"),
        ("development.messages", "dbfs:/pipes", "development.messages: String should match"),
        ("development.cluster.autoscale.min_workers", 9, "autoscale: max_workers greater than min_workers"),
        ("development.cluster.autoscale", {"min_workers": 2, "max_workers": 2}, "max_workers greater than min_workers"),
        ("development.cluster.num_workers", 1, "development.cluster: exactly one of num_workers and autoscale"),
        ("development.cluster.data_security_mode", "SHARED", "development.cluster.data_security_mode: Input should be"),
        ("development.region", None, "development.region: Field required"),
        ("development.region", "Ireland", "development.region: String should match"),
        ("development.serverless", {"environment_version": "4"}, "development: exactly one of cluster and serverless"),
        ("development.run_as", {"group_name": "admins"}, "development: run_as a user or a service principal"),
        ("development.viewers", [{}], "development.viewers.0: exactly one of user_name, group_name"),
        (
            "development.package_index",
            "https://me:secret@example.org",
            "development.package_index: String should match",
        ),
        ("development.retention_days", -1, "development.retention_days: Input should be greater than or equal to 0"),
        ("development.git.url", "https://me:secret@gitlab.com/x.git", "development.git.url: String should match"),
        ("development.libraries", [], "development.libraries: List should have at least 1 item"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, path: str, value: Any, message: str) -> None:
    file = broken(tmp_path, path, value)
    with pytest.raises(SettingsError) as raised:
        load_environment(file, "development")
    assert raised.value.thing == str(file)
    assert message in raised.value.found
    assert "me:secret" not in str(raised.value)


VOLUMES = {name: f"/Volumes/main/files/{name}" for name in ("landing", "curated", "files")}


def test_with_volumes_a_step_gets_their_paths_and_the_address_of_the_tables(tmp_path: Path) -> None:
    environment = load_environment(broken(tmp_path, "development.volumes", VOLUMES), "development")
    assert environment.locations("s3://in", "s3://out", "s3://curated") == [
        *("--landing-root", "/Volumes/main/files/landing"),
        *("--lake-root", "s3://out"),
        *("--curated-root", "/Volumes/main/files/curated"),
        *("--files-root", "/Volumes/main/files/files"),
        *("--catalog", "biocloud_development"),
    ]


def test_volumes_need_a_catalog(tmp_path: Path) -> None:
    content = yaml.safe_load(broken(tmp_path, "development.volumes", VOLUMES).read_text())
    del content["development"]["catalog"]
    (tmp_path / "environments.yml").write_text(yaml.safe_dump(content))
    with pytest.raises(SettingsError, match="development: a catalog together with volumes"):
        load_environment(tmp_path / "environments.yml", "development")


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    file = broken(tmp_path, "development", {"lake": "s3://x"})
    with pytest.raises(SettingsError) as raised:
        load_environment(file, "production")
    for key in ("landing_root", "lake_root", "git", "region", "libraries", "messages", "lake"):
        assert f"development.{key}:" in raised.value.found


@pytest.mark.parametrize("name", ["DATABRICKS_TOKEN", "AWS_SECRET_ACCESS_KEY", "db_password", "AWS_ACCESS_KEY_ID"])
def test_a_secret_is_accepted_by_reference_only(tmp_path: Path, name: str) -> None:
    path = "development.cluster.spark_env_vars"
    with pytest.raises(SettingsError) as raised:
        load_environment(broken(tmp_path, path, {name: "dapi-the-secret-itself"}), "development")
    assert f"spark_env_vars.{name} to be a reference" in raised.value.found
    assert "dapi-the-secret-itself" not in str(raised.value)
    reference = {name: "{{secrets/biocloud/token}}"}
    loaded = load_environment(broken(tmp_path, path, reference), "development")
    assert loaded.new_cluster()["spark_env_vars"][name] == reference[name]


def test_a_file_that_is_no_yaml_is_named_with_the_line(tmp_path: Path) -> None:
    file = tmp_path / "environments.yml"
    file.write_text("development:\n  git: [\n")
    with pytest.raises(SettingsError, match="line 3"):
        load_environment(file, "development")


def test_libraries_have_the_versions_of_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "uv.lock"
    lock.write_text('[[package]]\nname = "deltalake"\nversion = "9.8.7"\n')
    assert pinned(["deltalake"], lock) == ["deltalake==9.8.7"]
    with pytest.raises(SettingsError, match=r"libraries: expected packages that .*uv\.lock holds, found pandas"):
        pinned(["deltalake", "pandas"], lock)
    for name in ("development", "production"):
        pinned(load_environment(FILE, name).libraries, ROOT / "uv.lock")  # type: ignore[arg-type]


def test_the_old_name_of_the_scheduler_is_read_with_a_warning(tmp_path: Path) -> None:
    content = yaml.safe_load(FILE.read_text())
    for name in ("development", "production"):
        content[name]["in_charge"] = content[name].pop("scheduler")
    file = tmp_path / "environments.yml"
    file.write_text(yaml.safe_dump(content))
    with pytest.warns(UserWarning, match="in_charge is now called scheduler"):
        assert load_environment(file, "production").scheduler == load_environment(FILE, "production").scheduler
