"""The resource `step_launcher`: what gets a step to where it runs.

What belongs here: choosing between Dagster's own process, the step launcher and Pipes, and doing a step through it.
What doesn't: submitting runs to Databricks (`step_launcher`, `pipes`), and the steps.

    none            the step runs in Dagster's own process, on the engine of the settings
    step launcher   Dagster sends the whole step to a cluster, with this code; there, the launcher is none
    Pipes           the step submits `databricks/run_step.py` of the branch, and hears from it
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
from pyspark.errors import AnalysisException

from biocloud_assets.errors import BiocloudError, EngineError
from biocloud_assets.launch.ahead import told
from biocloud_assets.launch.report import to_dagster
from biocloud_assets.resources import LakehouseResource
from biocloud_assets.run_step import Step, Told, checks_of, level_of, perform
from biocloud_assets.settings import Settings
from biocloud_assets.steps import Run

Context = dg.AssetExecutionContext | dg.AssetCheckExecutionContext | dg.OpExecutionContext


def step_launcher(settings: Settings) -> dg.ResourceDefinition:
    """The resource for an environment.

    Args:
        settings: `launches` chooses; what a launcher needs besides is read when a step is launched.

    Raises:
        EngineError: the packages for Databricks aren't there.
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


def run_step(context: Context, lakehouse: LakehouseResource, step_launcher: Any, step: Step) -> Iterator[Any]:
    """Do a step where it is to run, and yield what it reports, as Dagster takes it. See `reports`."""
    return map(to_dagster, reports(context, lakehouse, step_launcher, step))


def reports(context: Context, lakehouse: LakehouseResource, step_launcher: Any, step: Step) -> Iterator[Told]:
    """Do a step where it is to run.

    Args:
        context: Dagster's, of the step.
        lakehouse: where the data lies.
        step_launcher: the resource of that name.
        step: what is to be done.

    Yields:
        what it reports.

    Raises:
        dg.Failure: the step failed; it may be tried again if another try can mend it.
    """
    if step_launcher is not None and hasattr(step_launcher, "run"):  # Pipes; the other one has taken over long ago
        yield from step_launcher.run(context, step)
        return
    who = Run(lakehouse.engine, "dagster", context.run.run_id)
    with _no_retry_of_what_stays_wrong():
        place, curated = lakehouse.place(), lakehouse.curated()  # here: a runtime's session is that of this thread
        for report in told(step, lambda step: perform(step, place, curated, who)):
            for check in checks_of(report):
                if not check.passed:
                    context.log.log(level_of(check), check.description)
            yield report


@contextmanager
def _no_retry_of_what_stays_wrong() -> Iterator[None]:
    """Fail at once for what another try can't mend; only a lost connection or its like is worth one."""
    try:
        yield
    except (BiocloudError, AnalysisException) as error:
        raise dg.Failure(str(error), allow_retries=False) from error
