"""What a benchmark returns: tables, figures for the goals, plots and notes. It is stored as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Table:
    """A table of texts; the first column is a name, the others are numbers."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        name: of the image, `benchmarks-<name>.svg`.
        title: what it shows, with the unit.
        bars: a value for each name, for a bar chart.
        line: pairs of numbers, for a line.
        axis: what the first numbers of the line are.
    """

    name: str
    title: str
    bars: dict[str, float] = field(default_factory=dict)
    line: list[tuple[float, float]] = field(default_factory=list)
    axis: str = ""


@dataclass(frozen=True)
class Result:
    """What a benchmark found.

    Attributes:
        benchmark: its name.
        date: the day on which it ran.
        seconds: how long it took.
        machine: what it ran on.
        tables, plots, notes: what the document shows.
        figures: numbers by name, which goals refer to.
        errors: what could not be measured, and why.
    """

    benchmark: str
    date: str = ""
    seconds: float = 0.0
    machine: str = ""
    tables: list[Table] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    plots: list[Plot] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def load(path: Path) -> dict[str, Result]:
    """The stored results, by benchmark."""
    if not path.exists():
        return {}
    return {name: _result(found) for name, found in json.loads(path.read_text(encoding="utf-8")).items()}


def _result(found: dict) -> Result:
    return Result(
        **{
            **found,
            "tables": [Table(**table) for table in found["tables"]],
            "plots": [Plot(**plot) for plot in found["plots"]],
        }
    )


def save(path: Path, results: dict[str, Result]) -> None:
    """Store the results."""
    document = {name: asdict(result) for name, result in sorted(results.items())}
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
