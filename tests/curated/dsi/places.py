"""Lakes for tests: raw tables of some deliveries, and what is published of them."""

from __future__ import annotations

import hashlib
import json
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[2] / "raw" / "dsi"))  # for `deliveries`

from biocloud_assets.curated.dsi import steps
from biocloud_assets.curated.dsi.observation import arrow_schema
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi import contract, ingest
from biocloud_assets.spark.session import get_session

Row = dict[str, Any]


def ingest_all(place: ingest.Place, *deliveries: str) -> None:
    for delivery in deliveries:
        for table in contract.TABLES:
            ingest.write_table(place, delivery, table)
        ingest.record(place, delivery, engine="sail", orchestrator="test", run_id="1")


def place_in(root: Path) -> ingest.Place:
    return ingest.Place(get_session("sail"), DataLake.at(str(root / "in")), DataLake.at(str(root / "out")))


def published(place: ingest.Place, root: Path, run_date: str) -> list[Row]:
    curated = DataLake.at(str(root / "curated"))
    told = steps.publish(place.spark, place.lake, curated, run_date)
    table = pa.concat_tables([pq.read_table(f"{curated.root}/{file.path}") for file in curated.walk(told.path)])
    assert table.schema.equals(arrow_schema())
    rows: list[Row] = table.to_pylist()
    assert len(rows) == told.rows
    names = [row["occurrenceID"] for row in rows]
    assert names == sorted(set(names)), "in order, none twice"
    return rows


def contents(lake: DataLake) -> dict[str, bytes]:
    """All files, byte for byte."""
    return {file.path: lake.read(file.path) for file in lake.walk()}


def assert_manifests_match(lake: DataLake) -> list[str]:
    """Whichever days have a manifest: it tells just what is in the day's folder. Returns these days."""
    days = []
    for day in lake.list("dsi").folders:
        files = {file.path: lake.read(file.path) for file in lake.walk(f"dsi/{day}")}
        manifest = files.pop(f"dsi/{day}/manifest.json", None)
        if manifest is not None:
            told = json.loads(manifest)
            assert told["write_date"] == day
            assert told["files"] == sorted(files)
            assert [(one["path"], one["size"], one["etag"]) for one in told["details"]] == [
                (path, len(data), hashlib.md5(data).hexdigest()) for path, data in sorted(files.items())
            ]
            assert sum(pq.read_table(BytesIO(data)).num_rows for data in files.values()) >= 0, "whole Parquet files"
            days.append(day)
    return days
