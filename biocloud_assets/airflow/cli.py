"""`biocloud airflow`: arguments in, a call, a table out.

What belongs here: what people see and type. What doesn't: exporting and deploying themselves.
"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from biocloud_assets.airflow.deploy import EnvironmentName
from biocloud_assets.airflow.model import DEFAULT_BRANCH, EXPORT_ROOT
from biocloud_assets.environments import load_environment
from biocloud_assets.lake import DataLake
from biocloud_assets.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Airflow's DAGs, made from the Dagster definitions.")
out = Console(highlight=False)

_STYLE = {"new": "green", "changed": "yellow", "removed": "red", "same": "dim", "not ours": "dim"}


@app.command(
    epilog="[bold]Examples[/bold]\n\n"
    "biocloud airflow export                            both environments, into airflow_export/\n\n"
    "biocloud airflow export --check                    exit code 1 and a diff if that is stale\n\n"
    "biocloud airflow export --env development --git-branch my-feature"
)
def export(
    env: Annotated[EnvironmentName | None, typer.Option(help="The environment; both without it.")] = None,
    git_branch: Annotated[
        str, typer.Option(metavar="BRANCH", help="The branch whose code the DAGs run.")
    ] = DEFAULT_BRANCH,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; show what is stale.")] = False,
) -> None:
    """Write the DAG files, and the table of what became of every Dagster definition."""
    from biocloud_assets.airflow import render

    stale = False
    names: tuple[EnvironmentName, ...] = (env,) if env else ("development", "production")
    for name in names:
        files = _export(name, git_branch)
        folder = EXPORT_ROOT / name
        difference = render.difference(files, folder)
        stale = stale or bool(difference)
        if check:
            if difference:
                out.print(difference, markup=False, soft_wrap=True)
            continue
        render.write(files, folder)
        out.print(f"{folder}: {len(files)} files, {'changed' if difference else 'unchanged'}")
    if check and stale:
        out.print("\nStale: run [bold]uv run biocloud airflow export[/] and commit what it writes.")
        raise typer.Exit(1)


@app.command(
    epilog="[bold]Examples[/bold]\n\n"
    "biocloud airflow deploy development --dry-run           what would change in the bucket\n\n"
    "biocloud airflow deploy development --git-branch next   DAGs that run the code of the branch next"
)
def deploy(
    environment: Annotated[EnvironmentName, typer.Argument(help="Where to.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    git_branch: Annotated[
        str | None, typer.Option(help="The branch whose code the DAGs run; that of the current folder.")
    ] = None,
) -> None:
    """Bring the DAGs in Airflow's bucket in step with the export. Other people's files there are left alone."""
    from biocloud_assets.airflow import deploy as deployment
    from biocloud_assets.launch.workspace import branch

    settings = Settings.load()
    target = DataLake.at(load_environment(settings.environments, environment).dags, endpoint=settings.s3_endpoint)
    plan = deployment.prepare(environment, git_branch or branch(settings), target, _export)
    table = Table("DAG file", "", "Bytes", box=None, pad_edge=False)
    table.columns[2].justify = "right"
    for change in plan.changes:
        table.add_row(escape(change.path), f"[{_STYLE[change.kind]}]{change.kind}[/]", f"{change.size:,}")
    out.print(f"{target.root}, for the branch {escape(plan.branch)}", soft_wrap=True)
    out.print(table)
    uploads, removals = len(plan.of("new", "changed")), len(plan.of("removed"))
    if dry_run:
        out.print(f"A dry run: {uploads} to upload and {removals} to remove, [bold]nothing was changed[/].")
        return
    deployment.apply(plan)
    if uploads or removals:
        out.print(f"Uploaded {uploads} and removed {removals}.")
    else:
        out.print("All in step already: [bold]nothing was changed[/].")


def _export(environment: EnvironmentName, branch: str) -> dict[str, str]:
    """The export, made anew: its files by their path below `airflow_export/<environment>`."""
    from biocloud_assets.airflow import collect, render

    definitions, settings = collect.build_definitions(environment)
    return render.render(collect.collect(definitions, settings, branch=branch))
