"""Violations that concern all files of a delivery together: repeated keys and dangling references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.ingest.delivery import list_delivery
from biocloud_assets.ingest.inspection import inspect
from biocloud_assets.ingest.violations import Inspection, Violation, ViolationKind
from biocloud_assets.raw.dsi.contract import CONTRACT, RESULT
from tests.ingest.deliveries import DELIVERY, record, table, write
from tests.ingest.lakehouse import ingest, step, written_files

LATER = "2026-02-28-06:00:00"


def inspected(context: IngestContext, delivery: str = DELIVERY) -> Inspection:
    return inspect(context, list_delivery(context.landing, CONTRACT, delivery), context.staging.below("test"))


def the_violation(inspection: Inspection) -> Violation:
    assert len(inspection.violations) == 1, [str(violation) for violation in inspection.violations]
    return inspection.violations[0]


def result(**overrides: Any) -> list[dict[str, Any]]:
    return [record(RESULT, **overrides)]


def test_a_valid_delivery_has_no_violation_and_its_rows_are_counted(context: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / "in")
    inspection = inspected(context)
    assert inspection.violations == ()
    assert inspection.rows == {table.name: 1 for table in CONTRACT.tables}
    assert written_files(context) == []


def test_a_delivery_without_rows_has_no_violation(context: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / "in", **{folder.name: [] for folder in CONTRACT.folders})
    inspection = inspected(context)
    assert inspection.violations == ()
    assert inspection.rows == {table.name: 0 for table in CONTRACT.tables}


# Keys.


def test_a_repeated_key_is_named_with_all_files_that_hold_it(context: IngestContext, tmp_path: Path) -> None:
    files = [table("algorithm"), table("algorithm", [record("algorithm", id="b")]), table("algorithm")]
    write(tmp_path / "in", algorithm=files)
    found = the_violation(inspected(context))
    assert (found.kind, found.folder, found.column) == (ViolationKind.REPEATED_KEY, "algorithm", "id")
    assert found.file == "part-0.parquet, part-2.parquet"
    assert found.found == "1 key more than once: 'algorithm-1'"
    assert not found.is_warning


def test_a_key_that_is_repeated_in_files_of_both_layouts_is_found(context: IngestContext, tmp_path: Path) -> None:
    """One is read as it is; of the other, with an unknown column, a normalised copy."""
    odd = table("algorithm").append_column("extra", table("algorithm")["name"])
    write(tmp_path / "in", algorithm=[table("algorithm"), odd])
    found = {violation.kind: violation for violation in inspected(context).violations}
    assert set(found) == {ViolationKind.REPEATED_KEY, ViolationKind.UNKNOWN_COLUMN}
    assert found[ViolationKind.REPEATED_KEY].file == "part-0.parquet, part-1.parquet"


def test_many_repeated_keys_are_counted_and_three_are_shown(context: IngestContext, tmp_path: Path) -> None:
    sensors = [record("sensor", id=f"s{number:03}") for number in range(100)]
    write(tmp_path / "in", sensor=[*sensors, *sensors])
    found = [v for v in inspected(context).errors if v.kind is ViolationKind.REPEATED_KEY]
    assert [violation.found for violation in found] == ["100 keys more than once: 's000', 's001', 's002'"]


def test_null_keys_are_no_repeated_keys(context: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / "in", sensor=[record("sensor"), record("sensor", id=None), record("sensor", id=None)])
    assert [violation.kind for violation in inspected(context).violations] == [ViolationKind.NULL_KEY]
    write(tmp_path / "in", sensor=[record("sensor"), record("sensor"), record("sensor", id=None)])
    kinds = {violation.kind for violation in inspected(context).violations}
    assert kinds == {ViolationKind.NULL_KEY, ViolationKind.REPEATED_KEY}


def test_a_key_may_be_in_another_delivery_too(context: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / "in")
    write(tmp_path / "in", LATER)
    ingest(context, DELIVERY)
    assert inspected(context, LATER).violations == ()


# References.


def test_dangling_references_are_warnings_that_name_them(context: IngestContext, tmp_path: Path) -> None:
    write(
        tmp_path / "in",
        sensor_deployment=[record("sensor_deployment", sensor_id="sensor-9")],
        analysis_group_result=result(
            algorithm_id="algorithm-9", media=[{"id": "m1", "sensor_media_item_id": "item-9", "filename": None}]
        ),
    )
    found = {(violation.folder, violation.column): violation for violation in inspected(context).violations}
    assert set(found) == {
        ("sensor_deployment", "sensor_id"),
        (RESULT, "algorithm_id"),
        (RESULT, "media[].sensor_media_item_id"),
    }
    assert all(v.kind is ViolationKind.DANGLING_REFERENCE and v.is_warning for v in found.values())
    assert found["sensor_deployment", "sensor_id"].found == "1 value that matches none: 'sensor-9'"


def test_a_null_reference_is_no_dangling_one(context: IngestContext, tmp_path: Path) -> None:
    media = [{"id": "m1", "sensor_media_item_id": None, "filename": None}]
    write(tmp_path / "in", analysis_group_result=result(sensor_deployment_id=None, media=media))
    assert inspected(context).violations == ()


def test_a_reference_may_lead_to_a_row_of_an_earlier_delivery(context: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / "in")
    step(context, *(f"raw/dsi/{name}" for name in ("algorithm", "sensor", "sensor_deployment", "sensor_media_item")))
    empty: dict[str, Any] = {folder.name: [] for folder in CONTRACT.folders if folder.name != RESULT}
    write(tmp_path / "in", LATER, **empty, analysis_group_result=result(id="result-2"))
    assert inspected(context, LATER).violations == ()


def test_a_later_inspection_sees_what_was_ingested_meanwhile(context: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / "in", sensor=[record("sensor", id="s-9"), record("sensor")])
    write(tmp_path / "in", LATER, sensor_deployment=[record("sensor_deployment", sensor_id="s-9")])
    assert "'s-9'" in the_violation(inspected(context, LATER)).found
    step(context, "raw/dsi/sensor")
    assert inspected(context, LATER).violations == ()


def test_rows_of_an_earlier_state_of_the_same_delivery_resolve_no_reference(
    context: IngestContext, tmp_path: Path
) -> None:
    """They are replaced by the ingest that follows."""
    write(tmp_path / "in")
    ingest(context, DELIVERY)
    write(tmp_path / "in", sensor=[record("sensor", id="sensor-2")])
    assert "'sensor-1'" in the_violation(inspected(context)).found


def test_references_into_a_folder_that_can_not_be_read_are_not_reported(context: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / "in", sensor=b"not Parquet")
    assert the_violation(inspected(context)).kind is ViolationKind.NOT_PARQUET


def test_violations_of_files_values_and_keys_are_reported_together(context: IngestContext, tmp_path: Path) -> None:
    without_name = table("algorithm", [record("algorithm", id=None)]).drop_columns(["name"])
    write(
        tmp_path / "in",
        algorithm=without_name,
        sensor=b"not Parquet",
        sensor_deployment=None,
        sensor_media_item=[record("sensor_media_item"), record("sensor_media_item")],
        analysis_group_result=result(media=[None]),
    )
    found = {(violation.folder, violation.kind) for violation in inspected(context).errors}
    assert found == {
        ("algorithm", ViolationKind.MISSING_COLUMN),
        ("algorithm", ViolationKind.NULL_KEY),
        ("sensor", ViolationKind.NOT_PARQUET),
        ("sensor_deployment", ViolationKind.MISSING_FOLDER),
        ("sensor_media_item", ViolationKind.REPEATED_KEY),
        (RESULT, ViolationKind.NULL_ELEMENT),
    }


@pytest.mark.parametrize("length", [200, 10_000])
def test_a_long_key_is_shown_in_part(context: IngestContext, tmp_path: Path, length: int) -> None:
    write(tmp_path / "in", sensor_deployment=[record("sensor_deployment", sensor_id="x" * length)])
    assert "x" * 200 in the_violation(inspected(context)).found
    assert len(str(the_violation(inspected(context)))) < 600
