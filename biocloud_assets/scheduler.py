"""Which of the two, Airflow or Dagster, starts runs by itself: one setting for each environment, `Settings.scheduler`.

Where Airflow is the scheduler, a sensor or schedule of Dagster keeps its name, job and times, so that it is visible and
the Airflow DAGs can be generated from it. It is stopped, and skips with the reason if it is started. A person can still
start runs.
"""

from collections.abc import Iterable

import dagster as dg

from biocloud_assets.settings import Settings


def skip_unless_scheduler(
    settings: Settings, sensors: Iterable[dg.SensorDefinition], schedules: Iterable[dg.ScheduleDefinition]
) -> tuple[list[dg.SensorDefinition], list[dg.ScheduleDefinition]]:
    """Sensors and schedules that start runs, as they are in an environment.

    Args:
        settings: of the environment.
        sensors: as they are if Dagster is the scheduler; only those that start runs.
        schedules: likewise.
    """
    if settings.scheduler == "dagster":
        return list(sensors), list(schedules)
    reason = (
        f"Airflow is the scheduler of {settings.env}: its DAGs start the runs. To change that, set `scheduler` in "
        "databricks/environments.yml and deploy the DAGs again."
    )
    return [_skipping_sensor(one, reason) for one in sensors], [_skipping_schedule(one, reason) for one in schedules]


def _skipping_sensor(sensor: dg.SensorDefinition, reason: str) -> dg.SensorDefinition:
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


def _skipping_schedule(schedule: dg.ScheduleDefinition, reason: str) -> dg.ScheduleDefinition:
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
