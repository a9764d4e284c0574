"""The steps by which a delivery gets into the lake, whatever orchestrates them: Dagster, Airflow or a person's script.

What belongs here: the order of things and what must be true between them. What doesn't: how files are judged
(`validation`), read (`source`) and un-nested (`unnest`).

    inspect ──► write_table (each of the nine) ──► record

Each step can be run on its own and again: it looks at the delivery itself, and refuses to write a faulty one. A
delivery whose source has changed is taken out of the log before its first table is replaced, and put back by `record`.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, StructType

from biocloud_assets.errors import DeliveryRefusedError, TableError
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi import contract, log, source
from biocloud_assets.raw.dsi.contract import DELIVERY_COLUMN, LOG, TABLES, Table
from biocloud_assets.raw.dsi.delivery import look
from biocloud_assets.raw.dsi.files import Inspection
from biocloud_assets.raw.dsi.unnest import unnest
from biocloud_assets.raw.dsi.validation import validate
from biocloud_assets.spark import delta


@dataclass(frozen=True)
class Place:
    """Where a step runs: the session, where deliveries land, where tables lie, and the catalog that knows them."""

    spark: SparkSession
    landing: DataLake
    lake: DataLake
    catalog: str | None = None


_inspected: dict[tuple[str, str, str], tuple[dict[str, int | None], Inspection]] = {}
"""What this process has inspected, by landing root, delivery and fingerprint, with the tables' versions at that time:
files that didn't change since need no second look by the next step."""

_inspecting = threading.Lock()


def inspect(place: Place, delivery: str, *, again: bool = False) -> Inspection:
    """Find every fault of a delivery. Nothing is written.

    Args:
        place: where it runs.
        delivery: the delivery's name.
        again: look again, also if this process has seen the same files, unless the lake is as it was then, too.

    Raises:
        DeliveryNameError: `delivery` is not a delivery's name.
    """
    contents = look(place.landing, delivery)
    key = (place.landing.root, delivery, contents.fingerprint)
    with _inspecting:  # who asks for what another thread is looking at waits for that
        seen = _inspected.get(key)
        if seen is None or (again and seen[0] != _referred(place)):
            _inspected.clear()  # one delivery at a time is enough, and its files' schemas aren't small
            seen = _referred(place), validate(place.spark, place.landing, place.lake, contents)
            _inspected[key] = seen
        return seen[1]


def _referred(place: Place) -> dict[str, int | None]:
    """The versions of the tables that a delivery's references may lead to."""
    fields = [item for folder in contract.FOLDERS for _, item in contract.walk(folder.fields)]
    paths = {contract.table(item.references).path for item in fields if item.references is not None}
    return {place.lake.uri(path): delta.version(place.lake, path) for path in paths}


def inspect_or_refuse(place: Place, delivery: str) -> Inspection:
    """Inspect a delivery that is about to be written.

    Raises:
        DeliveryRefusedError: it has a fault that keeps it out.
    """
    inspection = inspect(place, delivery)
    if inspection.errors:
        raise DeliveryRefusedError(delivery, inspection.errors)
    return inspection


def write_table(place: Place, delivery: str, table: Table) -> int:
    """Replace a delivery's rows of one table, and see that all are there.

    Args:
        place: where it runs.
        delivery: the delivery's name.
        table: the table.

    Returns:
        the number of rows.

    Raises:
        DeliveryRefusedError: the delivery has a fault that keeps it out; nothing was written.
        TableError: the table has other columns or types, or doesn't hold as many rows as the source has.
    """
    inspection = inspect_or_refuse(place, delivery)
    _forget_if_changed(place, inspection)
    rows = table_rows(place, inspection, table)
    schema = contract.spark_schema(table)
    delta.replace_partition(place.spark, place.lake, table.path, rows, schema, DELIVERY_COLUMN, delivery)
    if place.catalog is not None:
        delta.register(place.spark, place.lake, table.path, place.catalog)
    return _reconcile(place, inspection, (table,))[table.name]


def table_rows(place: Place, inspection: Inspection, table: Table) -> DataFrame:
    """The rows that a delivery has for a table: its columns, but for `_delivery`."""
    assert table.folder is not None, table
    folder = contract.folder(table.folder)
    lists = {level.partition("[]")[0] for level in table.levels}
    files = inspection.sources[folder.name]
    return unnest(source.read(place.spark, place.landing, folder, files, lists=lists), table)


