"""Put each file of a folder into a delivery, as the only file of `sensor`, and see whether the reader stands it.

    uv run python benchmarks/corpus.py <folder with Parquet files> [...]

Public corpora are apache/parquet-testing, apache/arrow-testing (fuzzed files) and duckdb's data/parquet-testing. No
file may crash the process, raise an exception or take longer than 5 seconds; the exit code is 1 if one does. The files
are read in another process, so that a crash is noticed and the next file is read all the same.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import UTC, datetime
from pathlib import Path

from biocloud_assets.ingest.delivery import DeliveryFiles
from biocloud_assets.ingest.reader import read_delivery
from biocloud_assets.lake import DataLake, FileInfo
from biocloud_assets.raw.dsi.contract import CONTRACT

DELIVERY = "2026-01-31-06:00:00"
LONGEST = 5.0
"""How many seconds a file may take."""


def read(path: str) -> tuple[str, float]:
    """Read one file; return the outcome in a line, and the seconds that it took."""
    file = Path(path)
    landing = DataLake.at(str(file.parent))
    info = FileInfo(file.name, file.stat().st_size, datetime.now(UTC))
    files = {folder.name: (info,) if folder.name == "sensor" else () for folder in CONTRACT.folders}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as staging:
        inspection = read_delivery(landing, CONTRACT, DeliveryFiles(DELIVERY, files), staging=DataLake.at(staging))
    seconds = time.perf_counter() - start
    errors = [error for error in inspection.errors if error.folder == "sensor"]
    kinds = Counter(error.kind.value for error in errors)
    return "refused: " + ", ".join(
        f"{count} {kind}" for kind, count in kinds.items()
    ) if errors else "accepted", seconds


def main() -> int:
    """Read all files below the folders that the command names."""
    outcomes: Counter[str] = Counter()
    pool = ProcessPoolExecutor(1)
    for path in sorted(path for root in sys.argv[1:] for path in Path(root).rglob("*") if path.is_file()):
        try:
            outcome, seconds = pool.submit(read, str(path)).result()
        except BrokenProcessPool:
            outcome, seconds = "CRASHED", 0.0
            pool = ProcessPoolExecutor(1)
        except Exception as error:
            outcome, seconds = f"RAISED {type(error).__name__}: {error}", 0.0
        summary = outcome.partition(":")[0].partition(" ")[0] + (" SLOWLY" if seconds > LONGEST else "")
        outcomes[summary] += 1
        print(f"{seconds:7.2f} s  {path.name}: {outcome}")
    print(", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()))
    return int(any(not outcome.islower() for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
