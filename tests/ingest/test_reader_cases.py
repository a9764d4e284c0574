"""Files as other writers write them, and files that are damaged: accepted with the right values, or refused by name."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biocloud_assets.errors import LakeError
from biocloud_assets.ingest.delivery import list_delivery
from biocloud_assets.ingest.footers import open_parquet
from biocloud_assets.ingest.reader import read_delivery
from biocloud_assets.ingest.violations import Inspection, Violation, ViolationKind
from biocloud_assets.lake import DataLake, FileInfo
from biocloud_assets.lake.folder import FolderLake
from biocloud_assets.raw.dsi.contract import CONTRACT, RESULT
from biocloud_assets.schema import arrow_schema, walk
from tests.ingest import parquet_footer as footer
from tests.ingest.deliveries import DELIVERY, Change, edit, record, table, write
from tests.ingest.oracle import json_value

FILE = "part-0.parquet"
TIME = datetime(2026, 1, 30, 12, 30, 15, 123456, UTC)
"""The time in all records of these tests."""


def bytes_of(of: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(of, file, **options)
    return file.getvalue()


def inspected(root: Path) -> Inspection:
    landing, staging = DataLake.at(str(root)), DataLake.at(str(root / "staging"))
    return read_delivery(landing, CONTRACT, list_delivery(landing, CONTRACT, DELIVERY), staging=staging)


def accepted(root: Path, folder: str, file: pa.Table | bytes) -> list[dict[str, Any]]:
    """The rows that an engine gets of a file which is the only one of its folder."""
    data = file if isinstance(file, bytes) else bytes_of(file)
    write(root, DELIVERY, **{folder: data})
    inspection = inspected(root)
    assert inspection.errors == (), [str(error) for error in inspection.errors]
    (source,) = inspection.sources[folder]
    schema = arrow_schema(CONTRACT.folder(folder), rescued=source.rescued)
    assert pq.ParquetFile(source.uri).schema_arrow.equals(schema)
    rows: list[dict[str, Any]] = pq.read_table(source.uri).to_pylist()
    return rows if source.rescued else [row | {"_rescued": None} for row in rows]


def refused(root: Path, folder: str, file: pa.Table | bytes) -> Violation:
    """The one error of a file which is the only one of its folder; nothing of it is written."""
    data = file if isinstance(file, bytes) else bytes_of(file)
    write(root, DELIVERY, **{folder: data})
    inspection = inspected(root)
    (error,) = inspection.errors
    assert (error.folder, error.file) == (folder, FILE)
    assert len(str(error)) < 1000
    assert [source.uri for source in inspection.sources[folder]] in ([], [""])
    assert not (root / "staging").exists()
    return error


def result(**overrides: Any) -> dict[str, Any]:
    """The one record of results, as a copy holds it."""
    row = record(RESULT, **overrides)
    for path in ("media", "region_groups", "predictions"):
        for element in row[path] or []:
            element["_rescued"] = None
            for inner in element.get("regions") or (element.get("taxa") or {}).get("items") or []:
                inner["_rescued"] = None
    return row | {"_rescued": None}


SENSOR = record("sensor") | {"_rescued": None}


def to(type_: pa.DataType) -> Change:
    return lambda name, array: [(name, array.cast(type_))]


def replaced(values: list[Any], type_: pa.DataType) -> Change:
    return lambda name, array: [(name, pa.array(values, type_))]


# Names.

NAMES = [
    "part[1].parquet",
    "part%201.parquet",
    "{b}.parquet",
    "what?.parquet",
    "all*.parquet",
    "a b.parquet",
    "näme.parquet",
    "back\\slash.parquet",
    "quote'\".parquet",
    "#1&2;3.parquet",
]


def with_named_file(landing: DataLake, name: str) -> pa.Table:
    """Deliver a sensor in a file of a name, beside a file and one without rows; return what the engine gets of it."""
    for folder in CONTRACT.folders:
        landing.write(f"dsi/{DELIVERY}/{folder.name}/{FILE}", bytes_of(table(folder.name), store_schema=False))
    put(landing, f"dsi/{DELIVERY}/sensor/part1.parquet", bytes_of(table("sensor", []), store_schema=False))
    put(landing, f"dsi/{DELIVERY}/sensor/{name}", bytes_of(table("sensor", [record("sensor", id="s2")])))
    staging = DataLake.at(f"{landing.root}/staging")
    inspection = read_delivery(landing, CONTRACT, list_delivery(landing, CONTRACT, DELIVERY), staging=staging)
    assert inspection.violations == ()
    assert inspection.rows["sensor"] == 2
    uris = {source.info.name: source.uri for source in inspection.sources["sensor"]}
    assert uris["part1.parquet"] == landing.uri(f"dsi/{DELIVERY}/sensor/part1.parquet")
    path = uris[name].removeprefix(f"{staging.root}/")
    assert path.startswith(f"dsi/{DELIVERY}/sensor/part-0000")
    return pq.read_table(io.BytesIO(staging.read(path)))


@pytest.mark.parametrize("name", [*NAMES, "new\nline.parquet"])
def test_a_file_of_any_name_is_copied_to_a_safe_one(tmp_path: Path, name: str) -> None:
    assert with_named_file(DataLake.at(str(tmp_path)), name)["id"].to_pylist() == ["s2"]


@pytest.mark.parametrize("name", NAMES)
def test_an_object_of_any_name_is_copied_to_a_safe_one(s3_root: str, s3_server: str, name: str) -> None:
    assert with_named_file(DataLake.at(s3_root, endpoint=s3_server), name)["id"].to_pylist() == ["s2"]


def put(lake: DataLake, path: str, data: bytes) -> None:
    """Write a file under a name that `DataLake.write` refuses."""
    if lake.root.startswith("s3://"):
        bucket, _, prefix = lake.root.removeprefix("s3://").partition("/")
        lake._s3.put_object(Bucket=bucket, Key=f"{prefix}/{path}", Body=data)  # type: ignore[attr-defined]
    else:
        Path(lake.root, path).write_bytes(data)


def test_a_file_name_that_is_no_text_is_copied_and_shown_escaped(tmp_path: Path) -> None:
    sensor = write(tmp_path) / "sensor"
    Path(os.fsdecode(os.fsencode(sensor) + b"/caf\xe9.parquet")).write_bytes(
        bytes_of(table("sensor", [record("sensor", id="s2", type=None)]))
    )
    inspection = inspected(tmp_path)
    assert [violation.file for violation in inspection.violations] == ["caf\\xe9.parquet"]
    str(inspection.violations[0]).encode()
    assert pq.read_table(inspection.sources["sensor"][0].uri)["id"].to_pylist() == ["s2"]
    assert len(inspection.files.fingerprint) == 16


# Folders.


@pytest.mark.parametrize(
    "path",
    [
        "date=2026-01-30/part-1.parquet",
        "sub/deep/part-1.parquet",
        "PART-1.PARQUET",
        "part-1.pq",
        "part-1.parquet.tmp",
        "part-1.parquet.partial",
        "part-1",
        "_temporary/0/part-1.parquet",
    ],
)
def test_a_parquet_file_that_would_not_be_read_refuses_the_delivery(tmp_path: Path, path: str) -> None:
    file = write(tmp_path) / "sensor" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes_of(table("sensor", [record("sensor", id="s2")])))
    (error,) = inspected(tmp_path).violations
    assert (error.kind, error.folder, error.file) == (ViolationKind.MISPLACED_FILE, "sensor", path)
    assert not error.is_warning
    assert "sensor/*.parquet" in error.expected


@pytest.mark.parametrize(
    "path",
    ["_SUCCESS", "_metadata", "_common_metadata", f".{FILE}.crc", f"{FILE}.crc", "_committed_1", ".hidden.parquet"],
)
def test_marks_of_a_writer_are_ignored(tmp_path: Path, path: str) -> None:
    (write(tmp_path) / "sensor" / path).write_bytes(bytes_of(table("sensor")))
    assert inspected(tmp_path).violations == ()


@pytest.mark.parametrize("path", ["sensor_$folder$", "sensor/DONE", "sensor/sub_$folder$"])
def test_empty_files_that_mark_something_are_ignored(tmp_path: Path, path: str) -> None:
    (write(tmp_path) / path).touch()
    assert inspected(tmp_path).violations == ()


@pytest.mark.parametrize(
    ("format_", "path"),
    [
        ("Delta", "_delta_log/00000000000000000000.json"),
        ("Iceberg", "metadata/v1.metadata.json"),
        ("Iceberg", "metadata/snap-1.avro"),
        ("Hudi", ".hoodie/hoodie.properties"),
    ],
)
def test_a_folder_that_is_a_table_is_refused_with_the_reason(tmp_path: Path, format_: str, path: str) -> None:
    file = write(tmp_path) / "sensor" / path
    file.parent.mkdir()
    file.write_text("{}")
    (error,) = inspected(tmp_path).violations
    assert (error.kind, error.folder) == (ViolationKind.TABLE_FORMAT, "sensor")
    assert format_ in error.found
    assert "removed" in error.found
    assert not error.is_warning


def test_links_that_lead_back_are_followed_once(tmp_path: Path) -> None:
    delivery = write(tmp_path)
    (delivery / "sensor" / "loop").symlink_to(delivery / "sensor")
    (delivery / "sensor" / "up").symlink_to(delivery)
    (delivery / "self").symlink_to(delivery / "self")
    (delivery / "sensor" / "self.parquet").symlink_to(delivery / "sensor" / "self.parquet")
    assert [file.name for file in list_delivery(DataLake.at(str(tmp_path)), CONTRACT, DELIVERY).all_files] == [FILE] * 5
    assert inspected(tmp_path).violations == ()


def test_a_folder_that_is_a_link_is_read(tmp_path: Path) -> None:
    delivery = write(tmp_path)
    (delivery / "sensor").rename(tmp_path / "elsewhere")
    (delivery / "sensor").symlink_to(tmp_path / "elsewhere")
    assert inspected(tmp_path).rows["sensor"] == 1


@contextmanager
def an_ordinary_user() -> Iterator[None]:
    """No user who may read everything."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def test_a_folder_that_can_not_be_listed_is_named() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        sensor = write(root) / "sensor"
        sensor.chmod(0)
        landing = DataLake.at(name)
        with an_ordinary_user(), pytest.raises(LakeError, match=f"{sensor}: expected a folder that can be listed"):
            list_delivery(landing, CONTRACT, DELIVERY)
        sensor.chmod(0o755)


