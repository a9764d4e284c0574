"""`biocloud dev` where a browser adds nothing: its output, its end, and runs that nobody would start by a click.

The tests use the GraphQL endpoint that the UI uses; `tests/browser` has those of the pages.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from biocloud_assets.launch.launcher import ENVIRONMENT_TAG
from tests.cli.biocloud import Biocloud, Dev, wait_for
from tests.ingest.deliveries import record, write

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

SMALL, OTHER = "2026-01-01-06:00:00", "2026-01-03-06:00:00"
LARGE = "2024-01-01-00:00:00"  # as `biocloud sample` calls it


@pytest.fixture(scope="module")
def biocloud(tmp_path_factory: pytest.TempPathFactory) -> Biocloud:
    """A home with one delivery, which is ingested."""
    biocloud = Biocloud(tmp_path_factory.mktemp("home"))
    write(biocloud.landing, SMALL)
    biocloud("ingest", SMALL)
    return biocloud


@pytest.fixture(scope="module")
def dev(biocloud: Biocloud) -> Iterator[Dev]:
    dev = Dev(biocloud)
    with biocloud.instance() as instance:
        instance.add_dynamic_partitions("dsi_delivery", [OTHER, "hello"])
    yield dev
    dev.stop()


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


def test_the_pools_and_their_limits_are_on_the_concurrency_page(dev: Dev) -> None:
    pools = dev.query("{instance {concurrencyLimits {concurrencyKey limit}}}")["instance"]["concurrencyLimits"]
    assert {pool["concurrencyKey"]: pool["limit"] for pool in pools} == {"curated_dsi": 1, "dsi_ingest": 2}


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


def test_a_run_records_its_environment(dev: Dev, biocloud: Biocloud) -> None:
    assert {run.tags[ENVIRONMENT_TAG] for run in biocloud.runs()} == {"local"}


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_the_end_of_dev_cancels_the_runs_in_progress_and_says_so(tmp_path: Path, sent: signal.Signals) -> None:
    biocloud = Biocloud(tmp_path)
    biocloud("sample", "--results", "100000")
    dev = Dev(biocloud)
    with biocloud.instance() as instance:
        instance.add_dynamic_partitions("dsi_delivery", [LARGE])
    run = dev.launch(LARGE)
    dev.wait(run, "STARTED")
    process = biocloud.process_of(run)
    assert dev.stop(sent) == 128 + sent
    assert f"Waiting for runs to be cancelled: dsi_raw {LARGE}" in dev.output.read_text()
    assert [run.status for run in biocloud.runs()] == [dg.DagsterRunStatus.CANCELED]
    wait_for(lambda: not process.is_running())


def test_two_ingests_and_a_publication_run_at_once_and_a_third_ingest_waits(tmp_path: Path) -> None:
    biocloud = Biocloud(tmp_path)
    write(biocloud.landing, SMALL)
    biocloud("ingest", SMALL)
    many = [record("sensor_media_item", id=f"item-{number}") for number in range(100_000)]
    deliveries = [f"2026-02-0{day}-06:00:00" for day in (1, 2, 3)]
    for delivery in deliveries:
        write(biocloud.landing, delivery, sensor_media_item=many)
    dev = Dev(biocloud)
    try:
        with biocloud.instance() as instance:
            instance.add_dynamic_partitions("dsi_delivery", deliveries)
        ingests = [dev.launch(delivery) for delivery in deliveries]
        publication = dev.launch("2026-01-02", job="dsi_curated")
        assert [dev.wait(run) for run in (*ingests, publication)] == ["SUCCESS"] * 4
    finally:
        dev.stop()
    with biocloud.instance() as instance:
        steps = {run: instance.get_run_step_stats(run)[0] for run in (*ingests, publication)}

    def overlap(one: str, other: str) -> bool:
        return steps[one].start_time < steps[other].end_time and steps[other].start_time < steps[one].end_time

    first, second, third = sorted(ingests, key=lambda run: steps[run].start_time)
    assert overlap(first, second)
    assert steps[third].start_time >= min(steps[first].end_time, steps[second].end_time)
    assert any(overlap(publication, run) for run in ingests)


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
