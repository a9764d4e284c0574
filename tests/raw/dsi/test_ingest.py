"""The steps of the ingest: what they write, that they can be repeated, and that nothing interrupts them halfway."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deltalake
import nasty
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deliveries import DELIVERY, record, write

from biocloud_assets.errors import DeliveryRefusedError, TableError
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi import contract, ingest, log
from biocloud_assets.raw.dsi.contract import DELIVERY_COLUMN, LOG, TABLES
from biocloud_assets.raw.dsi.verify import verify
from biocloud_assets.sample import synthetic
from biocloud_assets.spark import delta
from biocloud_assets.spark.session import get_session

LATER = "2026-02-28-06:00:00"


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> ingest.Place:
    """A landing zone and a lake, both in folders or both in S3."""
    root = str(tmp_path) if request.param == "folder" else request.getfixturevalue("s3_root")
    endpoint = None if request.param == "folder" else request.getfixturevalue("s3_server")
    return ingest.Place(
        get_session("sail"), DataLake.at(f"{root}/in", endpoint=endpoint), DataLake.at(f"{root}/out", endpoint=endpoint)
    )


@pytest.fixture
def folder_place(tmp_path: Path) -> ingest.Place:
    return ingest.Place(get_session("sail"), DataLake.at(str(tmp_path / "in")), DataLake.at(str(tmp_path / "out")))


def land(place: ingest.Place, tmp_path: Path, name: str = DELIVERY, **folders: Any) -> None:
    """Write a delivery into the landing zone, wherever that is."""
    source = write(tmp_path / "made", name, **folders)
    for file in sorted(source.rglob("*.parquet")):
        place.landing.write(f"dsi/{name}/{file.relative_to(source).as_posix()}", file.read_bytes())


def run(place: ingest.Place, delivery: str = DELIVERY) -> dict[str, Any]:
    for table in TABLES:
        ingest.write_table(place, delivery, table)
    return ingest.record(place, delivery, engine="sail", orchestrator="test", run_id="1")


def content(place: ingest.Place) -> dict[str, list[dict[str, Any]]]:
    """All rows of all tables, in an order of their own."""
    tables = {table.name: delta.open_table(place.lake, table.path) for table in TABLES}
    return {
        name: sorted(table.to_pyarrow_table().to_pylist(), key=repr) if table else [] for name, table in tables.items()
    }


def versions(place: ingest.Place) -> dict[str, int | None]:
    return {table.path: delta.version(place.lake, table.path) for table in (*TABLES, LOG)}


def test_a_delivery_is_in_the_tables_of_the_contract_and_then_in_the_log(place: ingest.Place, tmp_path: Path) -> None:
    land(place, tmp_path)
    assert log.ingested(place.lake) == set()
    logged = run(place)
    assert log.ingested(place.lake) == {DELIVERY}
    assert log.read(place.lake, DELIVERY) == logged
    assert logged["rows"] == {table.name: 1 for table in TABLES}
    for table in (*TABLES, LOG):
        written = delta.open_table(place.lake, table.path)
        assert written is not None
        assert [field.name for field in written.schema().fields] == [column.name for column in table.columns]
        assert written.metadata().partition_columns == [DELIVERY_COLUMN]
        rows = written.to_pyarrow_table()
        assert rows[DELIVERY_COLUMN].to_pylist() == [DELIVERY]
        for column in table.columns:
            assert rows.schema.field(column.name).type == contract.arrow_type(column.type), column
    assert all(comparison.equal for comparison in verify(place, DELIVERY))


def test_running_again_leaves_the_same(folder_place: ingest.Place, tmp_path: Path) -> None:
    land(folder_place, tmp_path)
    land(folder_place, tmp_path, LATER, sensor=[record("sensor", id="sensor-2")])
    first_log = run(folder_place)
    run(folder_place, LATER)
    before = content(folder_place)
    assert run(folder_place) == first_log
    assert content(folder_place) == before


def test_a_delivery_that_changed_replaces_exactly_its_own_rows(folder_place: ingest.Place, tmp_path: Path) -> None:
    land(folder_place, tmp_path)
    land(folder_place, tmp_path, LATER)
    run(folder_place)
    run(folder_place, LATER)
    before = content(folder_place)["sensor"]
    land(folder_place, tmp_path, sensor=[record("sensor"), record("sensor", id="sensor-2")])

    ingest.write_table(folder_place, DELIVERY, contract.table("sensor"))
    assert log.ingested(folder_place.lake) == {LATER}, "not in the log while its tables are being replaced"
    run(folder_place)
    assert log.ingested(folder_place.lake) == {DELIVERY, LATER}
    after = content(folder_place)["sensor"]
    assert [row for row in after if row[DELIVERY_COLUMN] == LATER] == [
        row for row in before if row[DELIVERY_COLUMN] == LATER
    ]
    assert sorted(row["id"] for row in after if row[DELIVERY_COLUMN] == DELIVERY) == ["sensor-1", "sensor-2"]


def test_nothing_of_a_faulty_delivery_is_written_whichever_step_is_run(
    folder_place: ingest.Place, tmp_path: Path
) -> None:
    land(folder_place, tmp_path)
    run(folder_place)
    before = versions(folder_place)
    land(folder_place, tmp_path, LATER, algorithm=[record("algorithm", id=None)])
    for table in TABLES:
        with pytest.raises(
            DeliveryRefusedError, match=r"null key: .*folder algorithm, file part-0\.parquet, column id"
        ):
            ingest.write_table(folder_place, LATER, table)
    with pytest.raises(DeliveryRefusedError):
        ingest.record(folder_place, LATER, engine="sail", orchestrator="test", run_id="1")
    assert versions(folder_place) == before


def test_a_delivery_is_not_logged_as_long_as_a_table_lacks_rows(folder_place: ingest.Place, tmp_path: Path) -> None:
    land(folder_place, tmp_path)
    for table in TABLES[:-1]:
        ingest.write_table(folder_place, DELIVERY, table)
    with pytest.raises(TableError, match=f"{TABLES[-1].path}: expected 1 rows"):
        ingest.record(folder_place, DELIVERY, engine="sail", orchestrator="test", run_id="1")
    assert log.ingested(folder_place.lake) == set()


def test_what_was_never_wholly_ingested_can_be_taken_back(folder_place: ingest.Place, tmp_path: Path) -> None:
    land(folder_place, tmp_path)
    land(folder_place, tmp_path, LATER)
    run(folder_place)
    before = content(folder_place)
    ingest.write_table(folder_place, LATER, contract.table("sensor"))
    assert ingest.withdraw(folder_place, LATER) == ["sensor"]
    assert content(folder_place) == before
    assert ingest.withdraw(folder_place, DELIVERY) == [], "what is in the log stays"


def test_a_table_of_other_columns_is_refused_and_one_that_lacks_some_gets_them(
    folder_place: ingest.Place, tmp_path: Path
) -> None:
    land(folder_place, tmp_path)
    spec = contract.table("sensor")
    uri = folder_place.lake.uri(spec.path)
    older = [column for column in spec.columns if column.name not in {"serial_number", "owner"}]
    schema = pa.schema([(column.name, contract.arrow_type(column.type)) for column in older])
    deltalake.write_deltalake(uri, schema.empty_table(), partition_by=[DELIVERY_COLUMN])
    assert ingest.write_table(folder_place, DELIVERY, spec) == 1
    assert content(folder_place)["sensor"][0]["owner"] == {"id": "owner-1", "name": "Zoë"}

    other = contract.table("algorithm")
    odd = pa.schema([("id", pa.int64()), (DELIVERY_COLUMN, pa.string())])
    deltalake.write_deltalake(folder_place.lake.uri(other.path), odd.empty_table(), partition_by=[DELIVERY_COLUMN])
    with pytest.raises(TableError, match=r"expected id: string.*found id: bigint"):
        ingest.write_table(folder_place, DELIVERY, other)
    assert delta.version(folder_place.lake, other.path) == 0


def test_a_landing_zone_may_lie_anywhere_and_a_lake_says_where_it_can_not(tmp_path: Path) -> None:
    odd = tmp_path / "a b&c [d] {e} é%20*"
    place = ingest.Place(get_session("sail"), DataLake.at(str(odd / "in")), DataLake.at(str(tmp_path / "out")))
    land(place, tmp_path)
    run(place)
    assert log.ingested(place.lake) == {DELIVERY}

    nowhere = ingest.Place(place.spark, place.landing, DataLake.at(str(odd / "out")))
    with pytest.raises(TableError, match="Set BIOCLOUD_LAKE_ROOT to another folder"):
        run(nowhere)
    assert not (odd / "out").exists()


def test_files_may_differ_as_long_as_nothing_is_lost(folder_place: ingest.Place, tmp_path: Path) -> None:
    """Types that are widened, lists of nothing, fields that the contract doesn't know: in some files, not in others."""
    *_, wide = nasty.write_all(tmp_path / "in")
    results = contract.arrow_schema(contract.folder("analysis_group_result"))
    media = results.field("media").type.value_type
    more = results.set(
        results.get_field_index("media"), pa.field("media", pa.list_(pa.struct([*media, pa.field("more", pa.int32())])))
    )
    medium = {"id": "m1", "sensor_media_item_id": "item-1", "filename": "1.jpg", "more": 7}
    extra = pa.Table.from_pylist([record("analysis_group_result", id="more", media=[medium])], more)
    pq.write_table(extra, tmp_path / "in" / "dsi" / wide / "analysis_group_result" / "part-9.parquet")
    assert run(folder_place, wide)["rows"]["algorithm"] == 9
    assert all(comparison.equal for comparison in verify(folder_place, wide))
    rescued = {row["result_id"]: row["_rescued"] for row in content(folder_place)["analysis_group_result_media"]}
    assert rescued == {"result-1": None, "more": '{"more":7}'}


