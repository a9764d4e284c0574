"""Is a delivery as the contract says? Every fault is found before anything is written, and all are reported at once.

What belongs here: finding faults in the values, on the engine, in one pass for each chain of nested lists. What
doesn't: what the files alone show (`files`), writing, and Dagster's checks, which only show what is found here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pyspark.errors import PySparkException
from pyspark.sql import functions as F

from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi import contract, source
from biocloud_assets.raw.dsi.contract import Field, Folder, ListOf, Presence, Struct
from biocloud_assets.raw.dsi.delivery import Contents
from biocloud_assets.raw.dsi.files import Fault, Inspection, Kind, SourceFile, errors_first, inspect_files
from biocloud_assets.spark import delta

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession


def validate(spark: SparkSession, landing: DataLake, lake: DataLake, contents: Contents) -> Inspection:
    """Find every fault of a delivery: in its files, and in the values of the columns that can be read.

    Args:
        spark: the session.
        landing: the landing zone.
        lake: the lake, which is only read: references may point to rows of an earlier delivery.
        contents: the delivery's files.

    Returns:
        the faults, and the rows that each table must get.
    """
    inspection = inspect_files(landing, contents)
    faults = list(inspection.faults)
    rows: dict[str, int] = {}
    frames: dict[str, DataFrame] = {}
    for folder in contract.FOLDERS:
        files = inspection.sources[folder.name]
        if not files:
            continue
        examination = _Examination(spark, landing, contents.delivery, folder, files)
        found, counted = examination.run()
        faults += found
        rows |= counted
        if not any(fault.kind is Kind.UNREADABLE_PARQUET for fault in found):
            frames[folder.name] = source.read(spark, landing, folder, files)
    faults += _references_to_nowhere(spark, lake, contents.delivery, frames, inspection)
    return Inspection(contents, inspection.sources, errors_first(faults), rows)


@dataclass(frozen=True)
class _Test:
    """One thing to find in the values of a column: an expression that is true for a row which has the fault."""

    kind: Kind
    column: str
    expected: str
    fails: Column
    label: str


@dataclass(frozen=True)
class _Examination:
    """The values of one folder, in one pass for its records and one for each chain of nested lists."""

    spark: SparkSession
    landing: DataLake
    delivery: str
    folder: Folder
    files: tuple[SourceFile, ...]

    def run(self) -> tuple[list[Fault], dict[str, int]]:
        try:
            return self._run()
        except PySparkException as error:
            # A footer that is whole over pages that aren't: find out which file it is.
            broken = [(file, reason) for file in self.files if (reason := self._unreadable(file)) is not None]
            if not broken:
                raise
            del error
            return [
                self._fault(Kind.UNREADABLE_PARQUET, file.info.name, None, "a whole Parquet file", reason)
                for file, reason in broken
            ], {}

    def _unreadable(self, file: SourceFile) -> str | None:
        try:
            frame = source.read(self.spark, self.landing, self.folder, [file])
            frame.select(F.count(F.to_json(F.struct(*contract_names(self.folder))))).collect()
        except PySparkException as error:
            return str(error).strip().splitlines()[0]
        return None

    def _run(self) -> tuple[list[Fault], dict[str, int]]:
        frame = source.read(self.spark, self.landing, self.folder, self.files)
        unusable = frozenset.intersection(*(file.unusable for file in self.files))
        faults: list[Fault] = []
        rows: dict[str, int] = {}
        for levels in ((), *_chains(self.folder)):
            exploded, tests, counts = _chain(frame, self.folder, levels, unusable)
            totals = exploded.agg(
                *(F.count_if(test.fails).alias(f"t{number}") for number, test in enumerate(tests)),
                *(count.alias(name) for name, count in counts.items()),
            ).collect()[0]
            rows |= {name: int(totals[name]) for name in counts if not name.startswith("_")}
            failed = [test for number, test in enumerate(tests) if totals[f"t{number}"]]
            if failed:
                faults += self._locate(levels, failed, unusable)
            if not levels and self.folder.key not in unusable and totals["_keys"] > totals["_distinct"]:
                faults.append(self._repeated_key(frame))
        return faults, rows

    def _locate(self, levels: tuple[str, ...], failed: list[_Test], unusable: frozenset[str]) -> list[Fault]:
        """A fault for each file that has it: the second look, which only faulty folders get."""
        labels = {(test.kind, test.column) for test in failed}
        faults = []
        for file in self.files:
            frame = source.read(self.spark, self.landing, self.folder, [file])
            exploded, tests, _ = _chain(frame, self.folder, levels, unusable | file.unusable, with_id=True)
            for test in tests:
                if (test.kind, test.column) in labels:
                    hits = exploded.where(F.coalesce(test.fails, F.lit(False)))
                    count = hits.count()
                    if count:
                        examples = [row[0] for row in hits.select(F.col("_id")).limit(3).collect()]
                        where = ", ".join(repr(example) for example in examples if example is not None)
                        found = f"{count:,} {test.label}" + (f", for instance in id {where}" if where else "")
                        faults.append(self._fault(test.kind, file.info.name, test.column, test.expected, found))
        return faults

    def _repeated_key(self, frame: DataFrame) -> Fault:
        key = self.folder.key
        repeated = frame.where(F.col(key).isNotNull()).groupBy(key).agg(F.count(F.lit(1)).alias("n")).where("n > 1")
        count = repeated.count()
        examples = [row[0] for row in repeated.orderBy(key).limit(3).collect()]
        holders = [
            file.info.name
            for file in self.files
            if source.read(self.spark, self.landing, self.folder, [file]).where(F.col(key).isin(examples)).count()
        ]
        shown = ", ".join(repr(example) for example in examples)
        return self._fault(
            Kind.REPEATED_KEY,
            ", ".join(holders),
            key,
            "each key once in the delivery",
            f"{count:,} key{'s' if count != 1 else ''} more than once: {shown}",
        )

    def _fault(self, kind: Kind, file: str | None, column: str | None, expected: str, found: str) -> Fault:
        return Fault(kind, self.delivery, self.folder.name, file, column, expected, found)


def contract_names(folder: Folder) -> list[str]:
    """The names of a folder's columns."""
    return [item.name for item in folder.fields]


