"""What is submitted to Databricks for a step, of which code, and on what it runs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from databricks.sdk import WorkspaceClient

from biocloud_assets.airflow import collect
from biocloud_assets.errors import SettingsError
from biocloud_assets.launch.workspace import git_reference, idempotency_token
from biocloud_assets.run_step import _parser, _request
from biocloud_assets.settings import Settings
from tests.databricks_workspace.server import POLICY_ID, POOL_ID, SPARK_VERSION
from tests.ingest.deliveries import DELIVERY
from tests.launch.conftest import LAUNCHERS, REGION, Site, commit, git

SENSOR = "raw/dsi/sensor"

pytestmark = pytest.mark.databricks


def submitted(site: Site, instance: dg.DagsterInstance, launcher: str) -> dict[str, Any]:
    """The body of the submission of a step whose run fails at once, without a cluster's start-up."""
    site.workspace.plan_run("fail", message="as planned", times=9)
    assert not site.run(instance, DELIVERY, launcher, SENSOR).success
    return site.workspace.show_requests("/jobs/runs/submit")[0]["body"]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_cluster_has_the_region_of_the_environment_and_comes_from_its_pool(
    site: Site, instance: dg.DagsterInstance, launcher: str
) -> None:
    body = submitted(site, instance, launcher)
    (task,) = body["tasks"]
    cluster = task["new_cluster"]
    assert cluster["instance_pool_id"] == POOL_ID
    assert "node_type_id" not in cluster
    assert cluster["autoscale"] == {"min_workers": 1, "max_workers": 2}
    assert {name: cluster["spark_env_vars"][name] for name in ("AWS_REGION", "AWS_DEFAULT_REGION")} == {
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
    }
    assert all("==" in library["pypi"]["package"] for library in task["libraries"])
    assert body["timeout_seconds"] == 90


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_key_of_an_environment_reaches_the_run(site: Site, instance: dg.DagsterInstance, launcher: str) -> None:
    site.configure(
        run_as={"service_principal_name": "00000000-1111-2222-3333-444444444444"},
        viewers=[{"group_name": "engineers"}, {"user_name": "somebody@example.org"}],
        package_index="https://packages.example.org/simple",
        cluster={
            "spark_version": SPARK_VERSION,
            "instance_pool_id": POOL_ID,
            "driver_instance_pool_id": POOL_ID,
            "policy_id": POLICY_ID,
            "num_workers": 0,
            "data_security_mode": "DATA_SECURITY_MODE_DEDICATED",
            "spark_conf": {"spark.sql.ansi.enabled": "true"},
            "custom_tags": {"team": "biocloud"},
            "log_delivery": "s3://logs/clusters",
        },
    )
    body = submitted(site, instance, launcher)
    assert body["run_as"] == {"service_principal_name": "00000000-1111-2222-3333-444444444444"}
    assert body["access_control_list"] == [
        {"group_name": "engineers", "permission_level": "CAN_VIEW"},
        {"user_name": "somebody@example.org", "permission_level": "CAN_VIEW"},
    ]
    (task,) = body["tasks"]
    assert {library["pypi"]["repo"] for library in task["libraries"]} == {"https://packages.example.org/simple"}
    cluster = task["new_cluster"]
    assert (cluster["driver_instance_pool_id"], cluster["policy_id"]) == (POOL_ID, POLICY_ID)
    assert cluster["apply_policy_default_values"] is True
    assert cluster["num_workers"] == 0
    assert cluster["spark_conf"]["spark.databricks.cluster.profile"] == "singleNode"
    assert cluster["spark_conf"]["spark.sql.ansi.enabled"] == "true"
    assert cluster["custom_tags"] == {"team": "biocloud", "ResourceClass": "SingleNode"}
    assert cluster["data_security_mode"] == "DATA_SECURITY_MODE_DEDICATED"
    assert cluster["cluster_log_conf"] == {"s3": {"destination": "s3://logs/clusters", "region": REGION}}


@pytest.mark.parametrize("compute", ["cluster", "serverless"])
def test_an_exported_dag_submits_what_dagster_submits(site: Site, instance: dg.DagsterInstance, compute: str) -> None:
    site.configure(landing_root="s3://example/in", lake_root="s3://example/lake", curated_root="s3://example/curated")
    site.configure(run_as={"user_name": "a@example.org"}, viewers=[{"group_name": "engineers"}], retention_days=7)
    if compute == "serverless":
        site.configure(cluster=None, serverless={"environment_version": "4"})
    else:
        site.configure(package_index="https://packages.example.org/simple")
        site.configure(
            cluster={
                "spark_version": SPARK_VERSION,
                "instance_pool_id": POOL_ID,
                "policy_id": POLICY_ID,
                "num_workers": 0,
                "instance_profile_arn": "arn:aws:iam::000000000000:instance-profile/biocloud",
                "spark_conf": {"spark.sql.ansi.enabled": "true"},
                "spark_env_vars": {"A_TOKEN": "{{secrets/scope/key}}"},
                "log_delivery": "s3://logs/clusters",
            }
        )
    site.workspace.secrets = {"scope": {"key": "value"}}
    site.workspace.plan_run("fail", message="as planned", times=9)
    assert not site.run(instance, DELIVERY, "pipes").success
    launched = site.workspace.show_requests("/jobs/runs/submit")[0]["body"]
    own, settings = collect.build_definitions("development")
    (dag,) = [dag for dag in collect.collect(own, settings, branch="main").jobs if dag.name == "dsi_raw"]
    exported = json.loads(json.dumps(dag.tasks[0].submission).replace("{{ params.delivery }}", DELIVERY))
    assert comparable(exported) == comparable(launched)


