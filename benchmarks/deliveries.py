"""Small deliveries, one after the other: the time of each stays the same, however many are in the lake."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Say, biocloud, environment, median, ratio, run, seconds
from benchmarks.results import Plot, Result, Table

_RESULTS = 100


def measure(*, deliveries: int, through_dagster: int, runs: int, say: Say) -> Result:
    """Ingest many small deliveries.

    Args:
        deliveries: how many are ingested by the plain step function.
        through_dagster: how many are ingested by `biocloud ingest`.
        runs: how often the latter is repeated.
        say: reports progress.
    """
    result = Result("deliveries")
    with tempfile.TemporaryDirectory() as folder:
        say(f"{deliveries:,} deliveries by the step function")
        variables = environment(BIOCLOUD_HOME=folder)
        run(biocloud("sample", "--results", str(_RESULTS), "--deliveries", str(deliveries)), variables)
        found = run(["-m", "benchmarks.deliveries", folder], variables)
    walls, cpus = found.report["wall"], found.report["cpu"]
    part = max(1, len(walls) // 10)
    rows = []
    for start in (0, *(len(walls) * tenth // 10 for tenth in (2, 4, 6, 8)), len(walls) - part):
        here = slice(start, start + part)
        rows.append(
            [f"{start + 1:,} to {start + part:,}", ratio(median(walls[here]) / median(walls[:part])),
             seconds(median(walls[here])), seconds(median(cpus[here]))]
        )  # fmt: skip
    columns = ["deliveries", "time / first", "time of each", "CPU of each"]
    title = f"{deliveries:,} deliveries of {_RESULTS} results by the step function, without Dagster"
    result.tables.append(Table(title, columns, rows))
    result.figures["flat"] = median(walls[-part:]) / median(walls[:part])
    result.figures["step_cpu"] = median(cpus)
    line = [(float(n + 1), median(walls[max(0, n - 5) : n + 6])) for n in range(len(walls))]
    result.plots.append(Plot("deliveries", title, line=line, axis="delivery; seconds, median of 11"))

    wall: dict[int, list[float]] = {1: [], through_dagster: []}
    cpu: dict[int, list[float]] = {1: [], through_dagster: []}
    for number in range(runs):
        for count in wall:
            say(f"{count} deliveries by biocloud ingest, run {number + 1} of {runs}")
            with tempfile.TemporaryDirectory() as folder:
                variables = environment(BIOCLOUD_HOME=folder)
                run(biocloud("sample", "--results", str(_RESULTS), "--deliveries", str(count)), variables)
                ingest = run(biocloud("ingest"), variables)
            wall[count].append(ingest.wall)
            cpu[count].append(ingest.cpu)
    further = [(median(found[through_dagster]) - median(found[1])) / (through_dagster - 1) for found in (wall, cpu)]
    result.figures["further_wall"], result.figures["further_cpu"] = further
    result.tables.append(
        Table(
            f"{through_dagster} deliveries of {_RESULTS} results by biocloud ingest, through Dagster",
            ["", "time", "CPU"],
            [
                ["the first one, with the start", seconds(median(wall[1])), seconds(median(cpu[1]))],
                ["each further one", *map(seconds, further)],
                ["the same by the step function", seconds(median(walls)), seconds(median(cpus))],
            ],
        )
    )
    return result


def main(home: str) -> None:
    """Ingest all deliveries of a home by the step function, and print the seconds of each."""
    from biocloud_assets.ingest.context import open_context
    from biocloud_assets.ingest.delivery import discover
    from biocloud_assets.ingest.step import all_checks, ingest_step
    from biocloud_assets.raw.dsi.contract import CONTRACT
    from biocloud_assets.steps import RunInfo, StepRequest

    landing, lake = str(Path(home) / "landing"), str(Path(home) / "lake")
    context = open_context(
        CONTRACT, landing_root=landing, lake_root=lake, engine="sail", s3_endpoint=None, catalog=None
    )
    names, _ = discover(context.landing, CONTRACT)
    _ = context.spark
    walls, cpus = [], []
    for number, name in enumerate(names):
        request = StepRequest(assets=CONTRACT.addresses, checks=all_checks(CONTRACT), delivery=name)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in ingest_step(context, request, RunInfo("script", f"run-{number}", "sail", None)):
            pass
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    print(json.dumps({"wall": walls, "cpu": cpus}))


if __name__ == "__main__":
    main(*sys.argv[1:])
