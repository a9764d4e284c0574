"""Writing a day's files: a repetition changes nothing, a killed one is repaired, and a manifest always matches."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, timedelta
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from biocloud_assets.curated.dsi import step
from biocloud_assets.curated.dsi.manifest import write_manifest
from biocloud_assets.curated.dsi.observation import arrow_schema
from biocloud_assets.curated.dsi.paths import PUBLISHING
from biocloud_assets.curated.dsi.publication import NO_TAXON, OTHER_TAXA, publish_rows
from biocloud_assets.errors import LakeError
from biocloud_assets.lake import DataLake
from tests.curated.dsi.curated_lake import assert_manifests_match, contents

DAY = date(2026, 1, 31)
Row = dict[str, Any]


def rows(count: int, salt: str = "") -> Iterator[Row]:
    for number in range(count):
        yield {
            "occurrenceID": f"{number:06}",
            "basisOfRecord": "MachineObservation",
            "scientificName": f"Taxon {number % 20}" if number % 21 else None,
            "eventDate": f"2026-01-{number % 28 + 1:02}T12:00:00Z",
            "locality": salt,
        }


def test_rows_come_back_in_order_and_are_counted(lake: DataLake) -> None:
    publication = publish_rows(lake, DAY, rows(250), rows_per_file=100)
    written = contents(lake)
    assert list(written) == [f"dsi/2026-01-31/observation/part-0000{number}.parquet" for number in range(3)]
    tables = [pq.read_table(BytesIO(data)) for data in written.values()]
    assert [table.num_rows for table in tables] == [100, 100, 50]
    assert [row["occurrenceID"] for table in tables for row in table.to_pylist()] == [f"{n:06}" for n in range(250)]
    assert all(table.schema.equals(arrow_schema()) for table in tables)
    assert (publication.rows, publication.species, publication.files, publication.changed) == (250, 20, 3, 3)
    assert publication.size == sum(map(len, written.values()))
    assert len(publication.detections) == 13, "the taxa that are seen most often, and the others"
    assert {OTHER_TAXA, NO_TAXON} & set(publication.detections) == {OTHER_TAXA}
    assert sum(count for days in publication.detections.values() for count in days.values()) == 250


def test_without_rows_there_is_a_file_with_the_columns(lake: DataLake) -> None:
    assert publish_rows(lake, DAY, []).files == 1
    (data,) = contents(lake).values()
    assert pq.read_table(BytesIO(data)).schema.equals(arrow_schema())


def test_a_repetition_writes_nothing_and_keeps_the_manifest(lake: DataLake) -> None:
    publish_rows(lake, DAY, rows(250), rows_per_file=100)
    write_manifest("dsi/2026-01-31", lake, DAY)
    before = list(lake.walk())
    assert publish_rows(lake, DAY, rows(250), rows_per_file=100).changed == 0
    assert list(lake.walk()) == before


@pytest.mark.parametrize("change", ["other rows", "fewer rows", "a file too many", "a damaged file", "a lost file"])
def test_a_change_removes_the_manifest_and_writes_what_differs(lake: DataLake, change: str) -> None:
    day = "dsi/2026-01-31"
    publish_rows(lake, DAY, rows(250), rows_per_file=100)
    write_manifest(day, lake, DAY)
    right = contents(lake)
    wanted = list(rows(250, "other") if change == "other rows" else rows(150 if change == "fewer rows" else 250))
    if change == "a file too many":
        lake.write(f"{day}/observation/part-00009.parquet", b"left over")
    elif change == "a damaged file":
        path = f"{day}/observation/part-00001.parquet"
        lake.write(path, right[path][:-1] + b"?")
    elif change == "a lost file":
        lake.delete([f"{day}/observation/part-00002.parquet"])
    would = publish_rows(lake, DAY, wanted, rows_per_file=100, dry_run=True)
    assert f"{day}/manifest.json" in contents(lake), "a dry run leaves it"
    publication = publish_rows(lake, DAY, wanted, rows_per_file=100)
    assert publication.changed == would.changed == {"other rows": 3, "fewer rows": 2}.get(change, 1)
    assert f"{day}/manifest.json" not in contents(lake)
    write_manifest(day, lake, DAY)
    assert_manifests_match(lake)
    if change not in {"other rows", "fewer rows"}:
        assert contents(lake) == right


def test_an_error_while_rows_are_read_leaves_what_was_published(lake: DataLake) -> None:
    publish_rows(lake, DAY, rows(100))
    write_manifest("dsi/2026-01-31", lake, DAY)
    before = contents(lake)

    def broken() -> Iterator[Row]:
        yield from rows(50)
        raise RuntimeError("the engine is gone")

    with pytest.raises(RuntimeError, match="the engine is gone"):
        publish_rows(lake, DAY, broken())
    assert contents(lake) == before


def test_a_manifest_that_can_not_be_removed_keeps_the_files_as_they_are(tmp_path: Path) -> None:
    lake = DataLake.at(str(tmp_path))
    publish_rows(lake, DAY, rows(10))
    lake.write("dsi/2026-01-31/manifest.json/file", b"a folder where the manifest should be")
    before = contents(lake)
    with pytest.raises(LakeError):
        publish_rows(lake, DAY, rows(20))
    assert contents(lake) == {**before, MARKER: b""}


# --- interrupted publications -----------------------------------------------------------------------------------------

MARKER = f"dsi/{DAY}/{PUBLISHING}"


def interrupt(lake: DataLake, salt: str, read: int) -> None:
    """Publish two files of 50 rows, with an engine that fails after so many rows were read."""

    def broken() -> Iterator[Row]:
        yield from islice(rows(100, salt), read)
        raise RuntimeError("the engine is gone")

    with pytest.raises(RuntimeError, match="the engine is gone"):
        publish_rows(lake, DAY, broken(), rows_per_file=50)


def test_a_day_with_files_of_two_publications_gets_no_manifest_until_it_is_published_again(lake: DataLake) -> None:
    publish_rows(lake, DAY, rows(100, "first"), rows_per_file=50)
    step.manifest(lake, DAY)
    interrupt(lake, "second", 100 - 1)  # after the first file was written
    with pytest.raises(LakeError) as raised:
        step.manifest(lake, DAY)
    message = str(raised.value)
    assert message.startswith(f"{lake.uri(f'dsi/{DAY}')}: expected a day whose publication was completed")
    assert "found one that was interrupted or is running" in message
    assert "Publish it again: `biocloud curated publish`." in message
    assert f"dsi/{DAY}/manifest.json" not in contents(lake)

    publish_rows(lake, DAY, rows(100, "second"), rows_per_file=50)
    assert MARKER not in contents(lake)
    assert step.manifest(lake, DAY).files == 2
    assert assert_manifests_match(lake) == [str(DAY)]


def test_a_first_publication_that_is_interrupted_gets_no_manifest(lake: DataLake) -> None:
    interrupt(lake, "first", 100 - 1)
    with pytest.raises(LakeError, match="expected a day whose publication was completed"):
        step.manifest(lake, DAY)


def test_a_repetition_that_finds_all_files_written_completes_an_interrupted_publication(lake: DataLake) -> None:
    interrupt(lake, "only", 100)  # after both files were written
    before = [file for file in lake.walk() if file.path != MARKER]
    assert len(before) == 2
    assert publish_rows(lake, DAY, rows(100, "only"), rows_per_file=50).changed == 0
    assert list(lake.walk()) == before
    assert step.manifest(lake, DAY).files == 2


def test_a_dry_run_neither_starts_nor_completes_a_publication(lake: DataLake) -> None:
    publish_rows(lake, DAY, rows(100, "dry"), dry_run=True)
    assert contents(lake) == {}
    interrupt(lake, "first", 100)
    before = list(lake.walk())
    for salt in ("first", "second"):
        publish_rows(lake, DAY, rows(100, salt), rows_per_file=50, dry_run=True)
    assert step.manifest(lake, DAY, dry_run=True).files == 2, "without the marker"
    assert list(lake.walk()) == before


def test_the_marker_is_there_before_the_first_change_and_is_deleted_after_the_last(s3: DataLake) -> None:
    publish_rows(s3, DAY, rows(150, "first"), rows_per_file=50)
    step.manifest(s3, DAY)
    changes: list[str] = []

    def note(params: dict[str, Any], model: Any, **_: Any) -> None:
        if model.name in {"PutObject", "DeleteObjects"}:
            body = params["body"].decode(errors="replace") if model.name == "DeleteObjects" else ""
            named = body.partition("<Key>")[2].partition("</Key>")[0] or params["url_path"]
            changes.append(f"{model.name} {named.rpartition(f'dsi/{DAY}/')[2]}")

    s3._s3.meta.events.register("before-call.s3", note)  # type: ignore[attr-defined]
    publish_rows(s3, DAY, rows(100, "second"), rows_per_file=50)
    assert changes == [
        f"PutObject {PUBLISHING}",
        "DeleteObjects manifest.json",
        "PutObject observation/part-00000.parquet",
        "PutObject observation/part-00001.parquet",
        "DeleteObjects observation/part-00002.parquet",
        f"DeleteObjects {PUBLISHING}",
    ]


def test_a_day_whose_publication_was_interrupted_is_deleted_like_any_other(lake: DataLake) -> None:
    interrupt(lake, "first", 100)
    (removal,) = step.cleanup(lake, DAY + timedelta(days=1), 0).removals
    assert removal.failures == ()
    assert contents(lake) == {}


# --- kill -9 ----------------------------------------------------------------------------------------------------------

_PROGRAM = """
import os, sys
from biocloud_assets.lake import DataLake
from tests.curated.dsi.test_publication import publish_wholly
for line in sys.stdin:
    pid = os.fork()  # a process for each line, without the time to start one
    if pid == 0:
        publish_wholly(DataLake.at(sys.argv[1], endpoint=sys.argv[2] or None), line.strip())
        os._exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def publish_wholly(lake: DataLake, salt: str) -> None:
    publish_rows(lake, DAY, rows(100, salt), rows_per_file=10)
    step.manifest(lake, DAY)
    step.cleanup(lake, DAY, 0)


