"""The environments on Databricks: `databricks/environments.yml`, read and checked.

What belongs here: what an environment's clusters, code and limits are called, and what breaks the file's rules. What
doesn't: using them (`launch`, `airflow`), and what differs from one process to the next (`settings`).

Names are those of Databricks' Jobs API (`new_cluster`, https://docs.databricks.com/api/workspace/jobs/submit), so that
what is in the file can be compared with what a run shows.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from biocloud_assets.errors import SettingsError

InCharge = Literal["airflow", "dagster"]

Root = Annotated[str, Field(pattern=r"^(s3://[^/]+(/.+)?|/.*)$", description="an s3:// address, or an absolute folder")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Git(_Section):
    """The repository that clusters check out.

    Attributes:
        url: its HTTPS address, without credentials; the workspace has them ("Git integration").
        provider: as Databricks calls it.
    """

    url: Annotated[str, Field(pattern=r"^(https|file)://[^@]+$")]
    provider: Literal["gitLab", "gitLabEnterpriseEdition", "gitHub", "gitHubEnterprise", "bitbucketCloud"] = "gitLab"


class Autoscale(_Section):
    """How many workers a cluster has besides the driver."""

    min_workers: Annotated[int, Field(ge=0)]
    max_workers: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _in_order(self) -> Autoscale:
        if self.min_workers > self.max_workers:
            raise ValueError("min_workers no greater than max_workers")
        return self


class Cluster(_Section):
    """The cluster of one step, made from the instance pool and gone after it.

    Attributes:
        spark_version: the Databricks runtime.
        instance_pool_id: the pool that its nodes come from.
        autoscale: how many workers.
        data_security_mode: `SINGLE_USER` is what Unity Catalog asks of a cluster that runs one principal's code.
        instance_profile_arn: what the cluster may reach on AWS, if not by Unity Catalog alone.
        spark_conf: Spark's configuration.
        spark_env_vars: environment variables; a secret is named as `{{secrets/<scope>/<key>}}` and never written out.
        custom_tags: for whom it is paid.
    """

    spark_version: Annotated[str, Field(pattern=r"^\d+\.(\d+|x)[\w.-]*$")]
    instance_pool_id: Annotated[str, Field(min_length=1)]
    autoscale: Autoscale
    data_security_mode: Literal["SINGLE_USER", "USER_ISOLATION", "NONE"] = "SINGLE_USER"
    instance_profile_arn: str | None = None
    spark_conf: dict[str, str] = {}
    spark_env_vars: dict[str, str] = {}
    custom_tags: dict[str, str] = {}

    @model_validator(mode="after")
    def _no_secret(self) -> Cluster:
        for name, value in self.spark_env_vars.items():
            if re.search(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|_KEY$|KEY_ID$", name, re.IGNORECASE) and not re.fullmatch(
                r"\{\{secrets/[^/{}]+/[^/{}]+\}\}", value
            ):
                raise ValueError(f"spark_env_vars.{name} to be a reference, {{{{secrets/<scope>/<key>}}}}")
        return self


class Environment(_Section):
    """One environment.

    Attributes:
        landing_root: where deliveries land.
        lake_root: where the Delta tables lie.
        curated_root: where the folders for DSI lie.
        dags: the folder in the bucket that Airflow syncs its DAGs from.
        in_charge: who starts runs by itself, Airflow or Dagster; the other's sensors and schedules start none.
        catalog: the catalog of Unity Catalog in which the tables are registered; none for no registration.
        git: the repository.
        cluster: the cluster of a step.
        libraries: the packages that a step needs and the runtime lacks; their versions are those of uv.lock.
        timeout_seconds: for how long a step may run, once its cluster is there.
        start_timeout_seconds: for how long it may wait for its cluster.
        poll_seconds: the pause between two looks at a run.
        messages: where a step leaves its messages for Dagster Pipes: an `s3://` address, or a folder in a volume.
    """

    landing_root: Root
    lake_root: Root
    curated_root: Root
    dags: Annotated[str, Field(pattern=r"^s3://[^/]+(/[^/]+)+$")]
    in_charge: InCharge
    catalog: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")] | None = None
    git: Git
    cluster: Cluster
    libraries: Annotated[list[str], Field(min_length=1)]
    timeout_seconds: Annotated[int, Field(ge=1, le=86_400)] = 3_600
    start_timeout_seconds: Annotated[int, Field(ge=1, le=86_400)] = 900
    poll_seconds: Annotated[float, Field(gt=0, le=300)] = 10
    messages: Annotated[str, Field(pattern=r"^(s3://[^/]+/.+|/Volumes/[^/]+/[^/]+/[^/]+(/.*)?)$")]

    def new_cluster(self) -> dict[str, Any]:
        """`new_cluster` of the Jobs API."""
        given = self.cluster.model_dump(exclude={"instance_profile_arn"}, exclude_defaults=False)
        new = {name: value for name, value in given.items() if value not in ({}, None)}
        if self.cluster.instance_profile_arn is not None:
            new["aws_attributes"] = {"instance_profile_arn": self.cluster.instance_profile_arn}
        return new


class Environments(_Section):
    """The whole file."""

    development: Environment
    production: Environment


def load_environment(file: Path, name: Literal["development", "production"]) -> Environment:
    """One environment of the file.

    Args:
        file: `databricks/environments.yml`, or one like it.
        name: which.

    Raises:
        SettingsError: the file isn't there, is no YAML, or has a key or value that can't be used; every one is named.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(
            str(file),
            expected=f"the file with what {name} looks like on Databricks",
            found="no such file",
            hint="Run it where the repository is checked out, or set BIOCLOUD_ENVIRONMENTS to the file.",
        ) from None
    except yaml.YAMLError as error:
        raise SettingsError(str(file), expected="YAML", found=str(error), hint="Mend the line that it names.") from None
    try:
        return getattr(Environments.model_validate(content), name)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'the file'}: "
            f"{fault['msg'].removeprefix('Value error, expected ').removeprefix('Value error, ')}"
            for fault in error.errors()
        ]
        raise SettingsError(
            str(file),
            expected="the keys and values of databricks/environments.schema.json",
            found="\n".join(["", *(f"  - {fault}" for fault in faults), ""]),
            hint="Mend these keys.",
        ) from None


def pinned(libraries: list[str], lock: Path) -> list[str]:
    """The libraries with the versions that uv.lock has them in, `name==version`.

    Args:
        libraries: the names of packages.
        lock: the file uv.lock.

    Raises:
        SettingsError: there is no such file, or it doesn't hold one of them.
    """
    try:
        packages = tomllib.loads(lock.read_text(encoding="utf-8"))["package"]
    except FileNotFoundError:
        raise SettingsError(
            str(lock),
            expected="the versions of the libraries for the cluster",
            found="no such file",
            hint="Run it where the repository is checked out.",
        ) from None
    versions = {package["name"]: package.get("version") for package in packages}
    missing = [name for name in libraries if not versions.get(name)]
    if missing:
        raise SettingsError(
            "libraries",
            expected=f"packages that {lock} holds",
            found=", ".join(missing),
            hint="Add them to pyproject.toml and run `uv lock`, or take them out of databricks/environments.yml.",
        )
    return [f"{name}=={versions[name]}" for name in libraries]


def schema() -> str:
    """The JSON schema of the file, for editors."""
    content = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Biocloud's environments on Databricks",
        **Environments.model_json_schema(),
    }
    return json.dumps(content, indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema())
