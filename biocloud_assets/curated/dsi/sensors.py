"""Publish again when deliveries were ingested.

The last publication records the version of the delivery log that it was made from. Nothing else is remembered, so that
a failed run is requested again, a few times.
"""

from datetime import UTC, datetime

import dagster as dg

from biocloud_assets.curated.dsi.assets import OBSERVATION
from biocloud_assets.curated.dsi.jobs import dsi_curated
from biocloud_assets.curated.dsi.results import LOG_VERSION
from biocloud_assets.ingest import delivery_log
from biocloud_assets.launch.attempts import Attempts
from biocloud_assets.launch.script import NOT_IN_AIRFLOW
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.resources import LakehouseResource
from biocloud_assets.settings import Settings

VERSION_TAG = "biocloud/delivery-log-version"
"""A run tag: the version of the delivery log for which the run was requested."""


def build_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor that publishes the day again when the delivery log has changed.

    Args:
        settings: of the environment; the sensor is running by default if Dagster is the scheduler.
    """

    @dg.sensor(
        name="dsi_curated_on_delivery",
        job=dsi_curated,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING
        if settings.scheduler == "dagster"
        else dg.DefaultSensorStatus.STOPPED,
        metadata={
            NOT_IN_AIRFLOW: "Airflow publishes by the schedule of the DAG `dsi_curated`, within a day; "
            "a person triggers it for a publication that can't wait."
        },
        description="Publishes the day again when the delivery log has changed since the last publication.",
    )
    def dsi_curated_on_delivery(
        context: dg.SensorEvaluationContext, lakehouse: LakehouseResource
    ) -> dg.SensorResult | dg.SkipReason:
        if not delivery_log.ingested(lakehouse.tables(), CONTRACT):
            return dg.SkipReason("nothing is ingested yet")
        version = lakehouse.tables().version(CONTRACT.address(CONTRACT.log))
        if version == _published_version(context.instance):
            return dg.SkipReason("the last publication is of everything that is ingested")
        if context.cursor != str(version):
            # Several deliveries often arrive together, and are ingested one after the other.
            return dg.SensorResult(
                skip_reason=dg.SkipReason("the delivery log has changed; published if the next tick sees no change"),
                cursor=str(version),
            )
        attempts = Attempts(
            context.instance.get_run_records(dg.RunsFilter(job_name=dsi_curated.name, tags={VERSION_TAG: str(version)}))
        )
        reason = attempts.reason_to_wait(datetime.now(UTC))
        if reason is not None:
            return dg.SkipReason(reason)
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(
                    # Two ticks on the same state give the same key, so one run; another attempt has another key.
                    run_key=f"{version}/{attempts.count}",
                    partition_key=datetime.now(UTC).date().isoformat(),
                    tags={VERSION_TAG: str(version)},
                )
            ],
            cursor=context.cursor,
        )

    return dsi_curated_on_delivery


def _published_version(instance: dg.DagsterInstance) -> int | None:
    """The version of the delivery log that the latest day was last published from; None if it isn't known."""
    days = instance.get_materialized_partitions(OBSERVATION)
    if not days:
        return None
    found = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=OBSERVATION, asset_partitions=[max(days)]), limit=1
    )
    materialization = found.records[0].asset_materialization if found.records else None
    value = materialization.metadata.get(LOG_VERSION) if materialization else None
    return None if value is None else int(str(value.value))