# Many columns, and deep ones.


@pytest.mark.parametrize("count", [50, 500, 1500])
@pytest.mark.parametrize("path", ["name", "region_groups[].regions[].media_id"])
def test_any_number_of_unknown_columns(tmp_path: Path, count: int, path: str) -> None:
    folder = "sensor" if path == "name" else RESULT
    new = [(f"unknown {number}", pa.array([number])) for number in range(count)]
    (row,) = accepted(tmp_path, folder, edit(table(folder), path, lambda name, array: [(name, array), *new]))
    kept = row["_rescued"] if folder == "sensor" else row["region_groups"][0]["regions"][0]["_rescued"]
    assert json.loads(kept) == {f"unknown {number}": number for number in range(count)}
    assert len(inspected(tmp_path).warnings) == count


def nested(depth: int, kind: str) -> pa.Array:
    value: Any = "deep"
    type_ = pa.string()
    for level in range(depth):
        if kind == "lists" or (kind == "both" and level % 2):
            value, type_ = [value], pa.list_(type_)
        else:
            value, type_ = {"in": value}, pa.struct([("in", type_)])
    return pa.array([value], type_)


@pytest.mark.parametrize("path", ["name", "region_groups[].regions[].media_id"])
@pytest.mark.parametrize("kind", ["structs", "lists", "both"])
@pytest.mark.parametrize("depth", [5, 20, 60])
def test_unknown_fields_of_any_depth(tmp_path: Path, depth: int, kind: str, path: str) -> None:
    folder = "sensor" if path == "name" else RESULT
    array = nested(depth, kind)
    (row,) = accepted(tmp_path, folder, edit(table(folder), path, lambda name, known: [(name, known), ("x", array)]))
    kept = row["_rescued"] if folder == "sensor" else row["region_groups"][0]["regions"][0]["_rescued"]
    assert json.loads(kept) == {"x": array.to_pylist()[0]}


