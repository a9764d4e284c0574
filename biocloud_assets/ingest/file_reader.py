"""Reading one file of a delivery: its footer, its values, and its normalised copy if it needs one."""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from biocloud_assets.errors import LakeError
from biocloud_assets.ingest.delivery import delivery_path
from biocloud_assets.ingest.footers import ARROW_ERRORS, Difference, Footer, compare, open_parquet
from biocloud_assets.ingest.json_text import as_list, list_of
from biocloud_assets.ingest.normalise import Normaliser
from biocloud_assets.ingest.values import ValueChecks
from biocloud_assets.ingest.violations import WARNINGS, SourceFile, ViolationKind, shown
from biocloud_assets.lake import DataLake, FileInfo
from biocloud_assets.schema import Contract, Folder, arrow_schema, type_name, walk

_PLAIN_PATH = re.compile(r"[A-Za-z0-9._=:+/@,-]+")
"""A path in which no engine sees a pattern or an encoded character."""

_BATCH_BYTES = 32 * 1024 * 1024
_BATCH_ROWS = 16_384
_PROBE_ROWS = 64
"""How many rows are read first, to estimate their size."""

_LOCATE_ROWS = 1024
"""The rows of a batch when only damaged columns are searched for."""


@dataclass(frozen=True)
class FileRead:
    """What was found in one file.

    Attributes:
        info: the file.
        source: the file for the engine; None if its footer can't be read.
        differences: what is wrong with it.
        rows: for each table that is made from its folder, the rows that it adds.
    """

    info: FileInfo
    source: SourceFile | None
    differences: tuple[Difference, ...]
    rows: dict[str, int] = field(default_factory=dict)

    @property
    def unusable(self) -> frozenset[str]:
        """The paths of the fields that it lacks, or has in a type or with values that can't be taken."""
        return _unusable(d for d in self.differences if d.kind is not ViolationKind.UNREADABLE_PARQUET)


_OF_VALUES = WARNINGS | {ViolationKind.NULL_KEY, ViolationKind.NULL_VALUE, ViolationKind.NULL_ELEMENT}
"""The kinds that leave a file readable as the contract says."""


def _unusable(differences: Iterable[Difference]) -> frozenset[str]:
    return frozenset(d.path for d in differences if d.path is not None and d.kind not in _OF_VALUES)


class _UnreadableError(Exception):
    """Values of a file can't be read. It holds a difference for each column that is known to be damaged."""

    def __init__(self, differences: list[Difference]) -> None:
        self.differences = differences


