"""Parquet footers: opening a file, comparing its columns with the contract's, and recognising the canonical layout."""

from __future__ import annotations

import difflib
import io
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from inspect import signature
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from biocloud_assets.ingest.violations import ViolationKind, shown
from biocloud_assets.schema import RESCUED_COLUMN, Field, Folder, ListOf, Scalar, Struct, arrow_schema, type_name

ARROW_ERRORS = (pa.ArrowException, OSError, ValueError, LookupError, ArithmeticError, MemoryError)
"""What pyarrow raises for a damaged file. A `LakeError` of the stream that it reads is not among them."""

PARQUET_MAGIC = (b"PAR1", b"PARE")
"""The first and last bytes of a Parquet file; with the second, its footer is encrypted."""

_OPTIONS = {
    "page_checksum_verification": True,
    "pre_buffer": False,
    "arrow_extensions_enabled": False,
    # Twice as deep as Arrow's own limit: a list takes two levels.
    "schema_depth_limit": 200,
}
# The last two are newer than the oldest pyarrow that may be there, as that of a Databricks runtime.
_OPTIONS = {name: value for name, value in _OPTIONS.items() if name in signature(pq.ParquetFile).parameters}

# What every engine reads; of others, as LZ4, BROTLI and BYTE_STREAM_SPLIT, a copy is made.
_CODECS = frozenset({"UNCOMPRESSED", "SNAPPY", "GZIP", "ZSTD"})
_ENCODINGS = frozenset({"PLAIN", "PLAIN_DICTIONARY", "RLE_DICTIONARY", "RLE", "BIT_PACKED"})


@dataclass(frozen=True)
class Difference:
    """One way in which a file differs from the contract.

    Attributes:
        kind: what is wrong.
        path: the path of the field; None for the file as a whole.
        expected: what the contract says.
        found: what is there.
    """

    kind: ViolationKind
    path: str | None
    expected: str
    found: str


@dataclass(frozen=True)
class Footer:
    """A file's footer.

    Attributes:
        metadata: the footer, as Arrow reads it.
        schema: the columns, as Arrow reads them.
    """

    metadata: pq.FileMetaData
    schema: pa.Schema

    @cached_property
    def leaves(self) -> tuple[str, ...]:
        """The paths of the columns that hold values, in the order of the file; `[]` stands behind a list."""
        leaves = tuple(path for field in self.schema for path in _leaves(field.name, field.type))
        columns = range(len(self.metadata.schema))
        return leaves if len(leaves) == len(columns) else tuple(self.metadata.schema.column(i).path for i in columns)

    @cached_property
    def texts(self) -> frozenset[str]:
        """The paths of the columns that Arrow reads as bytes, though the file says that they are text."""
        kinds = {"STRING", "ENUM", "JSON"}
        columns = self.metadata.schema
        return frozenset(path for i, path in enumerate(self.leaves) if columns.column(i).logical_type.type in kinds)

    @cached_property
    def has_int96(self) -> bool:
        """Whether a column holds timestamps of 96 bits, which Spark wrote before version 3 and Impala writes."""
        columns = self.metadata.schema
        return any(columns.column(i).physical_type == "INT96" for i in range(len(columns)))

    @cached_property
    def in_legacy_calendar(self) -> bool:
        """Whether Spark wrote its dates and timestamps in the calendar that was used before 1582.

        By the rules of Spark's own `DataSourceUtils`: files of Spark 2, and later ones that bear a mark.
        """
        keys = self.metadata.metadata or {}
        version = re.match(rb"(\d+)\.(\d+)", keys.get(b"org.apache.spark.version", b""))
        before = (3, 1) if self.has_int96 else (3, 0)
        return (
            b"org.apache.spark.legacyDateTime" in keys
            or b"org.apache.spark.legacyINT96" in keys
            or (version is not None and (int(version[1]), int(version[2])) < before)
        )

    def has_canonical_schema(self, folder: Folder) -> bool:
        """Whether every engine reads the columns exactly as the contract has them."""
        return (
            _layout(self.metadata.schema) == _canonical_layout(folder)
            # Arrow's own schema in the file, which some engines follow, may ask for other types.
            and self.schema.equals(arrow_schema(folder))
            and not self.in_legacy_calendar
        )

    def has_common_encodings(self) -> bool:
        """Whether every engine can decode and decompress the values.

        Only of a file of which all values have been read: pyarrow ends the process where the footer of a column is
        damaged or encrypted (apache/arrow, as of pyarrow 26: `RowGroupMetaData.column` lets a C++ exception through).
        """
        groups = map(self.metadata.row_group, range(self.metadata.num_row_groups))
        return all(
            chunk.compression in _CODECS and _ENCODINGS.issuperset(chunk.encodings)
            for group in groups
            if group.num_rows
            for chunk in map(group.column, range(group.num_columns))
        )


