"""Is a delivery as the contract says, as far as its listing and the Parquet footers show? No engine is needed.

What belongs here: the faults that there are, what an inspection has found, and finding what the files alone show. What
doesn't: faults of the values (`validation`), which need an engine.
"""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from biocloud_assets.lake import DataLake, FileInfo
from biocloud_assets.raw.dsi import contract
from biocloud_assets.raw.dsi.contract import Field, Folder, ListOf, Struct
from biocloud_assets.raw.dsi.delivery import Contents
from biocloud_assets.raw.dsi.delivery import path as delivery_path


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
    return Inspection(contents, sources, errors_first(faults))


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


def errors_first(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """The faults in the order in which an inspection has them."""
    return tuple(sorted(faults, key=lambda fault: fault.is_warning))
