"""The DSI assets and checks in Dagster: what a run writes, what it tells, and what it keeps out."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import deltalake
import pyarrow as pa
import pytest
from deliveries import DELIVERY, record, write

from biocloud_assets import launch
from biocloud_assets.definitions import build_definitions
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi import contract, ingest, log, quality
from biocloud_assets.raw.dsi.checks import check_tables, landing_key, table_key
from biocloud_assets.raw.dsi.contract import DELIVERY_COLUMN, FOLDERS, LOG, RESULT, TABLES
from biocloud_assets.raw.dsi.delivery import look
from biocloud_assets.raw.dsi.partitions import deliveries
from biocloud_assets.raw.dsi.sensors import refusal
from biocloud_assets.raw.dsi.steps import LANDING_CHECKS, lanes
from biocloud_assets.run_step import Step, Told, perform
from biocloud_assets.settings import Settings
from biocloud_assets.spark.session import get_session
from biocloud_assets.steps import Run

PREDICTION = "analysis_group_result_prediction"
UNNESTED = [table.name for table in TABLES if table.folder == RESULT]
RAW = {table_key(table) for table in (*TABLES, LOG)}
LANDING = {landing_key(folder.name) for folder in FOLDERS}
ALL_CHECKS = {dg.AssetCheckKey(landing_key(folder.name), name) for folder in FOLDERS for name in LANDING_CHECKS} | {
    dg.AssetCheckKey(table_key(table), name) for table in TABLES for name in quality.checks_of(table)
}
NULL_KEY = r"null key: .*folder algorithm, file part-0\.parquet, column id"


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as instance:
        yield instance


class World:
    """A landing zone and a lake of their own, and the definitions that work with them."""

    def __init__(self, root: Path, instance: dg.DagsterInstance) -> None:
        self.landing_root, self.lake_root, self.instance = root / "in", root / "out", instance
        self.lake, self.landing = DataLake.at(str(self.lake_root)), DataLake.at(str(self.landing_root))

    @cached_property
    def job(self) -> dg.JobDefinition:
        settings = Settings(landing_root=str(self.landing_root), lake_root=str(self.lake_root))
        return build_definitions(settings).resolve_job_def("dsi_raw")

    def land(self, name: str, **folders: Any) -> None:
        write(self.landing_root, name, **folders)
        self.instance.add_dynamic_partitions(str(deliveries.name), [name])

    def run(self, name: str, *tables: str) -> dg.ExecuteInProcessResult:
        """Run the job for a delivery: all of it, or only some tables."""
        return self.job.execute_in_process(
            instance=self.instance,
            partition_key=name,
            asset_selection=[table_key(contract.table(table)) for table in tables] or None,
            raise_on_error=False,
        )

    def write(self, name: str, *tables: str) -> None:
        """Write some tables without Dagster, which takes a fraction of the time."""
        place = ingest.Place(get_session("sail"), self.landing, self.lake)
        for table in tables:
            ingest.write_table(place, name, contract.table(table))

    def check(self, name: str | None, *tables: str) -> dict[tuple[str, str], dg.AssetCheckEvaluation]:
        """Run nothing but the checks of some tables, for a delivery or for all, by table and check."""
        paths = {contract.table(table).path for table in tables}
        keys = {key for key in check_tables.check_keys if key.asset_key.to_user_string() in paths}
        result = self.job.get_subset(asset_selection=set(), asset_check_selection=keys).execute_in_process(
            instance=self.instance, partition_key=name, raise_on_error=False
        )
        assert not materialised(result)
        return {(e.asset_key.path[-1], e.check_name): e for e in result.get_asset_check_evaluations()}

    def delta(self, table: str) -> deltalake.DeltaTable:
        return deltalake.DeltaTable(str(self.lake_root / contract.table(table).path))

    @property
    def versions(self) -> dict[str, int]:
        """The version of every table that there is."""
        return {
            table.name: deltalake.DeltaTable(str(self.lake_root / table.path)).version()
            for table in (*TABLES, LOG)
            if (self.lake_root / table.path).exists()
        }


@pytest.fixture
def world(tmp_path: Path, instance: dg.DagsterInstance) -> World:
    return World(tmp_path, instance)


def materialised(result: dg.ExecuteInProcessResult) -> set[dg.AssetKey]:
    return {event.asset_key for event in result.get_asset_materialization_events() if event.asset_key is not None}


def failed(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """The checks that failed."""
    return {e.asset_check_key.to_user_string(): e for e in result.get_asset_check_evaluations() if not e.passed}


def errors(result: dg.ExecuteInProcessResult) -> str:
    events = [event for event in result.all_events if event.is_step_failure]
    return "\n".join(
        str(event.step_failure_data.user_failure_data or event.step_failure_data.error) for event in events
    )


# A good delivery, run once for all that is asked of it


@pytest.fixture(scope="module")
def good(
    tmp_path_factory: pytest.TempPathFactory, instance: dg.DagsterInstance
) -> tuple[World, dg.ExecuteInProcessResult]:
    world = World(tmp_path_factory.mktemp("good"), instance)
    world.land(DELIVERY, sensor=[record("sensor", id=f"sensor-{number}", name="a | b\nc") for number in range(1, 8)])
    return world, world.run(DELIVERY)


Good = tuple[World, dg.ExecuteInProcessResult]


def metadata(good: Good, key: dg.AssetKey) -> dict[str, Any]:
    """What Dagster has stored of an asset's materialisation in the delivery's partition."""
    filter_ = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[DELIVERY])
    for found in good[0].instance.fetch_materializations(filter_, limit=50).records:
        if found.run_id == good[1].run_id:
            materialization = found.asset_materialization
            assert materialization is not None
            return {name: value.value for name, value in materialization.metadata.items()}
    raise AssertionError(f"{key} isn't materialised in {DELIVERY}")


def test_a_good_delivery_materialises_every_folder_every_table_and_the_log_in_its_partition(good: Good) -> None:
    world, result = good
    assert result.success, errors(result)
    events = result.get_asset_materialization_events()
    assert {(event.asset_key, event.partition) for event in events} == {(key, DELIVERY) for key in LANDING | RAW}
    assert len(events) == 15
    assert log.ingested(world.lake) == {DELIVERY}


def test_a_good_delivery_passes_every_check_in_its_partition(good: Good) -> None:
    evaluations = good[1].get_asset_check_evaluations()
    assert {e.asset_check_key for e in evaluations} == ALL_CHECKS
    assert len(evaluations) == len(ALL_CHECKS)
    assert all(e.passed for e in evaluations), failed(good[1])
    assert {e.partition for e in evaluations if e.asset_key.path[0] == "landing"} == {DELIVERY}


def test_a_landing_folder_tells_what_is_in_it(good: Good) -> None:
    contents = look(good[0].landing, DELIVERY)
    for folder in FOLDERS:
        found = metadata(good, landing_key(folder.name))
        (file,) = contents.files[folder.name]
        assert found["dagster/row_count"] == (7 if folder.name == "sensor" else 1)
        assert (found["bytes"], found["file_count"]) == (file.size, 1)
        assert found["dagster/uri"] == str(good[0].landing_root / "dsi" / DELIVERY / folder.name)
        assert found["fingerprint"] == contents.fingerprint
        assert (found["refused"], found["faults"]) == (False, "")
        assert [column.name for column in found["dagster/column_schema"].columns] == [f.name for f in folder.fields]
    assert refusal(good[0].instance, DELIVERY) is None


def test_a_table_tells_what_was_written_and_shows_some_of_it(good: Good) -> None:
    world, _ = good
    for table in TABLES:
        found = metadata(good, table_key(table))
        path = world.lake_root / table.path
        delta = deltalake.DeltaTable(str(path))
        assert found["dagster/partition_row_count"] == (7 if table.name == "sensor" else 1)
        assert found["bytes"] == sum(Path(file).stat().st_size for file in delta.file_uris())
        assert found["dagster/uri"] == str(path)
        assert found["delta_version"] == delta.version()
        header, rule, *rows = found["preview"].splitlines()
        assert header == f"| {' | '.join(column.name for column in table.columns)} |"
        assert rule == "|" + " --- |" * len(table.columns)
        assert len(rows) == (5 if table.name == "sensor" else 1)
    assert r"| a \| b c |" in metadata(good, table_key(contract.table("sensor")))["preview"]


def test_the_log_tells_the_rows_of_every_table_and_the_run(good: Good) -> None:
    found = metadata(good, table_key(LOG))
    row = log.read(good[0].lake, DELIVERY)
    assert row is not None
    assert row["rows"] == {table.name: 7 if table.name == "sensor" else 1 for table in TABLES}
    assert {r.data["table"]: r.data["rows"] for r in found["rows_per_table"].records} == row["rows"]
    assert found["rows"] == 15
    assert found["run"] == row["run_id"] == good[1].run_id
    assert found["bytes"] == row["source_bytes"] == look(good[0].landing, DELIVERY).size
    assert found["dagster/uri"] == str(good[0].lake_root / LOG.path)
    assert (row["engine"], row["orchestrator"]) == ("sail", "dagster")


# Faults and warnings


def test_of_a_faulty_delivery_nothing_is_written_and_its_folder_says_why(world: World) -> None:
    world.land(DELIVERY, algorithm=[record("algorithm", id=None)])
    result = world.run(DELIVERY)
    assert not result.success
    assert materialised(result) == LANDING, "no table"
    assert not world.lake_root.exists() or not world.versions
    (check,) = [check for check in failed(result).values() if check.severity is dg.AssetCheckSeverity.ERROR]
    assert check.asset_check_key.to_user_string() == "landing/dsi/algorithm:contract"
    assert (check.severity, check.blocking, check.partition) == (dg.AssetCheckSeverity.ERROR, True, DELIVERY)
    assert check.description is not None
    assert "folder algorithm, file part-0.parquet, column id" in check.description
    faults = check.metadata["faults"]
    assert isinstance(faults, dg.TableMetadataValue)
    (fault,) = faults.records
    assert (fault.data["kind"], fault.data["file"], fault.data["column"]) == ("null key", "part-0.parquet", "id")
    refused = refusal(world.instance, DELIVERY)
    assert refused is not None
    assert refused[0] == look(world.landing, DELIVERY).fingerprint
    assert check.description in refused[1]
    assert not [event for event in result.all_events if event.is_step_up_for_retry]


def test_all_faults_of_all_folders_are_told_at_once(world: World) -> None:
    world.land(DELIVERY, algorithm=[record("algorithm", id=None)], sensor=b"no Parquet", sensor_deployment=None)
    assert {name for name, check in failed(world.run(DELIVERY)).items() if check.blocking} == {
        f"landing/dsi/{folder}:contract" for folder in ("algorithm", "sensor", "sensor_deployment")
    }
    assert not world.versions


def test_a_value_out_of_range_is_a_warning_and_the_delivery_goes_in(world: World) -> None:
    result_record = record(RESULT)
    result_record["predictions"][0]["taxa"]["items"][0]["probability"] = 1.5
    world.land(DELIVERY, analysis_group_result=[result_record])
    result = world.run(DELIVERY)
    assert result.success, errors(result)
    assert materialised(result) == LANDING | RAW
    assert log.ingested(world.lake) == {DELIVERY}
    found = failed(result)
    assert set(found) == {f"landing/dsi/{RESULT}:plausible", f"raw/dsi/{PREDICTION}:ranges"}
    assert {check.severity for check in found.values()} == {dg.AssetCheckSeverity.WARN}
    assert "probability" in str(found[f"landing/dsi/{RESULT}:plausible"].description)
    assert found[f"raw/dsi/{PREDICTION}:ranges"].description == (
        "expected probability 0 to 1, found 1 outside in probability"
    )
    assert refusal(world.instance, DELIVERY) is None


# Parts of a run


@pytest.mark.parametrize("table", [UNNESTED[0], UNNESTED[-1], "sensor"])
def test_a_single_table_can_be_materialised_and_nothing_else_is_written(world: World, table: str) -> None:
    world.land(DELIVERY)
    result = world.run(DELIVERY, table)
    assert result.success, errors(result)
    assert materialised(result) == {table_key(contract.table(table))}
    assert set(world.versions) == {table}
    assert world.delta(table).to_pyarrow_table()[DELIVERY_COLUMN].to_pylist() == [DELIVERY]


@pytest.mark.parametrize("table", [UNNESTED[0], "sensor"])
def test_a_single_table_of_a_faulty_delivery_fails_at_once_and_is_not_written(world: World, table: str) -> None:
    world.land(DELIVERY, algorithm=[record("algorithm", id=None)])
    started = time.monotonic()
    result = world.run(DELIVERY, table)
    assert time.monotonic() - started < 5, "less than the first pause between two tries"
    assert not result.success
    assert not [event for event in result.all_events if event.is_step_up_for_retry or event.is_step_restarted]
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    data = failure.step_failure_data
    assert re.search(NULL_KEY, str(data.user_failure_data) + str(data.error))
    assert not materialised(result)
    assert not world.versions


# The checks of the tables, alone


def test_the_checks_of_one_delivery_find_what_was_done_to_its_tables(world: World) -> None:
    world.land(DELIVERY, sensor=[record("sensor"), record("sensor", id="sensor-2")])
    tables = ("sensor", "sensor_media_item", "sensor_deployment", PREDICTION)
    world.write(DELIVERY, *tables)
    before = world.versions
    found = world.check(DELIVERY, *tables)
    assert set(found) == {(table, check) for table in tables for check in quality.checks_of(contract.table(table))}
    assert all(evaluation.passed for evaluation in found.values())
    assert world.versions == before

    world.delta("sensor").delete("id = 'sensor-1'")
    item = world.delta("sensor_media_item")
    deltalake.write_deltalake(item, pa.table(item.to_pyarrow_table()), mode="append")
    world.delta(PREDICTION).update(updates={"probability": "2.0"})
    found = world.check(DELIVERY, *tables)
    wrong = {key: evaluation for key, evaluation in found.items() if not evaluation.passed}
    error, warning = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
    assert {key: (e.severity, e.blocking, e.description) for key, e in wrong.items()} == {
        ("sensor", "row_count"): (error, True, "expected 2 rows, as in the source, found 1 rows"),
        ("sensor_media_item", "row_count"): (error, True, "expected 1 rows, as in the source, found 2 rows"),
        ("sensor_media_item", "key"): (
            error,
            True,
            "expected id: each once, and id without nulls, found 0 rows with a null key, 1 keys in more than one row",
        ),
        (PREDICTION, "ranges"): (warning, False, "expected probability 0 to 1, found 1 outside in probability"),
        ("sensor_deployment", "references"): (
            warning,
            False,
            "expected sensor_id in sensor, found 1 of sensor_id that sensor doesn't have: 'sensor-1'",
        ),
    }


def test_the_checks_of_a_table_that_is_not_there_fail(world: World) -> None:
    world.land(DELIVERY)
    found = world.check(DELIVERY, "sensor")
    assert [evaluation.passed for evaluation in found.values()] == [False, False]
    assert "no table at" in str(found["sensor", "key"].description)


def test_without_a_partition_the_checks_are_of_all_deliveries(world: World) -> None:
    world.land(DELIVERY)
    world.write(DELIVERY, "sensor")
    assert set(world.check(None, "sensor")) == {("sensor", "row_count"), ("sensor", "key")}


# What the command line does ahead of Dagster


@contextmanager
def working_ahead(world: World) -> Iterator[list[Step]]:
    place, who = ingest.Place(get_session("sail"), world.landing, world.lake), Run("sail", "dagster", "")
    steps = [[Step(assets, delivery=DELIVERY) for assets in lane] for lane in lanes()]
    with ExitStack() as stack:
        for lane in steps:
            stack.enter_context(launch.ahead.ahead(lane, lambda step: perform(step, place, None, who)))
        yield [step for lane in steps for step in lane]


def test_what_is_done_ahead_is_all_that_the_job_asks_for_but_the_checks_and_the_log(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.land(DELIVERY)
    left: list[Step] = []

    def perform_now(step: Step, *where: Any) -> Iterator[Told]:
        left.append(step)
        return perform(step, *where)

    monkeypatch.setattr(launch.launcher, "perform", perform_now)
    with working_ahead(world) as steps:
        result = world.run(DELIVERY)
    assert result.success
    assert len(steps) == 6
    assert [(step.assets, bool(step.checks)) for step in left] == [((), True), ((LOG.path,), False)]
    assert materialised(result) == LANDING | RAW


def test_of_a_refused_delivery_nothing_is_written_ahead(world: World) -> None:
    world.land(DELIVERY, algorithm=[record("algorithm", id=None)])
    with working_ahead(world):
        result = world.run(DELIVERY)
    assert not result.success
    assert re.search(NULL_KEY, "\n".join(str(check.description) for check in failed(result).values()))
    assert not world.lake_root.exists()


def test_the_faults_of_a_delivery_are_in_the_log_of_its_run(world: World) -> None:
    world.land(DELIVERY, algorithm=[record("algorithm", id=None)])
    result = world.run(DELIVERY)
    logged = [event for event in world.instance.all_logs(result.run_id) if re.search(NULL_KEY, event.user_message)]
    assert [event.level for event in logged if event.dagster_event is None] == [logging.ERROR]