def open_parquet(file: BinaryIO, size: int, **options: str) -> tuple[pq.ParquetFile, Footer] | Difference:
    """Open a Parquet file, or say what is wrong with it.

    Args:
        file: the file.
        size: its size, bytes.
        options: for Arrow.
    """
    try:
        opened = pq.ParquetFile(
            # A stream of Python's own would be closed with it.
            pa.PythonFile(file, mode="r"),
            **_OPTIONS,
            **options,
        )
        footer = Footer(opened.metadata, opened.schema_arrow.remove_metadata())
        footer.schema.names  # noqa: B018  # a name that is no text is found here
    except ARROW_ERRORS as error:
        kind, found = _why_not(file, size, error)
        return Difference(kind, None, "a whole Parquet file", found)
    return opened, footer


def _why_not(file: BinaryIO, size: int, error: Exception) -> tuple[ViolationKind, str]:
    file.seek(0)
    head = file.read(4)
    file.seek(max(0, size - 8))
    tail = file.read(8)
    if head not in PARQUET_MAGIC:
        return ViolationKind.NOT_PARQUET, f"{size:,} bytes that begin with {head!r}"
    length = int.from_bytes(tail[:4], "little") + 8
    if tail[4:] not in PARQUET_MAGIC or size < 12:
        return ViolationKind.TRUNCATED_PARQUET, f"a start, but no footer at its end ({size:,} bytes)"
    if length > size:
        return ViolationKind.TRUNCATED_PARQUET, f"a footer of {length:,} bytes in a file of {size:,}"
    return ViolationKind.UNREADABLE_PARQUET, f"a footer that can't be read: {shown(str(error))}"


def compare(folder: Folder, footer: Footer) -> Iterator[Difference]:
    """How the columns of a file differ from the contract's, however deep."""
    yield from _compare(folder.fields, footer.schema, footer.texts)


def _compare(
    fields: tuple[Field, ...], found: Iterable[pa.Field], texts: Container[str], prefix: str = ""
) -> Iterator[Difference]:
    there = {item.name: item.type for item in found}
    for name, count in Counter(item.name for item in found).items():
        if count > 1:
            yield Difference(ViolationKind.REPEATED_COLUMN, f"{prefix}{name}", "one column of that name", "two or more")
    known = {item.name for item in fields}
    unknown = {name: type_ for name, type_ in there.items() if name not in known}
    missing = [item for item in fields if item.name not in there]
    for item in missing:
        new = _renamed(item, unknown, only=len(missing) == 1 and len(unknown) == 1)
        expected = f"{item.name} ({type_name(item.type)})"
        if new is None:
            has = ", ".join(there) or "no columns"
            yield Difference(ViolationKind.MISSING_COLUMN, f"{prefix}{item.name}", expected, shown(f"only {has}"))
        else:
            found_text = f"{shown(new)} ({shown(str(there[new]))})"
            yield Difference(ViolationKind.RENAMED_COLUMN, f"{prefix}{item.name}", expected, found_text)
            unknown.pop(new)
    for name, type_ in unknown.items():
        yield Difference(
            ViolationKind.UNKNOWN_COLUMN,
            f"{prefix}{name}",
            "only columns of the contract",
            f"{shown(name)} ({shown(str(type_))}); its values are kept in {RESCUED_COLUMN}",
        )
        yield from _compare_unknown(type_, f"{prefix}{name}")
    for item in fields:
        if item.name in there:
            yield from _compare_type(item, there[item.name], texts, f"{prefix}{item.name}")


def _compare_type(item: Field, found: pa.DataType, texts: Container[str], path: str) -> Iterator[Difference]:
    found = plain_type(found)
    expected = type_name(item.type)
    if pa.types.is_null(found):  # a column of nothing but nulls, as exports of empty columns have it
        return
    if isinstance(item.type, Struct):
        if pa.types.is_struct(found):
            yield from _compare(item.type.fields, list(found), texts, f"{path}.")
        else:
            yield Difference(ViolationKind.WRONG_TYPE, path, expected, shown(str(found)))
    elif isinstance(item.type, ListOf):
        element = plain_type(found.value_type) if is_list(found) else None
        if element is not None and pa.types.is_null(element):
            return
        if element is not None and pa.types.is_struct(element):
            yield from _compare(item.type.element.fields, list(element), texts, f"{path}[].")
        else:
            yield Difference(ViolationKind.WRONG_TYPE, path, expected, shown(str(found)))
    else:
        kind = _scalar_kind(item.type, found, is_text=path in texts)
        if kind is not None:
            yield Difference(kind, path, expected, shown(str(found)))


