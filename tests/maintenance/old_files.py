"""Tables with something to maintain: several files of a delivery, and files that are older than they are."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from pyspark.sql import functions as F

from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.schema import DELIVERY_COLUMN, spark_schema
from biocloud_assets.spark import delta
from tests.ingest.deliveries import DELIVERY


def split(context: IngestContext, table: str, delivery: str = DELIVERY) -> None:
    """Write a delivery's rows again, in several files."""
    spec = CONTRACT.table(table)
    rows = context.read_table(spec).where(F.col(DELIVERY_COLUMN) == delivery).drop(DELIVERY_COLUMN).repartition(4)
    delta.replace_partition(
        context.spark, context.lake, CONTRACT.address(spec), rows, spark_schema(spec), DELIVERY_COLUMN, delivery
    )


def age(context: IngestContext, seconds: int, *, log: bool = False) -> None:
    """Make data files, or log files too, older."""
    then = time.time() - seconds
    for file in Path(context.lake.root).rglob("*"):
        if file.is_file() and (log or "_delta_log" not in file.parts):
            os.utime(file, (then, then))


def age_removals(context: IngestContext, table: str, seconds: int) -> None:
    """Make the removals in a table's log older: Delta dates them by a field of the log."""

    def older(found: re.Match[str]) -> str:
        return f'"deletionTimestamp":{int(found.group(1)) - seconds * 1000}'

    for file in Path(context.lake.root, table, "_delta_log").glob("*.json"):
        file.write_text(re.sub(r'"deletionTimestamp":(\d+)', older, file.read_text()))


def leave_orphan(context: IngestContext, table: str) -> Path:
    """Leave a file of ten bytes as a killed write does."""
    orphan = next(Path(context.lake.root, table).glob("_delivery=*")) / "part-of-a-killed-write.parquet"
    orphan.write_bytes(b"0123456789")
    return orphan