def comparable(body: dict[str, Any]) -> dict[str, Any]:
    """A submission without what differs between two runs and between orchestrators."""
    body = {name: value for name, value in body.items() if name != "idempotency_token"}
    (task,) = body["tasks"]
    variables = task.get("new_cluster", {}).get("spark_env_vars", {})
    for name in [name for name in variables if name.startswith("DAGSTER_PIPES_")]:
        del variables[name]
    given = _parser().parse_args(task["spark_python_task"].pop("parameters"))
    request = _request(given)
    differing = ("asset", "check", "orchestrator", "run_id", "dagster_pipes_context", "dagster_pipes_messages")
    options = {name: value for name, value in vars(given).items() if name not in differing}
    return {**body, "options": options, "assets": set(request.assets), "checks": set(request.checks)}


@pytest.mark.parametrize(
    ("variable", "key"),
    [("BIOCLOUD_GIT_BRANCH", "git_branch"), ("BIOCLOUD_GIT_TAG", "git_tag"), ("BIOCLOUD_GIT_COMMIT", "git_commit")],
)
def test_the_code_is_that_of_a_branch_a_tag_or_a_commit_which_the_run_name_has(
    site: Site, instance: dg.DagsterInstance, code: Path, variable: str, key: str
) -> None:
    head = git(code, "rev-parse", "HEAD")
    name = {"git_branch": "main", "git_tag": "v1", "git_commit": head}[key]
    site.set(BIOCLOUD_GIT_BRANCH="")
    site.set(**{variable: name})
    body = submitted(site, instance, "pipes")
    assert {k: v for k, v in body["git_source"].items() if k not in ("git_url", "git_provider")} == {key: name}
    assert body["run_name"] == f"dsi_raw ingest_dsi {DELIVERY} @ {head[:12] if key == 'git_commit' else name}"


def test_the_git_reference_is_the_branch_of_the_folder_unless_one_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(SettingsError, match=r"BIOCLOUD_GIT_BRANCH: .*no Git repository"):
        git_reference(Settings())
    git(tmp_path, "init", "--quiet", "--initial-branch=feature/nested-boxes")
    (tmp_path / "file").write_text("x")
    commit(tmp_path, "Add a file")
    assert git_reference(Settings()).git_source == {"git_branch": "feature/nested-boxes"}
    git(tmp_path, "checkout", "--quiet", "--detach")
    with pytest.raises(SettingsError, match=r"BIOCLOUD_GIT_BRANCH: .*a commit without a branch"):
        git_reference(Settings())
    assert git_reference(Settings(git_tag="v1")).git_source == {"git_tag": "v1"}
    with pytest.raises(SettingsError, match="branch main and tag v1"):
        git_reference(Settings(git_branch="main", git_tag="v1"))


def test_serverless_compute_runs_a_step_without_a_cluster(site: Site, instance: dg.DagsterInstance) -> None:
    site.configure(cluster=None, serverless={"environment_version": "4"})
    site.land(DELIVERY)
    result = site.run(instance, DELIVERY, "pipes", SENSOR)
    assert result.success, result.errors
    assert list(result.materialized) == [SENSOR]
    assert site.workspace.clusters == []
    body = site.workspace.show_requests("/jobs/runs/submit")[0]["body"]
    assert body["tasks"][0]["environment_key"] == body["environments"][0]["environment_key"]
    assert {"new_cluster", "libraries"}.isdisjoint(body["tasks"][0])
    assert any(name.startswith("deltalake==") for name in body["environments"][0]["spec"]["dependencies"])


def test_the_step_launcher_refuses_serverless_compute(site: Site, instance: dg.DagsterInstance) -> None:
    site.configure(cluster=None, serverless={"environment_version": "4"})
    result = site.run(instance, DELIVERY, "step_launcher", SENSOR)
    assert "an environment on serverless compute. Use BIOCLOUD_LAUNCHER=pipes." in result.failure


def test_the_step_launcher_says_that_a_workspace_has_no_dbfs_and_pipes_needs_none(
    site: Site, instance: dg.DagsterInstance
) -> None:
    site.workspace.disable_legacy_dbfs = True
    client = WorkspaceClient(host=site.workspace.url, token=site.workspace.token)
    with pytest.raises(Exception, match="Public DBFS root is disabled"):
        client.dbfs.upload("/file", io.BytesIO(b""))
    result = site.run(instance, DELIVERY, "step_launcher", SENSOR)
    assert "Public DBFS root is disabled" in result.errors
    assert "Set BIOCLOUD_LAUNCHER=pipes." in result.errors
    assert result.retries == 0
    assert not site.workspace.runs
    requests = len(site.workspace.show_requests("/dbfs/"))
    assert submitted(site, instance, "pipes")["tasks"]
    assert len(site.workspace.show_requests("/dbfs/")) == requests


def test_a_submission_whose_answer_is_lost_starts_one_run(site: Site, instance: dg.DagsterInstance) -> None:
    site.land(DELIVERY)
    site.workspace.fail_requests("/jobs/runs/submit", answer="drop after")
    site.workspace.fail_requests("/jobs/runs/get", answer="429", times=2)
    site.workspace.fail_requests("/jobs/runs/get", answer="drop", after=2)
    result = site.run(instance, DELIVERY, "pipes", SENSOR)
    assert result.success, result.errors
    assert len(site.workspace.show_requests("/jobs/runs/submit")) == 2
    assert len(site.workspace.runs) == 1


def test_each_attempt_has_a_token_of_its_own_as_long_as_databricks_accepts() -> None:
    tokens = {idempotency_token("run", step, attempt) for step in ("a", "b") for attempt in (0, 1)}
    assert len(tokens) == 4
    assert {len(token) for token in tokens} == {64}
    assert idempotency_token("run", "a", 0) == idempotency_token("run", "a", 0)
