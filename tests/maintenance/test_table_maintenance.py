"""The maintenance of tables: what it merges and deletes, what stays readable, and that it disturbs nobody."""

from __future__ import annotations

import math
import os
import threading
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from pyspark.sql import functions as F

from biocloud_assets.errors import SettingsError
from biocloud_assets.ingest import delivery_log
from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.ingest.snapshot import current_rows, take_snapshot
from biocloud_assets.ingest.verify import verify
from biocloud_assets.maintenance.step import maintain_tables
from biocloud_assets.maintenance.tables import TableMaintenance, maintain_table
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.schema import DELIVERY_COLUMN, spark_schema
from biocloud_assets.spark import delta, delta_log
from tests.ingest.deliveries import DELIVERY, record, table, write
from tests.ingest.lakehouse import content, context_at, failed, ingest, land, versions
from tests.maintenance.old_files import age, age_removals, leave_orphan, split

SENSOR = "raw/dsi/sensor"
PREDICTION = "raw/dsi/analysis_group_result_prediction"
DAYS_8, DAYS_31 = 8 * 86_400, 31 * 86_400


def maintain(context: IngestContext, *, dry_run: bool = False, days: int | None = None) -> dict[str, TableMaintenance]:
    def no_session() -> Any:
        raise AssertionError("Sail has neither OPTIMIZE nor VACUUM")

    outcomes = maintain_tables("sail", no_session, context.lake, days=days, dry_run=dry_run)
    return {outcome.table: outcome for outcome in outcomes}


def done(outcome: TableMaintenance) -> tuple[int, int, int, int]:
    """Files before, files after, data files deleted, log files deleted."""
    return outcome.files_before, outcome.files_after, outcome.deleted_files, outcome.deleted_log_files


def results(probabilities: list[float]) -> list[dict[str, Any]]:
    found = []
    for number, probability in enumerate(probabilities):
        result = record("analysis_group_result", id=f"result-{number}")
        result["predictions"][0]["taxa"]["items"][0]["probability"] = probability
        found.append(result)
    return found


def test_a_lake_without_tables_has_nothing_to_maintain(tmp_path: Path) -> None:
    assert maintain(context_at(tmp_path)) == {}


def test_where_there_is_nothing_to_do_no_table_gets_a_commit(tmp_path: Path) -> None:
    write(tmp_path / "in", algorithm=[])
    context = context_at(tmp_path)
    ingest(context, DELIVERY)
    before = versions(context)
    outcomes = maintain(context)
    assert outcomes.keys() == {CONTRACT.address(table) for table in (*CONTRACT.tables, CONTRACT.log)}
    assert done(outcomes.pop("raw/dsi/algorithm")) == (0, 0, 0, 0)
    assert {done(outcome) for outcome in outcomes.values()} == {(1, 1, 0, 0)}
    assert versions(context) == before


def test_the_small_files_of_a_delivery_are_merged_and_the_rows_stay_the_same(tmp_path: Path) -> None:
    values = [0.25, math.nan, 0.5, math.nan, 0.75, 1.0]
    # Files of two layouts: the engine writes a file for each.
    sensors = [table("sensor"), table("sensor", [record("sensor", id="2")]).append_column("more", pa.array(["x"]))]
    write(tmp_path / "in", analysis_group_result=results(values), sensor=sensors)
    context = context_at(tmp_path)
    ingest(context, DELIVERY)
    split(context, "analysis_group_result_prediction")
    expected, before = content(context), versions(context)

    planned = maintain(context, dry_run=True)[PREDICTION]
    assert planned.files_before > 1
    assert versions(context) == before, "a dry run changes nothing"
    outcome = maintain(context)[PREDICTION]
    assert done(outcome) == done(planned) == (planned.files_before, 1, 0, 0)
    assert len(DeltaTable(context.lake.uri(SENSOR)).file_uris()) == 1
    assert repr(content(context)) == repr(expected)
    engine = context.read_table(CONTRACT.table("analysis_group_result_prediction"))
    assert engine.where(F.isnan("probability")).count() == 2, "the engine reads them too, and NaN as NaN"
    assert all(comparison.equal for comparison in verify(context, DELIVERY))

    again = versions(context)
    assert {outcome.files_before for outcome in maintain(context).values()} == {1}
    assert done(maintain(context)[PREDICTION]) == (1, 1, 0, 0)
    assert versions(context) == again
    write(tmp_path / "in", sensor=[table("sensor", [record("sensor", id="3")]), sensors[1]])
    ingest(context, DELIVERY)
    assert {row["id"] for row in content(context)["sensor"]} == {"2", "3"}, "the engine replaces merged files"
    assert all(comparison.equal for comparison in verify(context, DELIVERY))


