"""The same data through the bare engine: Sail, our un-nesting, and one Delta write for each table; nothing else.

There is no Dagster, no validation, no check and no log: what an engineer would write in a notebook.

    python benchmarks/bare_engine.py LANDING_ROOT DELIVERY LAKE_ROOT
"""

from __future__ import annotations

import sys

from pyspark.sql import functions as F

from biocloud_assets.ingest.unnest import unnest
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.spark.session import get_session


def main(landing: str, delivery: str, lake: str) -> None:
    """Write the nine tables of one delivery, in a way that can be repeated."""
    spark = get_session("sail")
    for table in CONTRACT.tables:
        uri = f"{lake}/{CONTRACT.address(table)}"
        records = spark.read.parquet(f"{landing}/{CONTRACT.source}/{delivery}/{table.folder}")
        rows = unnest(records, table).withColumn("_delivery", F.lit(delivery))
        rows.limit(0).write.format("delta").mode("ignore").partitionBy("_delivery").save(uri)
        rows.write.format("delta").mode("overwrite").option("replaceWhere", f"_delivery = '{delivery}'").save(uri)


if __name__ == "__main__":
    main(*sys.argv[1:])
