"""The whole pipeline on a cluster in standard mode: tables by name in Unity Catalog, files in volumes, no credentials.

The tables are on an S3 that only the cluster's Spark can reach, which is Spark Connect on a JVM. `deltalake` isn't on
the cluster.
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

import dagster as dg
import deltalake
import pytest

from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.spark import session
from tests.ingest.deliveries import DELIVERY, record, table
from tests.launch.conftest import REGION, Site
from tests.needs import unavailable

pytestmark = [pytest.mark.jvm, pytest.mark.timeout(1800)]

LATER = "2026-02-28-06:00:00"
VOLUMES = {name: f"/Volumes/main/biocloud/{name}" for name in ("landing", "curated", "files")}


@pytest.fixture
def standard(site: Site, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Site:
    """An environment in standard mode, whose buckets nobody but the cluster's Spark and this process can reach."""
    import boto3

    if shutil.which("java") is None:
        unavailable("no Java")
    bucket = f"bucket-{uuid.uuid4().hex}"
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket=bucket)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    site.workspace.engine = "standard"
    site.workspace.spark_conf = _spark_conf(s3_server)
    folders = {name: site.workspace.root / path.removeprefix("/") for name, path in VOLUMES.items()}
    for folder in folders.values():
        folder.mkdir(parents=True)
    site.landing, site.curated = folders["landing"], folders["curated"]
    site.configure(
        landing_root=str(site.landing),
        lake_root=f"s3://{bucket}/lake",
        curated_root=str(site.curated),
        catalog="spark_catalog",
        volumes=VOLUMES,
        libraries=["dagster-pipes", "pydantic-settings", "tenacity"],
        timeout_seconds=900,
        start_timeout_seconds=600,
    )
    cluster = {"data_security_mode": "USER_ISOLATION"}
    site.configure(cluster=site.environment["cluster"] | cluster)
    return site


def _spark_conf(endpoint: str) -> dict[str, str]:
    delta = session.version("delta-spark")
    return {
        **{key: value for key, value in session._JVM_CONFIGURATION.items() if key.startswith("spark.sql.")},
        **session._s3a(endpoint),
        "spark.jars.excludes": session._JVM_CONFIGURATION["spark.jars.excludes"],
        "spark.jars.packages": ",".join((f"io.delta:delta-spark_4.2_2.13:{delta}", *session._S3A_PACKAGES)),
        "spark.jars.ivy": str(Path("~/.ivy2.5.2").expanduser()),
        "spark.hadoop.fs.s3a.aws.credentials.provider": "org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider",
        "spark.hadoop.fs.s3a.access.key": "testing",
        "spark.hadoop.fs.s3a.secret.key": "testing",
        "spark.hadoop.fs.s3a.endpoint.region": REGION,
        "spark.databricks.delta.snapshotPartitions": "1",
        "spark.sql.shuffle.partitions": "2",
        "spark.driver.memory": "1g",
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }


def rows(site: Site, address: str) -> list[dict[str, Any]]:
    table = deltalake.DeltaTable(f"{site.environment['lake_root']}/{address}", storage_options={"allow_http": "true"})
    return table.to_pyarrow_table().to_pylist()


def test_deliveries_are_ingested_and_published_in_standard_mode(standard: Site, instance: dg.DagsterInstance) -> None:
    standard.land(DELIVERY)
    first = standard.run(instance, DELIVERY, "pipes")
    assert first.success, first.errors or first.failure
    # References lead to the delivery before. A column that the contract doesn't know needs a normalised copy.
    media = table("sensor_media_item", [record("sensor_media_item", id="media-2")]).append_column("novel", [["new"]])
    standard.land(LATER, sensor=[], sensor_deployment=[], sensor_media_item=media, analysis_group_result=[])
    second = standard.run(instance, LATER, "pipes")
    assert second.success, second.errors or second.failure
    assert {name for name, (passed, *_) in second.checks.items() if not passed} == {
        "landing/dsi/sensor_media_item:plausible"
    }
    assert {row["_delivery"] for row in rows(standard, CONTRACT.address(CONTRACT.log))} == {DELIVERY, LATER}
    for spec in CONTRACT.tables:
        found = rows(standard, CONTRACT.address(spec))
        for executed, delivery in ((first, DELIVERY), (second, LATER)):
            counted = executed.materialized[CONTRACT.address(spec)]["dagster/partition_row_count"].value
            assert counted == sum(row["_delivery"] == delivery for row in found)
    files = standard.workspace.root / VOLUMES["files"].removeprefix("/")
    markers = [str(file.relative_to(files)) for file in files.rglob("*") if file.is_file()]
    assert sorted(markers) == [f"ingested/dsi/{DELIVERY}", f"ingested/dsi/{LATER}"], "and no copy is left"

    published = standard.run(instance, "2026-03-01", "pipes", job="dsi_curated")
    assert published.success, published.errors or published.failure
    assert (standard.curated / "dsi/2026-03-01/manifest.json").exists()

    maintained = standard.run(instance, None, "pipes", job="table_maintenance")
    assert maintained.success, maintained.errors or maintained.failure
    runs = [(run.body["run_name"], run.state) for run in standard.workspace.runs.values()]
    assert len(standard.workspace.clusters) == 4, runs
