"""Every setting, read from the environment once.

What belongs here: names, types, defaults and the rules between settings. What doesn't: anything that acts on them. No
other module reads a setting from the environment.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from biocloud_assets.environments import Environment, InCharge, load_environment
from biocloud_assets.errors import SettingsError

EnvironmentName = Literal["local", "development", "production"]
Engine = Literal["sail", "jvm", "databricks"]
Launcher = Literal["none", "step_launcher", "pipes"]

_PREFIX = "BIOCLOUD_"


class Settings(BaseSettings):
    """The settings of one process. Use `Settings.load()`, which names a wrong value and its variable.

    Attributes:
        env: `BIOCLOUD_ENV`: `local`, `development` or `production`.
        home: `BIOCLOUD_HOME`: the folder for local state; default `.biocloud` below the current folder.
        landing_root: `BIOCLOUD_LANDING_ROOT`: the folder or `s3://` address that holds `dsi/<delivery>/`; locally
            `<home>/landing`, elsewhere what the environments' file says.
        lake_root: `BIOCLOUD_LAKE_ROOT`: the folder or `s3://` address of the Delta lake; locally `<home>/lake`,
            elsewhere what the environments' file says.
        curated_root: `BIOCLOUD_CURATED_ROOT`: the folder or `s3://` address of the curated layer, which holds
            `dsi/<date>/`; locally `<home>/curated`, elsewhere what the environments' file says.
        curated_days: `BIOCLOUD_CURATED_DAYS`: for how many days before the run date the curated folders are kept.
        engine: `BIOCLOUD_ENGINE`: `sail` (embedded, no Java), `jvm` (a local Spark) or `databricks` (the session that
            the Databricks runtime provides).
        launcher: `BIOCLOUD_LAUNCHER`: what gets a step to Databricks: `none` (it runs in Dagster's own process),
            `step_launcher` or `pipes`; locally `none`, elsewhere `step_launcher`.
        in_charge: `BIOCLOUD_IN_CHARGE`: who starts runs by itself, `airflow` or `dagster`, if not as the environments'
            file says; locally nobody but Dagster can.
        environments: `BIOCLOUD_ENVIRONMENTS`: the file with what the environments look like on Databricks;
            `databricks/environments.yml` below the current folder.
        catalog: `BIOCLOUD_CATALOG`: the catalog of Unity Catalog in which the tables are registered.
        git_branch: `BIOCLOUD_GIT_BRANCH`: the branch whose code runs on Databricks; that of the current folder.
        databricks_host: `DATABRICKS_HOST`: the workspace in which steps run. Credentials are found the
            Databricks-standard way and never read here.
        quiet_seconds: `BIOCLOUD_QUIET_SECONDS`: for how many seconds nothing in a delivery may have changed before the
            command line takes it for complete.
        lookback_days: `BIOCLOUD_LOOKBACK_DAYS`: how many days before the newest settled delivery the sensor still looks
            for late arrivals.
        dagster_home: `DAGSTER_HOME`: where Dagster keeps its runs; default `<home>/dagster`.
        s3_endpoint: `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`: an S3 other than Amazon's. Region and credentials are
            found the AWS-standard way and never read here.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_ignore_empty=True, extra="ignore", frozen=True)

    env: EnvironmentName = "local"
    home: Path = Path(".biocloud")
    landing_root: Annotated[str, Field(min_length=1)] | None = None
    lake_root: Annotated[str, Field(min_length=1)] | None = None
    curated_root: Annotated[str, Field(min_length=1)] | None = None
    curated_days: Annotated[int, Field(ge=0, le=36_525)] = 30
    engine: Engine = "sail"
    launcher: Launcher | None = None
    in_charge: InCharge | None = None
    environments: Path = Path("databricks/environments.yml")
    catalog: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")] | None = None
    git_branch: Annotated[str, Field(pattern=r"^[\w./+#@-]+$")] | None = None
    databricks_host: str | None = Field(default=None, validation_alias="DATABRICKS_HOST")
    quiet_seconds: Annotated[float, Field(ge=0, le=86_400)] = 5.0
    lookback_days: Annotated[int, Field(ge=0, le=3_660)] = 30
    dagster_home: Path | None = Field(default=None, validation_alias="DAGSTER_HOME")
    s3_endpoint: Annotated[str, Field(pattern="^https?://[^/@]+(/.*)?$")] | None = Field(
        default=None, validation_alias=AliasChoices("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    )

    @classmethod
    def load(cls) -> Settings:
        """Read the settings from the environment.

        Raises:
            SettingsError: a variable has a value that can't be used, or is missing.
        """
        try:
            settings = cls()
        except ValidationError as error:
            first = error.errors()[0]
            field = str(first["loc"][0]) if first["loc"] else "env"
            variable = field if field.isupper() else f"{_PREFIX}{field.upper()}"
            raise SettingsError(
                variable,
                expected=first["msg"].removeprefix("Input should be ").removeprefix("Value error, "),
                found=repr(first["input"]),
                hint=f"Set {variable} to such a value, or unset it for the default.",
            ) from None
        if settings.env == "local" and settings.launches != "none":
            raise SettingsError(
                "BIOCLOUD_LAUNCHER",
                expected="none, as BIOCLOUD_ENV is local",
                found=settings.launches,
                hint="Set BIOCLOUD_ENV to development or production.",
            )
        _ = settings.landing, settings.lake, settings.curated  # outside `local` they may be nowhere
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
        """What gets a step to Databricks."""
        return self.launcher or ("none" if self.env == "local" else "step_launcher")

    @cached_property
    def leader(self) -> InCharge:
        """Who starts runs by itself.

        Raises:
            SettingsError: it isn't set, and the environments' file isn't there or can't be used.
        """
        if self.env == "local":
            return "dagster"
        return self.in_charge or self.environment.in_charge

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
        """The folder in which Dagster keeps its runs and events."""
        return (self.dagster_home or self.home / "dagster").expanduser().absolute()

    def _root(self, given: str | None, name: Literal["landing", "lake", "curated"]) -> str:
        if given is None and self.env != "local":
            given = str(getattr(self.environment, f"{name}_root"))
        if given is not None and "://" in given:
            return given
        return str(Path(given or self.home / name).expanduser().absolute())


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
