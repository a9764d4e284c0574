"""Measure processes: wall-clock time, CPU time, memory at the peak, and the bytes that they leave in the lake."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
_SAMPLE_SECONDS = 0.05
Say = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """One run of a process.

    Attributes:
        wall: seconds from its start to its end.
        cpu: user and system seconds of the process and its children.
        memory: bytes of resident memory of the process and its children together, at the peak.
        output: what it printed.
        written: bytes of the files that it left behind.
    """

    wall: float
    cpu: float
    memory: int
    output: str
    written: int = 0

    @property
    def report(self) -> dict[str, Any]:
        """The JSON object in the last line of the output."""
        return dict(json.loads(self.output.strip().splitlines()[-1]))


class ProcessError(Exception):
    """A measured process failed."""


def environment(**variables: str) -> dict[str, str]:
    """The environment of a measured process: this one without its settings, with compiled modules."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BIOCLOUD_", "DAGSTER_", "AWS_", "DATABRICKS_")) and name != "PYTHONDONTWRITEBYTECODE"
    }
    return {**kept, "BIOCLOUD_QUIET_SECONDS": "0", "PYTHONWARNINGS": "ignore", **variables}


def run(arguments: Sequence[str], variables: Mapping[str, str] | None = None) -> Run:
    """Run Python with some arguments, and measure it.

    Args:
        arguments: of Python.
        variables: the environment.

    Raises:
        ProcessError: its exit code isn't 0.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *arguments], env=variables or environment(), cwd=ROOT, stdout=out, stderr=err
        )
        with _sampled(process.pid) as peak:
            _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        output = out.read()
        if process.returncode:
            raise ProcessError(f"{' '.join(arguments)}: exit code {process.returncode}\n{output}{err.read()}")
    cpu = max(usage.ru_utime + usage.ru_stime, sum(peak.cpu.values()))
    return Run(wall, cpu, peak.memory, output)


@dataclass
class _Peak:
    """What was seen of a process and its children.

    Attributes:
        memory: the resident bytes of all of them, at the peak.
        cpu: the seconds of each. A child that the process doesn't wait for, as a JVM, is missing in the system's count.
    """

    memory: int = 0
    cpu: dict[int, float] = field(default_factory=dict)


@contextmanager
def _sampled(pid: int) -> Iterator[_Peak]:
    """Look at a process and its children many times a second. The system's own peak has that of this process in it."""
    peak, ended = _Peak(), threading.Event()

    def sample() -> None:
        try:
            root = psutil.Process(pid)
            while not ended.wait(_SAMPLE_SECONDS):
                memory = 0
                for process in (root, *root.children(recursive=True)):
                    try:
                        times = process.cpu_times()
                        peak.cpu[process.pid] = times.user + times.system
                        memory += process.memory_info().rss
                    except psutil.Error:  # it has just ended
                        continue
                peak.memory = max(peak.memory, memory)
        except psutil.Error:
            return

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def median(values: Iterable[float]) -> float:
    """The median."""
    return statistics.median(values)


def biocloud(*arguments: str) -> list[str]:
    """The arguments of Python for a `biocloud` command."""
    return ["-m", "biocloud_assets.cli", *arguments]


def folder_size(path: Path) -> int:
    """The bytes of all files below a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def seconds(value: float) -> str:
    """A time for a table: three digits."""
    return f"{value:.0f} s" if value >= 100 else f"{value:.1f} s" if value >= 10 else f"{value:.2f} s"


def megabytes(value: float) -> str:
    """A size for a table."""
    return f"{value / 1e6:,.0f} MB" if value >= 1e6 else f"{value / 1e3:,.0f} kB"


def ratio(value: float) -> str:
    """A ratio for a table."""
    return f"{value:.2f}"
