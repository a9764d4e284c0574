"""Is a delivery as the contract says? Every fault is found before anything is written, and all are reported at once.

What belongs here: the faults, and finding them: first in the listing and the Parquet footers (`inspect_files`, no
engine needed), then in the values (`validate`, on the engine, one pass for each chain of nested lists). What doesn't:
writing, and Dagster's checks, which only show what is found here.
"""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.errors import PySparkException
from pyspark.sql import functions as F

from biocloud_assets.lake import DataLake, FileInfo
from biocloud_assets.raw.dsi import contract, source
from biocloud_assets.raw.dsi.contract import Field, Folder, ListOf, Presence, Struct
from biocloud_assets.raw.dsi.delivery import Contents
from biocloud_assets.raw.dsi.delivery import path as delivery_path
from biocloud_assets.spark import delta

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession


class Kind(StrEnum):
    """What is wrong."""

    MISSING_FOLDER = "missing folder"
    EMPTY_FOLDER = "empty folder"
    NOT_PARQUET = "not Parquet"
    TRUNCATED_PARQUET = "truncated Parquet"
    UNREADABLE_PARQUET = "unreadable Parquet"
    MISSING_COLUMN = "missing column"
    RENAMED_COLUMN = "renamed column"
    REPEATED_COLUMN = "repeated column"
    WRONG_TYPE = "wrong type"
    LOSSY_TYPE = "lossy type"
    FILES_DISAGREE = "files disagree"
    NULL_KEY = "null key"
    NULL_VALUE = "null value"
    REPEATED_KEY = "repeated key"
    NULL_ELEMENT = "null list element"
    UNKNOWN_COLUMN = "unknown column"
    UNKNOWN_REFERENCE = "reference to nowhere"
    PROBABILITY_RANGE = "probability out of range"
    BOX_RANGE = "box out of range"
    BOX_INVERTED = "box inverted"
    UNEXPECTED_FILE = "unexpected file"


WARNINGS = frozenset(
    {
        Kind.UNKNOWN_COLUMN,
        Kind.UNKNOWN_REFERENCE,
        Kind.PROBABILITY_RANGE,
        Kind.BOX_RANGE,
        Kind.BOX_INVERTED,
        Kind.UNEXPECTED_FILE,
    }
)
"""The kinds that are reported and don't keep a delivery out; all others do."""


@dataclass(frozen=True)
class Fault:
    """One fault of a delivery.

    Attributes:
        kind: what is wrong.
        delivery: the delivery's name.
        folder: the folder, or the path of what doesn't belong there.
        file: the file or files; None where it is about the folder.
        column: the path of the column or nested field, or None.
        expected: what the contract says.
        found: what is there.
    """

    kind: Kind
    delivery: str
    folder: str
    file: str | None
    column: str | None
    expected: str
    found: str

    @property
    def is_warning(self) -> bool:
        """Whether the delivery is ingested all the same."""
        return self.kind in WARNINGS

    def __str__(self) -> str:
        place = [f"delivery {self.delivery}", f"folder {self.folder}"]
        place += [f"file {self.file}"] if self.file else []
        place += [f"column {self.column}"] if self.column else []
        return f"{self.kind}: {', '.join(place)}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True)
class SourceFile:
    """A Parquet file whose footer was read.

    Attributes:
        info: the file.
        rows: its number of rows.
        schema: its columns.
        unusable: the paths of the contract's fields that it lacks or has in a type that can't be taken.
    """

    info: FileInfo
    rows: int
    schema: pa.Schema
    unusable: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Inspection:
    """What was found in a delivery.

    Attributes:
        contents: the files that were looked at.
        sources: for each folder, its readable Parquet files.
        faults: all faults, errors first.
        rows: for each table, the rows that it must get.
    """

    contents: Contents
    sources: dict[str, tuple[SourceFile, ...]]
    faults: tuple[Fault, ...]
    rows: dict[str, int] = field(default_factory=dict)

    @property
    def delivery(self) -> str:
        """The delivery's name."""
        return self.contents.delivery

    @property
    def errors(self) -> tuple[Fault, ...]:
        """The faults that keep the delivery out."""
        return tuple(fault for fault in self.faults if not fault.is_warning)

    @property
    def warnings(self) -> tuple[Fault, ...]:
        """The faults that don't."""
        return tuple(fault for fault in self.faults if fault.is_warning)

    def of(self, folder: str) -> tuple[Fault, ...]:
        """The faults of one folder."""
        return tuple(fault for fault in self.faults if fault.folder == folder)


