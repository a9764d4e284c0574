"""`biocloud curated`: deliver back to DSI, step by step.

What belongs here: what people see and type. What doesn't: any decision about data. Each command calls one of the steps
that the job `dsi_curated` runs, and reports it to the instance that the UI shows.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from biocloud_assets.errors import RunDateError
from biocloud_assets.lake import DataLake
from biocloud_assets.settings import Settings
from biocloud_assets.steps import Report, Sighting

if TYPE_CHECKING:
    from datetime import date

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Deliver back to DSI: publish a day's observations, write its manifest, delete old days.",
)
out = Console(highlight=False)

RunDate = Annotated[str | None, typer.Option(help="The day, yyyy-mm-dd, UTC; today if it isn't given.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]


@app.command(epilog="[bold]Example[/bold]\n\nbiocloud curated publish && biocloud curated manifest")
def publish(run_date: RunDate = None, dry_run: DryRun = False) -> None:
    """Write the observations of a day, of all deliveries up to its end; the day's manifest is taken away before."""
    settings, day = Settings.load(), _day(run_date)
    from biocloud_assets.curated.dsi import steps
    from biocloud_assets.spark.session import get_session

    lake = DataLake.at(settings.lake, endpoint=settings.s3_endpoint)
    spark = get_session(settings.engine, s3_endpoint=settings.s3_endpoint)
    published = steps.publish(spark, lake, _curated(settings), day, dry_run=dry_run)
    _show(
        {
            "day": day.isoformat(),
            "folder": published.uri,
            "deliveries": f"{len(published.deliveries):,}",
            "observations": f"{published.rows:,}",
            "species": f"{published.species:,}",
            "files": f"{published.files:,}",
            "would change" if dry_run else "changed": f"{published.changed:,}" if published.changed else "nothing",
        }
    )
    if dry_run:
        return
    from biocloud_assets.curated.dsi import reports

    _report(settings, day, Report(reports.OBSERVATION, reports.of_publication(published)))
    if published.changed:
        out.print(f"\nDSI may read it after [bold]biocloud curated manifest --run-date {day}[/]")


@app.command(epilog="[bold]Example[/bold]\n\nbiocloud curated manifest --run-date 2026-01-31")
def manifest(run_date: RunDate = None, dry_run: DryRun = False) -> None:
    """Write the manifest of a day: it is whole, and DSI may read it."""
    settings, day = Settings.load(), _day(run_date)
    from biocloud_assets.curated.dsi import steps

    made = steps.manifest(_curated(settings), day, dry_run=dry_run)
    state = "would be written" if dry_run else "written" if made.written else "there already, as it should be"
    _show({"manifest": made.uri, "files": f"{made.files:,}", "bytes": f"{made.size:,}", "state": state})
    if not dry_run:
        from biocloud_assets.curated.dsi import reports

        _report(settings, day, Report(reports.MANIFEST, reports.of_manifest(made, dry_run=False)))


@app.command(epilog="[bold]Example[/bold]\n\nbiocloud curated cleanup --days 30 --dry-run")
def cleanup(
    run_date: RunDate = None,
    days: Annotated[
        int | None, typer.Option(help="How many days before it are kept; BIOCLOUD_CURATED_DAYS if it isn't given.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Delete the folders of days that are no longer offered, each with its manifest first."""
    settings, day = Settings.load(), _day(run_date)
    from biocloud_assets.curated.dsi import steps
    from biocloud_assets.curated.dsi.cleanup import CleanupError

    kept = settings.curated_days if days is None else days
    fault: CleanupError | None = None
    try:
        cleaned = steps.cleanup(_curated(settings), day, kept, dry_run=dry_run)
    except CleanupError as error:
        cleaned, fault = error.cleanup, error
    table = Table("Day", "Folder", box=None, pad_edge=False)
    table.add_column("Files", justify="right")
    for removal in cleaned.removals:
        state = "[red]partly there[/]" if removal.faults else "would go" if dry_run else "[yellow]gone[/]"
        table.add_row(removal.date.isoformat(), state, f"{removal.files:,}")
    for there in cleaned.kept:
        table.add_row(there.isoformat(), "[green]stays[/]", "")
    out.print(table if table.row_count else "No days are published.")
    out.print(f"Days before {cleaned.cutoff} {'would go' if dry_run else 'go'}.")
    if not dry_run:
        from biocloud_assets.curated.dsi import reports

        made = reports.of_cleanup(cleaned)
        last = Sighting(reports.DAYS, day.isoformat(), made) if fault else Report(reports.DAYS, made)
        _report(settings, day, *reports.of_removals(cleaned), last)
    if fault is not None:
        raise fault


def _day(given: str | None) -> date:
    """The run date that is asked for, or today.

    Raises:
        RunDateError: it is no date, or is still to come.
    """
    from biocloud_assets.curated.dsi.paths import parse_run_date

    now = datetime.now(UTC)
    day = now.date() if given is None else parse_run_date(given)
    if day > (now + timedelta(hours=14)).date():  # tomorrow has come somewhere
        raise RunDateError(
            "the run date", expected="a day that has come", found=str(day), hint="Give an earlier one with --run-date."
        )
    return day


def _curated(settings: Settings) -> DataLake:
    return DataLake.at(settings.curated, endpoint=settings.s3_endpoint)


def _show(values: dict[str, str]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in values.items():
        table.add_row(name.capitalize(), value)
    out.print(table, soft_wrap=True)


def _report(settings: Settings, day: date, *told: Report | Sighting) -> None:
    """Let the UI show what was done."""
    import dagster as dg

    from biocloud_assets.home import open_instance
    from biocloud_assets.launch.report import asset_key, values

    with open_instance(settings) as instance:
        for report in told:
            key, metadata = asset_key(report.asset), values(report.metadata)
            instance.report_runless_asset_event(
                dg.AssetObservation(key, partition=report.partition, metadata=metadata)
                if isinstance(report, Sighting)
                else dg.AssetMaterialization(key, partition=day.isoformat(), metadata=metadata)
            )
