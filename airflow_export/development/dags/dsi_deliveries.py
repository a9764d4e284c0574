"""Start dsi_raw for each new complete delivery in the landing zone, once.

Generated for development from the Dagster sensor `dsi_deliveries`. Do not edit: change the definitions, then run

    uv run biocloud airflow export --env development

Runs unmodified on Airflow 2.10 to 3.x with the provider for Amazon.
"""

import hashlib
import io
import json
import re
from datetime import datetime, timedelta, timezone

import pendulum

try:  # Airflow 3
    from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task
    from airflow.operators.trigger_dagrun import TriggerDagRunOperator

try:  # Airflow 3: without a description of the cron schedule, which takes longer than all the rest
    from airflow.sdk import CronTriggerTimetable
except ImportError:
    from airflow.timetables.trigger import CronTriggerTimetable

STARTS = "dsi_raw"
LANDING_BUCKET, LANDING = "example-dsi-development", "dsi"  # below it lies <delivery>/<folder>/*.parquet
LOG_BUCKET, LOG = "example-lake-development", "raw/dsi/delivery"  # the Delta table that says what is ingested
DELIVERY_COLUMN = "_delivery"
FOLDERS = ["algorithm", "sensor", "sensor_deployment", "sensor_media_item", "analysis_group_result"]
LOOKBACK = timedelta(days=30)  # before the newest ingested delivery, for late ones
QUIET = timedelta(seconds=60)  # complete means that nothing has changed for so long
MOST = 20  # runs started at once; the next look starts the next ones

NAME = re.compile(r"\d{4}-\d{2}-\d{2}-\d{2}:\d{2}:\d{2}")
NAME_FORMAT = "%Y-%m-%d-%H:%M:%S"
COMMIT = re.compile(r"(\d{20})\.json")
CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\.(.*)")
READABLE_FEATURES = {"deletionVectors", "timestampNtz", "vacuumProtocolCheck", "typeWidening"}


def pages(s3, **request):
    return s3.get_paginator("list_objects_v2").paginate(**request)


def discover(s3, start_after):
    """Return the names of the deliveries behind a name, oldest first: one request for each 1,000."""
    request = {"Bucket": LANDING_BUCKET, "Prefix": f"{LANDING}/", "Delimiter": "/"}
    if start_after:
        request["StartAfter"] = f"{LANDING}/{start_after}/"
    found = (item["Prefix"] for page in pages(s3, **request) for item in page.get("CommonPrefixes", ()))
    return sorted(name for name in (prefix.rstrip("/").rpartition("/")[2] for prefix in found) if time_of(name))


def time_of(name):
    """Return the time that a delivery's name stands for; None if it isn't one."""
    try:
        return datetime.strptime(name, NAME_FORMAT).replace(tzinfo=timezone.utc) if NAME.fullmatch(name) else None
    except ValueError:  # of the right shape, but no such date or time
        return None


def look(s3, delivery, now):
    """Return the fingerprint of a delivery's files, None unless it is complete, and why: one request for each 1,000."""
    root = f"{LANDING}/{delivery}/"
    folders, digest, youngest = set(), hashlib.sha256(), None
    for page in pages(s3, Bucket=LANDING_BUCKET, Prefix=root):
        for item in page.get("Contents", ()):
            folder, _, name = item["Key"][len(root) :].partition("/")
            if folder not in FOLDERS or "/" in name or not name.endswith(".parquet") or name.startswith(("_", ".")):
                continue
            folders.add(folder)
            digest.update(f"{item['Key']}\0{item['Size']}\0{item['ETag']}\n".encode())
            youngest = max(youngest or item["LastModified"], item["LastModified"])
    missing = [folder for folder in FOLDERS if folder not in folders]
    if missing:
        return None, f"arriving, {', '.join(missing)} still to come"
    if now - youngest < QUIET:
        return None, "arriving, it has changed a moment ago"
    return digest.hexdigest()[:16], "complete"


