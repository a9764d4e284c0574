"""Faults in the values: each is found, told apart and placed, all at once, and before anything is written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deliveries import DELIVERY, record, table, write

from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi import contract, ingest
from biocloud_assets.raw.dsi.contract import RESULT
from biocloud_assets.raw.dsi.delivery import look
from biocloud_assets.raw.dsi.files import Fault, Inspection, Kind
from biocloud_assets.raw.dsi.validation import validate
from biocloud_assets.spark.session import get_session


def inspected(root: Path, delivery: str = DELIVERY) -> Inspection:
    landing = DataLake.at(str(root))
    return validate(get_session("sail"), landing, DataLake.at(str(root / "lake")), look(landing, delivery))


def the_fault(inspection: Inspection) -> Fault:
    assert len(inspection.faults) == 1, [str(fault) for fault in inspection.faults]
    return inspection.faults[0]


def result(**overrides: Any) -> list[dict[str, Any]]:
    return [record(RESULT, **overrides)]


def region(**sides: float | None) -> list[dict[str, Any]]:
    box = {"x1": 0.1, "y1": 0.1, "x2": 0.2, "y2": 0.2, "t1": None, "t2": None, **sides}
    return result(region_groups=[{"id": "g", "individual_id": None, "regions": [{"media_id": "m1", "box": box}]}])


def predicted(*probabilities: float | None) -> list[dict[str, Any]]:
    items = [{"scientific_name": "A", "scientific_name_id": "1", "probability": p} for p in probabilities]
    return result(predictions=[{"region_group_id": "g1", "taxa": {"type": "multilabel", "items": items}}])


def test_a_valid_delivery_has_no_fault_and_its_rows_are_counted(tmp_path: Path) -> None:
    write(tmp_path)
    inspection = inspected(tmp_path)
    assert inspection.faults == ()
    assert inspection.rows == {table.name: 1 for table in contract.TABLES}


def test_a_delivery_without_rows_is_fine(tmp_path: Path) -> None:
    write(tmp_path, **{folder.name: [] for folder in contract.FOLDERS})
    inspection = inspected(tmp_path)
    assert inspection.faults == ()
    assert inspection.rows == {table.name: 0 for table in contract.TABLES}


def test_null_keys_and_values_are_named_with_their_file(tmp_path: Path) -> None:
    write(
        tmp_path,
        sensor=[table("sensor"), table("sensor", [record("sensor", id=None), record("sensor", id="s2", type=None)])],
    )
    key, value = inspected(tmp_path).faults
    assert (key.kind, key.folder, key.file, key.column) == (Kind.NULL_KEY, "sensor", "part-1.parquet", "id")
    assert (value.kind, value.file, value.column) == (Kind.NULL_VALUE, "part-1.parquet", "type")
    assert "'s2'" in value.found
    assert not key.is_warning
    assert not value.is_warning


def test_a_repeated_key_is_named_with_all_files_that_hold_it(tmp_path: Path) -> None:
    write(
        tmp_path, algorithm=[table("algorithm"), table("algorithm", [record("algorithm", id="b")]), table("algorithm")]
    )
    fault = the_fault(inspected(tmp_path))
    assert (fault.kind, fault.folder, fault.column) == (Kind.REPEATED_KEY, "algorithm", "id")
    assert fault.file == "part-0.parquet, part-2.parquet"
    assert "'algorithm-1'" in fault.found


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
def test_a_null_in_a_list_is_a_fault_at_every_level(tmp_path: Path, column: str, overrides: dict[str, Any]) -> None:
    write(tmp_path, analysis_group_result=result(**overrides))
    fault = the_fault(inspected(tmp_path))
    assert (fault.kind, fault.folder, fault.file, fault.column) == (Kind.NULL_ELEMENT, RESULT, "part-0.parquet", column)
    assert "1 null elements, for instance in id 'result-1'" in fault.found


@pytest.mark.parametrize("probability", [-0.01, 1.01, math.nan, math.inf])
def test_a_probability_outside_0_to_1_is_a_warning(tmp_path: Path, probability: float) -> None:
    write(tmp_path, analysis_group_result=predicted(0.0, probability, 1.0, None))
    fault = the_fault(inspected(tmp_path))
    assert (fault.kind, fault.column) == (Kind.PROBABILITY_RANGE, "predictions[].taxa.items[].probability")
    assert fault.is_warning


@pytest.mark.parametrize("sides", [{"x1": -0.1}, {"y1": math.nan, "y2": math.nan}, {"x2": 1.5}, {"y2": 2.0}])
def test_a_box_outside_0_to_1_is_a_warning(tmp_path: Path, sides: dict[str, float]) -> None:
    write(tmp_path, analysis_group_result=region(**sides))
    faults = inspected(tmp_path).faults
    assert {fault.kind for fault in faults} == {Kind.BOX_RANGE}
    assert {fault.column for fault in faults} == {f"region_groups[].regions[].box.{side}" for side in sides}
    assert all(fault.is_warning for fault in faults)


@pytest.mark.parametrize("sides", [{"x1": 0.9}, {"y1": 0.9}, {"t1": 2.0, "t2": 1.0}])
def test_an_inverted_box_is_a_warning(tmp_path: Path, sides: dict[str, float]) -> None:
    write(tmp_path, analysis_group_result=region(**sides))
    fault = the_fault(inspected(tmp_path))
    assert fault.kind is Kind.BOX_INVERTED
    assert fault.is_warning


def test_an_audio_region_without_sides_is_fine(tmp_path: Path) -> None:
    write(tmp_path, analysis_group_result=region(x1=None, x2=None, y1=None, y2=None, t1=0.5, t2=31.5))
    assert inspected(tmp_path).faults == ()


def test_references_to_nowhere_are_warnings_that_name_them(tmp_path: Path) -> None:
    write(
        tmp_path,
        sensor_deployment=[record("sensor_deployment", sensor_id="sensor-9")],
        analysis_group_result=result(
            algorithm_id="algorithm-9", media=[{"id": "m1", "sensor_media_item_id": "item-9", "filename": None}]
        ),
    )
    faults = {(fault.folder, fault.column): fault for fault in inspected(tmp_path).faults}
    assert set(faults) == {
        ("sensor_deployment", "sensor_id"),
        (RESULT, "algorithm_id"),
        (RESULT, "media[].sensor_media_item_id"),
    }
    assert all(fault.kind is Kind.UNKNOWN_REFERENCE and fault.is_warning for fault in faults.values())
    assert "'sensor-9'" in faults["sensor_deployment", "sensor_id"].found


def test_a_reference_may_point_to_a_row_of_an_earlier_delivery(tmp_path: Path) -> None:
    write(tmp_path)
    landing, lake = DataLake.at(str(tmp_path)), DataLake.at(str(tmp_path / "lake"))
    place = ingest.Place(get_session("sail"), landing, lake)
    for name in ("algorithm", "sensor", "sensor_deployment", "sensor_media_item"):
        ingest.write_table(place, DELIVERY, contract.table(name))
    later = "2026-02-28-06:00:00"
    write(
        tmp_path,
        later,
        **{folder.name: [] for folder in contract.FOLDERS if folder.name != RESULT},
        analysis_group_result=result(id="result-2"),
    )
    assert inspected(tmp_path, later).faults == ()


@pytest.mark.parametrize("damage", ["overwritten", "cut out"])
def test_a_file_that_is_damaged_inside_is_named(tmp_path: Path, damage: str) -> None:
    """Its footer is whole, so that only reading its values shows it."""
    names = [record("algorithm", id=f"a{number}", name="x" * 50) for number in range(2000)]
    delivery = write(tmp_path, algorithm=[table("algorithm"), table("algorithm", names)])
    file = delivery / "algorithm" / "part-1.parquet"
    data = file.read_bytes()
    file.write_bytes(data[:4] + b"\xff" * 396 + data[400:] if damage == "overwritten" else data[:4] + data[2000:])
    (fault,) = inspected(tmp_path).errors
    assert (fault.kind, fault.folder, fault.file) == (Kind.UNREADABLE_PARQUET, "algorithm", "part-1.parquet")


def test_faults_of_files_and_of_values_are_reported_together(tmp_path: Path) -> None:
    """A folder that lacks a column is still looked into for what is wrong in the others."""
    without_name = table("algorithm", [record("algorithm", id=None)]).drop_columns(["name"])
    write(
        tmp_path,
        algorithm=without_name,
        sensor=b"not Parquet",
        sensor_deployment=None,
        sensor_media_item=[record("sensor_media_item"), record("sensor_media_item")],
        analysis_group_result=result(media=[None]),
    )
    found = {(fault.folder, fault.kind) for fault in inspected(tmp_path).errors}
    assert found == {
        ("algorithm", Kind.MISSING_COLUMN),
        ("algorithm", Kind.NULL_KEY),
        ("sensor", Kind.NOT_PARQUET),
        ("sensor_deployment", Kind.MISSING_FOLDER),
        ("sensor_media_item", Kind.REPEATED_KEY),
        (RESULT, Kind.NULL_ELEMENT),
    }


def test_types_that_can_be_widened_are_cast(tmp_path: Path) -> None:
    """Narrow integers, other strings, dictionaries, units of time and order of columns give the contract's table."""
    plain = table("sensor_media_item")
    other = pa.table(
        {
            "media": pa.array(
                plain["media"].to_pylist(),
                pa.struct(
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
                ),
            ),
            "id": pa.array(["item-2"], pa.large_string()),
            "sensor_deployment_id": pa.array(["deployment-1"]).dictionary_encode(),
            "captured_at": plain["captured_at"].cast(pa.timestamp("ns", tz="Europe/Amsterdam")),
            "created_at": plain["created_at"].cast(pa.timestamp("us")),
            "updated_at": pa.nulls(1),
        }
    )
    write(tmp_path, sensor_media_item=[plain, other])
    place = ingest.Place(get_session("sail"), DataLake.at(str(tmp_path)), DataLake.at(str(tmp_path / "lake")))
    spec = contract.table("sensor_media_item")
    assert ingest.inspect(place, DELIVERY).faults == ()
    assert ingest.write_table(place, DELIVERY, spec) == 2

    import deltalake

    written = deltalake.DeltaTable(place.lake.uri(spec.path)).to_pyarrow_table().sort_by("id")
    assert written.column_names == [column.name for column in spec.columns]
    first, second = written.to_pylist()
    assert second == first | {"id": "item-2", "updated_at": None}
    assert [field.type for field in written.schema][:6] == [
        field.type for field in contract.arrow_schema(contract.folder("sensor_media_item"))
    ]
