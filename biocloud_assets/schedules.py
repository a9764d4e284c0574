"""Who starts runs by itself, Airflow or Dagster: one setting for each environment (`Settings.leader`), obeyed here.

What belongs here: holding back what would start runs. What doesn't: the sensors and schedules themselves.

Where Airflow is in charge, a sensor or schedule of Dagster's keeps its name, its job and its times, so that it is seen
and so that Airflow's DAGs can be made from it; but it is off, and if it is turned on it skips and says why. A person's
own runs stay possible.
"""

from collections.abc import Iterable

import dagster as dg

from biocloud_assets.settings import Settings


def obeying(
    settings: Settings, sensors: Iterable[dg.SensorDefinition], schedules: Iterable[dg.ScheduleDefinition]
) -> tuple[list[dg.SensorDefinition], list[dg.ScheduleDefinition]]:
    """Sensors and schedules that start runs, as they are to be in an environment.

    Args:
        settings: of the environment; `leader` decides.
        sensors: as they are with Dagster in charge. Those that start no runs aren't for here.
        schedules: likewise.
    """
    if settings.leader == "dagster":
        return list(sensors), list(schedules)
    reason = (
        f"Airflow is in charge in {settings.env}: its DAGs start the runs. To change that, set in_charge in "
        "databricks/environments.yml, and deploy the DAGs again."
    )
    return [_idle_sensor(one, reason) for one in sensors], [_idle_schedule(one, reason) for one in schedules]


def _idle_sensor(sensor: dg.SensorDefinition, reason: str) -> dg.SensorDefinition:
    return dg.SensorDefinition(
        name=sensor.name,
        evaluation_fn=lambda _: dg.SkipReason(reason),
        jobs=sensor.jobs,
        minimum_interval_seconds=sensor.minimum_interval_seconds,
        description=sensor.description,
        tags=sensor.tags,
        metadata=sensor.metadata,
        default_status=dg.DefaultSensorStatus.STOPPED,
    )


def _idle_schedule(schedule: dg.ScheduleDefinition, reason: str) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name=schedule.name,
        execution_fn=lambda _: dg.SkipReason(reason),
        job=schedule.job,
        cron_schedule=schedule.cron_schedule,
        execution_timezone=schedule.execution_timezone,
        description=schedule.description,
        tags=schedule.tags,
        metadata=schedule.metadata,
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )
