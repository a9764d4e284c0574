"""Writing one partition of a Delta table: exactly that one, repeatable, and safe beside other writers."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import deltalake
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DoubleType, IntegerType, StringType, StructField, StructType

from biocloud_assets.errors import TableError, is_transient
from biocloud_assets.lake import DataLake
from biocloud_assets.spark import delta, delta_log, table_reader
from biocloud_assets.spark.session import get_session

PATH = "raw/test/table"
SCHEMA = StructType(
    [
        StructField("id", StringType()),
        StructField("number", IntegerType()),
        StructField("nested", StructType([StructField("x", DoubleType())])),
        StructField("part", StringType()),
    ]
)


@pytest.fixture(scope="module")
def spark() -> SparkSession:
    return get_session("sail")


@pytest.fixture
def lake(tmp_path: Path) -> DataLake:
    return DataLake.at(str(tmp_path / "lake"))


def rows(spark: SparkSession, *ids: str) -> DataFrame:
    nested = F.from_json(F.lit('{"x": 0.5}'), "struct<x: double>")
    frames = [
        spark.range(1).select(F.lit(name).alias("id"), F.lit(1).cast("int").alias("number"), nested.alias("nested"))
        for name in ids
    ]
    first, *others = frames
    for other in others:
        first = first.unionByName(other)
    return first


def replace(
    spark: SparkSession, lake: DataLake, new: DataFrame | None, value: str, *, catalog: str | None = None
) -> None:
    delta.replace_partition(spark, lake, PATH, new, SCHEMA, "part", value, catalog=catalog)


@pytest.fixture(params=[None, "sail"], ids=["by path", "by name"])
def catalog(request: pytest.FixtureRequest, spark: SparkSession) -> Iterator[str | None]:
    """No catalog, or the one that Sail has in memory."""
    yield request.param
    if request.param is not None:
        spark.sql(f"DROP TABLE IF EXISTS {table_reader.quoted_name(PATH, request.param)}")


def ids(lake: DataLake) -> dict[str, list[str]]:
    """The ids in each partition."""
    table = delta_log.open_table(lake, PATH)
    assert table is not None
    found: dict[str, list[str]] = {}
    for row in table.to_pyarrow_table().to_pylist():
        found.setdefault(row["part"], []).append(row["id"])
    return {part: sorted(names) for part, names in found.items()}


def test_exactly_the_rows_of_one_partition_are_replaced(
    spark: SparkSession, lake: DataLake, catalog: str | None
) -> None:
    replace(spark, lake, rows(spark, "a", "b"), "one", catalog=catalog)
    replace(spark, lake, rows(spark, "c"), "two", catalog=catalog)
    assert ids(lake) == {"one": ["a", "b"], "two": ["c"]}
    replace(spark, lake, rows(spark, "d"), "one", catalog=catalog)
    assert ids(lake) == {"one": ["d"], "two": ["c"]}
    replace(spark, lake, None, "one", catalog=catalog)
    assert ids(lake) == {"two": ["c"]}


def test_the_same_rows_twice_leave_the_same_table(spark: SparkSession, lake: DataLake, catalog: str | None) -> None:
    for _ in range(2):
        replace(spark, lake, rows(spark, "a"), "one", catalog=catalog)
    assert ids(lake) == {"one": ["a"]}


@pytest.mark.parametrize("value", ["it's", "a\\b", "' OR 1=1 --", "%", "ü 🦊", "a=b"])
def test_the_value_of_a_partition_may_have_any_characters(
    spark: SparkSession, lake: DataLake, value: str, catalog: str | None
) -> None:
    replace(spark, lake, rows(spark, "a"), "other", catalog=catalog)
    for name in ("b", "c"):
        replace(spark, lake, rows(spark, name), value, catalog=catalog)
    assert ids(lake) == {"other": ["a"], value: ["c"]}


def test_doubles_have_no_statistics_and_other_columns_do(spark: SparkSession, lake: DataLake) -> None:
    """Statistics leave NaN out, so an engine that trusts them reads NaN as a number."""
    replace(spark, lake, rows(spark, "a"), "one")
    table = delta_log.open_table(lake, PATH)
    assert table is not None
    names = pa.RecordBatchReader.from_stream(table.get_add_actions(flatten=True)).read_all().column_names
    assert "min.id" in names
    assert not [name for name in names if name.startswith(("min.nested", "max.nested"))]


def test_a_table_that_lacks_a_column_gets_it_and_keeps_its_rows(
    spark: SparkSession, lake: DataLake, catalog: str | None
) -> None:
    older = pa.table({"id": ["old"], "part": ["zero"]})
    deltalake.write_deltalake(lake.uri(PATH), older, partition_by=["part"])
    replace(spark, lake, rows(spark, "a"), "one", catalog=catalog)
    assert ids(lake) == {"zero": ["old"], "one": ["a"]}


@pytest.mark.parametrize(
    ("column", "type_", "found"),
    [("number", pa.string(), "string"), ("nested", pa.struct([("x", pa.int32())]), "int>")],
)
def test_a_table_of_other_types_is_refused_and_left_as_it_is(
    spark: SparkSession, lake: DataLake, column: str, type_: pa.DataType, found: str
) -> None:
    schema = pa.schema([("id", pa.string()), (column, type_), ("part", pa.string())])
    deltalake.write_deltalake(lake.uri(PATH), schema.empty_table(), partition_by=["part"])
    with pytest.raises(TableError, match=f"{PATH}: expected {column}: .*found {column}: .*{found}.*Migrate the table"):
        replace(spark, lake, rows(spark, "a"), "one")
    assert delta_log.version(lake, PATH) == 0


def test_rows_of_other_types_are_refused_by_the_engine(spark: SparkSession, lake: DataLake) -> None:
    replace(spark, lake, rows(spark, "a"), "one")
    with pytest.raises(Exception, match="same data type per column"):
        replace(spark, lake, rows(spark, "b").withColumn("number", F.lit("1")), "one")
    assert ids(lake) == {"one": ["a"]}


# Writers at the same time.


def test_writers_that_create_and_fill_one_table_at_once_all_succeed(spark: SparkSession, lake: DataLake) -> None:
    failures: list[BaseException] = []
    start = threading.Barrier(6)

    def write(number: int) -> None:
        try:
            start.wait()
            for name in ("first", "second"):
                replace(spark, lake, rows(spark, f"{name} {number}"), f"part {number}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert ids(lake) == {f"part {number}": [f"second {number}"] for number in range(6)}


_WRITER = """
import sys
from biocloud_assets.lake import DataLake
from biocloud_assets.spark import delta
from biocloud_assets.spark.session import get_session
from tests.spark.test_delta import replace, rows
lake, part = DataLake.at(sys.argv[1]), sys.argv[2]
spark = get_session("sail")
print("ready", flush=True)
sys.stdin.readline()
for number in range(4):
    replace(spark, lake, rows(spark, f"{part} {number}"), part)
