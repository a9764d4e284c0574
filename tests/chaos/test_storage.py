"""A full disk, a root that is read-only or gone, and a clock that jumps: nothing is lost, and the reason is named."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from biocloud_assets.ingest import delivery_log
from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.ingest.delivery import discover
from biocloud_assets.ingest.discovery import lookback_start
from biocloud_assets.ingest.snapshot import take_snapshot
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.sample import synthetic
from tests.chaos.conftest import Chaos
from tests.chaos.processes import Processes
from tests.chaos.tasks import digest
from tests.curated.dsi.curated_lake import assert_manifests_match, contents
from tests.curated.dsi.test_publication import DAY, assert_manifest_only_of_whole_publications, old_days
from tests.ingest.deliveries import DELIVERY, record, write
from tests.ingest.lakehouse import content, context_at, ingest
from tests.needs import unavailable

pytestmark = pytest.mark.timeout(3600)

NOBODY = 65534


def landed(root: Path, deliveries: int) -> tuple[IngestContext, list[str], dict[str, str]]:
    """A landing zone, its deliveries, and the digest of each one's rows in a lake that was written undisturbed."""
    context = context_at(root)
    names = synthetic.write(context.landing, results=60, seed=11, deliveries=deliveries)
    (root / "alone").mkdir()
    (root / "alone" / "in").symlink_to(root / "in")
    alone = context_at(root / "alone")
    ingest(alone, *names)
    return context, names, {name: digest(alone, name) for name in names}


def assert_whole(context: IngestContext, expected: dict[str, str], *, all_of_them: bool = False) -> None:
    """Each delivery in the log must have all its rows."""
    logged = delivery_log.ingested(context.tables, CONTRACT)
    assert {name: digest(context, name) for name in logged} == {name: expected[name] for name in logged}
    if all_of_them:
        assert logged == set(expected)


# Space.


def test_a_file_that_can_not_be_written_whole_fails_the_ingest_and_the_next_one_completes_it(
    chaos: Chaos, processes: Processes, tmp_path: Path
) -> None:
    """The operating system refuses files that are larger than some limit."""
    context, names, expected = landed(tmp_path, 2)
    ingest(context, names[0])
    largest = max(file.size for file in context.lake.walk("raw"))
    failed = 0
    trials = chaos.times(1, 20)
    for _ in range(trials):
        process = processes.start(
            "ingest", root=str(tmp_path), deliveries=names[1:], largest_file=chaos.random.randrange(largest)
        )
        failed += process.wait() == 1
        assert_whole(context, expected)
    ingest(context, names[1])
    assert_whole(context, expected, all_of_them=True)
    assert failed
    chaos.record(
        "A file that can't be written whole is not taken for one.",
        "The operating system limits the size of files (RLIMIT_FSIZE) at a random number of bytes.",
        f"{trials} ingests, of which {failed} failed",
        "No delivery was in the log without its rows; the next ingest completed it.",
    )


