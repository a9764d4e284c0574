"""Ingests in processes of their own: one that is killed is repaired by the next, and several can run at once."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TextIO, TypeAlias

import pytest

from biocloud_assets.ingest import delivery_log
from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.ingest.staging import LONGEST_STEP
from biocloud_assets.ingest.verify import verify
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.sample import synthetic
from tests.ingest.deliveries import DELIVERY, table, write
from tests.ingest.lakehouse import content, context_at, failed, ingest, written_files

_PROGRAM = """
import json, os, signal, sys, time
import deltalake, pandas, pyarrow.dataset, pyarrow.parquet, pysail.spark, pyspark.sql.connect.session
from biocloud_assets.ingest.step import ingest_step
from tests.ingest.lakehouse import RUN, context_at, whole

def ingest(until, root, *deliveries):
    context = context_at(root)
    context.spark
    print("started", flush=True)
    for delivery in deliveries:
        for result in ingest_step(context, whole(context.contract, delivery), RUN):
            line = f"{type(result).__name__} {result.asset}"
            print(line, flush=True)
            if until and line.startswith(until):
                time.sleep(120)  # until it is killed
    print("done", flush=True)

signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes
for line in sys.stdin:
    printed, *arguments = json.loads(line)
    process = os.fork()
    if process == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        sys.stdout = open(printed, "w")
        ingest(*arguments)
        os._exit(0)
    print(process, flush=True)
"""
"""Loads all modules once, and forks a process for each ingest."""


class Process:
    """A process that ingests deliveries; its engine has started.

    Attributes:
        output: what it prints: a line for each result, and `done`.
    """

    def __init__(self, pid: int, output: TextIO, until: str) -> None:
        self._pid, self.output, self._until = pid, output, until
        assert output.readline() == "started\n"

    def kill(self) -> None:
        """Kill it when it waits after the result that it was given."""
        for line in self.output:
            assert line != "done\n", "it never had the result at which it waits"
            if line.startswith(self._until):
                break
        os.kill(self._pid, signal.SIGKILL)
        assert not self.ends(), "it was killed before"

    def ends(self) -> bool:
        """Wait for its end; whether it has ingested everything."""
        return self.output.read().endswith("done\n")


Start: TypeAlias = Callable[..., Process]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts a process that ingests deliveries: the root, their names, and the result after which it waits."""
    folder, numbers = tmp_path_factory.mktemp("processes"), itertools.count()
    with (
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        ) as server,
        ExitStack() as opened,
    ):
        assert server.stdin is not None and server.stdout is not None

        def started(root: Path, *deliveries: str, until: str = "") -> Process:
            printed = folder / str(next(numbers))
            os.mkfifo(printed)
            server.stdin.write(json.dumps([str(printed), until, str(root), *deliveries]) + "\n")
            server.stdin.flush()
            return Process(int(server.stdout.readline()), opened.enter_context(printed.open()), until)

        yield started
        server.stdin.close()


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """A landing zone with two deliveries, and their names."""
    root = tmp_path_factory.mktemp("root")
    yield root, synthetic.write(context_at(root).landing, results=2000, seed=5, deliveries=2)


def lake_for(landed: tuple[Path, list[str]], root: Path) -> IngestContext:
    """An empty lake at another root, with the same landing zone."""
    (root / "in").symlink_to(landed[0] / "in")
    return context_at(root)


MOMENTS = {
    "validated": "CheckResult landing/dsi/analysis_group_result",
    "first table": "Materialization raw/dsi/",
    "result table": "Materialization raw/dsi/analysis_group_result",
    "checked": "CheckResult raw/dsi/",
    "logged": "Materialization raw/dsi/delivery",
}


@pytest.mark.timeout(600)
def test_an_ingest_that_is_killed_at_any_moment_is_repaired_by_the_next(
    start: Start, landed: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """After each kind of result; `tests/chaos/test_kill.py` has the random moments."""
    name = landed[1][0]
    undisturbed = lake_for(landed, tmp_path)
    ingest(undisturbed, name)
    expected = content(undisturbed)

    (tmp_path / "killed").mkdir()
    killed = lake_for(landed, tmp_path / "killed")
    for result in MOMENTS.values():
        start(tmp_path / "killed", name, until=result).kill()
        logged = delivery_log.read(killed.tables, CONTRACT, name)
        if logged is not None:
            assert content(killed) == expected, "in the log only if the tables hold it as a whole"
    assert failed(ingest(killed, name)) == {}
    assert content(killed) == expected
    assert delivery_log.ingested(killed.tables, CONTRACT) == {name}


def test_the_copies_that_a_killed_ingest_has_left_are_removed_by_an_ingest_a_day_later(
    start: Start, tmp_path: Path
) -> None:
    """Before, they may belong to a running one."""
    write(tmp_path / "in", sensor=table("sensor").append_column("battery", table("sensor")["name"]))
    context = context_at(tmp_path)
    start(tmp_path, DELIVERY, until="Materialization raw/dsi/").kill()

    def copies() -> list[str]:
        return [path for path in written_files(context) if path.startswith("_files/staging/")]

    left = copies()
    assert left
    ingest(context, DELIVERY)
    assert copies() == left, "its own ones are gone, and only these"
    (folder,) = context.staging.list().folders
    began = datetime.now(UTC) - LONGEST_STEP - timedelta(seconds=60)
    Path(context.staging.root, folder).rename(Path(context.staging.root, f"{began:%Y%m%dT%H%M%SZ}-{'0' * 32}"))
    ingest(context, DELIVERY)
    assert copies() == []
    assert all(comparison.equal for comparison in verify(context, DELIVERY))
    assert copies() == []


def test_two_processes_can_ingest_into_one_lake(start: Start, landed: tuple[Path, list[str]], tmp_path: Path) -> None:
    first, second = landed[1]
    together = lake_for(landed, tmp_path)
    both = start(tmp_path, first), start(tmp_path, second)
    assert [process.ends() for process in both] == [True, True]
    (tmp_path / "apart").mkdir()
    apart = lake_for(landed, tmp_path / "apart")
    ingest(apart, first, second)
    assert delivery_log.ingested(together.tables, CONTRACT) == {first, second}
    assert content(together) == content(apart)


def test_two_processes_can_ingest_the_same_delivery(
    start: Start, landed: tuple[Path, list[str]], tmp_path: Path
) -> None:
    name = landed[1][0]
    context = lake_for(landed, tmp_path)
    both = start(tmp_path, name), start(tmp_path, name)
    assert [process.ends() for process in both] == [True, True]
    assert all(comparison.equal for comparison in verify(context, name))
    logged = delivery_log.read(context.tables, CONTRACT, name)
    assert logged is not None
    assert logged["rows"] == {table_: len(rows) for table_, rows in content(context).items()}
