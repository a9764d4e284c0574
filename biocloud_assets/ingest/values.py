"""Checks of the values in a file: nulls, ranges, order and time, and the number of rows that each table gets.

They take Arrow batches of the contract's columns. Whether a key is repeated and whether a reference leads anywhere is
not seen in one file, and is checked by the engine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from biocloud_assets.ingest.footers import Difference
from biocloud_assets.ingest.violations import ViolationKind, shown
from biocloud_assets.schema import Contract, Field, Folder, ListOf, Presence, Struct

_EXAMPLES = 3
"""How many records with a violation a message names."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST = (datetime(1, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
_LAST = (datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC) - _EPOCH) // timedelta(microseconds=1)
"""The times that Python, and most readers of a table, can represent, in microseconds since 1970. (A scalar of Arrow
would import pandas when this module is imported, which every process with the definitions does.)"""


@dataclass
class _Hits:
    expected: str
    label: str
    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Level:
    """The structures of one level of nesting in a batch: the records, or the elements of all lists of one path.

    Attributes:
        count: how many there are.
        records: for each of some positions, the position of the record that it is in.
    """

    count: int
    records: Callable[[pa.Array], pa.Array]


@dataclass
class ValueChecks:
    """The checks of one file's values.

    Attributes:
        contract: the contract.
        folder: the folder that the file lies in.
        unusable: the paths of fields that can't be checked, because the file lacks them or has them in a wrong type.
        rows: for each table that is made from the folder, the rows that it must get from the batches so far.
    """

    contract: Contract
    folder: Folder
    unusable: frozenset[str]
    rows: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._tables = self.contract.tables_of(self.folder.name)
        self.rows = dict.fromkeys((table.name for table in self._tables), 0)
        self._hits: dict[tuple[ViolationKind, str], _Hits] = {}
        self._key = [item.name for item in self.folder.fields].index(self.folder.key)
        self._has_key = self.folder.key not in self.unusable
        self._keys: pa.Array | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        """Check a batch.

        Args:
            batch: its first columns are those of the folder, in the contract's order and types. A structure may have
                a `_rescued` behind the contract's fields.
        """
        self._keys = batch.column(self._key) if self._has_key else None
        for table in self._tables:
            if not table.levels:
                self.rows[table.name] += batch.num_rows
        level = _Level(batch.num_rows, lambda positions: positions)
        self._fields(self.folder.fields, batch.columns, "", level, None)

    def differences(self) -> Iterator[Difference]:
        """What was found, in the order in which it was."""
        for (kind, path), hits in self._hits.items():
            where = ", ".join(hits.examples)
            found = _counted(hits.count, hits.label) + (f", for instance in id {where}" if where else "")
            yield Difference(kind, path, hits.expected, found)

    def _fields(
        self, fields: tuple[Field, ...], values: list[pa.Array], path: str, level: _Level, there: pa.Array | None
    ) -> None:
        """Check the fields of the structures of one level.

        Args:
            fields: the contract's fields.
            values: the values of each, null where the structure is.
            path: the path of the structure, with a dot behind unless it is the whole record.
            level: the level.
            there: where the level's elements aren't null; None if that is everywhere.
        """
        for item, array in zip(fields, values, strict=False):
            here = f"{path}{item.name}"
            if here in self.unusable:
                continue
            if item.presence is not Presence.OPTIONAL and array.null_count:
                nulls = array.is_null()
                self._presence(item, here, nulls if there is None else pc.and_(nulls, there), level)
            if isinstance(item.type, ListOf):
                self._list(item.type.element, array, here, level)
            elif isinstance(item.type, Struct):
                self._struct(item.type, array, here, level, there)
            else:
                self._scalar(item, array, here, level)

    def _presence(self, item: Field, path: str, nulls: pa.BooleanArray, level: _Level) -> None:
        if item.presence is Presence.KEY:
            self._note(ViolationKind.NULL_KEY, path, "a key in every row", "rows with a null key", nulls, level)
        else:
            self._note(ViolationKind.NULL_VALUE, path, "a value in every row", "rows with a null", nulls, level)

    def _struct(self, type_: Struct, array: pa.StructArray, path: str, level: _Level, there: pa.Array | None) -> None:
        values = array.flatten()
        self._fields(type_.fields, values, f"{path}.", level, there)
        names = [item.name for item in type_.fields]
        for start, end in type_.ordered:
            if not {f"{path}.{start}", f"{path}.{end}"} & self.unusable:
                wrong = pc.greater(values[names.index(start)], values[names.index(end)])
                expected = f"{start} not greater than {end}"
                self._note(ViolationKind.NOT_ORDERED, f"{path}.{start}", expected, "pairs not in order", wrong, level)

    def _scalar(self, item: Field, array: pa.Array, path: str, level: _Level) -> None:
        if item.range is not None:
            low, high = item.range
            # NaN is neither, and so outside.
            wrong = pc.invert(pc.and_(pc.greater_equal(array, low), pc.less_equal(array, high)))
            self._note(ViolationKind.OUT_OF_RANGE, path, f"{low:g} to {high:g}", "values outside", wrong, level)
        if item.type == "timestamp":
            first, last = (end.value for end in pc.min_max(array).values())
            if first is not None and (first < _FIRST or last > _LAST):
                times = array.view(pa.int64())
                wrong = pc.or_(pc.less(times, _FIRST), pc.greater(times, _LAST))
                expected = f"{item.type} of the years 1 to 9999 in UTC"
                self._note(ViolationKind.LOSSY_TYPE, path, expected, "values outside", wrong, level)

    def _list(self, element: Struct, lists: pa.ListArray, path: str, level: _Level) -> None:
        here = f"{path}[]"
        elements = lists.flatten()

        def records(positions: pa.Array) -> pa.Array:
            return level.records(pc.list_parent_indices(lists).take(positions))

        inner = _Level(len(elements), records)
        for table in self._tables:
            if table.levels and table.levels[-1] == here:
                self.rows[table.name] += len(elements)
                if table.keeps_empty:
                    lengths = pc.list_value_length(lists).fill_null(0)
                    self.rows[table.name] += pc.equal(lengths, 0).true_count
        there = None
        if elements.null_count:
            nulls = elements.is_null()
            there = pc.invert(nulls)
            self._note(ViolationKind.NULL_ELEMENT, here, "no null in the list", "null elements", nulls, inner)
        self._fields(element.fields, elements.flatten(), f"{here}.", inner, there)

    def _note(
        self, kind: ViolationKind, path: str, expected: str, label: str, wrong: pa.BooleanArray, level: _Level
    ) -> None:
        count = wrong.true_count
        if not count:
            return
        hits = self._hits.setdefault((kind, path), _Hits(expected, label))
        hits.count += count
        if self._keys is None or len(hits.examples) == _EXAMPLES:
            return
        # Many in one record are one example.
        positions = level.records(pc.indices_nonzero(wrong.fill_null(False))[: 100 * _EXAMPLES])
        for key in self._keys.take(positions.unique()).to_pylist():
            example = None if key is None else shown(repr(key[:1000] if isinstance(key, str) else key))
            if example is not None and example not in hits.examples and len(hits.examples) < _EXAMPLES:
                hits.examples.append(example)


_PLURAL = re.compile(r"s\b")


def _counted(count: int, label: str) -> str:
    """A number of things, `2 rows with a null`; the label is in the plural."""
    return f"{count:,} {label if count != 1 else _PLURAL.sub('', label, count=1)}"