# --- files and footers ------------------------------------------------------------------------------------------------

_MAGIC = b"PAR1"
_FOOTER_GUESS = 64 * 1024  # one read is enough for most footers


def inspect_files(landing: DataLake, contents: Contents) -> Inspection:
    """Find the faults that the listing and the Parquet footers show, without an engine.

    Args:
        landing: the landing zone.
        contents: the delivery's files.

    Returns:
        the files with their schemas, and the faults; `rows` is empty.
    """
    sources: dict[str, tuple[SourceFile, ...]] = {}
    faults: list[Fault] = []
    for folder in contract.FOLDERS:
        found, folder_faults = _inspect_folder(landing, contents, folder)
        sources[folder.name] = found
        faults += folder_faults
    for other in contents.others:
        top, _, rest = other.partition("/")
        faults.append(
            Fault(
                Kind.UNEXPECTED_FILE,
                contents.delivery,
                top if rest else ".",
                rest or top,
                None,
                "only <folder>/*.parquet of " + ", ".join(contents.files),
                "a file that nobody reads",
            )
        )
    return Inspection(contents, sources, _sorted(faults))


def _inspect_folder(
    landing: DataLake, contents: Contents, folder: Folder
) -> tuple[tuple[SourceFile, ...], list[Fault]]:
    def fault(kind: Kind, file: str | None, column: str | None, expected: str, found: str) -> Fault:
        return Fault(kind, contents.delivery, folder.name, file, column, expected, found)

    files = contents.files[folder.name]
    if not files:
        others = [other for other in contents.others if other.startswith(f"{folder.name}/")]
        if others or folder.name in landing.list(delivery_path(contents.delivery)).folders:
            found = f"only {', '.join(others[:3])}" if others else "none"
            return (), [fault(Kind.EMPTY_FOLDER, None, None, "one Parquet file or more (it may have no rows)", found)]
        return (), [
            fault(Kind.MISSING_FOLDER, None, None, "the folder, with one Parquet file or more", "no such folder")
        ]

    sources: list[SourceFile] = []
    faults: list[Fault] = []
    for info in files:
        footer = _read_footer(landing, info)
        if isinstance(footer, tuple):
            kind, found = footer
            faults.append(fault(kind, info.name, None, "a whole Parquet file", found))
            continue
        schema = footer.schema.to_arrow_schema().remove_metadata()
        differences = list(_compare(folder.fields, schema))
        faults += [fault(d.kind, info.name, d.path, d.expected, d.found) for d in differences]
        try:
            differences += _lossy_values(landing, info, folder, schema, differences)
        except (pa.ArrowException, OSError) as error:
            found = f"values that can't be read: {error}"
            faults.append(fault(Kind.UNREADABLE_PARQUET, info.name, None, "a whole Parquet file", found))
            continue
        faults += [fault(d.kind, info.name, d.path, d.expected, d.found) for d in differences if d.in_values]
        unusable = frozenset(d.path for d in differences if d.kind not in WARNINGS)
        sources.append(SourceFile(info, footer.num_rows, schema, unusable))
    faults += [fault(Kind.FILES_DISAGREE, *disagreement) for disagreement in _disagreements(sources, faults)]
    return tuple(sources), faults


def _read_footer(landing: DataLake, info: FileInfo) -> pq.FileMetaData | tuple[Kind, str]:
    """Read a file's footer: one request on S3, two for a large footer."""
    tail = landing.read(info.path, start=-_FOOTER_GUESS)
    is_whole = tail[-4:] == _MAGIC and info.size >= 12
    head = tail[:4] if info.size <= len(tail) else _MAGIC if is_whole else landing.read(info.path, length=4)
    if head != _MAGIC or not is_whole:
        if head == _MAGIC:
            return Kind.TRUNCATED_PARQUET, f"a start, but no footer at its end ({info.size:,} bytes)"
        return Kind.NOT_PARQUET, f"{info.size:,} bytes that begin with {head!r}"
    size = int.from_bytes(tail[-8:-4], "little") + 8
    if size > info.size:
        return Kind.TRUNCATED_PARQUET, f"a footer of {size:,} bytes in a file of {info.size:,}"
    if size > len(tail):
        tail = landing.read(info.path, start=-size)
    try:
        # The footer alone is a file to Arrow: it is found from the end, and nothing else is read.
        metadata = pq.read_metadata(io.BytesIO(tail))
        metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError, ValueError) as error:
        return Kind.UNREADABLE_PARQUET, f"a footer that can't be read: {error}"
    # The column chunks aren't looked at: Arrow ends the process, not only the call, on some damaged ones.
    return metadata


