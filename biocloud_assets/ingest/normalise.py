"""Convert the Arrow arrays of a file to those of the contract, and keep unknown fields in `_rescued`.

A structure that is an element of a list becomes a row of its own table, and so keeps its own `_rescued`. Where it
doesn't become a row (a prediction, which has one row for each of its taxa), what is rescued goes down to the rows of
the innermost list, as a JSON object of the same nesting; an element whose innermost list is null or empty keeps it
itself, for that keeps a row too. How values are written is said in `json_text`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from biocloud_assets.ingest.footers import Footer, plain_type
from biocloud_assets.ingest.json_text import (
    FIRST_EQUAL_SECOND,
    JsonWriter,
    NotJsonError,
    as_list,
    in_utc,
    list_of,
    object_text,
    plain,
    ticks,
)
from biocloud_assets.ingest.violations import shown
from biocloud_assets.schema import (
    Contract,
    Field,
    Folder,
    ListOf,
    Scalar,
    Struct,
    arrow_schema,
    arrow_type,
)

# What is rescued: the names that lead to it from the row that keeps it, and its JSON texts.
_Rescued = list[tuple[tuple[str, ...], pa.StringArray]]


@dataclass
class Normaliser:
    """Brings the batches of one file to the contract's columns.

    Attributes:
        contract: the contract.
        folder: the folder that the file lies in.
        footer: the file's footer.
        unusable: the paths of fields that can't be taken; they are null in the result.
        rescue: whether unknown fields are kept; else `_rescued` is null.
        lossy: for each field that holds a value that can't be taken, its path and what it holds. It is filled while
            batches are normalised, and such a field is null in the result.
    """

    contract: Contract
    folder: Folder
    footer: Footer
    unusable: frozenset[str]
    rescue: bool = True
    lossy: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tables = self.contract.tables_of(self.folder.name)
        self._own_rows = {table.levels[-1] for table in tables if table.levels}
        self._innermost = {table.levels[-2]: table.levels[-1] for table in tables if table.keeps_empty}
        self._json = JsonWriter(self.footer.texts, self.footer.in_legacy_calendar)
        self._schema = arrow_schema(self.folder, rescued=True)

    def normalise(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """A batch of the file as one of `schema.arrow_schema(folder, rescued=True)`."""
        found = list(zip(batch.schema.names, batch.columns, strict=True))
        values, rescued = self._level(self.folder.fields, found, batch.num_rows, "", (), [], False)
        kept = _rescued_text(rescued, batch.num_rows)
        return pa.RecordBatch.from_arrays([*values, kept], schema=self._schema)

    def _level(
        self,
        fields: tuple[Field, ...],
        found: list[tuple[str, pa.Array]],
        count: int,
        path: str,
        at: tuple[str, ...],
        above: _Rescued,
        passes_down: bool,
    ) -> tuple[list[pa.Array], _Rescued]:
        """The fields of one structure, and what is rescued so far.

        Args:
            fields: the contract's fields of it.
            found: the fields in the file.
            count: the number of structures.
            path: the contract's path of it, with a dot behind unless it is the whole record.
            at: the names that lead to it from the row that keeps what is rescued.
            above: what was rescued on the way to it.
            passes_down: whether what is rescued goes down to the rows of a list in it.
        """
        known = {item.name for item in fields}
        rescued = list(above)
        if self.rescue:
            for name, array in found:
                if name not in known:
                    rescued += self._rescue(array, f"{path}{name}", (*at, name))
        arrays = dict(found)
        values: dict[str, pa.Array] = {}
        # Lists last: they may have to take down what is rescued of the structures beside them.
        for item in sorted(fields, key=lambda item: isinstance(item.type, ListOf)):
            array, here = arrays.get(item.name), f"{path}{item.name}"
            if array is None or here in self.unusable or here in self.lossy or pa.types.is_null(plain_type(array.type)):
                values[item.name] = pa.nulls(count, arrow_type(item.type, rescued=True))
            elif isinstance(item.type, ListOf):
                values[item.name] = self._list(array, item, item.type.element, here, at, rescued, passes_down)
            elif isinstance(item.type, Struct):
                array = plain(array)
                parts, rescued = self._level(
                    item.type.fields, _parts(array), count, f"{here}.", (*at, item.name), rescued, passes_down
                )
                values[item.name] = _struct(parts, arrow_type(item.type, rescued=True), array)
            else:
                values[item.name] = self._scalar(array, item.type, here)
        return [values[item.name] for item in fields], rescued

    def _list(
        self,
        array: pa.Array,
        item: Field,
        element: Struct,
        path: str,
        at: tuple[str, ...],
        rescued: _Rescued,
        passes_down: bool,
    ) -> pa.ListArray:
        lists, here = as_list(plain(array)), f"{path}[]"
        elements = plain(lists.flatten())
        type_ = arrow_type(item.type, rescued=True)
        if pa.types.is_null(elements.type):  # lists that are all empty, or of nulls
            return list_of(lists, pa.nulls(len(elements), type_.value_type), type_)
        owner = pc.list_parent_indices(lists) if passes_down and rescued else None
        taken = [(names, texts.take(owner)) for names, texts in rescued] if owner is not None else []
        start = (*at, item.name) if passes_down else ()
        values, inner = self._level(
            element.fields, _parts(elements), len(elements), f"{here}.", start, taken, here not in self._own_rows
        )
        kept = _rescued_text(inner, len(elements))
        if here in self._innermost and inner:
            names = self._innermost[here].removeprefix(f"{here}.").removesuffix("[]").split(".")
            below = _get(element.fields, values, names)
            is_empty = pc.equal(pc.list_value_length(below).fill_null(0), 0)
            kept = pc.if_else(is_empty, kept, pa.scalar(None, pa.string()))
        return list_of(lists, _struct([*values, kept], type_.value_type, elements), type_)

    def _rescue(self, array: pa.Array, path: str, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        if path in self.lossy:
            return
        try:
            texts = self._json.text(array, path)
        except (NotJsonError, pa.ArrowInvalid) as error:
            self.lossy[path] = shown(str(error))
            return
        if texts.null_count < len(texts):
            yield names, texts

    def _scalar(self, array: pa.Array, type_: Scalar, path: str) -> pa.Array:
        array, target = plain(array), arrow_type(type_)
        if array.type == target and not self.footer.in_legacy_calendar:
            return array
        found = str(array.type)
        try:
            if type_ != "timestamp":
                return array.cast(target)
            array = in_utc(array)
            if self.footer.in_legacy_calendar:
                old = pc.less(array.view(pa.int64()), FIRST_EQUAL_SECOND * ticks(array.type))
                if old.true_count:
                    problem = (
                        f"{old.true_count:,} timestamps before 1900 in Spark's legacy calendar, which the file has"
                    )
                    self.lossy[path] = f"{found}: {problem}"
                    return pa.nulls(len(array), target)
            return array.cast(pa.timestamp("us")).view(target)
        except pa.ArrowInvalid as error:
            self.lossy[path] = f"{found}: {shown(str(error))}"
            return pa.nulls(len(array), target)


def _parts(structs: pa.StructArray) -> list[tuple[str, pa.Array]]:
    """The fields of structures, null where a structure is."""
    return list(zip((field.name for field in structs.type), structs.flatten(), strict=True))


def _struct(parts: list[pa.Array], type_: pa.StructType, like: pa.StructArray) -> pa.StructArray:
    """Structures of their fields, null where others are."""
    mask = like.is_null() if like.null_count else None
    return pa.StructArray.from_arrays(parts, fields=list(type_), mask=mask)


def _get(fields: Iterable[Field], values: list[pa.Array], names: list[str]) -> pa.Array:
    """A nested field of the structures whose fields are given."""
    position = [item.name for item in fields].index(names[0])
    value = values[position]
    for name in names[1:]:
        value = pc.struct_field(value, name)
    return value


def _rescued_text(rescued: _Rescued, count: int) -> pa.StringArray:
    """A JSON object of what is rescued, nulls left out; null where nothing is left."""
    tree: dict[str, Any] = {}
    for names, texts in rescued:
        branch = tree
        for name in names[:-1]:
            branch = branch.setdefault(name, {})
        branch[names[-1]] = texts
    return _branch_text(tree, count)


def _branch_text(tree: dict[str, Any], count: int) -> pa.StringArray:
    if not tree:
        return pa.nulls(count, pa.string())
    parts = [(name, _branch_text(value, count) if isinstance(value, dict) else value) for name, value in tree.items()]
    text = object_text(parts, count)
    return pc.if_else(pc.equal(text, "{}"), pa.scalar(None, pa.string()), text)