def test_columns_deeper_than_a_reader_takes_are_refused_with_the_reason(tmp_path: Path) -> None:
    error = refused(tmp_path, "sensor", table("sensor").append_column("x", nested(250, "structs")))
    assert error.kind is ViolationKind.UNREADABLE_PARQUET
    assert "too deeply nested" in error.found


def test_a_million_elements_in_one_list_are_counted_and_copied(tmp_path: Path) -> None:
    medium = record(RESULT)["media"][0]
    elements = pa.array([medium], arrow_schema(CONTRACT.folder(RESULT)).field("media").type.value_type)
    media = pa.ListArray.from_arrays(pa.array([0, 1_000_000], pa.int32()), elements.take(pa.array([0] * 1_000_000)))
    of = edit(table(RESULT), "media", lambda name, _: [("unknown", pa.array([1])), (name, media)])
    write(tmp_path, analysis_group_result=of)
    inspection = inspected(tmp_path)
    assert inspection.errors == ()
    assert inspection.rows["analysis_group_result_media"] == 1_000_000
    copied = pq.read_table(inspection.sources[RESULT][0].uri)["media"]
    assert pc.list_value_length(copied).to_pylist() == [1_000_000]


# Layouts of other writers.


def required(type_: pa.DataType) -> pa.DataType:
    """A type in which no field and no element may be null."""
    if pa.types.is_struct(type_):
        return pa.struct([pa.field(field.name, required(field.type), nullable=False) for field in type_])
    if pa.types.is_list(type_):
        return pa.list_(pa.field("element", required(type_.value_type), nullable=False))
    return type_


def required_table(folder: str) -> pa.Table:
    fields = [
        pa.field(field.name, required(field.type), nullable=False) for field in arrow_schema(CONTRACT.folder(folder))
    ]
    return pa.Table.from_pylist([record(folder)], pa.schema(fields))


@pytest.mark.parametrize("folder", ["sensor", "sensor_deployment", "sensor_media_item"])
def test_required_fields_are_taken(tmp_path: Path, folder: str) -> None:
    assert accepted(tmp_path, folder, required_table(folder)) == [record(folder) | {"_rescued": None}]


def test_required_fields_in_a_null_structure_are_null(tmp_path: Path) -> None:
    owner = pa.struct([pa.field("id", pa.string(), nullable=False), pa.field("name", pa.string(), nullable=False)])
    of = edit(
        table("sensor", [record("sensor"), record("sensor", id="s2")]),
        "owner",
        replaced([None, {"id": "a", "name": "b"}], owner),
    )
    assert [row["owner"] for row in accepted(tmp_path, "sensor", of)] == [None, {"id": "a", "name": "b"}]


def test_required_list_elements_are_taken(tmp_path: Path) -> None:
    assert accepted(tmp_path, RESULT, required_table(RESULT)) == [result()]


