"""The `biocloud` command: arguments in, a call, a table or a progress bar out.

What belongs here: what people see and type. What doesn't: any decision about data. It goes through Dagster, with the
same assets, checks and instance as the UI, so that the UI shows what it did.

Exit codes: 0 all well, 1 a delivery was refused or failed (the others are done), 2 wrong use.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from biocloud_assets import cli_curated
from biocloud_assets.airflow.cli import app as airflow
from biocloud_assets.errors import BiocloudError, DeliveryNameError, RunDateError, SettingsError
from biocloud_assets.home import open_instance, prepare_home
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi import delivery as deliveries_
from biocloud_assets.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

    from biocloud_assets.raw.dsi.ingest import Place

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Bring DSI deliveries into Delta tables.\n\n"
    "Try [bold]biocloud ingest --sample[/bold], then [bold]biocloud dev[/bold] to look at it.",
)
app.add_typer(cli_curated.app, name="curated")
app.add_typer(airflow, name="airflow")
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

_INTERRUPTED = 130  # as shells have it: 128 and the number of SIGINT

_STATE_STYLE = {"ingested": "green", "complete": "cyan", "arriving": "yellow", "refused": "red", "failed": "red"}


@dataclass
class Outcome:
    """What became of one delivery."""

    delivery: str
    state: str
    reason: str = ""
    rows: dict[str, int] = field(default_factory=dict)
    passed: int = 0
    warned: int = 0
    failed: int = 0
    faults: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "delivery": self.delivery,
            "state": self.state,
            "reason": self.reason,
            "rows": self.rows,
            "checks": {"passed": self.passed, "warned": self.warned, "failed": self.failed},
            "faults": self.faults,
        }


@app.command(
    epilog="[bold]Examples[/bold]\n\n"
    "biocloud ingest --sample                  the bundled sample, into .biocloud/lake\n\n"
    "biocloud ingest                           every complete delivery that isn't in the lake\n\n"
    "biocloud ingest 2026-01-31-06:00:00       this one; again if its files have changed\n\n"
    "BIOCLOUD_LANDING_ROOT=s3://in BIOCLOUD_LAKE_ROOT=s3://lake biocloud ingest --json"
)
def ingest(
    delivery: Annotated[
        list[str] | None, typer.Argument(help="Deliveries by name; without any, all that are complete and new.")
    ] = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="Land the bundled sample deliveries, and ingest them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print data instead of a table.")] = False,
) -> None:
    """Bring deliveries into the lake: inspect, un-nest, write, check, log."""
    settings = Settings.load()
    landing, lake = _lakes(settings)
    names = list(delivery or ())
    for name in names:
        deliveries_.parse_name(name)
    if sample:
        from biocloud_assets.sample import land_bundled

        names += land_bundled(landing)
    done, todo = _plan(settings, landing, lake, names, landed=set(names) if sample else set())
    try:
        if todo:
            done += _run_all(settings, todo, quiet=as_json)
    finally:
        done.sort(key=lambda outcome: outcome.delivery)
    if as_json:
        document = {
            "landing": landing.root,
            "lake": lake.root,
            "written": len(todo),
            "deliveries": [outcome.as_json() for outcome in done],
        }
        out.print_json(json.dumps(document))
    else:
        _show_outcomes(settings, done, bool(todo))
    if any(outcome.state in {"refused", "failed"} for outcome in done):
        raise typer.Exit(1)


@app.command(
    epilog="[bold]Example[/bold]\n\nbiocloud deliveries --json | jq '.[] | select(.state == \"refused\")'",
)
def deliveries(as_json: Annotated[bool, typer.Option("--json", help="Print data instead of a table.")] = False) -> None:
    """List the deliveries, each with its state: arriving, complete, ingested, or refused and why."""
    settings = Settings.load()
    landing, lake = _lakes(settings)
    from biocloud_assets.raw.dsi import log

    names, others = deliveries_.discover(landing)
    ingested = log.ingested(lake)
    outcomes = []
    for name in sorted({*names, *ingested}):
        if name in ingested:
            reason = "" if name in names else "no longer in the landing zone"
            outcomes.append(Outcome(name, "ingested", reason))
        else:
            outcomes.append(_state(settings, deliveries_.look(landing, name)))
    if as_json:
        out.print_json(json.dumps([{"delivery": o.delivery, "state": o.state, "reason": o.reason} for o in outcomes]))
        return
    table = Table("Delivery", "State", "Why", box=None, pad_edge=False)
    for outcome in outcomes:
        style = _STATE_STYLE[outcome.state]
        table.add_row(outcome.delivery, f"[{style}]{outcome.state}[/]", escape(outcome.reason))
    out.print(table if outcomes else f"No deliveries below {landing.uri(deliveries_.ROOT)}.")
    for other in others:
        out.print(f"[yellow]not a delivery:[/] {escape(other)} (a name is yyyy-mm-dd-HH:MM:SS)")


@app.command(epilog="[bold]Example[/bold]\n\nbiocloud verify 2020-07-10-06:00:00")
def verify(delivery: Annotated[list[str], typer.Argument(help="Deliveries by name.")]) -> None:
    """Re-nest a delivery from the lake and compare it with its source, record by record."""
    settings = Settings.load()
    for name in delivery:
        deliveries_.parse_name(name)
    from biocloud_assets.raw.dsi import log
    from biocloud_assets.raw.dsi.verify import verify as compare

    ingested = log.ingested(_lakes(settings)[1])
    equal = True
    for name in delivery:
        if name not in ingested:
            raise BiocloudError(
                f"delivery {name}",
                expected="an ingested delivery",
                found="none of that name in the delivery log",
                hint=f"`biocloud ingest {name}` ingests it.",
            )
        table = Table("Folder", "Records", "Missing", "Added", "Differing", "", box=None, pad_edge=False, title=name)
        for column in table.columns[1:5]:
            column.justify = "right"
        for comparison in compare(_place(settings), name):
            equal = equal and comparison.equal and not comparison.examples
            table.add_row(
                comparison.folder,
                f"{comparison.records:,}",
                f"{comparison.missing:,}",
                f"{comparison.added:,}",
                f"{comparison.differing:,}",
                "[green]equal[/]" if comparison.equal and not comparison.examples else "[red]not equal[/]",
            )
            for example in comparison.examples:
                table.add_row("", "", "", "", "", escape(example))
        out.print(table)
    if not equal:
        raise typer.Exit(1)


@app.command(
    epilog="[bold]Example[/bold]\n\nbiocloud sample --results 200000 --seed 1 && biocloud ingest",
)
def sample(
    results: Annotated[int, typer.Option(min=0, help="Results in each delivery.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    deliveries: Annotated[int, typer.Option(min=1, help="How many deliveries.")] = 1,
) -> None:
    """Write synthetic deliveries into the landing zone, with all the shapes that hurt."""
    settings = Settings.load()
    from biocloud_assets.sample import synthetic

    landing, _ = _lakes(settings)
    with _bar() as progress:
        task = progress.add_task("Writing results", total=results * deliveries)
        names = synthetic.write(
            landing,
            results=results,
            seed=seed,
            deliveries=deliveries,
            on_progress=lambda count: progress.advance(task, count),
        )
    for name in names:
        out.print(f"{landing.uri(deliveries_.path(name))}")
    out.print(f"Ingest with [bold]uv run biocloud ingest {' '.join(names[:3])}[/]")


@app.command(epilog="[bold]Example[/bold]\n\nbiocloud dev --port 3001")
def dev(port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the UI.")] = 3000) -> None:
    """Open Dagster's UI at http://127.0.0.1:3000, with a home that lasts. Ctrl-C ends it."""
    settings = Settings.load()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise BiocloudError(
                f"port {port}", expected="a free port", found=error.strerror or "", hint="Give another with --port."
            ) from error
    prepare_home(settings)
    arguments = ["dagster", "dev", "-m", "biocloud_assets.definitions", "-h", "127.0.0.1", "-p", str(port)]
    os.execv(sys.executable, [sys.executable, "-m", *arguments])


