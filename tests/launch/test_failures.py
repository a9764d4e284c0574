"""What happens if a run on Databricks fails, hangs, is lost or is cancelled."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import dagster as dg
import pytest
from databricks.sdk import WorkspaceClient

from biocloud_assets.launch import launcher as launching
from biocloud_assets.launch.launcher import FAILED, INFRASTRUCTURE, OUTCOME_TAG, REASON_TAG
from tests.ingest.deliveries import DELIVERY
from tests.launch.conftest import DELIVERIES, FIRST_DELAY_SECONDS, LAUNCHERS, ROOT, Site
from tests.launch.test_launch import SENSOR, everything, rows

pytestmark = pytest.mark.databricks


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_cloud_without_capacity_is_tried_again_for_more_than_half_an_hour(
    site: Site, instance: dg.DagsterInstance, launcher: str
) -> None:
    site.workspace.plan_run("no cluster", times=99)
    result = site.run(instance, DELIVERY, launcher, SENSOR)
    assert not result.success
    assert "AWS_INSUFFICIENT_INSTANCE_CAPACITY_FAILURE" in result.errors
    delays = [event.step_retry_data.seconds_to_wait for event in result.events if event.is_step_up_for_retry]
    assert sum(delays) / launching.REMOTE_RETRY_DELAY_SECONDS * FIRST_DELAY_SECONDS >= 30 * 60
    assert len(site.workspace.runs) == len(delays) + 1
    assert all(run.tasks[0].state.is_final for run in site.workspace.runs.values())
    assert result.run.tags[OUTCOME_TAG] == INFRASTRUCTURE
    assert result.run.tags[REASON_TAG]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize(
    ("plan", "limits", "reason"),
    [
        ({"how": "no cluster"}, {}, "AWS_INSUFFICIENT_INSTANCE_CAPACITY_FAILURE"),
        ({"how": "kill", "seconds": 0.0}, {}, "was terminated. Reason: CLOUD_PROVIDER_SHUTDOWN"),
        ({"how": "pending"}, {"start_timeout_seconds": 10, "timeout_seconds": 60}, ""),
        ({"how": "fail", "message": "Fatal error: The Python kernel is unresponsive."}, {}, "kernel is unresponsive"),
        ({"how": "hang"}, {"timeout_seconds": 20}, "imed out"),
    ],
)
def test_a_run_that_is_lost_is_repeated_and_the_next_one_succeeds(
    site: Site, instance: dg.DagsterInstance, launcher: str, plan: dict[str, Any], limits: dict[str, Any], reason: str
) -> None:
    if plan["how"] == "pending" and launcher == "step_launcher":
        limits = {"start_timeout_seconds": 2, "timeout_seconds": 30}  # it has one limit, the sum of both
    site.land(DELIVERY)
    site.workspace.plan_run(**plan)
    site.configure(**limits)
    result = site.run(instance, DELIVERY, launcher, SENSOR)
    assert result.success, result.errors
    assert result.retries == 1
    assert reason in result.errors
    assert len(site.workspace.runs) == 2
    assert all(run.tasks[0].state.is_final for run in site.workspace.runs.values())
    assert rows(site.lake, SENSOR)
    assert site.workspace.staged_files() == []


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_script_that_is_lost_without_a_reason_is_repeated_only_once(
    site: Site, instance: dg.DagsterInstance, launcher: str
) -> None:
    site.workspace.plan_run("fail", message="Fatal error: The Python kernel is unresponsive.", times=9)
    result = site.run(instance, DELIVERY, launcher, SENSOR)
    assert not result.success
    assert len(site.workspace.runs) == 2
    assert OUTCOME_TAG not in result.run.tags


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_submission_that_databricks_refuses_is_not_repeated(
    site: Site, instance: dg.DagsterInstance, launcher: str
) -> None:
    site.configure(cluster={"spark_version": "17.3.x-scala2.13", "instance_pool_id": "unknown", "num_workers": 1})
    result = site.run(instance, DELIVERY, launcher, SENSOR)
    assert "Can't find an instance pool with id: unknown" in result.errors
    assert result.retries == 0
    assert result.run.tags[OUTCOME_TAG] == FAILED
    assert "Can't find an instance pool" in result.run.tags[REASON_TAG]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_run_that_a_person_cancels_on_databricks_is_a_failed_step_and_is_not_repeated(
    site: Site, instance: dg.DagsterInstance, launcher: str
) -> None:
    site.workspace.plan_run("hang")

    def cancel() -> None:
        client = WorkspaceClient(host=site.workspace.url, token=site.workspace.token)
        while not site.workspace.runs:
            time.sleep(0.1)
        client.jobs.cancel_run(next(iter(site.workspace.runs)))

    canceller = threading.Thread(target=cancel)
    canceller.start()
    result = site.run(instance, DELIVERY, launcher, SENSOR)
    canceller.join()
    assert not result.success
    assert "CANCELED" in result.errors
    assert not result.materialized
    assert len(site.workspace.runs) == 1


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_an_expired_token_fails_the_step_at_once_and_is_shown_nowhere(
    site: Site, instance: dg.DagsterInstance, launcher: str
) -> None:
    site.workspace.plan_run("hang", times=3)
    site.workspace.fail_requests("/jobs/runs/get", answer="expire", after=2)
    token = site.workspace.token
    result = site.run(instance, DELIVERY, launcher, SENSOR)
    assert not result.success
    assert result.retries == 0
    assert "token" in result.errors.lower()
    assert token not in everything(site, instance, result.run_id)


@pytest.mark.timeout(600)
def test_a_lost_connection_cancels_the_run_and_repeats_the_step(site: Site, instance: dg.DagsterInstance) -> None:
    site.land(DELIVERY)
    site.configure(start_timeout_seconds=20)
    site.workspace.plan_run("hang")
    site.workspace.fail_requests("/jobs/runs/get", answer="drop", times=12, after=2)
    result = site.run(instance, DELIVERY, "pipes", SENSOR)
    assert result.success, result.errors
    assert result.retries >= 1
    ends = [run.tasks[0].state.result for run in site.workspace.runs.values()]
    assert (ends[0], ends[-1]) == ("CANCELED", "SUCCESS")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_terminating_the_run_in_dagster_cancels_it_on_databricks(
    site: Site, instance: dg.DagsterInstance, launcher: str
) -> None:
    output = _terminate_the_run(site, instance, launcher)
    (run,) = site.workspace.runs.values()
    assert run.tasks[0].state.result == "CANCELED", output
    assert site.workspace.staged_files() == []


def test_terminating_the_run_during_an_outage_is_no_retry_and_the_log_says_what_may_still_be_running(
    site: Site, instance: dg.DagsterInstance
) -> None:
    site.configure(start_timeout_seconds=2)  # how long a request is repeated
    site.workspace.fail_requests("/jobs/runs/cancel", answer="503", times=99, retry_after=1)
    _terminate_the_run(site, instance, "pipes")
    (run_id,) = site.workspace.runs
    (run,) = instance.get_run_records()
    logged = [event.user_message for event in instance.all_logs(run.dagster_run.run_id)]
    message = f"Databricks run {run_id} could not be cancelled, and may still be running"
    assert any(message in line for line in logged), logged
    retries = instance.all_logs(run.dagster_run.run_id, of_type=dg.DagsterEventType.STEP_UP_FOR_RETRY)
    assert list(retries) == []


def _terminate_the_run(site: Site, instance: dg.DagsterInstance, launcher: str) -> str:
    """Start a run of Dagster in a process, terminate it while it runs on Databricks, and return its output."""
    site.land(DELIVERY)
    site.set(BIOCLOUD_LAUNCHER=launcher)
    site.workspace.plan_run("hang", times=9)
    instance.add_dynamic_partitions(DELIVERIES, [DELIVERY])
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
            if "RUNNING" in [run.tasks[0].state.life_cycle for run in site.workspace.runs.values()]:
                break
            time.sleep(0.2)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    return output
