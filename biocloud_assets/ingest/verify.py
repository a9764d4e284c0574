"""Compare a delivery with what the lake holds of it, record by record: the records are re-nested from the tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.ingest.delivery import require_delivery
from biocloud_assets.ingest.inspection import read_records
from biocloud_assets.ingest.reader import read_delivery
from biocloud_assets.ingest.staging import staging_folder
from biocloud_assets.ingest.unnest import renest
from biocloud_assets.ingest.violations import Inspection, SourceFile
from biocloud_assets.schema import DELIVERY_COLUMN, RESCUED_COLUMN, Folder, ListOf, Scalar, Struct

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_EXAMPLES = 5


@dataclass(frozen=True)
class Comparison:
    """A folder of a delivery compared with its tables.

    Attributes:
        folder: the folder.
        records: the number of records in the source.
        missing: how many of them the lake doesn't have.
        added: how many records the lake has that the source doesn't have.
        differing: how many records differ.
        examples: a few of those records: the id, and the columns that differ. If the source breaks the contract now,
            its violations.
    """

    folder: str
    records: int
    missing: int
    added: int
    differing: int
    examples: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether source and lake hold the same."""
        return not (self.missing or self.added or self.differing or self.examples)


def verify(context: IngestContext, delivery: str) -> Iterator[Comparison]:
    """Compare a delivery in the landing zone with what the lake holds of it.

    Args:
        context: what the ingest works with. The lake is only read, except for its staging folder.
        delivery: the delivery's name.

    Yields:
        a comparison for each folder, as soon as it is made.

    Raises:
        DeliveryNameError: `delivery` is not the name of a delivery, or there is none of that name.
    """
    files = require_delivery(context.landing, context.contract, delivery)
    with staging_folder(context.staging) as staging:
        inspection = read_delivery(context.landing, context.contract, files, staging=staging)
        for folder in context.contract.folders:
            broken = [str(violation) for violation in inspection.errors if violation.folder == folder.name]
            if broken:
                yield Comparison(folder.name, 0, 0, 0, 0, tuple(broken[:_EXAMPLES]))
            else:
                yield compare(context, inspection, folder)


def compare(context: IngestContext, inspection: Inspection, folder: Folder) -> Comparison:
    """Compare a folder of a delivery with its tables.

    Args:
        context: what the ingest works with.
        inspection: the delivery, whose normalised copies are still in the staging folder.
        folder: a folder without violations that refuse the delivery.
    """
    delivered = _delivered(context, folder, inspection.sources[folder.name])
    return _compare(folder, delivered, _from_lake(context, inspection.delivery, folder))


def _delivered(context: IngestContext, folder: Folder, sources: tuple[SourceFile, ...]) -> DataFrame:
    from pyspark.sql import functions as F

    frames = []
    for records in read_records(context.spark, folder, sources):
        columns = [
            _complete(field.type, F.col(field.name), rescued=records.rescued).alias(field.name)
            for field in folder.fields
        ]
        kept = F.col(RESCUED_COLUMN) if records.rescued else F.lit(None).cast("string").alias(RESCUED_COLUMN)
        frames.append(records.frame.select(*columns, kept))
    return reduce(lambda left, right: left.unionByName(right), frames)


def _from_lake(context: IngestContext, delivery: str, folder: Folder) -> DataFrame:
    from pyspark.sql import functions as F

    tables = {
        table.name: context.read_table(table).where(F.col(DELIVERY_COLUMN) == delivery)
        for table in context.contract.tables_of(folder.name)
    }
    records = renest(context.contract, folder, tables)
    columns = [_complete(field.type, F.col(field.name), rescued=True).alias(field.name) for field in folder.fields]
    return records.select(*columns, RESCUED_COLUMN)


def _complete(type_: Scalar | Struct | ListOf, value: Column, *, rescued: bool) -> Column:
    """A value in the form in which both sides are compared.

    A null structure is one whose fields are all null, as the tables can't tell them apart; every structure in a list
    has a `_rescued`.

    Args:
        type_: the contract's type.
        value: the value.
        rescued: whether the structures in lists have a `_rescued` already.
    """
    from pyspark.sql import functions as F

    if isinstance(type_, Struct):
        return F.struct(
            *(
                _complete(item.type, value.getField(item.name), rescued=rescued).alias(item.name)
                for item in type_.fields
            )
        )
    if isinstance(type_, ListOf):
        fields = type_.element.fields

        def element(item: Column) -> Column:
            kept = item.getField(RESCUED_COLUMN) if rescued else F.lit(None).cast("string")
            return F.struct(
                *(
                    _complete(field.type, item.getField(field.name), rescued=rescued).alias(field.name)
                    for field in fields
                ),
                kept.alias(RESCUED_COLUMN),
            )

        return F.transform(value, element)
    return value


def _compare(folder: Folder, delivered: DataFrame, held: DataFrame) -> Comparison:
    """Join both by key and compare each column."""
    from pyspark.sql import functions as F

    key = folder.key
    names = [*(field.name for field in folder.fields if field.name != key), RESCUED_COLUMN]

    def side(frame: DataFrame, prefix: str) -> DataFrame:
        return frame.select(
            F.col(key).alias(f"{prefix}_key"), *(F.col(name).alias(f"{prefix}_{name}") for name in names)
        )

    joined = side(delivered, "a").join(side(held, "b"), F.col("a_key").eqNullSafe(F.col("b_key")), "full_outer")
    both = F.col("a_key").isNotNull() & F.col("b_key").isNotNull()
    differs = {name: both & ~F.col(f"a_{name}").eqNullSafe(F.col(f"b_{name}")) for name in names}
    flags = joined.select(
        F.coalesce("a_key", "b_key").alias("key"),
        F.col("a_key").isNotNull().alias("delivered"),
        F.col("b_key").isNull().alias("missing"),
        F.col("a_key").isNull().alias("added"),
        reduce(or_, differs.values()).alias("differing"),
        F.concat_ws(", ", *(F.when(differs[name], F.lit(name)) for name in names)).alias("columns"),
    )
    counted = ("delivered", "missing", "added", "differing")
    totals = flags.agg(*(F.count_if(name).alias(name) for name in counted)).first()
    assert totals is not None
    examples = []
    if totals["missing"] or totals["added"] or totals["differing"]:
        for row in flags.where("missing or added or differing").orderBy("key").limit(_EXAMPLES).collect():
            what = "not in the lake" if row["missing"] else "not in the source" if row["added"] else row["columns"]
            examples.append(f"{row['key']}: {what}")
    return Comparison(
        folder.name, totals["delivered"], totals["missing"], totals["added"], totals["differing"], tuple(examples)
    )
