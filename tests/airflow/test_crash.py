"""Airflow's processes are killed during a run, and started again."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest
import requests

from tests.airflow.conftest import OLDEST_AND_NEWEST, Deployed

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.timeout(1800),
    pytest.mark.parametrize("version", OLDEST_AND_NEWEST, indirect=True),
]

DELIVERY = "2020-07-10-06:00:00"


@contextmanager
def running(deployed: Deployed) -> Iterator[Callable[[], None]]:
    """Run Airflow's scheduler and workers (3: and their API server); yields a function that kills all of them."""
    airflow = deployed.airflow
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    airflow.settings |= {
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "SequentialExecutor" if airflow.major == 2 else "LocalExecutor",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
        "AIRFLOW__SCHEDULER__MIN_FILE_PROCESS_INTERVAL": "5",
        "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",  # only what the test starts
        # A task whose worker was killed is found after seconds instead of minutes.
        "AIRFLOW__SCHEDULER__SCHEDULER_ZOMBIE_TASK_THRESHOLD": "10",
        "AIRFLOW__SCHEDULER__ZOMBIE_DETECTION_INTERVAL": "2",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "45",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
        "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "2",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    }
    processes: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> None:
        with (airflow.home / "processes.log").open("ab") as log:
            processes.append(
                subprocess.Popen(
                    [str(airflow.python), "-P", "-m", "airflow", *arguments],
                    cwd=airflow.home,
                    env=airflow.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def kill() -> None:
        for process in processes:
            # A worker may have a session of its own, so descendants are killed too.
            for identifier in [process.pid, *_descendants(process.pid)]:
                try:
                    os.kill(identifier, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            process.wait(timeout=60)

    try:
        if airflow.major == 3:
            # A task that the scheduler starts before the API server answers fails, and has used up a try.
            start("api-server", "--port", str(port))
            wait_for(lambda: _answers(port), deployed)
            start("dag-processor")
        start("scheduler")
        yield kill
    finally:
        kill()


def _answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/api/v2/monitor/health", timeout=10).ok
    except requests.RequestException:
        return False


def _descendants(parent: int) -> list[int]:
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True, timeout=30)
    children: dict[int, list[int]] = {}
    for line in listed.stdout.splitlines():
        pid, ppid = map(int, line.split())
        children.setdefault(ppid, []).append(pid)
    found, todo = [], [parent]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def wait_for(what: Callable[[], bool], deployed: Deployed, seconds: float = 240) -> None:
    give_up = time.monotonic() + seconds
    while not what():
        processes = deployed.airflow.home / "processes.log"
        assert time.monotonic() < give_up, processes.read_text(errors="replace")[-8000:]
        time.sleep(1)


def state(deployed: Deployed) -> str:
    """The state of the run, from the database, as a command of Airflow takes seconds of CPU to start."""
    with closing(sqlite3.connect(f"file:{deployed.airflow.home}/airflow.db?mode=ro", uri=True, timeout=30)) as database:
        ((found,),) = database.execute("SELECT state FROM dag_run WHERE run_id = 'by-hand'").fetchall()
    return str(found)


def logs(deployed: Deployed) -> str:
    """The logs of the tasks."""
    return "\n".join(
        f"{file}\n{file.read_text()[-3000:]}" for file in deployed.airflow.home.glob("logs/dag_id=*/**/*.log")
    )


def test_a_run_on_databricks_is_followed_and_not_repeated_when_airflow_was_killed(quick: Deployed) -> None:
    quick.prepare()
    quick.workspace.plan_run("slow", seconds=150, task_key="ingest_dsi")
    unpause = ["dags", "unpause", "dsi_raw"]
    assert quick.airflow.airflow(*unpause).returncode == 0
    conf = f'{{"delivery": "{DELIVERY}"}}'
    started = quick.airflow.airflow("dags", "trigger", "dsi_raw", "--run-id", "by-hand", "--conf", conf)
    assert started.returncode == 0, started.stdout + started.stderr
    with running(quick) as kill:
        wait_for(lambda: len(quick.workspace.runs) == 1, quick)
        kill()
    assert [run.state.is_final for run in quick.workspace.runs.values()] == [False]  # the kill didn't cancel it
    with running(quick):
        wait_for(lambda: state(quick) in {"success", "failed"}, quick, seconds=480)
    run = quick.runs("dsi_raw")["by-hand"]
    assert run["state"] == "success", f"{run}\n{logs(quick)}"
    assert run["tasks"]["ingest_dsi"]["try"] > 1
    assert (quick.clusters(), len(quick.workspace.runs)) == (["ingest_dsi"], 1)