def test_not_a_number_stays_one(folder_place: ingest.Place, tmp_path: Path) -> None:
    """Sail takes a column's statistics, which leave NaN out, for its values; so there are none for doubles."""
    items = [
        {"scientific_name": "A", "scientific_name_id": None, "probability": probability}
        for probability in (0.5, float("nan"), 0.5)
    ]
    predictions = [{"region_group_id": "g1", "taxa": {"type": "multilabel", "items": items}}]
    land(folder_place, tmp_path, analysis_group_result=[record("analysis_group_result", predictions=predictions)])
    run(folder_place)
    rows = delta.read_partition(
        folder_place.spark,
        folder_place.lake,
        contract.table("analysis_group_result_prediction").path,
        DELIVERY_COLUMN,
        DELIVERY,
    )
    assert [repr(row["probability"]) for row in rows.orderBy("taxon_index").collect()] == ["0.5", "nan", "0.5"]
    assert all(comparison.equal for comparison in verify(folder_place, DELIVERY))


def test_verify_tells_what_differs(folder_place: ingest.Place, tmp_path: Path) -> None:
    land(folder_place, tmp_path)
    run(folder_place)
    uri = folder_place.lake.uri(contract.table("analysis_group_result_region").path)
    deltalake.DeltaTable(uri).update(updates={"x1": "0.125"})
    by_folder = {comparison.folder: comparison for comparison in verify(folder_place, DELIVERY)}
    assert [name for name, comparison in by_folder.items() if not comparison.equal] == ["analysis_group_result"]
    assert by_folder["analysis_group_result"].examples == ("result-1: region_groups",)
    deltalake.DeltaTable(folder_place.lake.uri(contract.table("sensor").path)).delete()
    by_folder = {comparison.folder: comparison for comparison in verify(folder_place, DELIVERY)}
    assert by_folder["sensor"].missing == 1


