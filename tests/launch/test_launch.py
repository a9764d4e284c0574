"""Steps on Databricks, launched by step launcher or by Pipes: what they make, whose code runs, and how they fail."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import deltalake
import pytest
from databricks.sdk import WorkspaceClient

from biocloud_assets.launch.workspace import branch, idempotency_token
from biocloud_assets.raw.dsi import contract
from biocloud_assets.settings import Settings
from tests.databricks_workspace.server import Workspace
from tests.launch.conftest import ROOT, Site, commit, git
from tests.raw.dsi.deliveries import DELIVERY, record

SENSOR = "raw/dsi/sensor"
ALL = [*(table.path for table in contract.TABLES), contract.LOG.path]
RunHere = Callable[..., dg.ExecuteInProcessResult]


def failures(result: Any) -> str:
    """What Dagster's events say of the steps that failed or are to be tried again."""
    found = [event for event in result.all_events if event.is_step_failure or event.is_step_up_for_retry]
    return "\n".join(f"{event.message} {event.event_specific_data.error.to_string()}" for event in found)


def metadata(events: list[dg.DagsterEvent]) -> dict[str, dict[str, Any]]:
    """By asset, what its materialisation tells, but for what differs from run to run."""
    changing = {"run", "ingested_at", "dagster/uri"}
    return {
        event.asset_key.to_user_string(): {
            name: value for name, value in event.materialization.metadata.items() if name not in changing
        }
        for event in events
        if event.is_step_materialization and event.asset_key is not None
    }


def checks(events: list[dg.DagsterEvent]) -> dict[str, Any]:
    found = [
        event.asset_check_evaluation_data
        for event in events
        if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ]
    return {
        f"{check.asset_key.to_user_string()}:{check.check_name}": (
            check.passed,
            check.severity,
            check.description,
            check.metadata,
        )
        for check in found
    }


def rows(lake: Path, path: str) -> list[dict[str, Any]]:
    found = deltalake.DeltaTable(str(lake / path)).to_pyarrow_table().to_pylist()
    changing = {"run_id", "ingested_at", "engine"}
    return sorted(({k: v for k, v in row.items() if k not in changing} for row in found), key=repr)


def staged(workspace: Workspace) -> list[str]:
    """What lies in DBFS and in the volumes."""
    found = [path for folder in ("dbfs", "Volumes") for path in (workspace.root / folder).rglob("*")]
    return [str(path) for path in found if path.is_file()]


def everything(site: Site, instance: dg.DagsterInstance, *run_ids: str) -> str:
    """All that anybody could read: events, logs, requests, uploaded files, the lake's log, Dagster's folder."""
    parts = [repr(event) for run_id in run_ids for event in instance.all_logs(run_id)]
    for request in site.workspace.requests:
        parts.append(json.dumps(request.body, default=str))
        data = request.body.get("data") if isinstance(request.body, dict) else None
        parts.append(base64.b64decode(data).decode(errors="replace") if data else "")
        parts.append(request.content.decode(errors="replace"))
    parts += [task.log + task.error + task.trace for run in site.workspace.runs.values() for task in run.tasks]
    parts += [path.read_bytes().decode(errors="replace") for path in site.root.rglob("*") if path.is_file()]
    return "\n".join(parts)


def test_pipes_submits_the_branch_to_the_pool_and_leaves_nothing_behind(
    site: Site, run_here: RunHere, instance: dg.DagsterInstance
) -> None:
    site.land(DELIVERY)
    result = run_here(DELIVERY, [SENSOR])
    assert result.success, failures(result)
    (made,) = metadata(result.all_events).values()
    assert made["dagster/partition_row_count"].value == 1
    assert {name: found[0] for name, found in checks(result.all_events).items()} == {
        f"{SENSOR}:key": True,
        f"{SENSOR}:row_count": True,
    }
    told = [event.user_message for event in instance.all_logs(result.run_id)]
    assert any("raw/dsi/sensor, key: passed" in line for line in told), "the log lines of the step come back"
    body = site.workspace.show_requests("/jobs/runs/submit")[0]["body"]
    assert body["git_source"]["git_branch"] == "main"
    (task,) = body["tasks"]
    assert "node_type_id" not in task["new_cluster"]
    assert task["spark_python_task"]["source"] == "GIT"
    assert all("==" in library["pypi"]["package"] for library in task["libraries"])
    assert body["timeout_seconds"] == 90
    assert staged(site.workspace) == []


