"""The code location: all Dagster definitions of an environment."""

from __future__ import annotations

import dagster as dg

from biocloud_assets.access import jobs as access
from biocloud_assets.curated.dsi.assets import build_assets
from biocloud_assets.curated.dsi.jobs import build_schedule, dsi_curated
from biocloud_assets.curated.dsi.sensors import build_sensor
from biocloud_assets.launch.failure_messages import build_failure_sensor
from biocloud_assets.launch.launcher import step_launcher
from biocloud_assets.maintenance import jobs as maintenance
from biocloud_assets.raw import contracts
from biocloud_assets.raw.assets import build_source
from biocloud_assets.raw.sensors import build_delivery_sensor, build_external_ingest_sensor
from biocloud_assets.resources import LakehouseResource
from biocloud_assets.scheduler import skip_unless_scheduler
from biocloud_assets.settings import Settings


def build_definitions(settings: Settings) -> dg.Definitions:
    """All definitions.

    Args:
        settings: of the environment.
    """
    sources = [build_source(contract, environment=settings.env) for contract in contracts()]
    sensors, schedules = skip_unless_scheduler(
        settings,
        [*(build_delivery_sensor(source, settings) for source in sources), build_sensor(settings)],
        [build_schedule(settings), access.schedule, maintenance.build_schedule(settings)],
    )
    return dg.Definitions(
        assets=[*(source.assets for source in sources), build_assets(settings)],
        jobs=[*(source.job for source in sources), dsi_curated, access.job, maintenance.job],
        schedules=schedules,
        sensors=[
            *sensors,
            *(build_external_ingest_sensor(source, settings) for source in sources),
            build_failure_sensor(settings),
        ],
        resources={
            "lakehouse": LakehouseResource.from_settings(settings),
            "step_launcher": step_launcher(settings),
        },
        # A job is one step, or a few that follow each other, so a process for each step would only cost its start.
        executor=dg.in_process_executor,
    )


defs = build_definitions(Settings.load())