# --- planning ---------------------------------------------------------------------------------------------------------


def _lakes(settings: Settings) -> tuple[DataLake, DataLake]:
    return (
        DataLake.at(settings.landing, endpoint=settings.s3_endpoint),
        DataLake.at(settings.lake, endpoint=settings.s3_endpoint),
    )


def _place(settings: Settings) -> Place:
    from biocloud_assets.raw.dsi.ingest import Place
    from biocloud_assets.spark.session import get_session

    return Place(get_session(settings.engine, s3_endpoint=settings.s3_endpoint), *_lakes(settings))


def _plan(
    settings: Settings, landing: DataLake, lake: DataLake, names: list[str], landed: set[str]
) -> tuple[list[Outcome], list[deliveries_.Contents]]:
    """What is to be done: the outcomes that are known already, and the deliveries to run, oldest first."""
    from biocloud_assets.raw.dsi import log

    ingested = log.ingested(lake)
    done: list[Outcome] = []
    todo: list[deliveries_.Contents] = []
    # Deliveries in the log aren't looked into, unless they are asked for by name.
    wanted = (
        sorted(set(names)) if names else [name for name in deliveries_.discover(landing)[0] if name not in ingested]
    )
    looks = {name: deliveries_.look(landing, name) for name in wanted}
    _wait_until_quiet(settings, [look for name, look in looks.items() if name not in landed | ingested])
    for name, first in looks.items():
        row = log.read(lake, name) if name in ingested else None
        if row is not None and (row["source_fingerprint"] == first.fingerprint or not first.all_files):
            done.append(Outcome(name, "ingested", "already, nothing written", row["rows"]))
            continue
        contents = first if name in landed else deliveries_.look(landing, name)
        if contents.fingerprint != first.fingerprint:
            done.append(Outcome(name, "arriving", "its files are still changing"))
        elif contents.missing and name not in names:
            done.append(Outcome(name, "arriving", f"still to come: {', '.join(contents.missing)}"))
        else:
            todo.append(contents)
    return done, todo


