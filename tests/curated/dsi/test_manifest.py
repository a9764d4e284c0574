"""A manifest lists exactly the files below a path, in a folder and in S3."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biocloud_assets.curated.dsi.manifest import delete_manifest, write_manifest
from biocloud_assets.errors import LakeError, RunDateError
from biocloud_assets.lake import DataLake

DAY = date(2026, 1, 31)


def read(lake: DataLake, path: str = "dsi/2026-01-31") -> dict[str, Any]:
    document: dict[str, Any] = json.loads(lake.read(f"{path}/manifest.json"))
    return document


def test_it_lists_all_files_below_a_path_and_nothing_else(lake: DataLake) -> None:
    inside = {
        "dsi/2026-01-31/observation/part-00001.parquet": b"second",
        "dsi/2026-01-31/observation/part-00000.parquet": b"first",
        "dsi/2026-01-31/observation/deeper/manifest.json": b"not the manifest itself",
        "dsi/2026-01-31/readme": b"",
        "dsi/2026-01-31/Zoë & 大熊猫": b"x",
        "dsi/2026-01-31/observation/_publishing": b"not the marker itself",
    }
    outside = [
        "dsi/2026-01-31/_publishing",
        "dsi/2026-01-30/observation/part-00000.parquet",
        "dsi/2026-01-311/file",
        "dsi/file",
        "manifest.json",
    ]
    for path, content in inside.items():
        lake.write(path, content)
    for path in outside:
        lake.write(path, b"outside")
    manifest_ = write_manifest("dsi/2026-01-31", lake, DAY)
    manifest = read(lake)
    assert list(manifest) == ["write_date", "files", "details"]
    assert manifest["write_date"] == "2026-01-31"
    assert manifest["files"] == sorted(inside)
    assert manifest["details"] == [
        {"path": path, "size": len(inside[path]), "etag": hashlib.md5(inside[path]).hexdigest()}
        for path in sorted(inside)
    ]
    assert (manifest_.path, manifest_.write_date) == ("dsi/2026-01-31/manifest.json", DAY)
    assert (manifest_.files, manifest_.size, manifest_.written) == (len(inside), sum(map(len, inside.values())), True)
    assert manifest_.uri == f"{lake.root}/dsi/2026-01-31/manifest.json"


def test_a_second_manifest_changes_nothing_and_one_after_a_change_replaces_it(lake: DataLake) -> None:
    lake.write("dsi/day/file", b"one")
    write_manifest("dsi/day", lake, DAY)
    before = list(lake.walk())
    assert not write_manifest("dsi/day", lake, DAY).written
    assert list(lake.walk()) == before
    lake.write("dsi/day/file", b"two")  # of the same size
    assert write_manifest("dsi/day", lake, DAY).written
    assert read(lake, "dsi/day")["details"][0]["etag"] == hashlib.md5(b"two").hexdigest()
    assert write_manifest("dsi/day", lake, "2026-02-01").written
    assert read(lake, "dsi/day")["write_date"] == "2026-02-01"


def test_the_manifest_of_an_empty_folder_lists_nothing(lake: DataLake) -> None:
    write_manifest("dsi/nowhere", lake, DAY)
    assert read(lake, "dsi/nowhere") == {"write_date": "2026-01-31", "files": [], "details": []}
    write_manifest("", lake, DAY)
    assert json.loads(lake.read("manifest.json"))["files"] == ["dsi/nowhere/manifest.json"]


def test_a_dry_run_writes_nothing(lake: DataLake) -> None:
    lake.write("dsi/day/file", b"one")
    manifest_ = write_manifest("dsi/day", lake, DAY, dry_run=True)
    assert (manifest_.files, manifest_.size, manifest_.written) == (1, 3, False)
    assert [file.path for file in lake.walk()] == ["dsi/day/file"]


def test_it_can_be_deleted_twice(lake: DataLake) -> None:
    lake.write("dsi/day/file", b"one")
    write_manifest("dsi/day", lake, DAY)
    delete_manifest("dsi/day", lake)
    delete_manifest("dsi/day", lake)
    assert [file.path for file in lake.walk()] == ["dsi/day/file"]


@pytest.mark.parametrize("path", ["../out", "dsi/../../out", "/dsi", "dsi/", "dsi//day", "/", "."])
def test_no_path_leaves_the_root(lake: DataLake, path: str) -> None:
    lake.write("dsi/day/file", b"")
    with pytest.raises(LakeError, match="No path may leave its root"):
        write_manifest(path, lake, DAY)
    assert [file.path for file in lake.walk()] == ["dsi/day/file"]


@pytest.mark.parametrize("given_", ["2026-02-30", "20260131", "31-01-2026", "", None, 20260131, datetime.now(UTC)])
def test_a_run_date_that_is_no_date_is_refused_by_the_manifest(lake: DataLake, given_: Any) -> None:
    lake.write("dsi/day/file", b"")
    with pytest.raises(RunDateError, match="expected a date, or a real one as yyyy-mm-dd"):
        write_manifest("dsi/day", lake, given_)
    assert [file.path for file in lake.walk()] == ["dsi/day/file"]


NAME = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="/\\"), min_size=1, max_size=8)
PATHS = st.lists(NAME.filter(lambda name: name not in {".", ".."}), min_size=1, max_size=3).map("/".join)


@given(
    contents=st.dictionaries(PATHS, st.binary(max_size=20), max_size=8),
    day=st.dates(),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_it_matches_any_files_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, contents: dict[str, bytes], day: date
) -> None:
    lake = DataLake.at(str(tmp_path_factory.mktemp("lake")))
    written = {}
    for path, content in contents.items():
        try:
            lake.write(f"dsi/{path}", content)
            written[f"dsi/{path}"] = content
        except LakeError:  # a file where another path has a folder, or a name too long for a file system
            continue
    written.pop("dsi/manifest.json", None)
    write_manifest("dsi", lake, day)
    manifest = read(lake, "dsi")
    assert manifest["write_date"] == day.isoformat()
    assert manifest["files"] == sorted(written)
    assert {detail["path"]: detail["etag"] for detail in manifest["details"]} == {
        path: hashlib.md5(content).hexdigest() for path, content in written.items()
    }


def test_a_file_that_is_being_written_is_not_listed(tmp_path: Path) -> None:
    """A process that is killed while it writes into a folder leaves a file under another name."""
    lake = DataLake.at(str(tmp_path))
    lake.write("dsi/day/file", b"one")

    class KilledError(Exception):
        pass

    class Source:
        def __init__(self) -> None:
            self.pieces = [b"half"]

        def read(self, size: int = -1) -> bytes:
            if self.pieces:
                return self.pieces.pop()
            write_manifest("dsi/day", lake, DAY)
            raise KilledError

    with pytest.raises(KilledError):
        lake.write("dsi/day/other", Source())  # type: ignore[arg-type]
    assert read(lake, "dsi/day")["files"] == ["dsi/day/file"]


# --- many files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 1000, 1001, 2500])
def test_n_files_cost_a_list_request_for_each_thousand_and_one_put(
    s3: DataLake, requests: list[str], put: Callable[[str], None], count: int
) -> None:
    for number in range(count):
        put(f"dsi/day/{number:06}")
    assert write_manifest("dsi/day", s3, DAY).files == count
    assert requests == ["ListObjectsV2"] * max(1, -(-count // 1000)) + ["PutObject"]


_PROGRAM = """
import sys
from pathlib import Path
from biocloud_assets.curated.dsi.manifest import write_manifest
from biocloud_assets.lake import DataLake
root, endpoint, path = sys.argv[1:]
lake = DataLake.at(root, endpoint=endpoint)
requests = []
lake._s3.meta.events.register("before-call.s3", lambda model, **_: requests.append(model.name))
manifest_ = write_manifest(path, lake, "2026-01-31")
print(manifest_.files, len(requests), Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.large
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("quick_listing")
def test_100_000_files_take_101_requests_and_the_memory_of_2_000(
    s3: DataLake, s3_server: str, put: Callable[[str], None]
) -> None:
    seen = {}
    for count in (2_000, 100_000):
        for number in range(count):
            put(f"of-{count}/observation/part-{number:06}.parquet")
        arguments = [sys.executable, "-c", _PROGRAM, s3.root, s3_server, f"of-{count}"]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        files, requests, seen[count] = map(int, done.stdout.split())
        assert (files, requests) == (count, count // 1000 + 1)
    print(f"kilobytes at the peak: {seen}")
    assert seen[100_000] < seen[2_000] + 10_000, "kilobytes at the peak"
