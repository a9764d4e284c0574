"""dlt: nested records to Delta tables by its normaliser, without code of one's own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dlt
import pyarrow.parquet as pq

from benchmarks.contenders.common import Task, run
from biocloud_assets.raw.dsi.contract import CONTRACT

_BATCH_ROWS = 5_000


def work(task: Task) -> None:
    """Load the folders of the delivery; dlt names the tables of the lists itself."""
    os.environ.setdefault("RUNTIME__DLTHUB_TELEMETRY", "false")

    def records(folder: str) -> Iterator[list[dict[str, Any]]]:
        for file in sorted(Path(task.source, folder).glob("*.parquet")):
            for batch in pq.ParquetFile(file).iter_batches(_BATCH_ROWS):
                yield batch.to_pylist()

    with tempfile.TemporaryDirectory() as folder:
        destination = dlt.destinations.filesystem(bucket_url=Path(task.lake).absolute().as_uri())
        pipeline = dlt.pipeline("unnest", pipelines_dir=folder, destination=destination, dataset_name="raw")
        pipeline.run(
            [
                dlt.resource(records(one.name), name=one.name, table_format="delta", write_disposition="replace")
                for one in CONTRACT.folders
            ]
        ).raise_on_failed_jobs()


if __name__ == "__main__":
    run(work)
