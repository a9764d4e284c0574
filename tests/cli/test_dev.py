"""`biocloud dev`: what its UI and daemon do with runs. The tests use the GraphQL endpoint that the UI uses."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest

from biocloud_assets.launch.launcher import ENVIRONMENT_TAG
from tests.cli.biocloud import Biocloud, Dev, wait_for
from tests.ingest.deliveries import record, write

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

SMALL, REFUSED, OTHER = "2026-01-01-06:00:00", "2026-01-02-06:00:00", "2026-01-03-06:00:00"
LARGE = "2024-01-01-00:00:00"  # as `biocloud sample` calls it


@pytest.fixture(scope="module")
def biocloud(tmp_path_factory: pytest.TempPathFactory) -> Biocloud:
    """A home with a delivery that takes some time, a small one, and one with a violation; one is ingested."""
    biocloud = Biocloud(tmp_path_factory.mktemp("home"))
    biocloud("sample", "--results", "100000")
    write(biocloud.landing, SMALL)
    biocloud("ingest", SMALL)
    write(biocloud.landing, REFUSED, algorithm=[record("algorithm", id=None)])
    return biocloud


@pytest.fixture(scope="module")
def dev(biocloud: Biocloud) -> Iterator[Dev]:
    dev = Dev(biocloud)
    # No sensor requests a run that a test doesn't ask for.
    with biocloud.instance() as instance:
        instance.add_dynamic_partitions("dsi_delivery", [LARGE, REFUSED, OTHER, "hello"])
    yield dev
    dev.stop()


def process_of(biocloud: Biocloud, run: str) -> psutil.Process:
    """The process that executes a run."""
    with biocloud.instance() as instance:
        for entry in instance.all_logs(run, of_type=dg.DagsterEventType.ENGINE_EVENT):
            metadata = entry.get_dagster_event().engine_event_data.metadata
            if "pid" in metadata:
                return psutil.Process(int(str(metadata["pid"].value)))
    raise AssertionError("no event names the process")


def messages(biocloud: Biocloud, run: str) -> str:
    """The messages of a run's events, with the errors of its steps."""
    with biocloud.instance() as instance:
        entries = instance.all_logs(run)
    failures = [
        entry.get_dagster_event().step_failure_data.user_failure_data
        for entry in entries
        if entry.is_dagster_event and entry.get_dagster_event().is_step_failure
    ]
    return "\n".join(
        [*(entry.user_message for entry in entries), *(str(one.description) for one in failures if one is not None)]
    )


def test_nothing_is_printed_before_dagster_starts(dev: Dev) -> None:
    first = dev.output.read_text().splitlines()[0]
    assert "Launching Dagster services" in first
    assert "SupersessionWarning" not in dev.output.read_text()


def test_the_page_of_the_job_lists_the_runs_of_the_command_line(dev: Dev, biocloud: Biocloud) -> None:
    found = dev.query(
        "query($p: PipelineSelector!) {pipelineOrError(params: $p) {... on Pipeline {runs(limit: 9) {runId}}}}",
        p={
            "repositoryLocationName": "biocloud_assets.definitions",
            "repositoryName": "__repository__",
            "pipelineName": "dsi_raw",
        },
    )
    runs = {run["runId"] for run in found["pipelineOrError"]["runs"]}
    assert {run.run_id for run in biocloud.runs() if run.tags.get("dagster/partition") == SMALL} <= runs


