"""`biocloud grants`: the SQL statements with the privileges of an environment."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

import typer

from biocloud_assets.access.grants import render
from biocloud_assets.cli.output import FAILED, out
from biocloud_assets.environments import load_environment
from biocloud_assets.settings import Settings, WorkspaceEnvironment


def grants(environment: WorkspaceEnvironment, *, principal: str | None, output: Path | None, check: bool) -> None:
    """Print the statements, write them to a file, or compare them with a file: exit code 1 if it is stale.

    Args:
        environment: the name of the environment.
        principal: the principal that runs the steps; by default `run_as` of the environment.
        output: the file; without it they are printed.
        check: only compare.

    Raises:
        SettingsError: the environments' file can't be used.
    """
    text = render(environment, load_environment(Settings.load().environments, environment), principal)
    if output is None:
        sys.stdout.write(text)
        return
    old = output.read_text(encoding="utf-8") if output.exists() else ""
    if check and old != text:
        lines = difflib.unified_diff(old.splitlines(), text.splitlines(), str(output), "the environment", lineterm="")
        out.print("\n".join(lines), markup=False, soft_wrap=True)
        out.print(f"\nStale: run [bold]uv run biocloud grants {environment} --output {output}[/] and commit it.")
        raise typer.Exit(FAILED)
    if not check:
        output.write_text(text, encoding="utf-8")
        out.print(f"{output}: {'unchanged' if old == text else 'written'}", soft_wrap=True)