@dataclass(frozen=True)
class _Difference:
    kind: Kind
    path: str
    expected: str
    found: str
    in_values: bool = False


def _compare(fields: tuple[Field, ...], found: Iterable[pa.Field], prefix: str = "") -> Iterator[_Difference]:
    """How the fields of a file, or of a structure in it, differ from the contract's."""
    there: dict[str, pa.DataType] = {}
    for item in found:
        if item.name in there:
            yield _Difference(Kind.REPEATED_COLUMN, f"{prefix}{item.name}", "one column of that name", "two or more")
        there[item.name] = item.type
    known = {item.name for item in fields}
    unknown = {name: type_ for name, type_ in there.items() if name not in known}
    missing = [item for item in fields if item.name not in there]
    for item in missing:
        new = _renamed(item, unknown, only=len(missing) == 1 and len(unknown) == 1)
        expected = f"{item.name} ({contract.type_name(item.type)})"
        if new is None:
            has = ", ".join(there) or "no columns"
            yield _Difference(Kind.MISSING_COLUMN, f"{prefix}{item.name}", expected, f"only {has}")
        else:
            unknown.pop(new)
            yield _Difference(Kind.RENAMED_COLUMN, f"{prefix}{item.name}", expected, f"{new} ({there[new]})")
    for name, type_ in unknown.items():
        yield _Difference(
            Kind.UNKNOWN_COLUMN,
            f"{prefix}{name}",
            "only columns of the contract",
            f"{name} ({type_}); its values are kept in {contract.RESCUED_COLUMN}",
        )
    for item in fields:
        if item.name in there:
            yield from _compare_type(item, there[item.name], f"{prefix}{item.name}")


def _compare_type(item: Field, found: pa.DataType, path: str) -> Iterator[_Difference]:
    found = _plain(found)
    expected = contract.type_name(item.type)
    if pa.types.is_null(found):  # a column of nothing but nulls, as exports of empty columns have it
        return
    if isinstance(item.type, Struct):
        if pa.types.is_struct(found):
            yield from _compare(item.type.fields, _struct_fields(found), f"{path}.")
        else:
            yield _Difference(Kind.WRONG_TYPE, path, expected, str(found))
    elif isinstance(item.type, ListOf):
        element = _plain(found.value_type) if _is_list(found) else None
        if element is not None and pa.types.is_null(element):
            return
        if element is not None and pa.types.is_struct(element):
            yield from _compare(item.type.element.fields, _struct_fields(element), f"{path}[].")
        else:
            yield _Difference(Kind.WRONG_TYPE, path, expected, str(found))
    else:
        kind = _scalar_fault(item.type, found)
        if kind is not None:
            yield _Difference(kind, path, expected, str(found))


def _scalar_fault(expected: contract.Scalar, found: pa.DataType) -> Kind | None:
    """Whether a scalar type can be taken for the contract's: None if it can be widened to it without loss."""
    t = pa.types
    is_string = t.is_string(found) or t.is_large_string(found) or t.is_string_view(found)
    bits = found.bit_width if t.is_integer(found) or t.is_floating(found) else 0
    signed_bits = bits + (1 if t.is_unsigned_integer(found) else 0)
    number = t.is_integer(found) or t.is_floating(found) or t.is_decimal(found)
    # What a 64-bit unsigned integer or a timestamp of another unit holds is looked at by `_lossy_values`.
    taken = {
        "string": is_string,
        "int": t.is_integer(found) and signed_bits <= 32,
        "long": t.is_integer(found),
        "double": t.is_floating(found) or (t.is_integer(found) and signed_bits <= 53),
        "timestamp": t.is_timestamp(found),
    }[expected]
    if taken:
        return None
    return Kind.LOSSY_TYPE if number and expected in {"int", "long", "double"} else Kind.WRONG_TYPE