def test_a_refused_delivery_fails_the_step_once_with_the_reason_from_the_cluster(site: Site, run_here: RunHere) -> None:
    site.land(DELIVERY, sensor=[record("sensor", id=None)])
    result = run_here(DELIVERY, [SENSOR])
    assert not result.success
    assert "null key: delivery 2026-01-31-06:00:00, folder sensor, file part-0.parquet, column id" in failures(result)
    assert len(site.workspace.runs) == 1, "another try won't mend it"
    assert not (site.lake / SENSOR).exists()


def test_a_submission_whose_answer_got_lost_is_not_submitted_twice(site: Site, run_here: RunHere) -> None:
    site.land(DELIVERY)
    site.workspace.fail_requests("/jobs/runs/submit", answer="drop after")
    site.workspace.fail_requests("/jobs/runs/get", answer="429", times=2)
    site.workspace.fail_requests("/jobs/runs/get", answer="drop", after=2)
    result = run_here(DELIVERY, [SENSOR])
    assert result.success, failures(result)
    submitted = site.workspace.show_requests("/jobs/runs/submit")
    assert len(submitted) == 3, "one twice, and the checks"
    assert len(site.workspace.runs) == 2


def test_the_token_of_an_attempt_is_its_own_and_as_long_as_databricks_takes() -> None:
    tokens = {idempotency_token("run", step, attempt) for step in ("a", "b") for attempt in (0, 1)}
    assert len(tokens) == 4
    assert {len(token) for token in tokens} == {64}
    assert idempotency_token("run", "a", 0) == idempotency_token("run", "a", 0)


def test_the_branch_is_that_of_the_folder_unless_it_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(Exception, match=r"BIOCLOUD_GIT_BRANCH: .*no Git repository"):
        branch(Settings())
    git(tmp_path, "init", "--quiet", "--initial-branch=feature/nested-boxes")
    (tmp_path / "file").write_text("x")
    commit(tmp_path, "One")
    assert branch(Settings()) == "feature/nested-boxes"
    git(tmp_path, "checkout", "--quiet", "--detach")
    with pytest.raises(Exception, match=r"BIOCLOUD_GIT_BRANCH: .*a commit without a branch"):
        branch(Settings())
    assert branch(Settings(git_branch="other")) == "other"


