"""docs/production/dagster.yaml with a real PostgreSQL: it is migrated and stores runs, and a killed run is ended."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2
import pytest

from tests.cli.biocloud import Biocloud
from tests.ingest.deliveries import write
from tests.needs import unavailable

ROOT = Path(__file__).parents[2]
SETTINGS = ROOT / "docs/production/dagster.yaml"
PASSWORD = "p@ss:w%rd/1"  # pragma: allowlist secret

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(900)]

_LOCATION = '''
"""A job that takes as long as a variable says, the first time."""

import time
import dagster as dg

class Config(dg.Config):
    seconds: int = 0

@dg.op
def wait(context: dg.OpExecutionContext, config: Config) -> None:
    if context.run.parent_run_id is None:
        time.sleep(config.seconds)

@dg.job
def waiting():
    wait()

defs = dg.Definitions(jobs=[waiting], executor=dg.in_process_executor)
'''


def binaries() -> Path:
    """The folder with PostgreSQL's programs, the newest version that is installed."""
    folders = [
        *sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True),
        *(Path(found).parent for found in [shutil.which("initdb")] if found),
    ]
    found = next((folder for folder in folders if (folder / "initdb").exists() and (folder / "pg_ctl").exists()), None)
    if found is None:
        unavailable("there is no PostgreSQL: on Debian, `apt-get install postgresql`")
    return found


