"""Publish the observations of a day for DSI, write the manifest, and delete the folders of old days.

Generated for production from the Dagster job `dsi_curated`. Do not edit: change the definitions, then run

    uv run biocloud airflow export --env production

Runs unmodified on Airflow 2.10 to 3.x with the providers for Databricks and Amazon.
"""

import hashlib
from datetime import timedelta

import pendulum

try:  # Airflow 3
    from airflow.sdk import DAG, Asset, Param
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.datasets import Dataset as Asset
    from airflow.models.param import Param

from airflow.providers.databricks.hooks.databricks import DatabricksHook
from airflow.providers.databricks.operators.databricks import DatabricksSubmitRunOperator

try:  # Airflow 3: without a description of the cron schedule, which takes longer than all the rest
    from airflow.sdk import CronTriggerTimetable
except ImportError:
    from airflow.timetables.trigger import CronTriggerTimetable

GIT_SOURCE = {
    "git_url": "https://gitlab.com/example/biocloud.git",
    "git_provider": "gitLab",
    "git_branch": "{{ params.git_branch }}",
}
CLUSTER = {
    "spark_version": "17.3.x-scala2.13",
    "instance_pool_id": "0101-000000-biocloud-pool-production",
    "autoscale": {"min_workers": 1, "max_workers": 8},
    "data_security_mode": "SINGLE_USER",
    "custom_tags": {"team": "biocloud", "environment": "production"},
    "aws_attributes": {"instance_profile_arn": "arn:aws:iam::000000000000:instance-profile/biocloud-production"},
}
LIBRARIES = [
    {"pypi": {"package": "dagster-pipes==1.13.27"}},
    {"pypi": {"package": "deltalake==1.6.6"}},
    {"pypi": {"package": "pydantic-settings==2.16.3"}},
    {"pypi": {"package": "tenacity==9.2.1"}},
]
WHERE = [
    "--run-date",
    "{{ params.run_date or run_date(dag_run) }}",
    "--landing-root",
    "s3://example-dsi-production",
    "--lake-root",
    "s3://example-lake-production",
    "--curated-root",
    "s3://example-lake-production/curated",
    "--days",
    "30",
    "--catalog",
    "biocloud_production",
    "--orchestrator",
    "airflow",
    "--run-id",
    "{{ run_id }}",
]
ACTIVE = {"PENDING", "QUEUED", "RUNNING", "BLOCKED", "WAITING_FOR_RETRY"}


def token(ti, try_number=None):
    """Stand for one try of a task: Databricks starts one run for a token, however often it is asked to."""
    attempt = (ti.dag_id, ti.run_id, ti.task_id, ti.try_number if try_number is None else try_number)
    return hashlib.sha256("/".join(map(str, attempt)).encode()).hexdigest()


def follow_what_still_runs(context):
    """Before a retry: if the worker of an earlier try died while its run goes on, follow that one.

    The token of an earlier try is answered with the run that it started, or starts it if the worker died before that.
    If it has ended, this try starts afresh.
    """
    task, ti = context["task"], context["ti"]
    task.durable = False  # later providers' own way, which would take a task that is cleared by hand for done
    hook = DatabricksHook(task.databricks_conn_id, caller="biocloud")
    for earlier in range(1, ti.try_number):
        request = {**task.json, "idempotency_token": token(ti, earlier)}
        if hook.get_run_state(hook.submit_run(request)).life_cycle_state in ACTIVE:
            task.json = request
            return


def run_date(dag_run):
    """Return the day that a run is about if it isn't told."""
    moment = pendulum.instance(dag_run.logical_date or dag_run.run_after)
    return moment.in_timezone("UTC").subtract(days=0).to_date_string()


