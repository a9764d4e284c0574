"""From the model to files: a Python file for each DAG, and the table with the mapping of every Dagster definition.

The templates write Airflow's `{{ … }}` as it is; their own expressions are `[= … =]`, their own lines begin with `#%`.
"""

from __future__ import annotations

import difflib
import re
import subprocess
import textwrap
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from biocloud_assets.airflow.model import DEFAULT_BRANCH, Dispatcher, Export, JobDag
from biocloud_assets.errors import ExportError
from biocloud_assets.launch.workspace import INFRASTRUCTURE_CODES, INFRASTRUCTURE_TYPES, UNKNOWN_CODES
from biocloud_assets.run_step import NOT_RETRYABLE, RETRYABLE

WEBHOOK_CONNECTION = "biocloud_webhook"
"""The Airflow connection with the address to which the DAGs post a message about each failed task."""


def render(export: Export) -> dict[str, str]:
    """The files of an export, by their paths below `airflow_export/<environment>`; the same model, the same bytes.

    Raises:
        ExportError: ruff isn't installed, or a rendered file is not valid Python.
    """
    files = {f"dags/{dag.name}.py": _format(f"{dag.name}.py", _job(export, dag)) for dag in export.jobs}
    files |= {f"dags/{dag.name}.py": _format(f"{dag.name}.py", _dispatcher(export, dag)) for dag in export.dispatchers}
    return {**files, "mapping.md": _mapping(export)}


def write(files: dict[str, str], folder: Path) -> None:
    """Write the files of an export into a folder, and delete the other files of an export in it."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    for path in _exported(folder):
        if path.relative_to(folder).as_posix() not in files:
            path.unlink()


def difference(files: dict[str, str], folder: Path) -> str:
    """The unified diff from a folder to the files of an export; empty if they are equal."""
    there = {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in _exported(folder)}
    lines: list[str] = []
    for name in sorted({*files, *there}):
        before, after = there.get(name, ""), files.get(name, "")
        lines += difflib.unified_diff(
            before.splitlines(), after.splitlines(), f"{folder / name}", "the definitions", lineterm=""
        )
    return "\n".join(lines)


def _exported(folder: Path) -> list[Path]:
    return sorted((*folder.glob("dags/*.py"), *folder.glob("*.md")))


# --- DAG files --------------------------------------------------------------------------------------------------------


def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("biocloud_assets.airflow"),
        variable_start_string="[=",
        variable_end_string="=]",
        block_start_string="[%",
        block_end_string="%]",
        comment_start_string="[#",
        comment_end_string="#]",
        line_statement_prefix="#%",
        trim_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "literal": _literal,
        "number": lambda number: _literal(int(number) if float(number).is_integer() else number),
        "variable": lambda name: re.sub(r"\W", "_", name),
        "asset": lambda uri: f"Asset({_literal(uri)})",
    }
    return environment


def _literal(value: Any) -> str:
    """A value as Python source, deterministic; ruff splits a long collection into lines."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if isinstance(value, tuple):
        return ", ".join(map(_literal, value))
    if isinstance(value, str) and "\n" in value:
        return '"""' + value.replace("\\", "\\\\").replace('"""', '\\"\\"\\"') + '"""'
    return repr(value)


def _templated(value: Any) -> Any:
    """A value that Airflow's templating leaves unchanged: `{{secrets/…}}` is a reference for Databricks, not Jinja."""
    if isinstance(value, dict):
        return {key: _templated(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_templated(item) for item in value]
    if isinstance(value, str) and re.search(r"\{[{%#]", value):
        return "{{ " + repr(value) + " }}"
    return value


def _templated_submission(submission: dict[str, Any]) -> dict[str, Any]:
    """The body of a submission, of which Airflow renders `run_name` and the parameters of the script only."""
    (task,) = submission["tasks"]
    python = {"spark_python_task": task["spark_python_task"]}
    return {
        **{name: value if name == "run_name" else _templated(value) for name, value in submission.items()},
        "tasks": [{**_templated({name: value for name, value in task.items() if name not in python}), **python}],
    }


def _job(export: Export, dag: JobDag) -> str:
    return (
        _templates()
        .get_template("job.py.jinja")
        .render(
            export=export,
            dag=dag,
            doc_md=_doc(export, dag.description, dag.owner, dag.lineage, dag.docs, f"the job `{dag.name}`"),
            options=_options(export),
            code=f"that of the branch {export.branch}" if export.commit is None else f"the commit {export.commit}",
            retryable=RETRYABLE,
            not_retryable=NOT_RETRYABLE,
            infrastructure_types=sorted(INFRASTRUCTURE_TYPES),
            infrastructure_codes=sorted(INFRASTRUCTURE_CODES),
            unknown_codes=sorted(UNKNOWN_CODES),
            webhook=WEBHOOK_CONNECTION,
            templated=_templated_submission,
        )
    )


def _dispatcher(export: Export, dag: Dispatcher) -> str:
    lineage = f"reads {_address(dag.landing)}{dag.source}/ and {_address(dag.markers)}; starts `{dag.starts}`"
    return (
        _templates()
        .get_template("dispatcher.py.jinja")
        .render(
            export=export,
            dag=dag,
            doc_md=_doc(export, dag.description, dag.owner, lineage, dag.docs, f"the sensor `{dag.name}`"),
            options=_options(export),
            webhook=WEBHOOK_CONNECTION,
        )
    )


def _address(bucket_and_prefix: tuple[str, str]) -> str:
    return f"s3://{'/'.join(bucket_and_prefix)}"


def _options(export: Export) -> str:
    """The options of `biocloud airflow export` that make these files."""
    if export.commit is not None:
        return f" --git-commit {export.commit}"
    return "" if export.branch == DEFAULT_BRANCH else f" --git-branch {export.branch}"


def _doc(export: Export, purpose: str, owner: str, lineage: str, docs: str, source: str) -> str:
    return "\n".join(
        [
            purpose,
            "",
            f"- Owner: {owner}",
            *textwrap.wrap(f"- Lineage: {lineage}", 110, subsequent_indent="  ", break_on_hyphens=False),
            f"- Docs: [{docs.rpartition('/')[2]}]({docs})",
            f"- Generated from Dagster, {source}, for {export.environment}. Do not edit.",
        ]
    )


def _format(name: str, source: str) -> str:
    try:
        from ruff.__main__ import find_ruff_bin  # type: ignore[import-untyped]

        ruff = find_ruff_bin()
    except (ImportError, FileNotFoundError):
        raise ExportError(
            "ruff",
            expected="ruff, which formats the DAG files",
            found="none",
            hint="Install the development group: `uv sync`.",
        ) from None
    done = subprocess.run(
        [ruff, "format", "--isolated", "--line-length=120", "--target-version=py39", f"--stdin-filename={name}", "-"],
        input=source,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ExportError(name, expected="valid Python", found=done.stderr.strip(), hint="Fix the template.")
    return done.stdout


# --- mapping ----------------------------------------------------------------------------------------------------------


def _mapping(export: Export) -> str:
    lines = [
        f"<!-- Generated: uv run biocloud airflow export --env {export.environment}{_options(export)} -->",
        "",
        f"# Dagster definitions and their counterparts in Airflow: {export.environment}",
        "",
        "| definition | name | in Airflow | reason |",
        "| --- | --- | --- | --- |",
    ]
    for row in export.mapping:
        cells = (row.kind, f"`{row.name}`", row.counterpart or "none", row.reason)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join([*lines, ""])