# --- processes --------------------------------------------------------------------------------------------------------

_PROGRAM = """
import sys
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi import contract, ingest
from biocloud_assets.spark.session import get_session
landing, lake, *deliveries = sys.argv[1:]
place = ingest.Place(get_session("sail"), DataLake.at(landing), DataLake.at(lake))
print("started", flush=True)
for delivery in deliveries:
    for table in contract.TABLES:
        ingest.write_table(place, delivery, table)
    ingest.record(place, delivery, engine="sail", orchestrator="test", run_id="1")
print("done", flush=True)
"""


def process(place: ingest.Place, *deliveries: str) -> subprocess.Popen[str]:
    """The whole ingest of some deliveries in a process of its own, that has started when this returns."""
    arguments = [sys.executable, "-c", _PROGRAM, place.landing.root, place.lake.root, *deliveries]
    started = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline() == "started\n"
    return started


@pytest.fixture(scope="module")
def synthetic_landing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataLake]:
    landing = DataLake.at(str(tmp_path_factory.mktemp("landing")))
    synthetic.write(landing, results=2000, seed=5, deliveries=2)
    yield landing


def test_kill_at_any_moment_and_run_again(synthetic_landing: DataLake, tmp_path: Path) -> None:
    """After `kill -9` at random moments, one more run gives the tables of an undisturbed one."""
    spark = get_session("sail")
    name, _ = (folder for folder in synthetic_landing.list("dsi").folders)
    undisturbed = ingest.Place(spark, synthetic_landing, DataLake.at(str(tmp_path / "undisturbed")))
    began = time.monotonic()
    with process(undisturbed, name) as whole:
        assert whole.wait() == 0
    span = time.monotonic() - began

    killed = ingest.Place(spark, synthetic_landing, DataLake.at(str(tmp_path / "killed")))
    chance = random.Random(20260131)
    moments = 0
    for _ in range(8):
        with process(killed, name) as victim:
            time.sleep(chance.uniform(0, span / 2))
            victim.send_signal(signal.SIGKILL)
            moments += victim.wait() != 0
        logged = log.read(killed.lake, name)
        if logged is not None:
            assert logged["rows"] == ingest.count_rows(killed, name), "in the log only if it is wholly there"
    assert moments, "at least one was killed while it ran"
    run(killed, name)
    assert content(killed) == content(undisturbed)
    assert log.ingested(killed.lake) == {name}


def test_two_processes_into_one_lake(synthetic_landing: DataLake, tmp_path: Path) -> None:
    first, second = synthetic_landing.list("dsi").folders
    spark = get_session("sail")
    together = ingest.Place(spark, synthetic_landing, DataLake.at(str(tmp_path / "together")))
    with process(together, first) as one, process(together, second) as other:
        assert (one.wait(), other.wait()) == (0, 0)
    apart = ingest.Place(spark, synthetic_landing, DataLake.at(str(tmp_path / "apart")))
    run(apart, first)
    run(apart, second)
    assert log.ingested(together.lake) == {first, second}
    assert content(together) == content(apart)


def test_two_processes_with_the_same_delivery(synthetic_landing: DataLake, tmp_path: Path) -> None:
    name, _ = synthetic_landing.list("dsi").folders
    place = ingest.Place(get_session("sail"), synthetic_landing, DataLake.at(str(tmp_path / "lake")))
    with process(place, name) as one, process(place, name) as other:
        assert (one.wait(), other.wait()) == (0, 0)
    assert all(comparison.equal for comparison in verify(place, name))
    logged = log.read(place.lake, name)
    assert logged is not None
    assert logged["rows"] == ingest.count_rows(place, name)
