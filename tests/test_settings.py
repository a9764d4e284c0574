"""Settings from the environment, and the message for each wrong value."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import pytest

from biocloud_assets.environments import load_environment
from biocloud_assets.errors import SettingsError
from biocloud_assets.settings import Engine, EnvironmentName, Settings

OUTSIDE = {
    "BIOCLOUD_ENV": "production",
    "BIOCLOUD_LANDING_ROOT": "s3://landing/in",
    "BIOCLOUD_LAKE_ROOT": "s3://lake/raw",
    "BIOCLOUD_CURATED_ROOT": "s3://curated/out",
}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove all settings from the environment."""
    for name in os.environ:
        if name.upper().startswith(("BIOCLOUD_", "AWS_", "DAGSTER_", "S3_")):
            monkeypatch.delenv(name)


def load(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Settings.load()


def test_a_laptop_needs_no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.load()
    assert settings.env == "local"
    assert settings.engine == "sail"
    assert settings.landing == str(tmp_path / ".biocloud" / "landing")
    assert settings.lake == str(tmp_path / ".biocloud" / "lake")
    assert settings.curated == str(tmp_path / ".biocloud" / "curated")
    assert settings.retention == 30
    assert settings.dagster == tmp_path / ".biocloud" / "dagster"
    assert settings.quiet_seconds == 5
    assert settings.lookback_days == 30
    assert settings.s3_endpoint is None
    assert not list(tmp_path.iterdir()), "reading the settings creates nothing"


def test_local_state_follows_home(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, BIOCLOUD_HOME="/srv/bio cloud")
    assert settings.landing == "/srv/bio cloud/landing"
    assert settings.lake == "/srv/bio cloud/lake"
    assert settings.curated == "/srv/bio cloud/curated"
    assert settings.dagster == Path("/srv/bio cloud/dagster")


def test_the_default_roots_are_absolute_however_home_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load(monkeypatch, BIOCLOUD_HOME="state", DAGSTER_HOME="elsewhere")
    assert settings.landing == str(tmp_path / "state" / "landing")
    assert settings.lake == str(tmp_path / "state" / "lake")
    assert settings.dagster == tmp_path / "elsewhere"


def test_every_setting_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(
        monkeypatch,
        **OUTSIDE,
        BIOCLOUD_ENGINE="databricks",
        BIOCLOUD_QUIET_SECONDS="0.5",
        BIOCLOUD_LOOKBACK_DAYS="7",
        BIOCLOUD_RETENTION_DAYS="14",
        DAGSTER_HOME="/dagster",
        AWS_ENDPOINT_URL="http://minio:9000",
    )
    assert settings.env == "production"
    assert settings.landing == "s3://landing/in"
    assert settings.lake == "s3://lake/raw"
    assert settings.curated == "s3://curated/out"
    assert settings.retention_days == 14
    assert settings.engine == "databricks"
    assert settings.quiet_seconds == 0.5
    assert settings.lookback_days == 7
    assert settings.dagster == Path("/dagster")
    assert settings.s3_endpoint == "http://minio:9000"


@pytest.mark.parametrize("engine", get_args(Engine))
@pytest.mark.parametrize("env", get_args(EnvironmentName))
def test_every_engine_and_environment_is_accepted(monkeypatch: pytest.MonkeyPatch, env: str, engine: str) -> None:
    settings = load(monkeypatch, **(OUTSIDE | {"BIOCLOUD_ENV": env, "BIOCLOUD_ENGINE": engine}))
    assert (settings.env, settings.engine) == (env, engine)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("BIOCLOUD_ENV", "prod", "'local', 'development' or 'production'"),
        ("BIOCLOUD_ENGINE", "duckdb", "'sail', 'jvm', 'connect' or 'databricks'"),
        ("BIOCLOUD_QUIET_SECONDS", "soon", "number"),
        ("BIOCLOUD_QUIET_SECONDS", "-1", "greater than or equal to 0"),
        ("BIOCLOUD_QUIET_SECONDS", "86401", "less than or equal to 86400"),
        ("BIOCLOUD_QUIET_SECONDS", "inf", "less than or equal to 86400"),
        ("BIOCLOUD_QUIET_SECONDS", "nan", "than or equal to"),
        ("BIOCLOUD_LOOKBACK_DAYS", "many", "integer"),
        ("BIOCLOUD_LOOKBACK_DAYS", "1.5", "integer"),
        ("BIOCLOUD_LOOKBACK_DAYS", "-1", "greater than or equal to 0"),
        ("BIOCLOUD_LOOKBACK_DAYS", "3661", "less than or equal to 3660"),
        ("BIOCLOUD_RETENTION_DAYS", "-1", "greater than or equal to 0"),
        ("BIOCLOUD_RETENTION_DAYS", "36526", "less than or equal to 36525"),
    ],
)
def test_a_wrong_value_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: str
) -> None:
    with pytest.raises(SettingsError) as raised:
        load(monkeypatch, **{variable: value})
    assert raised.value.thing == variable
    assert expected in raised.value.expected
    assert raised.value.found == repr(value)
    assert str(raised.value).startswith(f"{variable}: expected ")
    assert f"Set {variable}" in raised.value.hint


