"""Values of a delivery: violations are found and placed, rows are counted, and copies are as the contract says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from biocloud_assets.ingest.delivery import list_delivery
from biocloud_assets.ingest.reader import read_delivery
from biocloud_assets.ingest.violations import Inspection, Violation, ViolationKind
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi.contract import CONTRACT, RESULT
from biocloud_assets.schema import arrow_schema
from tests.ingest.deliveries import DELIVERY, record, table, write


def inspected(root: Path) -> Inspection:
    landing, staging = DataLake.at(str(root)), DataLake.at(str(root / "staging"))
    return read_delivery(landing, CONTRACT, list_delivery(landing, CONTRACT, DELIVERY), staging=staging)


def the_violation(inspection: Inspection) -> Violation:
    assert len(inspection.violations) == 1, [str(violation) for violation in inspection.violations]
    return inspection.violations[0]


def result(**overrides: Any) -> list[dict[str, Any]]:
    return [record(RESULT, **overrides)]


def region(**sides: float | None) -> list[dict[str, Any]]:
    box = {"x1": 0.1, "y1": 0.1, "x2": 0.2, "y2": 0.2, "t1": None, "t2": None, **sides}
    return result(region_groups=[{"id": "g", "individual_id": None, "regions": [{"media_id": "m1", "box": box}]}])


def predicted(*probabilities: float | None) -> list[dict[str, Any]]:
    items = [{"scientific_name": "A", "scientific_name_id": "1", "probability": p} for p in probabilities]
    return result(predictions=[{"region_group_id": "g1", "taxa": {"type": "multilabel", "items": items}}])


# Violations.


def test_a_valid_delivery_has_no_violation_and_its_rows_are_counted(tmp_path: Path) -> None:
    write(tmp_path)
    inspection = inspected(tmp_path)
    assert inspection.violations == ()
    assert inspection.rows == {table.name: 1 for table in CONTRACT.tables}


def test_a_delivery_without_rows_has_no_violation(tmp_path: Path) -> None:
    write(tmp_path, **{folder.name: [] for folder in CONTRACT.folders})
    inspection = inspected(tmp_path)
    assert inspection.violations == ()
    assert inspection.rows == {table.name: 0 for table in CONTRACT.tables}


def test_null_keys_and_values_are_named_with_their_file(tmp_path: Path) -> None:
    write(
        tmp_path,
        sensor=[table("sensor"), table("sensor", [record("sensor", id=None), record("sensor", id="s2", type=None)])],
    )
    key, value = inspected(tmp_path).violations
    assert (key.kind, key.folder, key.file, key.column) == (ViolationKind.NULL_KEY, "sensor", "part-1.parquet", "id")
    assert (value.kind, value.file, value.column) == (ViolationKind.NULL_VALUE, "part-1.parquet", "type")
    assert value.found == "1 row with a null, for instance in id 's2'"
    assert not key.is_warning
    assert not value.is_warning


@pytest.mark.parametrize(
    ("column", "overrides"),
    [
        ("media[]", {"media": [None, {"id": "m", "sensor_media_item_id": "item-1", "filename": None}]}),
        ("region_groups[]", {"region_groups": [None]}),
        ("region_groups[].regions[]", {"region_groups": [{"id": "g", "individual_id": None, "regions": [None]}]}),
        ("predictions[]", {"predictions": [None]}),
        (
            "predictions[].taxa.items[]",
            {"predictions": [{"region_group_id": "g1", "taxa": {"type": "multiclass", "items": [None]}}]},
        ),
    ],
)
def test_a_null_in_a_list_is_a_violation_at_every_level(tmp_path: Path, column: str, overrides: dict[str, Any]) -> None:
    write(tmp_path, analysis_group_result=result(**overrides))
    found = the_violation(inspected(tmp_path))
    assert (found.kind, found.folder, found.file) == (ViolationKind.NULL_ELEMENT, RESULT, "part-0.parquet")
    assert found.column == column
    assert found.found == "1 null element, for instance in id 'result-1'"


@pytest.mark.parametrize("probability", [-0.01, 1.01, math.nan, math.inf])
def test_a_probability_outside_0_to_1_is_a_warning(tmp_path: Path, probability: float) -> None:
    write(tmp_path, analysis_group_result=predicted(0.0, probability, 1.0, None))
    found = the_violation(inspected(tmp_path))
    assert (found.kind, found.column) == (ViolationKind.OUT_OF_RANGE, "predictions[].taxa.items[].probability")
    assert (found.expected, found.found) == ("0 to 1", "1 value outside, for instance in id 'result-1'")
    assert found.is_warning


@pytest.mark.parametrize("sides", [{"x1": -0.1}, {"y1": math.nan, "y2": math.nan}, {"x2": 1.5}, {"y2": 2.0}])
def test_a_box_outside_0_to_1_is_a_warning(tmp_path: Path, sides: dict[str, float]) -> None:
    write(tmp_path, analysis_group_result=region(**sides))
    violations = inspected(tmp_path).violations
    assert {violation.kind for violation in violations} == {ViolationKind.OUT_OF_RANGE}
    assert {violation.column for violation in violations} == {f"region_groups[].regions[].box.{side}" for side in sides}
    assert all(violation.is_warning for violation in violations)


@pytest.mark.parametrize("sides", [{"x1": 0.9}, {"y1": 0.9}, {"t1": 2.0, "t2": 1.0}])
def test_sides_of_a_box_in_the_wrong_order_are_a_warning(tmp_path: Path, sides: dict[str, float]) -> None:
    write(tmp_path, analysis_group_result=region(**sides))
    found = the_violation(inspected(tmp_path))
    first = next(iter(sides))
    assert (found.kind, found.column) == (ViolationKind.NOT_ORDERED, f"region_groups[].regions[].box.{first}")
    assert found.expected == f"{first} not greater than {first[0]}2"
    assert found.is_warning


def test_an_audio_region_without_sides_has_no_violation(tmp_path: Path) -> None:
    write(tmp_path, analysis_group_result=region(x1=None, x2=None, y1=None, y2=None, t1=0.5, t2=31.5))
    assert inspected(tmp_path).violations == ()


def test_a_message_names_three_records_at_most_and_counts_all(tmp_path: Path) -> None:
    rows = [predicted(2.0, 3.0)[0] | {"id": f"r{number}"} for number in range(1000)]
    write(tmp_path, analysis_group_result=rows)
    found = the_violation(inspected(tmp_path)).found
    assert found == "2,000 values outside, for instance in id 'r0', 'r1', 'r2'"


def test_a_message_shows_no_more_than_200_characters_of_a_value(tmp_path: Path) -> None:
    write(tmp_path, sensor=[record("sensor", id="x" * 10_000_000, type=None)])
    assert len(str(the_violation(inspected(tmp_path)))) < 400


def test_violations_of_files_and_of_values_are_reported_together(tmp_path: Path) -> None:
    """A folder that lacks a column is still searched for what is wrong in the others."""
    without_name = table("algorithm", [record("algorithm", id=None)]).drop_columns(["name"])
    write(
        tmp_path,
        algorithm=without_name,
        sensor=b"not Parquet",
        sensor_deployment=None,
        analysis_group_result=result(media=[None]),
    )
    found = {(violation.folder, violation.kind) for violation in inspected(tmp_path).errors}
    assert found == {
        ("algorithm", ViolationKind.MISSING_COLUMN),
        ("algorithm", ViolationKind.NULL_KEY),
        ("sensor", ViolationKind.NOT_PARQUET),
        ("sensor_deployment", ViolationKind.MISSING_FOLDER),
        (RESULT, ViolationKind.NULL_ELEMENT),
    }


# Copies.


def test_types_that_can_be_widened_are_cast(tmp_path: Path) -> None:
    """Narrow integers, other strings, dictionaries, units of time and order of columns give the contract's columns."""
    plain = table("sensor_media_item")
    media = pa.struct(
        [
            ("size_bytes", pa.int32()),
            ("type", pa.dictionary(pa.int8(), pa.string())),
            ("mime_type", pa.large_string()),
            ("filename", pa.string()),
            ("uri", pa.string_view()),
            ("width_px", pa.int16()),
            ("height_px", pa.uint16()),
            ("duration_s", pa.float32()),
        ]
    )
    other = pa.table(
        {
            "media": pa.array(plain["media"].to_pylist(), media),
            "id": pa.array(["item-2"], pa.large_string()),
            "sensor_deployment_id": pa.array(["deployment-1"]).dictionary_encode(),
            "captured_at": plain["captured_at"].cast(pa.timestamp("ns", tz="Europe/Amsterdam")),
            "created_at": plain["created_at"].cast(pa.timestamp("us")),
            "updated_at": pa.nulls(1),
        }
    )
    write(tmp_path, sensor_media_item=[plain, other])
    inspection = inspected(tmp_path)
    assert inspection.violations == ()
    first, second = inspection.sources["sensor_media_item"]
    assert (first.rescued, second.rescued) == (False, True)
    assert pq.ParquetFile(second.uri).schema_arrow.equals(
        arrow_schema(CONTRACT.folder("sensor_media_item"), rescued=True)
    )
    (row,) = pq.read_table(second.uri).to_pylist()
    assert row == plain.to_pylist()[0] | {"id": "item-2", "updated_at": None, "_rescued": None}


