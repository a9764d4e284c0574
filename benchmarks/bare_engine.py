"""The same data through the bare engine: Sail, our un-nesting, and one Delta write for each table; nothing else.

No Dagster, no validation, no checks, no log: what an engineer would write in a notebook.

    python benchmarks/bare_engine.py LANDING_ROOT DELIVERY LAKE_ROOT
"""

from __future__ import annotations

import sys

from pyspark.sql import functions as F

from biocloud_assets.raw.dsi import contract
from biocloud_assets.raw.dsi.unnest import unnest
from biocloud_assets.spark.session import get_session


def main(landing: str, delivery: str, lake: str) -> None:
    """Write the nine tables of one delivery, so that it can be repeated."""
    spark = get_session("sail")
    for table in contract.TABLES:
        records = spark.read.parquet(f"{landing}/dsi/{delivery}/{table.folder}")
        rows = unnest(records.withColumn("_rescued", F.lit(None).cast("string")), table)
        rows = rows.withColumn("_delivery", F.lit(delivery))
        rows.limit(0).write.format("delta").mode("ignore").partitionBy("_delivery").save(f"{lake}/{table.path}")
        write = rows.write.format("delta").mode("overwrite").option("replaceWhere", f"_delivery = '{delivery}'")
        write.save(f"{lake}/{table.path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
