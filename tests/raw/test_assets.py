"""The assets and checks of a source in Dagster: what a run materialises, what it reports, and what it refuses."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import deltalake
import pyarrow as pa
import pytest

from biocloud_assets.definitions import build_definitions
from biocloud_assets.ingest import delivery_log, table_checks
from biocloud_assets.ingest.delivery import list_delivery
from biocloud_assets.ingest.step import all_checks, ingest_step
from biocloud_assets.lake import DataLake
from biocloud_assets.launch.launcher import ENVIRONMENT_TAG, FINGERPRINT_TAG, OUTCOME_TAG, REASON_TAG, REFUSED
from biocloud_assets.launch.results import asset_key
from biocloud_assets.raw.dsi.contract import CONTRACT, RESULT
from biocloud_assets.resources import LakehouseResource
from biocloud_assets.schema import DELIVERY_COLUMN
from biocloud_assets.settings import Settings
from biocloud_assets.spark.table_reader import TableReader
from biocloud_assets.steps import RunInfo, StepRequest
from tests.ingest.deliveries import DELIVERY, record, write

PREDICTION = "analysis_group_result_prediction"
LANDING = {asset_key(CONTRACT.landing_address(folder.name)) for folder in CONTRACT.folders}
RAW = {asset_key(CONTRACT.address(table)) for table in (*CONTRACT.tables, CONTRACT.log)}
FOLDER_CHECKS = {name for name in all_checks(CONTRACT) if name.startswith("landing/")}
NULL_KEY = r"null key: .*folder algorithm, file part-0\.parquet, column id"


def table_key(table: str) -> dg.AssetKey:
    return asset_key(CONTRACT.address(CONTRACT.table(table)))


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as instance:
        yield instance


class World:
    """A landing zone, a lake, and the definitions that work with them."""

    def __init__(self, root: Path, instance: dg.DagsterInstance) -> None:
        self.landing_root, self.lake_root, self.instance = root / "in", root / "out", instance
        self.lake, self.landing = DataLake.at(str(self.lake_root)), DataLake.at(str(self.landing_root))
        self.settings = Settings(landing_root=str(self.landing_root), lake_root=str(self.lake_root))

    @cached_property
    def job(self) -> dg.JobDefinition:
        return build_definitions(self.settings).resolve_job_def("dsi_raw")

    def land(self, name: str = DELIVERY, **folders: Any) -> None:
        write(self.landing_root, name, **folders)
        self.register(name)

    def register(self, name: str) -> None:
        self.instance.add_dynamic_partitions("dsi_delivery", [name])

    def run(self, *assets: dg.AssetKey, name: str | None = DELIVERY) -> dg.ExecuteInProcessResult:
        """Run the job for a delivery: all of it, or only some assets with their checks."""
        return self.job.execute_in_process(
            instance=self.instance, partition_key=name, asset_selection=assets or None, raise_on_error=False
        )

    def run_checks(self, *tables: str) -> dg.ExecuteInProcessResult:
        """Run only the checks of some tables."""
        keys = {
            dg.AssetCheckKey(table_key(table), name)
            for table in tables
            for name in table_checks.checks_of(CONTRACT, CONTRACT.table(table))
        }
        return self.job.get_subset(asset_selection=set(), asset_check_selection=keys).execute_in_process(
            instance=self.instance, partition_key=DELIVERY, raise_on_error=False
        )

    def ingest(self) -> None:
        """Ingest the delivery without Dagster."""
        context = LakehouseResource.from_settings(self.settings).ingest_context(CONTRACT)
        assert list(ingest_step(context, StepRequest(CONTRACT.addresses, (), DELIVERY), RunInfo("test", "", "sail")))

    def delta(self, table: str) -> deltalake.DeltaTable:
        return deltalake.DeltaTable(str(self.lake_root / CONTRACT.address(CONTRACT.table(table))))

    def tables(self) -> TableReader:
        return LakehouseResource.from_settings(self.settings).tables()

    @property
    def versions(self) -> dict[str, int]:
        """The version of every table that exists."""
        paths = {table.name: self.lake_root / CONTRACT.address(table) for table in (*CONTRACT.tables, CONTRACT.log)}
        return {name: deltalake.DeltaTable(str(path)).version() for name, path in paths.items() if path.exists()}


@pytest.fixture
def world(tmp_path: Path, instance: dg.DagsterInstance) -> World:
    return World(tmp_path, instance)


def materialised(result: dg.ExecuteInProcessResult) -> set[dg.AssetKey]:
    return {event.asset_key for event in result.get_asset_materialization_events() if event.asset_key is not None}


def evaluations(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """The results of checks, by `raw/dsi/sensor:key`; each has the delivery as its partition."""
    found = result.get_asset_check_evaluations()
    assert {evaluation.partition for evaluation in found} <= {DELIVERY}
    by_name = {f"{e.asset_key.to_user_string()}:{e.check_name}": e for e in found}
    assert len(by_name) == len(found), "a check has one result"
    return by_name


def failed(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {name: evaluation for name, evaluation in evaluations(result).items() if not evaluation.passed}


def failure(result: dg.ExecuteInProcessResult) -> str:
    """The message of the one failure of the step."""
    assert not result.success
    assert not [event for event in result.all_events if event.is_step_up_for_retry or event.is_step_restarted]
    (event,) = [event for event in result.all_events if event.is_step_failure]
    data = event.step_failure_data
    return str(data.user_failure_data.description if data.user_failure_data else data.error)


def tags(result: dg.ExecuteInProcessResult, instance: dg.DagsterInstance) -> dict[str, str]:
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    return dict(run.tags)


# A valid delivery, run once for all tests of it


@pytest.fixture(scope="module")
def good(
    tmp_path_factory: pytest.TempPathFactory, instance: dg.DagsterInstance
) -> tuple[World, dg.ExecuteInProcessResult]:
    world = World(tmp_path_factory.mktemp("good"), instance)
    world.land(sensor=[record("sensor", id=f"sensor-{number}", name="a | b\nc") for number in range(1, 8)])
    return world, world.run()


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


def test_a_delivery_is_one_step(good: Good) -> None:
    assert [event.step_key for event in good[1].all_events if event.is_step_success] == ["ingest_dsi"]


def test_a_valid_delivery_materialises_every_folder_every_table_and_the_log_in_its_partition(good: Good) -> None:
    world, result = good
    assert result.success
    events = result.get_asset_materialization_events()
    assert {(event.asset_key, event.partition) for event in events} == {(key, DELIVERY) for key in LANDING | RAW}
    assert len(events) == 15
    assert delivery_log.ingested(world.tables(), CONTRACT) == {DELIVERY}


def test_a_valid_delivery_passes_every_check_in_its_partition(good: Good) -> None:
    assert set(evaluations(good[1])) == set(all_checks(CONTRACT))
    assert {evaluation.partition for evaluation in evaluations(good[1]).values()} == {DELIVERY}
    assert not failed(good[1])


def test_the_metadata_of_a_folder_describe_its_files(good: Good) -> None:
    files = list_delivery(good[0].landing, CONTRACT, DELIVERY)
    for folder in CONTRACT.folders:
        found = metadata(good, asset_key(CONTRACT.landing_address(folder.name)))
        (file,) = files.files[folder.name]
        assert found["dagster/partition_row_count"] == (7 if folder.name == "sensor" else 1)
        assert (found["bytes"], found["file_count"]) == (file.size, 1)
        assert found["dagster/uri"] == str(good[0].landing_root / "dsi" / DELIVERY / folder.name)
        assert found["fingerprint"] == files.fingerprint
        assert [column.name for column in found["dagster/column_schema"].columns] == [f.name for f in folder.fields]


def test_the_metadata_of_a_table_describe_what_was_written_and_show_some_rows(good: Good) -> None:
    world, _ = good
    for table in CONTRACT.tables:
        found = metadata(good, table_key(table.name))
        path = world.lake_root / CONTRACT.address(table)
        delta = deltalake.DeltaTable(str(path))
        assert found["dagster/partition_row_count"] == (7 if table.name == "sensor" else 1)
        assert found["bytes"] == sum(Path(file).stat().st_size for file in delta.file_uris())
        assert found["dagster/uri"] == str(path)
        assert found["delta_version"] == delta.version()
        header, rule, *rows = found["preview"].splitlines()
        assert header == f"| {' | '.join(column.name for column in table.columns)} |"
        assert rule == "|" + " --- |" * len(table.columns)
        assert len(rows) == (5 if table.name == "sensor" else 1)
    assert r"| a \| b c |" in metadata(good, table_key("sensor"))["preview"]


def test_the_log_names_the_rows_of_every_table_and_the_run(good: Good) -> None:
    found = metadata(good, asset_key(CONTRACT.address(CONTRACT.log)))
    row = delivery_log.read(good[0].tables(), CONTRACT, DELIVERY)
    assert row is not None
    assert row["rows"] == {table.name: 7 if table.name == "sensor" else 1 for table in CONTRACT.tables}
    assert {r.data["table"]: r.data["rows"] for r in found["rows_per_table"].records} == row["rows"]
    assert found["rows"] == 15
    assert found["run"] == row["run_id"] == good[1].run_id
    assert found["bytes"] == row["source_bytes"] == list_delivery(good[0].landing, CONTRACT, DELIVERY).size
    assert found["dagster/uri"] == str(good[0].lake_root / CONTRACT.address(CONTRACT.log))
    assert (row["engine"], row["orchestrator"]) == ("sail", "dagster")


# Violations


@pytest.fixture(scope="module")
def refused(
    tmp_path_factory: pytest.TempPathFactory, instance: dg.DagsterInstance
) -> tuple[World, dg.ExecuteInProcessResult]:
    world = World(tmp_path_factory.mktemp("refused"), instance)
    world.land(algorithm=[record("algorithm", id=None)])
    return world, world.run()


Refused = tuple[World, dg.ExecuteInProcessResult]


def test_of_a_refused_delivery_nothing_is_written_or_materialised_and_its_check_gives_the_reason(
    refused: Refused,
) -> None:
    world, result = refused
    assert re.search(NULL_KEY, failure(result))
    assert not materialised(result)
    assert not world.versions
    (check,) = [check for check in failed(result).values() if check.severity is dg.AssetCheckSeverity.ERROR]
    assert check.asset_check_key == dg.AssetCheckKey(asset_key("landing/dsi/algorithm"), "contract")
    assert (check.blocking, check.partition) == (True, DELIVERY)
    assert re.search(NULL_KEY, str(check.description))
    violations = check.metadata["violations"]
    assert isinstance(violations, dg.TableMetadataValue)
    (violation,) = violations.records
    assert (violation.data["kind"], violation.data["file"], violation.data["column"]) == (
        "null key",
        "part-0.parquet",
        "id",
    )


def test_the_checks_of_the_tables_of_a_refused_delivery_have_no_result(refused: Refused) -> None:
    assert set(evaluations(refused[1])) == FOLDER_CHECKS


def test_the_tags_of_a_run_say_that_its_delivery_was_refused_why_and_for_which_files(refused: Refused) -> None:
    world, result = refused
    found = tags(result, world.instance)
    assert found[OUTCOME_TAG] == REFUSED
    assert found[FINGERPRINT_TAG] == list_delivery(world.landing, CONTRACT, DELIVERY).fingerprint
    assert re.search(NULL_KEY, found[REASON_TAG])


def test_a_valid_delivery_leaves_no_tag_of_a_refusal(good: Good) -> None:
    assert OUTCOME_TAG not in tags(good[1], good[0].instance)


def test_all_violations_of_all_folders_are_reported_at_once(world: World) -> None:
    world.land(algorithm=[record("algorithm", id=None)], sensor=b"no Parquet", sensor_deployment=None)
    result = world.run()
    message = failure(result)
    for folder in ("algorithm", "sensor", "sensor_deployment"):
        assert f"folder {folder}" in message
    assert {name for name, check in failed(result).items() if check.blocking} == {
        f"landing/dsi/{folder}:contract" for folder in ("algorithm", "sensor", "sensor_deployment")
    }
    assert not world.versions


def test_a_file_outside_all_folders_is_a_warning_of_a_check(world: World) -> None:
    world.land()
    (world.landing_root / "dsi" / DELIVERY / "notes").mkdir()
    (world.landing_root / "dsi" / DELIVERY / "notes" / "readme.txt").write_text("hello")
    result = world.run()
    assert result.success
    (check,) = failed(result).values()
    assert check.severity is dg.AssetCheckSeverity.WARN
    assert "notes" in str(check.description)


def test_a_value_out_of_range_is_a_warning_and_the_delivery_is_ingested(world: World) -> None:
    result_record = record(RESULT)
    result_record["predictions"][0]["taxa"]["items"][0]["probability"] = 1.5
    world.land(analysis_group_result=[result_record])
    result = world.run()
    assert result.success
    assert materialised(result) == LANDING | RAW
    assert delivery_log.ingested(world.tables(), CONTRACT) == {DELIVERY}
    found = failed(result)
    assert set(found) == {f"landing/dsi/{RESULT}:plausible", f"raw/dsi/{PREDICTION}:ranges"}
    assert {check.severity for check in found.values()} == {dg.AssetCheckSeverity.WARN}
    assert "probability" in str(found[f"landing/dsi/{RESULT}:plausible"].description)
    assert found[f"raw/dsi/{PREDICTION}:ranges"].description == (
        "expected probability 0 to 1, found 1 outside in probability"
    )


def test_the_violations_of_a_delivery_are_in_the_log_of_its_run(refused: Refused) -> None:
    world, result = refused
    logged = [event for event in world.instance.all_logs(result.run_id) if re.search(NULL_KEY, event.user_message)]
    assert [event.level for event in logged if event.dagster_event is None] == [logging.ERROR]


# Subsets


@pytest.mark.parametrize("table", [PREDICTION, "sensor"])
def test_a_single_table_can_be_materialised_and_nothing_else_is_written(world: World, table: str) -> None:
    world.land()
    result = world.run(table_key(table))
    assert result.success
    assert materialised(result) == {table_key(table)}
    assert set(world.versions) == {table}
    assert world.delta(table).to_pyarrow_table()[DELIVERY_COLUMN].to_pylist() == [DELIVERY]
    assert {name.partition(":")[0] for name in evaluations(result)} == {f"raw/dsi/{table}"}


def test_a_single_folder_can_be_validated_and_nothing_is_written(world: World) -> None:
    world.land()
    result = world.run(asset_key("landing/dsi/sensor"))
    assert result.success
    assert materialised(result) == {asset_key("landing/dsi/sensor")}
    assert set(evaluations(result)) == {"landing/dsi/sensor:contract", "landing/dsi/sensor:plausible"}
    assert not world.versions


@pytest.mark.parametrize("table", [PREDICTION, "sensor"])
def test_a_single_table_of_a_delivery_with_violations_fails_and_is_not_written(world: World, table: str) -> None:
    world.land(algorithm=[record("algorithm", id=None)])
    result = world.run(table_key(table))
    assert re.search(NULL_KEY, failure(result))
    assert not materialised(result)
    assert not evaluations(result)
    assert not world.versions


def test_the_checks_of_a_delivery_find_what_was_changed_in_its_tables(world: World) -> None:
    world.land(sensor=[record("sensor"), record("sensor", id="sensor-2")])
    tables = ("sensor", "sensor_media_item", "sensor_deployment", PREDICTION)
    world.ingest()
    before = world.versions
    result = world.run_checks(*tables)
    assert not materialised(result)
    assert set(evaluations(result)) == {
        f"raw/dsi/{table}:{name}"
        for table in tables
        for name in table_checks.checks_of(CONTRACT, CONTRACT.table(table))
    }
    assert not failed(result)
    assert world.versions == before

    world.delta("sensor").delete("id = 'sensor-1'")
    item = world.delta("sensor_media_item")
    deltalake.write_deltalake(item, pa.table(item.to_pyarrow_table()), mode="append")
    world.delta(PREDICTION).update(updates={"probability": "2.0"})
    result = world.run_checks(*tables)
    assert "raw/dsi/sensor" in failure(result)
    error, warning = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
    assert {key: (e.severity, e.blocking, e.description) for key, e in failed(result).items()} == {
        "raw/dsi/sensor:row_count": (error, True, "expected 2 rows, as in the source, found 1 rows"),
        "raw/dsi/sensor_media_item:row_count": (error, True, "expected 1 rows, as in the source, found 2 rows"),
        "raw/dsi/sensor_media_item:key": (
            error,
            True,
            "expected id: each once, and id without nulls, found 0 rows with a null key, 1 keys in more than one row",
        ),
        f"raw/dsi/{PREDICTION}:ranges": (warning, False, "expected probability 0 to 1, found 1 outside in probability"),
        "raw/dsi/sensor_deployment:references": (
            warning,
            False,
            "expected every sensor_id in sensor, found 1 of sensor_id that sensor doesn't have: 'sensor-1'",
        ),
    }


def test_the_checks_of_a_delivery_that_is_not_ingested_fail_with_one_message_and_have_no_result(world: World) -> None:
    world.land()
    result = world.run_checks("sensor")
    assert "expected an ingested delivery" in failure(result)
    assert not evaluations(result)


# What can't be run


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hello", r"delivery 'hello': expected a real date and time as yyyy-mm-dd-HH:MM:SS.*lists the deliveries\."),
        ("2030-01-01-00:00:00", r"delivery 2030-01-01-00:00:00: expected a folder at .*found none.*"),
    ],
)
def test_a_partition_that_is_no_delivery_fails_with_one_message_and_changes_no_asset_or_check(
    world: World, name: str, message: str
) -> None:
    """The dialog of Dagster's UI accepts any text as a partition."""
    world.land()
    world.register(name)
    result = world.run(name=name)
    assert re.fullmatch(message, failure(result))
    assert not materialised(result)
    assert not result.get_asset_check_evaluations()
    assert not world.versions


def test_a_run_that_another_environment_created_fails_with_one_message_and_changes_nothing(world: World) -> None:
    world.land()
    result = world.job.execute_in_process(
        instance=world.instance, partition_key=DELIVERY, tags={ENVIRONMENT_TAG: "production"}, raise_on_error=False
    )
    assert failure(result) == (
        f"run {result.run_id}: expected one that was created in the environment local, found production. Start a new "
        "run, or use the Dagster home of production."
    )
    assert not materialised(result)
    assert not result.get_asset_check_evaluations()
    assert not world.versions
