"""Does the lake hold all that was delivered? Re-nest a delivery from the tables, and compare it with the source.

What belongs here: the comparison, record by record. What doesn't: re-nesting itself (`unnest`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import or_

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from biocloud_assets.raw.dsi import contract, source
from biocloud_assets.raw.dsi.contract import DELIVERY_COLUMN, RESCUED_COLUMN, RESULT, Folder
from biocloud_assets.raw.dsi.delivery import look
from biocloud_assets.raw.dsi.files import inspect_files
from biocloud_assets.raw.dsi.ingest import Place
from biocloud_assets.raw.dsi.unnest import renest
from biocloud_assets.spark import delta

_EXAMPLES = 5


@dataclass(frozen=True)
class Comparison:
    """A folder of a delivery against its tables.

    Attributes:
        folder: the folder.
        records: the records in the source.
        missing: how many of them the lake doesn't have.
        added: how many records the lake has that the source doesn't.
        differing: how many records differ.
        examples: a few of those records: the id, and the columns that differ.
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
        return not (self.missing or self.added or self.differing)


def verify(place: Place, delivery: str) -> Iterator[Comparison]:
    """Compare a delivery in the landing zone with what the lake holds of it.

    Args:
        place: where it runs.
        delivery: the delivery's name.

    Yields:
        a comparison for each folder, as soon as it is made.

    Raises:
        DeliveryNameError: `delivery` is not a delivery's name.
    """
    inspection = inspect_files(place.landing, look(place.landing, delivery))
    for folder in contract.FOLDERS:
        files = inspection.sources[folder.name]
        if not files:
            yield Comparison(folder.name, 0, 0, 0, 0, ("the delivery has no files in this folder",))
            continue
        delivered = source.read(place.spark, place.landing, folder, files, rebuild=True)
        yield _compare(folder, delivered, _from_lake(place, delivery, folder))


def _from_lake(place: Place, delivery: str, folder: Folder) -> DataFrame:
    tables = {
        table.name: delta.read_partition(place.spark, place.lake, table.path, DELIVERY_COLUMN, delivery)
        for table in contract.TABLES
        if table.folder == folder.name
    }
    return renest(tables) if folder.name == RESULT else tables[folder.name].drop(DELIVERY_COLUMN)


def _compare(folder: Folder, delivered: DataFrame, held: DataFrame) -> Comparison:
    """Join both by key and compare each column; a null structure counts as one whose fields are all null."""
    key = folder.key
    names = [*(item.name for item in folder.fields if item.name != key), RESCUED_COLUMN]

    def side(frame: DataFrame, prefix: str) -> DataFrame:
        fields = {item.name: item for item in folder.fields}
        return frame.select(
            F.col(key).alias(f"{prefix}_key"),
            *(
                (_filled(fields[name], F.col(name)) if name in fields else F.col(name)).alias(f"{prefix}_{name}")
                for name in names
            ),
        )

    joined = side(delivered, "a").join(side(held, "b"), F.col("a_key").eqNullSafe(F.col("b_key")), "full_outer")
    both = F.col("a_key").isNotNull() & F.col("b_key").isNotNull()
    differs = {name: both & ~F.col(f"a_{name}").eqNullSafe(F.col(f"b_{name}")) for name in names}
    any_differs = reduce(or_, differs.values())
    flags = joined.select(
        F.coalesce("a_key", "b_key").alias("key"),
        F.col("a_key").isNotNull().alias("delivered"),
        F.col("b_key").isNull().alias("missing"),
        F.col("a_key").isNull().alias("added"),
        any_differs.alias("differing"),
        F.concat_ws(", ", *(F.when(differs[name], F.lit(name)) for name in names)).alias("columns"),
    )
    totals = flags.agg(
        *(F.count_if(name).alias(name) for name in ("delivered", "missing", "added", "differing"))
    ).first()
    assert totals is not None
    examples = []
    if totals["missing"] or totals["added"] or totals["differing"]:
        wrong = flags.where("missing or added or differing").orderBy("key").limit(_EXAMPLES).collect()
        for row in wrong:
            what = "not in the lake" if row["missing"] else "not in the source" if row["added"] else row["columns"]
            examples.append(f"{row['key']}: {what}")
    return Comparison(
        folder.name, totals["delivered"], totals["missing"], totals["added"], totals["differing"], tuple(examples)
    )


def _filled(item: contract.Field, value: Column) -> Column:
    """A null structure as one whose fields are all null, outside lists, where `source` and `renest` have done it."""
    if not isinstance(item.type, contract.Struct):
        return value
    return F.struct(*(_filled(inner, value.getField(inner.name)).alias(inner.name) for inner in item.type.fields))
