"""The Databricks workspace in which steps run: client, Git reference, idempotency token, and why a run failed."""

from __future__ import annotations

import hashlib
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

from biocloud_assets.errors import SettingsError
from biocloud_assets.settings import Settings

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.service.jobs import Run

_RETRY_SECONDS = 300

CANCEL_SECONDS = 5
"""How long `cancel_active` may take."""

_active: dict[int, WorkspaceClient] = {}
_submission = threading.Lock()  # held while a run is submitted and its identifier isn't known yet


def host(settings: Settings) -> str:
    """The workspace's address.

    Args:
        settings: of an environment on Databricks.

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
    """A client of the workspace; its credentials are found the Databricks-standard way.

    Args:
        settings: of an environment on Databricks.

    Raises:
        SettingsError: the address of the workspace isn't set.
        ValueError: databricks-sdk finds no credentials.
    """
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.core import Config

    # It repeats failed and throttled requests, but no longer than a step may wait for its cluster.
    retry_seconds = min(_RETRY_SECONDS, settings.environment.start_timeout_seconds)
    return WorkspaceClient(config=Config(host=host(settings), product="biocloud", retry_timeout_seconds=retry_seconds))


def submit(client: WorkspaceClient, body: dict[str, Any]) -> int:
    """Submit a run, and return its identifier.

    Args:
        client: of the workspace.
        body: that of the Jobs API, https://docs.databricks.com/api/workspace/jobs/submit.

    Raises:
        DatabricksError: the workspace refuses the run, or can't be reached.
    """
    from databricks.sdk.service import jobs

    types: dict[str, Any] = {
        "access_control_list": jobs.JobAccessControlRequest,
        "environments": jobs.JobEnvironment,
        "git_source": jobs.GitSource,
        "run_as": jobs.JobRunAs,
        "tasks": jobs.SubmitTask,
    }
    arguments = dict(body)
    for name in types.keys() & body.keys():
        value = body[name]
        parse = types[name].from_dict
        arguments[name] = [parse(one) for one in value] if isinstance(value, list) else parse(value)
    return int(client.jobs.submit(**arguments).bind()["run_id"])


@contextmanager
def submitted(client: WorkspaceClient, body: dict[str, Any]) -> Iterator[int]:
    """Submit a run, which `cancel_active` cancels while the context is open.

    Args:
        client: of the workspace.
        body: that of the Jobs API.

    Yields:
        the identifier of the run.

    Raises:
        DatabricksError: the workspace refuses the run, or can't be reached.
    """
    with _submission:
        run_id = submit(client, body)
        _active[run_id] = client
    try:
        yield run_id
    finally:
        del _active[run_id]


def cancel_active() -> list[str]:
    """Cancel the active runs of this process, which is about to end and submits no further run.

    This takes at most `CANCEL_SECONDS`, also if the workspace doesn't answer.

    Returns:
        a message for each run.
    """
    until = time.monotonic() + CANCEL_SECONDS
    messages = []
    if not _submission.acquire(timeout=CANCEL_SECONDS):  # never released, so that no further run is submitted
        messages.append("A run was being submitted to Databricks, and may start. Look for it in the workspace.")
    for run_id, client in list(_active.items()):
        cancelled = threading.Event()
        thread = threading.Thread(target=_cancel, args=(client, run_id, cancelled), daemon=True)
        thread.start()
        thread.join(max(until - time.monotonic(), 0.0))
        run = f"Databricks run {run_id} in {client.config.host}"
        if cancelled.is_set():
            messages.append(f"{run} was cancelled.")
        else:
            messages.append(f"{run} could not be cancelled, and may still be running. Cancel it in the workspace.")
    return messages


def _cancel(client: WorkspaceClient, run_id: int, cancelled: threading.Event) -> None:
    with suppress(Exception):  # of any kind: the caller reports that the run wasn't cancelled
        client.jobs.cancel_run(run_id)
        cancelled.set()


def locations(settings: Settings) -> list[str]:
    """Where a step on the cluster reads and writes, as arguments of `databricks/run_step.py`.

    Args:
        settings: of an environment on Databricks.
    """
    environment = settings.environment
    locations = environment.locations(settings.landing, settings.lake, settings.curated)
    return [*locations, "--region", environment.region]


def reason(client: WorkspaceClient, run: Run) -> str:
    """Why a run ended as it did: the error of the script, or else the message of Databricks.

    Args:
        client: of the workspace.
        run: a run that has ended.
    """
    from databricks.sdk.errors.base import DatabricksError

    task = run.tasks[0].run_id if run.tasks else None
    try:
        error = client.jobs.get_run_output(task).error if task is not None else None
    except (DatabricksError, TimeoutError):  # a run that never had a cluster may have no output; or an outage
        error = None
    return error or (run.state and run.state.state_message) or "no reason given"


def idempotency_token(run_id: str, step_key: str, attempt: int) -> str:
    """The same for the same attempt at a step, so that a submission without an answer can be repeated.

    It has 64 characters, the most that Databricks accepts.

    Args:
        run_id: Dagster's identifier of the run.
        step_key: the step in it.
        attempt: how often the step was repeated before, from 0.
    """
    return hashlib.sha256(f"{run_id}/{step_key}/{attempt}".encode()).hexdigest()


@dataclass(frozen=True)
class GitReference:
    """What Databricks checks out: Databricks resolves a branch or a tag anew for each run, so only a commit is fixed.

    Attributes:
        kind: what it is.
        name: the name of the branch or tag, or the commit.
    """

    kind: Literal["branch", "tag", "commit"]
    name: str

    def __str__(self) -> str:
        return self.name[:12] if self.kind == "commit" else self.name

    @property
    def git_source(self) -> dict[str, str]:
        """The keys of `git_source` in the Jobs API."""
        return {f"git_{self.kind}": self.name}


def git_reference(settings: Settings) -> GitReference:
    """The code that is to run: the setting, or the branch of the current folder.

    Args:
        settings: `git_branch`, `git_tag` or `git_commit`.

    Raises:
        SettingsError: there is neither, or more than one setting.
    """
    given = [
        reference
        for reference in (
            GitReference("branch", settings.git_branch or ""),
            GitReference("tag", settings.git_tag or ""),
            GitReference("commit", settings.git_commit or ""),
        )
        if reference.name
    ]
    if len(given) > 1:
        raise SettingsError(
            "the Git reference",
            expected="one of BIOCLOUD_GIT_BRANCH, BIOCLOUD_GIT_TAG and BIOCLOUD_GIT_COMMIT",
            found=" and ".join(f"{reference.kind} {reference.name}" for reference in given),
            hint="Unset the others.",
        )
    return given[0] if given else GitReference("branch", _current_branch())


def branch(settings: Settings) -> str:
    """The branch of the settings, or that of the current folder.

    Args:
        settings: `git_branch`.

    Raises:
        SettingsError: there is neither.
    """
    return settings.git_branch or _current_branch()


def _current_branch() -> str:
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
            hint="Set BIOCLOUD_GIT_BRANCH, BIOCLOUD_GIT_TAG or BIOCLOUD_GIT_COMMIT to one that has been pushed.",
        )
    return found


class Cause(Enum):
    """What made a run fail, and how often it is repeated therefore."""

    INFRASTRUCTURE = "infrastructure"
    """The cloud or the platform: the step is repeated for more than half an hour."""

    UNKNOWN = "unknown"
    """The step was lost without a reason that its script has given: it is repeated once."""

    PERMANENT = "permanent"
    """A repetition can't help, or a person has cancelled the run."""


