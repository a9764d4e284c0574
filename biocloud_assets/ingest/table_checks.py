"""Check the tables in the lake: the rows of one delivery, or of all deliveries in the log.

The checks are derived from the contract: `row_count` and `key` for every table, `ranges` and `references` for those
whose columns have a range or refer to another table.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

from biocloud_assets.ingest import delivery_log
from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.schema import DELIVERY_COLUMN, Contract, Table, walk
from biocloud_assets.steps import CheckResult

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

DESCRIPTIONS = {
    "row_count": "The table has as many rows as the source.",
    "key": "No key is null or repeated.",
    "ranges": "All values are in the range that the contract gives.",
    "references": "Every reference leads to a row in the lake.",
}
"""What each check promises."""

BLOCKING = frozenset({"row_count", "key"})
"""The checks that fail the step; the others warn."""

_EXAMPLES = 3


@dataclass(frozen=True)
class Totals:
    """What one query finds out about a table.

    Attributes:
        rows: its number of rows.
        null_keys: how many of them have a null in the key.
        repeated_keys: how many keys are in more than one row.
        outside: for each column with a range, how many values are outside.
    """

    rows: int
    null_keys: int
    repeated_keys: int
    outside: dict[str, int]


def range_columns(contract: Contract, table: Table) -> dict[str, tuple[float, float]]:
    """The columns of a table that have a range, from the fields that they are made of."""
    fields = dict(walk(contract.folder(table.folder).fields)) if table.folder else {}
    found = {
        column.name: fields[column.source].range
        for column in table.columns
        if column.takes == "value" and column.source in fields
    }
    return {name: span for name, span in found.items() if span is not None}


def reference_columns(contract: Contract, table: Table) -> dict[str, str]:
    """The columns of a table that refer to the rows of a folder, with the folder's name."""
    fields = dict(walk(contract.folder(table.folder).fields)) if table.folder else {}
    found = {
        column.name: fields[column.source].references
        for column in table.columns
        if column.takes == "value" and column.source in fields
    }
    return {name: target for name, target in found.items() if target is not None}


def checks_of(contract: Contract, table: Table) -> tuple[str, ...]:
    """The names of the checks that a table has."""
    return (
        "row_count",
        "key",
        *(("ranges",) if range_columns(contract, table) else ()),
        *(("references",) if reference_columns(contract, table) else ()),
    )


def measure(context: IngestContext, tables: Sequence[Table], deliveries: Collection[str]) -> dict[str, Totals]:
    """Count rows, keys and values outside their range, in one query for all tables.

    Args:
        context: what the ingest works with.
        tables: the tables, each of which exists.
        deliveries: the deliveries whose rows to count.

    Returns:
        the totals by the name of the table.
    """
    from pyspark.sql import functions as F

    parts = []
    for table in tables:
        ranges = range_columns(context.contract, table)
        null_key = reduce(or_, (F.col(name).isNull() for name in table.required_key))
        outside = [F.count_if(~F.col(name).between(*span)) for name, span in ranges.items()]
        parts.append(
            _rows(context, table, deliveries).agg(
                F.lit(table.name).alias("table"),
                F.count(F.lit(1)).alias("rows"),
                F.count_if(null_key).alias("null_keys"),
                # As many digests as rows mean that all keys differ; only if there are fewer are the keys compared.
                F.count_distinct(F.xxhash64(*_key(table, deliveries))).alias("digests"),
                (F.array(*outside) if outside else F.array(F.lit(0).cast("long"))).alias("outside"),
            )
        )
    totals = {}
    for row in reduce(lambda left, right: left.unionByName(right), parts).collect() if parts else ():
        table = context.contract.table(row["table"])
        repeated = 0
        if row["digests"] < row["rows"]:
            rows = _rows(context, table, deliveries)
            repeated = rows.groupBy(*_key(table, deliveries)).agg(F.count(F.lit(1)).alias("_n")).where("_n > 1").count()
        names = range_columns(context.contract, table)
        outside_counts = dict(zip(names, row["outside"], strict=False))
        totals[table.name] = Totals(row["rows"], row["null_keys"], repeated, outside_counts)
    return totals


def check_tables(
    context: IngestContext, checks: Collection[str], delivery: str | None, expected_rows: dict[str, int] | None = None
) -> Iterator[CheckResult]:
    """Check some tables.

    Args:
        context: what the ingest works with.
        checks: the checks to run, `raw/dsi/sensor:key`.
        delivery: the delivery whose rows to check; if None, all deliveries that are in the log when the checks begin.
            The tables are read after the log, so a delivery that is removed from it and written again in between may
            fail a check that succeeds when it is repeated.
        expected_rows: for each table, the rows that the source has; those of the delivery log if None.

    Yields:
        the result of each check.
    """
    contract = context.contract
    selected = {
        table.name: [check for check in checks_of(contract, table) if f"{contract.address(table)}:{check}" in checks]
        for table in contract.tables
    }
    tables = [table for table in contract.tables if selected[table.name]]
    existing = [t for t in tables if context.tables.exists(contract.address(t))]
    # A delivery that is not in the log may have rows: it is being ingested, or its ingest was interrupted.
    deliveries = delivery_log.ingested(context.tables, contract) if delivery is None else {delivery}
    if expected_rows is None and any("row_count" in names for names in selected.values()):
        expected_rows = _logged_rows(context, deliveries)
    totals = measure(context, existing, deliveries)
    dangling = _dangling(context, [table for table in existing if "references" in selected[table.name]], deliveries)
    for table in tables:
        for check in selected[table.name]:
            address = contract.address(table)
            if table.name not in totals:
                description = f"expected the table, found none at {context.lake.uri(address)}"
                yield CheckResult(address, check, False, check in BLOCKING, description)
                continue
            passed, expected, found = _judge(
                contract,
                table,
                check,
                totals[table.name],
                expected_rows or {},
                dangling.get(table.name, {}),
                deliveries,
            )
            yield CheckResult(address, check, passed, check in BLOCKING, f"expected {expected}, found {found}")