def _wait_until_quiet(settings: Settings, looks: list[deliveries_.Contents]) -> None:
    """Wait, if a delivery changed a moment ago, until it would have been quiet for long enough."""
    now = datetime.now(UTC)
    wait = max((settings.quiet_seconds - max(look.quiet_for(now), 0.0) for look in looks), default=0.0)
    if wait > 0:
        with err.status(f"A delivery has changed a moment ago; waiting {wait:.0f} s to see that it is complete"):
            time.sleep(wait)


def _state(settings: Settings, contents: deliveries_.Contents) -> Outcome:
    """The state of a delivery that isn't in the log."""
    if (settings.dagster / "dagster.yaml").exists():
        from biocloud_assets.raw.dsi.sensors import refusal

        with open_instance(settings) as instance:
            refused = refusal(instance, contents.delivery)
        if refused is not None and refused[0] == contents.fingerprint:
            return Outcome(contents.delivery, "refused", refused[1])
    if contents.missing:
        return Outcome(contents.delivery, "arriving", f"still to come: {', '.join(contents.missing)}")
    if contents.quiet_for(datetime.now(UTC)) < settings.quiet_seconds:
        return Outcome(contents.delivery, "arriving", "changed a moment ago")
    return Outcome(contents.delivery, "complete", "not ingested yet")


# --- running ----------------------------------------------------------------------------------------------------------


def _run_all(settings: Settings, todo: list[deliveries_.Contents], *, quiet: bool) -> list[Outcome]:
    """Run the job for each delivery, oldest first; one that is refused or fails doesn't stop the others.

    Raises:
        SettingsError: the steps are to run by the step launcher, which takes a process of Dagster's own.
    """
    if settings.launches == "step_launcher":
        raise SettingsError(
            "BIOCLOUD_LAUNCHER",
            expected="pipes or none, for a run from the command line",
            found="step_launcher",
            hint="Set BIOCLOUD_LAUNCHER, or start the run in Dagster's UI.",
        )
    outcomes = []
    with _interruptible() as running, _bar(quiet=quiet) as progress, ExitStack() as stack:
        task = progress.add_task("Starting", total=None)
        running.delivery = todo[0].delivery
        first = stack.enter_context(ExitStack())
        first.enter_context(_ahead(settings, running.delivery))  # while Dagster starts
        with _no_collecting():
            instance = stack.enter_context(open_instance(settings))
            from biocloud_assets.definitions import build_definitions

            job = build_definitions(settings).resolve_job_def("dsi_raw")
        steps = len(job.nodes)
        progress.update(task, total=steps * len(todo))
        instance.add_dynamic_partitions("dsi_delivery", [contents.delivery for contents in todo])
        for number, contents in enumerate(todo):
            run_id = str(uuid.uuid4())
            running.delivery, running.run_id = contents.delivery, run_id
            ahead = first.pop_all() if number == 0 else _ahead(settings, contents.delivery)
            with ahead, _following(instance, run_id, progress, task, contents.delivery):
                result = job.execute_in_process(
                    instance=instance,
                    run_id=run_id,
                    partition_key=contents.delivery,
                    raise_on_error=False,
                    tags={"biocloud/fingerprint": contents.fingerprint},
                    run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
                )
            outcomes.append(_outcome(settings, contents, result))
            progress.update(task, completed=steps * (number + 1))
    return outcomes


