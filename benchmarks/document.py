"""The document: docs/benchmarks.md with its plots, from the stored results."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from benchmarks.goals import GOALS
from benchmarks.results import Plot, Result, Table

_PACKAGES = ("pysail", "pyspark", "dagster", "deltalake", "pyarrow", "duckdb", "polars", "dlt")
_TEXT, _OURS, _OTHERS = "#808080", "#2a9d6f", "#7b8fb2"
"""Colours that can be read on light and on dark paper."""

TITLES = {
    "unnest": "Un-nest and write",
    "deliveries": "Small deliveries",
    "start": "Start",
    "discovery": "Discovery",
    "airflow_parse": "DAG parse",
    "group_sync": "Group sync",
    "curated": "Manifest and cleanup",
    "corpus": "Damaged files",
}


def machine() -> str:
    """The machine and the versions, in a sentence."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    versions = []
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{os.cpu_count()} cores of {model}, {memory:.0f} GB of memory, {platform.system()}, "
        f"Python {platform.python_version()}, {', '.join(versions)}"
    )


def render(results: Mapping[str, Result], folder: Path) -> Path:
    """Write the document and its plots.

    Args:
        results: by benchmark.
        folder: that of the documents.
    """
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    for old in images.glob("benchmarks-*.svg"):
        old.unlink()
    lines = [
        "# Benchmarks",
        "",
        "`uv run --group bench python -m benchmarks` measures everything, a quarter of an hour on 2 cores, and writes",
        "this page. `uv run --group bench python -m benchmarks unnest --results 200000 --runs 3` measures one thing;",
        "with `--write` it renews its part of the page. What is compared runs in turns on the same machine, each",
        "contender as a process of its own; figures are medians. Ratios come first: they hold on other machines, and",
        "times don't.",
        "",
        "## Goals",
        "",
        *_markdown(goal_table(results)),
    ]
    for name, title in TITLES.items():
        if name not in results:
            continue
        result = results[name]
        lines += ["", f"## {title}", ""]
        for plot in result.plots:
            draw(plot, images / f"benchmarks-{plot.name}.svg")
        for table in result.tables:
            lines += [f"### {table.title}", "", *_markdown(table), ""]
            for plot in result.plots:
                if plot.title.startswith(table.title):
                    lines += [f"![{plot.title}](images/benchmarks-{plot.name}.svg)", ""]
        lines += [f"- {note}" for note in result.notes]
        lines += [f"- **Not measured**: {error.splitlines()[0]}" for error in result.errors]
        if result.notes or result.errors:
            lines.append("")
        lines.append(f"Measured on {result.date} in {result.seconds:.0f} s.")
    lines += ["", "## Machine", "", *_machines(results)]
    path = folder / "benchmarks.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _machines(results: Mapping[str, Result]) -> list[str]:
    """The machines, and what was measured on each if there are several."""
    machines: dict[str, list[str]] = {}
    for name, title in TITLES.items():
        if name in results:
            machines.setdefault(results[name].machine, []).append(title)
    if len(machines) == 1:
        return [f"{one}." for one in machines]
    return [f"- {', '.join(titles)}: {one}." for one, titles in machines.items()]


def goal_table(results: Mapping[str, Result]) -> Table:
    """Each goal with what was measured."""
    rows = []
    for goal in GOALS:
        figures = results[goal.benchmark].figures if goal.benchmark in results else {}
        value = figures.get(goal.figure)
        met = "not measured" if value is None else "met" if value <= goal.at_most else "**not met**"
        measured = "" if value is None else goal.shown(value)
        rows.append([goal.text, goal.shown(goal.at_most), measured, met, goal.reason if "not met" in met else ""])
    return Table("Goals", ["goal", "at most", "measured", "", "reason"], rows)


def _markdown(table: Table) -> list[str]:
    widths = [len(name) for name in table.columns]
    rules = ["---", *("---:" if any(c and c[0].isdigit() for c in column) else "---" for column in _columns(table))]
    return [
        "| " + " | ".join(table.columns) + " |",
        "| " + " | ".join(rules[: len(widths)]) + " |",
        *("| " + " | ".join(row) + " |" for row in table.rows),
    ]


def _columns(table: Table) -> list[Sequence[str]]:
    return [[row[index] for row in table.rows] for index in range(1, len(table.columns))]


def draw(plot: Plot, path: Path) -> None:
    """Draw a plot as an image without background."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "biocloud"  # the same plot gives the same file
    from matplotlib import pyplot

    height = 0.4 * len(plot.bars) + 1 if plot.bars else 3
    figure, axes = pyplot.subplots(figsize=(8, height))
    if plot.bars:
        names = sorted(plot.bars, key=lambda name: -plot.bars[name])
        colours = [_OURS if "biocloud" in name or name.startswith("its ") else _OTHERS for name in names]
        bars = axes.barh(names, [plot.bars[name] for name in names], color=colours)
        axes.bar_label(bars, fmt="{:,.3g}", padding=4, color=_TEXT)
        axes.set_xlim(0, 1.12 * max(plot.bars.values()))
    else:
        axes.plot([x for x, _ in plot.line], [y for _, y in plot.line], color=_OURS, linewidth=1)
        axes.set_xlabel(plot.axis, color=_TEXT)
        axes.set_ylim(0)
    axes.set_title(plot.title, color=_TEXT, fontsize=11, loc="left")
    axes.tick_params(colors=_TEXT)
    for side, spine in axes.spines.items():
        spine.set_visible(side in {"left", "bottom"})
        spine.set_color(_TEXT)
    figure.savefig(path, transparent=True, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