def ingested(s3):
    """Return the deliveries in the delivery log: the partitions of its Delta table, from the table's own log.

    https://github.com/delta-io/delta/blob/master/PROTOCOL.md. What it can't read for certain, it refuses.
    """
    import pyarrow.parquet  # here, for a DAG file is parsed every few seconds

    def read(name):
        return s3.get_object(Bucket=LOG_BUCKET, Key=f"{LOG}/_delta_log/{name}")["Body"].read()

    try:
        start = json.loads(read("_last_checkpoint"))["version"]
        after = {"StartAfter": f"{LOG}/_delta_log/{start:020d}"}
    except s3.exceptions.NoSuchKey:
        after = {}
    found = pages(s3, Bucket=LOG_BUCKET, Prefix=f"{LOG}/_delta_log/", **after)
    names = sorted(item["Key"].rpartition("/")[2] for page in found for item in page.get("Contents", ()))
    checkpoints = [CHECKPOINT.fullmatch(name) for name in names]
    whole = max((int(match[1]) for match in checkpoints if match and match[2] == "parquet"), default=None)
    commits = [int(match[1]) for match in map(COMMIT.fullmatch, names) if match]
    commits = [version for version in commits if whole is None or version > whole]
    first = 0 if whole is None else whole + 1
    if commits != list(range(first, first + len(commits))):
        kinds = sorted({match[2] for match in checkpoints if match and match[2] != "parquet"})
        raise RuntimeError(
            f"s3://{LOG_BUCKET}/{LOG}: expected every commit from version {first} on, found {commits or 'none'}"
            + (f" and checkpoints in parts or of version 2 ({', '.join(kinds)})" if kinds else "")
            + ". It has to be known for certain what is ingested: write a classic checkpoint of the delivery log."
        )
    files = {}
    actions = []
    if whole is not None:
        name = f"{whole:020d}.checkpoint.parquet"
        table = pyarrow.parquet.read_table(io.BytesIO(read(name)))
        known = ["add", "protocol", "metaData", "sidecar", "checkpointMetadata"]
        actions += table.select([column for column in known if column in table.column_names]).to_pylist()
    for version in commits:
        actions += [json.loads(line) for line in read(f"{version:020d}.json").splitlines() if line.strip()]
    for action in actions:
        if action.get("sidecar") or action.get("checkpointMetadata"):
            raise RuntimeError(f"s3://{LOG_BUCKET}/{LOG}: a checkpoint of version 2; write a classic one.")
        features = set((action.get("protocol") or {}).get("readerFeatures") or ()) - READABLE_FEATURES
        settings = dict((action.get("metaData") or {}).get("configuration") or {})
        if settings.get("delta.columnMapping.mode", "none") == "none":
            features -= {"columnMapping"}  # allowed, but not in use
        else:
            features |= {"columnMapping"}
        if features:
            raise RuntimeError(f"s3://{LOG_BUCKET}/{LOG}: a table with {', '.join(sorted(features))}.")
        for kind in ("remove", "add"):
            file = action.get(kind)
            if file:
                vector = file.get("deletionVector") or {}
                key = file["path"], vector.get("pathOrInlineDv"), vector.get("offset")
                if kind == "add":
                    files[key] = dict(file["partitionValues"])[DELIVERY_COLUMN]
                else:
                    files.pop(key, None)
    return set(files.values())


def started(ti, run_ids):
    """Return those of some runs that there are already."""
    if hasattr(ti, "get_dr_count"):  # Airflow 3: a task has no database
        return {run_id for run_id in run_ids if ti.get_dr_count(dag_id=STARTS, run_ids=[run_id])}
    from airflow.models import DagRun

    return {run.run_id for run in DagRun.find(dag_id=STARTS, run_id=run_ids)} if run_ids else set()


with DAG(
    dag_id="dsi_deliveries",
    description="Start dsi_raw for each new complete delivery in the landing zone, once.",
    doc_md="""Start dsi_raw for each new complete delivery in the landing zone, once.

- Owner: biocloud
- Lineage: reads s3://example-dsi-development/dsi and s3://example-lake-development/raw/dsi/delivery; starts
  `dsi_raw`
- Docs: [dsi.md](https://gitlab.com/example/biocloud/-/blob/HEAD/docs/data-architecture/raw/dsi.md)
- Generated from Dagster, the sensor `dsi_deliveries`, for development. Do not edit.""",
    schedule=CronTriggerTimetable("*/5 * * * *", timezone="UTC"),
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    dagrun_timeout=timedelta(minutes=30),
    tags=["biocloud", "generated", "development", "dsi"],
    default_args={
        "owner": "biocloud",
        "retries": 2,
        "retry_delay": timedelta(seconds=10),
        "execution_timeout": timedelta(minutes=10),
    },
) as dag:

    @task
    def find_new(ti=None):
        """Find the complete deliveries that nobody has ingested, and for which no run was started."""
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        s3 = S3Hook(aws_conn_id="aws_default").get_conn()
        now = datetime.now(timezone.utc)
        done = ingested(s3)
        past = [time for time in map(time_of, done) if time and time <= now]
        start_after = (max(past) - LOOKBACK).strftime(NAME_FORMAT) if past else ""
        complete = {}
        for delivery in discover(s3, start_after):
            if delivery in done:
                continue
            fingerprint, state = look(s3, delivery, now)
            print(f"{delivery}: {state}")
            if fingerprint:
                # A refused delivery that is mended has another fingerprint, and so a run of its own.
                complete[f"{delivery}__{fingerprint}"] = delivery
        there = started(ti, list(complete))
        new = [
            {"trigger_run_id": run_id, "conf": {"delivery": delivery}}
            for run_id, delivery in complete.items()
            if run_id not in there
        ]
        print(f"{len(new)} to start, {len(there)} started earlier")
        return new[:MOST]

    TriggerDagRunOperator.partial(
        task_id="start_dsi_raw",
        trigger_dag_id=STARTS,
        skip_when_already_exists=True,  # never twice, whoever was faster
        max_active_tis_per_dagrun=1,  # oldest first
    ).expand_kwargs(find_new())