def of_two_levels(elements: list[footer.Thrift]) -> list[footer.Thrift]:
    """Lists as parquet-avro writes them: the repeated group is the element."""
    kept: list[footer.Thrift] = []
    for element in elements:
        if footer.name_of(element) == "element":
            kept[-1] = kept[-1] | {footer.NAME: footer.text("array"), footer.CHILDREN: element[footer.CHILDREN]}
        else:
            kept.append(element)
    return kept


def of_repeated_groups(elements: list[footer.Thrift]) -> list[footer.Thrift]:
    """Lists as protobuf writes them: a repeated group and nothing around it."""
    kept: list[footer.Thrift] = []
    for element in elements:
        if footer.name_of(element) == "list":
            kept[-1] = footer.plain(kept[-1]) | {footer.REPETITION: footer.integer(footer.REPEATED)}
        elif footer.name_of(element) == "element":
            kept[-1] = kept[-1] | {footer.CHILDREN: element[footer.CHILDREN]}
        else:
            kept.append(element)
    return kept


@pytest.mark.parametrize("layout", [of_two_levels, of_repeated_groups])
def test_lists_of_other_layouts_are_taken(tmp_path: Path, layout: Any) -> None:
    file = bytes_of(required_table(RESULT), store_schema=False)
    assert accepted(tmp_path, RESULT, footer.with_schema(file, layout)) == [result()]


@pytest.mark.parametrize(("converted", "logical"), [(4, 4), (19, 12)], ids=["ENUM", "JSON"])
def test_a_string_that_is_called_an_enum_or_json_is_a_string(tmp_path: Path, converted: int, logical: int) -> None:
    names = {"type", "parameters", "model"}

    def annotate(elements: list[footer.Thrift]) -> list[footer.Thrift]:
        return [footer.annotated(e, converted, logical) if footer.name_of(e) in names else e for e in elements]

    file = footer.with_schema(bytes_of(table("sensor"), store_schema=False), annotate)
    assert accepted(tmp_path, "sensor", file) == [SENSOR]
    unknown = table("sensor").append_column("parameters", pa.array(["p"]))
    (row,) = accepted(tmp_path, "sensor", footer.with_schema(bytes_of(unknown, store_schema=False), annotate))
    assert (row["model"], row["_rescued"]) == ("X1", '{"parameters":"p"}')


@pytest.mark.parametrize("is_nested", [False, True])
def test_an_unknown_enum_that_is_not_utf_8_is_refused(tmp_path: Path, is_nested: bool) -> None:
    def annotate(elements: list[footer.Thrift]) -> list[footer.Thrift]:
        return [footer.annotated(e, 4, 4) if footer.name_of(e) == "mode" else e for e in elements]

    bad = b"\xff\xfe\xfd\xfc"
    name, array = ("modes", pa.array([[{"mode": bad}]])) if is_nested else ("mode", pa.array([bad]))
    file = bytes_of(table("sensor").append_column(name, array), store_schema=False)
    error = refused(tmp_path, "sensor", footer.with_schema(file, annotate))
    assert (error.kind, error.column) == (ViolationKind.LOSSY_TYPE, name)
    assert (error.expected, error.found) == ("values that can be kept as JSON", "Invalid UTF8 payload")


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lz4"},
        {"compression": "brotli"},
        {"column_encoding": {"id": "DELTA_BYTE_ARRAY"}, "use_dictionary": False},
    ],
)
def test_a_compression_or_encoding_that_not_every_engine_reads_is_copied(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    assert accepted(tmp_path, "sensor", bytes_of(table("sensor"), **options)) == [SENSOR]
    assert inspected(tmp_path).sources["sensor"][0].rescued


def test_a_known_column_that_pandas_wrote_as_a_category_of_numbers(tmp_path: Path) -> None:
    sizes = pa.array([1920]).cast(pa.int32()).dictionary_encode()
    of = edit(table("sensor_media_item"), "media.width_px", lambda name, _: [(name, sizes)])
    assert accepted(tmp_path, "sensor_media_item", of) == [record("sensor_media_item") | {"_rescued": None}]


@pytest.mark.parametrize(
    "path", [path for path, _ in walk(CONTRACT.folder(RESULT).fields) if path not in {"id", "algorithm_id"}]
)
def test_a_field_without_a_type_is_null_at_every_level(tmp_path: Path, path: str) -> None:
    of = edit(table(RESULT), path, lambda name, array: [(name, pa.nulls(len(array)))])
    expected: Any = result()
    *outer, last = path.replace("[]", ".[]").split(".")
    place = expected
    for step in outer:
        place = place[0] if step == "[]" else place[step]
    place[last] = None
    assert accepted(tmp_path, RESULT, of) == [expected]


@pytest.mark.parametrize(
    "name", ["", " ", "a.b", "a`b", '"', "\\", "new\nline", "é", "_rescued", "_delivery", "ID", "[]", "x" * 5000]
)
def test_a_field_of_an_odd_name_is_rescued(tmp_path: Path, name: str) -> None:
    (row,) = accepted(tmp_path, "sensor", table("sensor").append_column(name, pa.array([1])))
    assert json.loads(row["_rescued"]) == {name: 1}
    assert {field: row[field] for field in SENSOR if field != "_rescued"} == record("sensor")
    (row,) = accepted(
        tmp_path, "sensor", edit(table("sensor"), "owner.id", lambda n, a: [(n, a), (name, pa.array([1]))])
    )
    assert json.loads(row["_rescued"]) == {"owner": {name: 1}}
    assert all(len(str(warning)) < 1000 for warning in inspected(tmp_path).warnings)


def test_a_field_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    def rename(elements: list[footer.Thrift]) -> list[footer.Thrift]:
        return [e | {footer.NAME: footer.text(b"mod\xe9l")} if footer.name_of(e) == "model" else e for e in elements]

    error = refused(tmp_path, "sensor", footer.with_schema(bytes_of(table("sensor"), store_schema=False), rename))
    assert error.kind is ViolationKind.UNREADABLE_PARQUET


def test_two_fields_of_one_name_in_an_unknown_structure_are_refused(tmp_path: Path) -> None:
    twice = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    error = refused(tmp_path, "sensor", table("sensor").append_column("x", pa.array([[None]], pa.list_(twice.type))))
    assert (error.kind, error.column) == (ViolationKind.REPEATED_COLUMN, "x[].a")


# Times.


def micros(*values: Any) -> pa.Array:
    return pa.array(values, pa.timestamp("us", "UTC"))


EARLY, LATE = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC)


