"""Publish from a lake with raw tables, and compare what the curated layer holds."""

from __future__ import annotations

import hashlib
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from biocloud_assets.curated.dsi import step
from biocloud_assets.curated.dsi.observation import arrow_schema
from biocloud_assets.curated.dsi.paths import PUBLISHING
from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.lake import DataLake

Row = dict[str, Any]


def published(context: IngestContext, root: Path, run_date: str) -> list[Row]:
    """Publish a day into `<root>/curated`, and read its rows."""
    curated = DataLake.at(str(root / "curated"))
    publication = step.publish(context, curated, run_date)
    table = pa.concat_tables([pq.read_table(f"{curated.root}/{file.path}") for file in curated.walk(publication.path)])
    assert table.schema.equals(arrow_schema())
    rows: list[Row] = table.to_pylist()
    assert len(rows) == publication.rows
    names = [row["occurrenceID"] for row in rows]
    assert names == sorted(set(names)), "in order, none twice"
    return rows


def contents(lake: DataLake) -> dict[str, bytes]:
    """All files, byte for byte."""
    return {file.path: lake.read(file.path) for file in lake.walk()}


def assert_manifests_match(lake: DataLake) -> list[str]:
    """Each manifest must list exactly the files of its day's folder, without the marker of a publication.

    Returns:
        the days that have one.
    """
    days = []
    for day in lake.list("dsi").folders:
        files = {file.path: lake.read(file.path) for file in lake.walk(f"dsi/{day}")}
        files.pop(f"dsi/{day}/{PUBLISHING}", None)  # a process may be killed between writing it and the first change
        manifest = files.pop(f"dsi/{day}/manifest.json", None)
        if manifest is not None:
            document = json.loads(manifest)
            assert document["write_date"] == day
            assert document["files"] == sorted(files)
            assert [(one["path"], one["size"], one["etag"]) for one in document["details"]] == [
                (path, len(data), hashlib.md5(data).hexdigest()) for path, data in sorted(files.items())
            ]
            assert sum(pq.read_table(BytesIO(data)).num_rows for data in files.values()) >= 0, "whole Parquet files"
            days.append(day)
    return days
