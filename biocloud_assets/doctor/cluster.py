"""The check that starts a cluster: one run of `databricks/run_step.py --doctor`, and what it found there."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biocloud_assets.doctor.context import DoctorContext
from biocloud_assets.doctor.findings import Finding, brief, failed, not_checked, ok
from biocloud_assets.doctor.step import parse
from biocloud_assets.environments import pinned
from biocloud_assets.launch import workspace
from biocloud_assets.steps import STEP_SCRIPT

if TYPE_CHECKING:
    from databricks.sdk.service.jobs import Run


def run(context: DoctorContext) -> Iterator[Finding]:
    """Run the probe as a step runs: the same code, cluster, libraries and principal."""
    from databricks.sdk.errors.base import DatabricksError

    with ExitStack() as stack:
        try:
            run_id = stack.enter_context(workspace.submitted(context.client, _submission(context)))
        except DatabricksError as error:
            advice = "The message names the key of environments.yml or the permission that is missing."
            yield failed("cluster", f"the run is refused: {brief(error)}", advice)
            return
        began = time.monotonic()
        try:
            ended = _follow(context, run_id)
        except (DatabricksError, TimeoutError) as error:
            found = f"the state of run {run_id} can't be read ({brief(error)}), and it {_cancel(context, run_id)}"
            yield not_checked("cluster", found, "See its page.")
            return
        except BaseException:
            _cancel(context, run_id)
            raise
        if ended is None:
            limit = context.environment.start_timeout_seconds + context.environment.timeout_seconds
            found = f"run {run_id} has not ended after {limit} seconds, and {_cancel(context, run_id)}"
            yield failed("cluster", found, "See its page.")
            return
    result = ended.state.result_state.value if ended.state and ended.state.result_state else "none"
    where = f"run {run_id}, {ended.run_page_url}"
    if result == "SUCCESS":
        yield ok("cluster", f"started, and ended after {time.monotonic() - began:.0f} seconds: {where}")
    else:
        advice = "Open the run's page: its log and its cluster's event log have more."
        yield failed("cluster", f"{result}: {workspace.reason(context.client, ended)} ({where})", advice)
    task = ended.tasks[0].run_id if ended.tasks else None
    try:
        output = context.client.jobs.get_run_output(task) if task is not None else None
    except (DatabricksError, TimeoutError) as error:
        yield not_checked("cluster: output of the run", brief(error), f"See the log of the run: {ended.run_page_url}.")
        return
    yield from parse(output.logs or "" if output is not None else "")


def _cancel(context: DoctorContext, run_id: int) -> str:
    """Cancel a run, and return what a finding says of that."""
    from databricks.sdk.errors.base import DatabricksError

    try:
        context.client.jobs.cancel_run(run_id)
    except (DatabricksError, TimeoutError) as error:
        return f"could not be cancelled, and may still be running: {brief(error)}"
    return "is cancelled"


def _submission(context: DoctorContext) -> dict[str, Any]:
    settings, environment = context.settings, context.environment
    reference = workspace.git_reference(settings)
    body = environment.submission(
        run_name=f"biocloud doctor {context.name} @ {reference}",
        git_reference=reference.git_source,
        task_key="doctor",
        script=STEP_SCRIPT,
        parameters=["--doctor", *workspace.locations(settings)],
        libraries=pinned(environment.libraries, Path("uv.lock")),
    )
    return {**body, "idempotency_token": uuid.uuid4().hex}


def _follow(context: DoctorContext, run_id: int) -> Run | None:
    """The run when it has ended; None if it takes longer than a step may."""
    environment = context.environment
    until = time.monotonic() + environment.start_timeout_seconds + environment.timeout_seconds
    while time.monotonic() < until:
        found = context.client.jobs.get_run(run_id)
        if workspace.has_ended(found):
            return found
        time.sleep(environment.poll_seconds)
    return None
