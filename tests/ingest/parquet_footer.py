"""Changing the footer of a Parquet file, for files that pyarrow doesn't write but other writers do.

A footer is a Thrift structure in the compact protocol. Here it is parsed to `{field id: (type, value)}`, whatever it
means, so that parts of it can be changed and it can be written again. Ids are those of `parquet.thrift`.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

Thrift = dict[int, tuple[int, Any]]

_TRUE, _FALSE, _BYTE, _I64, _DOUBLE, _BINARY, _LIST, _STRUCT = 1, 2, 3, 6, 7, 8, 9, 12

SCHEMA, KEY_VALUE_METADATA, ROW_GROUPS = 2, 5, 4
NAME, CHILDREN, CONVERTED_TYPE, LOGICAL_TYPE, REPETITION = 4, 5, 6, 10, 3
REQUIRED, OPTIONAL, REPEATED = 0, 1, 2


def with_footer(file: bytes, change: Callable[[Thrift], None]) -> bytes:
    """A file with a changed footer."""
    length = int.from_bytes(file[-8:-4], "little")
    footer = _read_struct(io.BytesIO(file[-8 - length : -8]))
    change(footer)
    written = _write_struct(footer)
    return file[: -8 - length] + written + len(written).to_bytes(4, "little") + b"PAR1"


def with_schema(file: bytes, change: Callable[[list[Thrift]], list[Thrift]]) -> bytes:
    """A file whose schema elements, which are the tree in the order of a book, are changed.

    The columns must stay as many, and hold their levels as before. Their paths follow.
    """

    def edit(footer: Thrift) -> None:
        elements = change(footer[SCHEMA][1][1])
        footer[SCHEMA] = (_LIST, (_STRUCT, elements))
        paths = list(_paths(elements))
        for group in footer[ROW_GROUPS][1][1]:
            for chunk, path in zip(group[1][1][1], paths, strict=True):
                chunk[3][1][3] = (_LIST, (_BINARY, path))

    return with_footer(file, edit)


def with_metadata(file: bytes, **pairs: str) -> bytes:
    """A file with more key-value metadata; in a key, `__` stands for a dot."""

    def edit(footer: Thrift) -> None:
        there = footer.get(KEY_VALUE_METADATA, (_LIST, (_STRUCT, [])))[1][1]
        new = [{1: text(key.replace("__", ".")), 2: text(value)} for key, value in pairs.items()]
        footer[KEY_VALUE_METADATA] = (_LIST, (_STRUCT, [*there, *new]))

    return with_footer(file, edit)


def text(value: str | bytes) -> tuple[int, bytes]:
    """A text as a field of a Thrift structure."""
    return _BINARY, value.encode() if isinstance(value, str) else value


def integer(value: int) -> tuple[int, int]:
    """A 32-bit number as a field of a Thrift structure."""
    return 5, value


def name_of(element: Thrift) -> str:
    """The name of a schema element."""
    return str(element[NAME][1], "utf-8")


def annotated(element: Thrift, converted: int, logical: int) -> Thrift:
    """A schema element with another logical type, by its number among the converted and the logical types."""
    return element | {CONVERTED_TYPE: integer(converted), LOGICAL_TYPE: (_STRUCT, {logical: (_STRUCT, {})})}


def plain(element: Thrift) -> Thrift:
    """A schema element without a logical type."""
    return {key: value for key, value in element.items() if key not in {CONVERTED_TYPE, LOGICAL_TYPE}}


def _paths(elements: list[Thrift]) -> list[list[bytes]]:
    paths: list[list[bytes]] = []
    rest = iter(elements)

    def below(element: Thrift, path: list[bytes]) -> None:
        if CHILDREN not in element:
            paths.append(path)
        for _ in range(element.get(CHILDREN, (0, 0))[1]):
            child = next(rest)
            below(child, [*path, child[NAME][1]])

    below(next(rest), [])
    return paths


def _read_varint(data: io.BytesIO) -> int:
    result = shift = 0
    while True:
        byte = data.read(1)[0]
        result |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return result


def _read_value(data: io.BytesIO, type_: int) -> Any:
    if type_ in {_TRUE, _FALSE}:
        return type_ == _TRUE
    if type_ == _BYTE:
        return data.read(1)
    if type_ <= _I64:
        number = _read_varint(data)
        return (number >> 1) ^ -(number & 1)
    if type_ == _DOUBLE:
        return data.read(8)
    if type_ == _BINARY:
        return data.read(_read_varint(data))
    if type_ == _STRUCT:
        return _read_struct(data)
    head = data.read(1)[0]
    size, element = (head >> 4, head & 0x0F) if head < 0xF0 else (_read_varint(data), head & 0x0F)
    return element, [data.read(1) if element <= _FALSE else _read_value(data, element) for _ in range(size)]


def _read_struct(data: io.BytesIO) -> Thrift:
    fields: Thrift = {}
    number = 0
    while head := data.read(1)[0]:
        type_ = head & 0x0F
        number = number + (head >> 4) if head >> 4 else _read_value(data, 4)
        fields[number] = (type_, _read_value(data, type_))
    return fields


def _write_varint(number: int) -> bytes:
    written = bytearray()
    while number >= 0x80:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*written, number])


def _write_value(type_: int, value: Any) -> bytes:
    if type_ in {_TRUE, _FALSE}:
        return b""  # the type holds the value
    if type_ in {_BYTE, _DOUBLE}:
        return bytes(value)
    if type_ <= _I64:
        return _write_varint(value << 1 if value >= 0 else (-value << 1) - 1)
    if type_ == _BINARY:
        return _write_varint(len(value)) + value
    if type_ == _STRUCT:
        return _write_struct(value)
    element, items = value
    head = (
        bytes([len(items) << 4 | element]) if len(items) < 15 else bytes([0xF0 | element]) + _write_varint(len(items))
    )
    return head + b"".join(item if element <= _FALSE else _write_value(element, item) for item in items)


def _write_struct(fields: Thrift) -> bytes:
    written = b""
    number = 0
    for next_number, (type_, value) in sorted(fields.items()):
        step = next_number - number
        written += bytes([step << 4 | type_]) if step < 16 else bytes([type_]) + _write_value(4, next_number)
        written += _write_value(type_, value)
        number = next_number
    return written + b"\0"