def test_timestamps_of_96_bits_are_exact_in_every_year(tmp_path: Path) -> None:
    times = [EARLY, datetime(1500, 1, 1, 0, 0, 0, 1, UTC), None, TIME, LATE]
    rows = [record("sensor", id=f"s{number}", created_at=time) for number, time in enumerate(times)]
    file = bytes_of(table("sensor", rows), use_deprecated_int96_timestamps=True, row_group_size=2)
    assert [row["created_at"] for row in accepted(tmp_path, "sensor", file)] == times


def test_timestamps_of_96_bits_beside_nanoseconds(tmp_path: Path) -> None:
    rows = [record("sensor", id=f"s{number}", created_at=time) for number, time in enumerate([EARLY, LATE])]
    int96 = bytes_of(table("sensor", rows), use_deprecated_int96_timestamps=True)
    nanos = edit(table("sensor"), "created_at", to(pa.timestamp("ns", "UTC")))
    delivery = write(tmp_path, sensor=int96)
    (delivery / "sensor" / "part-1.parquet").write_bytes(bytes_of(nanos))
    inspection = inspected(tmp_path)
    assert inspection.violations == ()
    times = [pq.read_table(source.uri)["created_at"].to_pylist() for source in inspection.sources["sensor"]]
    assert times == [[EARLY, LATE], [TIME]]


def test_timestamps_of_96_bits_in_lists_and_structures(tmp_path: Path) -> None:
    times = [LATE, None, EARLY]
    type_ = pa.list_(pa.struct([("at", pa.timestamp("us"))]))
    unknown = pa.array([[{"at": time.replace(tzinfo=None) if time else None} for time in times]], type_)
    of = table(RESULT, [record(RESULT, created_at=LATE)]).append_column("unknown", unknown)
    (row,) = accepted(tmp_path, RESULT, bytes_of(of, use_deprecated_int96_timestamps=True))
    assert row["created_at"] == LATE
    assert row["generated_by"]["datetime"] == TIME
    assert json.loads(row["_rescued"]) == {"unknown": json_value(unknown[0])}


@pytest.mark.parametrize("others", [[], [LATE]])
def test_nanoseconds_of_96_bits_are_lossy_in_a_known_column(tmp_path: Path, others: list[datetime]) -> None:
    file = int96_file(1, len(others))
    error = refused(tmp_path, "sensor", file)
    assert (error.kind, error.column) == (ViolationKind.LOSSY_TYPE, "created_at")


def int96_file(nanoseconds: int, late: int) -> bytes:
    """A sensor for each of some timestamps of 96 bits: one with nanoseconds, and some of the year 9999."""
    rows = [record("sensor", created_at=TIME), *[record("sensor", id="s2", created_at=LATE)] * late]
    file = bytes_of(
        table("sensor", rows).drop_columns(["updated_at"]).append_column("updated_at", pa.nulls(1 + late)),
        use_deprecated_int96_timestamps=True,
        use_dictionary=False,
        compression="none",
        write_statistics=False,
    )
    midnight = TIME.replace(hour=0, minute=0, second=0, microsecond=0)
    of_day = int((TIME - midnight).total_seconds() * 1_000_000) * 1000
    assert file.count(struct.pack("<Q", of_day)) == 1
    return file.replace(struct.pack("<Q", of_day), struct.pack("<Q", of_day + nanoseconds))


