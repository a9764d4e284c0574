"""Ctrl-C, SIGTERM and SIGKILL at any moment of `biocloud ingest`, on a lake that holds deliveries already."""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from biocloud_assets.raw.dsi.contract import CONTRACT
from tests.cli.biocloud import Biocloud, BiocloudHere, wait_for
from tests.databricks_workspace.server import Workspace
from tests.ingest.deliveries import DELIVERY, write
from tests.launch.conftest import ROOT, Site

MESSAGE = "Interrupted. A delivery is in the lake completely or not at all"
LARGE = "2024-01-01-00:00:00"  # as `biocloud sample` calls it


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with an ingested delivery, and one that takes some seconds to ingest."""
    biocloud = BiocloudHere(tmp_path_factory.mktemp("home"))
    write(biocloud.landing, DELIVERY)
    biocloud("ingest")
    biocloud("sample", "--results", "10000")
    return biocloud.home


@pytest.fixture
def biocloud(prepared: Path, tmp_path: Path) -> Biocloud:
    shutil.copytree(prepared, tmp_path / "home")
    return Biocloud(tmp_path / "home")


def state(biocloud: Biocloud) -> dg.DagsterRunStatus | None:
    """The status of the run of the large delivery."""
    runs = [run for run in biocloud.runs() if run.tags["dagster/partition"] == LARGE]
    return runs[0].status if runs else None


def wait_until_a_table_is_written(biocloud: Biocloud) -> None:
    before = biocloud.versions()
    wait_for(lambda: biocloud.versions() != before)


def assert_the_next_ingest_succeeds(biocloud: Biocloud) -> None:
    here = BiocloudHere(biocloud.home)
    (row,) = here.json("ingest", LARGE)["deliveries"]
    assert row["state"] == "ingested"
    assert here("verify", LARGE, DELIVERY).count("equal") == 2 * len(CONTRACT.folders)
    assert state(biocloud) is dg.DagsterRunStatus.SUCCESS


def test_sigterm_while_tables_are_written_cancels_the_run(biocloud: Biocloud) -> None:
    process = biocloud.start("ingest")
    wait_until_a_table_is_written(biocloud)
    process.terminate()
    _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert MESSAGE in err
    assert state(biocloud) is dg.DagsterRunStatus.CANCELED
    assert_the_next_ingest_succeeds(biocloud)


def test_ctrl_c_on_a_terminal_cancels_the_run(biocloud: Biocloud) -> None:
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "biocloud_assets.cli", "ingest"],
        env=biocloud.environment,
        stdin=end,
        stdout=end,
        stderr=end,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(end)
    printed: list[bytes] = []
    reader = threading.Thread(target=lambda: printed.extend(_read_all(terminal)))
    reader.start()  # a process waits when nobody reads what it prints on a terminal
    wait_until_a_table_is_written(biocloud)
    os.write(terminal, b"\x03")
    assert process.wait(timeout=20) == 130
    reader.join(timeout=20)
    assert MESSAGE in b"".join(printed).decode()
    assert state(biocloud) is dg.DagsterRunStatus.CANCELED


def _read_all(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            yield os.read(terminal, 65_536)
        except OSError:  # the other end is closed
            return


def test_an_interrupt_at_any_moment_ends_the_command(biocloud: Biocloud) -> None:
    for moment in (0.2, 0.4, 0.7, 1.0, 1.5, 2.2):
        process = biocloud.start("ingest")
        time.sleep(moment)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 130, f"after {moment} s: {err}"
        assert "Traceback" not in err
        assert state(biocloud) in {None, dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.NOT_STARTED}
    assert_the_next_ingest_succeeds(biocloud)


@pytest.fixture
def site(tmp_path: Path, databricks_workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Site:
    """An environment with a delivery, whose first run on Databricks runs until it is cancelled."""
    monkeypatch.chdir(ROOT)  # uv.lock has the versions of the libraries
    site = Site(tmp_path, databricks_workspace, ROOT, monkeypatch)
    site.land(DELIVERY)
    site.workspace.plan_run("hang")
    return site


def on_databricks(site: Site) -> Biocloud:
    return Biocloud(
        site.root,
        BIOCLOUD_ENV="development",
        BIOCLOUD_ENVIRONMENTS=str(site.root / "environments.yml"),
        BIOCLOUD_GIT_BRANCH="main",
        BIOCLOUD_LAUNCHER="pipes",
    )


def states(site: Site) -> list[tuple[str, str | None]]:
    """The state and the result of each run on Databricks."""
    tasks = [task.state for run in site.workspace.runs.values() for task in run.tasks]
    return [(state.life_cycle, state.result) for state in tasks]


def terminate(process: subprocess.Popen[str]) -> str:
    """Send SIGTERM, and return what the command prints on stderr; it ends soon."""
    process.terminate()
    _, err = process.communicate(timeout=12)
    assert process.returncode == 128 + signal.SIGTERM, err
    return err


@pytest.mark.databricks
def test_an_interrupt_cancels_the_run_on_databricks(site: Site) -> None:
    process = on_databricks(site).start("ingest", DELIVERY)
    wait_for(lambda: states(site) == [("RUNNING", None)])
    err = terminate(process)
    assert MESSAGE in err
    assert "was cancelled" in err
    wait_for(lambda: states(site) == [("TERMINATED", "CANCELED")], seconds=10)
    with dg.DagsterInstance.from_config(str(site.root / "dagster_development")) as instance:
        assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.CANCELED]


@pytest.mark.databricks
def test_an_interrupt_during_the_submission_cancels_the_run_on_databricks(site: Site) -> None:
    site.workspace.fail_requests("/jobs/runs/submit", answer="503", retry_after=2)
    process = on_databricks(site).start("ingest", DELIVERY)
    wait_for(lambda: site.workspace.show_requests("/jobs/runs/submit"))
    assert states(site) == []
    assert "was cancelled" in terminate(process)
    wait_for(lambda: states(site) == [("TERMINATED", "CANCELED")], seconds=10)


@pytest.mark.databricks
def test_an_interrupt_ends_the_command_even_if_databricks_does_not_answer(site: Site) -> None:
    process = on_databricks(site).start("ingest", DELIVERY)
    wait_for(lambda: states(site) == [("RUNNING", None)])
    site.workspace.fail_requests("/jobs/runs/cancel", answer="503", retry_after=60)
    err = terminate(process)
    (run_id,) = site.workspace.runs
    assert f"Databricks run {run_id} in {site.workspace.url} could not be cancelled, and may still be running" in err


@pytest.mark.databricks
def test_an_interrupt_of_the_doctor_cancels_its_run_on_databricks(site: Site) -> None:
    process = on_databricks(site).start("doctor", "development", "--cluster")
    wait_for(lambda: states(site) == [("RUNNING", None)])
    assert "was cancelled" in terminate(process)
    wait_for(lambda: states(site) == [("TERMINATED", "CANCELED")], seconds=10)


def test_a_killed_command_has_failed_as_soon_as_the_next_one_starts(biocloud: Biocloud) -> None:
    process = biocloud.start("ingest")
    wait_until_a_table_is_written(biocloud)
    process.kill()
    process.communicate()
    assert state(biocloud) is dg.DagsterRunStatus.STARTED
    BiocloudHere(biocloud.home)("ingest", LARGE)
    statuses = [run.status for run in biocloud.runs() if run.tags["dagster/partition"] == LARGE]
    assert statuses == [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
    assert BiocloudHere(biocloud.home)("verify", LARGE).count("equal") == len(CONTRACT.folders)


@pytest.mark.parametrize("command", [["deliveries"], ["verify", DELIVERY], ["sample", "--results", "2000000"]])
def test_other_commands_can_be_interrupted_too(biocloud: Biocloud, command: list[str]) -> None:
    process = biocloud.start(*command)
    time.sleep(0.6)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode in {0, 130}, err
    assert "Traceback" not in err
