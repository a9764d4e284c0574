"""Deploy the exported DAGs to the folder in S3 that Airflow syncs its DAGs from.

    committed export  ── up to date? ──►  the export for the branch  ── parses? ──►  plan  ──►  uploads, removals

The committed export is that of the default branch, so that a merge request shows what will change. What is uploaded is
rendered for the branch or the commit that is deployed, so that Databricks runs that code.

A file belongs to the export if it has the two labels (S3's user-defined metadata) with which this module writes it: the
environment and its own name, so that a copy under another name doesn't. Whether a file has changed is decided by its
bytes: the ETag of an object that was uploaded in parts or encrypted with a key is no digest.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from biocloud_assets.airflow.model import DEFAULT_BRANCH, EXPORT_ROOT
from biocloud_assets.errors import DeployError
from biocloud_assets.lake import DataLake

_DAGS = "dags/"
_ENVIRONMENT_LABEL = "biocloud-export"
_NAME_LABEL = "biocloud-file"

EnvironmentName = Literal["development", "production"]

Export = Callable[[EnvironmentName, str, str | None], Mapping[str, str]]
"""Makes the export for an environment, a branch and, if only one commit is to run, that commit.

It returns the files by their paths below `airflow_export/<environment>`.
"""

Kind = Literal["new", "changed", "unchanged", "removed", "unmanaged"]


@dataclass(frozen=True)
class Change:
    """One file below the target folder.

    Attributes:
        path: relative to the folder.
        kind: `new` and `changed` files are uploaded, `removed` ones are deleted; `unchanged` files, and `unmanaged`
            ones that no deployment has written, stay as they are.
        size: its bytes after the deployment, or before if it is removed.
    """

    path: str
    kind: Kind
    size: int


@dataclass(frozen=True)
class Plan:
    """What a deployment does.

    Attributes:
        environment: the environment.
        code: the branch or the commit whose code the DAGs run.
        target: the folder in the bucket.
        files: the DAG files by their paths below the target.
        changes: one for each file before or after the deployment.
    """

    environment: str
    code: str
    target: DataLake
    files: Mapping[str, bytes]
    changes: tuple[Change, ...]

    def of(self, *kinds: Kind) -> list[Change]:
        """The changes of some kinds."""
        return [change for change in self.changes if change.kind in kinds]


def prepare(
    environment: EnvironmentName,
    branch: str,
    target: DataLake,
    export: Export,
    committed: Path = EXPORT_ROOT,
    commit: str | None = None,
) -> Plan:
    """Plan a deployment. Nothing is written.

    Args:
        environment: `development` or `production`.
        branch: the branch whose code the DAGs run.
        target: the folder in the bucket.
        export: makes the export.
        committed: the folder of the committed export.
        commit: the commit of the branch whose code the DAGs run; without it, that of the branch's newest commit.

    Raises:
        DeployError: the branch is not for this environment, the committed export is stale, a DAG doesn't parse, there
            are no DAGs, or an unmanaged file has the name of a DAG file.
        LakeError: the bucket can't be read.
    """
    if environment == "production" and branch != DEFAULT_BRANCH:
        raise DeployError(
            f"branch {branch}",
            expected=f"{DEFAULT_BRANCH}, the only branch that goes to production",
            found=branch,
            hint=f"Merge it first, or deploy it to development. On {DEFAULT_BRANCH}: --git-branch {DEFAULT_BRANCH}.",
        )
    fresh = export(environment, DEFAULT_BRANCH, None)
    _refuse_stale(environment, committed / environment, fresh)
    is_committed = branch == DEFAULT_BRANCH and commit is None
    files = dags(environment, fresh if is_committed else export(environment, branch, commit))
    code = f"the branch {branch}" if commit is None else f"the commit {commit}"
    return Plan(environment, code, target, files, _changes(environment, target, files))


def dags(environment: str, exported: Mapping[str, str]) -> dict[str, bytes]:
    """The DAG files of an export, by their paths below the folder that Airflow syncs.

    Raises:
        DeployError: one of them is not valid Python, or there are none.
    """
    files = {path.removeprefix(_DAGS): text for path, text in exported.items() if path.startswith(_DAGS)}
    if not files:
        raise DeployError(
            f"the export for {environment}",
            expected="at least one DAG",
            found="none; an empty export would remove all deployed DAGs",
            hint="Check the output of `biocloud airflow export`.",
        )
    errors = []
    for path, text in files.items():
        try:
            ast.parse(text, filename=path)
        except (SyntaxError, ValueError) as error:
            errors.append(f"{path}: {error}")
    if errors:
        raise DeployError(
            f"the export for {environment}",
            expected="files that Python can parse",
            found="\n".join(["", *(f"  - {error}" for error in errors), ""]),
            hint="Nothing was deployed. Fix the template and export again.",
        )
    return {path: text.encode() for path, text in files.items()}


def apply(plan: Plan) -> None:
    """Upload new and changed files, then delete removed ones. Each file is one request, so no file is half-written.

    If it is interrupted, the next deployment completes it.

    Raises:
        LakeError: the bucket can't be written.
    """
    for change in plan.of("new", "changed"):
        plan.target.write(change.path, plan.files[change.path], labels=_labels(plan.environment, change.path))
    if removed := plan.of("removed"):
        plan.target.delete([change.path for change in removed])


def _labels(environment: str, path: str) -> dict[str, str]:
    return {_ENVIRONMENT_LABEL: environment, _NAME_LABEL: path}


def _changes(environment: str, target: DataLake, files: Mapping[str, bytes]) -> tuple[Change, ...]:
    found = {file.path: file for file in target.walk()}
    managed = {path for path in found if target.labels(path) == _labels(environment, path)}
    if unmanaged := sorted(files.keys() & found.keys() - managed):
        raise DeployError(
            ", ".join(target.uri(path) for path in unmanaged),
            expected=f"no file, or one that a deployment to {environment} has written",
            found="another file",
            hint="Nothing was deployed. Move the file, or rename the DAG.",
        )
    changes = []
    for path in sorted(files.keys() | found.keys()):
        data = files.get(path)
        kind: Kind
        if data is None:
            kind = "removed" if path in managed else "unmanaged"
        elif path not in found:
            kind = "new"
        else:
            kind = "unchanged" if target.read(path) == data else "changed"
        changes.append(Change(path, kind, found[path].size if data is None else len(data)))
    return tuple(changes)


def _refuse_stale(environment: str, folder: Path, fresh: Mapping[str, str]) -> None:
    there = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    stale = [path for path, text in fresh.items() if there.get(path) != text.encode()]
    stale += sorted(there.keys() - fresh.keys())
    if stale:
        raise DeployError(
            str(folder),
            expected="the export of the present definitions",
            found=f"other contents of {', '.join(sorted(stale))}",
            hint="Nothing was deployed. Run `uv run biocloud airflow export`, review the diff, and commit it.",
        )
