"""Ingests in processes of their own: one that is killed is repaired by the next, and several can run at once."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from biocloud_assets.ingest import delivery_log
from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.ingest.verify import verify
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.sample import synthetic
from tests.ingest.deliveries import DELIVERY, table, write
from tests.ingest.lakehouse import content, context_at, failed, ingest, written_files

_PROGRAM = """
import sys
from tests.ingest.lakehouse import context_at, whole, RUN
from biocloud_assets.ingest.step import ingest_step
root, *deliveries = sys.argv[1:]
context = context_at(root)
context.spark
print("started", flush=True)
for delivery in deliveries:
    for result in ingest_step(context, whole(context.contract, delivery), RUN):
        print(type(result).__name__, result.asset, flush=True)
print("done", flush=True)
"""


def process(root: Path, *deliveries: str) -> subprocess.Popen[str]:
    """Start a process that ingests deliveries; its engine has started when this returns."""
    started = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(root), *deliveries],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "started\n"
    return started


def kill_after(victim: subprocess.Popen[str], result: str) -> None:
    """Kill a process as soon as it has printed a result."""
    assert victim.stdout is not None
    for line in victim.stdout:
        if line.startswith(result):
            break
    else:
        raise AssertionError(f"it never printed {result}")
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL


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
    landed: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """After each kind of result; `tests/chaos/test_kill.py` has the random moments."""
    name = landed[1][0]
    undisturbed = lake_for(landed, tmp_path)
    ingest(undisturbed, name)
    expected = content(undisturbed)

    (tmp_path / "killed").mkdir()
    killed = lake_for(landed, tmp_path / "killed")
    for result in MOMENTS.values():
        with process(tmp_path / "killed", name) as victim:
            kill_after(victim, result)
        logged = delivery_log.read(killed.tables, CONTRACT, name)
        if logged is not None:
            assert content(killed) == expected, "in the log only if the tables hold it as a whole"
    assert failed(ingest(killed, name)) == {}
    assert content(killed) == expected
    assert delivery_log.ingested(killed.tables, CONTRACT) == {name}


def test_the_copies_that_a_killed_ingest_has_left_are_removed_by_the_next(tmp_path: Path) -> None:
    write(tmp_path / "in", sensor=table("sensor").append_column("battery", table("sensor")["name"]))
    context = context_at(tmp_path)
    with process(tmp_path, DELIVERY) as victim:
        kill_after(victim, "Materialization raw/dsi/")
    assert [path for path in written_files(context) if path.startswith("_files/staging/")]
    ingest(context, DELIVERY)
    assert not [path for path in written_files(context) if path.startswith("_files/staging/")]
    assert all(comparison.equal for comparison in verify(context, DELIVERY))


def test_two_processes_can_ingest_into_one_lake(landed: tuple[Path, list[str]], tmp_path: Path) -> None:
    first, second = landed[1]
    together = lake_for(landed, tmp_path)
    with process(tmp_path, first) as one, process(tmp_path, second) as other:
        assert [ended.stdout.read().endswith("done\n") for ended in (one, other) if ended.stdout] == [True, True]
    (tmp_path / "apart").mkdir()
    apart = lake_for(landed, tmp_path / "apart")
    ingest(apart, first, second)
    assert delivery_log.ingested(together.tables, CONTRACT) == {first, second}
    assert content(together) == content(apart)


def test_two_processes_can_ingest_the_same_delivery(landed: tuple[Path, list[str]], tmp_path: Path) -> None:
    name = landed[1][0]
    context = lake_for(landed, tmp_path)
    with process(tmp_path, name) as one, process(tmp_path, name) as other:
        assert [ended.stdout.read().endswith("done\n") for ended in (one, other) if ended.stdout] == [True, True]
    assert all(comparison.equal for comparison in verify(context, name))
    logged = delivery_log.read(context.tables, CONTRACT, name)
    assert logged is not None
    assert logged["rows"] == {table_: len(rows) for table_, rows in content(context).items()}
