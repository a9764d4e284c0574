"""Steps on Databricks, by the step launcher and by Pipes: results, subsets, refused deliveries, clusters started."""

from __future__ import annotations

import base64
import json
import subprocess
import uuid
from pathlib import Path
from typing import Any

import dagster as dg
import deltalake
import pytest

from biocloud_assets.ingest.step import all_checks
from biocloud_assets.launch.launcher import FINGERPRINT_TAG, OUTCOME_TAG, REASON_TAG
from biocloud_assets.raw.dsi.contract import CONTRACT
from tests.ingest.deliveries import DELIVERY, record
from tests.launch import regional_s3
from tests.launch.conftest import LAUNCHERS, REGION, ROOT, Site, commit, git

SENSOR = "raw/dsi/sensor"
ALGORITHM = "raw/dsi/algorithm"
TABLES = [*(CONTRACT.address(table) for table in CONTRACT.tables), CONTRACT.address(CONTRACT.log)]


def rows(lake: Path, address: str) -> list[dict[str, Any]]:
    """The rows of a table, except what differs from run to run."""
    found = deltalake.DeltaTable(str(lake / address)).to_pyarrow_table().to_pylist()
    changing = {"run_id", "ingested_at", "engine", "code_commit"}
    return sorted(({k: v for k, v in row.items() if k not in changing} for row in found), key=repr)


def everything(site: Site, instance: dg.DagsterInstance, *run_ids: str) -> str:
    """All that could be read by somebody: events, logs, requests, uploaded files, the lake, Dagster's folder."""
    parts = [repr(event) for run_id in run_ids for event in instance.all_logs(run_id)]
    for request in site.workspace.requests:
        parts.append(json.dumps(request.body, default=str))
        data = request.body.get("data") if isinstance(request.body, dict) else None
        parts.append(base64.b64decode(data).decode(errors="replace") if data else "")
        parts.append(request.content.decode(errors="replace"))
    parts += [task.log + task.error + task.trace for run in site.workspace.runs.values() for task in run.tasks]
    parts += [path.read_bytes().decode(errors="replace") for path in site.root.rglob("*") if path.is_file()]
    return "\n".join(parts)


def test_one_table_by_pipes_is_one_run_that_leaves_no_messages_behind(site: Site, instance: dg.DagsterInstance) -> None:
    site.land(DELIVERY)
    result = site.run(instance, DELIVERY, "pipes", SENSOR)
    assert result.success, result.errors
    assert list(result.materialized) == [SENSOR]
    assert result.materialized[SENSOR]["dagster/partition_row_count"].value == 1
    assert {name: passed for name, (passed, *_) in result.checks.items()} == {
        f"{SENSOR}:key": True,
        f"{SENSOR}:row_count": True,
    }
    assert len(site.workspace.clusters) == 1
    assert site.workspace.staged_files() == []


def test_a_refused_delivery_by_pipes_fails_once_and_its_checks_and_tags_say_why(
    site: Site, instance: dg.DagsterInstance
) -> None:
    _refuse(site, instance, "pipes")


@pytest.mark.databricks
@pytest.mark.timeout(600)
def test_a_refused_delivery_by_the_step_launcher_fails_once_and_its_checks_and_tags_say_why(
    site: Site, instance: dg.DagsterInstance
) -> None:
    _refuse(site, instance, "step_launcher")


def _refuse(site: Site, instance: dg.DagsterInstance, launcher: str) -> None:
    # A damaged file: every reader finds it.
    site.land(DELIVERY, sensor=b"not Parquet")
    result = site.run(instance, DELIVERY, launcher)
    assert not result.success
    assert result.retries == 0
    assert "folder sensor, file part-0.parquet" in result.errors
    assert not result.materialized
    contract_checks = {name: passed for name, (passed, *_) in result.checks.items() if name.endswith(":contract")}
    assert contract_checks == {
        f"{CONTRACT.landing_address(folder.name)}:contract": folder.name != "sensor" for folder in CONTRACT.folders
    }
    assert "part-0.parquet" in result.checks["landing/dsi/sensor:contract"][2]
    assert result.run.tags[OUTCOME_TAG] == "refused"
    assert "part-0.parquet" in result.run.tags[REASON_TAG]
    assert result.run.tags[FINGERPRINT_TAG]
    assert len(site.workspace.clusters) == 1
    assert not (site.lake / SENSOR).exists()
    assert site.workspace.staged_files() == []


