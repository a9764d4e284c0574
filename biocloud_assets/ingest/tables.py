"""Write a delivery's rows into the tables.

A delivery replaces exactly its own rows. A delivery whose source has changed is removed from the delivery log before
the first table is replaced, so that no reader of the log sees rows of two states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import reduce
from typing import TYPE_CHECKING

from biocloud_assets.ingest import delivery_log
from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.ingest.inspection import read_records
from biocloud_assets.ingest.unnest import source_fields, unnest
from biocloud_assets.ingest.violations import Inspection
from biocloud_assets.schema import DELIVERY_COLUMN, Table, spark_schema
from biocloud_assets.spark.table_reader import DeltaRsReader

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.types import StructType

_WRITERS = 2
"""How many tables are written at the same time. Each write uses all cores for its larger part."""


@contextmanager
def writing_tables(
    context: IngestContext, inspection: Inspection, tables: Sequence[Table]
) -> Iterator[Iterator[Table]]:
    """Replace a delivery's rows of some tables, in threads, while the caller goes on.

    Args:
        context: what the ingest works with.
        inspection: the delivery, without errors.
        tables: the tables.

    Yields:
        an iterator over the tables, each as soon as it is written. When the block ends, nothing is being written.

    Raises:
        TableError: a table has a feature that the engine can't write, or other columns or types, or the catalog has it
            at another place. Nothing was written.
    """
    from biocloud_assets.spark import delta

    assert not inspection.errors, inspection.errors
    if not tables:
        yield iter(())
        return
    schemas = {context.contract.address(table): spark_schema(table) for table in (*tables, context.contract.log)}
    spark, catalog = context.spark, context.catalog  # the engine is started here, before any thread needs it
    by_path = catalog is not None and isinstance(context.tables, DeltaRsReader)
    existing = delta.require_writable(
        context.tables,
        context.lake,
        schemas,
        context.engine,
        registered=(lambda path: delta.registered_location(spark, path, str(catalog))) if by_path else None,
    )
    _remove_if_source_changed(context, inspection)
    pool = ThreadPoolExecutor(_WRITERS, thread_name_prefix="write")
    writes = {
        pool.submit(_write, context, inspection, table, existing.get(context.contract.address(table))): table
        for table in tables
    }

    def written() -> Iterator[Table]:
        for write in as_completed(writes):
            write.result()
            yield writes[write]

    try:
        yield written()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _write(context: IngestContext, inspection: Inspection, table: Table, existing: StructType | None) -> None:
    from biocloud_assets.spark import delta

    delta.replace_partition(
        context.spark,
        context.lake,
        context.contract.address(table),
        table_rows(context, inspection, table),
        spark_schema(table),
        DELIVERY_COLUMN,
        inspection.delivery,
        catalog=context.catalog,
        reader=context.tables,
        existing=existing,
    )


def table_rows(context: IngestContext, inspection: Inspection, table: Table) -> DataFrame:
    """The rows that a delivery has for a table: its columns, except `_delivery`."""
    assert table.folder is not None, table
    folder = context.contract.folder(table.folder)
    layouts = read_records(context.spark, folder, inspection.sources[folder.name], source_fields(table))
    rows = [unnest(records.frame, table, rescued=records.rescued) for records in layouts]
    return reduce(lambda left, right: left.unionByName(right), rows)


def _remove_if_source_changed(context: IngestContext, inspection: Inspection) -> None:
    """Remove a delivery from the log if its source is no longer the one that the log names."""
    row = delivery_log.read(context.tables, context.contract, inspection.delivery)
    if row is not None and row["source_fingerprint"] != inspection.files.fingerprint:
        delivery_log.remove(context, inspection.delivery)
