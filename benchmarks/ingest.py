"""Compare `biocloud ingest` (with Dagster, validation, checks and log) with the bare engine on the same data.

    uv run python benchmarks/ingest.py [--results 200000] [--runs 5]

Each run is a new process with an empty lake, and the variants take turns; the figure is the ratio of the medians. The
bare engine is `bare_engine.py`: the same un-nesting and the same nine writes, nothing else. The last lines are the CPU
seconds of each further small delivery, once Dagster and the engine have started.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def timed(arguments: list[str], environment: dict[str, str]) -> float:
    """The wall-clock seconds of a command."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


def small_deliveries(environment: dict[str, str], count: int = 6) -> float:
    """CPU seconds of each further delivery of 100 results: those of `count` deliveries less those of one."""
    seconds = []
    for number in (1, count):
        with tempfile.TemporaryDirectory() as folder:
            here = environment | {"BIOCLOUD_HOME": folder}
            cli = ["-m", "biocloud_assets.cli"]
            timed([*cli, "sample", "--results", "100", "--deliveries", str(number)], here)
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            timed([*cli, "ingest"], here)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return (seconds[1] - seconds[0]) / (count - 1)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        # With compiled modules, as an installed Python runs.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment |= {"BIOCLOUD_HOME": folder, "BIOCLOUD_QUIET_SECONDS": "0"}
        cli = ["-m", "biocloud_assets.cli"]
        timed([*cli, "sample", "--results", str(options.results), "--seed", "1"], environment)
        (delivery,) = [path.name for path in (home / "landing" / "dsi").iterdir()]
        size = sum(file.stat().st_size for file in (home / "landing").rglob("*.parquet"))
        bare_script = str(Path(__file__).with_name("bare_engine.py"))
        times: dict[str, list[float]] = {"bare engine": [], "biocloud ingest": [], "with a Dagster home": []}
        for run in range(options.runs + 1):  # the first one only warms up
            for name, seconds in times.items():
                shutil.rmtree(home / "lake", ignore_errors=True)
                if name == "biocloud ingest":
                    shutil.rmtree(home / "dagster", ignore_errors=True)
                arguments = [*cli, "ingest"]
                if name == "bare engine":
                    arguments = [bare_script, str(home / "landing"), delivery, str(home / "lake")]
                taken = timed(arguments, environment)
                if run:
                    seconds.append(taken)
        bare = statistics.median(times["bare engine"])
        print(f"{options.results:,} results, {size / 1e6:.0f} MB, medians of {options.runs} runs\n")
        print(f"{'':22}{'median':>9}{'least':>9}{'most':>9}{'ratio':>8}")
        for name, seconds in times.items():
            median = statistics.median(seconds)
            print(f"{name:22}{median:8.1f}s{min(seconds):8.1f}s{max(seconds):8.1f}s{median / bare:8.2f}")
        further = statistics.median(small_deliveries(environment) for _ in range(3))
        print(f"\nEach further delivery of 100 results: {further:.2f} CPU seconds")


if __name__ == "__main__":
    main()
