"""The Spark code of this project alone: the engine, the un-nesting, and one Delta write for each table, two at a time.

There is no Dagster, no validation, no check and no log: what an engineer would write in a notebook. `--engine jvm` runs
the same code on a Spark in a JVM.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from pyspark.sql import functions as F

from benchmarks.contenders.common import Task, run
from biocloud_assets.ingest.unnest import source_fields, unnest
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.schema import DELIVERY_COLUMN, Table, spark_read_schema
from biocloud_assets.settings import Engine
from biocloud_assets.spark.session import get_session


def work(task: Task) -> None:
    """Write the delivery."""
    engine: Engine = "jvm" if task.engine == "jvm" else "sail"
    spark = get_session(engine, s3_endpoint=os.environ.get("AWS_ENDPOINT_URL"))
    predicate = f"{DELIVERY_COLUMN} = '{task.delivery}'"

    def write(table: Table) -> None:
        assert table.folder is not None, table
        schema = spark_read_schema(CONTRACT.folder(table.folder), source_fields(table), rescued=False)
        records = spark.read.schema(schema).parquet(f"{task.source}/{table.folder}")
        rows = unnest(records, table, rescued=False).withColumn(DELIVERY_COLUMN, F.lit(task.delivery))
        uri = task.uri(table)
        rows.limit(0).write.format("delta").mode("ignore").partitionBy(DELIVERY_COLUMN).save(uri)
        rows.write.format("delta").mode("overwrite").option("replaceWhere", predicate).save(uri)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, CONTRACT.tables))


if __name__ == "__main__":
    run(work)