@pytest.fixture(scope="module")
def database() -> Iterator[dict[str, str]]:
    """The environment variables of an empty database, in a cluster of its own on loopback."""
    found = binaries()
    # initdb refuses root.
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    as_user: dict[str, Any] = (
        {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    )
    with tempfile.TemporaryDirectory(prefix="postgres-") as name, socket.socket() as probe:
        folder = Path(name)  # not below pytest's folder, which only its own user may enter
        (folder / "password").write_text(PASSWORD)
        for path in (folder, folder / "password"):
            os.chown(path, user.pw_uid, user.pw_gid)
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
        probe.close()

        def run(program: str, *arguments: str) -> None:
            done = subprocess.run(
                [str(found / program), *arguments],
                cwd=folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                timeout=300,
                **as_user,
            )
            assert done.returncode == 0, done.stderr + "\n".join(path.read_text() for path in folder.glob("log"))

        data = ("--pgdata", str(folder / "data"))
        run("initdb", *data, "--username=dagster", "--pwfile", str(folder / "password"), "--auth=scram-sha-256")
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
        run("pg_ctl", "start", *data, "--wait", "--timeout=200", "--log", str(folder / "log"), "--options", options)
        try:
            yield {
                "DAGSTER_PG_HOST": "127.0.0.1",
                "DAGSTER_PG_PORT": port,
                "DAGSTER_PG_USERNAME": "dagster",
                "DAGSTER_PG_PASSWORD": PASSWORD,
                "DAGSTER_PG_DB": "postgres",
            }
        finally:
            run("pg_ctl", "stop", *data, "--mode=immediate", "--wait")


class Production:
    """A Dagster home with the settings for production."""

    def __init__(self, home: Path, database: dict[str, str]) -> None:
        self.home, self.variables = home, {**database, "DAGSTER_HOME": str(home)}
        home.mkdir()
        shutil.copy(SETTINGS, home / "dagster.yaml")
        (home / "waiting.py").write_text(_LOCATION)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("BIOCLOUD_", "DAGSTER_"))}
        return {**kept, **self.variables}

    def dagster(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "dagster", *arguments],
            cwd=self.home,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        connection = psycopg2.connect(
            host=self.variables["DAGSTER_PG_HOST"],
            port=self.variables["DAGSTER_PG_PORT"],
            user=self.variables["DAGSTER_PG_USERNAME"],
            password=self.variables["DAGSTER_PG_PASSWORD"],
            dbname=self.variables["DAGSTER_PG_DB"],
        )
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall())
        finally:
            connection.close()

    @contextmanager
    def instance(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
        for name, value in self.variables.items():
            monkeypatch.setenv(name, value)
        with dg.DagsterInstance.get() as instance:
            yield instance

    def launch(self, seconds: int, partition: str) -> None:
        """Queue a run of the job."""
        self.dagster(
            *("job", "launch", "-f", "waiting.py", "-j", "waiting"),
            *("--config-json", f'{{"ops": {{"wait": {{"config": {{"seconds": {seconds}}}}}}}}}'),
            *("--tags", f'{{"dagster/partition": "{partition}"}}'),
        )

    @contextmanager
    def daemon(self) -> Iterator[None]:
        """Dagster's daemon, as production runs it."""
        log = (self.home / "daemon.log").open("w")
        process = subprocess.Popen(
            [sys.executable, "-m", "dagster._daemon", "run", "-f", "waiting.py"],
            cwd=self.home,
            env=self.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            log.close()


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 300) -> Any:
    until = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < until, what
        time.sleep(0.5)
    return value


@pytest.fixture
def production(database: dict[str, str], tmp_path: Path) -> Production:
    return Production(tmp_path / "home", database)


def test_the_database_is_created_and_migrated(production: Production) -> None:
    production.dagster("instance", "migrate")
    schemas = re.findall(r"current: (\w+)\n +latest: (\w+)", production.dagster("instance", "info"))
    assert len(schemas) == 3
    assert all(current == latest for current, latest in schemas)
    tables = {name for (name,) in production.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    assert {"alembic_version", "runs", "event_logs", "jobs", "job_ticks", "concurrency_limits"} <= tables
    production.dagster("instance", "migrate")
    production.dagster("instance", "concurrency", "set", "curated_dsi", "1")
    assert production.query("SELECT \"limit\" FROM concurrency_limits WHERE concurrency_key = 'curated_dsi'") == [(1,)]


def test_the_runs_of_the_command_are_stored_in_it(production: Production, tmp_path: Path) -> None:
    biocloud = Biocloud(tmp_path / "biocloud", **production.variables)
    write(biocloud.landing)
    biocloud("ingest")
    runs = production.query("SELECT status FROM runs WHERE pipeline_name = 'dsi_raw'")
    assert runs == [("SUCCESS",)]
    assert not list(production.home.rglob("*.db"))
    written = "".join(path.read_text(errors="replace") for path in production.home.rglob("*") if path.is_file())
    assert PASSWORD not in written


def test_a_missing_variable_is_named(production: Production) -> None:
    del production.variables["DAGSTER_PG_PASSWORD"]
    with pytest.raises(AssertionError, match="DAGSTER_PG_PASSWORD"):
        production.dagster("instance", "migrate")


def test_a_run_whose_process_is_killed_ends_as_failed_and_queued_runs_go_on(
    production: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    production.launch(3600, "2026-01-31")
    with production.instance(monkeypatch) as instance:
        (killed,) = instance.get_runs(dg.RunsFilter(job_name="waiting"))
        assert killed.status is dg.DagsterRunStatus.QUEUED
        with production.daemon():

            def status(run: dg.DagsterRun) -> dg.DagsterRunStatus:
                found = instance.get_run_by_id(run.run_id)
                assert found is not None
                return found.status

            def process() -> int | None:
                """The process of the run, once its op has begun."""
                for record in instance.get_records_for_run(killed.run_id).records:
                    event = record.event_log_entry.dagster_event
                    if event is not None and event.event_type is dg.DagsterEventType.ENGINE_EVENT:
                        for name, value in event.engine_event_data.metadata.items():
                            if name == "pid" and status(killed) is dg.DagsterRunStatus.STARTED:
                                return int(str(value.value))
                return None

            pid = wait_for(process, "the run never started")
            production.launch(0, "2026-01-31")
            runs = instance.get_runs(dg.RunsFilter(job_name="waiting"))
            (queued,) = [run for run in runs if run.run_id != killed.run_id]
            time.sleep(6)  # the daemon looks at the queue every five seconds
            assert status(queued) is dg.DagsterRunStatus.QUEUED, "another run of the same partition is in progress"
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: status(killed) is dg.DagsterRunStatus.FAILURE, "the run was never ended")
            wait_for(lambda: status(queued) is dg.DagsterRunStatus.SUCCESS, "the queued run never went on")

            def retried() -> list[dg.DagsterRun]:
                runs = instance.get_runs(dg.RunsFilter(tags={"dagster/parent_run_id": killed.run_id}))
                return [run for run in runs if run.status is dg.DagsterRunStatus.SUCCESS]

            wait_for(retried, "the killed run was never repeated")