# databricks-sdk, `TerminationCodeCode`, explains each; `TerminationTypeType` says whose error it is.
INFRASTRUCTURE_TYPES = {"CLOUD_FAILURE", "INTERNAL_ERROR"}
INFRASTRUCTURE_CODES = {
    "CLOUD_FAILURE",
    "CLUSTER_ERROR",
    "CLUSTER_REQUEST_LIMIT_EXCEEDED",
    "DRIVER_ERROR",
    "INTERNAL_ERROR",
    "MAX_CONCURRENT_RUNS_EXCEEDED",
    "MAX_JOB_QUEUE_SIZE_EXCEEDED",
    "MAX_SPARK_CONTEXTS_EXCEEDED",
    "REPOSITORY_CHECKOUT_FAILED",
    "STORAGE_ACCESS_ERROR",
    "WORKSPACE_RUN_LIMIT_EXCEEDED",
}
# CANCELED is by the platform, which has a limit of time; by a person it is USER_CANCELED.
UNKNOWN_CODES = {"CANCELED", "LIBRARY_INSTALLATION_ERROR", "RUN_EXECUTION_ERROR"}


def has_ended(run: Run) -> bool:
    """Whether a run has ended, in whatever way."""
    state = run.state.life_cycle_state if run.state is not None else None
    return state is not None and state.value in {"INTERNAL_ERROR", "SKIPPED", "TERMINATED"}


def cause(run: Run) -> Cause:
    """What made a run fail, as Databricks says it.

    Args:
        run: a run that has ended without success. Its `termination_details` decide
            (https://databricks-sdk-py.readthedocs.io/en/latest/dbdataclasses/jobs.html).
    """
    details = run.status.termination_details if run.status is not None else None
    code = details.code.value if details is not None and details.code is not None else ""
    kind = details.type.value if details is not None and details.type is not None else ""
    if code == "USER_CANCELED":
        return Cause.PERMANENT
    if kind in INFRASTRUCTURE_TYPES or code in INFRASTRUCTURE_CODES:
        return Cause.INFRASTRUCTURE
    return Cause.UNKNOWN if code in UNKNOWN_CODES else Cause.PERMANENT