def test_a_run_of_the_command_line_can_be_executed_again(dev: Dev, biocloud: Biocloud) -> None:
    parent = next(run.run_id for run in biocloud.runs() if run.tags.get("dagster/partition") == SMALL)
    answer = dev.query(
        "mutation($p: ReexecutionParams!) {launchRunReexecution(reexecutionParams: $p) {__typename"
        " ... on LaunchRunSuccess {run {runId}} ... on PythonError {message}}}",
        p={"parentRunId": parent, "strategy": "ALL_STEPS", "useParentRunTags": True},
    )["launchRunReexecution"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    assert dev.wait(answer["run"]["runId"]) == "SUCCESS"


def test_the_pools_and_their_limits_are_on_the_concurrency_page(dev: Dev) -> None:
    pools = dev.query("{instance {concurrencyLimits {concurrencyKey limit}}}")["instance"]["concurrencyLimits"]
    assert {pool["concurrencyKey"]: pool["limit"] for pool in pools} == {"curated_dsi": 1, "dsi_ingest": 2}


def test_a_terminated_run_is_canceled_within_seconds_and_its_process_ends(dev: Dev, biocloud: Biocloud) -> None:
    run = dev.launch(LARGE)
    dev.wait(run, "STARTED")

    process = process_of(biocloud, run)
    dev.terminate(run)
    wait_for(lambda: dev.status(run) == "CANCELED", seconds=20)
    wait_for(lambda: not process.is_running(), seconds=20)


def test_a_killed_run_has_failed_and_does_not_hold_the_next_one(dev: Dev, biocloud: Biocloud) -> None:
    run = dev.launch(LARGE)
    dev.wait(run, "STARTED")
    process_of(biocloud, run).kill()
    assert dev.wait(run) == "FAILURE"
    assert dev.wait(dev.launch(LARGE)) == "SUCCESS"
    assert biocloud("verify", LARGE).count("equal") == 5


def test_a_killed_command_is_closed_while_the_ui_is_running(dev: Dev, biocloud: Biocloud) -> None:
    write(biocloud.landing, OTHER, sensor=[record("sensor", id=f"sensor-{number}") for number in range(20_000)])
    process = biocloud.start("ingest", OTHER)

    def run() -> dg.DagsterRun | None:
        assert process.returncode is not None or process.poll() is None, process.communicate()
        return next((run for run in biocloud.runs() if run.tags.get("dagster/partition") == OTHER), None)

    wait_for(lambda: (found := run()) is not None and found.status is dg.DagsterRunStatus.STARTED)
    process.kill()
    process.wait()
    wait_for(lambda: (found := run()) is not None and found.status is dg.DagsterRunStatus.FAILURE)


def test_a_partition_that_is_no_delivery_fails_with_one_message(dev: Dev, biocloud: Biocloud) -> None:
    run = dev.launch("hello")
    assert dev.wait(run) == "FAILURE"
    assert "delivery 'hello': expected a real date and time as yyyy-mm-dd-HH:MM:SS" in messages(biocloud, run)


def test_a_run_without_a_partition_is_refused_with_a_sentence(dev: Dev, biocloud: Biocloud) -> None:
    run = dev.launch(None)
    assert dev.wait(run) == "FAILURE"
    assert f"run {run}: expected one delivery as its partition, found none." in messages(biocloud, run)


def test_a_refused_delivery_is_seen_on_the_run_the_check_and_the_asset(dev: Dev, biocloud: Biocloud) -> None:
    run = dev.launch(REFUSED)
    assert dev.wait(run) == "FAILURE"
    assert "null key: delivery 2026-01-02-06:00:00, folder algorithm" in messages(biocloud, run)
    key = dg.AssetKey(["landing", "dsi", "algorithm"])
    with biocloud.instance() as instance:
        assert REFUSED not in instance.get_materialized_partitions(key)
        assert not instance.get_materialized_partitions(dg.AssetKey(["raw", "dsi", "sensor"])) & {REFUSED}
    assert {run["state"] for run in biocloud.json("deliveries") if run["delivery"] == REFUSED} == {"refused"}


def test_a_run_records_its_environment(dev: Dev, biocloud: Biocloud) -> None:
    assert {run.tags[ENVIRONMENT_TAG] for run in biocloud.runs()} == {"local"}


def test_a_backfill_ingests_each_of_its_deliveries(dev: Dev, biocloud: Biocloud) -> None:
    names = [f"2026-02-0{day}-06:00:00" for day in range(1, 4)]
    for name in names:
        write(biocloud.landing, name)
    with biocloud.instance() as instance:
        instance.add_dynamic_partitions("dsi_delivery", names)
    answer = dev.query(
        "mutation($p: LaunchBackfillParams!) {launchPartitionBackfill(backfillParams: $p) {__typename"
        " ... on LaunchBackfillSuccess {backfillId} ... on PythonError {message}}}",
        p={
            "partitionNames": names,
            "selector": {
                "partitionSetName": "dsi_raw_partition_set",
                "repositorySelector": {
                    "repositoryLocationName": "biocloud_assets.definitions",
                    "repositoryName": "__repository__",
                },
            },
        },
    )["launchPartitionBackfill"]
    assert answer["__typename"] == "LaunchBackfillSuccess", answer
    wait_for(
        lambda: {row["delivery"] for row in biocloud.json("deliveries") if row["state"] == "ingested"} >= set(names)
    )


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_the_end_of_dev_cancels_the_runs_in_progress_and_says_so(tmp_path: Path, sent: signal.Signals) -> None:
    biocloud = Biocloud(tmp_path)
    biocloud("sample", "--results", "100000")
    dev = Dev(biocloud)
    with biocloud.instance() as instance:
        instance.add_dynamic_partitions("dsi_delivery", [LARGE])
    run = dev.launch(LARGE)
    dev.wait(run, "STARTED")
    process = process_of(biocloud, run)
    assert dev.stop(sent) == 128 + sent
    assert f"Waiting for runs to be cancelled: dsi_raw {LARGE}" in dev.output.read_text()
    assert [run.status for run in biocloud.runs()] == [dg.DagsterRunStatus.CANCELED]
    wait_for(lambda: not process.is_running(), seconds=20)


def test_the_home_of_another_environment_is_refused(biocloud: Biocloud) -> None:
    environment = {
        **biocloud.environment,
        "BIOCLOUD_ENV": "production",
        "DAGSTER_HOME": str(biocloud.home / "dagster"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "biocloud_assets.cli", "dev"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "expected that of the environment production, found that of local" in done.stderr
    assert not (biocloud.home / "dagster_production").exists()
