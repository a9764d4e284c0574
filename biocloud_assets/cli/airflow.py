"""`biocloud airflow`: export and deploy the Airflow DAGs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from biocloud_assets.airflow.deploy import EnvironmentName
from biocloud_assets.airflow.model import BRANCH_PATTERN, COMMIT_PATTERN, DEFAULT_BRANCH, EXPORT_ROOT
from biocloud_assets.environments import load_environment
from biocloud_assets.errors import DeployError, SettingsError
from biocloud_assets.lake import DataLake
from biocloud_assets.settings import Settings
from biocloud_assets.version import code_commit, is_on_branch

app = typer.Typer(no_args_is_help=True, help="The Airflow DAGs, generated from the Dagster definitions.")
out = Console(highlight=False)

_STYLE = {"new": "green", "changed": "yellow", "removed": "red", "unchanged": "dim", "unmanaged": "dim"}


@app.command(
    epilog="[bold]Examples[/bold]\n\n"
    "biocloud airflow export                            both environments, into airflow_export/\n\n"
    "biocloud airflow export --check                    exit code 1 and a diff if the committed export is stale\n\n"
    "biocloud airflow export --env development --git-branch my-feature"
)
def export(
    env: Annotated[EnvironmentName | None, typer.Option(help="One environment; default: both.")] = None,
    git_branch: Annotated[
        str, typer.Option(metavar="BRANCH", help="The branch whose code the DAGs run.")
    ] = DEFAULT_BRANCH,
    git_commit: Annotated[
        str | None, typer.Option(metavar="COMMIT", help="The commit whose code they run, instead of a branch's newest.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; show the difference.")] = False,
) -> None:
    """Write the DAG files, and the table that maps every Dagster definition to its counterpart in Airflow."""
    from biocloud_assets.airflow import render

    stale = False
    names: tuple[EnvironmentName, ...] = (env,) if env else ("development", "production")
    for name in names:
        files = _export(name, git_branch, git_commit)
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
    "biocloud airflow deploy development --dry-run           show what would change in the bucket\n\n"
    "biocloud airflow deploy development --git-branch next   deploy DAGs that run the code of the branch next\n\n"
    "biocloud airflow deploy production                      deploy DAGs that run the commit of the current folder"
)
def deploy(
    environment: Annotated[EnvironmentName, typer.Argument(help="The environment to deploy to.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the changes without making them.")] = False,
    git_branch: Annotated[
        str | None,
        typer.Option(
            help="The branch whose code the DAGs run; default for development: the branch of the current folder."
        ),
    ] = None,
    git_commit: Annotated[
        str | None,
        typer.Option(
            metavar="COMMIT",
            help="The commit whose code the DAGs run, that of the current folder; default for production.",
        ),
    ] = None,
) -> None:
    """Upload the DAGs to Airflow's bucket, and remove those that are no longer exported. Other files stay."""
    from biocloud_assets.airflow import deploy as deployment
    from biocloud_assets.launch.workspace import branch

    if git_branch is not None and git_commit is not None:
        raise DeployError(
            "the code that the DAGs run",
            expected="one of --git-branch and --git-commit",
            found="both",
            hint="Leave out --git-commit to run a branch's newest commit, or --git-branch to run the current folder's.",
        )
    settings = Settings.load()
    if git_branch is None and (git_commit is not None or environment == "production"):
        git_branch, git_commit = DEFAULT_BRANCH, _checked_commit(environment, git_commit)
    target = DataLake.at(load_environment(settings.environments, environment).dags, endpoint=settings.s3_endpoint)
    plan = deployment.prepare(environment, git_branch or branch(settings), target, _export, commit=git_commit)
    table = Table("DAG file", "", "Bytes", box=None, pad_edge=False)
    table.columns[2].justify = "right"
    for change in plan.changes:
        table.add_row(escape(change.path), f"[{_STYLE[change.kind]}]{change.kind}[/]", f"{change.size:,}")
    out.print(f"{target.root}, for {escape(plan.code)}", soft_wrap=True)
    out.print(table)
    uploads, removals = len(plan.of("new", "changed")), len(plan.of("removed"))
    if dry_run:
        out.print(f"Dry run: {uploads} to upload, {removals} to remove; [bold]nothing was changed[/].")
        return
    deployment.apply(plan)
    if uploads or removals:
        out.print(f"Uploaded {uploads} files, removed {removals}.")
    else:
        out.print("Up to date: [bold]nothing was changed[/].")


def _checked_commit(environment: EnvironmentName, given: str | None) -> str:
    """The commit that is deployed: that of the current folder, as its definitions are the ones that are exported.

    Raises:
        DeployError: another one is given, there is none, or one that isn't on the default branch goes to production.
    """
    commit = code_commit(Path.cwd())
    if commit is None or given not in (None, commit):
        raise DeployError(
            f"commit {given or ''}".strip(),
            expected="the commit of the current folder, whose definitions are exported",
            found=commit or "a folder that is no Git checkout",
            hint="Check the commit out, and deploy from there.",
        )
    if environment == "production" and not is_on_branch(commit, DEFAULT_BRANCH, Path.cwd()):
        raise DeployError(
            f"commit {commit}",
            expected=f"a commit of {DEFAULT_BRANCH}, the only branch that goes to production",
            found="one that isn't",
            hint="Merge it first, or deploy it to development.",
        )
    return commit


def _export(environment: EnvironmentName, branch: str, commit: str | None = None) -> dict[str, str]:
    """A new export: its files by their paths below `airflow_export/<environment>`.

    Raises:
        SettingsError: a DAG can't name the branch or the commit.
    """
    from biocloud_assets.airflow import collect, render

    if re.fullmatch(BRANCH_PATTERN, branch) is None:
        raise SettingsError(
            "--git-branch",
            expected="a branch whose name has only letters, digits and the characters _ . / + # @ -",
            found=repr(branch),
            hint="Rename the branch, or give another one.",
        )
    if commit is not None and re.fullmatch(COMMIT_PATTERN, commit) is None:
        raise SettingsError(
            "--git-commit",
            expected="40 hexadecimal digits, as `git rev-parse HEAD` prints them",
            found=repr(commit),
            hint="Give the whole hash of the commit.",
        )
    definitions, settings = collect.build_definitions(environment)
    return render.render(collect.collect(definitions, settings, branch=branch, commit=commit))
