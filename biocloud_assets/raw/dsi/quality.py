"""Are the tables in the lake as the contract says? For a delivery that was just written, or for all that are there.

What belongs here: checks of what is in the tables, made from the contract. What doesn't: checks of what was delivered
(`validation`), and how results are shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import or_

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from biocloud_assets.raw.dsi import contract, ingest, log
from biocloud_assets.raw.dsi.contract import DELIVERY_COLUMN, Table
from biocloud_assets.raw.dsi.delivery import look
from biocloud_assets.spark import delta


@dataclass(frozen=True)
class Finding:
    """The outcome of one check of one table.

    Attributes:
        table: the table's name.
        check: `row_count`, `key`, `ranges` or `references`.
        passed: whether it is as expected.
        expected: what was expected.
        found: what was found.
    """

    table: str
    check: str
    passed: bool
    expected: str
    found: str


def range_columns(table: Table) -> dict[str, tuple[float, float]]:
    """The columns of a table that have a range, from the fields that they are made of."""
    fields = dict(contract.walk(contract.folder(table.folder).fields)) if table.folder else {}
    found = {
        column.name: fields[column.source].range
        for column in table.columns
        if column.takes == "value" and column.source in fields
    }
    return {name: span for name, span in found.items() if span is not None}


def reference_columns(table: Table) -> dict[str, str]:
    """The columns of a table that refer to another one, with its name; un-nested tables refer to their results too."""
    fields = dict(contract.walk(contract.folder(table.folder).fields)) if table.folder else {}
    found = {
        column.name: fields[column.source].references
        for column in table.columns
        if column.takes == "value" and column.source in fields and fields[column.source].references is not None
    }
    return {name: target for name, target in found.items() if target is not None}


def checks_of(table: Table) -> tuple[str, ...]:
    """The names of the checks that a table has."""
    return (
        "row_count",
        "key",
        *(("ranges",) if range_columns(table) else ()),
        *(("references",) if reference_columns(table) else ()),
    )


def examine(place: ingest.Place, tables: tuple[Table, ...], delivery: str | None = None) -> Iterator[Finding]:
    """Check tables.

    Args:
        place: where it runs.
        tables: the tables to check.
        delivery: the delivery whose rows to check; all if None.

    Yields:
        a finding for each check of each table (`checks_of`), as soon as it is known.
    """
    for table in tables:
        if delta.open_table(place.lake, table.path) is None:
            for check in checks_of(table):
                yield Finding(table.name, check, False, "the table", f"no table at {place.lake.uri(table.path)}")
            continue
        rows = _rows(place, table, delivery)
        ranges = range_columns(table)
        key = [DELIVERY_COLUMN, *table.key] if delivery is None else list(table.key)
        null_key = reduce(or_, (F.col(name).isNull() for name in table.required_key))
        totals = rows.agg(
            F.count(F.lit(1)).alias("rows"),
            F.count_if(null_key).alias("null_keys"),
            # Keys of as many digests as rows are all different; only if there are fewer are the keys compared.
            F.count_distinct(F.xxhash64(*key)).alias("digests"),
            *(F.count_if(~F.col(name).between(*span)).alias(f"outside_{name}") for name, span in ranges.items()),
        ).collect()[0]
        yield _row_count(place, table, delivery, totals["rows"])
        repeated = 0
        if totals["digests"] < totals["rows"]:
            repeated = rows.groupBy(*key).agg(F.count(F.lit(1)).alias("_n")).where("_n > 1").count()
        yield Finding(
            table.name,
            "key",
            not totals["null_keys"] and not repeated,
            f"{', '.join(key)}: each once, and {', '.join(table.required_key)} without nulls",
            f"{totals['null_keys']:,} rows with a null key, {repeated:,} keys in more than one row",
        )
        if ranges:
            outside = {name: totals[f"outside_{name}"] for name in ranges if totals[f"outside_{name}"]}
            yield Finding(
                table.name,
                "ranges",
                not outside,
                ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in ranges.items()),
                ", ".join(f"{count:,} outside in {name}" for name, count in outside.items()) or "none outside",
            )
        if references := reference_columns(table):
            yield _references(place, table, rows, references)


def _rows(place: ingest.Place, table: Table, delivery: str | None) -> DataFrame:
    rows = place.spark.read.format("delta").load(place.lake.uri(table.path))
    return rows if delivery is None else rows.where(F.col(DELIVERY_COLUMN) == delivery)


def _row_count(place: ingest.Place, table: Table, delivery: str | None, found: int) -> Finding:
    """The rows against those of the source; where that is gone, or for all deliveries, against the delivery log."""
    if delivery is not None and not (contents := look(place.landing, delivery)).missing:
        expected, where = ingest.inspect(place, contents.delivery).rows.get(table.name, 0), "in the source"
    else:
        deliveries = sorted(log.ingested(place.lake)) if delivery is None else [delivery]
        logged = [row for name in deliveries if (row := log.read(place.lake, name)) is not None]
        expected, where = sum(row["rows"].get(table.name, 0) for row in logged), "in the delivery log"
    return Finding(table.name, "row_count", found == expected, f"{expected:,} rows, as {where}", f"{found:,} rows")


def _references(place: ingest.Place, table: Table, rows: DataFrame, references: dict[str, str]) -> Finding:
    missing = {}
    for column, target in references.items():
        there = contract.table(target)
        open_ = rows.select(F.col(column).alias("id")).where(F.col("id").isNotNull()).distinct()
        if delta.open_table(place.lake, there.path) is not None:
            ids = _rows(place, there, None).select(F.col(there.key[0]).alias("id"))
            open_ = open_.join(ids, "id", "left_anti")
        if count := open_.count():
            examples = ", ".join(repr(row[0]) for row in open_.orderBy("id").limit(3).collect())
            missing[column] = f"{count:,} of {column} that {target} doesn't have: {examples}"
    return Finding(
        table.name,
        "references",
        not missing,
        ", ".join(f"{column} in {target}" for column, target in references.items()),
        "; ".join(missing.values()) or "all there",
    )