def test_files_of_two_deliveries_are_never_merged(tmp_path: Path) -> None:
    other = "2026-02-01-06:00:00"
    for name in (DELIVERY, other):
        write(tmp_path / "in", name)
    context = context_at(tmp_path)
    ingest(context, DELIVERY, other)
    assert {outcome.files_after for outcome in maintain(context).values()} == {2}


def test_replaced_and_orphaned_files_are_deleted_when_they_are_older_than_the_retention(tmp_path: Path) -> None:
    write(tmp_path / "in")
    context = context_at(tmp_path)
    ingest(context, DELIVERY)
    first = delta_log.version(context.lake, SENSOR)
    write(tmp_path / "in", sensor=[record("sensor"), record("sensor", id="sensor-2")])
    ingest(context, DELIVERY)
    folder = leave_orphan(context, SENSOR).parent

    assert done(maintain(context)[SENSOR]) == (1, 1, 0, 0), "they are new"
    assert len(DeltaTable(context.lake.uri(SENSOR), version=first).to_pyarrow_table()) == 1, "history is readable"

    age(context, DAYS_8)
    age_removals(context, SENSOR, DAYS_8)
    expected = content(context)
    (live,) = DeltaTable(context.lake.uri(SENSOR)).file_uris()
    size = sum(file.stat().st_size for file in folder.iterdir() if file.name != Path(live).name)
    planned = maintain(context, dry_run=True)[SENSOR]
    assert done(maintain(context, days=9)[SENSOR]) == (1, 1, 0, 0), "a longer retention keeps them"
    outcome = maintain(context)[SENSOR]
    assert done(outcome) == done(planned) == (1, 1, 2, 0)
    assert outcome.reclaimed == planned.reclaimed == size
    assert content(context) == expected
    before = versions(context)
    assert done(maintain(context)[SENSOR]) == (1, 1, 0, 0)
    assert versions(context) == before, "a repetition commits nothing"
    assert len(context.read_table(CONTRACT.table("sensor")).collect()) == 2


def test_a_retention_below_deltas_168_hours_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    write(tmp_path / "in")
    context = context_at(tmp_path)
    ingest(context, DELIVERY)
    age(context, DAYS_31, log=True)
    for days in (6, 0, -1):
        with pytest.raises(SettingsError, match="expected at least 7 days"):
            maintain(context, days=days)
        with pytest.raises(SettingsError, match="expected at least 7 days"):
            maintain_table(context.lake, SENSOR, days=days)


@pytest.fixture(scope="module")
def long_log(tmp_path_factory: pytest.TempPathFactory) -> IngestContext:
    """A lake whose table of predictions has 27 versions, those up to 22 older than a month."""
    root = tmp_path_factory.mktemp("long")
    write(root / "in")
    context = context_at(root)
    ingest(context, DELIVERY)
    spec = CONTRACT.table("analysis_group_result_prediction")
    rows = context.read_table(spec).where(F.col(DELIVERY_COLUMN) == DELIVERY).drop(DELIVERY_COLUMN)
    for number in range(1, 26):
        name = f"2026-03-{number:02}-06:00:00"
        delta.replace_partition(
            context.spark, context.lake, PREDICTION, rows, spark_schema(spec), DELIVERY_COLUMN, name
        )
    then = time.time() - DAYS_31
    for file in Path(context.lake.root, PREDICTION, "_delta_log").iterdir():
        if file.name[:20].isdigit() and int(file.name[:20]) <= 22:
            os.utime(file, (then, then))
    return context


def test_log_files_are_deleted_up_to_the_newest_checkpoint_that_is_older_than_a_month(long_log: IngestContext) -> None:
    context, log = long_log, Path(long_log.lake.root, PREDICTION, "_delta_log")
    expected, newest = content(context), versions(context)
    assert done(maintain(context, days=60)[PREDICTION]) == (26, 26, 0, 0), "a longer retention keeps them"
    planned = maintain(context, dry_run=True)[PREDICTION]
    outcome = maintain(context)[PREDICTION]
    assert done(outcome) == done(planned)
    assert outcome.deleted_log_files > 40
    assert outcome.reclaimed == planned.reclaimed > 0
    left = sorted(file.name for file in log.iterdir() if file.name != "_last_checkpoint")
    assert {int(name[:20]) for name in left} == set(range(20, 27)), "checkpoint 20 and everything since"
    assert versions(context) == newest
    assert content(context) == expected
    for version in range(20, 27):
        assert len(DeltaTable(context.lake.uri(PREDICTION), version=version).file_uris()) == version
    assert done(maintain(context)[PREDICTION]) == (26, 26, 0, 0)


def test_a_table_whose_old_log_is_deleted_can_be_read_and_written_by_the_engine(long_log: IngestContext) -> None:
    maintain(long_log)
    assert long_log.read_table(CONTRACT.table("analysis_group_result_prediction")).count() == 26
    name = "2026-04-01-06:00:00"
    write(Path(long_log.landing.root), name)
    assert failed(ingest(long_log, name)) == {}
    assert long_log.read_table(CONTRACT.table("analysis_group_result_prediction")).count() == 27


