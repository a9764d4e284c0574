"""The maintenance in Dagster: an op, the job `table_maintenance` and its weekly schedule."""

# No `from __future__ import annotations`: Dagster reads the annotation of an op's config as it stands.
from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from biocloud_assets.launch.launcher import run_step
from biocloud_assets.launch.results import to_dagster
from biocloud_assets.launch.script import script_tags
from biocloud_assets.maintenance.step import maintenance_step
from biocloud_assets.maintenance.tables import DEFAULT_DAYS
from biocloud_assets.resources import LakehouseResource
from biocloud_assets.settings import Settings
from biocloud_assets.steps import STEP_SCRIPT, Observation, RunInfo, StepRequest

_COLUMNS = ("files_before", "files_after", "deleted_files", "deleted_log_files", "reclaimed_bytes")


class MaintenanceConfig(dg.Config):
    """What one run of the job does."""

    retention_days: int = Field(
        default=DEFAULT_DAYS, description=f"for how many days replaced files are kept, at least {DEFAULT_DAYS}"
    )
    dry_run: bool = Field(default=False, description="change nothing, and show what would be done")


@dg.op(
    tags=script_tags(
        STEP_SCRIPT,
        [
            "--maintain",
            f"--retention-days={DEFAULT_DAYS}",
            "--landing-root={landing_root}",
            "--lake-root={lake_root}",
            "--catalog={catalog}",
            "--orchestrator=airflow",
            "--run-id={run_id}",
        ],
    )
)
def maintain_tables(
    context: dg.OpExecutionContext,
    config: MaintenanceConfig,
    lakehouse: LakehouseResource,
    step_launcher: dg.ResourceParam[Any],
) -> None:
    """Merge small files of the raw tables, delete replaced files, and delete old log files.

    Raises:
        dg.Failure: the number of days is too small, or ingests wrote a table at every attempt.
    """
    request = StepRequest(maintain=True, retention_days=config.retention_days, dry_run=config.dry_run)
    records = []

    def run_here(_: RunInfo) -> Iterator[Observation]:
        engine = lakehouse.checked_engine
        return maintenance_step(engine, lakehouse.session, lakehouse.lake(), request, lakehouse.catalog)

    for result in run_step(context, lakehouse, step_launcher, request, run_here):
        assert isinstance(result, Observation), result
        observed = to_dagster(result)
        assert isinstance(observed, dg.AssetObservation), observed
        context.log_event(observed)
        records.append(
            dg.TableRecord({"table": result.asset, **{name: result.metadata[name]["raw_value"] for name in _COLUMNS}})
        )
    columns = [dg.TableColumn("table"), *(dg.TableColumn(name, "int") for name in _COLUMNS)]
    reclaimed = sum(int(str(record.data["reclaimed_bytes"])) for record in records)
    context.add_output_metadata(
        {"tables": dg.MetadataValue.table(records, dg.TableSchema(columns)), "reclaimed_bytes": reclaimed}
    )


@dg.job(name="table_maintenance")
def job() -> None:
    """Merge small files of the raw tables, delete replaced files, and delete old log files."""
    maintain_tables()


def build_schedule(settings: Settings) -> dg.ScheduleDefinition:
    """The weekly schedule, on Sundays at 03:45 UTC.

    Args:
        settings: of the environment; the schedule is running by default if Dagster is the scheduler.
    """
    return dg.ScheduleDefinition(
        name="table_maintenance_weekly",
        job=job,
        cron_schedule="45 3 * * 0",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING
        if settings.scheduler == "dagster"
        else dg.DefaultScheduleStatus.STOPPED,
        description="Maintains the raw tables, once a week.",
    )
