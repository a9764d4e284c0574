"""The `biocloud` command with a home of its own, in a process or in this one; and the UI that `biocloud dev` serves."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import dagster as dg
import deltalake
import psutil
import pytest

from biocloud_assets.cli import commands, output
from biocloud_assets.raw.dsi.contract import CONTRACT

LOCATION, REPOSITORY = "biocloud_assets.definitions", "__repository__"
FINISHED = {"SUCCESS", "FAILURE", "CANCELED"}


class Biocloud:
    """The command with an environment: a new home, and no time to wait for arrivals."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("BIOCLOUD_", "DAGSTER_"))}
        if not any("://" in environment.get(name, "") for name in ("BIOCLOUD_LAKE_ROOT", "BIOCLOUD_LANDING_ROOT")):
            kept = {name: value for name, value in kept.items() if not name.startswith("AWS_")}
        self.environment = {
            **kept,
            "BIOCLOUD_HOME": str(home),
            "BIOCLOUD_QUIET_SECONDS": "0",
            "COLUMNS": "200",
            **environment,
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "biocloud_assets.cli", *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int | None, str, str]:
        """Run the command to its end; return its exit code, and what it printed on stdout and stderr."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    def __call__(self, *arguments: str, code: int = 0) -> str:
        found, out, err = self.run(*arguments)
        assert found == code, f"exit code {found}\n{out}\n{err}"
        return out + err

    def json(self, *arguments: str, code: int = 0) -> Any:
        found, out, err = self.run(*arguments, "--json")
        assert found == code, f"exit code {found}\n{out}\n{err}"
        return json.loads(out)

    @property
    def landing(self) -> Path:
        return Path(self.environment.get("BIOCLOUD_LANDING_ROOT", self.home / "landing"))

    @property
    def lake(self) -> Path:
        return Path(self.environment.get("BIOCLOUD_LAKE_ROOT", self.home / "lake"))

    def versions(self) -> dict[str, int]:
        """The Delta version of each table."""
        paths = [self.lake / CONTRACT.address(table) for table in (*CONTRACT.tables, CONTRACT.log)]
        return {path.name: deltalake.DeltaTable(str(path)).version() for path in paths if path.exists()}

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """The Dagster instance of the home."""
        with dg.DagsterInstance.from_config(str(self.home / "dagster")) as instance:
            yield instance

    def runs(self) -> list[dg.DagsterRun]:
        """The runs of the home, the newest first."""
        with self.instance() as instance:
            return list(instance.get_runs())

    def process_of(self, run: str) -> psutil.Process:
        """The process that executes a run."""
        with self.instance() as instance:
            for entry in instance.all_logs(run, of_type=dg.DagsterEventType.ENGINE_EVENT):
                metadata = entry.get_dagster_event().engine_event_data.metadata
                if "pid" in metadata:
                    return psutil.Process(int(str(metadata["pid"].value)))
        raise AssertionError("no event names the process")


def run_here(*arguments: str) -> tuple[int, str, str]:
    """Run the command in this process; return its exit code, and what it printed on stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    # A console that was made where COLUMNS is set, as in a worker of pytest-xdist, doesn't read it again.
    for console in (output.out, output.err):
        console.width = 200
    with (
        mock.patch.object(sys, "argv", ["biocloud", *arguments]),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        commands.run_command()
    assert ended.value.code is None or isinstance(ended.value.code, int)
    return ended.value.code or 0, out.getvalue(), err.getvalue()


class BiocloudHere(Biocloud):
    """The command in this process. It prints and writes the same, and saves the start of Dagster and of an engine."""

    def run(self, *arguments: str) -> tuple[int | None, str, str]:
        with self._variables():
            return run_here(*arguments)

    @contextmanager
    def _variables(self) -> Iterator[None]:
        """Let this process have the variables of the command; those that PySpark sets as it starts remain."""
        before, own = dict(os.environ), ("AWS_", "BIOCLOUD_", "DAGSTER_")
        for name in before.keys() - self.environment.keys():
            if name.startswith(own):
                del os.environ[name]
        os.environ.update(self.environment)
        try:
            yield
        finally:
            for name in os.environ.keys() - before.keys():
                if name.startswith(own) or name in self.environment:
                    del os.environ[name]
            os.environ.update(before)


def wait_for(condition: Callable[[], Any], *, seconds: float = 240) -> Any:
    """Wait until a condition holds, and return its value."""
    until = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < until, "the condition never held"
        time.sleep(0.1)
    return value


class Dev:
    """`biocloud dev`, and the GraphQL endpoint that its UI uses."""

    def __init__(self, biocloud: Biocloud) -> None:
        # No delivery is quiet for so long, so that the sensor requests no runs besides those of the tests.
        environment = {**biocloud.environment, "BIOCLOUD_QUIET_SECONDS": "86400"}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.output = biocloud.home / "dev.log"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "biocloud_assets.cli", "dev", "--port", str(self.port)],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_for(self._answers)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.output.read_text()
        try:
            locations = self.query("{workspaceOrError{... on Workspace{locationEntries{loadStatus}}}}")
        except (urllib.error.URLError, ConnectionError):
            return False
        return bool(locations["workspaceOrError"]["locationEntries"][0]["loadStatus"] == "LOADED")

    def query(self, query: str, **variables: Any) -> Any:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            document = json.load(answer)
        assert "errors" not in document, document
        return document["data"]

    def launch(self, partition: str | None, *, job: str = "dsi_raw", **selector: Any) -> str:
        """Start a run as the UI does, and return its identifier."""
        tags = [{"key": "dagster/partition", "value": partition}] if partition else []
        where = {"repositoryLocationName": LOCATION, "repositoryName": REPOSITORY, "pipelineName": job, **selector}
        parameters = {"selector": where, "runConfigData": {}, "mode": "default", "executionMetadata": {"tags": tags}}
        launched = self.query(
            "mutation($p: ExecutionParams!) {launchRun(executionParams: $p) {__typename"
            " ... on LaunchRunSuccess {run {runId}} ... on PythonError {message}}}",
            p=parameters,
        )["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def status(self, run: str) -> str:
        found = self.query("query($r: ID!) {runOrError(runId: $r) {... on Run {status}}}", r=run)
        return str(found["runOrError"]["status"])

    def wait(self, run: str, *statuses: str) -> str:
        """Wait until a run has one of some statuses, or has finished."""
        return str(wait_for(lambda: (now := self.status(run)) in {*statuses, *FINISHED} and now))

    def terminate(self, run: str) -> None:
        """Terminate a run as the UI does."""
        self.query("mutation($r: String!) {terminateRun(runId: $r) {__typename}}", r=run)

    def stop(self, sent: signal.Signals = signal.SIGINT) -> int:
        """End it, and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(sent)
        return self.process.wait(timeout=60)