@pytest.mark.parametrize("env", ["development", "production"])
def test_outside_local_the_roots_are_those_of_the_environments_file(monkeypatch: pytest.MonkeyPatch, env: str) -> None:
    file = Path(__file__).parents[1] / "databricks/environments.yml"
    settings = load(monkeypatch, BIOCLOUD_ENV=env, BIOCLOUD_ENVIRONMENTS=str(file), BIOCLOUD_LAKE_ROOT="s3://mine")
    assert settings.landing == load_environment(file, settings.env).landing_root  # type: ignore[arg-type]
    assert settings.lake == "s3://mine"


@pytest.mark.parametrize("missing", ["BIOCLOUD_LANDING_ROOT", "BIOCLOUD_LAKE_ROOT", "BIOCLOUD_CURATED_ROOT"])
@pytest.mark.parametrize("env", ["development", "production"])
def test_outside_local_without_the_file_the_roots_must_be_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, env: str, missing: str
) -> None:
    monkeypatch.chdir(tmp_path)
    variables = OUTSIDE | {"BIOCLOUD_ENV": env}
    variables.pop(missing)
    with pytest.raises(SettingsError, match=r"databricks/environments.yml: .*no such file.*BIOCLOUD_ENVIRONMENTS"):
        load(monkeypatch, **variables)


def test_steps_are_launched_outside_local_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch).launches == "none"
    with pytest.raises(SettingsError, match=r"BIOCLOUD_LAUNCHER: expected none, as BIOCLOUD_ENV is local, found pipes"):
        load(monkeypatch, BIOCLOUD_LAUNCHER="pipes")
    assert load(monkeypatch, **OUTSIDE).launches == "pipes"
    assert load(monkeypatch, BIOCLOUD_LAUNCHER="step_launcher").launches == "step_launcher"
    monkeypatch.delenv("BIOCLOUD_LAUNCHER")
    assert load(monkeypatch, **OUTSIDE).launches == "pipes"


def test_the_endpoint_of_s3_has_precedence_over_that_of_all_of_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, AWS_ENDPOINT_URL="http://all").s3_endpoint == "http://all"
    assert load(monkeypatch, AWS_ENDPOINT_URL_S3="http://s3").s3_endpoint == "http://s3"


def test_a_variable_of_another_program_is_not_read_as_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, S3_ENDPOINT="http://elsewhere").s3_endpoint is None


def test_credentials_are_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        name: f"secret-of-{name}" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    }
    settings = load(monkeypatch, **secrets, DATABRICKS_TOKEN="secret-of-databricks")
    assert "secret-of" not in f"{settings!r} {settings} {settings.model_dump()}"
    with pytest.raises(SettingsError) as raised:
        load(monkeypatch, BIOCLOUD_ENV="wrong")
    assert "secret-of" not in str(raised.value)
    assert "secret-of" not in repr(raised.value.__cause__)


def test_settings_do_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, BIOCLOUD_LOOKBACK_DAYS="7")
    with pytest.raises(ValueError, match="frozen"):
        settings.lookback_days = 8
    monkeypatch.setenv("BIOCLOUD_LOOKBACK_DAYS", "9")
    assert settings.lookback_days == 7


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    for name in ("BIOCLOUD_ENV", "BIOCLOUD_LANDING_ROOT", "BIOCLOUD_HOME", "DAGSTER_HOME", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "")
    settings = Settings.load()
    assert settings.env == "local"
    assert settings.s3_endpoint == "http://127.0.0.1:9000"


@pytest.mark.parametrize(
    ("old", "new", "attribute", "value"),
    [
        ("BIOCLOUD_IN_CHARGE", "BIOCLOUD_SCHEDULER", "scheduler_override", "dagster"),
        ("BIOCLOUD_CURATED_DAYS", "BIOCLOUD_RETENTION_DAYS", "retention_days", 14),
    ],
)
def test_a_renamed_variable_is_read_under_its_old_name_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, old: str, new: str, attribute: str, value: object
) -> None:
    monkeypatch.setenv(new, "")
    with pytest.warns(UserWarning, match=f"{old} is now called {new}"):
        assert getattr(load(monkeypatch, **{old: str(value)}), attribute) == value
    assert os.environ[new] == "", "the environment of other processes stays as it is"
    monkeypatch.setenv(new, "airflow" if value == "dagster" else "7")
    with pytest.warns(UserWarning):
        assert getattr(Settings.load(), attribute) != value, "the new name has precedence"


def test_a_command_about_one_environment_loads_the_settings_of_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOCLOUD_ENV", "production")
    assert Settings.load("local").env == "local"
    development = Settings.load("development")
    assert development.lake == load_environment(Path("databricks/environments.yml"), "development").lake_root
