"""Merge small files of the raw tables, delete replaced files, and delete old log files.

Generated for production from the Dagster job `table_maintenance`. Do not edit: change the definitions, then run

    uv run biocloud airflow export --env production

Runs unmodified on Airflow 2.10 to 3.x with the provider for Databricks.
"""

import hashlib
import html
import json
import logging
import threading
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
    from airflow.sdk.exceptions import (
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowTaskTimeout,
    )
except ImportError:
    from airflow.exceptions import (
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowTaskTimeout,
    )

from airflow.providers.databricks.hooks.databricks import DatabricksHook
from airflow.providers.databricks.operators.databricks import DatabricksSubmitRunOperator

try:  # Airflow 3.0 makes this class without the description of the cron schedule, which is slow to compute
    from airflow.sdk import CronTriggerTimetable
except ImportError:
    from airflow.timetables.trigger import CronTriggerTimetable

RETRYABLE = "biocloud: a retry can help"  # what a failed step writes if a retry can help
NOT_RETRYABLE = "biocloud: a retry can't help"  # what it writes if none can
# Whose fault a failed run is: https://docs.databricks.com/api/workspace/jobs/getrun, status.termination_details
INFRASTRUCTURE_TYPES = ["CLOUD_FAILURE", "INTERNAL_ERROR"]
INFRASTRUCTURE_CODES = [
    "CLOUD_FAILURE",
    "CLUSTER_ERROR",
    "CLUSTER_REQUEST_LIMIT_EXCEEDED",
    "DRIVER_ERROR",
    "INTERNAL_ERROR",
    "MAX_CONCURRENT_RUNS_EXCEEDED",
    "MAX_JOB_QUEUE_SIZE_EXCEEDED",
    "MAX_SPARK_CONTEXTS_EXCEEDED",
    "REPOSITORY_CHECKOUT_FAILED",
    "STORAGE_ACCESS_ERROR",
    "WORKSPACE_RUN_LIMIT_EXCEEDED",
]
UNKNOWN_CODES = ["CANCELED", "LIBRARY_INSTALLATION_ERROR", "RUN_EXECUTION_ERROR"]
ENDED = {"TERMINATED", "SKIPPED", "INTERNAL_ERROR"}  # every other state of a run is active, also one yet unknown
LOG_LIMIT = 100_000  # characters
WEBHOOK = "biocloud_webhook"  # the connection for messages about failed tasks; without it, none is posted
POST_SECONDS = 10