def test_a_running_publication_reads_its_version_whatever_is_maintained_meanwhile(tmp_path: Path) -> None:
    write(tmp_path / "in", analysis_group_result=results([0.25, 0.5, 0.75]))
    context = context_at(tmp_path)
    ingest(context, DELIVERY)
    split(context, "analysis_group_result_prediction")
    state = take_snapshot(context.tables, CONTRACT, date(2026, 2, 1))
    age(context, DAYS_31)
    assert maintain(context)[PREDICTION].files_after == 1
    predictions = CONTRACT.table("analysis_group_result_prediction")
    assert delta_log.version(context.lake, PREDICTION) != state.versions[predictions.name]
    assert current_rows(context, state, predictions).count() == 3
    assert take_snapshot(context.tables, CONTRACT, date(2026, 2, 1)).deliveries == state.deliveries


@pytest.mark.timeout(600)
def test_maintenance_while_deliveries_are_ingested_loses_nothing(tmp_path: Path) -> None:
    names = [f"2026-02-{day:02}-06:00:00" for day in range(1, 7)]
    for name in names:
        write(tmp_path / "in", name, analysis_group_result=results([0.25, 0.5, 0.75]))
    context = context_at(tmp_path)
    ingest(context, names[0])
    ended = threading.Event()
    problems: list[Exception] = []

    def keep_maintaining() -> None:
        while not ended.is_set():
            try:
                maintain(context)
            except Exception as error:
                problems.append(error)

    thread = threading.Thread(target=keep_maintaining)
    thread.start()
    try:
        for name in names[1:]:
            ingest(context, name)
            split(context, "analysis_group_result_prediction", name)  # something to merge, while the next one begins
    finally:
        ended.set()
        thread.join()
    assert problems == []
    table_ = delta_log.open_table(context.lake, PREDICTION)
    assert table_ is not None
    operations = [entry["operation"] for entry in reversed(table_.history())]
    last_write = max(number for number, operation in enumerate(operations) if operation == "WRITE")
    assert "OPTIMIZE" in operations[:last_write], "both took place at the same time"
    assert delivery_log.ingested(context.tables, CONTRACT) == set(names)
    for name in names:
        assert all(comparison.equal for comparison in verify(context, name))
    maintain(context)
    assert failed(ingest(context, *names)) == {}


def test_a_delivery_that_is_ingested_again_while_its_files_are_merged_has_its_new_rows(tmp_path: Path) -> None:
    write(tmp_path / "in", analysis_group_result=results([0.25, 0.5, 0.75]))
    context = context_at(tmp_path)
    ingest(context, DELIVERY)
    split(context, "analysis_group_result_prediction")
    write(tmp_path / "in", analysis_group_result=results([0.1]))
    ends = threading.Thread(target=lambda: ingest(context, DELIVERY))
    ends.start()
    while ends.is_alive():
        maintain_table(context.lake, PREDICTION)
    ends.join()
    maintain(context)
    assert [row["probability"] for row in content(context)["analysis_group_result_prediction"]] == [0.1]
    assert all(comparison.equal for comparison in verify(context, DELIVERY))


def test_on_s3_the_same_files_are_deleted_and_kept(s3_root: str, s3_server: str, tmp_path: Path) -> None:
    context = context_at(s3_root, endpoint=s3_server)
    land(context, tmp_path / "made", analysis_group_result=results([0.25, 0.5, 0.75]))
    ingest(context, DELIVERY)
    split(context, "analysis_group_result_prediction")
    expected = content(context)
    merged = maintain(context)[PREDICTION]
    assert merged.files_after == 1 < merged.files_before
    # The files that were replaced are those of the first write and those that were merged.
    _age_objects(s3_root, DAYS_8)
    kept = maintain(context)[PREDICTION]
    assert kept.deleted_files == 0, "their removal is of today"
    orphan = f"{PREDICTION}/_delivery=2026-01-31-06%3A00%3A00/part-of-a-killed-write.parquet"
    context.lake.write(orphan, b"0123456789")
    _age_objects(s3_root, DAYS_8)
    outcome = maintain(context)[PREDICTION]
    assert (outcome.deleted_files, outcome.reclaimed) == (1, 10)
    assert orphan not in {file.path for file in context.lake.walk(PREDICTION)}
    assert content(context) == expected
    assert all(comparison.equal for comparison in verify(context, DELIVERY))


def _age_objects(root: str, seconds: int) -> None:
    """Make all objects of a bucket older, in moto, which is in this process."""
    from moto.s3.models import s3_backends

    address = urlsplit(root)
    (backend,) = (
        backend for account in s3_backends.values() for backend in account.values() if address.netloc in backend.buckets
    )
    for _, key in backend.buckets[address.netloc].keys.items():
        key.last_modified = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=seconds)
