"""Every setting, read from the environment once. No other module reads a setting from the environment."""

from __future__ import annotations

import os
import re
import warnings
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from biocloud_assets.environments import (
    DEFAULT_RETENTION_DAYS,
    Environment,
    Scheduler,
    load_environment,
    region_variables,
)
from biocloud_assets.errors import SettingsError

EnvironmentName = Literal["local", "development", "production"]
Engine = Literal["sail", "jvm", "connect", "databricks"]
Launcher = Literal["none", "step_launcher", "pipes"]

_PREFIX = "BIOCLOUD_"
_GIT_NAME = r"^[\w./+#@-]+$"


class Settings(BaseSettings):
    """The settings of one process. Use `Settings.load()`, which names the variable of a wrong value.

    Attributes:
        env: `BIOCLOUD_ENV`: `local`, `development` or `production`.
        home: `BIOCLOUD_HOME`: the folder for local state; default `.biocloud` below the current folder.
        landing_root: `BIOCLOUD_LANDING_ROOT`: the folder or `s3://` address that holds `dsi/<delivery>/`; locally
            `<home>/landing`, elsewhere what the environments' file says.
        lake_root: `BIOCLOUD_LAKE_ROOT`: the folder or `s3://` address of the Delta lake; locally `<home>/lake`,
            elsewhere what the environments' file says.
        curated_root: `BIOCLOUD_CURATED_ROOT`: the folder or `s3://` address of the curated layer, which holds
            `dsi/<date>/`; locally `<home>/curated`, elsewhere what the environments' file says.
        retention_days: `BIOCLOUD_RETENTION_DAYS`: for how many days before the run date the curated folders are kept;
            locally 30, elsewhere what the environments' file says.
        engine: `BIOCLOUD_ENGINE`: `sail` (embedded, no Java), `jvm` (a local Spark), `connect` (a Spark Connect server)
            or `databricks` (the session that the Databricks runtime provides).
        spark_remote: `SPARK_REMOTE`: the address of the Spark Connect server for `connect`, `sc://host:port`.
        launcher: `BIOCLOUD_LAUNCHER`: where a step runs: `none` (in Dagster's own process), or on Databricks by
            `pipes` or `step_launcher`; locally `none`, elsewhere `pipes`.
        scheduler_override: `BIOCLOUD_SCHEDULER`: what starts runs by itself, `airflow` or `dagster`, instead of what
            the environments' file says; locally it is always Dagster.
        environments: `BIOCLOUD_ENVIRONMENTS`: the file that describes the environments on Databricks;
            `databricks/environments.yml` below the current folder.
        catalog: `BIOCLOUD_CATALOG`: the catalog of Unity Catalog in which the tables are registered.
        git_branch, git_tag, git_commit: `BIOCLOUD_GIT_BRANCH`, `BIOCLOUD_GIT_TAG`, `BIOCLOUD_GIT_COMMIT`: the Git
            reference whose code runs on Databricks, at most one; the branch of the current folder.
        databricks_host: `DATABRICKS_HOST`: the workspace in which steps run. Credentials are found the
            Databricks-standard way and never read here.
        webhook_url: `BIOCLOUD_WEBHOOK_URL`: the address to which Dagster posts a message about each failed run; without
            it, none is posted. It is secret.
        quiet_seconds: `BIOCLOUD_QUIET_SECONDS`: for how many seconds nothing in a delivery may have changed before the
            command line takes it for complete.
        lookback_days: `BIOCLOUD_LOOKBACK_DAYS`: how many days before the newest settled delivery the sensor still looks
            for late arrivals.
        dagster_home: `DAGSTER_HOME`: where Dagster keeps the runs of the environment; default `<home>/dagster`
            locally, elsewhere `<home>/dagster_<environment>`.
        s3_endpoint: `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`: an S3 other than Amazon's. Credentials are found the
            AWS-standard way and never read here. So is the region; outside `local` it is that of the environments' file
            if neither `AWS_REGION` nor `AWS_DEFAULT_REGION` is set.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_ignore_empty=True, extra="ignore", frozen=True, populate_by_name=True
    )

    env: EnvironmentName = "local"
    home: Path = Path(".biocloud")
    landing_root: Annotated[str, Field(min_length=1)] | None = None
    lake_root: Annotated[str, Field(min_length=1)] | None = None
    curated_root: Annotated[str, Field(min_length=1)] | None = None
    retention_days: Annotated[int, Field(ge=0, le=36_525)] | None = None
    engine: Engine = "sail"
    spark_remote: str | None = Field(default=None, validation_alias="SPARK_REMOTE")
    launcher: Launcher | None = None
    scheduler_override: Scheduler | None = Field(default=None, validation_alias="BIOCLOUD_SCHEDULER")
    environments: Path = Path("databricks/environments.yml")
    catalog: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")] | None = None
    git_branch: Annotated[str, Field(pattern=_GIT_NAME)] | None = None
    git_tag: Annotated[str, Field(pattern=_GIT_NAME)] | None = None
    git_commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    databricks_host: str | None = Field(default=None, validation_alias="DATABRICKS_HOST")
    webhook_url: SecretStr | None = None
    quiet_seconds: Annotated[float, Field(ge=0, le=86_400)] = 5.0
    lookback_days: Annotated[int, Field(ge=0, le=3_660)] = 30
    dagster_home: Path | None = Field(default=None, validation_alias="DAGSTER_HOME")
    s3_endpoint: Annotated[str, Field(pattern="^https?://[^/@]+(/.*)?$")] | None = Field(
        default=None, validation_alias=AliasChoices("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    )

    @field_validator("webhook_url")
    @classmethod
    def _is_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not re.match(r"https?://[^/]+", url.get_secret_value()):
            raise ValueError("an http:// or https:// address")
        return url

    @classmethod
    def load(cls, env: EnvironmentName | None = None) -> Settings:
        """Read the settings from the environment.

        Args:
            env: the environment; by default `BIOCLOUD_ENV`.

        Raises:
            SettingsError: a variable has a value that can't be used, or is missing.
        """
        try:
            settings = cls(**_given_by_old_names() | ({} if env is None else {"env": env}))
        except ValidationError as error:
            first = error.errors()[0]
            field = str(first["loc"][0]) if first["loc"] else "env"
            variable = field if field.isupper() else f"{_PREFIX}{field.upper()}"
            raise SettingsError(
                variable,
                expected=first["msg"].removeprefix("Input should be ").removeprefix("Value error, "),
                found="another value" if field == "webhook_url" else repr(first["input"]),
                hint=f"Set {variable} to such a value, or unset it for the default.",
            ) from None
        if settings.env == "local" and settings.launches != "none":
            raise SettingsError(
                "BIOCLOUD_LAUNCHER",
                expected="none, as BIOCLOUD_ENV is local",
                found=settings.launches,
                hint="Set BIOCLOUD_ENV to development or production.",
            )
        _ = settings.landing, settings.lake, settings.curated  # outside `local` they may be missing
        on_s3 = any(root.startswith("s3://") for root in (settings.landing, settings.lake, settings.curated))
        if settings.env != "local" and on_s3:
            set_region(_region() or settings.environment.region)
        return settings

    @cached_property
    def environment(self) -> Environment:
        """What the environment looks like on Databricks; `local` has none.

        Raises:
            SettingsError: the file isn't there, or has a key or value that can't be used.
        """
        assert self.env != "local"
        return load_environment(self.environments, self.env)

    @property
    def launches(self) -> Launcher:
        """Where a step runs."""
        return self.launcher or ("none" if self.env == "local" else "pipes")

    @cached_property
    def scheduler(self) -> Scheduler:
        """What starts runs by itself.

        Raises:
            SettingsError: it isn't set, and the environments' file isn't there or can't be used.
        """
        if self.env == "local":
            return "dagster"
        return self.scheduler_override or self.environment.scheduler

    @cached_property
    def not_before(self) -> str:
        """The first day, yyyy-mm-dd, whose deliveries are ingested without a person; "" for all.

        Raises:
            SettingsError: the environments' file isn't there or can't be used.
        """
        day = None if self.env == "local" else self.environment.not_before
        return "" if day is None else day.isoformat()

    @cached_property
    def retention(self) -> int:
        """For how many days before the run date the curated folders are kept.

        Raises:
            SettingsError: it isn't set, and the environments' file isn't there or can't be used.
        """
        if self.retention_days is not None:
            return self.retention_days
        return DEFAULT_RETENTION_DAYS if self.env == "local" else self.environment.retention_days

    @cached_property
    def landing(self) -> str:
        """The root of the landing zone: an absolute folder or an `s3://` address."""
        return self._root(self.landing_root, "landing")

    @cached_property
    def lake(self) -> str:
        """The root of the lake: an absolute folder or an `s3://` address."""
        return self._root(self.lake_root, "lake")

    @cached_property
    def curated(self) -> str:
        """The root of the curated layer: an absolute folder or an `s3://` address."""
        return self._root(self.curated_root, "curated")

    @cached_property
    def dagster(self) -> Path:
        """The folder in which Dagster keeps the runs and events of the environment."""
        name = "dagster" if self.env == "local" else f"dagster_{self.env}"
        return (self.dagster_home or self.home / name).expanduser().absolute()

    def _root(self, given: str | None, name: Literal["landing", "lake", "curated"]) -> str:
        if given is None and self.env != "local":
            given = str(getattr(self.environment, f"{name}_root"))
        if given is not None and "://" in given:
            return given
        return str(Path(given or self.home / name).expanduser().absolute())


def set_region(region: str) -> None:
    """Set the AWS region for every client of this process (boto3, delta-rs, the engine), unless it is set.

    Args:
        region: for instance `eu-west-1`.
    """
    region = _region() or region
    for name, value in region_variables(region).items():
        os.environ.setdefault(name, value)


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


_OLD_NAMES = {
    "BIOCLOUD_IN_CHARGE": ("BIOCLOUD_SCHEDULER", "scheduler_override"),
    "BIOCLOUD_CURATED_DAYS": ("BIOCLOUD_RETENTION_DAYS", "retention_days"),
}
"""Variables that were renamed after version 0.1, with their new names and fields; the old ones are read until 0.3."""


def _given_by_old_names() -> dict[str, Any]:
    """The settings that only the old name of a variable gives."""
    given = {}
    for old, (new, field) in _OLD_NAMES.items():
        if os.environ.get(old):
            warnings.warn(f"{old} is now called {new}; the old name is read until version 0.3.", stacklevel=3)
            if not os.environ.get(new):
                given[field] = os.environ[old]
    return given


WorkspaceEnvironment = Literal["development", "production"]


class WorkspaceSettings(BaseSettings):
    """The Databricks workspaces or accounts of the group sync. Each is needed only if its environment is synchronised.

    Attributes:
        host_test, token_test: `DATABRICKS_HOST_TEST`, `DATABRICKS_TOKEN_TEST`: the workspace of `development`.
        host_prod, token_prod: `DATABRICKS_HOST_PROD`, `DATABRICKS_TOKEN_PROD`: the workspace of `production`.
        account_id_test, account_id_prod: `DATABRICKS_ACCOUNT_ID_TEST`, `DATABRICKS_ACCOUNT_ID_PROD`: the ID of the
            account whose groups are synchronised instead of the workspace's; host and token are then the account's.
        groups: `BIOCLOUD_GROUPS`: the folder of the group files; `groups` below the current folder.
    """

    model_config = SettingsConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    host_test: str = Field(default="", validation_alias="DATABRICKS_HOST_TEST")
    token_test: SecretStr = Field(default=SecretStr(""), validation_alias="DATABRICKS_TOKEN_TEST")
    account_id_test: str = Field(default="", validation_alias="DATABRICKS_ACCOUNT_ID_TEST")
    host_prod: str = Field(default="", validation_alias="DATABRICKS_HOST_PROD")
    token_prod: SecretStr = Field(default=SecretStr(""), validation_alias="DATABRICKS_TOKEN_PROD")
    account_id_prod: str = Field(default="", validation_alias="DATABRICKS_ACCOUNT_ID_PROD")
    groups: Path = Field(default=Path("groups"), validation_alias="BIOCLOUD_GROUPS")

    def workspace(self, env: WorkspaceEnvironment) -> dict[str, str | SecretStr]:
        """Return `host`, `token` and `account_id` of an environment; `account_id` is empty for a workspace.

        Args:
            env: `development` or `production`.

        Raises:
            SettingsError: the host or the token isn't set, or the account ID isn't a UUID.
        """
        host, token, account_id, suffix = (
            (self.host_test, self.token_test, self.account_id_test, "TEST")
            if env == "development"
            else (self.host_prod, self.token_prod, self.account_id_prod, "PROD")
        )
        for variable, value in (("HOST", host), ("TOKEN", token.get_secret_value())):
            if not value.strip():
                raise SettingsError(
                    f"DATABRICKS_{variable}_{suffix}",
                    expected=f"the {variable.lower()} of the {env} workspace",
                    found="nothing",
                    hint=f"Set DATABRICKS_HOST_{suffix} and DATABRICKS_TOKEN_{suffix}.",
                )
        if not re.fullmatch(r"[0-9A-Fa-f-]*", account_id.strip()):
            raise SettingsError(
                f"DATABRICKS_ACCOUNT_ID_{suffix}",
                expected="the ID of a Databricks account, a UUID",
                found=repr(account_id),
                hint="Copy it from the account console, or unset it to synchronise the workspace's groups.",
            )
        return {"host": host.strip(), "token": token, "account_id": account_id.strip()}