"""


def test_processes_that_create_and_fill_one_table_at_once_all_succeed(lake: DataLake) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, lake.root, part],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for part in ("a", "b")
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.communicate("go\n")
    assert [process.returncode for process in processes] == [0, 0]
    assert ids(lake) == {"a": ["a 3"], "b": ["b 3"]}


def test_the_error_of_a_writer_that_lost_is_a_conflict(spark: SparkSession, lake: DataLake) -> None:
    """It is known by its message, because Sail has no class of its own for it."""
    replace(spark, lake, rows(spark, "a"), "0")
    errors: list[BaseException] = []

    def write(number: int, start: threading.Barrier) -> None:
        new = rows(spark, "x").withColumn("part", F.lit(str(number)))
        start.wait()
        try:
            new.write.format("delta").mode("overwrite").option("replaceWhere", f"part = '{number}'").save(
                lake.uri(PATH)
            )
        except BaseException as error:
            errors.append(error)

    for _ in range(50):
        start = threading.Barrier(4)
        threads = [threading.Thread(target=write, args=(number, start)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            break
    assert errors, "no writer has lost"
    for error in errors:
        assert delta.is_conflict(error), f"{type(error).__name__}: {error}"


@pytest.mark.parametrize(
    "message",
    [
        "table already exists",
        "[TABLE_OR_VIEW_ALREADY_EXISTS] Cannot create table because it already exists",
        "Schema `raw_dsi` already exists",
        "AnalysisException: path /lake/raw already exists",
        "File part-0.parquet already exists",
    ],
)
def test_something_that_already_exists_is_no_conflict(message: str) -> None:
    assert not delta.is_conflict(RuntimeError(message))


@pytest.mark.parametrize(
    "message",
    [
        "[DELTA_CONCURRENT_APPEND] ConcurrentAppendException: Files were added to the root of the table",
        "io.delta.exceptions.ConcurrentDeleteReadException",
        "[DELTA_METADATA_CHANGED] The metadata of the Delta table has been changed by a concurrent update",
        "io.delta.exceptions.ProtocolChangedException: The protocol version of the Delta table has been changed",
        "Version 12 already exists",
        "Missing commit file: expected version 0, found 8",
    ],
)
def test_the_messages_of_delta_on_a_jvm_are_conflicts(message: str) -> None:
    assert delta.is_conflict(RuntimeError(message))


def test_other_errors_are_raised_at_once(spark: SparkSession, lake: DataLake, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[int] = []

    def fail(*_: object) -> None:
        attempts.append(1)
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(delta, "_ensure_table", fail)
    with pytest.raises(RuntimeError, match="the disk is full"):
        replace(spark, lake, rows(spark, "a"), "one")
    assert len(attempts) == 1


def test_a_table_has_a_name_in_unity_catalog() -> None:
    assert table_reader.table_name("raw/dsi/sensor", "main") == "main.raw_dsi.sensor"


def test_a_new_table_has_the_oldest_protocol_and_no_feature_by_a_default(
    spark: SparkSession, lake: DataLake, catalog: str | None
) -> None:
    replace(spark, lake, rows(spark, "a"), "one", catalog=catalog)
    table = deltalake.DeltaTable(lake.uri(PATH))
    protocol = table.protocol()
    assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 2)
    assert not protocol.reader_features
    assert not protocol.writer_features
    assert delta.PROPERTIES.items() <= table.metadata().configuration.items()


def test_with_a_catalog_the_table_is_an_external_one_at_its_path(spark: SparkSession, lake: DataLake) -> None:
    replace(spark, lake, rows(spark, "a"), "one", catalog="sail")
    try:
        assert [row["id"] for row in spark.table("sail.raw_test.table").collect()] == ["a"]
        assert ids(lake) == {"one": ["a"]}
    finally:
        spark.sql("DROP TABLE sail.raw_test.table")
    assert ids(lake) == {"one": ["a"]}, "an external table keeps its files"


def test_a_table_that_was_written_by_its_path_is_continued_by_its_name(
    spark: SparkSession, lake: DataLake, catalog: str | None
) -> None:
    replace(spark, lake, rows(spark, "a"), "one")
    assert delta.read_table(spark, lake, PATH, catalog=catalog).count() == 1
    replace(spark, lake, rows(spark, "b"), "two", catalog=catalog)
    assert ids(lake) == {"one": ["a"], "two": ["b"]}
    version = delta_log.version(lake, PATH)
    assert version is not None
    assert delta.read_table(spark, lake, PATH, catalog=catalog, version=version - 1).count() == 1


def test_a_version_that_sail_cannot_read_after_a_checkpoint_is_worth_a_repetition(
    spark: SparkSession, lake: DataLake
) -> None:
    """Sail writes a checkpoint with every tenth commit; a snapshot that was taken before is taken anew."""
    for number in range(12):
        replace(spark, lake, rows(spark, "a"), str(number))
    with pytest.raises(Exception, match="Missing commit file") as raised:
        delta.read_table(spark, lake, PATH, version=5).count()
    assert is_transient(raised.value)


def alter(lake: DataLake, feature: str) -> None:
    """Add a table feature to a table's protocol, as ALTER TABLE on Databricks does."""
    readers = {"typeWidening", "vacuumProtocolCheck", "catalogManaged", "deletionVectors", "columnMapping"}
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "writerFeatures": [feature, "appendOnly", "invariants"]}
    protocol["readerFeatures"] = [feature] if feature in readers else []
    number = (delta_log.version(lake, PATH) or 0) + 1
    lake.write(f"{PATH}/_delta_log/{number:020}.json", json.dumps({"protocol": protocol}).encode())