@contextmanager
def volume(folder: Path) -> Iterator[Path]:
    """A file system of 64 MB in memory."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        unavailable(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, left: int) -> Path:
    """Fill a volume, up to some bytes."""
    filler = folder / "filler"
    with filler.open("wb") as file:
        file.write(bytes(max(0, shutil.disk_usage(folder).free - left)))
    return filler


@pytest.mark.chaos_long
def test_a_full_disk_fails_the_ingest_with_the_reason_and_the_next_one_completes_it(
    chaos: Chaos, processes: Processes, tmp_path: Path
) -> None:
    context, names, expected = landed(tmp_path, 2)
    trials, failed = 40, 0
    with volume(tmp_path / "out"):
        for _ in range(trials):
            for one in (tmp_path / "out").iterdir():
                shutil.rmtree(one)
            ingest(context, names[0])
            needed = shutil.disk_usage(tmp_path / "out").used
            filler = fill(tmp_path / "out", chaos.random.randrange(needed))
            process = processes.start("ingest", root=str(tmp_path), deliveries=names[1:])
            if process.wait():
                failed += 1
                assert "No space left on device" in process.printed(), process.printed()
                assert "transient: False" in process.printed(), process.printed()
            assert_whole(context, expected)
            filler.unlink()
            ingest(context, names[1])
            assert_whole(context, expected, all_of_them=True)
            assert not list(context.lake.walk("_files/staging"))
    assert failed
    chaos.record(
        "A full disk fails an ingest with the reason; nothing that was there is lost.",
        "The lake is on a file system of its own with a random number of bytes left, fewer than the delivery needs. "
        "Then space is made, and one more run follows.",
        f"{trials} ingests, of which {failed} failed",
        "Each failure named the full disk and was not repeated as if it could pass; no delivery was in the log without "
        "its rows; the next ingest completed it.",
    )


@pytest.mark.chaos_long
def test_a_full_disk_fails_a_publication_and_every_manifest_still_matches(
    chaos: Chaos, processes: Processes, tmp_path: Path
) -> None:
    trials, failed = 60, 0
    with volume(tmp_path / "curated") as folder:
        lake = DataLake.at(str(folder))
        whole = []
        for salt in ("a", "b"):
            processes.run("publish", curated=str(folder), salt=salt)
            whole.append(contents(lake))
        needed = shutil.disk_usage(folder).used
        for number in range(trials):
            old_days(lake)
            if number % 4 > 1:  # a day that wasn't published yet; else its files are replaced
                lake.delete_folder(f"dsi/{DAY}")
            filler = fill(folder, chaos.random.randrange(needed))
            options = {"curated": str(folder), "salt": "ab"[number % 2]}
            process = processes.start("publish", **options)
            if process.wait():
                failed += 1
                assert "No space left on device" in process.printed(), process.printed()
            filler.unlink()
            assert_manifests_match(lake)
            assert_manifest_only_of_whole_publications(lake)
            processes.run("publish", **options)
            assert contents(lake) == whole[number % 2]
    assert failed
    chaos.record(
        "A full disk fails a publication with the reason, and every manifest still matches.",
        "The same for ten files, the manifest and the cleanup.",
        f"{trials} publications, of which {failed} failed",
        "Each manifest listed exactly the files of its folder; writing it after a failure was refused, except where "
        "all files were of one publication. The next publication gave the files of an undisturbed one.",
    )


# The root.


def test_a_lake_that_can_not_be_written_is_named_and_stays_as_it_is(chaos: Chaos, processes: Processes) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        context, names, expected = landed(root, 2)
        ingest(context, names[0])
        before = list(context.lake.walk())
        writable = [path for path in (root / "out", *(root / "out").rglob("*")) if path.is_dir()]
        try:
            for path in writable:
                path.chmod(0o555)
            process = processes.start("ingest", root=name, deliveries=names[1:], user=NOBODY)
            assert process.wait() == 1
            assert "Permission denied" in process.printed()
            assert "transient: False" in process.printed()
            assert list(context.lake.walk()) == before
        finally:
            for path in writable:
                path.chmod(0o755)
        ingest(context, names[1])
        assert_whole(context, expected, all_of_them=True)
    chaos.record(
        "A lake that can't be written is named, and stays as it is.",
        "A delivery is ingested by a user who may read the lake and not write it.",
        "1 ingest",
        "It failed with “Permission denied”, is not repeated as if that could pass, and no file changed; with the "
        "permission it succeeded.",
    )


@pytest.mark.chaos_long
def test_a_lake_that_becomes_read_only_at_any_moment_holds_whole_deliveries(
    chaos: Chaos, processes: Processes, tmp_path: Path
) -> None:
    context, names, expected = landed(tmp_path, 2)
    trials, failed = 30, 0
    with volume(tmp_path / "out") as folder:
        for _ in range(trials):
            for one in folder.iterdir():
                shutil.rmtree(one)
            ingest(context, names[0])
            process = processes.start("ingest", root=str(tmp_path), deliveries=names[1:])
            process.wait_until_begun()
            time.sleep(chaos.random.uniform(0, 0.5))
            # It is refused while a file is being written.
            while subprocess.run(["mount", "-o", "remount,ro", str(folder)], capture_output=True).returncode:
                time.sleep(0.005)
            if process.wait():
                failed += 1
                assert "Read-only file system" in process.printed(), process.printed()
            assert_whole(context, expected)
            subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
            ingest(context, names[1])
            assert_whole(context, expected, all_of_them=True)
    assert failed
    chaos.record(
        "A lake that becomes read-only during an ingest holds only whole deliveries.",
        "The file system of the lake is made read-only at a random moment, and writable again.",
        f"{trials} ingests, of which {failed} failed",
        "Each failure named the read-only file system; no delivery was in the log without its rows; the next ingest "
        "completed it.",
    )


def test_a_lake_that_disappears_is_written_again_by_the_next_ingest(
    chaos: Chaos, processes: Processes, tmp_path: Path
) -> None:
    """The lake's folder is moved away while a delivery is ingested, or there is a file in its place."""
    context, names, expected = landed(tmp_path, 1)
    trials = chaos.times(1, 40)
    for number in range(trials):
        process = processes.start("ingest", root=str(tmp_path), deliveries=names)
        process.wait_until_begun()
        time.sleep(chaos.random.uniform(0.05, 0.4))
        if (tmp_path / "out").exists():
            (tmp_path / "out").rename(tmp_path / f"gone-{number}")
        assert process.wait() in (0, 1), process.printed()
        ingest(context, *names)
        assert_whole(context, expected, all_of_them=True)
        shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").write_text("no folder")
    process = processes.start("ingest", root=str(tmp_path), deliveries=names)
    assert process.wait() == 1
    assert str(tmp_path / "out") in process.printed()
    assert (tmp_path / "out").read_text() == "no folder"
    chaos.record(
        "A lake that disappears during an ingest is written again by the next one.",
        "The lake's folder is moved away at a random moment; in the end a file takes its place.",
        f"{trials} times",
        "The process ended, with an error or without; one more ingest wrote the whole delivery. The file was named and "
        "left as it is.",
    )