@pytest.mark.databricks
@pytest.mark.timeout(600)
@pytest.mark.parametrize("launcher", ["step_launcher", "pipes"])
def test_a_job_gives_the_same_on_databricks_as_at_home(
    site: Site, instance: dg.DagsterInstance, launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {"AWS_SECRET_ACCESS_KEY": "secret-of-aws-0123", "BIOCLOUD_UNRELATED_SECRET": "secret-of-mine-4567"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    site.land(DELIVERY, sensor_media_item=[record("sensor_media_item", sensor_deployment_id="nowhere")])
    away = site.run(instance, DELIVERY, launcher)
    assert away.success, failures(away)
    there = {path: rows(site.lake, path) for path in ALL}
    site.lake.rename(site.root / "elsewhere")

    home = site.job("none").execute_in_process(instance=instance, partition_key=DELIVERY)
    assert {path: rows(site.lake, path) for path in ALL} == there
    assert metadata(away.all_events) == metadata(home.all_events)
    assert checks(away.all_events) == checks(home.all_events)
    assert len(checks(away.all_events)) == 34
    assert not all(found[0] for found in checks(away.all_events).values()), "a warning comes back too"

    assert staged(site.workspace) == []
    written = everything(site, instance, away.run_id)
    for secret in (site.workspace.token, *secrets.values()):
        assert secret not in written


@pytest.mark.databricks
@pytest.mark.timeout(600)
@pytest.mark.parametrize("launcher", ["step_launcher", "pipes"])
def test_the_delivery_back_runs_on_databricks_too(site: Site, instance: dg.DagsterInstance, launcher: str) -> None:
    site.land(DELIVERY)
    instance.add_dynamic_partitions("dsi_delivery", [DELIVERY])
    assert site.job("none").execute_in_process(instance=instance, partition_key=DELIVERY).success
    (site.root / "curated/dsi/2025-01-01").mkdir(parents=True)
    (site.root / "curated/dsi/2025-01-01/file").write_text("old")
    result = site.run(instance, "2026-02-01", launcher, job="dsi_curated")
    assert result.success, failures(result)
    assert set(metadata(result.all_events)) == {"curated/dsi/observation", "curated/dsi/manifest", "curated/dsi/days"}
    seen = [event.asset_observation_data.asset_observation for event in result.all_events if event.is_asset_observation]
    assert [(found.asset_key.path[-1], found.partition) for found in seen] == [("observation", "2025-01-01")]
    assert sorted(path.name for path in (site.root / "curated/dsi").iterdir()) == ["2026-02-01"]
    assert (site.root / "curated/dsi/2026-02-01/manifest.json").exists()
    assert len(site.workspace.runs) == 3


@pytest.mark.databricks
@pytest.mark.timeout(300)
def test_the_messages_of_pipes_go_over_s3_too(site: Site, run_here: RunHere, s3_server: str, s3_root: str) -> None:
    import boto3

    site.workspace.instance_profile = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    site.configure(messages=f"{s3_root}/pipes", landing_root=s3_root, lake_root=s3_root)
    site.land(DELIVERY)
    s3 = boto3.client("s3", endpoint_url=s3_server)
    bucket, _, prefix = s3_root.removeprefix("s3://").partition("/")
    for file in sorted(path for path in site.landing.rglob("*") if path.is_file()):
        s3.upload_file(str(file), bucket, f"{prefix}/{file.relative_to(site.landing)}")
    result = run_here(DELIVERY, [SENSOR])
    assert result.success, failures(result)
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/pipes/")
    assert s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/{SENSOR}/_delta_log/")["KeyCount"] >= 2


@pytest.mark.databricks
@pytest.mark.timeout(300)
def test_the_code_that_runs_is_that_of_the_branch(site: Site, run_here: RunHere, code: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(code), str(clone)], check=True, timeout=60)
    git(clone, "checkout", "--quiet", "-b", "feature/loud")
    steps = clone / "biocloud_assets/raw/dsi/steps.py"
    steps.write_text(steps.read_text().replace('f"expected {finding.expected}', 'f"LOUDLY expected {finding.expected}'))
    commit(clone, "Be loud")
    before = (code / "biocloud_assets/raw/dsi/steps.py").read_text()
    site.workspace.repositories = dict.fromkeys(site.workspace.repositories, clone)
    site.land(DELIVERY)
    for name, loud in (("feature/loud", True), ("main", False)):
        site.set(BIOCLOUD_GIT_BRANCH=name)
        result = run_here(DELIVERY, [SENSOR])
        assert result.success, failures(result)
        found = [description for _, _, description, _ in checks(result.all_events).values()]
        assert [description.startswith("LOUDLY") for description in found] == [loud] * 2
    assert (code / "biocloud_assets/raw/dsi/steps.py").read_text() == before


@pytest.mark.databricks
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("how", "limits", "said"),
    [
        ({"how": "fail", "message": "java.lang.OutOfMemoryError"}, {}, "java.lang.OutOfMemoryError"),
        ({"how": "hang"}, {"timeout_seconds": 2}, "ended as TIMEDOUT"),
        ({"how": "pending"}, {"start_timeout_seconds": 2}, "for longer than start_timeout_seconds, 2"),
        ({"how": "kill", "seconds": 0.0}, {}, "was terminated. Reason: CLOUD_PROVIDER_SHUTDOWN"),
    ],
)
def test_a_run_that_goes_wrong_is_a_failed_attempt_and_the_next_one_mends_it(
    site: Site, run_here: RunHere, how: dict[str, Any], limits: dict[str, Any], said: str
) -> None:
    site.land(DELIVERY)
    site.workspace.plan_run(**how)
    site.configure(**limits)
    began = time.monotonic()
    result = run_here(DELIVERY, [SENSOR])
    assert said in failures(result)
    assert any(event.is_step_up_for_retry for event in result.all_events)
    assert time.monotonic() - began < 120
    first = next(iter(site.workspace.runs.values()))
    assert first.tasks[0].state.is_final, "nothing runs on that nobody waits for"
    if not limits:  # with which no attempt can end in time
        assert result.success, failures(result)
        assert rows(site.lake, SENSOR)


