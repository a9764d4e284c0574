"""What a step reports, whoever ran it.

What belongs here: the words in which a step of any room tells what it made and what its checks found. What doesn't: the
steps (`raw.dsi.steps`, `curated.dsi.steps`), and how they are shown (Dagster: `launch.report`; a cluster: `run_step`).

A metadata value has the form in which Dagster Pipes sends one, `{"type": …, "raw_value": …}` (`PipesMetadataValue` in
the package dagster-pipes), so that a report is the same whether the step ran in Dagster's process or on a cluster that
has no Dagster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Value = Mapping[str, Any]


@dataclass(frozen=True)
class CheckReport:
    """What one check found.

    Attributes:
        asset: the address of the asset that was checked, `raw/dsi/sensor`.
        name: the check's name.
        passed: whether all is as expected.
        blocking: whether nothing that depends on the asset may go on if it is not.
        description: what was expected and what was found.
        metadata: values to look at.
    """

    asset: str
    name: str
    passed: bool
    blocking: bool
    description: str = ""
    metadata: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What one step made.

    Attributes:
        asset: the address of the asset that was made, `raw/dsi/sensor`.
        metadata: what is there now.
        checks: what the checks found that the step makes itself.
    """

    asset: str
    metadata: Mapping[str, Value]
    checks: tuple[CheckReport, ...] = ()


@dataclass(frozen=True)
class Sighting:
    """What a step saw of an asset without making it.

    Attributes:
        asset: its address.
        partition: the partition that it is about.
        metadata: what was seen.
    """

    asset: str
    partition: str
    metadata: Mapping[str, Value]


@dataclass(frozen=True)
class Run:
    """Who asked for a step.

    Attributes:
        engine: what runs the Spark code: `sail`, `jvm`, `databricks`.
        orchestrator: who asked: `dagster`, `airflow`, …
        id: the orchestrator's identifier of the run.
    """

    engine: str
    orchestrator: str
    id: str


def integer(value: int) -> Value:
    """A whole number; the UI plots it."""
    return {"type": "int", "raw_value": value}


def boolean(value: bool) -> Value:
    """Yes or no."""
    return {"type": "bool", "raw_value": value}


def text(value: str) -> Value:
    """A text."""
    return {"type": "text", "raw_value": value}


def markdown(value: str) -> Value:
    """A text in Markdown."""
    return {"type": "md", "raw_value": value}


def column_schema(columns: Sequence[tuple[str, str]]) -> Value:
    """The columns of a table, with their types."""
    return {"type": "table_schema", "raw_value": {"columns": [_column(*column) for column in columns]}}


def column_lineage(sources: Mapping[str, Sequence[tuple[str, str]]]) -> Value:
    """Where the columns of a table come from: by column, the addresses of assets and their columns."""
    return {
        "type": "table_column_lineage",
        "raw_value": {
            "deps_by_column": {
                column: [{"asset_key": asset, "column_name": name} for asset, name in found]
                for column, found in sources.items()
            }
        },
    }


def table(columns: Sequence[tuple[str, str]], rows: Sequence[Mapping[str, str | int | None]]) -> Value:
    """A small table to look at.

    Args:
        columns: their names and types (`string`, `int`).
        rows: what stands in them.
    """
    return {
        "type": "table",
        "raw_value": {"records": [dict(row) for row in rows], "schema": [_column(*column) for column in columns]},
    }


def _column(name: str, type_: str) -> dict[str, str]:
    return {"name": name, "type": type_}
