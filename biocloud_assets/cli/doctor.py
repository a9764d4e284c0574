"""`biocloud doctor`: what an environment lacks, before its first run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec

import typer
from rich.markup import escape
from rich.table import Table

from biocloud_assets.cli.interrupt import cancel_databricks_runs, on_interrupt
from biocloud_assets.cli.output import FAILED, err, out
from biocloud_assets.doctor.findings import Finding
from biocloud_assets.errors import SettingsError
from biocloud_assets.settings import EnvironmentName

_STYLE = {"ok": "green", "warning": "yellow", "failed": "red", "not checked": "cyan"}


def doctor(environment: EnvironmentName, *, cluster: bool, as_json: bool) -> None:
    """Print a line for each check; exit code 1 if one failed.

    Args:
        environment: the name of the environment.
        cluster: also start a cluster that writes and deletes a probe.
        as_json: as data instead of a table.

    Raises:
        SettingsError: a cluster for `local`, or the packages for Databricks aren't installed.
    """
    findings = []
    with on_interrupt(cancel_databricks_runs), err.status("") as status:
        for finding in _examine(environment, cluster):
            status.update(escape(finding.check))
            findings.append(finding)
    if as_json:
        out.print_json(json.dumps([asdict(finding) for finding in findings]))
    else:
        _print(findings)
    if any(finding.status == "failed" for finding in findings):
        raise typer.Exit(FAILED)


def _examine(environment: EnvironmentName, cluster: bool) -> Iterator[Finding]:
    if environment == "local":
        if cluster:
            raise SettingsError(
                "--cluster", expected="an environment on Databricks", found="local", hint="Leave it out."
            )
        from biocloud_assets.doctor import laptop

        return laptop.examine()
    if find_spec("databricks") is None:
        raise SettingsError(
            "biocloud doctor",
            expected="the package databricks-sdk",
            found="none",
            hint="Install the extra: `uv sync --extra databricks`.",
        )
    from biocloud_assets.doctor import checkup

    return checkup.examine(environment, on_cluster=cluster)


def _print(findings: list[Finding]) -> None:
    table = Table("Check", "", "Found, and what to do", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in (table.columns[0], table.columns[2]):
        column.overflow = "fold"
    table.columns[1].no_wrap = True
    for finding in findings:
        status = f"[{_STYLE[finding.status]}]{finding.status}[/]"
        lines = [escape(finding.found), *([f"→ {escape(finding.hint)}"] if finding.hint else [])]
        table.add_row(escape(finding.check), status, "\n".join(lines))
    out.print(table)
    counts = {status: sum(finding.status == status for finding in findings) for status in _STYLE}
    out.print("\n" + ", ".join(f"{count} {status}" for status, count in counts.items() if count))
