"""Synchronise the members of Databricks groups with the files in `groups/`.

Generated for production from the Dagster job `group_sync`. Do not edit: change the definitions, then run

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
    {"pypi": {"package": "pyyaml==6.0.3"}},
    {"pypi": {"package": "requests==2.34.2"}},
    {"pypi": {"package": "tenacity==9.2.1"}},
    {"pypi": {"package": "urllib3==2.8.0"}},
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
    dag_id="group_sync",
    description="Synchronise the members of Databricks groups with the files in `groups/`.",
    doc_md="""Synchronise the members of Databricks groups with the files in `groups/`.

- Owner: biocloud
- Lineage: no assets
- Docs: [airflow.md](https://gitlab.com/example/biocloud/-/blob/HEAD/docs/airflow.md)
- Generated from Dagster, the job `group_sync`, for production. Do not edit.""",
    schedule=CronTriggerTimetable("15 5 * * *", timezone="UTC"),
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,  # one after the other, the oldest first
    is_paused_upon_creation=True,
    tags=["biocloud", "generated", "production"],
    params={
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
    user_defined_macros={"token": token},
) as dag:
    sync_groups = DatabricksSubmitRunOperator(
        task_id="sync_groups",
        doc_md="Synchronise the members of Databricks groups with `groups/<environment>_group.yml`.",
        json={
            "run_name": "{{ dag.dag_id }} {{ ti.task_id }} {{ run_id }}",
            "git_source": GIT_SOURCE,
            "timeout_seconds": 7200,
            "idempotency_token": "{{ token(ti) }}",
            "tasks": [
                {
                    "task_key": "sync_groups",
                    "new_cluster": {
                        **CLUSTER,
                        "spark_env_vars": {
                            "BIOCLOUD_GROUPS": "../groups",
                            "DATABRICKS_HOST_PROD": "{{ '{{secrets/biocloud/group-sync-host}}' }}",
                            "DATABRICKS_TOKEN_PROD": "{{ '{{secrets/biocloud/group-sync-token}}' }}",
                        },
                    },
                    "libraries": LIBRARIES,
                    "spark_python_task": {
                        "python_file": "databricks/sync_groups.py",
                        "source": "GIT",
                        "parameters": ["production"],
                    },
                }
            ],
        },
        retries=0,
    )
