"""Start dsi_raw for each new complete delivery in the landing zone, once.

Generated for development from the Dagster sensor `dsi_deliveries`. Do not edit: change the definitions, then run

    uv run biocloud airflow export --env development

Runs unmodified on Airflow 2.10 to 3.x with the provider for Amazon. The rules of what is new and complete are those of
biocloud_assets/ingest/discovery.py; a test compares both on the same files.
"""

import hashlib
import html
import inspect
import json
import logging
import re
import threading
from datetime import datetime, timedelta, timezone

import pendulum

try:  # Airflow 3
    from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task
    from airflow.operators.trigger_dagrun import TriggerDagRunOperator

try:  # Airflow 3.1 or later
    from airflow.sdk.exceptions import AirflowNotFoundException
except ImportError:
    from airflow.exceptions import AirflowNotFoundException

try:  # Airflow 3.0 makes this class without the description of the cron schedule, which is slow to compute
    from airflow.sdk import CronTriggerTimetable
except ImportError:
    from airflow.timetables.trigger import CronTriggerTimetable

STARTS, STARTED_TASK = "dsi_raw", "ingest_dsi"
SOURCE = "dsi"
FOLDERS = ["algorithm", "sensor", "sensor_deployment", "sensor_media_item", "analysis_group_result"]
LANDING_BUCKET = "example-dsi-development"
LANDING_PREFIX = ""  # below it: <source>/<delivery>/<folder>/*.parquet
MARKERS_BUCKET = "example-lake-development"
MARKERS_PREFIX = "_files/ingested/dsi/"  # below it: <delivery>, for each ingested delivery
NOT_BEFORE = ""  # the first day whose deliveries are looked for
LOOKBACK = timedelta(days=30)  # how much older than the newest ingested delivery a late one may be
QUIET = timedelta(seconds=60)  # for how long nothing in a complete delivery has changed
MAX_LISTED = 60  # deliveries whose files one run lists; the next run goes on after them
MAX_STARTED = 20
PAUSE = timedelta(seconds=3600)  # before a run that the infrastructure has failed is repeated
MAX_RUNS_PER_DAY = 4  # of one delivery, if they fail because of the infrastructure
WEBHOOK = "biocloud_webhook"  # the connection for messages about failed tasks; without it, none is posted
POST_SECONDS = 10

NAME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}-[0-9]{2}:[0-9]{2}:[0-9]{2}")
NAME_FORMAT = "%Y-%m-%d-%H:%M:%S"


def time_of(name):
    """Return the time of a delivery's name, None if it isn't one."""
    try:
        return datetime.strptime(name, NAME_FORMAT).replace(tzinfo=timezone.utc) if NAME.fullmatch(name) else None
    except ValueError:  # no such date or time
        return None


def pages(s3, **request):
    return s3.get_paginator("list_objects_v2").paginate(**request)


def ingested(s3):
    """Return the names of the ingested deliveries: one request for each 1,000."""
    found = (
        item["Key"]
        for page in pages(s3, Bucket=MARKERS_BUCKET, Prefix=MARKERS_PREFIX)
        for item in page.get("Contents", ())
    )
    return {name for name in (key[len(MARKERS_PREFIX) :] for key in found) if time_of(name)}


def lookback_start(done, now):
    """Return the name after which deliveries are looked for."""
    if not done:
        return NOT_BEFORE
    newest = min(max(done), now.strftime(NAME_FORMAT))  # a name in the future doesn't move the window
    try:
        return max(NOT_BEFORE, (time_of(newest) - LOOKBACK).strftime(NAME_FORMAT).rjust(19, "0"))
    except OverflowError:
        return NOT_BEFORE


def discover(s3, start_after):
    """Return the names of the deliveries after a name, oldest first: one request for each 1,000."""
    root = f"{LANDING_PREFIX}{SOURCE}/"
    request = {"Bucket": LANDING_BUCKET, "Prefix": root, "Delimiter": "/"}
    if start_after:
        request["StartAfter"] = f"{root}{start_after}"
    found = (item["Prefix"][len(root) : -1] for page in pages(s3, **request) for item in page.get("CommonPrefixes", ()))
    return sorted(name for name in found if time_of(name) and name > start_after)


def list_delivery(s3, delivery, now):
    """Return the fingerprint of a delivery's files, and why it is incomplete: one request for each 1,000 files."""
    root = f"{LANDING_PREFIX}{SOURCE}/{delivery}/"
    files = {folder: [] for folder in FOLDERS}
    for page in pages(s3, Bucket=LANDING_BUCKET, Prefix=root):
        for item in page.get("Contents", ()):
            folder, _, name = item["Key"][len(root) :].partition("/")
            if folder in files and name.endswith(".parquet") and not name.startswith(("_", ".")) and "/" not in name:
                files[folder].append(item)
    digest = hashlib.sha256()
    for item in (item for found in files.values() for item in found):
        path, etag = item["Key"][len(LANDING_PREFIX) :], item["ETag"].strip('"')
        digest.update(f"{path}\0{item['Size']}\0{etag}\n".encode())
    missing = [folder for folder, found in files.items() if not found]
    incomplete = None
    if missing:
        incomplete = f"arriving: {', '.join(missing)} still missing"
    elif now - max(item["LastModified"] for found in files.values() for item in found) < QUIET:
        incomplete = f"arriving: changed less than {QUIET.total_seconds():g} seconds ago"
    return digest.hexdigest()[:16], incomplete


