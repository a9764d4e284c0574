"""The export: every definition is accounted for, the files are always the same, and what it can't say it refuses."""

from __future__ import annotations

import ast
import json
import re
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import deltalake
import pyarrow as pa
import pytest
import typer.testing

from biocloud_assets.airflow import collect, render
from biocloud_assets.airflow.model import Export
from biocloud_assets.cli import app
from biocloud_assets.errors import ExportError
from biocloud_assets.lake import DataLake
from biocloud_assets.launch.script import NOT_IN_AIRFLOW, script_tags
from biocloud_assets.raw.dsi.contract import DELIVERY_COLUMN, FOLDERS, LOG
from biocloud_assets.settings import Settings

ROOT = Path(__file__).parents[2]
DAYS = dg.DailyPartitionsDefinition("2026-01-01")


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@cache
def definitions() -> tuple[dg.Definitions, Settings]:
    return collect.build_definitions("development")


def export(*more: dg.Definitions) -> Export:
    those, settings = definitions()
    return collect.collect(dg.Definitions.merge(those, *more) if more else those, settings, branch="main")


@dg.op(tags=script_tags("databricks/publish.py", ["--run-date", "{run_date}", "--root", "{curated_root}"]))
def make_day() -> int:
    return 1


@dg.op(tags=script_tags("databricks/manifest.py", ["{run_date}"]), retry_policy=dg.RetryPolicy(max_retries=4, delay=9))
def note_day(published: int) -> int:
    return published


@dg.graph_asset(key=["example", "dsi", "day"], partitions_def=DAYS)
def day() -> Any:
    """A graph of ops that makes one asset, as the curated layer has it."""
    return note_day(make_day())


@dg.schedule(
    job=dg.define_asset_job("daily_example", [day]),
    cron_schedule="0 4 * * *",
    execution_timezone="Europe/Amsterdam",
)
def every_day(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    return dg.RunRequest(partition_key=(context.scheduled_execution_time - timedelta(days=1)).strftime("%Y-%m-%d"))


DAILY = dg.Definitions(assets=[day], schedules=[every_day])


def test_what_is_committed_is_what_the_definitions_say() -> None:
    found = typer.testing.CliRunner().invoke(app, ["airflow", "export", "--check"])
    assert found.exit_code == 0, found.output


def test_a_stale_export_is_told_with_its_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("biocloud_assets.airflow.cli.EXPORT_ROOT", tmp_path)
    run = typer.testing.CliRunner().invoke
    assert run(app, ["airflow", "export", "--env", "development", "--git-branch", "feature"]).exit_code == 0
    (tmp_path / "development/dags/of_a_job_that_is_gone.py").write_text("")
    found = run(app, ["airflow", "export", "--env", "development", "--check"])
    assert found.exit_code == 1
    assert re.search(r'^- +"feature",\n^\+ +"main",', found.output, re.MULTILINE)
    assert run(app, ["airflow", "export", "--env", "development"]).exit_code == 0
    assert run(app, ["airflow", "export", "--env", "development", "--check"]).exit_code == 0
    assert not (tmp_path / "development/dags/of_a_job_that_is_gone.py").exists()


def test_the_same_definitions_give_the_same_bytes() -> None:
    assert render.render(export()) == render.render(export())


def test_files_need_nothing_but_airflow() -> None:
    for content in render.render(export(DAILY)).values():
        if content.startswith("<!--"):
            continue
        imported = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(content))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        allowed = {"hashlib", "io", "json", "re", "datetime", "pendulum", "pyarrow", "airflow"}
        assert imported <= allowed