@pytest.mark.databricks
@pytest.mark.timeout(600)
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_delivery_starts_one_cluster_and_gives_the_same_results_as_in_this_process(
    site: Site, instance: dg.DagsterInstance, launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {"AWS_SECRET_ACCESS_KEY": "secret-of-aws-0123", "BIOCLOUD_UNRELATED_SECRET": "secret-of-mine-4567"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    # A dangling reference, which a check warns of.
    site.land(DELIVERY, sensor_media_item=[record("sensor_media_item", sensor_deployment_id="unknown")])
    remote = site.run(instance, DELIVERY, launcher)
    assert remote.success, remote.errors
    assert len(site.workspace.clusters) == 1
    assert len(site.workspace.runs) == 1
    remote_rows = {address: rows(site.lake, address) for address in TABLES}
    site.lake.rename(site.root / "elsewhere")

    local = site.run(instance, DELIVERY, "none")
    assert local.success, local.errors
    assert {address: rows(site.lake, address) for address in TABLES} == remote_rows
    assert remote.materialized == local.materialized
    assert remote.checks == local.checks
    assert set(remote.checks) == set(all_checks(CONTRACT))
    assert not all(passed for passed, *_ in remote.checks.values())

    assert site.workspace.staged_files() == []
    written = everything(site, instance, remote.run_id)
    for secret in (site.workspace.token, *secrets.values()):
        assert secret not in written


@pytest.mark.databricks
@pytest.mark.timeout(600)
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_several_tables_or_only_checks_are_one_step_each(
    site: Site, instance: dg.DagsterInstance, launcher: str
) -> None:
    site.land(DELIVERY)
    tables = site.run(instance, DELIVERY, launcher, SENSOR, ALGORITHM)
    assert tables.success, tables.errors
    assert set(tables.materialized) == {SENSOR, ALGORITHM}
    assert {name.partition(":")[0] for name in tables.checks} == {SENSOR, ALGORITHM}
    assert not (site.lake / TABLES[-1]).exists(), "a subset isn't logged as ingested"

    assert site.run(instance, DELIVERY, "none").success
    only_checks = site.run(instance, DELIVERY, launcher, checks=[f"{SENSOR}:key", f"{ALGORITHM}:row_count"])
    assert only_checks.success, only_checks.errors
    assert not only_checks.materialized
    assert set(only_checks.checks) == {f"{SENSOR}:key", f"{ALGORITHM}:row_count"}
    assert len(site.workspace.clusters) == 2


@pytest.mark.databricks
@pytest.mark.timeout(600)
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_curated_layer_is_published_on_one_cluster_and_the_rest_needs_none(
    site: Site, instance: dg.DagsterInstance, launcher: str
) -> None:
    site.land(DELIVERY)
    assert site.run(instance, DELIVERY, "none").success
    (site.curated / "dsi/2025-01-01").mkdir(parents=True)
    (site.curated / "dsi/2025-01-01/file").write_text("old")
    result = site.run(instance, "2026-02-01", launcher, job="dsi_curated")
    assert result.success, result.errors
    assert set(result.materialized) == {
        "curated/dsi/observation",
        "curated/dsi/manifest",
        "curated/dsi/retention",
    }
    observed = [event.asset_observation_data.asset_observation for event in result.events if event.is_asset_observation]
    assert [(seen.asset_key.path[-1], seen.partition) for seen in observed] == [("observation", "2025-01-01")]
    assert sorted(path.name for path in (site.curated / "dsi").iterdir()) == ["2026-02-01"]
    assert (site.curated / "dsi/2026-02-01/manifest.json").exists()
    assert len(site.workspace.clusters) == 1


@pytest.mark.databricks
@pytest.mark.timeout(600)
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_delivery_in_buckets_of_any_region_is_ingested_on_a_cluster(
    site: Site, instance: dg.DagsterInstance, launcher: str
) -> None:
    import boto3

    bucket = f"bucket-{uuid.uuid4().hex}"
    with regional_s3.serve(REGION) as url:
        access = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
        access["AWS_ALLOW_HTTP"] = "true"
        site.workspace.instance_profile = access
        site.set(**access)
        client = boto3.client("s3", region_name=REGION)
        client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
        site.land(DELIVERY)
        for file in sorted(path for path in site.landing.rglob("*") if path.is_file()):
            client.upload_file(str(file), bucket, f"landing/{file.relative_to(site.landing)}")
        site.configure(
            landing_root=f"s3://{bucket}/landing",
            lake_root=f"s3://{bucket}/lake",
            messages=f"s3://{bucket}/pipes",
            catalog=None,
        )
        result = site.run(instance, DELIVERY, launcher, SENSOR)
        assert result.success, result.errors
        assert "Contents" not in client.list_objects_v2(Bucket=bucket, Prefix="pipes/")
        assert client.list_objects_v2(Bucket=bucket, Prefix=f"lake/{SENSOR}/_delta_log/")["KeyCount"] >= 2


@pytest.mark.databricks
@pytest.mark.timeout(600)
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_delivery_log_has_the_commit_of_the_code_that_ran(
    site: Site, instance: dg.DagsterInstance, code: Path, tmp_path: Path, launcher: str
) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(code), str(clone)], check=True, timeout=60)
    git(clone, "checkout", "--quiet", "-b", "feature/other")
    (clone / "biocloud_assets/__init__.py").write_text('__version__ = "0.0.1"\n')
    commit(clone, "Change the version")
    site.workspace.repositories = dict.fromkeys(site.workspace.repositories, clone)
    site.set(BIOCLOUD_GIT_BRANCH="feature/other")
    site.land(DELIVERY)
    result = site.run(instance, DELIVERY, launcher)
    assert result.success, result.errors
    (row,) = deltalake.DeltaTable(str(site.lake / TABLES[-1])).to_pyarrow_table().to_pylist()
    # The step launcher sends the code of this process, Pipes lets Databricks check the branch out.
    head = git(clone if launcher == "pipes" else ROOT, "rev-parse", "HEAD")
    assert row["code_commit"] == head
    if launcher == "pipes":
        assert row["code_version"] == "0.0.1"
        messages = [event.user_message for event in instance.all_logs(result.run_id)]
        assert any(f"ran the commit {head}" in message for message in messages)
