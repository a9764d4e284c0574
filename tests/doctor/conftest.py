"""An environment to check: its file, a workspace with everything that it needs, and its buckets on a local S3."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from biocloud_assets.doctor import checkup
from biocloud_assets.doctor.findings import Finding
from tests.databricks_workspace.server import POOL_ID, SPARK_VERSION, Workspace
from tests.databricks_workspace.settings import PRINCIPAL, pool

ROOT = Path(__file__).parents[2]
REGION = "eu-west-1"
GIT_URL = "https://git.biocloud.test/biocloud.git"
PROFILE = "arn:aws:iam::123456789012:instance-profile/biocloud"
CATALOG = "biocloud_development"


class Site:
    """An environment `development`, in which everything is as it has to be until a test changes it."""

    def __init__(self, root: Path, workspace: Workspace, patch: pytest.MonkeyPatch) -> None:
        self.root, self.workspace, self.patch = root, workspace, patch
        end = uuid.uuid4().hex
        self.landing, self.lake, self.airflow = f"landing-{end}", f"lake-{end}", f"airflow-{end}"
        self.environment: dict[str, Any] = {
            "region": REGION,
            "landing_root": f"s3://{self.landing}",
            "lake_root": f"s3://{self.lake}/lake",
            "curated_root": f"s3://{self.lake}/curated",
            "dags": f"s3://{self.airflow}/dags",
            "scheduler": "dagster",
            "catalog": CATALOG,
            "git": {"url": GIT_URL},
            "cluster": {
                "spark_version": SPARK_VERSION,
                "instance_pool_id": POOL_ID,
                "autoscale": {"min_workers": 1, "max_workers": 2},
                "instance_profile_arn": PROFILE,
            },
            "libraries": ["dagster-pipes", "deltalake", "pydantic-settings", "tenacity"],
            "timeout_seconds": 90,
            "start_timeout_seconds": 60,
            "poll_seconds": 0.2,
            "messages": f"s3://{self.lake}/pipes",
        }
        self.set(
            BIOCLOUD_ENVIRONMENTS=str(root / "environments.yml"),
            BIOCLOUD_GIT_BRANCH="main",
            DATABRICKS_HOST=workspace.url,
            DATABRICKS_TOKEN=workspace.token,
            AWS_REGION=REGION,
            AWS_DEFAULT_REGION=REGION,
        )
        self.configure()

    def set(self, **variables: str) -> None:
        for name, value in variables.items():
            self.patch.setenv(name, value)

    def configure(self, **keys: Any) -> None:
        """Write the environments' file, with some other keys; `cluster` is merged."""
        cluster = keys.pop("cluster", {})
        self.environment |= keys
        if cluster is None:
            self.environment["cluster"] = None
        else:
            self.environment["cluster"] |= cluster
        both = {"development": self.environment, "production": self.environment}
        (self.root / "environments.yml").write_text(yaml.safe_dump(both))

    def set_up(self) -> None:
        """Do all that docs/databricks.md says."""
        setup = self.workspace.setup
        setup.me |= {"entitlements": [{"value": "allow-cluster-create"}]}
        setup.pools[POOL_ID] = pool(preloaded_spark_versions=[SPARK_VERSION], max_capacity=6)
        setup.pool_permissions[POOL_ID] = [({"user_name": PRINCIPAL}, "CAN_ATTACH_TO")]
        setup.instance_profiles = [PROFILE]
        setup.git_credentials = [{"git_provider": "gitlab", "git_username": "biocloud"}]
        self.workspace.secrets = {"biocloud": {"group-sync-host": "secret-host", "group-sync-token": "secret-token"}}
        self.sql(
            f"CREATE CATALOG {CATALOG} MANAGED LOCATION 's3://managed/{CATALOG}';",
            f"CREATE SCHEMA {CATALOG}.raw_dsi;",
            f"CREATE EXTERNAL LOCATION lake URL 's3://{self.lake}' WITH (STORAGE CREDENTIAL `storage`);",
            f"CREATE EXTERNAL LOCATION landing URL 's3://{self.landing}/' WITH (STORAGE CREDENTIAL `storage`);",
            f"GRANT USE CATALOG, CREATE SCHEMA ON CATALOG {CATALOG} TO `{PRINCIPAL}`;",
            f"GRANT USE SCHEMA, CREATE TABLE, SELECT, MODIFY ON SCHEMA {CATALOG}.raw_dsi TO `{PRINCIPAL}`;",
            f"GRANT CREATE EXTERNAL TABLE, READ FILES ON EXTERNAL LOCATION lake TO `{PRINCIPAL}`;",
            f"GRANT READ FILES ON EXTERNAL LOCATION landing TO `{PRINCIPAL}`;",
        )
        for bucket in (self.landing, self.lake, self.airflow):
            self.make_bucket(bucket)

    def sql(self, *statements: str) -> None:
        for statement in statements:
            self.workspace.unity_catalog.execute(statement)

    def make_bucket(self, name: str, region: str = REGION) -> None:
        import boto3

        constraint = {"LocationConstraint": region}
        boto3.client("s3", region_name=region).create_bucket(Bucket=name, CreateBucketConfiguration=constraint)

    def examine(self, *, on_cluster: bool = False) -> dict[str, Finding]:
        """The findings by their checks."""
        found = list(checkup.examine("development", on_cluster=on_cluster))
        assert len({finding.check for finding in found}) == len(found), "each check has a name of its own"
        return {finding.check: finding for finding in found}


@pytest.fixture
def bare(
    tmp_path: Path, databricks_workspace: Workspace, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    """An environment in a workspace in which nothing is set up, without buckets."""
    monkeypatch.chdir(ROOT)  # uv.lock has the versions of the libraries
    databricks_workspace.setup.pools, databricks_workspace.setup.policies = {}, {}
    databricks_workspace.repositories[GIT_URL] = ROOT
    yield Site(tmp_path, databricks_workspace, monkeypatch)


@pytest.fixture
def site(bare: Site) -> Site:
    """An environment in which everything is set up."""
    bare.set_up()
    return bare