def _judge(
    contract: Contract,
    table: Table,
    check: str,
    totals: Totals,
    expected_rows: dict[str, int],
    dangling: dict[str, str],
    deliveries: Collection[str],
) -> tuple[bool, str, str]:
    """Whether a check passed, what was expected, and what was found."""
    if check == "row_count":
        expected = expected_rows.get(table.name, 0)
        return totals.rows == expected, f"{expected:,} rows, as in the source", f"{totals.rows:,} rows"
    if check == "key":
        return (
            not totals.null_keys and not totals.repeated_keys,
            f"{', '.join(_key(table, deliveries))}: each once, and {', '.join(table.required_key)} without nulls",
            f"{totals.null_keys:,} rows with a null key, {totals.repeated_keys:,} keys in more than one row",
        )
    if check == "ranges":
        ranges = range_columns(contract, table)
        outside = {name: count for name, count in totals.outside.items() if count}
        return (
            not outside,
            ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in ranges.items()),
            ", ".join(f"{count:,} outside in {name}" for name, count in outside.items()) or "none outside",
        )
    references = reference_columns(contract, table)
    return (
        not dangling,
        ", ".join(f"every {column} in {target}" for column, target in references.items()),
        "; ".join(dangling.values()) or "no dangling reference",
    )


def _key(table: Table, deliveries: Collection[str]) -> list[str]:
    return [DELIVERY_COLUMN, *table.key] if len(deliveries) > 1 else list(table.key)


def _rows(context: IngestContext, table: Table, deliveries: Collection[str] | None) -> DataFrame:
    """The rows of some deliveries; all rows if None."""
    from pyspark.sql import functions as F

    rows = context.read_table(table)
    if deliveries is None:
        return rows
    # With 2,000 deliveries on Sail 0.7, a join with the log takes up to twice as long as these names in a condition.
    return rows.where(F.col(DELIVERY_COLUMN).isin(*deliveries) if deliveries else F.lit(False))


def _logged_rows(context: IngestContext, deliveries: Collection[str]) -> dict[str, int]:
    """The rows that the delivery log gives for each table, of some deliveries together."""
    rows: dict[str, int] = {}
    for row in delivery_log.read_all(context.tables, context.contract, deliveries).values():
        for name, count in row["rows"].items():
            rows[name] = rows.get(name, 0) + count
    return rows


def _dangling(
    context: IngestContext, tables: Sequence[Table], deliveries: Collection[str]
) -> dict[str, dict[str, str]]:
    """By table and column: the references of some deliveries that lead to no row in the lake, in words."""
    from pyspark.sql import functions as F

    contract = context.contract
    columns = {
        f"{table.name}.{column}": (table, column, target)
        for table in tables
        for column, target in reference_columns(contract, table).items()
    }
    if not columns:
        return {}
    values = [
        _rows(context, table, deliveries).select(
            F.lit(name).alias("reference"), F.lit(target).alias("folder"), F.col(column).alias("id")
        )
        for name, (table, column, target) in columns.items()
    ]
    unresolved = _union(values).where(F.col("id").isNotNull()).distinct()
    targets = sorted({target for _, _, target in columns.values()})
    # The rows of the deliveries themselves first: mostly they resolve all, and the rest of the lake isn't read.
    for rows_of in (deliveries, None):
        known = [
            _rows(context, contract.record_table(name), rows_of).select(
                F.lit(name).alias("folder"), F.col(contract.folder(name).key).alias("id")
            )
            for name in targets
            if context.tables.exists(contract.address(contract.record_table(name)))
        ]
        if known:
            unresolved = unresolved.join(_union(known), ["folder", "id"], "left_anti")
        counts = unresolved.groupBy("reference", "folder").agg(F.count("id").alias("n")).collect()
        targets = sorted({row["folder"] for row in counts})
        if not counts:
            return {}
    found: dict[str, dict[str, str]] = {}
    for row in sorted(counts, key=lambda row: str(row["reference"])):
        table, column, target = columns[row["reference"]]
        examples = unresolved.where(F.col("reference") == row["reference"]).orderBy("id").limit(_EXAMPLES).collect()
        shown = ", ".join(repr(_cut(example["id"])) for example in examples)
        found.setdefault(table.name, {})[column] = f"{row['n']:,} of {column} that {target} doesn't have: {shown}"
    return found


def _cut(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _union(frames: list[DataFrame]) -> DataFrame:
    return reduce(lambda left, right: left.unionByName(right), frames)
