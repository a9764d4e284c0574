"""The step of a delivery: what it writes and yields, for a whole delivery and for a selection."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.parquet as pq
import pytest

from biocloud_assets import __version__
from biocloud_assets.errors import DeliveryNameError, DeliveryRefusedError, LakeError, SettingsError, TableError
from biocloud_assets.ingest import delivery_log
from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.ingest.inspection import inspect
from biocloud_assets.ingest.step import all_checks, ingest_step
from biocloud_assets.ingest.verify import verify
from biocloud_assets.ingest.violations import Inspection
from biocloud_assets.lake import DataLake, FileInfo
from biocloud_assets.lake.folder import FolderLake
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.schema import DELIVERY_COLUMN, arrow_type
from biocloud_assets.spark import delta_log
from biocloud_assets.steps import CheckResult, Materialization, StepRequest, StepResult
from tests.ingest.deliveries import DELIVERY, record, table, write
from tests.ingest.lakehouse import RUN, content, context_at, failed, ingest, land, step, versions, whole, written_files

LATER = "2026-02-28-06:00:00"
LANDING = tuple(CONTRACT.landing_address(folder.name) for folder in CONTRACT.folders)
TABLES = tuple(CONTRACT.address(table) for table in CONTRACT.tables)
LOG = CONTRACT.address(CONTRACT.log)


def names(results: Iterable[StepResult]) -> list[str]:
    return [f"{result.asset}:{result.name}" if isinstance(result, CheckResult) else result.asset for result in results]


def equal(context: IngestContext, delivery: str) -> bool:
    return all(comparison.equal for comparison in verify(context, delivery))


# A whole delivery.


def test_a_delivery_is_in_the_tables_of_the_contract_and_then_in_the_log(
    anywhere: IngestContext, tmp_path: Path
) -> None:
    land(anywhere, tmp_path / "made")
    assert delivery_log.ingested(anywhere.tables, CONTRACT) == set()
    ingest(anywhere, DELIVERY)
    assert delivery_log.ingested(anywhere.tables, CONTRACT) == {DELIVERY}
    for spec in (*CONTRACT.tables, CONTRACT.log):
        written = delta_log.open_table(anywhere.lake, CONTRACT.address(spec))
        assert written is not None
        assert [field.name for field in written.schema().fields] == [column.name for column in spec.columns]
        assert written.metadata().partition_columns == [DELIVERY_COLUMN]
        rows = written.to_pyarrow_table()
        assert rows[DELIVERY_COLUMN].to_pylist() == [DELIVERY]
        for column in spec.columns:
            assert rows.schema.field(column.name).type == arrow_type(column.type), column
    assert equal(anywhere, DELIVERY)
    assert anywhere.staging.list().folders == ()


def test_the_results_tell_each_asset_and_check_once_and_in_order(context: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / "in")
    results = ingest(context, DELIVERY)
    assert sorted(names(results)) == sorted([*CONTRACT.addresses, *all_checks(CONTRACT)])
    order = names(results)
    first_table = min(order.index(address) for address in TABLES)
    assert max(order.index(f"{address}:contract") for address in LANDING) < first_table, "judged before it is written"
    assert order[-1] == LOG, "logged when the tables were checked"
    assert failed(results) == {}


def test_the_metadata_of_a_table_has_its_rows_size_version_and_a_preview(
    context: IngestContext, tmp_path: Path
) -> None:
    write(tmp_path / "in", sensor=[record("sensor", id=f"sensor-{number}", name="a|b") for number in range(20)])
    results = ingest(context, DELIVERY)
    by_asset = {result.asset: result.metadata for result in results if isinstance(result, Materialization)}
    made = by_asset["raw/dsi/sensor"]
    assert made["dagster/partition_row_count"] == {"type": "int", "raw_value": 20}
    (file,) = [file for file in context.lake.walk("raw/dsi/sensor") if file.name.endswith(".parquet")]
    assert made["bytes"]["raw_value"] == file.size
    assert made["delta_version"]["raw_value"] == versions(context)["sensor"]
    lines = made["preview"]["raw_value"].splitlines()
    assert lines[0].startswith("| id | name |")
    assert len(lines) == 2 + 5
    assert "a\\|b" in lines[2]
    folder = by_asset["landing/dsi/sensor"]
    assert folder["dagster/partition_row_count"]["raw_value"] == 20
    assert folder["file_count"]["raw_value"] == 1


def test_ingesting_again_leaves_the_same(context: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / "in")
    write(tmp_path / "in", LATER, sensor=[record("sensor", id="sensor-2")])
    ingest(context, DELIVERY, LATER)
    before, logged = content(context), delivery_log.read(context.tables, CONTRACT, DELIVERY)
    assert failed(ingest(context, DELIVERY)) == {}
    assert content(context) == before
    assert delivery_log.read(context.tables, CONTRACT, DELIVERY) == logged


def test_a_delivery_that_changed_replaces_exactly_its_own_rows(context: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / "in")
    write(tmp_path / "in", LATER)
    ingest(context, DELIVERY, LATER)
    before = content(context)["sensor"]
    write(tmp_path / "in", sensor=[record("sensor"), record("sensor", id="sensor-2")])
    step(context, "raw/dsi/sensor")
    assert delivery_log.ingested(context.tables, CONTRACT) == {LATER}, (
        "not in the log while its tables are being replaced"
    )
    ingest(context, DELIVERY)
    assert delivery_log.ingested(context.tables, CONTRACT) == {DELIVERY, LATER}
    after = content(context)["sensor"]
    assert [row for row in after if row[DELIVERY_COLUMN] == LATER] == [
        row for row in before if row[DELIVERY_COLUMN] == LATER
    ]
    assert sorted(row["id"] for row in after if row[DELIVERY_COLUMN] == DELIVERY) == ["sensor-1", "sensor-2"]


def test_a_delivery_that_changes_while_it_is_ingested_is_not_logged(context: IngestContext, tmp_path: Path) -> None:
    """Its tables may hold rows of the old files and of the new ones."""
    write(tmp_path / "in")
    ingest(context, DELIVERY)
    results = ingest_step(context, whole(CONTRACT, DELIVERY), RUN)
    next(result for result in results if isinstance(result, Materialization) and result.asset.startswith("raw/"))
    write(tmp_path / "in", sensor=[record("sensor", name="other")])
    with pytest.raises(LakeError, match="found files that were changed, added or removed meanwhile") as raised:
        list(results)
    assert raised.value.transient, "the orchestrator repeats the step"
    assert delivery_log.read(context.tables, CONTRACT, DELIVERY) is None
    assert failed(ingest(context, DELIVERY)) == {}
    assert [row["name"] for row in content(context)["sensor"]] == ["other"]


def disturb(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Do something once, after the inspection of a delivery and before its tables are written."""
    todo = [action]

    def inspect_and_disturb(*arguments: Any) -> Inspection:
        found = inspect(*arguments)
        while todo:
            todo.pop()()
        return found

    monkeypatch.setattr("biocloud_assets.ingest.step.inspect", inspect_and_disturb)