def _chains(folder: Folder) -> list[tuple[str, ...]]:
    """The chains of nested lists of a folder, each with all its levels: one pass sees a whole chain."""
    levels = {table.levels for table in contract.TABLES if table.folder == folder.name and table.levels}
    return sorted(
        chain for chain in levels if not any(other != chain and other[: len(chain)] == chain for other in levels)
    )


def _chain(
    frame: DataFrame, folder: Folder, levels: tuple[str, ...], unusable: frozenset[str], *, with_id: bool = False
) -> tuple[DataFrame, list[_Test], dict[str, Column]]:
    """A folder's records with a chain of lists exploded, what to test in it, and what to count.

    Args:
        frame: the records.
        folder: the folder.
        levels: the chain's lists, outermost first; none for the records as they are.
        unusable: the paths of fields that can't be tested.
        with_id: whether the rows have the key of their record, as `_id`, also where lists are exploded.

    Returns:
        a frame with one row for each innermost element (and one for each list that has none), the tests, and for each
        table of the chain the number of rows that it must get.
    """

    def usable(path: str) -> bool:
        return not any(path == bad or path.startswith((f"{bad}.", f"{bad}[")) for bad in unusable)

    def tests_at(depth: int, element: Column | None) -> Iterator[_Test]:
        level = ("", *levels)[depth]
        if element is not None and usable(level.removesuffix("[]")):
            null = F.col(f"_i{depth - 1}").isNotNull() & element.isNull()
            yield _Test(Kind.NULL_ELEMENT, level, "no null in the list", null, "null elements")
        fields = folder.fields if element is None else _element_fields(folder, level)
        yield from (test for test in _tests(element, fields, level) if usable(test.column))

    exploded = frame.select(F.col(folder.key).alias("_id"), "*") if not levels else frame
    tests = [] if levels else list(tests_at(0, None))
    element: Column | None = None
    kept = [F.col(folder.key).alias("_id")] if with_id else []
    names = ["_id"] if with_id else []
    for depth, level in enumerate(levels, start=1):
        outer = levels[depth - 2] if depth > 1 else ""
        items = _get(element, level.removesuffix("[]").removeprefix(outer).removeprefix("."))
        # Whatever stands beside a list is copied for each of its elements. So first all is left out but what the tests
        # say of the element above, which is looked at in the first of its rows.
        exploded = exploded.select(*kept, items.alias("_items"))
        exploded = exploded.select(*names, F.posexplode_outer("_items").alias(f"_i{depth - 1}", "_e"))
        element = F.col("_e")
        found = list(tests_at(depth, element))
        if depth < len(levels):
            results = {f"_t{depth}_{number}": test.fails for number, test in enumerate(found)}
            first = _first_of(depth, levels)
            found = [replace(test, fails=F.col(name) & first) for name, test in zip(results, found, strict=True)]
            names.append(f"_i{depth - 1}")
            kept = [*map(F.col, names), *(test.alias(name) for name, test in results.items())]
            names += results
        tests += found

    counts: dict[str, Column] = {}
    if not levels:
        counts["_keys"] = F.count(F.col("_id"))
        counts["_distinct"] = F.count_distinct(F.col("_id"))
    for table in contract.TABLES:
        if (
            table.folder == folder.name
            and table.levels == levels[: len(table.levels)]
            and bool(table.levels) == bool(levels)
        ):
            depth = len(table.levels)
            if not depth:
                counts[table.name] = F.count(F.lit(1))
            elif table.keeps_empty:
                counts[table.name] = F.count_if(F.col("_i0").isNotNull())
            else:
                counts[table.name] = F.count_if(F.col(f"_i{depth - 1}").isNotNull() & _first_of(depth, levels))
    return exploded, tests, counts