def test_a_time_that_is_in_no_year_from_1_to_9999_is_refused(tmp_path: Path) -> None:
    last = pa.array([253_402_318_799_000_000], pa.timestamp("us", "-05:00"))  # 9999-12-31T23:59:59-05:00
    before = pa.array([-62_135_596_800_000_001], pa.timestamp("us", "UTC"))  # in the year 0
    for array in (last, before):
        error = refused(tmp_path, "sensor", edit(table("sensor"), "created_at", lambda n, _, a=array: [(n, a)]))
        assert (error.kind, error.column) == (ViolationKind.LOSSY_TYPE, "created_at")
        assert error.expected == "timestamp of the years 1 to 9999 in UTC"
        assert error.found == "1 value outside, for instance in id 'sensor-1'"
    write(tmp_path, analysis_group_result=edit(table(RESULT), "generated_by.datetime", lambda n, _: [(n, last)]))
    assert inspected(tmp_path).errors[-1].column == "generated_by.datetime"


def test_the_first_and_the_last_time_are_taken(tmp_path: Path) -> None:
    write(tmp_path, sensor=[record("sensor", created_at=EARLY, updated_at=LATE)])
    inspection = inspected(tmp_path)
    assert inspection.violations == ()
    assert not inspection.sources["sensor"][0].rescued


SPARK_2 = {"org__apache__spark__version": "2.4.8"}
LEGACY = {"org__apache__spark__version": "3.5.1", "org__apache__spark__legacyDateTime": ""}
LEGACY_96 = {"org__apache__spark__version": "3.5.1", "org__apache__spark__legacyINT96": ""}


@pytest.mark.parametrize("marks", [SPARK_2, LEGACY, LEGACY_96])
def test_old_times_in_the_legacy_calendar_of_spark_are_refused_and_others_taken(
    tmp_path: Path, marks: dict[str, str]
) -> None:
    file = footer.with_metadata(bytes_of(table("sensor"), store_schema=False), **marks)
    assert accepted(tmp_path, "sensor", file) == [SENSOR]
    assert inspected(tmp_path).sources["sensor"][0].rescued
    old = table("sensor", [record("sensor", created_at=datetime(1500, 1, 1, tzinfo=UTC))])
    (tmp_path / "staging").rename(tmp_path / "before")
    error = refused(tmp_path, "sensor", footer.with_metadata(bytes_of(old, store_schema=False), **marks))
    assert (error.kind, error.column) == (ViolationKind.LOSSY_TYPE, "created_at")
    assert "legacy calendar" in error.found
    days = table("sensor").append_column("day", pa.array([-141_428], pa.int32()).cast(pa.date32()))
    error = refused(tmp_path, "sensor", footer.with_metadata(bytes_of(days, store_schema=False), **marks))
    assert (error.kind, error.column) == (ViolationKind.LOSSY_TYPE, "day")


def test_old_times_of_a_newer_spark_are_taken(tmp_path: Path) -> None:
    time = datetime(1500, 1, 1, tzinfo=UTC)
    file = bytes_of(table("sensor", [record("sensor", created_at=time)]), store_schema=False)
    marked = footer.with_metadata(file, org__apache__spark__version="3.5.1")
    assert [row["created_at"] for row in accepted(tmp_path, "sensor", marked)] == [time]
    assert not inspected(tmp_path).sources["sensor"][0].rescued


def test_an_unknown_time_that_no_calendar_has_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, "sensor", table("sensor").append_column("x", pa.array([2**62], pa.timestamp("ms"))))
    assert (error.kind, error.column) == (ViolationKind.LOSSY_TYPE, "x")


# Text.


def text_of(*values: bytes) -> pa.Array:
    """Strings of any bytes."""
    return pa.Array.from_buffers(pa.string(), len(values), pa.array(values, pa.binary()).buffers())


@pytest.mark.parametrize("bad", [b"Zo\xeb", b"\xed\xa0\x80", b"\xff"], ids=["Latin-1", "lone surrogate", "no text"])
@pytest.mark.parametrize("path", ["name", "owner.name", "unknown", "unknown[].x"])
def test_text_that_is_not_utf_8_is_refused_by_column(tmp_path: Path, bad: bytes, path: str) -> None:
    array = text_of(b"good", bad)
    rows = table("sensor", [record("sensor"), record("sensor", id="s2")])
    if path == "unknown":
        of = rows.append_column("unknown", array)
    elif path == "unknown[].x":
        elements = pa.StructArray.from_arrays([array], names=["x"])
        of = rows.append_column("unknown", pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), elements))
    else:
        of = edit(rows, path, lambda name, _: [(name, array)])
    for options in ({}, {"use_dictionary": False}, {"store_schema": False}):
        error = refused(tmp_path, "sensor", bytes_of(of, **options))
        assert (error.kind, error.column) == (ViolationKind.UNREADABLE_PARQUET, path)
        assert "UTF8" in error.found


def test_text_that_is_not_utf_8_among_many_rows_and_files_is_found(tmp_path: Path) -> None:
    rows = table("sensor", [record("sensor", id=f"s{number}") for number in range(5000)])
    names = text_of(*[b"x"] * 4999, b"\xe9")
    write(tmp_path, sensor=[rows, edit(rows, "name", lambda name, _: [(name, names)])])
    (error,) = inspected(tmp_path).errors
    assert (error.file, error.column) == ("part-1.parquet", "name")


# Damage.


def chunk_of(file: bytes, path: str) -> tuple[int, int]:
    """Where the data of a column begins and ends."""
    group = pq.read_metadata(io.BytesIO(file)).row_group(0)
    chunk = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == path)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    return start, start + chunk.total_compressed_size