@dataclass
class _Running:
    """The run that is under way, if one is."""

    delivery: str = ""
    run_id: str = ""


@contextmanager
def _interruptible() -> Iterator[_Running]:
    """Let Ctrl-C end a run at once, and take what it wrote back.

    Dagster takes an interrupt for a fault that its retry policy mends, so it never gets to see one. The ingest survives
    being killed at any moment: so this process is replaced, as if killed, by one that takes the delivery back.
    """
    running = _Running()
    signals = {signal.SIGINT}  # not SIGTERM: children inherit the mask, and Dagster ends its own by it
    over = threading.Event()

    def wait() -> None:
        while not over.is_set():
            # Python may return from this with random numbers, if another signal comes as the time is over.
            received = signal.sigtimedwait(signals, 0.05)
            if received is not None and received.si_signo in signals:
                arguments = ["take-back", *([running.delivery, running.run_id] if running.delivery else [])]
                os.execv(sys.executable, [sys.executable, "-m", "biocloud_assets.cli", *arguments])

    # Blocked before any other thread starts, for threads inherit it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    waiter = threading.Thread(target=wait, daemon=True)
    waiter.start()
    try:
        yield running
    finally:
        over.set()
        waiter.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@app.command("take-back", hidden=True)
def take_back(delivery: str = typer.Argument(""), run_id: str = typer.Argument("")) -> None:
    """After an interrupt: leave nothing of a delivery in the lake that isn't wholly there."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    err.show_cursor()
    err.print()
    if delivery:
        settings = Settings.load()
        from biocloud_assets.raw.dsi.ingest import withdraw

        if tables := withdraw(_place(settings), delivery):
            err.print(f"Took {delivery} back out of {', '.join(tables)}.")
        with open_instance(settings) as instance:
            run = instance.get_run_by_id(run_id)
            if run is not None and not run.is_finished:
                instance.report_run_canceled(run, message="Interrupted on the command line.")
    err.print("Interrupted. What is in the lake is whole; the same command goes on with the rest.")
    raise typer.Exit(_INTERRUPTED)


@contextmanager
def _ahead(settings: Settings, delivery: str) -> Iterator[None]:
    """Do the work of a delivery's run ahead of Dagster, which only asks for what has been done: neither waits.

    Whatever goes wrong, the run finds again and reports. Steps that are launched are done elsewhere, so not these.
    """
    if settings.launches != "none":
        yield
        return
    from biocloud_assets.launch.ahead import ahead
    from biocloud_assets.raw.dsi.steps import lanes
    from biocloud_assets.run_step import Step, perform
    from biocloud_assets.steps import Run

    place, who = _place(settings), Run(settings.engine, "dagster", "")
    with ExitStack() as stack:
        for lane in lanes():
            steps = [Step(assets, delivery=delivery) for assets in lane]
            stack.enter_context(ahead(steps, lambda step: perform(step, place, None, who)))
        yield


@contextmanager
def _no_collecting() -> Iterator[None]:
    """Don't look for garbage among what is being loaded, now or later: it all stays, and there is very much of it."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _outcome(settings: Settings, contents: deliveries_.Contents, result: dg.ExecuteInProcessResult) -> Outcome:
    import dagster as dg

    from biocloud_assets.raw.dsi import log
    from biocloud_assets.raw.dsi.ingest import inspect

    outcome = Outcome(contents.delivery, "ingested" if result.success else "failed")
    for evaluation in result.get_asset_check_evaluations():
        if evaluation.passed:
            outcome.passed += 1
        elif evaluation.severity is dg.AssetCheckSeverity.WARN:
            outcome.warned += 1
        else:
            outcome.failed += 1
    place = _place(settings)
    inspection = inspect(place, contents.delivery)
    outcome.faults = [str(fault) for fault in inspection.faults]
    if result.success:
        row = log.read(place.lake, contents.delivery)
        outcome.rows = row["rows"] if row else {}
    elif inspection.errors:
        outcome.state = "refused"
        outcome.reason = f"{len(inspection.errors)} fault{'s' if len(inspection.errors) != 1 else ''}, nothing written"
    else:
        failures = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
        reasons = [
            f"{event.step_key}: {_root_message(event.step_failure_data.error)}"
            for event in failures
            if event.step_failure_data.error is not None
        ]
        outcome.reason = "; ".join(reasons) or "the run failed; see the UI"
    return outcome