def _first_of(depth: int, levels: tuple[str, ...]) -> Column:
    """Whether a row is the first of those that an element of a level was exploded into."""
    first = F.lit(True)
    for below in range(depth, len(levels)):
        first = first & (F.coalesce(F.col(f"_i{below}"), F.lit(0)) == 0)
    return first


def _get(element: Column | None, path: str) -> Column:
    first, *rest = path.split(".")
    value = F.col(first) if element is None else element.getField(first)
    for name in rest:
        value = value.getField(name)
    return value


def _element_fields(folder: Folder, level: str) -> tuple[Field, ...]:
    type_ = dict(contract.walk(folder.fields))[level.removesuffix("[]")].type
    assert isinstance(type_, ListOf), level
    return type_.element.fields


def _tests(element: Column | None, fields: tuple[Field, ...], level: str) -> Iterator[_Test]:
    """What to test in the fields of one structure, outside the lists in it."""
    prefix = f"{level}." if level else ""
    for path, item in contract.walk(fields):
        if "[]" in path or isinstance(item.type, (Struct, ListOf)):
            continue
        value, column = _get(element, path), f"{prefix}{path}"
        if item.presence is Presence.KEY:
            yield _Test(Kind.NULL_KEY, column, "a key in every row", value.isNull(), "rows with a null key")
        elif item.presence is Presence.REQUIRED:
            yield _Test(Kind.NULL_VALUE, column, "a value in every row", value.isNull(), "rows with a null")
        if item.range is not None:
            low, high = item.range
            kind = Kind.PROBABILITY_RANGE if item.name == "probability" else Kind.BOX_RANGE
            # NaN is greater than every number to Spark, and so outside too.
            yield _Test(kind, column, f"{low:g} to {high:g}", ~value.between(low, high), "values outside")
    names = {item.name for item in fields}
    if "box" in names:
        for start, end in contract.BOX_SIDES:
            inverted = _get(element, f"box.{start}") > _get(element, f"box.{end}")
            column = f"{prefix}box.{start}"
            yield _Test(Kind.BOX_INVERTED, column, f"{start} not greater than {end}", inverted, "inverted boxes")


def _references_to_nowhere(
    spark: SparkSession, lake: DataLake, delivery: str, frames: dict[str, DataFrame], inspection: Inspection
) -> Iterator[Fault]:
    """The references that neither this delivery nor the lake resolves."""
    for folder in contract.FOLDERS:
        if folder.name not in frames:
            continue
        unusable = frozenset.union(*(file.unusable for file in inspection.sources[folder.name]))
        for path, item in contract.walk(folder.fields):
            if item.references is None or any(path.startswith(bad) for bad in unusable):
                continue
            names = path.split("[].")
            values = frames[folder.name]
            if len(names) > 1:
                values = values.select(F.explode(names[0]).alias("_e"))
                value = F.col("_e").getField(names[1])
            else:
                value = F.col(path)
            open_ = values.select(value.alias("id")).where(F.col("id").isNotNull())
            if item.references in frames:
                there = frames[item.references].select(F.col(contract.folder(item.references).key).alias("id"))
                open_ = open_.join(there, "id", "left_anti")
            if open_.isEmpty():
                continue
            earlier = delta.open_table(lake, contract.table(item.references).path)
            if earlier is not None:
                key = contract.folder(item.references).key
                uri = lake.uri(contract.table(item.references).path)
                table = spark.read.format("delta").load(uri).where(F.col(contract.DELIVERY_COLUMN) != delivery)
                open_ = open_.join(table.select(F.col(key).alias("id")), "id", "left_anti")
            open_ = open_.distinct()
            missing = [row[0] for row in open_.orderBy("id").limit(3).collect()]
            if missing:
                count = open_.count()
                shown = ", ".join(repr(value) for value in missing)
                yield Fault(
                    Kind.UNKNOWN_REFERENCE,
                    delivery,
                    folder.name,
                    None,
                    path,
                    f"the id of a row of {item.references}, in this delivery or an earlier one",
                    f"{count:,} id{'s' if count != 1 else ''} of none: {shown}",
                )