class DatabricksStepOperator(DatabricksSubmitRunOperator):
    """Run a step on Databricks: at most one active run for a task, and no retry that can't help.

    - A worker that is killed leaves its run behind. The next try follows this run if it is still active.
    - The end of the step's output, with a line for each asset and check, is written to the task's log.
    - An error of the infrastructure is retried as often as `retries` says. A step that is lost without a reason is
      retried once. Any other failed step isn't, nor is a run that a person has cancelled.
    """

    def execute(self, context):
        # The provider's own way (`durable`, Airflow 3.3) would also resume the run of a task that a person has cleared.
        self.durable = False
        ti, branch = context["ti"], context["params"].get("git_branch")
        if branch:
            source = {key: self.json["git_source"][key] for key in ("git_url", "git_provider")}
            name = self.json["run_name"].rpartition(" @ ")[0]
            self.json = {**self.json, "run_name": f"{name} @ {branch}", "git_source": {**source, "git_branch": branch}}
        with self.outcome(ti):
            for try_number in range(1, ti.try_number + 1):
                # Databricks starts one run for a token: the token of an earlier try returns the run of that try.
                token = "/".join(map(str, (ti.dag_id, ti.run_id, ti.task_id, try_number)))
                self.json = {**self.json, "idempotency_token": hashlib.sha256(token.encode()).hexdigest()}
                if try_number < ti.try_number and self.is_active(self.hook().submit_run(self.json)):
                    self.log.info("Following the run of try %s, which is still active", try_number)
                    break
            super().execute(context)

    def resume_execution(self, next_method, next_kwargs, context):
        ti, event = context["ti"], (next_kwargs or {}).get("event")
        with self.outcome(ti):
            # A trigger that fails gives no event. The provider stores the run as an XCom before the task defers.
            self.run_id = event["run_id"] if event else ti.xcom_pull(task_ids=ti.task_id, key="run_id", map_indexes=-1)
            super().resume_execution(next_method, next_kwargs, context)

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
    def outcome(self, ti):
        """Write the step's output to the log, and raise the error of a run that has failed."""
        error = None
        try:
            yield
        except (Exception, AirflowTaskTimeout) as caught:  # neither a deferral nor a termination by Airflow
            error = caught
        run, output = {}, {}
        if self.run_id is not None:
            try:
                run = self.hook().get_run(self.run_id)
                output = self.hook().get_run_output(run["tasks"][0]["run_id"])
                self.log.info("Output of the step:\n%s", (output.get("logs") or "")[-LOG_LIMIT:])
            except Exception as caught:
                self.log.warning("The output of the Databricks run %s can't be read: %s", self.run_id, caught)
        result = run.get("state", {}).get("result_state")
        if result == "SUCCESS":
            if error is not None:  # a failed request for the state of the run, or the timeout of the task
                self.log.warning("The Databricks run %s has succeeded; this error is ignored: %s", self.run_id, error)
            return
        # Some versions of the provider take a run that fails before its task defers for a success.
        if error is None and result is None:
            return
        message = str(error or f"the Databricks run {self.run_id} ended as {result}: {output.get('error')}")
        cause = cause_of(run, f"{message}{output.get('error')}{output.get('logs')}")
        if cause == "permanent" or (cause == "unknown" and ti.try_number > 1):
            raise AirflowFailException(message) from error
        raise error or AirflowException(message)


def cause_of(run, text):
    """Return why a step failed, `infrastructure`, `unknown` or `permanent`: the rules by which Dagster launches steps.

    `run` is the answer of the Jobs API, {} if there was none; `text` is the error with the step's output.
    """
    state, details = run.get("state", {}), (run.get("status") or {}).get("termination_details") or {}
    code = details.get("code")
    if not run:
        return "permanent" if "Status Code: 4" in text else "infrastructure"  # 429 is retried for as long as others
    if state.get("life_cycle_state") not in ENDED:
        return "infrastructure"
    if code == "USER_CANCELED" or (not code and state.get("result_state") == "CANCELED"):
        return "permanent"
    if details.get("type") in INFRASTRUCTURE_TYPES or code in INFRASTRUCTURE_CODES:
        return "infrastructure"
    if NOT_RETRYABLE in text:
        return "permanent"
    if RETRYABLE in text:
        return "infrastructure"
    return "unknown" if not code or code in UNKNOWN_CODES else "permanent"


def post_failure(context):
    """Post a message about a task that has failed, if Airflow has the connection; the task's state stays as it is."""
    from urllib.error import HTTPError  # here, as the file is parsed every few seconds
    from urllib.request import Request, urlopen

    try:
        connection = DatabricksHook.get_connection(WEBHOOK)
    except AirflowNotFoundException:
        return
    ti, answer = context["ti"], ["no answer"]
    text = (
        f"production: task {ti.task_id} of DAG {ti.dag_id} failed, run {ti.run_id}\n"
        f"{str(context.get('exception'))[:1000]}\n{getattr(ti, 'log_url', '')}"
    )
    # As the provider for Slack builds the address: the password is the secret part of its path.
    base = connection.host or "hooks.slack.com/services"
    base = base if "://" in base else f"{connection.schema or 'https'}://{base}"
    address = f"{base}:{connection.port}" if connection.port else base
    request = Request(
        f"{address.rstrip('/')}/{connection.password.lstrip('/')}" if connection.password else address,
        data=json.dumps({"text": html.escape(text, quote=False)}).encode(),
        headers={"Content-Type": "application/json"},
    )

    def post():
        try:
            with urlopen(request, timeout=POST_SECONDS) as response:
                answer[0] = response.status
        except HTTPError as error:
            answer[0] = error.code
        except Exception as error:  # only its class: the text may hold the address, which is secret
            answer[0] = type(error).__name__

    thread = threading.Thread(target=post, daemon=True)
    thread.start()
    thread.join(POST_SECONDS)
    level = logging.INFO if answer[0] == 200 else logging.WARNING
    logging.getLogger(__name__).log(level, "The message to the connection %s: %s", WEBHOOK, answer[0])


