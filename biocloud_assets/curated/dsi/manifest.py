"""The manifest of a folder: which files it holds, for a reader who must be sure that nothing is being written.

What belongs here: writing a manifest, and taking it away. What doesn't: what is in the files.

A manifest stands for one state of a folder. It is written last, in one put, and taken away before anything else in the
folder changes (`publication`) or goes (`cleanup`). So a reader who finds the same manifest before and after reading has
read whole files. It is UTF-8 JSON:

    {
      "write_date": "2026-01-31",
      "files": [
        "dsi/2026-01-31/observation/part-00000.parquet"
      ],
      "details": [
        {"path": "dsi/2026-01-31/observation/part-00000.parquet", "size": 48213, "etag": "9a0364b9…"}
      ]
    }
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass
from datetime import date
from typing import IO, BinaryIO, cast

from biocloud_assets.curated.dsi.paths import MANIFEST, parse_run_date
from biocloud_assets.lake import DataLake, FileInfo

_PIECE = 1024 * 1024
"""Files are read, and manifests kept in memory, up to so many bytes at a time."""


@dataclass(frozen=True)
class Manifest:
    """What a manifest says, summed up.

    Attributes:
        path: of the manifest, relative to the lake's root.
        uri: its full address.
        write_date: the run date.
        files: how many files it lists.
        size: their size together, bytes.
        written: whether it was written; not if the very same one was there, or in a dry run.
    """

    path: str
    uri: str
    write_date: date
    files: int
    size: int
    written: bool


def write_manifest(relative_path: str, data_lake: DataLake, run_date: date | str, *, dry_run: bool = False) -> Manifest:
    """Write a manifest of all files below a folder to `<relative_path>/manifest.json`.

    The keys of the JSON object:

    | key | value |
    | --- | --- |
    | `write_date` | the run date, `yyyy-mm-dd` |
    | `files` | the paths of all files below `relative_path`, however deep, relative to the lake's root, sorted by code point; not the manifest itself |
    | `details` | for each of these files, in the same order: `path`; `size` in bytes; `etag`, S3's entity tag, and in a folder what S3 would give after one put: the MD5 of the content in hexadecimal |

    It is put in one request, when all else is known. A manifest that says the same already is left alone, so that a
    repetition changes nothing. On S3, n files cost ceil(n/1000) list requests (at least one), and any number of them
    the same memory: paths go through a temporary file.

    Args:
        relative_path: the folder, relative to the lake's root, without a `/` at either end.
        data_lake: the lake that holds it.
        run_date: the day that is written into the manifest; a date, or one as `yyyy-mm-dd`.
        dry_run: list the files, and write nothing.

    | parameter | type | example |
    | --- | --- | --- |
    | `relative_path` | `str` | `"dsi/2026-01-31"` |
    | `data_lake` | `DataLake` | `DataLake.at("s3://bucket/curated")` |
    | `run_date` | `date` or `str` | `date(2026, 1, 31)` |
    | `dry_run` | `bool` | `False` |

    Returns:
        what it says, summed up.

    Raises:
        LakeError: the path leaves the lake's root, or the lake can't be read or written. The manifest that was there, if
            any, is as it was.
        RunDateError: the run date is no date.
    """  # noqa: E501  # the rows of a table can't be broken
    written = parse_run_date(run_date)
    path = f"{relative_path}/{MANIFEST}" if relative_path else MANIFEST
    there: FileInfo | None = None
    count = size = 0
    with tempfile.SpooledTemporaryFile(_PIECE) as document, tempfile.SpooledTemporaryFile(_PIECE) as details:
        document.write(f'{{\n  "write_date": "{written.isoformat()}",\n  "files": ['.encode())
        for file in data_lake.walk(relative_path):
            if file.path == path:
                there = file
                continue
            separator = b",\n    " if count else b"\n    "
            count, size = count + 1, size + file.size
            document.write(separator + _json(file.path))
            detail = {"path": file.path, "size": file.size, "etag": file.etag or _md5(data_lake, file)}
            details.write(separator + _json(detail))
        document.write(b'\n  ],\n  "details": [')
        details.seek(0)
        while piece := details.read(_PIECE):
            document.write(piece)
        document.write(b"\n  ]\n}\n")
        same = there is not None and _same(data_lake, there, document)
        if not (same or dry_run):
            document.seek(0)
            data_lake.write(path, cast(BinaryIO, document))
    return Manifest(path, data_lake.uri(path), written, count, size, written=not (same or dry_run))


def withdraw_manifest(relative_path: str, data_lake: DataLake) -> None:
    """Take a folder's manifest away, if it has one: before anything in the folder changes.

    Args:
        relative_path: the folder, relative to the lake's root.
        data_lake: the lake that holds it.

    Raises:
        LakeError: the path leaves the lake's root, or the manifest can't be deleted.
    """
    data_lake.delete([f"{relative_path}/{MANIFEST}"])


def _json(value: object) -> bytes:
    # Names that no UTF-8 can hold, which a file system may have, come out as JSON's \udcxx.
    return json.dumps(value).encode()


def _md5(lake: DataLake, file: FileInfo) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for start in range(0, file.size, _PIECE):
        digest.update(lake.read(file.path, start=start, length=_PIECE))
    return digest.hexdigest()


def _same(lake: DataLake, file: FileInfo, document: IO[bytes]) -> bool:
    """Whether a file in the lake holds just what the document does."""
    if file.size != document.tell():
        return False
    document.seek(0)
    starts = range(0, file.size, _PIECE)
    return all(lake.read(file.path, start=start, length=_PIECE) == document.read(_PIECE) for start in starts)