with DAG(
    dag_id="dsi_curated",
    description="Publish the observations of a day for DSI, write the manifest, and delete the folders of old days.",
    doc_md="""Publish the observations of a day for DSI, write the manifest, and delete the folders of old days.

- Owner: biocloud
- Lineage: makes curated/dsi/days, curated/dsi/manifest, curated/dsi/observation
- Docs: [dsi.md](https://gitlab.com/example/biocloud/-/blob/HEAD/docs/data-architecture/curated/dsi.md)
- Generated from Dagster, the job `dsi_curated`, for production. Do not edit.""",
    schedule=CronTriggerTimetable("30 6 * * *", timezone="UTC"),
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,  # one after the other, the oldest first
    is_paused_upon_creation=False,
    tags=["biocloud", "generated", "production", "dsi"],
    params={
        "run_date": Param(
            None,
            type=["null", "string"],
            pattern=r"^\d{4}-\d{2}-\d{2}$",
            description="The day, yyyy-mm-dd; without one, the day that the schedule stands for.",
        ),
        "git_branch": Param(
            "main",
            type="string",
            pattern=r"^[\w./+#@-]+$",
            description="The branch whose code runs on Databricks.",
        ),
    },
    default_args={
        "owner": "biocloud",
        "databricks_conn_id": "databricks_default",
        "databricks_retry_limit": 5,  # a request that got lost is repeated; the token makes that harmless
        "databricks_retry_delay": 5,
        "polling_period_seconds": 10,
        "execution_timeout": timedelta(seconds=8100),
        "pre_execute": follow_what_still_runs,
    },
    user_defined_macros={"token": token, "run_date": run_date},
) as dag:
    publish_observations = DatabricksSubmitRunOperator(
        task_id="publish_observations",
        doc_md="Write the observations of the run date, as of its end; its manifest is taken away before the first change.",
        json={
            "run_name": "{{ dag.dag_id }} {{ ti.task_id }} {{ run_id }}",
            "git_source": GIT_SOURCE,
            "timeout_seconds": 7200,
            "idempotency_token": "{{ token(ti) }}",
            "tasks": [
                {
                    "task_key": "publish_observations",
                    "new_cluster": CLUSTER,
                    "libraries": LIBRARIES,
                    "spark_python_task": {
                        "python_file": "databricks/run_step.py",
                        "source": "GIT",
                        "parameters": ["--step", "curated/dsi/observation", *WHERE],
                    },
                }
            ],
        },
        retries=2,
        retry_delay=timedelta(seconds=5),
        retry_exponential_backoff=True,
        max_active_tis_per_dag=1,
        inlets=[
            Asset("s3://example-lake-production/raw/dsi/algorithm"),
            Asset("s3://example-lake-production/raw/dsi/analysis_group_result"),
            Asset("s3://example-lake-production/raw/dsi/analysis_group_result_media"),
            Asset("s3://example-lake-production/raw/dsi/analysis_group_result_prediction"),
            Asset("s3://example-lake-production/raw/dsi/analysis_group_result_region"),
            Asset("s3://example-lake-production/raw/dsi/analysis_group_result_region_group"),
            Asset("s3://example-lake-production/raw/dsi/delivery"),
            Asset("s3://example-lake-production/raw/dsi/sensor"),
            Asset("s3://example-lake-production/raw/dsi/sensor_deployment"),
            Asset("s3://example-lake-production/raw/dsi/sensor_media_item"),
        ],
        outlets=[Asset("s3://example-lake-production/curated/dsi/observation")],
    )
    write_manifest = DatabricksSubmitRunOperator(
        task_id="write_manifest",
        doc_md="Write the manifest of the run date's folder: DSI may read it from now on.",
        json={
            "run_name": "{{ dag.dag_id }} {{ ti.task_id }} {{ run_id }}",
            "git_source": GIT_SOURCE,
            "timeout_seconds": 7200,
            "idempotency_token": "{{ token(ti) }}",
            "tasks": [
                {
                    "task_key": "write_manifest",
                    "new_cluster": CLUSTER,
                    "libraries": LIBRARIES,
                    "spark_python_task": {
                        "python_file": "databricks/run_step.py",
                        "source": "GIT",
                        "parameters": ["--step", "curated/dsi/manifest", *WHERE],
                    },
                }
            ],
        },
        retries=2,
        retry_delay=timedelta(seconds=5),
        retry_exponential_backoff=True,
        max_active_tis_per_dag=1,
        inlets=[Asset("s3://example-lake-production/curated/dsi/observation")],
        outlets=[Asset("s3://example-lake-production/curated/dsi/manifest")],
    )
    cleanup_curated_folders = DatabricksSubmitRunOperator(
        task_id="cleanup_curated_folders",
        doc_md="Delete the folders of days that are no longer offered, each with its manifest first.",
        json={
            "run_name": "{{ dag.dag_id }} {{ ti.task_id }} {{ run_id }}",
            "git_source": GIT_SOURCE,
            "timeout_seconds": 7200,
            "idempotency_token": "{{ token(ti) }}",
            "tasks": [
                {
                    "task_key": "cleanup_curated_folders",
                    "new_cluster": CLUSTER,
                    "libraries": LIBRARIES,
                    "spark_python_task": {
                        "python_file": "databricks/run_step.py",
                        "source": "GIT",
                        "parameters": ["--step", "curated/dsi/days", *WHERE],
                    },
                }
            ],
        },
        retries=2,
        retry_delay=timedelta(seconds=5),
        retry_exponential_backoff=True,
        max_active_tis_per_dag=1,
        inlets=[Asset("s3://example-lake-production/curated/dsi/manifest")],
        outlets=[Asset("s3://example-lake-production/curated/dsi/days")],
    )
    [publish_observations] >> write_manifest
    [write_manifest] >> cleanup_curated_folders
