"""The floor: decode the nested files and encode the flat ones, in Arrow, without making the ones of the others.

The flat tables are those that another contender has written; reading them isn't counted. No program that reads these
files and writes those tables as Parquet by Arrow can need less.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import DeltaTable

from biocloud_assets.raw.dsi.contract import CONTRACT


def main(landing: str, delivery: str, written: str) -> None:
    """Measure, and print the seconds.

    Args:
        landing: the landing zone, a folder.
        delivery: the delivery.
        written: the lake, a folder, that holds its tables.
    """
    tables: dict[str, pa.Table] = {
        table.name: pa.concat_tables(
            pq.ParquetFile(path).read() for path in DeltaTable(f"{written}/{CONTRACT.address(table)}").file_uris()
        )
        for table in CONTRACT.tables
    }
    with tempfile.TemporaryDirectory() as folder:
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        for one in CONTRACT.folders:
            ds.dataset(f"{landing}/{CONTRACT.source}/{delivery}/{one.name}", format="parquet").to_table()
        with ThreadPoolExecutor(pa.cpu_count()) as pool:
            list(pool.map(lambda name: pq.write_table(tables[name], Path(folder) / f"{name}.parquet"), tables))
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"work": [seconds], "cpu": cpu}))


if __name__ == "__main__":
    main(*sys.argv[1:])
