"""The resource `step_launcher`, which decides where a step runs, and running a step through it.

The values of `BIOCLOUD_LAUNCHER`:

    none            the step runs in Dagster's own process, on the engine of the settings
    step_launcher   Dagster sends the whole op to a cluster, with this code; there, the launcher is none
    pipes           the op submits `databricks/run_step.py` from the Git repository, and receives its results
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import dagster as dg

from biocloud_assets.errors import (
    BiocloudError,
    DeliveryRefusedError,
    EngineError,
    LakeError,
    is_transient,
    storage_failure,
)
from biocloud_assets.resources import LakehouseResource
from biocloud_assets.settings import Settings
from biocloud_assets.steps import CheckResult, RunInfo, StepRequest, StepResult
from biocloud_assets.version import code_commit

Context = dg.AssetExecutionContext | dg.AssetCheckExecutionContext | dg.OpExecutionContext

MAX_RETRIES = 2
"""How often a step is repeated after an infrastructure error. Errors in data or settings are never repeated."""

RETRY_DELAY_SECONDS = 5
"""The pause before the first repetition; it doubles with each one, with jitter."""

REMOTE_MAX_RETRIES = 5
"""How often a step on Databricks is repeated after an infrastructure error."""

REMOTE_RETRY_DELAY_SECONDS = 60
"""The pause before its first repetition: with 1, 2, 4, 8 and 16 minutes the retries take more than half an hour."""

PARTITION_TAG = "dagster/partition"
"""Dagster's own run tag with the partition."""

OUTCOME_TAG = "biocloud/outcome"
"""A run tag: why the run failed, one of the values below; a run that was killed or terminated has none."""

REASON_TAG = "biocloud/reason"
"""A run tag: why the run failed, in a sentence."""

REFUSED, FAILED, INFRASTRUCTURE, NO_OUTCOME = "refused", "failed", "infrastructure", "none"
"""Values of the outcome: the delivery breaks the contract; another error that a repetition can't help; the
infrastructure has failed all tries; the run was executed again and hasn't failed yet."""

FINGERPRINT_TAG = "biocloud/fingerprint"
"""A run tag: the fingerprint of the delivery's files for which the run was started."""

REFUSAL_TAGS = (OUTCOME_TAG, REASON_TAG, FINGERPRINT_TAG)

ENVIRONMENT_TAG = "biocloud/environment"
"""A run tag: the environment that the run was created in; no other one executes it."""

_cached_commit = lru_cache(maxsize=1)(code_commit)


def step_launcher(settings: Settings) -> dg.ResourceDefinition:
    """The resource `step_launcher` of an environment.

    Args:
        settings: `launches` chooses; what a launcher needs besides is read when a step is launched.

    Raises:
        EngineError: the packages for Databricks aren't installed.
    """
    try:
        match settings.launches:
            case "none":
                return dg.ResourceDefinition.none_resource("A step runs in Dagster's own process.")
            case "step_launcher":
                from biocloud_assets.launch.step_launcher import resource
            case "pipes":
                from biocloud_assets.launch.pipes import resource
    except ImportError as error:
        raise EngineError(
            f"BIOCLOUD_LAUNCHER={settings.launches}",
            expected="the package dagster-databricks",
            found="none",
            hint="Install the extra, `uv sync --extra databricks`, or set BIOCLOUD_LAUNCHER=none.",
        ) from error
    return resource(settings)


def run_step(
    context: Context,
    lakehouse: LakehouseResource,
    launcher: Any,
    request: StepRequest,
    run_here: Callable[[RunInfo], Iterator[StepResult]],
) -> Iterator[StepResult]:
    """Run a step where the launcher says.

    Args:
        context: Dagster's, of the op.
        lakehouse: the resource `lakehouse`.
        launcher: the resource `step_launcher`.
        request: what the step is asked to do.
        run_here: runs the step in this process.

    Yields:
        the results of the step.

    Raises:
        dg.Failure: the step failed, and a repetition can't help.
        dg.RetryRequested: the step failed for a reason that may pass.
    """
    _start(context, lakehouse.environment)
    remote = launcher is not None or lakehouse.engine == "databricks"
    try:
        # The step launcher has replaced the whole op before this point; only Pipes has a method for a single step.
        if launcher is not None and hasattr(launcher, "run"):
            results = launcher.run(context, request)
        else:
            results = run_here(RunInfo("dagster", context.run.run_id, lakehouse.engine, _cached_commit()))
        for result in results:
            if isinstance(result, CheckResult) and not result.passed:
                context.log.log(result.log_level, f"{result.asset}, check {result.name}: {result.description}")
            yield result
    except DeliveryRefusedError as error:
        raise refuse(context, str(error), Refusal(error.delivery, error.summary, error.fingerprint)) from error
    except dg.Failure as error:
        if error.allow_retries:
            raise _retry(context, remote, error) from error
        if OUTCOME_TAG in error.metadata:
            raise
        raise _failure(context, str(error.description), error.metadata) from error
    except Exception as error:
        if is_transient(error):
            raise _retry(context, remote, error) from error
        if isinstance(error, BiocloudError):
            raise _failure(context, str(error)) from error
        if (found := storage_failure(error)) is not None:
            problem = LakeError(
                lakehouse.lake_root,
                expected="a lake that can be written",
                found=found,
                hint="Check the permissions and the space that is left.",
            )
            raise _failure(context, str(problem)) from error
        if type(error).__module__.startswith("databricks.sdk.errors"):  # the workspace refuses the request
            raise _failure(context, str(error)) from error
        raise


