"""The environments on Databricks: `databricks/environments.yml`, read and checked.

Names are those of Databricks' Jobs API (https://docs.databricks.com/api/workspace/jobs/submit), so that the file can be
compared with what a run shows. Settings that differ between processes are in `settings`.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from biocloud_assets.errors import SettingsError

Scheduler = Literal["airflow", "dagster"]

Root = Annotated[str, Field(pattern=r"^(s3://[^/]+(/.+)?|/.*)$", description="an s3:// address, or an absolute folder")]

_Text = Annotated[str, Field(min_length=1)]

DEFAULT_RETENTION_DAYS = 30

# https://docs.databricks.com/aws/en/compute/configure#single-node: the driver does the work. `is_single_node` sets the
# same, but only together with `kind: CLASSIC_PREVIEW` (databricks-sdk, `ClusterSpec`).
_SINGLE_NODE_CONF = {"spark.databricks.cluster.profile": "singleNode", "spark.master": "local[*, 4]"}
_SINGLE_NODE_TAGS = {"ResourceClass": "SingleNode"}

SERVERLESS_KEY = "default"
"""The `environment_key` of a task on serverless compute."""


def region_variables(region: str) -> dict[str, str]:
    """The environment variables that name the AWS region.

    delta-rs and Sail use us-east-1 if they find none, and S3 then answers 301 (arrow-rs#2795, delta-rs#798). They read
    AWS_REGION; boto3 reads only AWS_DEFAULT_REGION.

    Args:
        region: for instance `eu-west-1`.
    """
    return {"AWS_REGION": region, "AWS_DEFAULT_REGION": region}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Git(_Section):
    """The repository that clusters check out.

    Attributes:
        url: its HTTPS address, without credentials; the workspace has them ("Git integration").
        provider: its name in the Jobs API.
    """

    url: Annotated[str, Field(pattern=r"^(https|file)://[^@]+$")]
    provider: Literal["gitLab", "gitLabEnterpriseEdition", "gitHub", "gitHubEnterprise", "bitbucketCloud"] = "gitLab"


class Principal(_Section):
    """One principal of the workspace.

    Attributes:
        user_name: the e-mail address of a user.
        group_name: the name of a group.
        service_principal_name: the application ID of a service principal.
    """

    user_name: _Text | None = None
    group_name: _Text | None = None
    service_principal_name: _Text | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Principal:
        if len(self.model_fields_set) != 1:
            raise ValueError("exactly one of user_name, group_name and service_principal_name")
        return self


class Autoscale(_Section):
    """The number of workers that a cluster has besides the driver, which Databricks changes with the load.

    Attributes:
        min_workers: at least, 1 or more.
        max_workers: at most, more than `min_workers`.
    """

    min_workers: Annotated[int, Field(ge=1)]
    max_workers: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _in_order(self) -> Autoscale:
        # databricks-sdk, `AutoScale`: "`max_workers` must be strictly greater than `min_workers`".
        if self.min_workers >= self.max_workers:
            raise ValueError("max_workers greater than min_workers; for a fixed number use num_workers")
        return self


class Cluster(_Section):
    """The cluster of one step, created from the instance pool and terminated after it.

    Attributes:
        spark_version: the Databricks runtime.
        instance_pool_id: the pool that its nodes come from.
        driver_instance_pool_id: the pool that its driver comes from, if that is another one.
        policy_id: the cluster policy; it also gives the values of the keys that are left out.
        num_workers: how many workers; 0 is a single node, whose driver does the work.
        autoscale: how many workers, if the number may change.
        data_security_mode: the access mode: `SINGLE_USER` (dedicated) runs the code of one principal, with Unity
            Catalog.
        instance_profile_arn: the AWS role of the cluster, if it reaches S3 other than through Unity Catalog.
        spark_conf: Spark's configuration.
        spark_env_vars: environment variables; a secret is a reference `{{secrets/<scope>/<key>}}`, never a value.
        custom_tags: tags for cost reports.
        log_delivery: where the cluster's logs are kept: an `s3://` address that its instance profile can write to, or
            a folder in a volume.
    """

    spark_version: Annotated[str, Field(pattern=r"^\d+\.(\d+|x)[\w.-]*$")]
    instance_pool_id: _Text
    driver_instance_pool_id: _Text | None = None
    policy_id: _Text | None = None
    num_workers: Annotated[int, Field(ge=0)] | None = None
    autoscale: Autoscale | None = None
    # The values of databricks-sdk's `DataSecurityMode`; a test compares them.
    data_security_mode: Literal[
        "SINGLE_USER",
        "USER_ISOLATION",
        "NONE",
        "DATA_SECURITY_MODE_AUTO",
        "DATA_SECURITY_MODE_DEDICATED",
        "DATA_SECURITY_MODE_STANDARD",
        "LEGACY_PASSTHROUGH",
        "LEGACY_SINGLE_USER",
        "LEGACY_SINGLE_USER_STANDARD",
        "LEGACY_TABLE_ACL",
    ] = "SINGLE_USER"
    instance_profile_arn: _Text | None = None
    spark_conf: dict[str, str] = {}
    spark_env_vars: dict[str, str] = {}
    custom_tags: dict[str, str] = {}
    log_delivery: Annotated[str, Field(pattern=r"^(s3://[^/]+/.+|/Volumes/[^/]+/[^/]+/[^/]+(/.*)?)$")] | None = None

    @model_validator(mode="after")
    def _one_size(self) -> Cluster:
        if (self.num_workers is None) == (self.autoscale is None):
            raise ValueError("exactly one of num_workers and autoscale")
        return self

    @model_validator(mode="after")
    def _no_secret(self) -> Cluster:
        refuse_secrets("spark_env_vars", self.spark_env_vars)
        return self


_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|_KEY$|KEY_ID$", re.IGNORECASE)
_SECRET_REFERENCE = re.compile(r"\{\{secrets/[^/{}]+/[^/{}]+\}\}")


def refuse_secrets(where: str, variables: Mapping[str, str]) -> None:
    """Refuse environment variables of a cluster that hold a secret instead of a reference to one.

    Args:
        where: what the variables belong to, for the message.
        variables: their names and values.

    Raises:
        ValueError: a variable has the name of a secret and another value than `{{secrets/<scope>/<key>}}`.
    """
    for name, value in variables.items():
        if _SECRET_NAME.search(name) and not _SECRET_REFERENCE.fullmatch(value):
            raise ValueError(f"{where}.{name} to be a reference, {{{{secrets/<scope>/<key>}}}}")


class Serverless(_Section):
    """Serverless compute, instead of a cluster.

    Attributes:
        environment_version: the version of the serverless environment, which says what Python and packages it has.
    """

    environment_version: Annotated[str, Field(pattern=r"^\d+$")]


_VOLUME = r"^/Volumes/[^/]+/[^/]+/[^/]+(/.*)?$"


class Volumes(_Section):
    """The files that a step reads and writes, as volumes of Unity Catalog.

    In standard mode and on serverless compute a step has no other access to files: no instance profile, and no
    credentials for boto3 or delta-rs. Each is an external volume on the place that other processes reach by its
    address (https://docs.databricks.com/aws/en/volumes/).

    Attributes:
        landing: the volume on `landing_root`, or a folder in one.
        curated: the volume on `curated_root`, or a folder in one.
        files: the volume on `<lake_root>/_files`, which holds the lake's files that aren't tables.
    """

    landing: Annotated[str, Field(pattern=_VOLUME)]
    curated: Annotated[str, Field(pattern=_VOLUME)]
    files: Annotated[str, Field(pattern=_VOLUME)]


class Environment(_Section):
    """One environment.

    Attributes:
        region: the AWS region of the buckets, for instance `eu-west-1`.
        landing_root: where deliveries land.
        lake_root: where the Delta tables are.
        curated_root: where the curated folders are.
        dags: the folder in the bucket that Airflow syncs its DAGs from.
        scheduler: what starts runs by itself, Airflow or Dagster; sensors and schedules of the other start none.
        not_before: the first day, UTC, whose deliveries are ingested without a person; older ones are history.
        catalog: the catalog of Unity Catalog that has the tables, which are then written and read by their names;
            without it, by their paths.
        volumes: the volumes through which a step reads and writes files; without them, it uses the addresses above,
            with the instance profile of its cluster.
        retention_days: for how many days before the run date the curated folders are kept.
        git: the repository.
        cluster: the cluster of a step.
        serverless: serverless compute, instead of a cluster.
        run_as: the user or service principal as which the steps run; without it, the one that submits them.
        viewers: who may open the page of a run, besides the principal that submits it.
        libraries: the packages that a step needs and the runtime lacks; uv.lock gives their versions.
        package_index: the URL of the index from which a cluster installs them, if that isn't PyPI.
        timeout_seconds: for how long a step may run once its cluster has started.
        start_timeout_seconds: for how long it may wait for its cluster.
        poll_seconds: the pause between two requests for the state of a run.
        messages: where a step leaves its messages for Dagster Pipes: an `s3://` address, or a folder in a volume.
    """

    region: Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-\d+$")]
    landing_root: Root
    lake_root: Root
    curated_root: Root
    dags: Annotated[str, Field(pattern=r"^s3://[^/]+(/[^/]+)+$")]
    scheduler: Scheduler
    not_before: date | None = None
    catalog: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")] | None = None
    volumes: Volumes | None = None
    retention_days: Annotated[int, Field(ge=0, le=36_525)] = DEFAULT_RETENTION_DAYS
    git: Git
    cluster: Cluster | None = None
    serverless: Serverless | None = None
    run_as: Principal | None = None
    viewers: list[Principal] = []
    libraries: Annotated[list[str], Field(min_length=1)]
    package_index: Annotated[str, Field(pattern=r"^https://[^@\s]+$")] | None = None
    timeout_seconds: Annotated[int, Field(ge=1, le=86_400)] = 3_600
    start_timeout_seconds: Annotated[int, Field(ge=1, le=86_400)] = 900
    poll_seconds: Annotated[float, Field(gt=0, le=300)] = 10
    messages: Annotated[str, Field(pattern=r"^(s3://[^/]+/.+|/Volumes/[^/]+/[^/]+/[^/]+(/.*)?)$")]

    @model_validator(mode="before")
    @classmethod
    def _accept_old_name(cls, content: Any) -> Any:
        """`in_charge` was renamed to `scheduler` after version 0.1; the old name is read until version 0.3."""
        if isinstance(content, dict) and "in_charge" in content and "scheduler" not in content:
            warnings.warn("the key in_charge is now called scheduler; it is read until version 0.3.", stacklevel=2)
            content = {("scheduler" if name == "in_charge" else name): value for name, value in content.items()}
        return content

    @model_validator(mode="after")
    def _one_compute(self) -> Environment:
        if (self.cluster is None) == (self.serverless is None):
            raise ValueError("exactly one of cluster and serverless")
        if self.serverless is not None and self.package_index is not None:
            raise ValueError("no package_index with serverless: an administrator sets the index of the workspace")
        return self

    @model_validator(mode="after")
    def _volumes_have_a_catalog(self) -> Environment:
        if self.volumes is not None and self.catalog is None:
            raise ValueError("a catalog together with volumes")
        return self

    @model_validator(mode="after")
    def _run_as_one(self) -> Environment:
        if self.run_as is not None and self.run_as.group_name is not None:
            raise ValueError("run_as a user or a service principal, not a group")
        return self

    def locations(self, landing: str, lake: str, curated: str) -> list[str]:
        """The arguments of a step on a cluster that say where it reads and writes.

        Args:
            landing: the address of the landing zone, unless there are volumes.
            lake: the address of the lake.
            curated: the address of the curated layer, unless there are volumes.
        """
        volumes = self.volumes
        landing, curated = (landing, curated) if volumes is None else (volumes.landing, volumes.curated)
        arguments = ["--landing-root", landing, "--lake-root", lake, "--curated-root", curated]
        arguments += [] if volumes is None else ["--files-root", volumes.files]
        return arguments if self.catalog is None else [*arguments, "--catalog", self.catalog]

    def new_cluster(self) -> dict[str, Any]:
        """`new_cluster` of the Jobs API.

        Raises:
            SettingsError: the environment is on serverless compute.
        """
        cluster = self.cluster
        if cluster is None:
            raise SettingsError(
                "cluster",
                expected="the cluster of a step",
                found="an environment on serverless compute",
                hint="Use BIOCLOUD_LAUNCHER=pipes.",
            )
        new = cluster.model_dump(exclude={"instance_profile_arn", "log_delivery"}, exclude_none=True)
        new["spark_env_vars"] = {**region_variables(self.region), **cluster.spark_env_vars}
        if cluster.num_workers == 0:
            new["spark_conf"] = {**_SINGLE_NODE_CONF, **cluster.spark_conf}
            new["custom_tags"] = {**cluster.custom_tags, **_SINGLE_NODE_TAGS}
        if cluster.policy_id is not None:
            new["apply_policy_default_values"] = True
        if cluster.instance_profile_arn is not None:
            new["aws_attributes"] = {"instance_profile_arn": cluster.instance_profile_arn}
        if cluster.log_delivery is not None:
            new["cluster_log_conf"] = (
                {"volumes": {"destination": cluster.log_delivery}}
                if cluster.log_delivery.startswith("/Volumes/")
                else {"s3": {"destination": cluster.log_delivery, "region": self.region}}
            )
        return {name: value for name, value in new.items() if value != {}}

    def single_node(self) -> Environment:
        """The same environment with the smallest cluster: for a script that needs no Spark."""
        if self.cluster is None:
            return self
        cluster = self.cluster.model_copy(update={"num_workers": 0, "autoscale": None})
        return self.model_copy(update={"cluster": cluster})

    def submission(
        self,
        *,
        run_name: str,
        git_reference: Mapping[str, str],
        task_key: str,
        script: str,
        parameters: Sequence[str],
        libraries: list[str],
    ) -> dict[str, Any]:
        """The body of `runs/submit` of the Jobs API for one script: the same for Dagster and for the exported DAGs.

        Args:
            run_name: the name of the run.
            git_reference: `git_branch`, `git_tag` or `git_commit`.
            task_key: the name of its task.
            script: the path of the script in the repository.
            parameters: the arguments of the script.
            libraries: requirements, `name==version`.
        """
        return {
            **self.run_settings(libraries),
            "run_name": run_name,
            "git_source": {"git_url": self.git.url, "git_provider": self.git.provider, **git_reference},
            "tasks": [
                {
                    **self.compute(libraries),
                    "task_key": task_key,
                    "spark_python_task": {"python_file": script, "source": "GIT", "parameters": list(parameters)},
                }
            ],
        }

    def compute(self, libraries: list[str]) -> dict[str, Any]:
        """The keys of a task that say on what it runs: a new cluster with its libraries, or serverless compute.

        Args:
            libraries: requirements, `name==version`.
        """
        if self.serverless is not None:
            return {"environment_key": SERVERLESS_KEY}
        return {"new_cluster": self.new_cluster(), "libraries": self.cluster_libraries(libraries)}

    def cluster_libraries(self, libraries: list[str]) -> list[dict[str, dict[str, str]]]:
        """`libraries` of the Jobs API.

        Args:
            libraries: requirements, `name==version`.
        """
        index = {} if self.package_index is None else {"repo": self.package_index}
        return [{"pypi": {"package": library, **index}} for library in libraries]

    def run_settings(self, libraries: list[str]) -> dict[str, Any]:
        """The keys of a run that are the same for all steps: limits, principals, and the serverless environment.

        Args:
            libraries: requirements, `name==version`, for serverless compute.
        """
        settings: dict[str, Any] = {"timeout_seconds": self.timeout_seconds}
        if self.run_as is not None:
            settings["run_as"] = self.run_as.model_dump(exclude_none=True)
        if self.viewers:
            settings["access_control_list"] = [
                {**viewer.model_dump(exclude_none=True), "permission_level": "CAN_VIEW"} for viewer in self.viewers
            ]
        if self.serverless is not None:
            spec = {"environment_version": self.serverless.environment_version, "dependencies": libraries}
            settings["environments"] = [{"environment_key": SERVERLESS_KEY, "spec": spec}]
        return settings


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
    import yaml  # a cluster doesn't read the file, and may lack the package

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(
            str(file),
            expected=f"the file that describes {name} on Databricks",
            found="no such file",
            hint="Run it where the repository is checked out, or set BIOCLOUD_ENVIRONMENTS to the file.",
        ) from None
    except yaml.YAMLError as error:
        raise SettingsError(str(file), expected="YAML", found=str(error), hint="Fix the line that it names.") from None
    try:
        return getattr(Environments.model_validate(content), name)
    except ValidationError as error:
        errors = [
            f"{'.'.join(map(str, error_['loc'])) or 'the file'}: "
            f"{error_['msg'].removeprefix('Value error, expected ').removeprefix('Value error, ')}"
            for error_ in error.errors()
        ]
        raise SettingsError(
            str(file),
            expected="the keys and values of databricks/environments.schema.json",
            found="; ".join(errors),
            hint="Fix these keys.",
        ) from None


def pinned(libraries: list[str], lock: Path) -> list[str]:
    """The libraries with their versions in uv.lock, `name==version`.

    Args:
        libraries: the names of packages.
        lock: the file uv.lock.

    Raises:
        SettingsError: there is no such file, or one of them isn't in it.
    """
    try:
        versions = _locked_versions(lock.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(
            str(lock),
            expected="the versions of the libraries for the cluster",
            found="no such file",
            hint="Run it where the repository is checked out.",
        ) from None
    missing = [name for name in libraries if not versions.get(name)]
    if missing:
        raise SettingsError(
            "libraries",
            expected=f"packages that {lock} holds",
            found=", ".join(missing),
            hint="Add them to pyproject.toml and run `uv lock`, or take them out of databricks/environments.yml.",
        )
    return [f"{name}=={versions[name]}" for name in libraries]


@lru_cache(maxsize=1)  # it takes a quarter of a second, and every submission needs it
def _locked_versions(lock: str) -> dict[str, str | None]:
    """The version of each package of a uv.lock."""
    return {package["name"]: package.get("version") for package in tomllib.loads(lock)["package"]}


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