def test_every_definition_has_a_counterpart_or_a_reason() -> None:
    repository = definitions()[0].get_repository_def()
    told = {(row.kind, row.name) for row in export().rows}
    graph = repository.asset_graph
    assert {("asset", key.to_user_string()) for key in graph.get_all_asset_keys()} <= told
    assert {("asset check", key.to_user_string()) for key in graph.asset_check_keys} <= told
    jobs = {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")}
    assert {("job", name) for name in jobs} <= told
    assert {("sensor", sensor.name) for sensor in repository.sensor_defs} <= told
    assert {("schedule", schedule.name) for schedule in repository.schedule_defs} <= told
    assert ("freshness policy", "raw/dsi/delivery") in told
    assert {("resource", name) for name in repository.get_top_level_resources()} <= told


def test_a_definition_without_a_counterpart_is_named() -> None:
    @dg.asset
    def stray() -> None: ...

    @dg.op
    def opaque() -> None: ...

    @dg.job
    def mystery() -> None:
        opaque()

    @dg.sensor(job=mystery)
    def watcher() -> None: ...

    more = dg.Definitions(assets=[stray], jobs=[mystery], sensors=[watcher], resources={"thing": 1})
    with pytest.raises(ExportError) as caught:
        export(more)
    for name in ("asset stray", "op opaque of mystery", "sensor watcher", "resource thing"):
        assert f"- {name}" in str(caught.value)


def test_a_definition_may_say_why_it_is_not_in_airflow() -> None:
    @dg.sensor(metadata={NOT_IN_AIRFLOW: "It tells Dagster what Airflow did."}, asset_selection=["raw/dsi/delivery"])
    def follower() -> None: ...

    (row,) = [row for row in export(dg.Definitions(sensors=[follower])).rows if row.name == "follower"]
    assert (row.counterpart, row.reason) == ("", "It tells Dagster what Airflow did.")


def test_a_job_of_days_becomes_a_dag_with_a_run_date() -> None:
    (dag,) = [dag for dag in export(DAILY).jobs if dag.name == "daily_example"]
    first, second = dag.tasks
    assert (first.name, second.name, second.upstream) == ("make_day", "note_day", (first.name,))
    assert first.arguments[:2] == ("--run-date", "{{ params.run_date or run_date(dag_run) }}")
    assert first.arguments[3] == "s3://example-lake-development/curated"
    assert (second.retries, second.retry_delay, second.exponential) == (4, 9, False)
    assert second.outlets == ("s3://example-lake-development/example/dsi/day",)
    assert first.outlets == ()
    assert dag.run_date is not None
    assert dag.run_date.days_before == 1
    assert dag.schedule is not None
    assert (dag.schedule.cron, dag.schedule.timezone) == ("0 4 * * *", "Europe/Amsterdam")


def test_where_dagster_is_in_charge_airflow_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = definitions()[1]
    led = settings.environment.model_copy(update={"in_charge": "dagster"})
    monkeypatch.setitem(settings.__dict__, "environment", led)
    found = export()
    assert {dag.schedule for dag in (*found.jobs, *found.dispatchers)} == {None}
    dispatcher = render.render(found)["dags/dsi_deliveries.py"]
    assert "schedule=None" in dispatcher
    assert "is_paused_upon_creation=True" in dispatcher


# --- what the dispatcher reads, without Airflow ---


class Dispatcher:
    """The functions of the dispatcher's file, which know of Airflow only that they run in it."""

    def __init__(self, landing: str, log: str, endpoint: str) -> None:
        source = (ROOT / "airflow_export/development/dags/dsi_deliveries.py").read_text()
        head = source.partition("\nwith DAG(")[0]
        head = re.sub(r"^try:.*?(?=^[A-Z])", "", head, flags=re.MULTILINE | re.DOTALL)  # the imports of Airflow
        self.names: dict[str, Any] = {}
        exec(compile(head.replace("import pendulum", ""), "dsi_deliveries.py", "exec"), self.names)
        for name, root in (("LANDING", landing), ("LOG", log)):
            bucket, _, prefix = root.removeprefix("s3://").partition("/")
            self.names |= {f"{name}_BUCKET": bucket, name: prefix}
        self.s3 = boto3.client("s3", endpoint_url=endpoint)
        self.requests = 0
        self.s3.meta.events.register("before-send.s3", self._count)

    def _count(self, **_: Any) -> None:
        self.requests += 1

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.names[name](self.s3, *arguments)


@pytest.fixture
def lake(s3_root: str, s3_server: str) -> DataLake:
    return DataLake.at(s3_root, endpoint=s3_server)


@pytest.fixture
def dispatcher(lake: DataLake, s3_server: str) -> Dispatcher:
    return Dispatcher(lake.uri("in/dsi"), lake.uri(LOG.path), s3_server)


OPTIONS = {"AWS_ALLOW_HTTP": "true"}


def log(lake: DataLake, *names: str) -> deltalake.DeltaTable:
    for name in names:
        deltalake.write_deltalake(
            lake.uri(LOG.path),
            pa.table({"rows": [1], DELIVERY_COLUMN: [name]}),
            mode="overwrite" if lake.list(f"{LOG.path}/_delta_log").files else "append",
            predicate=f"{DELIVERY_COLUMN} = '{name}'" if lake.list(f"{LOG.path}/_delta_log").files else None,
            partition_by=[DELIVERY_COLUMN],
            storage_options=OPTIONS,
        )
    return deltalake.DeltaTable(lake.uri(LOG.path), storage_options=OPTIONS)


NAMES = [f"2026-01-{day:02}-06:00:00" for day in range(1, 9)]


def test_the_delivery_log_is_read_with_and_without_a_checkpoint(lake: DataLake, dispatcher: Dispatcher) -> None:
    assert dispatcher.ingested() == set()
    log(lake, *NAMES[:3])
    log(lake, NAMES[1])  # again: its files are replaced
    assert dispatcher.ingested() == set(NAMES[:3])
    log(lake, NAMES[3]).create_checkpoint()
    log(lake, NAMES[4]).delete(f"{DELIVERY_COLUMN} = '{NAMES[0]}'")
    assert dispatcher.ingested() == set(NAMES[1:5])
    log(lake, NAMES[5]).create_checkpoint()
    lake.delete([f"{LOG.path}/_delta_log/{version:020d}.json" for version in range(5)])  # as old ones are cleaned up
    log(lake, NAMES[6])
    dispatcher.requests = 0
    assert dispatcher.ingested() == set(NAMES[1:7])
    assert dispatcher.requests == 4  # the last checkpoint's version, a listing, the checkpoint, one commit


@pytest.mark.parametrize(
    "name", ["{}.checkpoint.0000000001.0000000002.parquet", "{}.checkpoint.80a083e8-7026-4e79-81be-64bd76c43a11.json"]
)
def test_a_checkpoint_that_it_cannot_read_is_refused(lake: DataLake, dispatcher: Dispatcher, name: str) -> None:
    log(lake, *NAMES[:3])
    lake.write(f"{LOG.path}/_delta_log/{name.format('00000000000000000001')}", b"")
    lake.delete([f"{LOG.path}/_delta_log/{version:020d}.json" for version in range(2)])
    with pytest.raises(RuntimeError, match=r"checkpoints in parts or of version 2"):
        dispatcher.ingested()


def test_a_gap_in_the_log_is_refused(lake: DataLake, dispatcher: Dispatcher) -> None:
    log(lake, *NAMES[:4])
    lake.delete([f"{LOG.path}/_delta_log/{2:020d}.json"])
    with pytest.raises(RuntimeError, match=r"every commit from version 0"):
        dispatcher.ingested()


def test_a_feature_that_it_cannot_read_is_refused(lake: DataLake, dispatcher: Dispatcher) -> None:
    log(lake, NAMES[0])
    protocol = {"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["catalogManaged"]}}
    lake.write(f"{LOG.path}/_delta_log/{1:020d}.json", json.dumps(protocol).encode())
    with pytest.raises(RuntimeError, match="catalogManaged"):
        dispatcher.ingested()


def test_new_deliveries_take_one_request_and_each_one_more(lake: DataLake, dispatcher: Dispatcher) -> None:
    for name in [*NAMES, "2026-13-01-06:00:00", "other"]:
        for folder in FOLDERS:
            lake.write(f"in/dsi/{name}/{folder.name}/part-0.parquet", b"x")
    assert dispatcher.discover("") == NAMES
    assert dispatcher.discover(NAMES[4]) == NAMES[5:]
    now = datetime.now(UTC) + timedelta(hours=1)
    dispatcher.requests = 0
    fingerprint, state = dispatcher.look(NAMES[0], now)
    assert (len(fingerprint), state, dispatcher.requests) == (16, "complete", 1)
    assert dispatcher.look(NAMES[0], datetime.now(UTC))[0] is None  # it has changed a moment ago
    lake.write(f"in/dsi/{NAMES[0]}/sensor/part-1.parquet", b"more")
    lake.write(f"in/dsi/{NAMES[0]}/sensor/_SUCCESS", b"")
    mended, _ = dispatcher.look(NAMES[0], now)
    assert mended not in (None, fingerprint)
    lake.delete([f"in/dsi/{NAMES[1]}/sensor/part-0.parquet"])
    assert dispatcher.look(NAMES[1], now) == (None, "arriving, sensor still to come")
