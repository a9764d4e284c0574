"""Every violation in the listing, the footers and the types of columns is found and named by its kind."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biocloud_assets.ingest.delivery import list_delivery
from biocloud_assets.ingest.reader import read_delivery
from biocloud_assets.ingest.violations import Inspection, Violation, ViolationKind
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi.contract import CONTRACT, RESULT
from biocloud_assets.schema import arrow_schema, type_name, walk
from tests.ingest.deliveries import DELIVERY, Change, edit, record, table, write

FOLDERS = [folder.name for folder in CONTRACT.folders]
FIELDS = [(folder.name, path) for folder in CONTRACT.folders for path, _ in walk(folder.fields)]
NESTED = ["media[].id", "region_groups[].regions[].box.x1", "predictions[].taxa.items[].probability"]
FILE = "part-0.parquet"


def inspect(root: Path) -> Inspection:
    landing, staging = DataLake.at(str(root)), DataLake.at(str(root / "staging"))
    return read_delivery(landing, CONTRACT, list_delivery(landing, CONTRACT, DELIVERY), staging=staging)


def the_violation(root: Path) -> Violation:
    """The one violation of a delivery; its text must tell all that it holds."""
    (violation,) = inspect(root).violations
    assert violation.delivery == DELIVERY
    for part in filter(
        None,
        (
            violation.kind,
            DELIVERY,
            violation.folder,
            violation.file,
            violation.column,
            violation.expected,
            violation.found,
        ),
    ):
        assert part in str(violation)
    return violation


def place(violation: Violation) -> tuple[ViolationKind, str, str | None, str | None]:
    return violation.kind, violation.folder, violation.file, violation.column


def drop(name: str, array: pa.Array) -> list[tuple[str, pa.Array]]:
    return []


def rename(to: str) -> Change:
    return lambda name, array: [(to, array)]


def beside(other: str, values: pa.Array | None = None) -> Change:
    return lambda name, array: [(name, array), (other, array if values is None else values)]


def values(*items: Any, type_: pa.DataType) -> Change:
    return lambda name, array: [(name, pa.array(items, type_))]


def cast(type_: pa.DataType) -> Change:
    return lambda name, array: [(name, array.cast(type_))]


def with_edit(root: Path, folder: str, path: str, change: Change) -> None:
    write(root, DELIVERY, **{folder: edit(table(folder), path, change)})


def type_at(folder: str, path: str) -> str:
    return type_name(dict(walk(CONTRACT.folder(folder).fields))[path].type)


# What is valid.


def test_a_valid_delivery_has_no_violations(tmp_path: Path) -> None:
    write(tmp_path, DELIVERY)
    inspection = inspect(tmp_path)
    assert inspection.violations == inspection.errors == inspection.warnings == ()
    assert inspection.delivery == DELIVERY
    for folder in CONTRACT.folders:
        (file,) = inspection.sources[folder.name]
        assert file.info.path == f"dsi/{DELIVERY}/{folder.name}/{FILE}"
        assert file.rows == 1
        assert file.schema.equals(arrow_schema(folder))
        assert file.uri == f"{tmp_path}/{file.info.path}"
        assert not file.rescued
    assert not (tmp_path / "staging").exists()


def test_the_records_of_these_tests_fill_every_field() -> None:
    for folder, path in FIELDS:
        edited: list[Any] = []

        def keep(name: str, array: pa.Array, edited: list[Any] = edited) -> list[tuple[str, pa.Array]]:
            edited.extend(array.to_pylist())
            return [(name, array)]

        assert edit(table(folder), path, keep).equals(table(folder)), path
        assert edited, path
        assert None not in edited, path


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_rows_are_no_violation(tmp_path: Path, folder: str) -> None:
    write(tmp_path, DELIVERY, **{folder: []})
    inspection = inspect(tmp_path)
    assert inspection.violations == ()
    assert [file.rows for file in inspection.sources[folder]] == [0]


def test_several_files_are_no_violation(tmp_path: Path) -> None:
    tables = [table("sensor", [record("sensor", id=f"sensor-{number}")]) for number in range(12)]
    write(tmp_path, DELIVERY, sensor=[*tables, table("sensor", [])])
    inspection = inspect(tmp_path)
    assert inspection.violations == ()
    assert sum(file.rows for file in inspection.sources["sensor"]) == 12


def bytes_of(of: pa.Table, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(of, buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "snappy"},
        {"compression": "zstd"},
        {"compression": "gzip"},
        {"compression": "none"},
        {"use_dictionary": False},
        {"version": "1.0"},
        {"data_page_version": "2.0"},
        {"row_group_size": 1},
        {"write_page_index": True},
        {"write_page_checksum": True},
        {"store_schema": False},
        {"use_deprecated_int96_timestamps": True},
        {"use_compliant_nested_type": False},
        {"coerce_timestamps": "ms", "allow_truncated_timestamps": True},
    ],
    ids=str,
)
def test_however_a_file_is_written(tmp_path: Path, options: dict[str, Any]) -> None:
    given = {folder: bytes_of(table(folder, [record(folder)] * 3), **options) for folder in FOLDERS}
    write(tmp_path, DELIVERY, **given)
    inspection = inspect(tmp_path)
    assert inspection.violations == ()
    assert all(file.rows == 3 for files in inspection.sources.values() for file in files)


@pytest.mark.parametrize(
    "data",
    [
        lambda: bytes_of(table("sensor").replace_schema_metadata({"made by": "x" * 200_000})),
        lambda: bytes_of(table("sensor", [record("sensor")] * 500), row_group_size=1),
    ],
    ids=["long metadata", "500 row groups"],
)
def test_a_footer_longer_than_one_read(tmp_path: Path, data: Callable[[], bytes]) -> None:
    file = data()
    assert int.from_bytes(file[-8:-4], "little") > 65_536
    write(tmp_path, DELIVERY, sensor=file)
    inspection = inspect(tmp_path)
    assert inspection.violations == ()
    assert inspection.sources["sensor"][0].rows in {1, 500}


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_order_of_columns_does_not_matter(tmp_path: Path, folder: str) -> None:
    def turned(type_: pa.DataType) -> pa.DataType:
        if pa.types.is_struct(type_):
            return pa.struct([pa.field(field.name, turned(field.type)) for field in reversed(list(type_))])
        return pa.list_(turned(type_.value_type)) if pa.types.is_list(type_) else type_

    schema = arrow_schema(CONTRACT.folder(folder))
    other = pa.schema([(field.name, turned(field.type)) for field in reversed(list(schema))])
    write(tmp_path, DELIVERY, **{folder: pa.Table.from_pylist([record(folder)], schema=other)})
    assert inspect(tmp_path).violations == ()


TIME = datetime(2026, 1, 31, 6, 0, 0, 123456, tzinfo=UTC)
MICROS = int(TIME.timestamp()) * 1_000_000 + 123456


def moment(unit: str, tz: str | None, count: int) -> Change:
    return values(count, type_=pa.timestamp(unit, tz=tz))


ACCEPTED: list[tuple[str, str, Change]] = [
    ("sensor_media_item", "media.size_bytes", values(2**31 - 1, type_=pa.int32())),
    ("sensor_media_item", "media.size_bytes", values(-1, type_=pa.int8())),
    ("sensor_media_item", "media.size_bytes", values(2**32 - 1, type_=pa.uint32())),
    ("sensor_media_item", "media.size_bytes", values(2**63 - 1, type_=pa.uint64())),
    ("sensor_media_item", "media.size_bytes", values(None, type_=pa.uint64())),
    ("sensor_media_item", "media.width_px", values(1920, type_=pa.int16())),
    ("sensor_media_item", "media.width_px", values(192, type_=pa.uint8())),
    ("sensor_media_item", "media.width_px", values(65_535, type_=pa.uint16())),
    ("sensor_media_item", "media.duration_s", values(1.5, type_=pa.float32())),
    ("sensor_media_item", "media.duration_s", values(1, type_=pa.int32())),
    ("sensor_deployment", "location.latitude", values(52, type_=pa.int16())),
    ("sensor_deployment", "location.latitude", values(52, type_=pa.uint32())),
    (RESULT, "region_groups[].regions[].box.x1", values(0.5, type_=pa.float32())),
    (RESULT, "predictions[].taxa.items[].probability", values(1, type_=pa.int32())),
    ("sensor", "name", cast(pa.large_string())),
    ("sensor", "name", cast(pa.string_view())),
    ("sensor", "name", lambda name, array: [(name, array.dictionary_encode())]),
    ("sensor", "owner.name", lambda name, array: [(name, array.dictionary_encode())]),
    ("sensor", "owner.name", cast(pa.large_string())),
    (RESULT, "media[].id", cast(pa.large_string())),
    (RESULT, "predictions[].taxa.items[].scientific_name", lambda name, array: [(name, array.dictionary_encode())]),
    ("sensor", "created_at", moment("s", "UTC", MICROS // 1_000_000)),
    ("sensor", "created_at", moment("ms", "UTC", MICROS // 1000)),
    ("sensor", "created_at", moment("us", None, MICROS)),
    ("sensor", "created_at", moment("us", "Europe/Amsterdam", MICROS)),
    ("sensor", "created_at", moment("us", "+02:00", MICROS)),
    ("sensor", "created_at", moment("ms", None, MICROS // 1000)),
    ("sensor", "created_at", moment("ns", "UTC", MICROS * 1000)),
    ("sensor", "created_at", moment("ns", None, MICROS * 1000)),
    ("sensor", "created_at", moment("ns", "Europe/Amsterdam", MICROS * 1000)),
    (RESULT, "generated_by.datetime", moment("ns", "UTC", MICROS * 1000)),
    (RESULT, "generated_by.datetime", moment("ns", None, MICROS * 1000)),
    ("sensor", "name", values(None, type_=pa.null())),
    ("sensor", "owner", values(None, type_=pa.null())),
    ("sensor", "created_at", values(None, type_=pa.null())),
    ("sensor_media_item", "media.size_bytes", values(None, type_=pa.null())),
    (RESULT, "media", values(None, type_=pa.null())),
    (RESULT, "media", values([], type_=pa.list_(pa.null()))),
    (RESULT, "region_groups[].regions", values([], type_=pa.list_(pa.null()))),
    (RESULT, "region_groups[].regions[].box", values(None, type_=pa.null())),
    (RESULT, "media", lambda name, array: [(name, array.cast(pa.large_list(array.type.value_type)))]),
    (RESULT, "media", lambda name, array: [(name, array.cast(pa.list_(array.type.value_type, 1)))]),
    (RESULT, "region_groups[].regions", lambda name, array: [(name, array.cast(pa.large_list(array.type.value_type)))]),
]


@pytest.mark.parametrize(("folder", "path", "change"), ACCEPTED)
def test_a_type_that_loses_nothing_is_taken(tmp_path: Path, folder: str, path: str, change: Change) -> None:
    with_edit(tmp_path, folder, path, change)
    inspection = inspect(tmp_path)
    assert inspection.violations == ()
    assert inspection.sources[folder][0].uri == f"{tmp_path}/staging/dsi/{DELIVERY}/{folder}/part-00000.parquet"
    assert inspection.sources[folder][0].rescued


# Folders and what lies about.


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_missing_folder(tmp_path: Path, folder: str) -> None:
    write(tmp_path, DELIVERY, **{folder: None})
    violation = the_violation(tmp_path)
    assert place(violation) == (ViolationKind.MISSING_FOLDER, folder, None, None)
    assert not violation.is_warning
    assert "one Parquet file or more" in violation.expected
    assert violation.found == "no such folder"


def test_an_empty_folder(tmp_path: Path) -> None:
    (write(tmp_path, DELIVERY, sensor=None) / "sensor").mkdir()
    violation = the_violation(tmp_path)
    assert place(violation) == (ViolationKind.EMPTY_FOLDER, "sensor", None, None)
    assert not violation.is_warning
    assert "may have no rows" in violation.expected


def test_a_folder_with_a_mark_alone_is_empty(tmp_path: Path) -> None:
    folder = write(tmp_path, DELIVERY, sensor=None) / "sensor"
    folder.mkdir()
    (folder / "_SUCCESS").touch()
    assert the_violation(tmp_path).kind is ViolationKind.EMPTY_FOLDER


def test_a_folder_of_other_files_is_empty_and_they_are_told(tmp_path: Path) -> None:
    folder = write(tmp_path, DELIVERY, sensor=None) / "sensor"
    folder.mkdir()
    (folder / "data.csv").write_text("id")
    empty, other = inspect(tmp_path).violations
    assert place(empty) == (ViolationKind.EMPTY_FOLDER, "sensor", None, None)
    assert "data.csv" in empty.found
    assert place(other) == (ViolationKind.UNEXPECTED_FILE, "sensor", "data.csv", None)


@pytest.mark.parametrize(
    ("path", "folder", "file"),
    [
        ("README.txt", ".", "README.txt"),
        ("camera/part-0.parquet", "camera", "part-0.parquet"),
        ("sensor/notes.csv", "sensor", "notes.csv"),
        ("sensor/sub/part-0.parquet", "sensor", "sub/part-0.parquet"),
    ],
)
def test_an_unexpected_file_is_a_warning(tmp_path: Path, path: str, folder: str, file: str) -> None:
    target = write(tmp_path, DELIVERY) / path
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(b"not even Parquet")
    violation = the_violation(tmp_path)
    assert place(violation) == (ViolationKind.UNEXPECTED_FILE, folder, file, None)
    assert violation.is_warning
    assert "sensor_deployment" in violation.expected


# Files.

WHOLE = bytes_of(table("sensor", [record("sensor", id=f"sensor-{number}") for number in range(50)]))
FOOTER = int.from_bytes(WHOLE[-8:-4], "little") + 8


def without(start: int, end: int) -> bytes:
    return WHOLE[:start] + WHOLE[end:]


@pytest.mark.parametrize(
    ("data", "kind", "found"),
    [
        (b"", ViolationKind.NOT_PARQUET, "0 bytes"),
        (b"P", ViolationKind.NOT_PARQUET, "b'P'"),
        (b"id,name\nsensor-1,Camera\n" * 10, ViolationKind.NOT_PARQUET, "b'id,n'"),
        (gzip.compress(WHOLE, mtime=0), ViolationKind.NOT_PARQUET, r"\x1f\x8b"),
        (WHOLE[:-4] + b"PARE", ViolationKind.UNREADABLE_PARQUET, "footer"),
        (b"PAR1", ViolationKind.TRUNCATED_PARQUET, "4 bytes"),
        (b"PAR1PAR1", ViolationKind.TRUNCATED_PARQUET, "8 bytes"),
        (b"PAR1\0\0\0\0PAR1", ViolationKind.UNREADABLE_PARQUET, "footer"),
        (WHOLE[:-1], ViolationKind.TRUNCATED_PARQUET, "no footer"),
        (WHOLE[: -FOOTER // 2], ViolationKind.TRUNCATED_PARQUET, "no footer"),
        (WHOLE[:-FOOTER], ViolationKind.TRUNCATED_PARQUET, f"{len(WHOLE) - FOOTER:,} bytes"),
        (WHOLE[: len(WHOLE) // 3], ViolationKind.TRUNCATED_PARQUET, "no footer"),
        (b"PAR1" + WHOLE[-100:], ViolationKind.TRUNCATED_PARQUET, f"a footer of {FOOTER:,} bytes in a file of 104"),
        (WHOLE[:-FOOTER] + b"\xff" * (FOOTER - 8) + WHOLE[-8:], ViolationKind.UNREADABLE_PARQUET, "footer"),
    ],
)
def test_a_file_that_is_no_whole_parquet(tmp_path: Path, data: bytes, kind: ViolationKind, found: str) -> None:
    write(tmp_path, DELIVERY, sensor=data)
    violation = the_violation(tmp_path)
    assert place(violation) == (kind, "sensor", FILE, None)
    assert violation.expected == "a whole Parquet file"
    assert found in violation.found
    assert not violation.is_warning
    assert inspect(tmp_path).sources["sensor"] == ()


@given(st.integers(0, len(WHOLE) - 1))
def test_wherever_a_file_was_cut_off(tmp_path_factory: pytest.TempPathFactory, size: int) -> None:
    root = tmp_path_factory.getbasetemp() / "cut"
    write(root, DELIVERY, sensor=WHOLE[:size])
    violation = the_violation(root)
    assert violation.kind is (ViolationKind.TRUNCATED_PARQUET if size >= 4 else ViolationKind.NOT_PARQUET)


@pytest.mark.parametrize(
    "noise",
    [bytes(FOOTER - 8), b"\xff" * (FOOTER - 8), WHOLE[-9 : -FOOTER - 1 : -1], (b"not thrift " * FOOTER)[: FOOTER - 8]],
    ids=["zeros", "ones", "reversed", "text"],
)
@pytest.mark.parametrize("start", [0, 1, FOOTER // 2])
def test_a_footer_that_can_not_be_read_is_reported_and_not_raised(tmp_path: Path, start: int, noise: bytes) -> None:
    # Not any noise: some single bytes make Arrow abort the whole process, and these tests with it.
    footer = WHOLE[-FOOTER:][:start] + noise[start:] + WHOLE[-8:]
    write(tmp_path, DELIVERY, sensor=WHOLE[:-FOOTER] + footer)
    violations = inspect(tmp_path).violations
    assert violations
    assert all(violation.folder == "sensor" and violation.file == FILE for violation in violations)


def test_damaged_values_that_are_looked_at_are_reported_and_not_raised(tmp_path: Path) -> None:
    nanoseconds = edit(table("sensor"), "created_at", moment("ns", "UTC", MICROS * 1000))
    data = bytearray(bytes_of(nanoseconds, compression="zstd"))
    chunk = next(
        chunk
        for chunk in map(pq.read_metadata(io.BytesIO(data)).row_group(0).column, range(nanoseconds.num_columns + 1))
        if chunk.path_in_schema == "created_at"
    )
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    write(tmp_path, DELIVERY, sensor=bytes(data))
    violation = the_violation(tmp_path)
    assert violation.kind is ViolationKind.UNREADABLE_PARQUET
    assert (violation.folder, violation.file) == ("sensor", FILE)


def test_only_the_broken_file_of_several_is_named(tmp_path: Path) -> None:
    delivery = write(tmp_path, DELIVERY)
    (delivery / "sensor" / "part-1.parquet").write_bytes(WHOLE[:-10])
    assert place(the_violation(tmp_path)) == (ViolationKind.TRUNCATED_PARQUET, "sensor", "part-1.parquet", None)
    assert [file.info.name for file in inspect(tmp_path).sources["sensor"]] == [FILE]


# Columns.


@pytest.mark.parametrize(("folder", "path"), FIELDS)
def test_a_missing_column_at_every_level(tmp_path: Path, folder: str, path: str) -> None:
    with_edit(tmp_path, folder, path, drop)
    violation = the_violation(tmp_path)
    name = path.rpartition(".")[2]
    assert place(violation) == (ViolationKind.MISSING_COLUMN, folder, FILE, path)
    assert not violation.is_warning
    assert violation.expected == f"{name} ({type_at(folder, path)})"
    assert violation.found.startswith("only ")
    assert name not in violation.found.removeprefix("only ").split(", ")
    assert inspect(tmp_path).sources[folder][0].uri == ""
    assert not (tmp_path / "staging").exists()


def test_a_file_without_columns(tmp_path: Path) -> None:
    write(tmp_path, DELIVERY, sensor=pa.table({}))
    violations = inspect(tmp_path).violations
    assert {place(violation) for violation in violations} == {
        (ViolationKind.MISSING_COLUMN, "sensor", FILE, field.name) for field in CONTRACT.folder("sensor").fields
    }


@pytest.mark.parametrize(
    ("folder", "path", "to"),
    [
        # A like name.
        ("sensor", "serial_number", "serialNumber"),
        ("sensor", "id", "ID"),
        ("sensor_media_item", "sensor_deployment_id", "deployment_id"),
        ("sensor_media_item", "media.size_bytes", "sizeBytes"),
        (RESULT, "region_groups", "regionGroups"),
        (RESULT, "media[].sensor_media_item_id", "media_item_id"),
        (RESULT, "predictions[].taxa.items[].scientific_name", "scientificName"),
        # The only one that is missing and the only one that isn't known.
        ("sensor", "model", "maker"),
        ("sensor_deployment", "habitat", "biotope"),
        (RESULT, "region_groups[].regions[].box.x1", "left"),
        (RESULT, "predictions", "guesses"),
        ("algorithm", "taxonomy", "names"),
    ],
)
def test_a_renamed_column(tmp_path: Path, folder: str, path: str, to: str) -> None:
    with_edit(tmp_path, folder, path, rename(to))
    violation = the_violation(tmp_path)
    assert place(violation) == (ViolationKind.RENAMED_COLUMN, folder, FILE, path)
    assert violation.expected == f"{path.rpartition('.')[2]} ({type_at(folder, path)})"
    assert violation.found.startswith(f"{to} (")
    assert not violation.is_warning


def test_renamed_columns_are_told_from_new_ones_by_their_names(tmp_path: Path) -> None:
    changed = edit(table("sensor"), "serial_number", rename("serial_no"))
    changed = edit(changed, "model", rename("Model"))
    changed = edit(changed, "name", beside("battery"))
    write(tmp_path, DELIVERY, sensor=changed)
    violations = inspect(tmp_path).violations
    assert {(*place(violation), violation.found.partition(" ")[0]) for violation in violations} == {
        (ViolationKind.RENAMED_COLUMN, "sensor", FILE, "serial_number", "serial_no"),
        (ViolationKind.RENAMED_COLUMN, "sensor", FILE, "model", "Model"),
        (ViolationKind.UNKNOWN_COLUMN, "sensor", FILE, "battery", "battery"),
    }


def test_a_like_name_of_another_type_was_not_renamed(tmp_path: Path) -> None:
    changed = edit(table("sensor"), "serial_number", lambda name, array: [("serial_no", pa.array([1.5]))])
    write(tmp_path, DELIVERY, sensor=changed)
    assert [place(violation) for violation in inspect(tmp_path).violations] == [
        (ViolationKind.MISSING_COLUMN, "sensor", FILE, "serial_number"),
        (ViolationKind.UNKNOWN_COLUMN, "sensor", FILE, "serial_no"),
    ]


@pytest.mark.parametrize(
    ("folder", "path"), [("sensor", "id"), ("sensor", "created_at"), ("sensor", "owner.name"), (RESULT, NESTED[0])]
)
def test_a_repeated_column(tmp_path: Path, folder: str, path: str) -> None:
    with_edit(tmp_path, folder, path, lambda name, array: [(name, array), (name, array)])
    violation = the_violation(tmp_path)
    assert place(violation) == (ViolationKind.REPEATED_COLUMN, folder, FILE, path)
    assert violation.expected == "one column of that name"
    assert violation.found == "two or more"
    assert not violation.is_warning


def test_a_repeated_column_beside_values_that_are_looked_at(tmp_path: Path) -> None:
    changed = edit(table("sensor"), "created_at", moment("ns", "UTC", MICROS * 1000))
    changed = edit(changed, "owner.name", lambda name, array: [(name, array), (name, array)])
    changed = edit(changed, "model", lambda name, array: [(name, array), (name, array)])
    write(tmp_path, DELIVERY, sensor=changed)
    assert {place(violation) for violation in inspect(tmp_path).violations} == {
        (ViolationKind.REPEATED_COLUMN, "sensor", FILE, "owner.name"),
        (ViolationKind.REPEATED_COLUMN, "sensor", FILE, "model"),
    }


@pytest.mark.parametrize(
    ("folder", "path", "shown"),
    [
        ("sensor", "name", "battery"),
        ("sensor", "owner.name", "owner.battery"),
        (RESULT, "media[].id", "media[].battery"),
        (RESULT, "region_groups[].regions[].box.x1", "region_groups[].regions[].box.battery"),
        (RESULT, "predictions[].taxa.items[].probability", "predictions[].taxa.items[].battery"),
    ],
)
def test_an_unknown_column_is_a_warning(tmp_path: Path, folder: str, path: str, shown: str) -> None:
    with_edit(tmp_path, folder, path, beside("battery", pa.array([{"volt": 3.7}])))
    inspection = inspect(tmp_path)
    violation = the_violation(tmp_path)
    assert place(violation) == (ViolationKind.UNKNOWN_COLUMN, folder, FILE, shown)
    assert violation.is_warning
    assert violation.expected == "only columns of the contract"
    assert "battery (struct<volt: double>)" in violation.found
    assert "_rescued" in violation.found
    assert inspection.errors == ()
    assert inspection.warnings == (violation,)
    assert inspection.sources[folder][0].uri == f"{tmp_path}/staging/dsi/{DELIVERY}/{folder}/part-00000.parquet"
    assert inspection.sources[folder][0].rescued


# Types.

WRONG: list[tuple[str, str, Change]] = [
    ("sensor", "name", values(1, type_=pa.int64())),
    ("sensor", "name", values(True, type_=pa.bool_())),
    ("sensor", "name", values(b"x", type_=pa.binary())),
    ("sensor", "name", values({"a": "b"}, type_=pa.struct([("a", pa.string())]))),
    ("sensor", "name", values(["a"], type_=pa.list_(pa.string()))),
    ("sensor", "name", values(Decimal("1.5"), type_=pa.decimal128(5, 2))),
    ("sensor", "owner.name", values(TIME, type_=pa.timestamp("us", tz="UTC"))),
    ("sensor", "owner", values("Zoë", type_=pa.string())),
    ("sensor", "owner", values([("id", "x")], type_=pa.map_(pa.string(), pa.string()))),
    ("sensor", "owner", lambda name, array: [(name, pa.array([array.to_pylist()]))]),
    ("sensor", "created_at", values("2026-01-31T06:00:00Z", type_=pa.string())),
    ("sensor", "created_at", values(TIME.date(), type_=pa.date32())),
    ("sensor", "created_at", values(MICROS, type_=pa.int64())),
    ("sensor", "created_at", values(1.5, type_=pa.float64())),
    ("sensor_media_item", "media.size_bytes", values("3000000", type_=pa.string())),
    ("sensor_media_item", "media.width_px", values(True, type_=pa.bool_())),
    ("sensor_deployment", "location.latitude", values("52.1", type_=pa.string())),
    (RESULT, "generated_by", values("service", type_=pa.string())),
    (RESULT, "generated_by.datetime", values("2026-01-31", type_=pa.string())),
    (RESULT, "media", lambda name, array: [(name, array.flatten())]),
    (RESULT, "media", values(["m1"], type_=pa.list_(pa.string()))),
    (RESULT, "media", values('[{"id": "m1"}]', type_=pa.string())),
    (RESULT, "media", values([("m1", "item-1")], type_=pa.map_(pa.string(), pa.string()))),
    (RESULT, "media[].id", values(1, type_=pa.int32())),
    (RESULT, "region_groups[].regions", values("[]", type_=pa.string())),
    (RESULT, "region_groups[].regions[].box", values([0.0, 1.0], type_=pa.list_(pa.float64()))),
    (RESULT, "region_groups[].regions[].box.x1", values("0", type_=pa.string())),
    (RESULT, "predictions[].taxa.items[].probability", values("0.5", type_=pa.string())),
]


@pytest.mark.parametrize(("folder", "path", "change"), WRONG)
def test_a_wrong_type(tmp_path: Path, folder: str, path: str, change: Change) -> None:
    seen: list[pa.DataType] = []

    def noted(name: str, array: pa.Array) -> list[tuple[str, pa.Array]]:
        changed = change(name, array)
        seen.append(changed[0][1].type)
        return changed

    with_edit(tmp_path, folder, path, noted)
    violation = the_violation(tmp_path)
    assert place(violation) == (ViolationKind.WRONG_TYPE, folder, FILE, path)
    assert violation.expected == type_at(folder, path)
    assert not violation.is_warning
    assert inspect(tmp_path).sources[folder][0].uri == ""
    assert not (tmp_path / "staging").exists()
    if not pa.types.is_nested(seen[0]):
        assert violation.found == str(seen[0])


LOSSY: list[tuple[str, str, Change, str]] = [
    # By its type alone, whatever its values.
    ("sensor_media_item", "media.width_px", values(1, type_=pa.int64()), "int64"),
    ("sensor_media_item", "media.width_px", values(1, type_=pa.uint32()), "uint32"),
    ("sensor_media_item", "media.width_px", values(1.0, type_=pa.float64()), "double"),
    ("sensor_media_item", "media.size_bytes", values(1.0, type_=pa.float64()), "double"),
    ("sensor_media_item", "media.size_bytes", values(1.0, type_=pa.float32()), "float"),
    ("sensor_media_item", "media.size_bytes", values(Decimal(1), type_=pa.decimal128(20, 0)), "decimal128(20, 0)"),
    ("sensor_deployment", "location.latitude", values(1, type_=pa.int64()), "int64"),
    ("sensor_deployment", "location.latitude", values(1, type_=pa.uint64()), "uint64"),
    ("sensor_deployment", "location.latitude", values(Decimal("1.5"), type_=pa.decimal128(9, 6)), "decimal128(9, 6)"),
    (RESULT, "region_groups[].regions[].box.x1", values(1, type_=pa.int64()), "int64"),
    (RESULT, "predictions[].taxa.items[].probability", values(Decimal("0.5"), type_=pa.decimal128(3, 2)), "decimal"),
    # By a value that it holds.
    ("sensor_media_item", "media.size_bytes", values(2**63, type_=pa.uint64()), "9223372036854775808"),
    ("sensor", "created_at", moment("ns", "UTC", MICROS * 1000 + 1), "timestamp[ns"),
    ("sensor", "created_at", moment("ns", None, MICROS * 1000 + 999), "timestamp[ns"),
    ("sensor", "created_at", moment("ns", "Europe/Amsterdam", MICROS * 1000 + 1), "timestamp[ns"),
    ("sensor", "created_at", moment("ms", "UTC", 2**62), "timestamp[ms"),
    ("sensor_deployment", "end_at", moment("ns", "UTC", -1), "timestamp[ns"),
    (RESULT, "generated_by.datetime", moment("ns", "UTC", MICROS * 1000 + 1), "timestamp[ns"),
    (RESULT, "generated_by.datetime", moment("ns", None, MICROS * 1000 + 1), "timestamp[ns"),
]


@pytest.mark.parametrize(("folder", "path", "change", "found"), LOSSY)
def test_a_type_that_would_lose_something(tmp_path: Path, folder: str, path: str, change: Change, found: str) -> None:
    with_edit(tmp_path, folder, path, change)
    violation = the_violation(tmp_path)
    assert place(violation) == (ViolationKind.LOSSY_TYPE, folder, FILE, path)
    assert violation.expected == type_at(folder, path)
    assert found in violation.found
    assert not violation.is_warning
    assert inspect(tmp_path).sources[folder][0].uri == ""
    assert not (tmp_path / "staging").exists()


def test_one_lossy_value_among_many_is_found(tmp_path: Path) -> None:
    counts = [MICROS * 1000 + number * 1000 for number in range(1000)]
    counts[700] += 1
    many = table("sensor", [record("sensor", id=f"sensor-{number}") for number in range(1000)])
    data = bytes_of(
        edit(many, "created_at", lambda name, _: [(name, pa.array(counts, pa.timestamp("ns", "UTC")))]),
        row_group_size=100,
    )
    write(tmp_path, DELIVERY, sensor=data)
    assert place(the_violation(tmp_path)) == (ViolationKind.LOSSY_TYPE, "sensor", FILE, "created_at")


def test_nanoseconds_beside_nulls_and_in_null_structures(tmp_path: Path) -> None:
    exact = edit(table(RESULT), "generated_by.datetime", moment("ns", "UTC", MICROS * 1000))
    none = exact.slice(0, 0)
    missing = exact.set_column(4, "generated_by", pa.array([None], exact.schema.field("generated_by").type))
    for tables in ([exact, missing, exact], [missing], [none]):
        write(tmp_path, DELIVERY, **{RESULT: pa.concat_tables(tables)})
        assert inspect(tmp_path).violations == ()
    lossy = edit(table(RESULT), "generated_by.datetime", moment("ns", "UTC", 1))
    write(tmp_path, DELIVERY, **{RESULT: pa.concat_tables([missing, exact, lossy])})
    assert place(the_violation(tmp_path)) == (ViolationKind.LOSSY_TYPE, RESULT, FILE, "generated_by.datetime")


# Several.


def test_files_that_disagree(tmp_path: Path) -> None:
    right = table("sensor")
    write(
        tmp_path,
        DELIVERY,
        sensor=[right, edit(right, "model", drop), right, edit(right, "model", values(1, type_=pa.int8()))],
    )
    violations = inspect(tmp_path).violations
    assert [place(violation) for violation in violations] == [
        (ViolationKind.MISSING_COLUMN, "sensor", "part-1.parquet", "model"),
        (ViolationKind.WRONG_TYPE, "sensor", "part-3.parquet", "model"),
        (ViolationKind.FILES_DISAGREE, "sensor", "part-1.parquet, part-3.parquet", "model"),
    ]
    assert violations[-1].expected == "the same as in part-0.parquet, part-2.parquet"
    assert violations[-1].found == "missing column, wrong type"
    assert not violations[-1].is_warning


def test_files_that_are_wrong_alike_do_not_disagree(tmp_path: Path) -> None:
    wrong = edit(table("sensor"), "model", drop)
    write(tmp_path, DELIVERY, sensor=[wrong, wrong])
    assert [violation.kind for violation in inspect(tmp_path).violations] == [ViolationKind.MISSING_COLUMN] * 2


def test_files_whose_values_disagree(tmp_path: Path) -> None:
    whole, lossy = (edit(table("sensor"), "created_at", moment("ns", "UTC", count)) for count in (1000, 1001))
    write(tmp_path, DELIVERY, sensor=[whole, lossy])
    assert [place(violation) for violation in inspect(tmp_path).violations] == [
        (ViolationKind.LOSSY_TYPE, "sensor", "part-1.parquet", "created_at"),
        (ViolationKind.FILES_DISAGREE, "sensor", "part-1.parquet", "created_at"),
    ]


def test_files_may_differ_in_what_can_be_taken(tmp_path: Path) -> None:
    right = table("sensor_media_item")
    write(
        tmp_path,
        DELIVERY,
        sensor_media_item=[
            right,
            edit(right, "media.size_bytes", values(1, type_=pa.int32())),
            edit(right, "captured_at", moment("ns", None, 1000)),
            edit(right, "media", values(None, type_=pa.null())),
        ],
    )
    assert inspect(tmp_path).violations == ()


def test_all_violations_are_found_at_once_errors_first(tmp_path: Path) -> None:
    results = edit(table(RESULT), "predictions[].taxa.items[].probability", values("0.5", type_=pa.string()))
    results = edit(results, "generated_by.datetime", moment("ns", "UTC", 1))
    results = edit(results, "media[].id", drop)
    results = edit(results, "id", beside("note"))
    delivery = write(
        tmp_path,
        DELIVERY,
        algorithm=None,
        sensor=WHOLE[:-1],
        sensor_deployment=edit(table("sensor_deployment"), "sensor_id", drop),
        sensor_media_item=edit(table("sensor_media_item"), "media.size_bytes", values(2**63, type_=pa.uint64())),
        **{RESULT: results},
    )
    (delivery / "README.txt").write_text("read me")
    inspection = inspect(tmp_path)
    assert {place(violation) for violation in inspection.errors} == {
        (ViolationKind.MISSING_FOLDER, "algorithm", None, None),
        (ViolationKind.TRUNCATED_PARQUET, "sensor", FILE, None),
        (ViolationKind.MISSING_COLUMN, "sensor_deployment", FILE, "sensor_id"),
        (ViolationKind.LOSSY_TYPE, "sensor_media_item", FILE, "media.size_bytes"),
        (ViolationKind.WRONG_TYPE, RESULT, FILE, "predictions[].taxa.items[].probability"),
        (ViolationKind.LOSSY_TYPE, RESULT, FILE, "generated_by.datetime"),
        (ViolationKind.MISSING_COLUMN, RESULT, FILE, "media[].id"),
    }
    assert {place(violation) for violation in inspection.warnings} == {
        (ViolationKind.UNKNOWN_COLUMN, RESULT, FILE, "note"),
        (ViolationKind.UNEXPECTED_FILE, ".", "README.txt", None),
    }
    assert inspection.violations == inspection.errors + inspection.warnings
    assert len(set(inspection.violations)) == len(inspection.violations) == 9
    assert inspection.sources[RESULT][0].uri == ""


# On S3.


def test_s3_is_asked_once_for_each_file(tmp_path: Path, s3_root: str, s3_server: str) -> None:
    many = table("sensor", [record("sensor", name=os.urandom(200).hex()) for _ in range(1000)])
    write(tmp_path, DELIVERY, sensor=[many, many, many])
    folder, landing = DataLake.at(str(tmp_path)), DataLake.at(s3_root, endpoint=s3_server)
    for file in folder.walk():
        landing.write(file.path, folder.read(file.path))
    contents = list_delivery(landing, CONTRACT, DELIVERY)
    sent: list[str] = []
    landing._s3.meta.events.register("before-send.s3", lambda request, **_: sent.append(request.url))  # type: ignore[attr-defined]
    inspection = read_delivery(landing, CONTRACT, contents)
    assert inspection.violations == ()
    assert inspection.rows["sensor"] == 3000
    assert len(sent) == len(contents.all_files)


def test_s3_has_the_same_violations_as_a_folder(tmp_path: Path, s3_root: str, s3_server: str) -> None:
    write(
        tmp_path,
        DELIVERY,
        algorithm=None,
        sensor=b"",
        sensor_deployment=WHOLE[:-1],
        sensor_media_item=edit(table("sensor_media_item"), "captured_at", moment("ns", "UTC", 1)),
    )
    folder, landing = DataLake.at(str(tmp_path)), DataLake.at(s3_root, endpoint=s3_server)
    for file in folder.walk():
        landing.write(file.path, folder.read(file.path))
    violations = read_delivery(landing, CONTRACT, list_delivery(landing, CONTRACT, DELIVERY)).violations
    assert violations == inspect(tmp_path).violations
    assert len(violations) == 4
