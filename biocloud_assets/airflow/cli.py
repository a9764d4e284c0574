"""`biocloud airflow …`: arguments in, a call, a few lines out.

What belongs here: what people see and type. What doesn't: the export itself.
"""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from rich.console import Console

app = typer.Typer(no_args_is_help=True, help="Airflow DAGs, generated from the Dagster definitions.")
out = Console(highlight=False, soft_wrap=True)


@app.command(
    epilog="[bold]Examples[/bold]\n\n"
    "biocloud airflow export                            both environments, into airflow_export/\n\n"
    "biocloud airflow export --check                    exit code 1 and a diff if that is stale\n\n"
    "biocloud airflow export --env development --git-branch my-feature"
)
def export(
    env: Annotated[
        Literal["development", "production"] | None, typer.Option(help="The environment; both without it.")
    ] = None,
    git_branch: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="The branch whose code the DAGs run; main without it.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; show what is stale.")] = False,
) -> None:
    """Write the DAG files, and the table of what became of every Dagster definition."""
    from biocloud_assets.airflow import collect, render

    stale = False
    for name in (env,) if env else ("development", "production"):
        definitions, settings = collect.build_definitions(name)
        found = collect.collect(definitions, settings, branch=git_branch or render.DEFAULT_BRANCH)
        files = render.render(found)
        folder = render.DIRECTORY / name
        difference = render.difference(files, folder)
        stale = stale or bool(difference)
        if check:
            if difference:
                out.print(difference, markup=False)
            continue
        render.write(files, folder)
        out.print(f"{folder}: {len(files)} files, {'changed' if difference else 'unchanged'}")
    if check and stale:
        out.print("\nStale: run [bold]uv run biocloud airflow export[/] and commit what it writes.")
        raise typer.Exit(1)
