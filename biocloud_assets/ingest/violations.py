"""Violations of a contract that are found in a delivery, and what an inspection of a delivery holds."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from biocloud_assets.ingest.delivery import DeliveryFiles
from biocloud_assets.lake import FileInfo

if TYPE_CHECKING:
    import pyarrow as pa


class ViolationKind(StrEnum):
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
    DANGLING_REFERENCE = "dangling reference"
    OUT_OF_RANGE = "value out of range"
    NOT_ORDERED = "values not in order"
    UNEXPECTED_FILE = "unexpected file"
    MISPLACED_FILE = "Parquet file out of place"
    TABLE_FORMAT = "folder of a table format"


WARNINGS = frozenset(
    {
        ViolationKind.UNKNOWN_COLUMN,
        ViolationKind.DANGLING_REFERENCE,
        ViolationKind.OUT_OF_RANGE,
        ViolationKind.NOT_ORDERED,
        ViolationKind.UNEXPECTED_FILE,
    }
)
"""The kinds that are reported and don't refuse a delivery; all others do."""


@dataclass(frozen=True)
class Violation:
    """One violation in a delivery.

    Attributes:
        kind: what is wrong.
        delivery: the delivery's name.
        folder: the folder, or the path of a file that doesn't belong there.
        file: the file or files; None if it concerns the folder.
        column: the path of the column or nested field, or None.
        expected: what the contract says.
        found: what is there.
    """

    kind: ViolationKind
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
        where = [f"delivery {self.delivery}", f"folder {self.folder}"]
        where += [f"file {self.file}"] if self.file else []
        where += [f"column {self.column}"] if self.column else []
        return f"{self.kind}: {', '.join(where)}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True)
class SourceFile:
    """A Parquet file whose footer was read.

    Attributes:
        info: the file.
        rows: its number of rows.
        schema: its columns, as Arrow reads them.
        uri: the address that the engine reads: the file itself if its layout is the contract's, else that of its
            normalised copy. Empty if the file can't be taken (a violation says why), or if it had to be copied and no
            staging folder was given.
        rescued: whether the layout at `uri` is `schema.arrow_schema(folder, rescued=True)`, that of a copy; else it is
            `schema.arrow_schema(folder)`.
    """

    info: FileInfo
    rows: int
    schema: pa.Schema
    uri: str = ""
    rescued: bool = False


@dataclass(frozen=True)
class Inspection:
    """What was found in a delivery.

    Attributes:
        files: the files that were inspected.
        sources: for each folder, its readable Parquet files.
        violations: all violations, errors first.
        rows: for each table of the contract, by its name, the rows that it must get.
    """

    files: DeliveryFiles
    sources: dict[str, tuple[SourceFile, ...]]
    violations: tuple[Violation, ...]
    rows: dict[str, int]

    @property
    def delivery(self) -> str:
        """The delivery's name."""
        return self.files.delivery

    @property
    def errors(self) -> tuple[Violation, ...]:
        """The violations that refuse the delivery."""
        return tuple(violation for violation in self.violations if not violation.is_warning)

    @property
    def warnings(self) -> tuple[Violation, ...]:
        """The violations that don't."""
        return tuple(violation for violation in self.violations if violation.is_warning)


def errors_first(violations: Iterable[Violation]) -> tuple[Violation, ...]:
    """The violations in the order in which an inspection holds them."""
    return tuple(sorted(violations, key=lambda violation: violation.is_warning))


_LONGEST = 200
"""How many characters of a value a message shows."""


def shown(value: object) -> str:
    """A value, a type or a name for a message: on one line, and cut after 200 characters.

    Args:
        value: a text is shown as it is, anything else as Python writes it.
    """
    # One that begins alike is enough: the text of a value may be of any length.
    text = value if isinstance(value, str) else repr(value)
    text = re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]", _escaped, text[: _LONGEST + 1])
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _escaped(match: re.Match[str]) -> str:
    character = match.group()
    # A byte of a file's name that is no text, as Python keeps it.
    return f"\\x{ord(character) - 0xDC00:02x}" if "\udc80" <= character <= "\udcff" else repr(character)[1:-1]
