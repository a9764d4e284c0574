"""A step as plain data: what is asked for, and the results that it yields.

A request and its results can cross a process border: a request as the arguments of `databricks/run_step.py`, a result
as a message of Dagster Pipes. A metadata value has the form in which Dagster Pipes sends one, `{"type": …,
"raw_value": …}` (`PipesMetadataValue` in the package dagster-pipes), so that results are the same in Dagster's process
and on a cluster without Dagster.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

STEP_SCRIPT = "databricks/run_step.py"
"""The path in the repository of the script that runs a step on a cluster."""

Value = Mapping[str, Any]
"""A metadata value."""


@dataclass(frozen=True)
class StepRequest:
    """What a step is asked to do.

    Attributes:
        assets: the addresses of the assets to materialise, `raw/dsi/sensor`.
        checks: the asset checks to run, `raw/dsi/sensor:key`.
        delivery: the delivery, `yyyy-mm-dd-HH:MM:SS`.
        run_date: the day, `yyyy-mm-dd`.
        retention_days: for the cleanup of the curated layer: how many days before the run date are kept; for the
            maintenance: for how many days replaced files are kept.
        maintain: maintain all tables of the lake instead: merge small files, delete replaced ones and old log files.
        dry_run: do everything but write and delete, where a step supports that.
    """

    assets: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    delivery: str | None = None
    run_date: str | None = None
    retention_days: int | None = None
    maintain: bool = False
    dry_run: bool = False

    def arguments(self) -> list[str]:
        """The request as arguments of the script `databricks/run_step.py`."""
        arguments = [argument for address in self.assets for argument in ("--asset", address)]
        arguments += [argument for name in self.checks for argument in ("--check", name)]
        for name, value in (
            ("--delivery", self.delivery),
            ("--run-date", self.run_date),
            ("--retention-days", self.retention_days),
        ):
            arguments += [] if value is None else [name, str(value)]
        arguments += ["--maintain"] if self.maintain else []
        return [*arguments, "--dry-run"] if self.dry_run else arguments


@dataclass(frozen=True)
class RunInfo:
    """The run that a step belongs to; the delivery log records it.

    Attributes:
        orchestrator: what started the run: `dagster`, `airflow`, `script`.
        run_id: the orchestrator's identifier of the run.
        engine: what runs the Spark code: `sail`, `jvm`, `databricks`.
        commit: the Git commit of the code, where it is known.
    """

    orchestrator: str
    run_id: str
    engine: str
    commit: str | None = None


@dataclass(frozen=True)
class Materialization:
    """An asset that a step has written or inspected.

    Attributes:
        asset: its address, `raw/dsi/sensor`.
        metadata: facts about its present state.
    """

    asset: str
    metadata: Mapping[str, Value]


@dataclass(frozen=True)
class CheckResult:
    """The result of one asset check.

    Attributes:
        asset: the address of the asset that was checked, `raw/dsi/sensor`.
        name: the check's name.
        passed: whether everything is as expected.
        blocking: whether the step fails if the check does.
        description: what was expected and what was found.
        metadata: further facts.
    """

    asset: str
    name: str
    passed: bool
    blocking: bool
    description: str = ""
    metadata: Mapping[str, Value] = field(default_factory=dict)

    @property
    def log_level(self) -> int:
        """The level at which a log reports the result."""
        return logging.INFO if self.passed else logging.ERROR if self.blocking else logging.WARNING


@dataclass(frozen=True)
class Observation:
    """Facts about an asset that a step has seen without materialising it.

    Attributes:
        asset: its address.
        partition: the partition that was seen; None for the whole asset.
        metadata: the facts.
    """

    asset: str
    partition: str | None
    metadata: Mapping[str, Value]


StepResult = Materialization | CheckResult | Observation
"""What a step yields, as soon as it is known."""

_RESULTS: dict[str, type[Materialization] | type[CheckResult] | type[Observation]] = {
    "materialization": Materialization,
    "check_result": CheckResult,
    "observation": Observation,
}


def to_message(result: StepResult) -> dict[str, Any]:
    """A result as a message of Dagster Pipes. (Pipes' own messages for assets and checks have no description.)

    Args:
        result: the result.

    Returns:
        an object that JSON can hold: its one key is `materialization`, `check_result` or `observation`.
    """
    kind = next(name for name, class_ in _RESULTS.items() if isinstance(result, class_))
    return {kind: asdict(result)}


def from_message(message: Mapping[str, Any]) -> StepResult | None:
    """The result that a message of Dagster Pipes holds; None if it holds something else.

    Args:
        message: as `to_message` returns it.
    """
    for name, class_ in _RESULTS.items():
        if name in message:
            return class_(**message[name])
    return None


def log_results(results: Iterator[StepResult], log: logging.Logger) -> Iterator[StepResult]:
    """Pass results on, and write a line about each into a log.

    Args:
        results: the results of a step.
        log: the log; a failed blocking check is an error in it, another failed check a warning.

    Yields:
        the same results.
    """
    for result in results:
        if isinstance(result, CheckResult):
            outcome = "passed" if result.passed else "failed"
            log.log(result.log_level, "%s, check %s: %s. %s", result.asset, result.name, outcome, result.description)
        else:
            numbers = [
                f"{name} {value['raw_value']}"
                for name, value in result.metadata.items()
                if value["type"] in {"int", "bool"}
            ]
            log.info("%s: %s", result.asset, ", ".join(numbers))
        yield result


def integer(value: int) -> Value:
    """A whole number; the UI plots it."""
    return {"type": "int", "raw_value": value}


def boolean(value: bool) -> Value:
    """True or false."""
    return {"type": "bool", "raw_value": value}


def text(value: str) -> Value:
    """A text."""
    return {"type": "text", "raw_value": value}


def markdown(value: str) -> Value:
    """A text in Markdown."""
    return {"type": "md", "raw_value": value}


def column_schema(columns: Sequence[tuple[str, str]]) -> Value:
    """The columns of a table.

    Args:
        columns: their names and types, in order.
    """
    return {"type": "table_schema", "raw_value": {"columns": [_column(*column) for column in columns]}}


def column_lineage(sources: Mapping[str, Sequence[tuple[str, str]]]) -> Value:
    """The columns from which each column of a table is made.

    Args:
        sources: for each column, pairs of an asset's address and one of its columns.
    """
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
    """A small table.

    Args:
        columns: their names and types (`string`, `int`).
        rows: its rows, by column.
    """
    return {
        "type": "table",
        "raw_value": {"records": [dict(row) for row in rows], "schema": [_column(*column) for column in columns]},
    }


def _column(name: str, type_: str) -> dict[str, str]:
    return {"name": name, "type": type_}
