"""The current rows across deliveries, as of a day."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from biocloud_assets.errors import TableError
from biocloud_assets.ingest import delivery_log
from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.ingest.snapshot import current_rows, take_snapshot
from biocloud_assets.raw.dsi.contract import CONTRACT, RESULT
from biocloud_assets.sample import land_bundled
from tests.ingest.deliveries import record, write
from tests.ingest.lakehouse import context_at, ingest, step

FIRST, SECOND, LATE = "2026-01-01-06:00:00", "2026-01-02-23:59:59", "2026-01-03-00:00:00"
EMPTY: dict[str, Any] = {folder.name: [] for folder in CONTRACT.folders}


def rows(context: IngestContext, day: date, table: str) -> list[dict[str, Any]]:
    state = take_snapshot(context.tables, CONTRACT, day)
    frame = current_rows(context, state, CONTRACT.table(table))
    assert frame.columns == [column.name for column in CONTRACT.table(table).columns]
    return frame.toArrow().to_pylist()


def test_the_row_of_the_latest_delivery_up_to_the_day_is_current(context: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / "in", FIRST, **(EMPTY | {"sensor": [record("sensor", id=name) for name in ("a", "b")]}))
    write(tmp_path / "in", SECOND, **(EMPTY | {"sensor": [record("sensor", id="b", name="corrected")]}))
    write(tmp_path / "in", LATE, **(EMPTY | {"sensor": [record("sensor", id="a", name="late")]}))
    ingest(context, FIRST, LATE, SECOND)

    def names(day: date) -> dict[str, str]:
        return {row["id"]: row["name"] for row in rows(context, day, "sensor")}

    assert names(date(2026, 1, 1)) == {"a": "Camera 1", "b": "Camera 1"}
    assert names(date(2026, 1, 2)) == {"a": "Camera 1", "b": "corrected"}
    assert names(date(2026, 1, 3)) == {"a": "late", "b": "corrected"}


def test_a_record_that_is_delivered_again_replaces_all_elements_of_the_older_one(
    context: IngestContext, tmp_path: Path
) -> None:
    groups = [{"id": name, "individual_id": None, "regions": []} for name in ("g1", "g2")]
    write(tmp_path / "in", FIRST, **(EMPTY | {RESULT: [record(RESULT, region_groups=groups)]}))
    write(tmp_path / "in", SECOND, **(EMPTY | {RESULT: [record(RESULT, region_groups=groups[:1])]}))
    ingest(context, FIRST, SECOND)
    table = "analysis_group_result_region_group"
    assert len(rows(context, date(2026, 1, 1), table)) == 2
    assert [row["region_group_id"] for row in rows(context, date(2026, 1, 2), table)] == ["g1"]


def test_a_delivery_that_is_not_in_the_log_does_not_count(context: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / "in", FIRST)
    write(tmp_path / "in", SECOND, sensor=[record("sensor", name="not logged")])
    ingest(context, FIRST)
    step(context, *(CONTRACT.address(table) for table in CONTRACT.tables), delivery=SECOND)
    state = take_snapshot(context.tables, CONTRACT, date(2026, 1, 31))
    assert state.deliveries == (FIRST,)
    assert [row["name"] for row in rows(context, date(2026, 1, 31), "sensor")] == ["Camera 1"]


def test_a_snapshot_stays_as_it_is_while_the_tables_change(context: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / "in", FIRST)
    ingest(context, FIRST)
    state = take_snapshot(context.tables, CONTRACT, date(2026, 1, 31))
    write(tmp_path / "in", FIRST, sensor=[record("sensor", name="other")])
    ingest(context, FIRST)
    table = CONTRACT.table("sensor")
    (row,) = current_rows(context, state, table).collect()
    assert row["name"] == "Camera 1"


def test_without_a_delivery_up_to_the_day_there_is_no_snapshot(context: IngestContext, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="expected an ingested delivery of 2026-01-31 or earlier, found none"):
        take_snapshot(context.tables, CONTRACT, date(2026, 1, 31))
    write(tmp_path / "in", SECOND)
    ingest(context, SECOND)
    with pytest.raises(TableError, match="expected an ingested delivery of 2026-01-01 or earlier, found none"):
        take_snapshot(context.tables, CONTRACT, date(2026, 1, 1))


def test_a_log_that_changes_at_each_attempt_is_reported(
    context: IngestContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in", FIRST)
    ingest(context, FIRST)
    logged = delivery_log.read(context.tables, CONTRACT, FIRST)
    assert logged is not None
    attempts: list[int] = []

    def ingested(*_: object) -> set[str]:
        attempts.append(1)
        delivery_log.write(context, FIRST, {**logged, "run_id": str(len(attempts))})
        return {FIRST}

    with monkeypatch.context() as patch:
        patch.setattr(delivery_log, "ingested", ingested)
        with pytest.raises(TableError, match="found a new version at each of 5 attempts"):
            take_snapshot(context.tables, CONTRACT, date(2026, 1, 31))
    assert len(attempts) == 5


def test_the_current_rows_of_the_bundled_sample(tmp_path: Path) -> None:
    context = context_at(tmp_path)
    ingest(context, *land_bundled(context.landing)[:2])
    assert len(rows(context, date(2020, 12, 31), "sensor")) == 3
    assert len(rows(context, date(2020, 12, 31), "analysis_group_result_media")) == 250