@dataclass(frozen=True)
class FileReader:
    """Reads one file.

    Attributes:
        landing, contract, folder, delivery, staging: as in `read_delivery`.
        info: the file.
        number: its position in its folder, by which its copy is named.
        stop: is set when the files that are being read are no longer needed.
        several: whether other files are read at the same time, so that this one has one core.
    """

    landing: DataLake
    contract: Contract
    folder: Folder
    delivery: str
    info: FileInfo
    number: int
    staging: DataLake | None
    stop: threading.Event
    several: bool

    def run(self) -> FileRead:
        with ExitStack() as stack:
            opened = open_parquet(stack.enter_context(self.landing.open(self.info)), self.info.size)
            if isinstance(opened, Difference):
                return FileRead(self.info, None, (opened,))
            files, footer = [opened[0]], opened[1]
            if footer.has_int96:
                # As nanoseconds, such timestamps cover 1677 to 2262; as microseconds, they lose digits.
                again = open_parquet(
                    stack.enter_context(self.landing.open(self.info)), self.info.size, coerce_int96_timestamp_unit="us"
                )
                assert not isinstance(again, Difference)  # it was opened just before
                files.append(again[0])
            is_plain = _PLAIN_PATH.fullmatch(f"{self.landing.root}/{self.info.path}") is not None
            read = self._read(files, footer, is_canonical=is_plain and footer.has_canonical_schema(self.folder))
            is_as_it_is = read.source is not None and read.source.uri and not read.source.rescued
            if is_as_it_is and not footer.has_common_encodings():
                return self._read(files, footer, is_canonical=False)
            return read

    def _read(self, files: list[pq.ParquetFile], footer: Footer, *, is_canonical: bool) -> FileRead:
        found = list(compare(self.folder, footer))
        unusable = _unusable(found)
        normaliser = Normaliser(self.contract, self.folder, footer, unusable, rescue=not unusable)
        checks = ValueChecks(self.contract, self.folder, unusable)
        copy = _Copy(self.folder) if self.staging is not None and not is_canonical and not unusable else None
        # What the contract doesn't know of a file that is refused anyway isn't needed.
        columns = None if not unusable else [name for name in self._known() if name in footer.schema.names]
        rows = 0
        with copy or ExitStack():
            try:
                for batch in self._batches(files, footer, columns, normaliser):
                    rows += batch.num_rows
                    try:
                        canonical = batch if is_canonical else normaliser.normalise(batch)
                        checks.add(canonical)
                        if copy is not None and not normaliser.lossy:
                            copy.add(canonical)
                    except (pa.ArrowCapacityError, MemoryError) as error:  # of values too large to be put together
                        raise _UnreadableError([_unreadable(None, str(error))]) from error
                if rows != footer.metadata.num_rows and columns != []:
                    problem = f"{rows:,} rows, and a footer that says {footer.metadata.num_rows:,}"
                    raise _UnreadableError([_unreadable(None, problem)])
            except _UnreadableError as error:
                found += error.differences
            known = dict(walk(self.folder.fields))
            found += [
                Difference(
                    ViolationKind.LOSSY_TYPE,
                    path,
                    type_name(known[path].type) if path in known else "values that can be kept as JSON",
                    problem,
                )
                for path, problem in normaliser.lossy.items()
            ]
            found += checks.differences()
            uri = ""
            if all(d.kind in _OF_VALUES for d in found):
                if is_canonical:
                    uri = self.landing.uri(self.info.path)
                elif copy is not None and self.staging is not None:
                    path = delivery_path(self.contract, self.delivery, self.folder.name)
                    uri = copy.write(self.staging, f"{path}/part-{self.number:05}.parquet")
        source = SourceFile(self.info, footer.metadata.num_rows, footer.schema, uri, rescued=not is_canonical)
        return FileRead(self.info, source, tuple(found), checks.rows)

    def _known(self) -> list[str]:
        return [item.name for item in self.folder.fields]

    def _batches(
        self, files: list[pq.ParquetFile], footer: Footer, columns: list[str] | None, normaliser: Normaliser
    ) -> Iterator[pa.RecordBatch]:
        """The file's rows, valid as Arrow understands it: text is UTF-8.

        Raises:
            _UnreadableError: they can't be read.
        """
        if columns == []:  # Arrow would make as many rows of no columns as the footer says
            return
        try:
            size = self._batch_rows(files[0], columns)
            options = {"batch_size": size, "columns": columns, "use_threads": not self.several}
            for batch, *others in zip(*(file.iter_batches(**options) for file in files), strict=True):
                if self.stop.is_set():
                    return
                for name, array in zip(batch.schema.names, batch.columns, strict=True):
                    try:
                        array.validate(full=True)
                    except pa.ArrowInvalid as error:
                        bad = list(_invalid(name, array)) or [(name, error)]
                        raise _UnreadableError([_unreadable(path, str(reason)) for path, reason in bad]) from error
                yield _merge_int96(batch, others[0], normaliser.lossy) if others else batch
        except ARROW_ERRORS as error:
            raise _UnreadableError(self._locate(files[0], footer, columns, error)) from error

    def _batch_rows(self, file: pq.ParquetFile, columns: list[str] | None) -> int:
        """The rows of a batch that fits into memory, estimated from the first rows."""
        first = next(file.iter_batches(_PROBE_ROWS, columns=columns, use_threads=False), None)
        if first is None or not first.num_rows:
            return _BATCH_ROWS
        return max(1, min(_BATCH_ROWS, _BATCH_BYTES * first.num_rows // max(1, first.nbytes)))

    def _locate(
        self, file: pq.ParquetFile, footer: Footer, columns: list[str] | None, error: Exception
    ) -> list[Difference]:
        """The columns that can't be read: each is read alone."""
        damaged: dict[str, str] = {}
        for index, path in enumerate(footer.leaves):
            if columns is None or re.split(r"\.|\[\]", path)[0] in columns:
                try:
                    for _ in file.iter_batches(_LOCATE_ROWS, columns=[footer.metadata.schema.column(index).path]):
                        if self.stop.is_set():
                            return []
                except ARROW_ERRORS as reason:
                    damaged[path] = str(reason)
        return [_unreadable(path, reason) for path, reason in damaged.items()] or [_unreadable(None, str(error))]


def _unreadable(path: str | None, reason: str) -> Difference:
    return Difference(
        ViolationKind.UNREADABLE_PARQUET, path, "values that can be read", f"values that can't be: {shown(reason)}"
    )


def _invalid(path: str, array: pa.Array) -> Iterator[tuple[str, Exception]]:
    """The innermost fields of an array that isn't valid."""
    try:
        array.validate(full=True)
    except pa.ArrowInvalid as error:
        inner: list[tuple[str, Exception]] = []
        if pa.types.is_struct(array.type):
            parts = zip(array.type, map(array.field, range(array.type.num_fields)), strict=True)
            inner = [bad for field_, part in parts for bad in _invalid(f"{path}.{field_.name}", part)]
        elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
            inner = list(_invalid(f"{path}[]", array.values))
        yield from inner or [(path, error)]


class _Copy:
    """A normalised copy that is being written; only a complete one is put into the staging folder."""

    def __init__(self, folder: Folder) -> None:
        self._schema = arrow_schema(folder, rescued=True)
        self._waiting: list[pa.RecordBatch] = []

    def __enter__(self) -> _Copy:
        self._file = cast(BinaryIO, tempfile.TemporaryFile())
        # Without Arrow's own schema, which engines would read too.
        self._writer = pq.ParquetWriter(self._file, self._schema, store_schema=False)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._writer.close()  # it isn't of use without its file
        finally:
            self._file.close()  # which removes it

    def add(self, batch: pa.RecordBatch) -> None:
        self._waiting.append(batch)
        if sum(one.nbytes for one in self._waiting) >= _BATCH_BYTES:
            self._flush()

    def write(self, staging: DataLake, path: str) -> str:
        """Write the copy, and return its address."""
        self._flush()
        self._writer.close()
        self._file.seek(0)
        staging.write(path, self._file)
        return staging.uri(path)

    def _flush(self) -> None:
        if not self._waiting:
            return
        try:
            self._writer.write_table(pa.Table.from_batches(self._waiting))
        except OSError as error:
            raise LakeError(
                f"temporary folder {tempfile.gettempdir()}",
                expected="space for a normalised copy",
                found=error.strerror or str(error),
                hint="Free some space there, or set TMPDIR to another folder.",
            ) from error
        self._waiting.clear()


def _merge_int96(exact: pa.RecordBatch, coarse: pa.RecordBatch, lossy: dict[str, str]) -> pa.RecordBatch:
    """A batch in which timestamps of 96 bits have their exact values.

    Args:
        exact: the batch with these as nanoseconds, which have gone round where they lie outside 1677 to 2262.
        coarse: the same one with these as microseconds, rounded down.
        lossy: receives the path of a field that neither batch holds exactly, and the reason.
    """
    pairs = zip(exact.schema.names, exact.columns, coarse.columns, strict=True)
    arrays = [_merge_array(ns, us, name, lossy) for name, ns, us in pairs]
    return pa.RecordBatch.from_arrays(arrays, names=exact.schema.names)


def _merge_array(exact: pa.Array, coarse: pa.Array, path: str, lossy: dict[str, str]) -> pa.Array:
    if exact.type == coarse.type:
        return exact
    if pa.types.is_struct(exact.type):
        names = [field_.name for field_ in exact.type]
        pairs = zip(names, exact.flatten(), coarse.flatten(), strict=True)
        parts = [_merge_array(ns, us, f"{path}.{name}", lossy) for name, ns, us in pairs]
        return pa.StructArray.from_arrays(parts, names=names, mask=exact.is_null())
    if not pa.types.is_timestamp(exact.type):  # a list or a map
        lists, others = as_list(exact), as_list(coarse)
        return list_of(lists, _merge_array(lists.flatten(), others.flatten(), f"{path}[]", lossy))
    micros = coarse.view(pa.int64())
    # Both multiplication and subtraction go round as the nanoseconds have.
    digits = pc.subtract(exact.view(pa.int64()), pc.multiply(micros, 1000))
    if not pc.any(pc.not_equal(digits, 0)).as_py():
        return coarse
    longest = 2**63 // 1000 - 1
    if pc.all(pc.and_(pc.less(micros, longest), pc.greater(micros, -longest))).as_py():
        return exact
    lossy[path] = "INT96: nanoseconds in a year before 1677 or after 2262"
    return coarse
