"""The commands and their options. Each command is a module, which is imported when its command runs."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from biocloud_assets import __version__
from biocloud_assets.cli import airflow, curated
from biocloud_assets.cli.output import FAILED, WRONG_USE, err, out
from biocloud_assets.errors import BiocloudError, DeliveryNameError, RunDateError, SettingsError
from biocloud_assets.settings import EnvironmentName, WorkspaceEnvironment

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Ingest deliveries of nested Parquet into Delta tables.\n\n"
    "Start with [bold]biocloud ingest --sample[/bold], then [bold]biocloud dev[/bold] for the UI.",
)
app.add_typer(curated.app, name="curated")
app.add_typer(airflow.app, name="airflow")

AsJson = Annotated[bool, typer.Option("--json", help="Print data instead of a table.")]


def _print_version(value: bool) -> None:
    if value:
        from biocloud_assets.version import code_commit

        out.print(f"biocloud {__version__}" + (f" ({commit})" if (commit := code_commit()) else ""))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and the commit."),
    ] = False,
) -> None:
    """Options of the whole command."""


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
    as_json: AsJson = False,
) -> None:
    """Ingest deliveries: validate, un-nest, write, check, log."""
    from biocloud_assets.cli.ingest import ingest as run

    run(list(delivery or ()), sample=sample, as_json=as_json)


@app.command(epilog="[bold]Example[/bold]\n\nbiocloud deliveries --json | jq '.[] | select(.state == \"refused\")'")
def deliveries(
    as_json: AsJson = False,
    register: Annotated[
        list[str] | None,
        typer.Option(help="Register a delivery as a partition first, so that Dagster's UI and `dg launch` can run it."),
    ] = None,
) -> None:
    """List the deliveries with their states: arriving, complete, late, ingested, or refused and why."""
    from biocloud_assets.cli.deliveries import deliveries as run

    run(as_json=as_json, names=list(register or ()))


@app.command(epilog="[bold]Example[/bold]\n\nbiocloud verify 2020-07-10-06:00:00")
def verify(delivery: Annotated[list[str], typer.Argument(help="Deliveries by name.")]) -> None:
    """Re-nest a delivery from the lake and compare it with its source, record by record."""
    from biocloud_assets.cli.verify import verify as run

    run(delivery)


@app.command(epilog="[bold]Example[/bold]\n\nbiocloud sample --results 200000 --seed 1 && biocloud ingest")
def sample(
    results: Annotated[int, typer.Option(min=0, help="Results in each delivery.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    deliveries: Annotated[int, typer.Option(min=1, help="How many deliveries.")] = 1,
) -> None:
    """Write synthetic deliveries into the landing zone, with null and empty lists at every level."""
    from biocloud_assets.cli.sample import sample as run

    run(results=results, seed=seed, deliveries=deliveries)


@app.command(epilog="[bold]Example[/bold]\n\nbiocloud maintain --dry-run")
def maintain(
    days: Annotated[
        int | None, typer.Option(help="For how many days replaced files are kept, at least 7; 7 if it isn't given.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and change nothing.")] = False,
) -> None:
    """Merge small files of the tables, delete replaced files, and delete old log files."""
    from biocloud_assets.cli.maintain import maintain as run

    run(days=days, dry_run=dry_run)


@app.command(epilog="[bold]Example[/bold]\n\nbiocloud dev --port 3001")
def dev(port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the UI.")] = 3000) -> None:
    """Open Dagster's UI at http://127.0.0.1:3000, with all runs of this home. Ctrl-C cancels runs and ends it."""
    from biocloud_assets.cli.dev import dev as run

    run(port)


@app.command(
    epilog="[bold]Examples[/bold]\n\n"
    "biocloud doctor local                      what this machine lacks\n\n"
    "biocloud doctor development                what the workspace, the catalog and the buckets lack; only reads\n\n"
    "biocloud doctor development --cluster      also runs one step on a cluster that writes and deletes a probe"
)
def doctor(
    environment: Annotated[EnvironmentName, typer.Argument(help="What is checked.", metavar="ENVIRONMENT")],
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Start one cluster, and write and delete a probe from it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say before the first run what an environment (local, development or production) lacks, and what to do."""
    from biocloud_assets.cli.doctor import doctor as run

    run(environment, cluster=cluster, as_json=as_json)


@app.command(
    epilog="[bold]Examples[/bold]\n\n"
    "biocloud grants development                                             print them\n\n"
    "biocloud grants production --principal <application ID> --output privileges.sql\n\n"
    "biocloud grants development --output databricks/Privileges_sample.sql --check"
)
def grants(
    environment: Annotated[WorkspaceEnvironment, typer.Argument(help="The environment.", metavar="ENVIRONMENT")],
    principal: Annotated[
        str | None, typer.Option(help="The principal that runs the steps; default: run_as of the environment.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write them to this file.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; show how the file differs, exit code 1 if it does.")
    ] = False,
) -> None:
    """Print the privileges in Unity Catalog that an environment (development or production) needs, as SQL."""
    from biocloud_assets.cli.grants import grants as run

    if check and output is None:
        raise typer.BadParameter("--check compares with a file: give --output")
    run(environment, principal=principal, output=output, check=check)


def run_command() -> None:
    """Run the command; print an error that a person can fix without a traceback.

    Raises:
        SystemExit: with the exit code.
    """
    # Features that Dagster calls preview or beta are used on purpose; the warnings are for its own developers.
    warnings.filterwarnings("ignore", module="biocloud_assets|dagster")
    try:
        app()
    except BiocloudError as error:
        err.print(f"[red]{escape(str(error))}[/]", soft_wrap=True)
        sys.exit(WRONG_USE if isinstance(error, (SettingsError, DeliveryNameError, RunDateError)) else FAILED)
