"""Bring one delivery into the lake: inspect it, write its nine tables, check them, and log it.

Generated for production from the Dagster job `dsi_raw`. Do not edit: change the definitions, then run

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
    "--delivery",
    "{{ params.delivery }}",
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


with DAG(
    dag_id="dsi_raw",
    description="Bring one delivery into the lake: inspect it, write its nine tables, check them, and log it.",
    doc_md="""Bring one delivery into the lake: inspect it, write its nine tables, check them, and log it.

- Owner: biocloud, dsi
- Lineage: makes landing/dsi/algorithm, landing/dsi/analysis_group_result, landing/dsi/sensor,
  landing/dsi/sensor_deployment, landing/dsi/sensor_media_item, raw/dsi/algorithm,
  raw/dsi/analysis_group_result, raw/dsi/analysis_group_result_media,
  raw/dsi/analysis_group_result_prediction, raw/dsi/analysis_group_result_region,
  raw/dsi/analysis_group_result_region_group, raw/dsi/delivery, raw/dsi/sensor, raw/dsi/sensor_deployment,
  raw/dsi/sensor_media_item
- Docs: [dsi.md](https://gitlab.com/example/biocloud/-/blob/HEAD/docs/data-architecture/raw/dsi.md)
- Generated from Dagster, the job `dsi_raw`, for production. Do not edit.""",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,  # one after the other, the oldest first
    is_paused_upon_creation=False,
    tags=["biocloud", "generated", "production", "dsi"],
    params={
        "delivery": Param(
            type="string",
            pattern=r"^\d{4}-\d{2}-\d{2}-\d{2}:\d{2}:\d{2}$",
            description="The delivery, yyyy-mm-dd-HH:MM:SS: the name of its folder in the landing zone.",
        ),
        "git_branch": Param(
            "main",
            type="string",
            pattern=r"^[\w./+#@-]+$",
            description="The branch whose code runs on Databricks.",
        ),
    },
    default_args={
        "owner": "biocloud, dsi",
        "databricks_conn_id": "databricks_default",
        "databricks_retry_limit": 5,  # a request that got lost is repeated; the token makes that harmless
        "databricks_retry_delay": 5,
        "polling_period_seconds": 10,
        "execution_timeout": timedelta(seconds=8100),
        "pre_execute": follow_what_still_runs,
    },
    user_defined_macros={"token": token},
) as dag:
    inspect_delivery = DatabricksSubmitRunOperator(
        task_id="inspect_delivery",
        doc_md="Inspect a delivery: every fault is found before any table is touched, and all are reported at once.",
        json={
            "run_name": "{{ dag.dag_id }} {{ ti.task_id }} {{ run_id }}",
            "git_source": GIT_SOURCE,
            "timeout_seconds": 7200,
            "idempotency_token": "{{ token(ti) }}",
            "tasks": [
                {
                    "task_key": "inspect_delivery",
                    "new_cluster": CLUSTER,
                    "libraries": LIBRARIES,
                    "spark_python_task": {
                        "python_file": "databricks/run_step.py",
                        "source": "GIT",
                        "parameters": [
                            "--step",
                            "landing/dsi/algorithm",
                            "--step",
                            "landing/dsi/sensor",
                            "--step",
                            "landing/dsi/sensor_deployment",
                            "--step",
                            "landing/dsi/sensor_media_item",
                            "--step",
                            "landing/dsi/analysis_group_result",
                            *WHERE,
                        ],
                    },
                }
            ],
        },
        retries=2,
        retry_delay=timedelta(seconds=5),
        retry_exponential_backoff=True,
        outlets=[
            Asset("s3://example-dsi-production/dsi/algorithm"),
            Asset("s3://example-dsi-production/dsi/sensor"),
            Asset("s3://example-dsi-production/dsi/sensor_deployment"),
            Asset("s3://example-dsi-production/dsi/sensor_media_item"),
            Asset("s3://example-dsi-production/dsi/analysis_group_result"),
        ],
    )
    raw__dsi__algorithm = DatabricksSubmitRunOperator(
        task_id="raw__dsi__algorithm",
        doc_md="One row per algorithm.",
        json={
            "run_name": "{{ dag.dag_id }} {{ ti.task_id }} {{ run_id }}",
            "git_source": GIT_SOURCE,
            "timeout_seconds": 7200,
            "idempotency_token": "{{ token(ti) }}",
            "tasks": [
                {
                    "task_key": "raw__dsi__algorithm",
                    "new_cluster": CLUSTER,
                    "libraries": LIBRARIES,
                    "spark_python_task": {
                        "python_file": "databricks/run_step.py",
                        "source": "GIT",
                        "parameters": ["--step", "raw/dsi/algorithm", *WHERE],
                    },
                }
            ],
        },
        retries=2,
        retry_delay=timedelta(seconds=5),
        retry_exponential_backoff=True,
        max_active_tis_per_dag=1,
        inlets=[Asset("s3://example-dsi-production/dsi/algorithm")],
        outlets=[Asset("s3://example-lake-production/raw/dsi/algorithm")],
    )
    raw__dsi__analysis_group_result = DatabricksSubmitRunOperator(
        task_id="raw__dsi__analysis_group_result",
        doc_md="Un-nest the results into those of the five tables that are selected.",
        json={
            "run_name": "{{ dag.dag_id }} {{ ti.task_id }} {{ run_id }}",
            "git_source": GIT_SOURCE,
            "timeout_seconds": 7200,
            "idempotency_token": "{{ token(ti) }}",
            "tasks": [
                {
                    "task_key": "raw__dsi__analysis_group_result",
                    "new_cluster": CLUSTER,
                    "libraries": LIBRARIES,
                    "spark_python_task": {
                        "python_file": "databricks/run_step.py",
                        "source": "GIT",
                        "parameters": [
                            "--step",
                            "raw/dsi/analysis_group_result",
                            "--step",
                            "raw/dsi/analysis_group_result_media",
                            "--step",
                            "raw/dsi/analysis_group_result_region_group",
                            "--step",
                            "raw/dsi/analysis_group_result_region",
                            "--step",
                            "raw/dsi/analysis_group_result_prediction",
                            *WHERE,
                        ],
                    },
                }
            ],
        },
        retries=2,
        retry_delay=timedelta(seconds=5),
        retry_exponential_backoff=True,
        max_active_tis_per_dag=1,
        inlets=[Asset("s3://example-dsi-production/dsi/analysis_group_result")],
        outlets=[
            Asset("s3://example-lake-production/raw/dsi/analysis_group_result"),
            Asset("s3://example-lake-production/raw/dsi/analysis_group_result_media"),
            Asset("s3://example-lake-production/raw/dsi/analysis_group_result_region_group"),
            Asset("s3://example-lake-production/raw/dsi/analysis_group_result_region"),
            Asset("s3://example-lake-production/raw/dsi/analysis_group_result_prediction"),
        ],
    )
    raw__dsi__sensor = DatabricksSubmitRunOperator(
        task_id="raw__dsi__sensor",
        doc_md="One row per sensor.",
        json={
            "run_name": "{{ dag.dag_id }} {{ ti.task_id }} {{ run_id }}",
            "git_source": GIT_SOURCE,
            "timeout_seconds": 7200,
            "idempotency_token": "{{ token(ti) }}",
            "tasks": [
                {
                    "task_key": "raw__dsi__sensor",
                    "new_cluster": CLUSTER,
                    "libraries": LIBRARIES,
                    "spark_python_task": {
                        "python_file": "databricks/run_step.py",
                        "source": "GIT",
                        "parameters": ["--step", "raw/dsi/sensor", *WHERE],
                    },
                }
            ],
        },
        retries=2,
        retry_delay=timedelta(seconds=5),
        retry_exponential_backoff=True,
        max_active_tis_per_dag=1,
        inlets=[Asset("s3://example-dsi-production/dsi/sensor")],
        outlets=[Asset("s3://example-lake-production/raw/dsi/sensor")],
    )
    raw__dsi__sensor_deployment = DatabricksSubmitRunOperator(
        task_id="raw__dsi__sensor_deployment",
        doc_md="One row per sensor deployment.",
        json={
            "run_name": "{{ dag.dag_id }} {{ ti.task_id }} {{ run_id }}",
            "git_source": GIT_SOURCE,
            "timeout_seconds": 7200,
            "idempotency_token": "{{ token(ti) }}",
            "tasks": [
                {
                    "task_key": "raw__dsi__sensor_deployment",
                    "new_cluster": CLUSTER,
                    "libraries": LIBRARIES,
                    "spark_python_task": {
                        "python_file": "databricks/run_step.py",
                        "source": "GIT",
                        "parameters": ["--step", "raw/dsi/sensor_deployment", *WHERE],
                    },
                }
            ],
        },
        retries=2,
        retry_delay=timedelta(seconds=5),
        retry_exponential_backoff=True,
        max_active_tis_per_dag=1,
        inlets=[Asset("s3://example-dsi-production/dsi/sensor_deployment")],
        outlets=[Asset("s3://example-lake-production/raw/dsi/sensor_deployment")],
    )
    raw__dsi__sensor_media_item = DatabricksSubmitRunOperator(
        task_id="raw__dsi__sensor_media_item",
        doc_md="One row per sensor media item.",
        json={
            "run_name": "{{ dag.dag_id }} {{ ti.task_id }} {{ run_id }}",
            "git_source": GIT_SOURCE,
            "timeout_seconds": 7200,
            "idempotency_token": "{{ token(ti) }}",
            "tasks": [
                {
                    "task_key": "raw__dsi__sensor_media_item",
                    "new_cluster": CLUSTER,
                    "libraries": LIBRARIES,
                    "spark_python_task": {
                        "python_file": "databricks/run_step.py",
                        "source": "GIT",
                        "parameters": ["--step", "raw/dsi/sensor_media_item", *WHERE],
                    },
                }
            ],
        },
        retries=2,
        retry_delay=timedelta(seconds=5),
        retry_exponential_backoff=True,
        max_active_tis_per_dag=1,
        inlets=[Asset("s3://example-dsi-production/dsi/sensor_media_item")],
        outlets=[Asset("s3://example-lake-production/raw/dsi/sensor_media_item")],
    )
    check_tables = DatabricksSubmitRunOperator(
        task_id="check_tables",
        doc_md="Check the tables: the rows of the delivery that is the run's partition, or all.",
        json={
            "run_name": "{{ dag.dag_id }} {{ ti.task_id }} {{ run_id }}",
            "git_source": GIT_SOURCE,
            "timeout_seconds": 7200,
            "idempotency_token": "{{ token(ti) }}",
            "tasks": [
                {
                    "task_key": "check_tables",
                    "new_cluster": CLUSTER,
                    "libraries": LIBRARIES,
                    "spark_python_task": {
                        "python_file": "databricks/run_step.py",
                        "source": "GIT",
                        "parameters": [
                            "--check",
                            "raw/dsi/algorithm",
                            "--check",
                            "raw/dsi/sensor",
                            "--check",
                            "raw/dsi/sensor_deployment",
                            "--check",
                            "raw/dsi/sensor_media_item",
                            "--check",
                            "raw/dsi/analysis_group_result",
                            "--check",
                            "raw/dsi/analysis_group_result_media",
                            "--check",
                            "raw/dsi/analysis_group_result_region_group",
                            "--check",
                            "raw/dsi/analysis_group_result_region",
                            "--check",
                            "raw/dsi/analysis_group_result_prediction",
                            *WHERE,
                        ],
                    },
                }
            ],
        },
        retries=0,
    )
    raw__dsi__delivery = DatabricksSubmitRunOperator(
        task_id="raw__dsi__delivery",
        doc_md="One row per delivery that all tables hold: being in it is what “ingested” means.",
        json={
            "run_name": "{{ dag.dag_id }} {{ ti.task_id }} {{ run_id }}",
            "git_source": GIT_SOURCE,
            "timeout_seconds": 7200,
            "idempotency_token": "{{ token(ti) }}",
            "tasks": [
                {
                    "task_key": "raw__dsi__delivery",
                    "new_cluster": CLUSTER,
                    "libraries": LIBRARIES,
                    "spark_python_task": {
                        "python_file": "databricks/run_step.py",
                        "source": "GIT",
                        "parameters": ["--step", "raw/dsi/delivery", *WHERE],
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
            Asset("s3://example-lake-production/raw/dsi/sensor"),
            Asset("s3://example-lake-production/raw/dsi/sensor_deployment"),
            Asset("s3://example-lake-production/raw/dsi/sensor_media_item"),
        ],
        outlets=[Asset("s3://example-lake-production/raw/dsi/delivery")],
    )
    [inspect_delivery] >> raw__dsi__algorithm
    [inspect_delivery] >> raw__dsi__analysis_group_result
    [inspect_delivery] >> raw__dsi__sensor
    [inspect_delivery] >> raw__dsi__sensor_deployment
    [inspect_delivery] >> raw__dsi__sensor_media_item
    [
        raw__dsi__algorithm,
        raw__dsi__analysis_group_result,
        raw__dsi__sensor,
        raw__dsi__sensor_deployment,
        raw__dsi__sensor_media_item,
    ] >> check_tables
    [
        check_tables,
        raw__dsi__algorithm,
        raw__dsi__analysis_group_result,
        raw__dsi__sensor,
        raw__dsi__sensor_deployment,
        raw__dsi__sensor_media_item,
    ] >> raw__dsi__delivery