@pytest.mark.parametrize(
    ("feature", "software"),
    [
        ("typeWidening", "delta-rs"),
        ("vacuumProtocolCheck", "delta-rs"),
        ("catalogManaged", "delta-rs"),
        ("rowTracking", "the engine sail"),
        ("clustering", "the engine sail"),
        ("checkpointProtection", "the engine sail"),
    ],
)
def test_a_table_with_a_feature_that_cannot_be_handled_is_refused_by_its_name(
    spark: SparkSession, lake: DataLake, feature: str, software: str
) -> None:
    replace(spark, lake, rows(spark, "a"), "one")
    alter(lake, feature)
    with pytest.raises(TableError, match=f"{PATH}: expected a table that {software} can .*found .* {feature}, which"):
        delta.require_writable(table_reader.DeltaRsReader(lake), lake, {"raw/test/none": SCHEMA, PATH: SCHEMA}, "sail")


@pytest.mark.parametrize("feature", ["deletionVectors", "columnMapping", "inCommitTimestamp"])
def test_a_table_with_a_feature_that_can_be_handled_is_written(
    spark: SparkSession, lake: DataLake, feature: str
) -> None:
    replace(spark, lake, rows(spark, "a"), "one")
    alter(lake, feature)
    delta.require_writable(table_reader.DeltaRsReader(lake), lake, {PATH: SCHEMA}, "sail")
    replace(spark, lake, rows(spark, "b"), "one")
    assert [row["id"] for row in delta.read_table(spark, lake, PATH).collect()] == ["b"]


