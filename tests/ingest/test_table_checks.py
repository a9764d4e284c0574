"""The checks of the tables in the lake: they find what is wrong, of one delivery and of all."""

from __future__ import annotations

import shutil
from pathlib import Path

import deltalake
import pytest

from biocloud_assets.errors import TableError
from biocloud_assets.ingest import delivery_log
from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.ingest.step import all_checks, ingest_step
from biocloud_assets.ingest.table_checks import check_tables, checks_of
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.steps import CheckResult, StepRequest
from tests.ingest.deliveries import DELIVERY, record, write
from tests.ingest.lakehouse import RUN, context_at, failed, ingest, step

LATER = "2026-02-28-06:00:00"


def alter(context: IngestContext, table: str, **values: str) -> None:
    """Change all rows of a table, behind the back of the ingest."""
    deltalake.DeltaTable(context.lake.uri(f"raw/dsi/{table}")).update(updates=values)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A landing zone with two deliveries, and a lake into which they are ingested."""
    root = tmp_path_factory.mktemp("prepared")
    write(root / "in", sensor=[record("sensor"), record("sensor", id="sensor-2")])
    write(root / "in", LATER)
    ingest(context_at(root), DELIVERY, LATER)
    return root


@pytest.fixture
def ingested(prepared: Path, tmp_path: Path) -> IngestContext:
    """A copy of them, which a test may change."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return context_at(tmp_path)


def check(context: IngestContext, name: str, delivery: str | None = DELIVERY) -> CheckResult:
    (result,) = check_tables(context, [name], delivery)
    return result


def test_every_table_has_the_checks_that_its_contract_implies() -> None:
    found = {table.name: checks_of(CONTRACT, table) for table in CONTRACT.tables}
    assert found["sensor"] == ("row_count", "key")
    assert found["sensor_deployment"] == ("row_count", "key", "references")
    assert found["analysis_group_result_region"] == ("row_count", "key", "ranges")
    assert found["analysis_group_result_prediction"] == ("row_count", "key", "ranges")
    assert found["analysis_group_result_media"] == ("row_count", "key", "references")


def test_all_checks_pass_on_what_was_ingested(ingested: IngestContext) -> None:
    of_tables = [name for name in all_checks(CONTRACT) if name.startswith("raw/")]
    for delivery in (DELIVERY, LATER, None):
        results = list(check_tables(ingested, of_tables, delivery))
        assert len(results) == len(of_tables)
        assert failed(list(results)) == {}


def test_missing_rows_are_counted(ingested: IngestContext) -> None:
    deltalake.DeltaTable(ingested.lake.uri("raw/dsi/sensor")).delete(f"_delivery = '{DELIVERY}' AND id = 'sensor-2'")
    result = check(ingested, "raw/dsi/sensor:row_count")
    assert (result.passed, result.blocking) == (False, True)
    assert result.description == "expected 2 rows, as in the source, found 1 rows"
    assert check(ingested, "raw/dsi/sensor:row_count", LATER).passed
    assert (
        "expected 3 rows, as in the source, found 2 rows"
        in check(ingested, "raw/dsi/sensor:row_count", None).description
    )


@pytest.mark.parametrize("logged", [[DELIVERY], []])
def test_the_checks_over_all_deliveries_leave_out_rows_of_a_delivery_that_is_not_in_the_log(
    ingested: IngestContext, logged: list[str]
) -> None:
    """An ingest that is running, one that was killed, and tables that are materialised alone leave such rows."""
    for name in {DELIVERY, LATER} - set(logged):
        delivery_log.remove(ingested, name)
        for table, column, value in (
            ("sensor", "id", "NULL"),
            ("analysis_group_result_region", "x1", "1.5"),
            ("sensor_deployment", "sensor_id", "'sensor-9'"),
        ):
            opened = deltalake.DeltaTable(ingested.lake.uri(f"raw/dsi/{table}"))
            opened.update(updates={column: value}, predicate=f"_delivery = '{name}'")
    of_tables = tuple(name for name in all_checks(CONTRACT) if name.startswith("raw/"))
    results = step(ingested, checks=of_tables, delivery=None)
    assert failed(results) == {}
    counted = [result for result in results if isinstance(result, CheckResult) and result.name == "row_count"]
    expected = {"raw/dsi/sensor": 2 if logged else 0}
    assert {result.asset: result.description for result in counted} == {
        CONTRACT.address(table): f"expected {rows} rows, as in the source, found {rows} rows"
        for table in CONTRACT.tables
        for rows in [expected.get(CONTRACT.address(table), len(logged))]
    }


