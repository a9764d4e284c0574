"""Merge small files of the raw tables, delete replaced files, and delete old log files.

Generated for development from the Dagster job `table_maintenance`. Do not edit: change the definitions, then run

    uv run biocloud airflow export --env development

Runs unmodified on Airflow 2.10 to 3.x with the provider for Databricks.
"""

import hashlib
from contextlib import contextmanager
from datetime import timedelta

import pendulum

try:  # Airflow 3
    from airflow.sdk import DAG, Asset, Param
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.datasets import Dataset as Asset
    from airflow.models.param import Param

try:  # Airflow 3.1 or later
    from airflow.sdk.exceptions import AirflowException, AirflowFailException
except ImportError:
    from airflow.exceptions import AirflowException, AirflowFailException

from airflow.providers.databricks.hooks.databricks import DatabricksHook
from airflow.providers.databricks.operators.databricks import DatabricksSubmitRunOperator

try:  # Airflow 3.0 makes this class without the description of the cron schedule, which is slow to compute
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
    "instance_pool_id": "0101-000000-biocloud-pool-development",
    "autoscale": {"min_workers": 1, "max_workers": 2},
    "data_security_mode": "SINGLE_USER",
    "spark_env_vars": {"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-1"},
    "custom_tags": {"team": "biocloud", "environment": "development"},
    "aws_attributes": {"instance_profile_arn": "arn:aws:iam::000000000000:instance-profile/biocloud-development"},
}
NOT_RETRYABLE = "biocloud: a retry can't help"  # a step writes this if a retry can't help
ENDED = {"TERMINATED", "SKIPPED", "INTERNAL_ERROR"}  # every other state of a run is active, also one yet unknown
LOG_LIMIT = 100_000  # characters


class DatabricksStepOperator(DatabricksSubmitRunOperator):
    """Run a step on Databricks: at most one active run for a task, and no retry that can't help.

    - A worker that is killed leaves its run behind. The next try follows this run if it is still active.
    - The end of the step's output, with a line for each asset and check, is written to the task's log.
    - The task fails without a retry if the step reports that a retry can't help, or if a person has cancelled the run.
    """

    def execute(self, context):
        # The provider's own way (`durable`, Airflow 3.3) would also resume the run of a task that a person has cleared.
        self.durable = False
        ti = context["ti"]
        for try_number in range(1, ti.try_number + 1):
            # Databricks starts one run for a token: the token of an earlier try returns the run of that try.
            token = "/".join(map(str, (ti.dag_id, ti.run_id, ti.task_id, try_number)))
            self.json = {**self.json, "idempotency_token": hashlib.sha256(token.encode()).hexdigest()}
            if try_number < ti.try_number and self.is_active(self.hook().submit_run(self.json)):
                self.log.info("Following the run of try %s, which is still active", try_number)
                break
        with self.outcome():
            super().execute(context)

    def execute_complete(self, context, event):
        self.run_id = event["run_id"]
        with self.outcome():
            super().execute_complete(context, event)

    def hook(self):
        return DatabricksHook(
            self.databricks_conn_id,
            retry_limit=self.databricks_retry_limit,
            retry_delay=self.databricks_retry_delay,
            caller="biocloud",
        )

    def is_active(self, run_id):
        # Older providers' `get_run_state` raises on some states: https://github.com/apache/airflow/issues/69193
        return self.hook().get_run(run_id)["state"]["life_cycle_state"] not in ENDED

    @contextmanager
    def outcome(self):
        """Write the step's output to the log, and raise the error of a run that has failed."""
        error = None
        try:
            yield
        except Exception as caught:  # neither a deferral nor a termination by Airflow
            error = caught
        if self.run_id is None:
            raise error
        run, output = {}, {}
        try:
            run = self.hook().get_run(self.run_id)
            output = self.hook().get_run_output(run["tasks"][0]["run_id"])
            self.log.info("Output of the step:\n%s", (output.get("logs") or "")[-LOG_LIMIT:])
        except Exception as caught:
            self.log.warning("The output of the Databricks run %s can't be read: %s", self.run_id, caught)
        result = run.get("state", {}).get("result_state")
        # Some versions of the provider take a run that fails before its task defers for a success.
        if error is None and result in {"SUCCESS", None}:
            return
        message = str(error or f"the Databricks run {self.run_id} ended as {result}: {output.get('error')}")
        if result == "CANCELED" or NOT_RETRYABLE in f"{message}{output.get('error')}{output.get('logs')}":
            raise AirflowFailException(message) from error
        raise error or AirflowException(message)


with DAG(
    dag_id="table_maintenance",
    description="Merge small files of the raw tables, delete replaced files, and delete old log files.",
    doc_md="""Merge small files of the raw tables, delete replaced files, and delete old log files.

- Owner: biocloud
- Lineage: no assets
- Docs: [airflow.md](https://gitlab.com/example/biocloud/-/blob/HEAD/docs/airflow.md)
- Generated from Dagster, the job `table_maintenance`, for development. Do not edit.""",
    schedule=CronTriggerTimetable("45 3 * * 0", timezone="UTC"),
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,  # runs wait for each other, so that no two write the same tables
    is_paused_upon_creation=False,
    tags=["biocloud", "generated", "development"],
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
        "databricks_retry_limit": 5,  # for each request; the token makes a repeated submission harmless
        "databricks_retry_delay": 5,
        "polling_period_seconds": 10,
        "execution_timeout": timedelta(seconds=4500),
    },
) as dag:
    maintain_tables = DatabricksStepOperator(
        task_id="maintain_tables",
        doc_md="Merge small files of the raw tables, delete replaced files, and delete old log files.",
        json={
            "run_name": "{{ dag.dag_id }} {{ ti.task_id }} {{ run_id }}",
            "git_source": GIT_SOURCE,
            "timeout_seconds": 3600,
            "tasks": [
                {
                    "task_key": "maintain_tables",
                    "new_cluster": CLUSTER,
                    "libraries": [
                        {"pypi": {"package": "dagster-pipes==1.13.27"}},
                        {"pypi": {"package": "deltalake==1.6.6"}},
                        {"pypi": {"package": "pydantic-settings==2.16.3"}},
                        {"pypi": {"package": "tenacity==9.2.1"}},
                    ],
                    "spark_python_task": {
                        "python_file": "databricks/run_step.py",
                        "source": "GIT",
                        "parameters": [
                            "--maintain",
                            "--retention-days=7",
                            "--landing-root=s3://example-dsi-development",
                            "--lake-root=s3://example-lake-development",
                            "--orchestrator=airflow",
                            "--run-id={{ run_id }}",
                        ],
                    },
                }
            ],
        },
        retries=2,
        retry_delay=timedelta(seconds=5),
        retry_exponential_backoff=True,
    )