class _Elsewhere(table_reader.DeltaRsReader):
    """A catalog in which a table of the name is at another place."""

    def detail(self, path: str) -> table_reader.Detail | None:
        return table_reader.Detail("s3://other/lake/raw/test/table", frozenset(), SCHEMA)


def test_a_table_that_the_catalog_has_at_another_place_is_refused(lake: DataLake) -> None:
    with pytest.raises(TableError, match=f"expected an external table at {lake.uri(PATH)}, found one at s3://other/"):
        delta.require_writable(_Elsewhere(lake), lake, {PATH: SCHEMA}, "databricks")


def test_a_table_that_the_catalog_has_in_another_lake_is_refused_though_it_is_written_by_name(
    spark: SparkSession, lake: DataLake, tmp_path: Path
) -> None:
    """The lake was moved, and the catalog still names the old one."""
    replace(spark, lake, rows(spark, "a"), "one", catalog="sail")
    moved = DataLake.at(str(tmp_path / "moved"))
    try:
        with pytest.raises(TableError, match=f"expected an external table at {moved.uri(PATH)}, found one at .*/lake/"):
            delta.require_writable(
                table_reader.DeltaRsReader(moved),
                moved,
                {PATH: SCHEMA},
                "sail",
                registered=lambda path: delta.registered_location(spark, path, "sail"),
            )
        assert delta.registered_location(spark, "raw/test/none", "sail") is None
    finally:
        spark.sql("DROP TABLE sail.raw_test.table")


def test_columns_that_are_not_written_are_refused_before_those_that_lack_are_added(
    spark: SparkSession, lake: DataLake
) -> None:
    schema = pa.schema([("id", pa.string()), ("gone", pa.string()), ("part", pa.string())])
    deltalake.write_deltalake(lake.uri(PATH), schema.empty_table(), partition_by=["part"])
    for write in (
        lambda: delta.require_writable(table_reader.DeltaRsReader(lake), lake, {PATH: SCHEMA}, "sail"),
        lambda: replace(spark, lake, rows(spark, "a"), "one"),
    ):
        with pytest.raises(TableError, match="expected gone: no such column, found gone: string"):
            write()
    assert delta_log.version(lake, PATH) == 0


@pytest.mark.parametrize("address", ["s3://bucket/lake/raw/test/table", "s3a://bucket/lake/raw/test/table/"])
def test_the_same_place_may_be_written_in_several_ways(address: str) -> None:
    assert delta._bare(address) == delta._bare("s3://bucket/lake/raw/test/table")
    assert delta._bare("file:/lake/raw") == delta._bare("/lake/raw") == delta._bare("file:///lake/raw")
