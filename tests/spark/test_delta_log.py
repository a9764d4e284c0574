"""Reading the log of a Delta table without an engine, in a folder and in S3."""

from __future__ import annotations

import deltalake
import pyarrow as pa
import pytest

from biocloud_assets.lake import DataLake
from biocloud_assets.spark import delta_log
from biocloud_assets.spark.delta_log import Version

PATH = "raw/test/table"


@pytest.fixture(params=["folder", "s3"])
def lake(request: pytest.FixtureRequest) -> DataLake:
    """An empty lake."""
    if request.param == "s3":
        return DataLake.at(request.getfixturevalue("s3_root"), endpoint=request.getfixturevalue("s3_server"))
    return DataLake.at(str(request.getfixturevalue("tmp_path") / "lake"))


def write(lake: DataLake, part: str, *ids: str) -> None:
    """Replace the rows of a partition."""
    quoted = part.replace("'", "''")
    rows = pa.table(
        {"id": list(ids), "part": [part] * len(ids)}, schema=pa.schema([("id", "string"), ("part", "string")])
    )
    options = {"allow_http": "true"} if lake.insecure else None
    if delta_log.exists(lake, PATH):
        deltalake.write_deltalake(
            lake.uri(PATH), rows, mode="overwrite", predicate=f"part = '{quoted}'", storage_options=options
        )
    else:
        deltalake.write_deltalake(lake.uri(PATH), rows, partition_by=["part"], storage_options=options)


def test_nothing_is_known_of_a_table_that_does_not_exist(lake: DataLake) -> None:
    lake.write("raw/test/tables/file", b"")
    assert delta_log.open_table(lake, PATH) is None
    assert not delta_log.exists(lake, PATH)
    assert delta_log.version(lake, PATH) is None
    assert delta_log.partition_values(lake, PATH, "part") == set()
    assert delta_log.partition_sizes(lake, PATH, "part") == ({}, -1)
    assert delta_log.changed_partitions(lake, PATH, "part", None) == (None, set())
    assert delta_log.read_rows(lake, PATH, "part", ["a"]) == {}


def test_a_commit_that_was_begun_makes_no_table(lake: DataLake) -> None:
    lake.write(f"{PATH}/_delta_log/00000000000000000000.json#1", b"{}")
    assert not delta_log.exists(lake, PATH)


def test_partitions_have_a_size_and_a_few_rows(lake: DataLake) -> None:
    write(lake, "a", *map(str, range(10)))
    write(lake, "b", "x")
    assert delta_log.exists(lake, PATH)
    assert delta_log.version(lake, PATH) == 1
    assert delta_log.partition_values(lake, PATH, "part") == {"a", "b"}
    sizes, version = delta_log.partition_sizes(lake, PATH, "part")
    files = [file for file in lake.walk(PATH) if file.name.endswith(".parquet") and "part=a" in file.path]
    assert (sizes["a"], version) == (sum(file.size for file in files), 1)
    found = delta_log.read_partition(lake, PATH, "part", "a", limit=3)
    assert (found.size, found.version, len(found.first_rows)) == (sizes["a"], 1, 3)
    assert set(found.first_rows[0]) == {"id", "part"}
    assert delta_log.read_partition(lake, PATH, "part", "none", limit=3).first_rows == []


def test_changed_partitions_are_those_whose_files_changed_since_a_version(lake: DataLake) -> None:
    write(lake, "a", "1")
    first, changed = delta_log.changed_partitions(lake, PATH, "part", None)
    assert first is not None
    assert changed == {"a"}
    assert delta_log.changed_partitions(lake, PATH, "part", first) == (first, set())
    write(lake, "b", "1")
    write(lake, "c", "1")
    second, changed = delta_log.changed_partitions(lake, PATH, "part", first)
    assert second == Version(first.table, 2)
    assert changed == {"b", "c"}
    write(lake, "b")
    assert delta_log.changed_partitions(lake, PATH, "part", second)[1] == set(), "an emptied one isn't among them"


@pytest.mark.parametrize("since", [Version("another table", 0), Version("", 99)])
def test_all_partitions_count_as_changed_since_a_version_that_is_not_in_the_history(
    lake: DataLake, since: Version
) -> None:
    write(lake, "a", "1")
    write(lake, "b", "1")
    now, changed = delta_log.changed_partitions(lake, PATH, "part", since)
    assert changed == {"a", "b"}
    assert now is not None
    assert delta_log.changed_partitions(lake, PATH, "part", Version(now.table, now.number + 1))[1] == {"a", "b"}


def test_rows_are_read_by_their_partition(lake: DataLake) -> None:
    write(lake, "a", "1")
    write(lake, "it's", "2")
    assert delta_log.read_rows(lake, PATH, "part", ["it's", "none"]) == {"it's": {"id": "2", "part": "it's"}}
    assert delta_log.read_rows(lake, PATH, "part", []) == {}
