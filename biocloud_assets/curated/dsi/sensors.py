"""Publishing anew when deliveries have come.

What belongs here: when to ask for a run. What doesn't: what a run does.

The last publication tells from which version of the delivery log it was made. Nothing else is remembered, so a run that
was lost or failed is asked for again, a few times.
"""

from datetime import UTC, datetime, timedelta

import dagster as dg

from biocloud_assets.curated.dsi.assets import OBSERVATION
from biocloud_assets.curated.dsi.jobs import dsi_curated
from biocloud_assets.curated.dsi.reports import LOG_VERSION
from biocloud_assets.launch.script import NOT_IN_AIRFLOW
from biocloud_assets.raw.dsi import log
from biocloud_assets.raw.dsi.contract import LOG
from biocloud_assets.resources import LakehouseResource
from biocloud_assets.settings import Settings
from biocloud_assets.spark import delta

VERSION_TAG = "biocloud/delivery-log-version"
"""The run tag with the version of the delivery log that the run was asked for."""

_TRIES = 3
_LOST_AFTER = timedelta(hours=6)
"""A run whose process was killed stays "started" for ever; one without news for so long is taken for lost."""


def build_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor, for an environment: on where Dagster is in charge."""

    @dg.sensor(
        name="dsi_curated_on_delivery",
        job=dsi_curated,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING
        if settings.leader == "dagster"
        else dg.DefaultSensorStatus.STOPPED,
        metadata={
            NOT_IN_AIRFLOW: "Airflow publishes by the schedule of the DAG `dsi_curated`, a day later at most; "
            "a person starts it by hand for what can't wait"
        },
        description="Publishes the day anew when the delivery log has changed since the last publication.",
    )
    def dsi_curated_on_delivery(
        context: dg.SensorEvaluationContext, lakehouse: LakehouseResource
    ) -> dg.SensorResult | dg.SkipReason:
        if not log.ingested(lakehouse.lake()):
            return dg.SkipReason("nothing is ingested yet")
        version = delta.version(lakehouse.lake(), LOG.path)
        if version == _published(context.instance):
            return dg.SkipReason("the last publication is of all that is ingested")
        if context.cursor != str(version):
            # Deliveries often come several at a time, and are ingested one after the other.
            return dg.SensorResult(
                skip_reason=dg.SkipReason("the delivery log has changed; published if the next look sees no more"),
                cursor=str(version),
            )
        runs = context.instance.get_run_records(
            dg.RunsFilter(job_name=dsi_curated.name, tags={VERSION_TAG: str(version)})
        )
        since_news = datetime.now(UTC) - max(
            (run.update_timestamp.replace(tzinfo=UTC) for run in runs), default=datetime.now(UTC)
        )
        if any(not run.dagster_run.is_finished for run in runs) and since_news < _LOST_AFTER:
            return dg.SkipReason("a run is under way")
        if len(runs) >= _TRIES:
            return dg.SkipReason(f"{len(runs)} runs failed; run it by hand when the cause is gone")
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(
                    # The same key from two ticks on the same state is one run; another try has another key.
                    run_key=f"{version}/{len(runs)}",
                    partition_key=datetime.now(UTC).date().isoformat(),
                    tags={VERSION_TAG: str(version)},
                )
            ],
            cursor=context.cursor,
        )

    return dsi_curated_on_delivery


def _published(instance: dg.DagsterInstance) -> int | None:
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
