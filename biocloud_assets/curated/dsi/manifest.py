"""The manifest of a folder: which files it holds. While it is there, no file in the folder changes.

A manifest describes one state of a folder. It is written last, in one request, and deleted before any file that it
lists is changed (`publication`) or deleted (`cleanup`). So a reader who finds the same manifest before and after
reading has read complete files. It is UTF-8 JSON:

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

from biocloud_assets.curated.dsi.paths import MANIFEST, PUBLISHING, parse_run_date
from biocloud_assets.lake import DataLake, FileInfo

_PIECE = 1024 * 1024
"""The bytes that are read from a file, and kept in memory of a manifest, at a time."""


@dataclass(frozen=True)
class Manifest:
    """The totals of a manifest.

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

    - `write_date`: the run date, `yyyy-mm-dd`.
    - `files`: the paths of all files below `relative_path`, at any depth, relative to the lake's root, sorted by code
      point; not the manifest itself, nor the marker of a publication beside it, `_publishing`.
    - `details`: for each of these files, in the same order, `path`, `size` in bytes, and `etag`: S3's entity tag; in a
      folder the MD5 of the content in hexadecimal, which is what S3 returns after one put.

    It is written in one request, after everything was listed. A manifest with the same content is left alone, so that a
    repetition changes nothing. On S3, n files cost ceil(n/1000) list requests (at least one). The memory doesn't grow
    with the number of files, because paths are buffered in a temporary file.

    Args:
        relative_path: `str`, the folder, relative to the lake's root, without a `/` at either end; for instance
            `dsi/2026-01-31`.
        data_lake: `DataLake`, the lake that holds it; for instance `DataLake.at("s3://bucket/curated")`.
        run_date: `date`, or `str` as `yyyy-mm-dd`: the day that is written into the manifest.
        dry_run: `bool`: list the files, and write nothing.

    Returns:
        the totals of the manifest.

    Raises:
        LakeError: the path leaves the lake's root, or the lake can't be read or written. An existing manifest is
            unchanged.
        RunDateError: the run date is no date.
    """
    written = parse_run_date(run_date)
    path, marker = (f"{relative_path}/{name}" if relative_path else name for name in (MANIFEST, PUBLISHING))
    there: FileInfo | None = None
    count = size = 0
    with tempfile.SpooledTemporaryFile(_PIECE) as document, tempfile.SpooledTemporaryFile(_PIECE) as details:
        document.write(f'{{\n  "write_date": "{written.isoformat()}",\n  "files": ['.encode())
        for file in data_lake.walk(relative_path):
            if file.path == path:
                there = file
            if file.path in (path, marker):
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


def delete_manifest(relative_path: str, data_lake: DataLake) -> None:
    """Delete the manifest of a folder, if it has one; called before any file that it lists changes.

    Args:
        relative_path: the folder, relative to the lake's root.
        data_lake: the lake that holds it.

    Raises:
        LakeError: the path leaves the lake's root, or the manifest can't be deleted.
    """
    data_lake.delete([f"{relative_path}/{MANIFEST}"])


def _json(value: object) -> bytes:
    # Names of a file system that aren't valid UTF-8 are written with JSON's \udcxx.
    return json.dumps(value).encode()


def _md5(lake: DataLake, file: FileInfo) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for start in range(0, file.size, _PIECE):
        digest.update(lake.read(file.path, start=start, length=_PIECE))
    return digest.hexdigest()


def _same(lake: DataLake, file: FileInfo, document: IO[bytes]) -> bool:
    """Whether a file in the lake has the same content as the document."""
    if file.size != document.tell():
        return False
    document.seek(0)
    starts = range(0, file.size, _PIECE)
    return all(lake.read(file.path, start=start, length=_PIECE) == document.read(_PIECE) for start in starts)