LONG = table("sensor", [record("sensor", id=f"sensor-{number}", name="x" * 50 + str(number)) for number in range(2000)])


@pytest.mark.parametrize("path", ["name", "owner.name", "unknown"])
def test_a_damaged_page_is_refused_by_column(tmp_path: Path, path: str) -> None:
    file = bytearray(bytes_of(LONG.append_column("unknown", LONG["name"]), compression="snappy"))
    start, end = chunk_of(bytes(file), path)
    file[start:end] = b"\xff" * (end - start)
    error = refused(tmp_path, "sensor", bytes(file))
    assert (error.kind, error.column) == (ViolationKind.UNREADABLE_PARQUET, path)


def test_a_page_that_only_its_checksum_shows_to_be_damaged_is_refused(tmp_path: Path) -> None:
    options: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    at = bytes_of(LONG, **options).index(b"x" * 50 + b"1999")
    for with_checksum in (True, False):
        file = bytearray(bytes_of(LONG, write_page_checksum=with_checksum, **options))
        at = bytes(file).index(b"x" * 50 + b"1999")
        file[at] ^= 1
        if with_checksum:
            error = refused(tmp_path, "sensor", bytes(file))
            assert (error.kind, error.column) == (ViolationKind.UNREADABLE_PARQUET, "name")
        else:
            assert accepted(tmp_path, "sensor", bytes(file))[1999]["name"] == "y" + "x" * 49 + "1999"


def test_a_footer_that_tells_other_rows_than_there_are_is_refused(tmp_path: Path) -> None:
    def more(parsed: footer.Thrift) -> None:
        parsed[3] = (parsed[3][0], 3000)

    error = refused(tmp_path, "sensor", footer.with_footer(bytes_of(LONG), more))
    assert error.kind is ViolationKind.UNREADABLE_PARQUET


def test_a_footer_without_a_column_s_metadata_is_refused_and_the_process_lives(tmp_path: Path) -> None:
    """pyarrow's own way to look at such metadata ends the process."""

    def lose(parsed: footer.Thrift) -> None:
        del parsed[footer.ROW_GROUPS][1][1][0][1][1][1][4][3]

    error = refused(tmp_path, "sensor", footer.with_footer(bytes_of(LONG, store_schema=False), lose))
    assert error.kind is ViolationKind.UNREADABLE_PARQUET


def test_only_the_damaged_file_of_several_is_named(tmp_path: Path) -> None:
    file = bytearray(bytes_of(LONG, compression="snappy"))
    start, end = chunk_of(bytes(file), "id")
    file[start:end] = b"\xff" * (end - start)
    delivery = write(tmp_path)
    (delivery / "sensor" / "part-1.parquet").write_bytes(file)
    (error,) = inspected(tmp_path).violations
    assert (error.kind, error.file, error.column) == (ViolationKind.UNREADABLE_PARQUET, "part-1.parquet", "id")


WHOLE = bytes_of(
    table("sensor", [record("sensor", id=f"sensor-{number}") for number in range(50)]), write_page_checksum=True
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_damage_is_refused_or_harmless(tmp_path: Path, damage: list[tuple[int, int]]) -> None:
    file = bytearray(WHOLE)
    for at, byte in damage:
        file[at] = byte
    write(tmp_path, sensor=bytes(file))
    for violation in inspected(tmp_path).violations:
        assert (violation.folder, violation.file) == ("sensor", FILE)


# Errors of the storage.

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs a file of Linux that can be opened and not read")


def make_unreadable(stream: BinaryIO) -> None:
    """Put a file that the kernel can't read in the place of an open one: the memory of this process."""
    with Path("/proc/self/mem").open("rb") as memory:
        os.dup2(memory.fileno(), stream.fileno())


class _UnreadableLake(FolderLake):
    def open(self, file: FileInfo) -> BinaryIO:
        stream = super().open(file)
        make_unreadable(stream)
        return stream


@linux
def test_a_footer_that_the_storage_does_not_read_is_an_error_of_the_lake(tmp_path: Path) -> None:
    file = write(tmp_path) / "sensor" / FILE
    landing = _UnreadableLake(str(tmp_path))
    with pytest.raises(LakeError) as raised:
        read_delivery(landing, CONTRACT, list_delivery(landing, CONTRACT, DELIVERY))
    assert raised.value.thing in {str(file.parents[1] / folder.name / FILE) for folder in CONTRACT.folders}
    assert raised.value.transient


@linux
@pytest.mark.parametrize("folder", ["sensor", RESULT])
def test_values_that_the_storage_does_not_read_are_an_error_of_the_lake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    rows = table(folder, [record(folder, id=os.urandom(50).hex()) for _ in range(5000)])
    file = write(tmp_path, **{folder: rows}) / folder / FILE

    def open_then_fail(stream: BinaryIO, size: int, **options: str) -> Any:
        opened = open_parquet(stream, size, **options)
        if size == file.stat().st_size:
            make_unreadable(stream)
        return opened

    monkeypatch.setattr("biocloud_assets.ingest.file_reader.open_parquet", open_then_fail)
    with pytest.raises(LakeError, match="Input/output error") as raised:
        inspected(tmp_path)
    assert raised.value.thing == str(file)
    assert raised.value.transient
    assert not list((tmp_path / "staging").rglob("*.parquet"))


# Known columns.


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data())
def test_a_known_column_of_any_type_keeps_its_values_or_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    folder, path = data.draw(st.sampled_from(_KNOWN))
    type_, values = data.draw(st.sampled_from(_TYPES))
    drawn: list[Any] = []

    def change(name: str, array: pa.Array) -> list[tuple[str, pa.Array]]:
        drawn.append(pa.array(data.draw(st.lists(st.none() | values, min_size=3, max_size=3)), type_))
        return [(name, drawn[0])]

    of = edit(table(folder, [record(folder, id=f"r{number}") for number in range(3)]), path, change)
    write(tmp_path, **{folder: bytes_of(of, store_schema=data.draw(st.booleans()))})
    inspection = inspected(tmp_path)
    errors = [error for error in inspection.errors if error.kind is not ViolationKind.NULL_VALUE]
    if errors:
        assert {(error.folder, error.file, error.column) for error in errors} == {(folder, FILE, path)}
        assert inspection.sources[folder][0].uri == ""
        return
    copied = pq.read_table(inspection.sources[folder][0].uri).combine_chunks()
    column = copied.column(path.split(".")[0]).combine_chunks()
    for name in path.split(".")[1:]:
        column = pc.struct_field(column, name)
    assert column.to_pylist() == [_known_value(value, column.type) for value in drawn[0]]