def _failure(context: Context, message: str, metadata: Mapping[str, Any] | None = None) -> dg.Failure:
    """Note in the run's tags that a repetition can't help, and return the failure to raise."""
    tags = failure_tags(FAILED, message)
    tag_run(context.instance, context.run.run_id, tags)
    return dg.Failure(message, metadata={**(metadata or {}), **tags}, allow_retries=False)


def _retry(context: Context, remote: bool, error: Exception) -> dg.RetryRequested:
    """Return the request to repeat the step; if there is no try left, note in the run's tags what has failed them."""
    if context.retry_number >= (REMOTE_MAX_RETRIES if remote else MAX_RETRIES):
        tag_run(context.instance, context.run.run_id, failure_tags(INFRASTRUCTURE, str(error)))
    return retry(context.retry_number, remote=remote)


def failure_tags(outcome: str, reason: str) -> dict[str, str]:
    """The run tags of a failed run.

    Args:
        outcome: `FAILED` or `INFRASTRUCTURE`.
        reason: the error; its first line is kept.
    """
    return {OUTCOME_TAG: outcome, REASON_TAG: reason.partition("\n")[0][:300]}


def _start(context: Context, environment: str) -> None:
    """Record the environment in the run's tags, and remove what a run that is executed again has left there.

    Raises:
        dg.Failure: the run was created in another environment.
    """
    tags = context.run.tags
    created_in = tags.get(ENVIRONMENT_TAG, environment)
    if created_in != environment:
        raise dg.Failure(
            f"run {context.run.run_id}: expected one that was created in the environment {environment}, found "
            f"{created_in}. Start a new run, or use the Dagster home of {created_in}.",
            allow_retries=False,
        )
    new = {} if ENVIRONMENT_TAG in tags else {ENVIRONMENT_TAG: environment}
    if OUTCOME_TAG in tags and not context.retry_number:  # Dagster copies all tags, and can't remove one.
        new |= {OUTCOME_TAG: NO_OUTCOME, REASON_TAG: NO_OUTCOME}
    if new:
        tag_run(context.instance, context.run.run_id, new)


@dataclass(frozen=True)
class Refusal:
    """A refused delivery.

    Attributes:
        delivery: its name, `yyyy-mm-dd-HH:MM:SS`.
        summary: why it is refused, in a sentence.
        fingerprint: the digest of its files.
    """

    delivery: str
    summary: str
    fingerprint: str


def refuse(context: Context, message: str, refusal: Refusal) -> dg.Failure:
    """Note in the run's tags that its delivery is refused, which sensors and the command line read.

    Args:
        context: Dagster's, of the op.
        message: all violations.
        refusal: what to note.

    Returns:
        the failure to raise.
    """
    tags = {OUTCOME_TAG: REFUSED, REASON_TAG: refusal.summary, FINGERPRINT_TAG: refusal.fingerprint}
    tag_run(context.instance, context.run.run_id, tags)
    return dg.Failure(message, metadata={**tags, "delivery": refusal.delivery}, allow_retries=False)


def tag_run(instance: dg.DagsterInstance, run_id: str, tags: Mapping[str, str]) -> None:
    """Add tags to a run; the instance that the step launcher makes on a cluster doesn't hold it.

    Args:
        instance: Dagster's.
        run_id: the run.
        tags: the tags; those that the run has already are replaced.
    """
    if instance.has_run(run_id):
        instance.add_run_tags(run_id, dict(tags))


def retry(attempt: int, *, remote: bool, retries: int | None = None) -> dg.RetryRequested:
    """Ask Dagster to repeat the step; unlike a retry policy, this never repeats a step that was terminated (#15026).

    Args:
        attempt: how often the step has been repeated already.
        remote: whether the step runs on Databricks, where an outage lasts longer and a repetition starts a cluster.
        retries: how often it is repeated at most; by default as often as after an infrastructure error.

    Returns:
        the exception to raise.
    """
    limit, first = (REMOTE_MAX_RETRIES, REMOTE_RETRY_DELAY_SECONDS) if remote else (MAX_RETRIES, RETRY_DELAY_SECONDS)
    # The jitter only prolongs the pause, so that the pauses together are as long as promised.
    return dg.RetryRequested(limit if retries is None else retries, first * 2**attempt * random.uniform(1, 1.25))