def _root_message(error: Any) -> str:
    while error.cause is not None:
        error = error.cause
    return str(error.message).strip()


@contextmanager
def _bar(*, quiet: bool = False) -> Iterator[Progress]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=err, transient=False, disable=quiet) as progress:
        yield progress


@contextmanager
def _following(
    instance: dg.DagsterInstance, run_id: str, progress: Progress, task: Any, delivery: str
) -> Iterator[None]:
    """Move the bar on with the run's events, as they come into Dagster's event log."""
    stop = threading.Event()

    def follow() -> None:
        import dagster as dg

        marks = {dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_SUCCESS}
        cursor = None
        step = "starting"
        while not stop.wait(0.5):
            records = instance.get_records_for_run(run_id, cursor=cursor, of_type=marks)
            cursor = records.cursor
            for record in records.records:
                event = record.event_log_entry.dagster_event
                if event is not None and event.event_type is dg.DagsterEventType.STEP_SUCCESS:
                    progress.advance(task)
                elif event is not None and event.event_type is dg.DagsterEventType.STEP_START:
                    step = (event.step_key or "").removeprefix("raw__dsi__")
            progress.update(task, description=f"{delivery} [dim]{step}[/]")

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


# --- showing ----------------------------------------------------------------------------------------------------------


def _show_outcomes(settings: Settings, outcomes: list[Outcome], wrote: bool) -> None:
    from biocloud_assets.raw.dsi.contract import TABLES

    landing, lake = _lakes(settings)
    if not outcomes:
        out.print(f"Nothing to ingest: no new complete delivery below {landing.uri(deliveries_.ROOT)}.")
        return
    shown = [outcome for outcome in outcomes if outcome.rows]
    per_table = max(1, (out.width - 36) // 13)
    for start in range(0, len(shown), per_table):
        part = shown[start : start + per_table]
        table = Table("Rows", box=None, pad_edge=False, header_style="bold")
        for outcome in part:
            date, _, time_ = outcome.delivery.rpartition("-")
            table.add_column(f"{date}\n{time_}", justify="right", no_wrap=True)
        for spec in TABLES:
            table.add_row(spec.name, *(f"{outcome.rows.get(spec.name, 0):,}" for outcome in part))
        if wrote:
            table.add_section()
            for name in ("passed", "warned", "failed"):
                table.add_row(f"checks {name}", *(_count(getattr(outcome, name), name) for outcome in part))
        out.print(table)
        out.print()
    for outcome in outcomes:
        style = _STATE_STYLE[outcome.state]
        reason = f": {escape(outcome.reason)}" if outcome.reason else ""
        out.print(f"{outcome.delivery} [{style}]{outcome.state}[/]{reason}", soft_wrap=True)
        for fault in outcome.faults:
            out.print(f"  - {escape(fault)}", soft_wrap=True)
    if not wrote and all(outcome.state == "ingested" for outcome in outcomes):
        out.print("\nAll deliveries are in the lake already: [bold]nothing was written[/].")
    example = lake.uri("raw/dsi/sensor_deployment")
    out.print(f"\nThe lake     {lake.uri('raw/dsi')}", soft_wrap=True)
    out.print("Look at it   uv run biocloud dev")
    # Not `DeltaTable.to_pandas`, with which one process in eight aborts as it ends: see `log`.
    rows = f"d.QueryBuilder().register('t', d.DeltaTable('{example}')).execute('select * from t')"
    read = f"import deltalake as d, pyarrow as pa; print(pa.table({rows}).to_pandas())"
    out.print(f'Read a table uv run python -c "{escape(read)}"', soft_wrap=True)


def _count(count: int, name: str) -> str:
    style = {"passed": "green", "warned": "yellow", "failed": "red"}[name]
    return f"[{style}]{count}[/]" if count else "0"


def main() -> None:
    """Run the command; show an error that a person can mend as one, without a traceback."""
    # What Dagster calls preview and beta is used on purpose; its warnings are for its developers' eyes.
    warnings.filterwarnings("ignore", module="biocloud_assets|dagster")
    try:
        app()
    except BiocloudError as error:
        err.print(f"[red]{escape(str(error))}[/]", soft_wrap=True)
        sys.exit(2 if isinstance(error, (SettingsError, DeliveryNameError, RunDateError)) else 1)
    finally:
        gc.freeze()  # the process ends: nothing has to be freed piece by piece


if __name__ == "__main__":
    main()
