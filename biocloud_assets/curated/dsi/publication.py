"""Write a day's observations as Parquet files.

The same rows give the same files, byte for byte: they are in order, a fixed number to a file, and written by one
writer.
A file with that content is left alone, so a repetition changes nothing, and after a kill only missing files are
written. The manifest is deleted before the first change, and `manifest` writes it again; until then a reader finds no
manifest, which means that the folder is being written.

An empty file, the marker `paths.PUBLISHING`, is written before the manifest is deleted, and is deleted when all files
are written. If a publication is killed or fails between these, the marker stays, and `manifest` refuses the day until a
publication has completed it, because its files may be of two publications.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from itertools import islice
from typing import TYPE_CHECKING, Any

from biocloud_assets.curated.dsi import paths
from biocloud_assets.curated.dsi.manifest import delete_manifest
from biocloud_assets.curated.dsi.observation import arrow_schema
from biocloud_assets.lake import DataLake, FileInfo

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_FILE = 100_000
"""Also the number of rows that are kept in memory."""

_NAMES = 12
"""How many taxa the detections by day distinguish."""

OTHER_TAXA = "other taxa"
NO_TAXON = "no taxon"


@dataclass(frozen=True)
class Publication:
    """The content of a day's folder after it was published; in a dry run, what it would be.

    Attributes:
        run_date: the day.
        path: the folder of the observations, relative to the curated root.
        uri: its full address.
        rows: the number of observations.
        species: the number of different scientific names.
        files: the number of files.
        size: their size together, bytes.
        changed: how many files were written or deleted; 0 if none had to be.
        detections: for each taxon and each day of an `eventDate`'s start, `yyyy-mm-dd`, the number of observations; the
            taxa that are seen most often, and all others together.
        deliveries: the deliveries that it is made from.
        log_version: the version of the delivery log that it is made from.
        dry_run: whether nothing was written.
    """

    run_date: date
    path: str
    uri: str
    rows: int
    species: int
    files: int
    size: int
    changed: int
    detections: dict[str, dict[str, int]]
    deliveries: tuple[str, ...] = ()
    log_version: int = -1
    dry_run: bool = False


def publish_rows(
    curated: DataLake,
    run_date: date,
    rows: Iterable[Mapping[str, Any]],
    *,
    rows_per_file: int = ROWS_PER_FILE,
    dry_run: bool = False,
) -> Publication:
    """Write the files of a day's observations, and delete files that no longer belong to them.

    Args:
        curated: the lake of the curated layer.
        run_date: the day.
        rows: the observations, in order of `occurrenceID`, with the columns of `observation.TERMS`, read one by one.
        rows_per_file: the number of rows in a file.
        dry_run: compare with the existing files, and change nothing.

    Raises:
        LakeError: a file can't be read, written or deleted. The folder has no manifest then, unless nothing changed.
    """
    path, marker = paths.observation(run_date), f"{paths.day(run_date)}/{paths.PUBLISHING}"
    there = {file.path: file for file in curated.walk(path)}
    count = files = size = changed = 0
    seen: Counter[tuple[str, str]] = Counter()

    def about_to_change() -> None:
        nonlocal changed
        if changed == 0 and not dry_run:
            curated.write(marker, b"")
            delete_manifest(paths.day(run_date), curated)
        changed += 1

    for number, table in enumerate(_tables(rows, rows_per_file)):
        file, data = f"{path}/part-{number:05}.parquet", _parquet(table)
        if not _holds(curated, there.pop(file, None), data):
            about_to_change()
            if not dry_run:
                curated.write(file, data)
        count, files, size = count + table.num_rows, files + 1, size + len(data)
        seen.update(_detections(table))
    for file in there:
        about_to_change()
        if not dry_run:
            curated.delete([file])
    if not dry_run:  # also if nothing changed: an interrupted publication may have written all files
        curated.delete([marker])
    return Publication(
        run_date,
        path,
        curated.uri(path),
        count,
        len({name for name, _ in seen if name != NO_TAXON}),
        files,
        size,
        changed,
        _most_seen(seen),
        dry_run=dry_run,
    )


def _tables(rows: Iterable[Mapping[str, Any]], rows_per_file: int) -> Iterator[pa.Table]:
    """Tables with a given number of rows; one empty table if there are no rows, because it has the columns."""
    import pyarrow as pa

    rest, schema = iter(rows), arrow_schema()
    some = list(islice(rest, rows_per_file))
    while True:
        yield pa.Table.from_pylist(some, schema=schema)
        some = list(islice(rest, rows_per_file))
        if not some:
            return


def _parquet(table: pa.Table) -> bytes:
    """A table as a Parquet file: the same bytes for the same table and the same version of Arrow."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", store_schema=False)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _holds(lake: DataLake, file: FileInfo | None, data: bytes) -> bool:
    """Whether a file exists with exactly these bytes."""
    if file is None or file.size != len(data):
        return False
    # An entity tag that isn't the MD5 proves no difference: with some encryption, S3 has other tags.
    return file.etag == hashlib.md5(data, usedforsecurity=False).hexdigest() or lake.read(file.path) == data


def _detections(table: pa.Table) -> Iterator[tuple[str, str]]:
    for name, when in zip(table["scientificName"].to_pylist(), table["eventDate"].to_pylist(), strict=True):
        yield name or NO_TAXON, (when or "")[:10]


def _most_seen(seen: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    totals: Counter[str] = Counter()
    for (name, _), count in seen.items():
        totals[name] += count
    by_frequency = sorted(totals, key=lambda name: (-totals[name], name))
    shown = dict.fromkeys(by_frequency[:_NAMES])
    detections: dict[str, dict[str, int]] = {name: {} for name in shown}
    for (name, day), count in sorted(seen.items()):
        if day:  # an observation without a date isn't counted
            days = detections.setdefault(name if name in shown else OTHER_TAXA, {})
            days[day] = days.get(day, 0) + count
    return {name: dict(sorted(days.items())) for name, days in detections.items()}