def old_days(lake: DataLake) -> None:
    """Two days that the cleanup deletes."""
    for day in (DAY - timedelta(days=1), DAY - timedelta(days=2)):
        publish_rows(lake, day, rows(30), rows_per_file=10)
        write_manifest(f"dsi/{day}", lake, day)


def assert_manifest_only_of_whole_publications(lake: DataLake) -> None:
    """Writing the manifest of the day must be refused, unless all its files are of one publication of 100 rows."""
    with suppress(LakeError):
        step.manifest(lake, DAY)
    found = contents(lake)
    if f"dsi/{DAY}/manifest.json" in found:
        files = [data for path, data in found.items() if path.startswith(f"dsi/{DAY}/observation/")]
        salts = [row["locality"] for data in files for row in pq.read_table(BytesIO(data)).to_pylist()]
        assert (len(salts), len(set(salts))) == (100, 1)


@pytest.mark.timeout(600)
def test_kill_at_any_moment_and_run_again(lake: DataLake, request: pytest.FixtureRequest) -> None:
    """While publishing, while writing the manifest, while deleting: a day with a manifest is complete."""
    endpoint = request.getfixturevalue("s3_server") if lake.root.startswith("s3://") else ""
    arguments = [sys.executable, "-c", _PROGRAM, lake.root, endpoint]
    root = Path(__file__).parents[3]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as processes:
        assert processes.stdin and processes.stdout

        def publish(salt: str, kill_after: float | None = None) -> int:
            """The exit code of a process that publishes, and is killed after so many seconds."""
            assert processes.stdin and processes.stdout
            old_days(lake)
            processes.stdin.write(f"{salt}\n")
            processes.stdin.flush()
            pid = int(processes.stdout.readline())
            if kill_after is not None:
                time.sleep(kill_after)
                with suppress(ProcessLookupError):  # it has ended
                    os.kill(pid, signal.SIGKILL)
            return int(processes.stdout.readline())

        began = time.monotonic()
        assert publish("first") == 0
        span = time.monotonic() - began
        assert assert_manifests_match(lake) == ["2026-01-31"]

        chance = random.Random(20260131)
        killed = 0
        for number in range(20):
            if publish(str(number), chance.uniform(0, span)) == -signal.SIGKILL:
                killed += 1
            else:
                span /= 2  # it ended before: the first one took longer, because it was the first
            assert_manifests_match(lake)
            assert_manifest_only_of_whole_publications(lake)
            if killed == 5:
                break
        assert killed == 5
        processes.stdin.close()

    publish_wholly(lake, "last")
    assert assert_manifests_match(lake) == ["2026-01-31"]
    assert lake.list("dsi").folders == ("2026-01-31",)
    tables = [pq.read_table(BytesIO(data)) for path, data in contents(lake).items() if path.endswith(".parquet")]
    assert [row["locality"] for table in tables for row in table.to_pylist()] == ["last"] * 100


def test_a_reader_who_finds_the_same_manifest_before_and_after_has_read_the_files_that_it_lists(lake: DataLake) -> None:
    """While others publish, again and again: as DSI reads."""
    over = threading.Event()
    errors: list[BaseException] = []

    def write() -> None:
        try:
            for number in range(8):
                publish_rows(lake, DAY, rows(60, str(number)), rows_per_file=10)
                step.manifest(lake, DAY)
        except BaseException as error:
            errors.append(error)
        finally:
            over.set()

    def read(path: str) -> bytes | None:
        try:
            return lake.read(path)
        except LakeError:
            return None

    writer = threading.Thread(target=write)
    writer.start()
    whole = 0
    while not over.is_set() or not whole:
        before = read("dsi/2026-01-31/manifest.json")
        found = {file.path: read(file.path) for file in lake.walk("dsi/2026-01-31/observation")}
        if before is not None and before == read("dsi/2026-01-31/manifest.json"):
            salts = {
                row["locality"] for data in found.values() for row in pq.read_table(BytesIO(data or b"")).to_pylist()
            }
            assert len(salts) == 1, "of one publication"
            assert len(found) == 6
            whole += 1
    writer.join()
    assert not errors
    assert whole
