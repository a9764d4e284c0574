"""What both ways to Databricks share: the client, the token that makes a submission repeatable, the branch.

What belongs here: talking to a workspace. What doesn't: what is submitted (`step_launcher`, `pipes`).
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from biocloud_assets.environments import pinned
from biocloud_assets.errors import SettingsError
from biocloud_assets.settings import Settings

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.service.jobs import Run

_RETRY_SECONDS = 300


def host(settings: Settings) -> str:
    """The workspace's address.

    Raises:
        SettingsError: it isn't set.
    """
    if not settings.databricks_host:
        raise SettingsError(
            "DATABRICKS_HOST",
            expected=f"the address of the workspace in which the steps of {settings.env} run",
            found="nothing",
            hint="Set DATABRICKS_HOST, and DATABRICKS_CLIENT_ID with DATABRICKS_CLIENT_SECRET or DATABRICKS_TOKEN; "
            "or set BIOCLOUD_LAUNCHER=none to run the steps here.",
        )
    return settings.databricks_host


def client(settings: Settings) -> WorkspaceClient:
    """A client of the workspace; its credentials are found the Databricks-standard way."""
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.core import Config

    # It repeats what got lost or was throttled, but for no longer than a step may wait for its cluster.
    retry_seconds = min(_RETRY_SECONDS, settings.environment.start_timeout_seconds)
    return WorkspaceClient(config=Config(host=host(settings), product="biocloud", retry_timeout_seconds=retry_seconds))


def reason(client: WorkspaceClient, run: Run) -> str:
    """Why a run ended as it did, in the words of Databricks: those of the script, if it came that far."""
    from databricks.sdk.errors.base import DatabricksError

    task = run.tasks[0].run_id if run.tasks else None
    try:
        error = client.jobs.get_run_output(task).error if task is not None else None
    except DatabricksError:  # a run that never had a cluster has no output, only a state
        error = None
    return error or (run.state and run.state.state_message) or "no reason given"


def idempotency_token(run_id: str, step_key: str, attempt: int) -> str:
    """The same for the same attempt at a step, so that a submission whose answer got lost can be repeated.

    It has 64 characters, the most that Databricks takes.
    """
    return hashlib.sha256(f"{run_id}/{step_key}/{attempt}".encode()).hexdigest()


def libraries(names: list[str], lock: Path = Path("uv.lock")) -> list[dict[str, dict[str, str]]]:
    """Libraries for a cluster, in the versions of uv.lock, as the Jobs API takes them."""
    return [{"pypi": {"package": package}} for package in pinned(names, lock)]


def branch(settings: Settings) -> str:
    """The branch whose code is to run: the setting, or that of the current folder.

    Raises:
        SettingsError: there is neither.
    """
    if settings.git_branch is not None:
        return settings.git_branch
    try:
        asked = subprocess.run(
            ["git", "rev-parse", "--abbrev-ref", "HEAD"], capture_output=True, text=True, check=True, timeout=30
        )
        found = asked.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        found = "no Git repository in the current folder"
    if found == "HEAD" or " " in found:
        raise SettingsError(
            "BIOCLOUD_GIT_BRANCH",
            expected="the branch whose code runs on Databricks",
            found="a commit without a branch" if found == "HEAD" else found,
            hint="Set BIOCLOUD_GIT_BRANCH to a branch that has been pushed.",
        )
    return found