with DAG(
    dag_id="table_maintenance",
    description="Merge small files of the raw tables, delete replaced files, and delete old log files.",
    doc_md="""Merge small files of the raw tables, delete replaced files, and delete old log files.

- Owner: biocloud
- Lineage: no assets
- Docs: [airflow.md](https://gitlab.com/example/biocloud/-/blob/HEAD/docs/airflow.md)
- Generated from Dagster, the job `table_maintenance`, for production. Do not edit.""",
    schedule=CronTriggerTimetable("45 3 * * 0", timezone="UTC"),
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,  # runs wait for each other, so that no two write the same tables
    is_paused_upon_creation=True,  # a person decides when it begins
    tags=["biocloud", "generated", "production"],
    params={
        "git_branch": Param(
            None,
            type=["null", "string"],
            pattern=r"^[\w./+#@-]+$",
            description="The branch whose code runs on Databricks, instead of that of the branch main.",
        ),
    },
    default_args={
        "owner": "biocloud",
        "databricks_conn_id": "databricks_default",
        "databricks_retry_limit": 5,  # for each request; the token makes a repeated submission harmless
        "databricks_retry_delay": 5,
        "polling_period_seconds": 10,
        "on_failure_callback": post_failure,
        "execution_timeout": timedelta(seconds=8100),
    },
) as dag:
    maintain_tables = DatabricksStepOperator(
        task_id="maintain_tables",
        doc_md="Merge small files of the raw tables, delete replaced files, and delete old log files.",
        json={
            "timeout_seconds": 7200,
            "run_name": "table_maintenance maintain_tables @ main",
            "git_source": {
                "git_url": "https://gitlab.com/example/biocloud.git",
                "git_provider": "gitLab",
                "git_branch": "main",
            },
            "tasks": [
                {
                    "new_cluster": {
                        "spark_version": "17.3.x-scala2.13",
                        "instance_pool_id": "0101-000000-biocloud-pool-production",
                        "autoscale": {"min_workers": 1, "max_workers": 8},
                        "data_security_mode": "SINGLE_USER",
                        "spark_env_vars": {"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-1"},
                        "custom_tags": {"team": "biocloud", "environment": "production"},
                        "aws_attributes": {
                            "instance_profile_arn": "arn:aws:iam::000000000000:instance-profile/biocloud-production"
                        },
                    },
                    "libraries": [
                        {"pypi": {"package": "dagster-pipes==1.13.27"}},
                        {"pypi": {"package": "deltalake==1.6.6"}},
                        {"pypi": {"package": "pydantic-settings==2.16.3"}},
                        {"pypi": {"package": "tenacity==9.2.1"}},
                    ],
                    "task_key": "maintain_tables",
                    "spark_python_task": {
                        "python_file": "databricks/run_step.py",
                        "source": "GIT",
                        "parameters": [
                            "--maintain",
                            "--retention-days=7",
                            "--landing-root=s3://example-dsi-production",
                            "--lake-root=s3://example-lake-production",
                            "--catalog=biocloud_production",
                            "--orchestrator=airflow",
                            "--run-id={{ run_id }}",
                        ],
                    },
                }
            ],
        },
        retries=5,
        retry_delay=timedelta(seconds=60),
        retry_exponential_backoff=True,
    )
