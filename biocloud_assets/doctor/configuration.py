"""Checks that need no connection: what the files say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from biocloud_assets.access.grants import volumes
from biocloud_assets.doctor.context import DoctorContext
from biocloud_assets.doctor.findings import Finding, failed, ok, warning
from biocloud_assets.environments import pinned
from biocloud_assets.launch import workspace

_PLACEHOLDER = re.compile(r"\bexample\b|0{12}|\b0101-000000-")
"""What the sample of `databricks/environments.yml` has in place of real names and numbers."""

STANDARD_MODES = {"USER_ISOLATION", "DATA_SECURITY_MODE_STANDARD"}
"""Access modes in which Python has no instance profile."""


def placeholders(context: DoctorContext) -> Iterator[Finding]:
    """No key has a value of the sample any more."""
    name = "placeholders in environments.yml"
    left = [(key, value) for key, value in _texts(context.environment.model_dump()) if _PLACEHOLDER.search(value)]
    for key, value in left:
        yield failed(f"{name}: {key}", value, f"Put the real value into {context.settings.environments}.")
    if not left:
        yield ok(name, "none")


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """All texts in nested data, with their paths."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{path}.{index}")


def libraries(context: DoctorContext) -> Iterator[Finding]:
    """Each library of the environment has a version in uv.lock."""
    yield ok("library versions", ", ".join(pinned(context.environment.libraries, Path("uv.lock"))))


def git_reference(context: DoctorContext) -> Iterator[Finding]:
    """The code that runs is known: a branch, a tag or a commit."""
    reference = workspace.git_reference(context.settings)
    yield ok("Git reference", f"the {reference.kind} {reference.name} of {context.environment.git.url}")


def file_access(context: DoctorContext) -> Iterator[Finding]:
    """Python on the compute has a way to the files: an instance profile in dedicated access mode, or volumes."""
    name, environment = "access to files", context.environment
    paths = volumes(environment)
    missing = [use for use in ("landing", "curated", "files") if use not in paths]
    if not missing:
        yield ok(name, "through volumes")
        return
    cluster = environment.cluster
    if cluster is None or cluster.data_security_mode in STANDARD_MODES:
        mode = "serverless compute" if cluster is None else f"data_security_mode {cluster.data_security_mode}"
        yield failed(
            name,
            f"{mode}, and no volume for {', '.join(missing)}",
            "Python has no instance profile there: use a dedicated cluster, or volumes. See docs/databricks.md.",
        )
    elif cluster.instance_profile_arn is None:
        yield warning(
            name,
            f"no instance_profile_arn, and no volume for {', '.join(missing)}",
            "Without either, S3 can only be reached with credentials in spark_env_vars, by reference to secrets.",
        )
    else:
        yield ok(name, "a dedicated cluster with an instance profile")