def _known_value(scalar: pa.Scalar, type_: pa.DataType) -> Any:
    if not scalar.is_valid or not pa.types.is_timestamp(type_):
        return scalar.as_py()
    per_second = {"s": 1, "ms": 1000, "us": 10**6, "ns": 10**9}[scalar.type.unit]
    whole, rest = divmod(scalar.value * 10**6, per_second)
    assert rest == 0, "nanoseconds are not lost"
    return pa.scalar(whole, type_).as_py()


_KNOWN = [
    ("sensor", "name"),
    ("sensor", "owner.name"),
    ("sensor", "created_at"),
    ("sensor_media_item", "media.size_bytes"),
]
_KNOWN += [("sensor_media_item", "media.width_px"), ("sensor_deployment", "location.latitude")]

_TYPES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.string(), st.text()),
    (pa.large_string(), st.text()),
    (pa.dictionary(pa.int8(), pa.string()), st.sampled_from(["a", "b"])),
    (pa.binary(), st.binary()),
    (pa.bool_(), st.booleans()),
    *(
        (pa.type_for_alias(f"int{bits}"), st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1))
        for bits in (8, 16, 32, 64)
    ),
    *((pa.type_for_alias(f"uint{bits}"), st.integers(0, 2**bits - 1)) for bits in (8, 16, 32, 64)),
    (pa.float16(), st.floats(width=16, allow_nan=False)),
    (pa.float32(), st.floats(width=32, allow_nan=False)),
    (pa.float64(), st.floats(allow_nan=False)),
    (pa.decimal128(10, 2), st.decimals(-1000, 1000, places=2)),
    (pa.timestamp("s"), st.integers(-(10**11), 3 * 10**11)),
    (pa.timestamp("ms", "Europe/Amsterdam"), st.integers(-(10**14), 3 * 10**14)),
    (pa.timestamp("us", "UTC"), st.integers(-(10**17), 3 * 10**17)),
    (
        pa.timestamp("ns"),
        st.integers(-(2**63) + 1, 2**63 - 1) | st.integers(-(10**12), 10**12).map(lambda us: us * 1000),
    ),
    (pa.date32(), st.integers(-1000, 1000)),
    (pa.null(), st.none()),
    (pa.list_(pa.string()), st.lists(st.text(), max_size=2)),
    (pa.struct([("id", pa.string())]), st.fixed_dictionaries({"id": st.text()})),
]


# Interruption.


def test_an_interrupt_ends_the_pass_and_leaves_nothing_in_the_staging_folder_but_whole_files(tmp_path: Path) -> None:
    """It is interrupted when the first of many files is there; the process must end by itself, long before the last."""
    big = table("sensor", [record("sensor", id=f"s{number}", name="x" * 100) for number in range(20_000)])
    write(tmp_path, sensor=[big.append_column("unknown", big["id"])] * 20)
    code = """
import _thread, sys, threading
from pathlib import Path
from tests.ingest.test_reader_cases import inspected

root = Path(sys.argv[1])

def interrupt():
    while not any(root.glob("staging/**/*.parquet")):
        pass
    _thread.interrupt_main()

threading.Thread(target=interrupt, daemon=True).start()
try:
    inspected(root)
except KeyboardInterrupt:
    sys.exit(7)
"""
    top = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60, check=False, cwd=top)
    assert done.returncode == 7
    copies = list((tmp_path / "staging").rglob("*.parquet"))
    assert 0 < len(copies) < 20
    assert {pq.read_metadata(file).num_rows for file in copies} == {20_000}
