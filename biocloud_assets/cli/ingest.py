"""`biocloud ingest`: run the ingest job for deliveries, one after the other."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from biocloud_assets.cli.context import source_of
from biocloud_assets.cli.home import databases_kept_open, open_instance, register
from biocloud_assets.cli.interrupt import cancel_databricks_runs, on_interrupt
from biocloud_assets.cli.output import FAILED, err, out, styled
from biocloud_assets.errors import LakeError, SettingsError
from biocloud_assets.ingest import delivery_log
from biocloud_assets.ingest.delivery import DeliveryFiles, discover, list_delivery, parse_name
from biocloud_assets.ingest.discovery import arrival
from biocloud_assets.lake import DataLake
from biocloud_assets.raw import contracts
from biocloud_assets.raw.dsi.contract import CONTRACT as DSI
from biocloud_assets.schema import Contract
from biocloud_assets.settings import Settings
from biocloud_assets.spark.table_reader import DeltaRsReader

if TYPE_CHECKING:
    import dagster as dg


@dataclass
class Outcome:
    """What became of one delivery.

    Attributes:
        delivery: its name.
        state: `ingested`, `arriving`, `refused` or `failed`.
        reason: why it has that state.
        rows: the rows of each table, if it is ingested.
        passed, warned, failed: the number of asset checks.
        messages: what the checks that didn't pass say.
        written: whether this command wrote it.
    """

    delivery: str
    state: str
    reason: str = ""
    rows: dict[str, int] = field(default_factory=dict)
    passed: int = 0
    warned: int = 0
    failed: int = 0
    messages: list[str] = field(default_factory=list)
    written: bool = False

    def as_json(self) -> dict[str, Any]:
        """The outcome for `--json`."""
        return {
            "delivery": self.delivery,
            "state": self.state,
            "reason": self.reason,
            "rows": self.rows,
            "checks": {"passed": self.passed, "warned": self.warned, "failed": self.failed},
            "messages": self.messages,
        }


@dataclass(frozen=True)
class _Pending:
    """A delivery to ingest."""

    contract: Contract
    files: DeliveryFiles


def ingest(names: list[str], *, sample: bool, as_json: bool) -> None:
    """Ingest deliveries, oldest first; one that is refused or fails doesn't stop the others.

    Args:
        names: the deliveries; without any, all that are complete and new.
        sample: land the bundled sample first, and ingest it.
        as_json: print data instead of a table.

    Raises:
        DeliveryNameError: a name isn't the name of a delivery, or there is none of that name.
        LakeError: the landing zone doesn't exist.
        typer.Exit: with code 1, if a delivery was refused or failed.
    """
    for name in names:
        parse_name(name)
    settings = Settings.load()
    landing = DataLake.at(settings.landing, endpoint=settings.s3_endpoint)
    landed: list[str] = []
    if sample:
        from biocloud_assets.sample import land_bundled

        landed = land_bundled(landing)
    _require_landing_root(landing)
    wanted = {name: source_of(settings, name) for name in names} | dict.fromkeys(landed, DSI)
    with on_interrupt(cancel_databricks_runs), on_interrupt(_say_what_was_done):
        outcomes, pending = _plan(settings, landing, wanted, set(landed))
        if pending:
            outcomes += _run_all(settings, pending, quiet=as_json)
    outcomes.sort(key=lambda outcome: outcome.delivery)
    if as_json:
        document = {
            "landing": landing.root,
            "lake": settings.lake,
            "written": sum(outcome.written for outcome in outcomes),
            "deliveries": [outcome.as_json() for outcome in outcomes],
        }
        out.print_json(json.dumps(document))
    else:
        _print_outcomes(settings, landing, outcomes)
    if any(outcome.state in {"refused", "failed"} for outcome in outcomes):
        raise typer.Exit(FAILED)


def _say_what_was_done() -> None:
    err.show_cursor()
    err.print("\nInterrupted. A delivery is in the lake completely or not at all; run the same command to go on.")


def _require_landing_root(landing: DataLake) -> None:
    if not landing.exists():
        raise LakeError(
            landing.root,
            expected="the landing zone, a folder that holds <source>/<delivery>/",
            found="no such folder",
            hint="Set BIOCLOUD_LANDING_ROOT, or try `biocloud ingest --sample`.",
        )


# --- planning ---------------------------------------------------------------------------------------------------------


def _plan(
    settings: Settings, landing: DataLake, wanted: dict[str, Contract], landed: set[str]
) -> tuple[list[Outcome], list[_Pending]]:
    """The outcomes that are known without a run, and the deliveries to run, oldest first."""
    tables = DeltaRsReader(DataLake.at(settings.lake, endpoint=settings.s3_endpoint))
    outcomes: list[Outcome] = []
    pending: list[_Pending] = []
    registered: list[tuple[Contract, str]] = []
    for contract in contracts():
        ingested = delivery_log.ingested(tables, contract)
        if wanted:
            names = sorted(name for name, source in wanted.items() if source == contract)
        else:
            names = [name for name in discover(landing, contract)[0] if name not in ingested]
        listed = {name: list_delivery(landing, contract, name) for name in names}
        _wait_until_quiet(settings, [files for name, files in listed.items() if name not in landed | ingested])
        for name, first in listed.items():
            row = delivery_log.read(tables, contract, name) if name in ingested else None
            if row is not None and (row["source_fingerprint"] == first.fingerprint or not first.all_files):
                if name not in landed:
                    registered.append((contract, name))
                outcomes.append(Outcome(name, "ingested", "already, nothing written", row["rows"]))
                continue
            files = first if name in landed else list_delivery(landing, contract, name)
            state = arrival(files, now=datetime.now(UTC), quiet_seconds=0)
            if files.fingerprint != first.fingerprint:
                outcomes.append(Outcome(name, "arriving", "its files are still changing"))
            elif state.incomplete is not None and name not in wanted:
                outcomes.append(Outcome(name, "arriving", state.incomplete.removeprefix("arriving: ")))
            else:
                pending.append(_Pending(contract, files))
    register(settings, registered)  # a person may have deleted the partition of one
    return outcomes, pending


def _wait_until_quiet(settings: Settings, listed: list[DeliveryFiles]) -> None:
    """Wait until no delivery has changed for the quiet time, at most for that time."""
    now = datetime.now(UTC)
    wait = max((settings.quiet_seconds - max(files.quiet_for(now), 0.0) for files in listed), default=0.0)
    if wait > 0:
        with err.status(f"A delivery has just changed; waiting {wait:.0f} s to see whether it is complete"):
            time.sleep(wait)


# --- running ----------------------------------------------------------------------------------------------------------


def _run_all(settings: Settings, pending: list[_Pending], *, quiet: bool) -> list[Outcome]:
    """Run the job for each delivery.

    Raises:
        SettingsError: the steps are to run by the step launcher, which needs a process that Dagster starts itself.
    """
    if settings.launches == "step_launcher":
        raise SettingsError(
            "BIOCLOUD_LAUNCHER",
            expected="pipes or none, for a run from the command line",
            found="step_launcher",
            hint="Set BIOCLOUD_LAUNCHER, or start the run in Dagster's UI.",
        )
    with _progress_bar(quiet=quiet) as progress:
        task = progress.add_task("Starting", total=None)
        with open_instance(settings) as instance, databases_kept_open(settings):
            from biocloud_assets.cli.runs import close_dead_runs
            from biocloud_assets.definitions import build_definitions

            close_dead_runs(instance)
            definitions = build_definitions(settings)
            outcomes = []
            for one in pending:
                job = definitions.resolve_job_def(f"{one.contract.source}_raw")
                try:
                    outcomes.append(_run_one(settings, instance, job, one, progress, task))
                except Exception as error:  # whatever it is, the other deliveries are ingested
                    outcomes.append(Outcome(one.files.delivery, "failed", f"{type(error).__name__}: {error}"))
            return outcomes


def _run_one(
    settings: Settings,
    instance: dg.DagsterInstance,
    job: dg.JobDefinition,
    one: _Pending,
    progress: Progress,
    task: TaskID,
) -> Outcome:
    import dagster as dg

    from biocloud_assets.cli.runs import create_run, execute
    from biocloud_assets.ingest.step import all_checks
    from biocloud_assets.launch.launcher import FINGERPRINT_TAG, PARTITION_TAG

    contract, delivery = one.contract, one.files.delivery
    instance.add_dynamic_partitions(f"{contract.source}_delivery", [delivery])
    run = create_run(instance, job, {PARTITION_TAG: delivery, FINGERPRINT_TAG: one.files.fingerprint})

    def cancel() -> None:
        present = instance.get_run_by_id(run.run_id)
        if present is not None and not present.is_finished:
            instance.report_run_canceled(present, message="Interrupted on the command line.")

    outcome = Outcome(delivery, "failed")
    total = len(contract.addresses) + len(all_checks(contract))
    progress.reset(task, total=total, description=delivery)
    with on_interrupt(cancel):
        for event in execute(instance, job, run):
            if event.event_type is dg.DagsterEventType.STEP_RESTARTED:
                outcome = Outcome(delivery, "failed")
            elif event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
                _count(outcome, event.asset_check_evaluation_data)
                progress.advance(task)
            elif event.event_type is dg.DagsterEventType.ASSET_MATERIALIZATION and event.asset_key is not None:
                progress.update(task, advance=1, description=f"{delivery} [dim]{event.asset_key.path[-1]}[/]")
            elif event.event_type is dg.DagsterEventType.STEP_FAILURE:
                outcome.reason = _failure_message(event.step_failure_data)
    return _conclude(settings, instance, contract, run.run_id, outcome)


def _conclude(
    settings: Settings, instance: dg.DagsterInstance, contract: Contract, run_id: str, outcome: Outcome
) -> Outcome:
    import dagster as dg

    from biocloud_assets.launch.launcher import OUTCOME_TAG, REASON_TAG, REFUSED

    run = instance.get_run_by_id(run_id)
    if run is not None and run.status is dg.DagsterRunStatus.SUCCESS:
        tables = DeltaRsReader(DataLake.at(settings.lake, endpoint=settings.s3_endpoint))
        row = delivery_log.read(tables, contract, outcome.delivery)
        outcome.state, outcome.rows, outcome.written = "ingested", row["rows"] if row else {}, True
    elif run is not None and run.tags.get(OUTCOME_TAG) == REFUSED:
        outcome.state, outcome.reason = "refused", f"{run.tags[REASON_TAG].partition(':')[0]}, nothing written"
    else:
        outcome.reason = outcome.reason or "the run failed; see the UI"
    return outcome


def _count(outcome: Outcome, evaluation: dg.AssetCheckEvaluation) -> None:
    import dagster as dg

    if evaluation.passed:
        outcome.passed += 1
        return
    if evaluation.severity is dg.AssetCheckSeverity.WARN:
        outcome.warned += 1
    else:
        outcome.failed += 1
    outcome.messages += (evaluation.description or evaluation.check_name).splitlines()


def _failure_message(data: Any) -> str:
    """The message of the error that made a step fail, without those that Dagster adds around it."""
    if data.user_failure_data is not None:
        return str(data.user_failure_data.description)
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return str(error.message).strip() if error is not None else ""


@contextmanager
def _progress_bar(*, quiet: bool) -> Iterator[Progress]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=err, transient=False, disable=quiet) as progress:
        yield progress


# --- printing ---------------------------------------------------------------------------------------------------------


def _print_outcomes(settings: Settings, landing: DataLake, outcomes: list[Outcome]) -> None:
    lake = DataLake.at(settings.lake, endpoint=settings.s3_endpoint)
    if not outcomes:
        places = ", ".join(landing.uri(contract.source) for contract in contracts())
        out.print(f"Nothing to ingest: no new complete delivery below {places}.", soft_wrap=True)
        for contract in contracts():
            for other in discover(landing, contract)[1]:
                out.print(f"[yellow]not a delivery:[/] {escape(other)} (a name is yyyy-mm-dd-HH:MM:SS)")
        return
    for contract in contracts():
        _print_rows(contract, outcomes)
    for outcome in outcomes:
        reason = f": {escape(outcome.reason)}" if outcome.reason else ""
        out.print(f"{outcome.delivery} {styled(outcome.state)}{reason}", soft_wrap=True)
        for message in outcome.messages:
            out.print(f"  - {escape(message)}", soft_wrap=True)
    if all(outcome.state == "ingested" and not outcome.written for outcome in outcomes):
        out.print("\nAll deliveries are in the lake already: [bold]nothing was written[/].")
    out.print(f"\nThe lake     {lake.uri('raw')}", soft_wrap=True)
    out.print("Open the UI  uv run biocloud dev")
    if any(outcome.state == "ingested" for outcome in outcomes):
        example = lake.uri(DSI.address(DSI.table("sensor_deployment")))
        # Not `DeltaTable.to_pandas`: one process in eight aborts as it ends (delta-io/delta-rs#2184).
        rows = f"d.QueryBuilder().register('t', d.DeltaTable('{example}')).execute('select * from t')"
        read = f"import deltalake as d, pyarrow as pa; print(pa.table({rows}).to_pandas())"
        out.print(f'Read a table uv run python -c "{escape(read)}"', soft_wrap=True)


def _print_rows(contract: Contract, outcomes: list[Outcome]) -> None:
    """The rows of each table and the checks, one column for each delivery; several tables if the screen is narrow."""
    tables = {table.name for table in contract.tables}
    shown = [outcome for outcome in outcomes if outcome.rows and set(outcome.rows) == tables]
    per_table = max(1, (out.width - 36) // 13)
    for start in range(0, len(shown), per_table):
        part = shown[start : start + per_table]
        table = Table("Rows", box=None, pad_edge=False, header_style="bold")
        for outcome in part:
            date, _, time_ = outcome.delivery.rpartition("-")
            table.add_column(f"{date}\n{time_}", justify="right", no_wrap=True)
        for spec in contract.tables:
            table.add_row(spec.name, *(f"{outcome.rows.get(spec.name, 0):,}" for outcome in part))
        if any(outcome.written for outcome in part):
            table.add_section()
            for name, style in (("passed", "green"), ("warned", "yellow"), ("failed", "red")):
                counts = [getattr(outcome, name) for outcome in part]
                table.add_row(f"checks {name}", *(f"[{style}]{count}[/]" if count else "0" for count in counts))
        out.print(table)
        out.print()