@pytest.mark.databricks
@pytest.mark.timeout(300)
def test_a_run_that_is_cancelled_on_databricks_is_a_failed_step(site: Site, run_here: RunHere) -> None:
    site.land(DELIVERY)
    site.workspace.plan_run("hang")

    def cancel() -> None:
        client = WorkspaceClient(host=site.workspace.url, token=site.workspace.token)
        while not site.workspace.runs:
            time.sleep(0.1)
        client.jobs.cancel_run(next(iter(site.workspace.runs)))

    canceller = threading.Thread(target=cancel)
    canceller.start()
    result = run_here(DELIVERY, [SENSOR])
    canceller.join()
    assert "ended as CANCELED" in failures(result)
    assert not metadata(result.all_events), "and no materialisation"
    assert len(site.workspace.runs) == 1
    assert run_here(DELIVERY, [SENSOR]).success


@pytest.mark.databricks
@pytest.mark.timeout(300)
def test_an_expired_token_fails_the_step_and_is_not_told(
    site: Site, run_here: RunHere, instance: dg.DagsterInstance
) -> None:
    site.land(DELIVERY)
    site.workspace.plan_run("hang", times=3)
    site.workspace.fail_requests("/jobs/runs/get", answer="expire", after=2)
    token = site.workspace.token
    result = run_here(DELIVERY, [SENSOR])
    assert not result.success
    assert "oken" in failures(result)
    assert token not in everything(site, instance, result.run_id)


@pytest.mark.databricks
@pytest.mark.timeout(300)
def test_a_lost_connection_fails_the_step_within_its_time(site: Site, run_here: RunHere) -> None:
    site.configure(start_timeout_seconds=3)
    site.land(DELIVERY)
    site.workspace.plan_run("hang", times=3)
    site.workspace.fail_requests("/jobs/runs/get", answer="drop", times=1000, after=2)
    began = time.monotonic()
    result = run_here(DELIVERY, [SENSOR])
    assert not result.success
    assert time.monotonic() - began < 120
    assert all(run.tasks[0].state.is_final for run in site.workspace.runs.values()), "they have been cancelled"


@pytest.mark.databricks
@pytest.mark.timeout(300)
@pytest.mark.parametrize("launcher", ["step_launcher", "pipes"])
def test_stopping_the_run_in_dagster_cancels_it_on_databricks(
    site: Site, instance: dg.DagsterInstance, launcher: str
) -> None:
    site.land(DELIVERY)
    site.set(BIOCLOUD_LAUNCHER=launcher)
    site.workspace.plan_run("hang", times=9)
    instance.add_dynamic_partitions("dsi_delivery", [DELIVERY])
    tags = json.dumps({"dagster/partition": DELIVERY})
    command = ["job", "execute", "-m", "biocloud_assets.definitions", "-j", "dsi_raw", "--tags", tags]
    with subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-m", "dagster", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            states = [run.tasks[0].state.life_cycle for run in site.workspace.runs.values()]
            if "RUNNING" in states:
                break
            time.sleep(0.2)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    (run,) = site.workspace.runs.values()
    assert run.tasks[0].state.result == "CANCELED", output
    assert staged(site.workspace) == []


@pytest.mark.databricks
@pytest.mark.timeout(300)
def test_what_goes_wrong_on_the_cluster_of_the_step_launcher_is_told_and_mended_by_another_run(
    site: Site, instance: dg.DagsterInstance
) -> None:
    site.land(DELIVERY, sensor=[record("sensor", id=None)])
    refused = site.run(instance, DELIVERY, "step_launcher", SENSOR)
    assert not refused.success
    assert "null key: delivery 2026-01-31-06:00:00, folder sensor" in failures(refused)
    assert not (site.lake / SENSOR).exists()

    site.land(DELIVERY)
    site.workspace.plan_run("fail", message="java.lang.OutOfMemoryError")
    broken = site.run(instance, DELIVERY, "step_launcher", SENSOR)
    assert not broken.success
    assert "java.lang.OutOfMemoryError" in failures(broken)

    site.configure(start_timeout_seconds=2, timeout_seconds=2)
    site.workspace.plan_run("pending")
    waiting = site.run(instance, DELIVERY, "step_launcher", SENSOR)
    assert "took more than 4s to complete" in failures(waiting)
    assert all(run.tasks[0].state.is_final for run in site.workspace.runs.values())

    site.configure(start_timeout_seconds=60, timeout_seconds=90)
    mended = site.run(instance, DELIVERY, "step_launcher", SENSOR)
    assert mended.success, failures(mended)
    assert rows(site.lake, SENSOR)
    assert staged(site.workspace) == []