# Time.


def test_a_delivery_that_is_named_after_a_future_day_hides_no_other(chaos: Chaos, tmp_path: Path) -> None:
    context = context_at(tmp_path)
    future = ["2999-01-01-00:00:00", "9999-12-31-23:59:59"]
    for name in (*future, DELIVERY):
        write(tmp_path / "in", name, sensor=[record("sensor", name=name)])
    ingest(context, *future)
    today = datetime.now(UTC).date()
    start = lookback_start(delivery_log.ingested(context.tables, CONTRACT), lookback_days=36_500)
    assert DELIVERY in discover(context.landing, CONTRACT, start_after=start)[0]
    ingest(context, DELIVERY)
    assert take_snapshot(context.tables, CONTRACT, today).deliveries == (DELIVERY,)
    assert delivery_log.ingested(context.tables, CONTRACT) == {*future, DELIVERY}
    chaos.record(
        "A delivery that is named after a future day hides no other one.",
        "Deliveries of the years 2999 and 9999 are ingested before one of 2026.",
        "2 deliveries",
        "The later one was found and ingested; what is published today holds nothing of the future ones.",
    )


CLOCKS = ("-20000d", "-3650d", "-1d", "-3600", "+0", "+3600", "+1d", "+3650d", "+40000d")
"""Offsets of the clock: to 1971, over hours, days and years, and beyond the year 2106."""


@pytest.mark.chaos_long
def test_a_clock_that_jumps_changes_no_rows(chaos: Chaos, tmp_path: Path) -> None:
    library = next(Path("/usr/lib").rglob("libfaketimeMT.so.1"), None)
    if library is None:
        unavailable("there is no libfaketime, which sets the clock of a process (Debian: libfaketime)")
    context, names, expected = landed(tmp_path, 3)
    clock = tmp_path / "clock"
    clock.write_text("+0")
    environment = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    trials, jumps = 25, 0
    times = set()
    curated = DataLake.at(str(tmp_path / "curated"))
    published: dict[str, bytes] = {}
    with Processes(tmp_path / "processes", environment) as processes:
        for _ in range(trials):
            name = chaos.random.choice(names)
            if chaos.random.random() < 0.5:  # so that it counts as changed, and is ingested anew
                for file in (tmp_path / "in" / "dsi" / name).rglob("*.parquet"):
                    file.write_bytes(file.read_bytes())
            clock.write_text(chaos.random.choice(CLOCKS))
            process = processes.start("ingest", root=str(tmp_path), deliveries=[name])
            process.wait_until_begun()
            for _ in range(3):
                time.sleep(chaos.random.uniform(0, 0.2))
                clock.write_text(chaos.random.choice(CLOCKS))
                jumps += 1
            process.outcome()
            assert_whole(context, expected)
            logged = delivery_log.read(context.tables, CONTRACT, name)
            assert logged is not None
            times.add(logged["ingested_at"].year)
            processes.run("publish", curated=curated.root, salt="a")
            published = published or contents(curated)
            assert contents(curated) == published
    ingest(context, *names)
    assert_whole(context, expected, all_of_them=True)
    (tmp_path / "apart").mkdir()
    (tmp_path / "apart" / "in").symlink_to(tmp_path / "in")
    apart = context_at(tmp_path / "apart")
    ingest(apart, *names)
    assert content(context) == content(apart)
    assert len(times) > 2, "the clock was another one"
    chaos.record(
        "A clock that jumps changes no rows and no files.",
        "libfaketime sets the clock of the processes to years from 1971 to 2136, and changes it three times during "
        "each ingest; publications, manifests and cleanups run at these times too.",
        f"{trials} ingests and publications, {jumps} jumps",
        f"All rows and files equal those of an undisturbed run. The log's `ingested_at` tells what the clock said "
        f"({min(times)} to {max(times)}).",
    )