def find_complete(s3, after, now):
    """Return the complete deliveries that aren't ingested, with their fingerprints, oldest first; and where to go on.

    `after` is the delivery after which the last run ended, "" to begin with the oldest one.
    """
    done = ingested(s3)
    pending = [name for name in discover(s3, lookback_start(done, now)) if name not in done]
    complete, last = [], ""
    for last in ([name for name in pending if name > after] or pending)[:MAX_LISTED]:
        fingerprint, incomplete = list_delivery(s3, last, now)
        print(f"{last}: {incomplete or 'complete'}")
        if incomplete is None:
            complete.append((last, fingerprint))
        if len(complete) == MAX_STARTED:
            break
    return complete, last if last and last < pending[-1] else ""


def next_run(delivery, fingerprint, failures, now):
    """Return the name of the run for a delivery, and why it isn't started now.

    `failures` are the times of earlier runs for the same files that the infrastructure has failed. A run has the name
    of the files, and a repetition also that of the failure which it repeats, so that each exists only once.
    """
    name, times = f"{delivery}__{fingerprint}", sorted(map(datetime.fromisoformat, failures))
    if not times:
        return name, None
    if now - times[-1] < PAUSE:
        return name, f"a run failed a short while ago, at {times[-1]}"
    if len([time for time in times if now - time < timedelta(days=1)]) >= MAX_RUNS_PER_DAY:
        return name, f"{MAX_RUNS_PER_DAY} runs have failed within a day"
    return repetition(name, times[-1]), None


def repetition(name, failed_at):
    """Return the name of the run that repeats one after its failure."""
    return f"{name}__after_{failed_at.strftime('%Y-%m-%dT%H:%M:%SZ')}"


def failures_of(ti, name):
    """Return when runs for the same files were failed by the infrastructure; `name` is that of the first run."""
    pull = {"dag_id": STARTS, "task_ids": STARTED_TASK, "key": f"failures_{name}", "map_indexes": -1}
    if "run_id" not in inspect.signature(ti.xcom_pull).parameters:  # Airflow 2
        return ti.xcom_pull(**pull, include_prior_dates=True) or []
    # Airflow 3.3 finds prior dates within one DAG only, so the runs are followed from one to the next.
    run_id, found = name, []
    while times := ti.xcom_pull(**pull, run_id=run_id):
        found.append(times[-1])
        run_id = repetition(name, datetime.fromisoformat(times[-1]))
    return found


def post_failure(context):
    """Post a message about a task that has failed, if Airflow has the connection; the task's state stays as it is."""
    from urllib.error import HTTPError  # here, as the file is parsed every few seconds
    from urllib.request import Request, urlopen
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    try:
        connection = S3Hook.get_connection(WEBHOOK)
    except AirflowNotFoundException:
        return
    ti, answer = context["ti"], ["no answer"]
    text = (
        f"development: task {ti.task_id} of DAG {ti.dag_id} failed, run {ti.run_id}\n"
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
    dag_id="dsi_deliveries",
    description="Start dsi_raw for each new complete delivery in the landing zone, once.",
    doc_md="""Start dsi_raw for each new complete delivery in the landing zone, once.

- Owner: biocloud
- Lineage: reads s3://example-dsi-development/dsi/ and s3://example-lake-development/_files/ingested/dsi/;
  starts `dsi_raw`
- Docs: [dsi.md](https://gitlab.com/example/biocloud/-/blob/HEAD/docs/data-architecture/raw/dsi.md)
- Generated from Dagster, the sensor `dsi_deliveries`, for development. Do not edit.""",
    schedule=CronTriggerTimetable("*/5 * * * *", timezone="UTC"),
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=True,  # a person decides when it begins
    dagrun_timeout=timedelta(minutes=30),
    tags=["biocloud", "generated", "development", "dsi"],
    default_args={
        "owner": "biocloud",
        "retries": 2,
        "retry_delay": timedelta(seconds=10),
        "execution_timeout": timedelta(minutes=10),
        "on_failure_callback": post_failure,
    },
) as dag:

    @task
    def find_new(ti=None):
        """Find complete deliveries that aren't ingested."""
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook  # here, as the file is parsed every few seconds

        s3, now = S3Hook(aws_conn_id="aws_default").get_conn(), datetime.now(timezone.utc)
        after = ti.xcom_pull(task_ids="find_new", key="after", include_prior_dates=True, map_indexes=-1) or ""
        complete, after = find_complete(s3, after, now)
        ti.xcom_push(key="after", value=after)
        runs = []
        for delivery, fingerprint in complete:
            failures = failures_of(ti, f"{delivery}__{fingerprint}")
            # A delivery whose files have changed has another fingerprint, and so a new run.
            run_id, reason = next_run(delivery, fingerprint, failures, now)
            if reason:
                print(f"{delivery}: {reason}")
            else:
                runs.append({"trigger_run_id": run_id, "conf": {"delivery": delivery}})
        return runs

    TriggerDagRunOperator.partial(
        task_id="start_dsi_raw",
        trigger_dag_id=STARTS,
        skip_when_already_exists=True,  # a run that is waiting, running or has failed isn't started again
        max_active_tis_per_dagrun=1,  # oldest first
    ).expand_kwargs(find_new())