def test_the_checks_over_all_deliveries_find_what_is_wrong_in_those_in_the_log(ingested: IngestContext) -> None:
    delivery_log.remove(ingested, LATER)
    alter(ingested, "sensor", id="NULL")
    alter(ingested, "analysis_group_result_region", x1="1.5")
    alter(ingested, "sensor_deployment", sensor_id="'sensor-9'")
    assert "found 2 rows with a null key" in check(ingested, "raw/dsi/sensor:key", None).description
    assert "found 1 outside in x1" in check(ingested, "raw/dsi/analysis_group_result_region:ranges", None).description
    assert "found 1 of sensor_id" in check(ingested, "raw/dsi/sensor_deployment:references", None).description


def test_a_reference_to_a_row_of_a_delivery_that_is_not_in_the_log_is_not_dangling(ingested: IngestContext) -> None:
    """Over all deliveries as for one: the other delivery may be in the middle of another ingest."""
    sensor = deltalake.DeltaTable(ingested.lake.uri("raw/dsi/sensor"))
    sensor.update(updates={"id": "'sensor-9'"}, predicate=f"_delivery = '{LATER}'")
    alter(ingested, "sensor_deployment", sensor_id="'sensor-9'")
    delivery_log.remove(ingested, LATER)
    for delivery in (DELIVERY, None):
        assert check(ingested, "raw/dsi/sensor_deployment:references", delivery).passed


def test_repeated_and_null_keys_are_counted(ingested: IngestContext) -> None:
    alter(ingested, "sensor", id="'same'")
    result = check(ingested, "raw/dsi/sensor:key")
    assert (result.passed, result.blocking) == (False, True)
    assert result.description.endswith("found 0 rows with a null key, 1 keys in more than one row")
    assert check(ingested, "raw/dsi/sensor:key", LATER).passed
    assert not check(ingested, "raw/dsi/sensor:key", None).passed, "a key may be in two deliveries, not twice in one"
    alter(ingested, "sensor", id="NULL")
    assert "found 2 rows with a null key" in check(ingested, "raw/dsi/sensor:key").description


def test_a_prediction_without_taxa_has_a_null_in_its_key_and_is_valid(context: IngestContext, tmp_path: Path) -> None:
    predictions = [{"region_group_id": "g1", "taxa": {"type": "multiclass", "items": []}}] * 2
    write(tmp_path / "in", analysis_group_result=[record("analysis_group_result", predictions=predictions)])
    assert failed(ingest(context, DELIVERY)) == {}


def test_values_outside_their_range_are_a_warning(ingested: IngestContext) -> None:
    alter(ingested, "analysis_group_result_region", x1="1.5", y2="-0.5")
    result = check(ingested, "raw/dsi/analysis_group_result_region:ranges")
    assert (result.passed, result.blocking) == (False, False)
    assert result.description == (
        "expected x1 0 to 1, y1 0 to 1, x2 0 to 1, y2 0 to 1, found 1 outside in x1, 1 outside in y2"
    )


def test_dangling_references_are_a_warning_that_names_them(ingested: IngestContext) -> None:
    alter(ingested, "sensor_deployment", sensor_id="'sensor-9'")
    result = check(ingested, "raw/dsi/sensor_deployment:references")
    assert (result.passed, result.blocking) == (False, False)
    assert result.description == (
        "expected every sensor_id in sensor, found 1 of sensor_id that sensor doesn't have: 'sensor-9'"
    )


def test_a_table_that_does_not_exist_fails_its_checks(context: IngestContext) -> None:
    results = list(check_tables(context, ["raw/dsi/sensor:key", "raw/dsi/sensor_deployment:references"], DELIVERY))
    assert [(result.passed, result.blocking) for result in results] == [(False, True), (False, False)]
    assert all("expected the table, found none at" in result.description for result in results)


def test_a_blocking_check_that_fails_fails_the_step_after_all_results(ingested: IngestContext) -> None:
    alter(ingested, "sensor", id="'same'")
    of_tables = tuple(name for name in all_checks(CONTRACT) if name.startswith("raw/"))
    results = []
    with pytest.raises(TableError, match=r"raw/dsi/sensor: .*key of raw/dsi/sensor: expected id: each once"):
        for result in ingest_step(ingested, StepRequest((), of_tables, DELIVERY), RUN):
            results.append(result)
    assert len(results) == len(of_tables)
    alter(ingested, "sensor", id="'sensor-1'")
    with pytest.raises(TableError):
        step(ingested, checks=("raw/dsi/sensor:key",), delivery=None)


def test_a_warning_does_not_fail_the_step(ingested: IngestContext) -> None:
    alter(ingested, "sensor_deployment", sensor_id="'sensor-9'")
    results = step(ingested, checks=("raw/dsi/sensor_deployment:references",))
    assert list(failed(results)) == ["raw/dsi/sensor_deployment:references"]
