"""The command: `uv run --group bench python -m benchmarks [name] [options]`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable

from benchmarks import document
from benchmarks.measure import ROOT, Say
from benchmarks.results import Result, Table, load, save

RESULTS = ROOT / "benchmarks" / "results.json"


def benchmarks(options: argparse.Namespace, say: Say) -> dict[str, Callable[[], Result]]:
    """Every benchmark, with its default sizes where the options don't say otherwise. All together take 14 minutes."""
    from benchmarks import airflow_parse, corpus, curated, deliveries, discovery, group_sync, start, unnest

    def unnest_() -> Result:
        chosen = {one for one in (options.contenders or "").split(",") if one}
        if unknown := chosen - {one.key for one in unnest.CONTENDERS}:
            raise SystemExit(f"--contenders: expected {', '.join(c.key for c in unnest.CONTENDERS)}; found {unknown}")
        rounds: tuple[unnest.Round, ...] = unnest.ROUNDS
        if options.results:
            places = ["local", "s3"] if options.where == "both" else [options.where]
            everyone = tuple(one.key for one in unnest.CONTENDERS)
            rounds = tuple(
                unnest.Round(size, where, options.runs or 3, everyone) for size in options.results for where in places
            )
        return unnest.measure(
            rounds=[
                unnest.Round(
                    one.results,
                    one.where,
                    options.runs or one.runs,
                    tuple(chosen & set(one.contenders)) if chosen else one.contenders,
                )
                for one in rounds
                if options.where in {"both", one.where}
            ],
            say=say,
        )

    return {
        "unnest": unnest_,
        "deliveries": lambda: deliveries.measure(
            deliveries=options.count or 200, through_dagster=5, runs=options.runs or 2, say=say
        ),
        "start": lambda: start.measure(runs=options.runs or 3, say=say),
        "discovery": lambda: discovery.measure(deliveries=options.count or 10_000, say=say),
        "airflow_parse": lambda: airflow_parse.measure(rounds=options.count or 20, say=say),
        "group_sync": lambda: group_sync.measure(latency=0.0, say=say),
        "curated": lambda: curated.measure(files=options.count or 100_000, say=say),
        "corpus": lambda: corpus.measure(files=options.count or 500, folders=options.folder, say=say),
    }


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options."""
    names = list(document.TITLES)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure this project beside its peers. Without a name everything runs, and docs/benchmarks.md is "
        "written; the benchmark of a name prints its tables.",
    )
    parser.add_argument("name", nargs="?", choices=names, help="one benchmark")
    parser.add_argument("--runs", type=int, help="how often each contender runs; medians are shown")
    parser.add_argument("--results", type=int, action="append", help="unnest: results of a delivery; may be repeated")
    parser.add_argument("--contenders", help="unnest: biocloud,sail,duckdb_checked,…; all by default")
    parser.add_argument("--where", choices=["local", "s3", "both"], default="both", help="unnest: the storage")
    parser.add_argument("--count", type=int, help="deliveries, files or rounds of the others")
    parser.add_argument("--folder", type=Path, action="append", default=[], help="corpus: a folder with Parquet files")
    parser.add_argument("--write", action="store_true", help="renew the part of the document of that benchmark")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="the folder of the document")
    parser.add_argument("--stored", type=Path, default=RESULTS, help="the file with the results of the document")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run; the exit code is 1 if a benchmark failed."""
    options = parse(arguments)
    out, err = Console(), Console(stderr=True)
    out.width = max(out.width, 150)  # a table of text in a file or pipe isn't folded
    began = time.perf_counter()

    def say(what: str) -> None:
        err.print(f"[dim]{time.perf_counter() - began:6.0f} s[/]  {what}", highlight=False)

    results, failed = load(options.stored), []
    machine = document.machine()
    for name, measure in benchmarks(options, say).items():
        if options.name not in {None, name}:
            continue
        start = time.perf_counter()
        try:
            found = measure()
        except Exception as error:  # the others run all the same
            err.print(f"{name} failed: {type(error).__name__}: {error}", style="red", markup=False)
            failed.append(name)
            continue
        seconds = time.perf_counter() - start
        results[name] = Result(
            **{**vars(found), "date": f"{datetime.now(UTC):%Y-%m-%d}", "seconds": seconds, "machine": machine}
        )
        for table in found.tables:
            out.print(_rich(table))
        for problem in found.errors:
            err.print(f"{name}: {problem}", style="red", markup=False)
            failed.append(name)
        for note in found.notes:
            out.print(f"- {note}", markup=False, highlight=False)
    shown = {name: results[name] for name in results if options.name in {None, name}}
    goals = document.goal_table(shown)
    out.print(_rich(Table(goals.title, goals.columns[:4], [row[:4] for row in goals.rows if row[3] != "not measured"])))
    if options.name is None or options.write:
        save(options.stored, results)
        say(f"written: {document.render(results, options.docs)}")
    return int(bool(failed))


def _rich(table: Table) -> RichTable:
    shown = RichTable(title=table.title, title_justify="left", box=None, pad_edge=False)
    for index, name in enumerate(table.columns):
        shown.add_column(name, justify="right" if index and table.title != "Goals" else "left")
    for row in table.rows:
        shown.add_row(*(cell.replace("[", "\\[") for cell in row))
    return shown


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
