"""Airflow's processes are killed in the middle of a run, and started again."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from tests.airflow.conftest import Deployed

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.timeout(1800),
    pytest.mark.parametrize("version", ["airflow-2-11", "airflow-3-3"], indirect=True),
]

DELIVERY = "2020-07-10-06:00:00"


@contextmanager
def running(deployed: Deployed) -> Iterator[Callable[[], None]]:
    """Airflow's scheduler with its workers (3: and the API that these need); what it yields kills all of them."""
    airflow = deployed.airflow
    airflow.settings |= {
        "AIRFLOW__CORE__EXECUTOR": "SequentialExecutor" if airflow.major == 2 else "LocalExecutor",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
        "AIRFLOW__SCHEDULER__MIN_FILE_PROCESS_INTERVAL": "5",
        "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",  # nothing but what the test starts
        # A task whose worker was killed is found after minutes; here after seconds.
        "AIRFLOW__SCHEDULER__SCHEDULER_ZOMBIE_TASK_THRESHOLD": "10",
        "AIRFLOW__SCHEDULER__ZOMBIE_DETECTION_INTERVAL": "2",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "45",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
        "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "2",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    }
    commands = ["standalone"] if airflow.major == 3 else ["scheduler"]
    log = (airflow.home / "processes.log").open("ab")
    process = subprocess.Popen(
        [str(airflow.python), "-P", "-m", "airflow", *commands],
        cwd=airflow.home,
        env=airflow.environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )

    def kill() -> None:
        # A worker may have a session of its own, so it is looked for among the descendants.
        for identifier in [process.pid, *_descendants(process.pid)]:
            try:
                os.kill(identifier, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait(timeout=60)

    try:
        yield kill
    finally:
        kill()
        log.close()


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
    """The state of the run. Asked of the database, as Airflow itself takes seconds of all processors to start."""
    with closing(sqlite3.connect(f"file:{deployed.airflow.home}/airflow.db?mode=ro", uri=True, timeout=30)) as database:
        ((found,),) = database.execute("SELECT state FROM dag_run WHERE run_id = 'by-hand'").fetchall()
    return str(found)


def logs(deployed: Deployed) -> str:
    """What the tasks logged, for whoever has to find out why."""
    return "\n".join(
        f"{file}\n{file.read_text()[-3000:]}" for file in deployed.airflow.home.glob("logs/dag_id=*/**/*.log")
    )


def test_what_runs_on_databricks_when_airflow_is_killed_is_followed_and_not_run_twice(quick: Deployed) -> None:
    quick.prepare()
    quick.workspace.plan_run("slow", seconds=150, task_key="inspect_delivery")
    unpause = ["dags", "unpause", "dsi_raw"]
    assert quick.airflow.airflow(*unpause).returncode == 0
    conf = f'{{"delivery": "{DELIVERY}"}}'
    started = quick.airflow.airflow("dags", "trigger", "dsi_raw", "--run-id", "by-hand", "--conf", conf)
    assert started.returncode == 0, started.stdout + started.stderr
    with running(quick) as kill:
        wait_for(lambda: quick.submitted() == ["inspect_delivery"], quick)
        kill()
    assert [run.state.is_final for run in quick.workspace.runs.values()] == [False]  # nobody cancelled it
    with running(quick):
        wait_for(lambda: state(quick) in {"success", "failed"}, quick, seconds=480)
    run = quick.runs("dsi_raw")["by-hand"]
    assert run["state"] == "success", f"{run}\n{logs(quick)}"
    assert run["tasks"]["inspect_delivery"]["try"] > 1  # Airflow took it for lost
    assert Counter(quick.submitted()) == Counter(list(run["tasks"]))