def record(place: Place, delivery: str, *, engine: str, orchestrator: str, run_id: str) -> dict[str, Any]:
    """Write a delivery into the log, when all nine tables hold it and their counts reconcile with the source.

    A delivery that is in the log already, from the same files, is left as it is.

    Args:
        place: where it runs.
        delivery: the delivery's name.
        engine: what ran the Spark code: `sail`, `jvm`, `databricks`.
        orchestrator: what asked for it: `dagster`, `airflow`, …
        run_id: the orchestrator's identifier of the run.

    Returns:
        its row in the log.

    Raises:
        DeliveryRefusedError: the delivery has a fault that keeps it out.
        TableError: a table doesn't hold as many rows as the source has; the delivery stays out of the log.
    """
    inspection = inspect_or_refuse(place, delivery)
    rows = _reconcile(place, inspection, TABLES)
    row = log.read(place.lake, delivery)
    if row is not None and row["source_fingerprint"] == inspection.contents.fingerprint and row["rows"] == rows:
        return row
    row = {
        "contract_version": contract.VERSION,
        "rows": rows,
        "engine": engine,
        "orchestrator": orchestrator,
        "run_id": run_id,
        "ingested_at": datetime.now(UTC),
        "source_files": len(inspection.contents.all_files),
        "source_bytes": inspection.contents.size,
        "source_fingerprint": inspection.contents.fingerprint,
    }
    _write_log(place, delivery, row)
    if place.catalog is not None:
        delta.register(place.spark, place.lake, LOG.path, place.catalog)
    return {DELIVERY_COLUMN: delivery, **row}


def withdraw(place: Place, delivery: str) -> list[str]:
    """Take a delivery that was never wholly ingested out of the tables that hold rows of it.

    Returns:
        the names of those tables; none if the delivery is in the log, which is left alone.
    """
    if delivery in log.ingested(place.lake):
        return []
    withdrawn = []
    for table in TABLES:
        if delivery in delta.partition_values(place.lake, table.path, DELIVERY_COLUMN):
            schema = contract.spark_schema(table)
            delta.replace_partition(place.spark, place.lake, table.path, None, schema, DELIVERY_COLUMN, delivery)
            withdrawn.append(table.name)
    return withdrawn


def _forget_if_changed(place: Place, inspection: Inspection) -> None:
    """Take a delivery out of the log whose source is no longer what the log says, before its tables change."""
    row = log.read(place.lake, inspection.delivery)
    if row is not None and row["source_fingerprint"] != inspection.contents.fingerprint:
        _write_log(place, inspection.delivery, None)


def _write_log(place: Place, delivery: str, row: dict[str, Any] | None) -> None:
    schema = contract.spark_schema(LOG)
    rows = None
    if row is not None:
        fields = [field for field in schema if field.name in row]
        rows = place.spark.range(1).select(*(_literal(row[f.name], f.dataType).alias(f.name) for f in fields))
    delta.replace_partition(place.spark, place.lake, LOG.path, rows, schema, DELIVERY_COLUMN, delivery)


def _literal(value: Any, type_: DataType) -> Column:
    """A value as an expression. A structure goes by JSON, for the fields of one that is built can't be null, and Sail
    takes that for another type than the table's."""
    if isinstance(type_, StructType):
        return F.from_json(F.lit(json.dumps(value)), type_)
    return F.lit(value).cast(type_)


def _reconcile(place: Place, inspection: Inspection, tables: tuple[Table, ...]) -> dict[str, int]:
    """The rows that tables hold of a delivery, which must be those that the source has."""
    found = count_rows(place, inspection.delivery, tables)
    wrong = [table for table in tables if found[table.name] != inspection.rows[table.name]]
    if wrong:
        raise TableError(
            ", ".join(table.path for table in wrong),
            expected=", ".join(f"{inspection.rows[table.name]:,} rows" for table in wrong)
            + f" of delivery {inspection.delivery}",
            found=", ".join(f"{found[table.name]:,}" for table in wrong),
            hint="The delivery is not in the log. Ingest it again; if that doesn't help, please report it.",
        )
    return found


def count_rows(place: Place, delivery: str, tables: tuple[Table, ...] = TABLES) -> dict[str, int]:
    """The number of rows that each table holds of a delivery; 0 where there is no table."""
    counts = dict.fromkeys((table.name for table in tables), 0)
    there = [table for table in tables if delta.open_table(place.lake, table.path) is not None]
    if there:
        parts = [
            delta.read_partition(place.spark, place.lake, table.path, DELIVERY_COLUMN, delivery).agg(
                F.lit(table.name).alias("name"), F.count(F.lit(1)).alias("rows")
            )
            for table in there
        ]
        united = parts[0]
        for part in parts[1:]:
            united = united.unionByName(part)
        counts |= {row["name"]: int(row["rows"]) for row in united.collect()}
    return counts