def write_with_a_copy(root: Path) -> None:
    """A delivery of two sensors whose file has an unknown column, so that a normalised copy is read."""
    sensors = table("sensor", [record("sensor", id=name) for name in ("a", "b")])
    write(root / "in", sensor=sensors.append_column("battery", sensors["name"]))


def test_an_ingest_of_the_same_delivery_meanwhile_takes_no_copy_away(
    context: IngestContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_with_a_copy(tmp_path)
    disturb(monkeypatch, lambda: ingest(context, DELIVERY))
    ingest(context, DELIVERY)
    assert equal(context, DELIVERY)
    assert delivery_log.ingested(context.tables, CONTRACT) == {DELIVERY}


def test_a_delivery_whose_rows_were_replaced_by_wrong_ones_is_no_longer_in_the_log(
    context: IngestContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copies are lost, and Sail reads none as no rows."""
    write_with_a_copy(tmp_path)
    ingest(context, DELIVERY)
    disturb(monkeypatch, lambda: context.staging.delete([file.path for file in context.staging.walk()]))
    with pytest.raises(TableError, match="expected 2 rows, as in the source, found 0 rows"):
        ingest(context, DELIVERY)
    assert delivery_log.ingested(context.tables, CONTRACT) == set()
    ingest(context, DELIVERY)
    assert equal(context, DELIVERY)


SENSORS = f"dsi/{DELIVERY}/sensor/part-0.parquet"


class _ChangingLake(FolderLake):
    """A landing zone in which the file of sensors is replaced or removed as soon as it is open."""

    def __init__(self, root: str, change: Callable[[Path], object]) -> None:
        super().__init__(root)
        self._change = change

    def open(self, file: FileInfo) -> BinaryIO:
        stream = super().open(file)
        if file.path == SENSORS:
            self._change(Path(self.root, SENSORS))
        return stream


def replace_sensors(path: Path) -> None:
    """Put another file in the place of one; who has opened that one still reads it."""
    pq.write_table(table("sensor", [record("sensor", id=f"new-{number}") for number in range(3)]), f"{path}.new")
    Path(f"{path}.new").replace(path)


@pytest.mark.parametrize("is_logged", [False, True])
@pytest.mark.parametrize("change", [replace_sensors, Path.unlink])
def test_a_delivery_that_changes_while_it_is_inspected_is_not_ingested(
    context: IngestContext, tmp_path: Path, change: Callable[[Path], object], is_logged: bool
) -> None:
    write(tmp_path / "in")
    if is_logged:
        ingest(context, DELIVERY)
    before = content(context)
    landing = _ChangingLake(context.landing.root, change)
    with pytest.raises(LakeError, match="found files that were changed, added or removed meanwhile") as raised:
        ingest(replace(context, landing=landing), DELIVERY)
    assert raised.value.transient, "the orchestrator repeats the step"
    assert content(context) == before
    assert delivery_log.read(context.tables, CONTRACT, DELIVERY) is None
    replace_sensors(Path(landing.root, SENSORS))
    ingest(context, DELIVERY)
    assert len(content(context)["sensor"]) == 3


def test_an_inspection_that_fails_although_no_file_changed_raises_its_own_error(
    context: IngestContext, tmp_path: Path
) -> None:
    def fail(path: Path) -> None:
        raise LakeError(str(path), expected="a readable file", found="none", hint="Repeat this.")

    write(tmp_path / "in")
    with pytest.raises(LakeError, match=f"{SENSORS}: expected a readable file"):
        ingest(replace(context, landing=_ChangingLake(context.landing.root, fail)), DELIVERY)


def test_an_empty_delivery_is_ingested(context: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / "in", **{folder.name: [] for folder in CONTRACT.folders})
    assert failed(ingest(context, DELIVERY)) == {}
    logged = delivery_log.read(context.tables, CONTRACT, DELIVERY)
    assert logged is not None
    assert logged["rows"] == {table.name: 0 for table in CONTRACT.tables}
    assert equal(context, DELIVERY)


@pytest.mark.parametrize("assets", [CONTRACT.addresses, LANDING, ("raw/dsi/algorithm",), (LOG,)])
def test_nothing_of_a_refused_delivery_is_written_whatever_is_selected(
    context: IngestContext, tmp_path: Path, assets: tuple[str, ...]
) -> None:
    write(tmp_path / "in")
    ingest(context, DELIVERY)
    before = written_files(context)
    odd = table("sensor").append_column("battery", table("sensor")["name"])
    write(tmp_path / "in", LATER, algorithm=[record("algorithm", id=None)], sensor=odd)
    results: list[StepResult] = []
    with pytest.raises(
        DeliveryRefusedError, match=r"null key: .*folder algorithm, file part-0\.parquet, column id"
    ) as e:
        results.extend(ingest_step(context, StepRequest(assets, all_checks(CONTRACT)[:10], LATER), RUN))
    assert written_files(context) == before, "the copy of a file with an unknown column is removed too"
    assert [violation.kind for violation in e.value.violations] == ["null key"]
    assert e.value.delivery == LATER


def test_the_checks_of_a_refused_delivery_say_why_and_no_asset_is_materialised(
    context: IngestContext, tmp_path: Path
) -> None:
    write(tmp_path / "in", algorithm=[record("algorithm"), record("algorithm", id=None)], sensor=None)
    results: list[StepResult] = []
    with pytest.raises(DeliveryRefusedError):
        for result in ingest_step(context, whole(CONTRACT, DELIVERY), RUN):
            results.append(result)
    assert names(results) == list(all_checks(CONTRACT)[:10])
    assert set(failed(results)) == {"landing/dsi/algorithm:contract", "landing/dsi/sensor:contract"}
    (check,) = [result for result in results if names([result]) == ["landing/dsi/algorithm:contract"]]
    assert isinstance(check, CheckResult)
    assert check.blocking
    (row,) = check.metadata["violations"]["raw_value"]["records"]
    assert (row["kind"], row["file"], row["column"]) == ("null key", "part-0.parquet", "id")


@pytest.mark.parametrize("path", ["README.txt", "camera/part-0.parquet"])
def test_a_violation_outside_all_folders_is_reported_with_the_first_folder(
    context: IngestContext, tmp_path: Path, path: str
) -> None:
    stray = write(tmp_path / "in") / path
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"x")
    found = failed(ingest(context, DELIVERY))
    assert list(found) == ["landing/dsi/algorithm:plausible"]
    assert path.rpartition("/")[2] in found["landing/dsi/algorithm:plausible"]
    assert delivery_log.ingested(context.tables, CONTRACT) == {DELIVERY}


def test_a_dangling_reference_is_a_warning_before_and_after_writing(context: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / "in", sensor_deployment=[record("sensor_deployment", sensor_id="sensor-9")])
    results = ingest(context, DELIVERY)
    found = failed(results)
    assert set(found) == {"landing/dsi/sensor_deployment:plausible", "raw/dsi/sensor_deployment:references"}
    assert all("'sensor-9'" in description for description in found.values())
    assert not any(result.blocking for result in results if isinstance(result, CheckResult) and not result.passed)
    assert delivery_log.ingested(context.tables, CONTRACT) == {DELIVERY}


ODD = "a b&c [d] {e} é%20*"


def test_the_landing_zone_may_lie_at_a_path_of_any_characters(context: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / ODD)
    elsewhere = replace(context, landing=DataLake.at(str(tmp_path / ODD)))
    ingest(elsewhere, DELIVERY)
    assert delivery_log.ingested(context.tables, CONTRACT) == {DELIVERY}
    assert equal(elsewhere, DELIVERY)


def test_a_lake_at_a_path_that_an_engine_would_change_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Set BIOCLOUD_LAKE_ROOT to another folder"):
        context_at(tmp_path / ODD)


# The delivery log.


def test_the_log_records_who_ingested_what_with_which_code(context: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / "in")
    ingest(context, DELIVERY, run=replace(RUN, orchestrator="airflow", run_id="scheduled__1", commit="0a1b2c"))
    logged = delivery_log.read(context.tables, CONTRACT, DELIVERY)
    assert logged is not None
    assert (logged["orchestrator"], logged["run_id"], logged["engine"]) == ("airflow", "scheduled__1", "sail")
    assert (logged["code_version"], logged["code_commit"]) == (__version__, "0a1b2c")
    assert logged["contract_version"] == CONTRACT.version
    assert logged["rows"] == {table.name: 1 for table in CONTRACT.tables}
    assert logged["source_files"] == 5
    assert logged["source_bytes"] == sum(file.size for file in context.landing.walk("dsi"))


def test_the_commit_is_null_where_it_is_not_known(context: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / "in")
    ingest(context, DELIVERY, run=replace(RUN, commit=None))
    logged = delivery_log.read(context.tables, CONTRACT, DELIVERY)
    assert logged is not None
    assert logged["code_commit"] is None


def test_the_log_names_the_code_that_wrote_the_tables_last(context: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / "in")
    ingest(context, DELIVERY)
    newer = replace(RUN, run_id="run-2", commit="newer")
    list(ingest_step(context, StepRequest(("raw/dsi/sensor", LOG), (), DELIVERY), newer))
    logged = delivery_log.read(context.tables, CONTRACT, DELIVERY)
    assert logged is not None
    assert (logged["code_commit"], logged["run_id"]) == (RUN.commit, RUN.run_id), "other code has written the others"
    ingest(context, DELIVERY, run=newer)
    logged = delivery_log.read(context.tables, CONTRACT, DELIVERY)
    assert logged is not None
    assert (logged["code_commit"], logged["run_id"]) == ("newer", "run-2")


def test_a_delivery_is_not_logged_as_long_as_a_table_lacks_rows(context: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / "in")
    step(context, *TABLES[:-1])
    with pytest.raises(TableError, match=f"{TABLES[-1]}: .*expected the table, found none"):
        step(context, LOG)
    ingest(context, DELIVERY)
    write(tmp_path / "in", LATER)
    step(context, *TABLES[:-1], delivery=LATER)
    with pytest.raises(TableError, match=f"{TABLES[-1]}: .*expected 1 rows, as in the source, found 0 rows"):
        step(context, LOG, delivery=LATER)
    assert delivery_log.ingested(context.tables, CONTRACT) == {DELIVERY}


def test_an_altered_table_is_refused_by_its_feature_before_any_table_is_written(
    context: IngestContext, tmp_path: Path
) -> None:
    write(tmp_path / "in")
    ingest(context, DELIVERY)
    write(tmp_path / "in", LATER)
    protocol = {"minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": ["clustering"]}
    context.lake.write(f"{TABLES[-1]}/_delta_log/{2:020}.json", json.dumps({"protocol": protocol}).encode())
    before = versions(context)
    with pytest.raises(TableError, match=f"{TABLES[-1]}: .*found the table feature clustering"):
        ingest(context, LATER)
    assert versions(context) == before


def test_a_delivery_is_not_logged_if_a_table_holds_an_earlier_state_of_it(
    context: IngestContext, tmp_path: Path
) -> None:
    """Of as many rows as the present one."""
    write(tmp_path / "in")
    ingest(context, DELIVERY)
    write(tmp_path / "in", sensor=[record("sensor", name="Other")], algorithm=[record("algorithm", name="Other")])
    step(context, "raw/dsi/sensor")
    with pytest.raises(TableError, match=r"raw/dsi/algorithm: expected the records .*algorithm-1: name"):
        step(context, LOG)
    assert delivery_log.ingested(context.tables, CONTRACT) == set()
    step(context, "raw/dsi/algorithm", LOG)
    assert delivery_log.ingested(context.tables, CONTRACT) == {DELIVERY}
    assert equal(context, DELIVERY)


# Selections.


@pytest.mark.parametrize("selected", [("sensor",), ("sensor", "analysis_group_result_region")])
def test_a_selection_of_tables_writes_these_and_nothing_else(
    context: IngestContext, tmp_path: Path, selected: tuple[str, ...]
) -> None:
    write(tmp_path / "in")
    addresses = tuple(CONTRACT.address(CONTRACT.table(name)) for name in selected)
    assert sorted(names(step(context, *addresses))) == sorted(addresses)
    assert {name for name, version in versions(context).items() if version is not None} == set(selected)
    assert {path.split("/")[2] for path in written_files(context)} == set(selected)


def test_tables_that_are_materialised_one_by_one_make_a_whole_delivery(context: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / "in")
    for address in (*LANDING, *TABLES, LOG):
        assert names(step(context, address)) == [address]
    assert delivery_log.ingested(context.tables, CONTRACT) == {DELIVERY}
    assert equal(context, DELIVERY)


def test_a_selection_of_folders_validates_and_writes_nothing(context: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / "in")
    assert names(step(context, *LANDING)) == list(LANDING)
    assert written_files(context) == []


def test_checks_alone_write_nothing_and_need_no_source(context: IngestContext, tmp_path: Path) -> None:
    source = write(tmp_path / "in")
    ingest(context, DELIVERY)
    before = written_files(context)
    of_tables = all_checks(CONTRACT)[10:]
    of_folders = all_checks(CONTRACT)[:10]
    assert names(step(context, checks=of_folders)) == list(of_folders)
    source.rename(tmp_path / "elsewhere")
    assert sorted(names(step(context, checks=of_tables))) == sorted(of_tables)
    assert names(step(context, checks=("raw/dsi/sensor:key",))) == ["raw/dsi/sensor:key"]
    assert written_files(context) == before


def test_checks_of_a_delivery_that_is_not_ingested_say_so(context: IngestContext) -> None:
    with pytest.raises(DeliveryNameError, match="expected an ingested delivery, whose rows can be checked"):
        step(context, checks=("raw/dsi/sensor:key",))


def test_without_a_delivery_the_tables_can_be_checked_as_a_whole_and_nothing_else(
    context: IngestContext, tmp_path: Path
) -> None:
    write(tmp_path / "in")
    write(tmp_path / "in", LATER)
    ingest(context, DELIVERY, LATER)
    results = step(context, checks=("raw/dsi/sensor:key", "raw/dsi/sensor:row_count"), delivery=None)
    assert failed(results) == {}
    assert any(
        isinstance(result, CheckResult) and result.description == "expected 2 rows, as in the source, found 2 rows"
        for result in results
    )
    with pytest.raises(DeliveryNameError, match="Only checks of tables can be run for all deliveries together"):
        step(context, "raw/dsi/sensor", delivery=None)


def test_a_written_table_is_checked_whatever_checks_are_selected(
    context: IngestContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing may be logged that a table doesn't hold, also if another process removes rows meanwhile."""
    import deltalake

    write(tmp_path / "in")

    for result in ingest_step(context, StepRequest(CONTRACT.addresses, (), DELIVERY), RUN):
        assert isinstance(result, Materialization)
        if result.asset == LOG:
            break
    results = ingest_step(context, StepRequest(CONTRACT.addresses, (), DELIVERY), RUN)
    written: set[str] = set()
    with pytest.raises(TableError, match=r"row_count of raw/dsi/sensor: expected 1 rows.*found 0 rows"):
        for result in results:
            written.add(result.asset)
            if set(TABLES) <= written:
                deltalake.DeltaTable(context.lake.uri("raw/dsi/sensor")).delete()
    assert LOG not in written


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (StepRequest(("raw/dsi/colour",), (), DELIVERY), "asset raw/dsi/colour: expected one of the assets"),
        (StepRequest(("raw/other/sensor",), (), DELIVERY), "asset raw/other/sensor: expected one of the assets"),
        (StepRequest((), ("raw/dsi/sensor:colour",), DELIVERY), "check raw/dsi/sensor:colour: expected one of the"),
    ],
)
def test_an_unknown_asset_or_check_is_named(context: IngestContext, request_: StepRequest, message: str) -> None:
    with pytest.raises(SettingsError) as raised:
        list(ingest_step(context, request_, RUN))
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("name", ["../../etc", "2026-02-30-06:00:00", "", LATER])
def test_a_delivery_that_does_not_exist_is_named(context: IngestContext, tmp_path: Path, name: str) -> None:
    write(tmp_path / "in")
    with pytest.raises(DeliveryNameError):
        step(context, *CONTRACT.addresses, delivery=name)
    assert written_files(context) == []
