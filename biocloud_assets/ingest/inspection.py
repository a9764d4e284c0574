"""Inspect a delivery: find every violation before anything is written.

The files are read once in Arrow (`reader`). What concerns all files together is left to the engine, which can do it for
a delivery of any size: whether a key is repeated, and whether references lead to a row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING

from biocloud_assets.errors import TableError
from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.ingest.delivery import DeliveryFiles
from biocloud_assets.ingest.reader import read_delivery
from biocloud_assets.ingest.violations import Inspection, SourceFile, Violation, ViolationKind, errors_first
from biocloud_assets.lake import DataLake
from biocloud_assets.schema import DELIVERY_COLUMN, Contract, Field, Folder, spark_read_schema, walk

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

_EXAMPLES = 3


def inspect(context: IngestContext, files: DeliveryFiles, staging: DataLake) -> Inspection:
    """Find every violation of a delivery. The lake is only read.

    Args:
        context: what the ingest works with.
        files: the delivery's files.
        staging: where normalised copies of files go that aren't canonical, `staging.staging_folder`.

    Returns:
        the violations, and the rows that each table must get.

    Raises:
        TableError: the engine finds another number of rows in a folder than the files' footers.
    """
    context.start_engine()
    inspection = read_delivery(context.landing, context.contract, files, staging=staging)
    readable = {name: sources for name, sources in inspection.sources.items() if sources and _usable(sources)}
    if not readable:
        return inspection
    frames = {}
    for name, sources in readable.items():
        folder = context.contract.folder(name)
        fields = [folder.key, *(path for path, field in walk(folder.fields) if field.references is not None)]
        frames[name] = [records.frame for records in read_records(context.spark, folder, sources, fields)]
    violations = [
        *inspection.violations,
        *_repeated_keys(context, files.delivery, frames, readable),
        *_dangling_references(context, files.delivery, frames),
    ]
    return replace(inspection, violations=errors_first(violations))


def _usable(sources: tuple[SourceFile, ...]) -> bool:
    return all(source.uri for source in sources)


@dataclass(frozen=True)
class Records:
    """The records of some files of a folder that have the same layout.

    Attributes:
        frame: the records, with the fields that were asked for.
        rescued: whether the layout is that of `schema.arrow_schema(folder, rescued=True)`.
    """

    frame: DataFrame
    rescued: bool


def read_records(
    spark: SparkSession, folder: Folder, sources: Sequence[SourceFile], fields: Collection[str] | None = None
) -> list[Records]:
    """The records of a folder's files, by layout.

    Args:
        spark: the session.
        folder: the folder.
        sources: files of it.
        fields: the paths of the fields to read, see `schema.spark_read_schema`; all if None.
    """
    paths = [path for path, _ in walk(folder.fields)] if fields is None else fields
    layouts = {rescued: [source.uri for source in sources if source.rescued is rescued] for rescued in (False, True)}
    return [
        Records(spark.read.schema(spark_read_schema(folder, paths, rescued=rescued)).parquet(*uris), rescued)
        for rescued, uris in layouts.items()
        if uris
    ]


def _repeated_keys(
    context: IngestContext,
    delivery: str,
    frames: dict[str, list[DataFrame]],
    sources: dict[str, tuple[SourceFile, ...]],
) -> Iterator[Violation]:
    """The keys that are in a folder more than once; also compares the engine's row counts with the footers'."""
    from pyspark.sql import functions as F

    keys = _union(
        [
            frame.select(F.lit(name).alias("folder"), F.col(context.contract.folder(name).key).alias("key"))
            for name, layouts in frames.items()
            for frame in layouts
        ]
    )
    # As many digests as keys mean that all keys differ; only if there are fewer are the keys themselves compared.
    totals = keys.groupBy("folder").agg(
        F.count(F.lit(1)).alias("rows"),
        F.count("key").alias("keys"),
        F.count_distinct(F.xxhash64("key")).alias("digests"),
    )
    found = {row["folder"]: row for row in totals.collect()}
    for name in frames:
        expected = sum(source.rows for source in sources[name])
        rows = found[name]["rows"] if name in found else 0
        if rows != expected:
            raise TableError(
                f"delivery {delivery}, folder {name}",
                expected=f"{expected:,} rows, as its files' footers say",
                found=f"{rows:,} read by the engine",
                hint="Nothing was written. Please report it, with the files.",
            )
        # A null key is a violation of its own, and adds one digest.
        nulls = rows - found[name]["keys"] if name in found else 0
        if name in found and found[name]["digests"] - (1 if nulls else 0) < found[name]["keys"]:
            yield from _repeated_key(context, delivery, context.contract.folder(name), sources[name])


def _repeated_key(
    context: IngestContext, delivery: str, folder: Folder, sources: tuple[SourceFile, ...]
) -> Iterator[Violation]:
    from pyspark.sql import functions as F

    keys = [
        records.frame.select(F.col(folder.key).alias("key"), F.lit(source.info.name).alias("file"))
        for source in sources
        for records in read_records(context.spark, folder, (source,), [folder.key])
    ]
    repeated = (
        _union(keys)
        .where(F.col("key").isNotNull())
        .groupBy("key")
        .agg(F.count(F.lit(1)).alias("n"), F.collect_set("file").alias("files"))
        .where("n > 1")
    )
    count = repeated.count()
    if not count:
        return
    examples = repeated.orderBy("key").limit(_EXAMPLES).collect()
    holders = sorted({file for row in examples for file in row["files"]})
    yield Violation(
        ViolationKind.REPEATED_KEY,
        delivery,
        folder.name,
        ", ".join(holders),
        folder.key,
        "each key once in the delivery",
        f"{count:,} key{'s' if count != 1 else ''} more than once: {_shown([row['key'] for row in examples])}",
    )


def references(contract: Contract) -> Iterator[tuple[Folder, str, Field]]:
    """The fields that refer to another folder: the folder, the field's path, and the field."""
    for folder in contract.folders:
        for path, field in walk(folder.fields):
            if field.references is not None:
                yield folder, path, field


