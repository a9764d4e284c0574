"""`biocloud curated`: the steps of the curated layer, reported to the instance that the UI shows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from biocloud_assets.cli.context import open_context
from biocloud_assets.errors import RunDateError
from biocloud_assets.lake import DataLake
from biocloud_assets.settings import Settings
from biocloud_assets.steps import Materialization, Observation

if TYPE_CHECKING:
    from datetime import date

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="The curated layer for DSI: publish a day's observations, write its manifest, delete old days.",
)
out = Console(highlight=False)

RunDate = Annotated[str | None, typer.Option(help="The day, yyyy-mm-dd, UTC; today if it isn't given.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and change nothing.")]


@app.command(epilog="[bold]Example[/bold]\n\nbiocloud curated publish && biocloud curated manifest")
def publish(run_date: RunDate = None, dry_run: DryRun = False) -> None:
    """Write the observations of a day, as of its end; its manifest is removed before the first change."""
    settings, day = Settings.load(), _day(run_date)
    from biocloud_assets.curated.dsi import step
    from biocloud_assets.raw.dsi.contract import CONTRACT

    published = step.publish(open_context(settings, CONTRACT), _curated(settings), day, dry_run=dry_run)
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
    from biocloud_assets.curated.dsi import results

    _report(settings, day, Materialization(results.OBSERVATION, results.of_publication(published)))
    if published.changed:
        out.print(f"\nDSI may read it after [bold]biocloud curated manifest --run-date {day}[/]")


@app.command(epilog="[bold]Example[/bold]\n\nbiocloud curated manifest --run-date 2026-01-31")
def manifest(run_date: RunDate = None, dry_run: DryRun = False) -> None:
    """Write the manifest of a day: DSI may read its folder from now on."""
    settings, day = Settings.load(), _day(run_date)
    from biocloud_assets.curated.dsi import step

    made = step.manifest(_curated(settings), day, dry_run=dry_run)
    state = "would be written" if dry_run else "written" if made.written else "unchanged"
    _show({"manifest": made.uri, "files": f"{made.files:,}", "bytes": f"{made.size:,}", "state": state})
    if not dry_run:
        from biocloud_assets.curated.dsi import results

        _report(settings, day, Materialization(results.MANIFEST, results.of_manifest(made, dry_run=False)))


@app.command(epilog="[bold]Example[/bold]\n\nbiocloud curated cleanup --days 30 --dry-run")
def cleanup(
    run_date: RunDate = None,
    days: Annotated[
        int | None,
        typer.Option(
            help="The number of days before the run date that are kept; BIOCLOUD_RETENTION_DAYS if it isn't given."
        ),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Delete the folders of days before the retention period, each with its manifest first."""
    settings, day = Settings.load(), _day(run_date)
    from biocloud_assets.curated.dsi import step
    from biocloud_assets.curated.dsi.cleanup import CleanupError

    kept = settings.retention if days is None else days
    failure: CleanupError | None = None
    try:
        cleaned = step.cleanup(_curated(settings), day, kept, dry_run=dry_run)
    except CleanupError as error:
        cleaned, failure = error.cleanup, error
    table = Table("Day", "Folder", box=None, pad_edge=False)
    table.add_column("Files", justify="right")
    for removal in cleaned.removals:
        state = (
            "[red]partly deleted[/]" if removal.failures else "would be deleted" if dry_run else "[yellow]deleted[/]"
        )
        table.add_row(removal.date.isoformat(), state, f"{removal.files:,}")
    for there in cleaned.kept:
        table.add_row(there.isoformat(), "[green]kept[/]", "")
    out.print(table if table.row_count else "No days are published.")
    out.print(f"Days before {cleaned.cutoff} {'would be' if dry_run else 'are'} deleted.")
    if not dry_run:
        from biocloud_assets.curated.dsi import results

        made = results.of_cleanup(cleaned)
        last = (
            Observation(results.RETENTION, day.isoformat(), made)
            if failure
            else Materialization(results.RETENTION, made)
        )
        _report(settings, day, *results.of_removals(cleaned), last)
    if failure is not None:
        raise failure


def _day(given: str | None) -> date:
    """The given run date, or today.

    Raises:
        RunDateError: it is no date, or in the future.
    """
    from biocloud_assets.curated.dsi.paths import parse_run_date

    now = datetime.now(UTC)
    day = now.date() if given is None else parse_run_date(given)
    if day > (now + timedelta(hours=14)).date():  # the present day of the easternmost time zone
        raise RunDateError(
            "the run date",
            expected="a day that isn't in the future",
            found=str(day),
            hint="Give an earlier one with --run-date.",
        )
    return day


def _curated(settings: Settings) -> DataLake:
    return DataLake.at(settings.curated, endpoint=settings.s3_endpoint)


def _show(values: dict[str, str]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in values.items():
        table.add_row(name.capitalize(), value)
    out.print(table, soft_wrap=True)


def _report(settings: Settings, day: date, *results: Materialization | Observation) -> None:
    """Store results as events, so that the UI shows them."""
    import dagster as dg

    from biocloud_assets.cli.home import open_instance
    from biocloud_assets.launch.results import asset_key, metadata_values

    with open_instance(settings) as instance:
        for result in results:
            key, metadata = asset_key(result.asset), metadata_values(result.metadata)
            instance.report_runless_asset_event(
                dg.AssetObservation(key, partition=result.partition, metadata=metadata)
                if isinstance(result, Observation)
                else dg.AssetMaterialization(key, partition=day.isoformat(), metadata=metadata)
            )