def _scalar_kind(expected: Scalar, found: pa.DataType, *, is_text: bool) -> ViolationKind | None:
    """Whether a scalar type can be taken for the contract's: None if it can be widened to it without loss."""
    t = pa.types
    bits = found.bit_width if t.is_integer(found) or t.is_floating(found) else 0
    signed_bits = bits + (1 if t.is_unsigned_integer(found) else 0)
    number = t.is_integer(found) or t.is_floating(found) or t.is_decimal(found)
    # What a 64-bit unsigned integer or a timestamp of another unit holds is seen when the values are read.
    taken = {
        "string": t.is_string(found) or t.is_large_string(found) or t.is_string_view(found) or is_text,
        "int": t.is_integer(found) and signed_bits <= 32,
        "long": t.is_integer(found),
        "double": t.is_floating(found) or (t.is_integer(found) and signed_bits <= 53),
        "timestamp": t.is_timestamp(found),
    }[expected]
    if taken:
        return None
    return ViolationKind.LOSSY_TYPE if number and expected in {"int", "long", "double"} else ViolationKind.WRONG_TYPE


def _compare_unknown(found: pa.DataType, path: str) -> Iterator[Difference]:
    """The parts of an unknown type that have no JSON form: structures with two fields of one name."""
    found = plain_type(found)
    if pa.types.is_struct(found):
        for name, count in Counter(field.name for field in found).items():
            if count > 1:
                yield Difference(
                    ViolationKind.REPEATED_COLUMN, f"{path}.{name}", "one field of that name", "two or more"
                )
        for field in found:
            yield from _compare_unknown(field.type, f"{path}.{field.name}")
    elif pa.types.is_map(found):
        yield from _compare_unknown(found.key_type, f"{path}[].key")
        yield from _compare_unknown(found.item_type, f"{path}[].value")
    elif is_list(found):
        yield from _compare_unknown(found.value_type, f"{path}[]")


def _renamed(item: Field, unknown: dict[str, pa.DataType], *, only: bool) -> str | None:
    """The unknown column that a missing one was renamed to: one of its type, and of a like name or the only one."""
    fitting = [
        name
        for name, type_ in unknown.items()
        if not pa.types.is_null(type_) and not any(_compare_type(item, type_, (), item.name))
    ]
    if only and fitting:
        return fitting[0]
    plain = {name.replace("_", "").lower(): name for name in fitting}
    close = difflib.get_close_matches(item.name.replace("_", "").lower(), plain, n=1, cutoff=0.7)
    return plain[close[0]] if close else None


def plain_type(type_: pa.DataType) -> pa.DataType:
    """The type of the values themselves, without a dictionary or an extension around it."""
    if pa.types.is_dictionary(type_):
        return plain_type(type_.value_type)
    return plain_type(type_.storage_type) if isinstance(type_, pa.BaseExtensionType) else type_


def is_list(type_: pa.DataType) -> bool:
    """Whether a type is one of Arrow's lists; a map isn't."""
    t = pa.types
    return bool(
        t.is_list(type_)
        or t.is_large_list(type_)
        or t.is_fixed_size_list(type_)
        or t.is_list_view(type_)
        or t.is_large_list_view(type_)
    )


def _leaves(path: str, type_: pa.DataType) -> Iterator[str]:
    type_ = plain_type(type_)
    if pa.types.is_struct(type_):
        for field in type_:
            yield from _leaves(f"{path}.{field.name}", field.type)
    elif pa.types.is_map(type_):
        yield from _leaves(f"{path}[].key", type_.key_type)
        yield from _leaves(f"{path}[].value", type_.item_type)
    elif is_list(type_):
        yield from _leaves(f"{path}[]", type_.value_type)
    else:
        yield path


def _layout(schema: pq.ParquetSchema) -> list[str]:
    """A Parquet schema as text, without details that make no difference to any reader."""
    lines = repr(schema).splitlines()[2:]  # of the object, and of the root, which every writer calls otherwise
    text = re.sub(r" field_id=-?\d+| \(Int\(bitWidth=(?:32|64), isSigned=true\)\)", "", "\n".join(lines))
    return re.sub(r", is_from_converted_type=\w+|, force_set_converted_type=\w+", "", text).splitlines()


@cache
def _canonical_layout(folder: Folder) -> list[str]:
    file = io.BytesIO()
    pq.write_table(arrow_schema(folder).empty_table(), file, store_schema=False)
    return _layout(pq.ParquetFile(file).schema)
