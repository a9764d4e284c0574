"""The job that publishes the curated layer, and its schedule."""

import dagster as dg

from biocloud_assets.curated.dsi.assets import MANIFEST, OBSERVATION, RETENTION
from biocloud_assets.ingest import delivery_log
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.resources import LakehouseResource
from biocloud_assets.settings import Settings

dsi_curated = dg.define_asset_job(
    "dsi_curated",
    selection=dg.AssetSelection.assets(OBSERVATION, MANIFEST, RETENTION),
    description="Publish the observations of a day for DSI, write the manifest, and delete the folders of old days.",
    tags={"domain": "dsi"},
)


def build_schedule(settings: Settings) -> dg.ScheduleDefinition:
    """The daily schedule, at 06:30 UTC.

    Args:
        settings: of the environment; the schedule is running by default if Dagster is the scheduler.
    """

    @dg.schedule(
        job=dsi_curated,
        name="dsi_curated_daily",
        cron_schedule="30 6 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING
        if settings.scheduler == "dagster"
        else dg.DefaultScheduleStatus.STOPPED,
        description="Publishes the current observations, once a day.",
    )
    def dsi_curated_daily(
        context: dg.ScheduleEvaluationContext, lakehouse: LakehouseResource
    ) -> dg.RunRequest | dg.SkipReason:
        if not delivery_log.ingested(lakehouse.tables(), CONTRACT):
            return dg.SkipReason("nothing is ingested yet")
        day = context.scheduled_execution_time.date().isoformat()
        return dg.RunRequest(run_key=day, partition_key=day)

    return dsi_curated_daily