def _dangling_references(
    context: IngestContext, delivery: str, frames: dict[str, list[DataFrame]]
) -> Iterator[Violation]:
    """The references that lead to a row neither of this delivery nor of an earlier one."""
    from pyspark.sql import functions as F

    contract = context.contract
    named = {
        f"{folder.name}.{path}": (folder, path, field)
        for folder, path, field in references(contract)
        # The targets of a folder that can't be read are unknown; its own violations say enough.
        if folder.name in frames and field.references in frames
    }
    values = [
        values_at(frame, path).select(
            F.lit(name).alias("reference"), F.lit(field.references).alias("folder"), F.col("id")
        )
        for name, (folder, path, field) in named.items()
        for frame in frames[folder.name]
    ]
    if not values:
        return
    targets = {field.references: None for _, _, field in named.values() if field.references}
    here = _union(
        [
            frame.select(F.lit(name).alias("folder"), F.col(contract.folder(name).key).alias("id"))
            for name in targets
            for frame in frames[name]
        ]
    )
    unresolved = _union(values).where(F.col("id").isNotNull()).distinct().join(here, ["folder", "id"], "left_anti")
    left = {row["folder"] for row in unresolved.select("folder").distinct().collect()}
    earlier = [
        context.read_table(contract.record_table(name))
        .where(F.col(DELIVERY_COLUMN) != delivery)
        .select(F.lit(name).alias("folder"), F.col(contract.folder(name).key).alias("id"))
        for name in sorted(left)
        if context.tables.exists(contract.address(contract.record_table(name)))
    ]
    if earlier:
        unresolved = unresolved.join(_union(earlier), ["folder", "id"], "left_anti")
    if not left:
        return
    counts = {
        row["reference"]: row["n"] for row in unresolved.groupBy("reference").agg(F.count("id").alias("n")).collect()
    }
    for name, count in sorted(counts.items()):
        folder, path, field = named[name]
        examples = unresolved.where(F.col("reference") == name).orderBy("id").limit(_EXAMPLES).collect()
        yield Violation(
            ViolationKind.DANGLING_REFERENCE,
            delivery,
            folder.name,
            None,
            path,
            f"the {contract.folder(field.references or '').key} of a row of {field.references}, in this delivery or an "
            "earlier one",
            f"{count:,} value{'s' if count != 1 else ''} that {'match' if count != 1 else 'matches'} none: "
            + _shown([row["id"] for row in examples]),
        )


def values_at(frame: DataFrame, path: str) -> DataFrame:
    """The values of a nested field, one row each, as the column `id`; lists on the way are exploded."""
    from pyspark.sql import functions as F

    *lists, last = path.split("[].")
    for depth, level in enumerate(lists):
        frame = frame.select(F.explode(_field(F.col("_element") if depth else None, level)).alias("_element"))
    return frame.select(_field(F.col("_element") if lists else None, last).alias("id"))


def _field(element: Column | None, path: str) -> Column:
    from pyspark.sql import functions as F

    first, *rest = path.split(".")
    value = F.col(first) if element is None else element.getField(first)
    return reduce(lambda outer, name: outer.getField(name), rest, value)


def _union(frames: list[DataFrame]) -> DataFrame:
    return reduce(lambda left, right: left.unionByName(right), frames)


def _shown(values: list[str]) -> str:
    return ", ".join(repr(value if len(value) <= 200 else f"{value[:200]}…") for value in values)
