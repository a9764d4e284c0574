"""The delivery log of a source: the Delta table that says which deliveries are ingested.

Sensors and the command line read it without an engine. A delivery is ingested if and only if it has a row.

Beside the table, the lake has an empty file `_files/ingested/<source>/<delivery>` for each ingested delivery: its
marker. Airflow's dispatcher, which has neither delta-rs nor this package, lists the markers. A marker is written after
the row and deleted before it, so that a delivery with a marker always has a row. The partition folders of the table say
less: a writer creates their files before it commits them, and files of removed rows stay until a VACUUM.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from biocloud_assets.ingest.context import FILES, IngestContext
from biocloud_assets.schema import DELIVERY_COLUMN, Contract, spark_schema
from biocloud_assets.spark.table_reader import TableReader

if TYPE_CHECKING:
    from pyspark.sql import Column
    from pyspark.sql.types import DataType

_MARKERS = "ingested"


def ingested(tables: TableReader, contract: Contract) -> set[str]:
    """The names of all ingested deliveries.

    They are the table's partitions, so its Delta log is enough, and no data file is read however many there are.
    """
    return tables.partition_values(contract.address(contract.log), DELIVERY_COLUMN)


def read(tables: TableReader, contract: Contract, delivery: str) -> dict[str, Any] | None:
    """The row of one delivery (the columns of `Contract.log`); None if it is not ingested."""
    return read_all(tables, contract, [delivery]).get(delivery)


def read_all(tables: TableReader, contract: Contract, deliveries: Collection[str]) -> dict[str, dict[str, Any]]:
    """The rows of some deliveries, by name; those that are not ingested are left out."""
    return tables.rows(contract.address(contract.log), DELIVERY_COLUMN, deliveries)


def write(context: IngestContext, delivery: str, row: dict[str, Any]) -> None:
    """Write a delivery's row, and its marker.

    Args:
        context: what the ingest works with.
        delivery: the delivery's name.
        row: the columns of `Contract.log`, except `_delivery`.
    """
    _replace(context, delivery, row)
    write_marker(context, delivery)


def write_marker(context: IngestContext, delivery: str) -> None:
    """Write the marker of a delivery that has a row; also if it is there already."""
    context.files.write(_marker(context.contract, delivery), b"")


def remove(context: IngestContext, delivery: str) -> None:
    """Remove a delivery's marker and its row: it is no longer ingested."""
    context.files.delete([_marker(context.contract, delivery)])
    _replace(context, delivery, None)


def markers_path(contract: Contract) -> str:
    """The folder in the lake that holds the markers of a source."""
    return f"{FILES}/{_MARKERS}/{contract.source}"


def _marker(contract: Contract, delivery: str) -> str:
    return f"{_MARKERS}/{contract.source}/{delivery}"


def _replace(context: IngestContext, delivery: str, row: dict[str, Any] | None) -> None:
    from biocloud_assets.spark import delta

    table = context.contract.log
    schema = spark_schema(table)
    rows = None
    if row is not None:
        fields = [field for field in schema if field.name in row]
        rows = context.spark.range(1).select(*(_literal(row[f.name], f.dataType).alias(f.name) for f in fields))
    delta.replace_partition(
        context.spark,
        context.lake,
        context.contract.address(table),
        rows,
        schema,
        DELIVERY_COLUMN,
        delivery,
        catalog=context.catalog,
        reader=context.tables,
    )


def _literal(value: Any, type_: DataType) -> Column:
    """A value as an expression.

    A structure is parsed from JSON: the fields of one that is built by `struct` aren't nullable, and Sail 0.7 takes
    that for another type than the table's.
    """
    from pyspark.sql import functions as F
    from pyspark.sql.types import StructType

    if isinstance(type_, StructType):
        return F.from_json(F.lit(json.dumps(value)), type_)
    return F.lit(value).cast(type_)