def test_a_copy_is_written_beside_files_that_need_none(tmp_path: Path) -> None:
    odd = table("sensor", [record("sensor", id="s2")]).append_column("battery", pa.array([1.5]))
    write(tmp_path, sensor=[table("sensor"), odd])
    staging = tmp_path / "staging"
    sources = inspected(tmp_path).sources["sensor"]
    assert [source.uri for source in sources] == [
        f"{tmp_path}/dsi/{DELIVERY}/sensor/part-0.parquet",
        f"{staging}/dsi/{DELIVERY}/sensor/part-00001.parquet",
    ]
    assert [file.name for file in staging.rglob("*") if file.is_file()] == ["part-00001.parquet"]


def test_without_a_staging_folder_nothing_is_written(tmp_path: Path) -> None:
    write(tmp_path, sensor=table("sensor").append_column("battery", pa.array([1.5])))
    landing = DataLake.at(str(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    inspection = read_delivery(landing, CONTRACT, list_delivery(landing, CONTRACT, DELIVERY))
    assert [violation.kind for violation in inspection.violations] == [ViolationKind.UNKNOWN_COLUMN]
    assert inspection.sources["sensor"][0].uri == ""
    assert inspection.sources["algorithm"][0].uri != ""
    assert sorted(tmp_path.rglob("*")) == before
