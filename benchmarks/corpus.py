"""Put damaged Parquet files into a delivery, as the only file of `sensor`, and see whether the reader stands them.

No file may crash the process, raise an exception or take longer than 5 seconds. The files are read in another process,
so that a crash is noticed and the next file is read all the same. Without folders, the files are those of a generated
delivery with bytes changed, removed and repeated at random places (seeded). Public corpora are apache/parquet-testing,
apache/arrow-testing (fuzzed files) and duckdb's data/parquet-testing: `--folder`.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

from benchmarks.measure import Say, median, seconds
from benchmarks.results import Result, Table
from biocloud_assets.ingest.delivery import DeliveryFiles
from biocloud_assets.ingest.reader import read_delivery
from biocloud_assets.lake import DataLake, FileInfo
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.sample import synthetic

_DELIVERY = "2026-01-31-06:00:00"
_LONGEST = 5.0
_FAILURES = ("CRASHED", "RAISED", "SLOW")


def read(path: str) -> tuple[str, float]:
    """Read one file; return the outcome in a line, and the seconds that it took."""
    file = Path(path)
    landing = DataLake.at(str(file.parent))
    info = FileInfo(file.name, file.stat().st_size, datetime.now(UTC))
    files: dict[str, tuple[FileInfo, ...]] = {
        folder.name: (info,) if folder.name == "sensor" else () for folder in CONTRACT.folders
    }
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as staging:
        inspection = read_delivery(landing, CONTRACT, DeliveryFiles(_DELIVERY, files), staging=DataLake.at(staging))
    taken = time.perf_counter() - start
    errors = [error for error in inspection.errors if error.folder == "sensor"]
    kinds = Counter(error.kind.value for error in errors)
    return ("refused: " + ", ".join(kinds) if errors else "accepted"), taken


def measure(*, files: int, folders: Sequence[Path], say: Say) -> Result:
    """Read all files.

    Args:
        files: how many are made, if there are no folders.
        folders: folders with files.
        say: reports progress.
    """
    outcomes: Counter[str] = Counter()
    times, problems = [], []
    # A forked process would inherit the locks of this one's threads.
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    with tempfile.TemporaryDirectory() as made:
        if not folders:
            say(f"damaging {files} files")
            damage(Path(made), files)
        paths = sorted(path for root in folders or [Path(made)] for path in root.rglob("*") if path.is_file())
        say(f"reading {len(paths)} files")
        for path in paths:
            taken = 0.0
            try:
                outcome, taken = pool.submit(read, str(path)).result()
            except BrokenProcessPool:
                outcome = "CRASHED"
                pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
            except Exception as error:
                outcome = f"RAISED {type(error).__name__}: {error}"
            if taken > _LONGEST:
                outcome = f"SLOW, {taken:.1f} s, {outcome}"
            times.append(taken)
            outcomes[outcome.partition(":")[0].partition(" ")[0]] += 1
            if outcome.startswith(_FAILURES):
                problems.append(f"{path.name}: {outcome}")
    pool.shutdown()
    result = Result("corpus", notes=problems)
    result.figures["failures"] = len(problems)
    rows = [[outcome, str(count)] for outcome, count in outcomes.most_common()]
    rows += [["median time of a file", seconds(median(times))], ["longest time of a file", seconds(max(times))]]
    title = f"{len(paths)} files" + ("" if folders else " with bytes changed, removed or repeated")
    result.tables.append(Table(title, ["", "files"], rows))
    return result


def damage(folder: Path, count: int) -> None:
    """Write damaged copies of the files of a generated delivery into a folder."""
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as landing:
        synthetic.write(DataLake.at(landing), results=20, seed=1)
        originals = [path.read_bytes() for path in sorted(Path(landing).rglob("*.parquet"))]
    for number in range(count):
        data = bytearray(rng.choice(originals))
        for _ in range(rng.choice((1, 1, 2, 8, 64))):
            # Half of the changes hit the footer, which is at the end.
            place = rng.randrange(len(data) // 2, len(data)) if rng.random() < 0.5 else rng.randrange(len(data))
            match rng.choice(("change", "change", "remove", "repeat")):
                case "change":
                    data[place] = rng.randrange(256)
                case "remove":
                    del data[place : place + rng.choice((1, 16))]
                case "repeat":
                    data[place:place] = data[place : place + 16]
            if len(data) < 16:
                break
        (folder / f"{number:05}.parquet").write_bytes(data)
