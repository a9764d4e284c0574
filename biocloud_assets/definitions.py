"""The code location: all of Biocloud's Dagster definitions for an environment.

What belongs here: `build_definitions` and `defs`; nothing else.
"""

from __future__ import annotations

import dagster as dg

from biocloud_assets.access import jobs as access
from biocloud_assets.curated.dsi.assets import build_assets
from biocloud_assets.curated.dsi.jobs import build_schedule, dsi_curated
from biocloud_assets.curated.dsi.sensors import build_sensor
from biocloud_assets.launch.launcher import step_launcher
from biocloud_assets.raw.dsi.assets import assets
from biocloud_assets.raw.dsi.checks import check_tables
from biocloud_assets.raw.dsi.jobs import dsi_raw
from biocloud_assets.raw.dsi.sensors import build_outside_sensor, build_sensors
from biocloud_assets.resources import LakehouseResource
from biocloud_assets.schedules import obeying
from biocloud_assets.settings import Settings


def build_definitions(settings: Settings) -> dg.Definitions:
    """All definitions.

    Args:
        settings: of the environment; tests give their own.
    """
    sensors, schedules = obeying(
        settings,
        [*build_sensors(settings), build_sensor(settings)],
        [build_schedule(settings), access.schedule],
    )
    return dg.Definitions(
        assets=[*assets, build_assets(settings)],
        asset_checks=[check_tables],
        jobs=[dsi_raw, dsi_curated, access.job],
        schedules=schedules,
        sensors=[*sensors, build_outside_sensor(settings)],
        resources={"lakehouse": LakehouseResource.of(settings), "step_launcher": step_launcher(settings)},
        # At home one process, so that one embedded engine is started and each step sees what the one before has
        # inspected. Steps that are launched do nothing here but wait, so they do it side by side.
        executor=dg.in_process_executor if settings.launches == "none" else dg.multiprocess_executor,
    )


defs = build_definitions(Settings.load())