def _lossy_values(
    landing: DataLake, info: FileInfo, folder: Folder, schema: pa.Schema, differences: list[_Difference]
) -> list[_Difference]:
    """The fields of a type that may hold more than the contract's, whose values do.

    Only such columns are read: nanoseconds and other units of time, and unsigned 64-bit integers.
    """
    wrong = {difference.path for difference in differences if difference.kind not in WARNINGS}
    suspects = []
    for field_path, item in contract.walk(folder.fields):
        if not isinstance(item.type, str) or any(
            field_path == w or field_path.startswith((f"{w}.", f"{w}[")) for w in wrong
        ):
            continue
        type_ = _type_at(schema, field_path)
        if type_ is not None and (
            (pa.types.is_timestamp(type_) and type_.unit != "us") or (item.type == "long" and type_ == pa.uint64())
        ):
            suspects.append((field_path, item.type, type_))
    if not suspects:
        return []
    table = pq.read_table(
        io.BytesIO(landing.read(info.path)),
        columns=sorted({field_path.split(".")[0].split("[")[0] for field_path, *_ in suspects}),
    )
    lossy = []
    for field_path, expected, type_ in suspects:
        values = _leaves(table, field_path)
        target = contract.arrow_type(expected)
        if pa.types.is_timestamp(type_) and type_.tz is None:
            target = pa.timestamp("us")
        try:
            values.cast(target)
        except pa.ArrowInvalid as error:
            lossy.append(_Difference(Kind.LOSSY_TYPE, field_path, expected, f"{type_}: {error}", in_values=True))
    return lossy


def _leaves(table: pa.Table, field_path: str) -> pa.Array:
    """All values of a nested field, however deep in lists."""
    top, *rest = field_path.replace("[]", ".[]").split(".")
    values = table.column(top).combine_chunks()
    for step in rest:
        values = values.flatten() if step == "[]" else pc.struct_field(values, step)
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _type_at(schema: pa.Schema, field_path: str) -> pa.DataType | None:
    """The type of a nested field of a file; None where it isn't there."""
    top, *rest = field_path.replace("[]", ".[]").split(".")
    index = schema.get_field_index(top)
    if index < 0:
        return None
    type_ = _plain(schema.field(index).type)
    for step in rest:
        if step == "[]":
            if not _is_list(type_):
                return None
            type_ = _plain(type_.value_type)
        else:
            position = type_.get_field_index(step) if pa.types.is_struct(type_) else -1
            if position < 0:
                return None
            type_ = _plain(type_.field(position).type)
    return type_


def _plain(type_: pa.DataType) -> pa.DataType:
    return _plain(type_.value_type) if pa.types.is_dictionary(type_) else type_


def _is_list(type_: pa.DataType) -> bool:
    return pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_)


def _struct_fields(type_: pa.StructType) -> list[pa.Field]:
    return [type_.field(index) for index in range(type_.num_fields)]


def _renamed(item: Field, unknown: dict[str, pa.DataType], *, only: bool) -> str | None:
    """The unknown column that a missing one was renamed to: one of its type, and of a like name or the only one."""
    fitting = [
        name
        for name, type_ in unknown.items()
        if not pa.types.is_null(type_) and not any(_compare_type(item, type_, item.name))
    ]
    if only and fitting:
        return fitting[0]
    plain = {name.replace("_", "").lower(): name for name in fitting}
    close = difflib.get_close_matches(item.name.replace("_", "").lower(), plain, n=1, cutoff=0.7)
    return plain[close[0]] if close else None


def _disagreements(sources: list[SourceFile], faults: list[Fault]) -> Iterator[tuple[str, str, str, str]]:
    """For each field that some files of a folder have right and others don't: files, column, expected, found."""
    for column in sorted({column for file in sources for column in file.unusable}):
        wrong = [file for file in sources if column in file.unusable]
        right = [file for file in sources if column not in file.unusable]
        if right and wrong:
            kinds = {fault.file: fault.kind for fault in faults if fault.column == column}
            yield (
                ", ".join(file.info.name for file in wrong),
                column,
                f"the same as in {', '.join(file.info.name for file in right)}",
                ", ".join(sorted({kinds[file.info.name] for file in wrong})),
            )


def _sorted(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    return tuple(sorted(faults, key=lambda fault: fault.is_warning))


# --- values -----------------------------------------------------------------------------------------------------------


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
    return Inspection(contents, inspection.sources, _sorted(faults), rows)


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
