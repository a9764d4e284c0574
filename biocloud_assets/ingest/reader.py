"""Read a delivery's files in Arrow, before an engine does: no other module interprets what a file holds.

One pass over all files reads the footers, decodes and checks every value, counts rows, and writes a normalised copy of
each file that an engine might read differently. A file is read by the engine as it is if its
schema is exactly the contract's (names, order, types, nullable, standard lists, microseconds in UTC), every
engine knows its encodings and can read its name, and it isn't marked as written in a legacy calendar.

Files are read batch by batch, several at once on all cores, so memory is bounded by the size of a batch and its rows.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from biocloud_assets.ingest.delivery import DeliveryFiles, delivery_path
from biocloud_assets.ingest.file_reader import FileRead, FileReader
from biocloud_assets.ingest.footers import PARQUET_MAGIC
from biocloud_assets.ingest.violations import Inspection, Violation, ViolationKind, errors_first, shown
from biocloud_assets.lake import DataLake
from biocloud_assets.schema import Contract, Folder

_TABLE_FORMATS = {
    "Delta": re.compile(r"_delta_log/"),
    "Iceberg": re.compile(r"metadata/[^/]+\.(avro|metadata\.json)$"),
    "Hudi": re.compile(r"\.hoodie/"),
}


def read_delivery(
    landing: DataLake, contract: Contract, files: DeliveryFiles, *, staging: DataLake | None = None
) -> Inspection:
    """Read all files of a delivery once: find violations, count rows, and write normalised copies where needed.

    Args:
        landing: the landing zone.
        contract: the contract.
        files: the delivery's files.
        staging: where the normalised copies go, as `<source>/<delivery>/<folder>/part-NNNNN.parquet`. Without it,
            nothing is written.

    Returns:
        the files with the addresses that the engine reads, all violations but those of keys that are repeated and of
        references, and the rows that each table must get.

    Raises:
        LakeError: the landing zone can't be read, or the staging folder can't be written.
    """
    stop = threading.Event()
    several = len(files.all_files) >= pa.cpu_count()
    # One thread for each core: Arrow lets go of Python's lock while it decodes and computes.
    with ThreadPoolExecutor(pa.cpu_count()) as pool:
        try:
            listed = [pool.submit(_listing_violations, landing, contract, files, item) for item in contract.folders]
            reads = {
                folder.name: [
                    pool.submit(
                        FileReader(landing, contract, folder, files.delivery, info, number, staging, stop, several).run
                    )
                    for number, info in enumerate(files.files[folder.name])
                ]
                for folder in contract.folders
            }
            violations = [*(one for found in listed for one in found.result()), *_stray_files(contract, files)]
            results = {folder: [read.result() for read in found] for folder, found in reads.items()}
        except BaseException:
            # An interrupt too: the threads end with the batch that they are at.
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    pa.default_memory_pool().release_unused()  # Arrow keeps what it has freed, and the engine needs it now
    rows = dict.fromkeys((table.name for table in contract.tables), 0)
    for folder, found in results.items():
        violations += [
            Violation(
                d.kind, files.delivery, folder, shown(file.info.name), d.path and shown(d.path), d.expected, d.found
            )
            for file in found
            for d in file.differences
        ]
        violations += _disagreements(files.delivery, folder, found)
        for file in found:
            for table, count in file.rows.items():
                rows[table] += count
    sources = {name: tuple(file.source for file in found if file.source) for name, found in results.items()}
    return Inspection(files, sources, errors_first(violations), rows)


def _listing_violations(landing: DataLake, contract: Contract, files: DeliveryFiles, folder: Folder) -> list[Violation]:
    """The violations in a folder's listing: it is missing, empty or a table, or has Parquet files in other places."""

    def violation(kind: ViolationKind, file: str | None, expected: str, found: str) -> Violation:
        return Violation(kind, files.delivery, folder.name, file, None, expected, found)

    others = {
        path.removeprefix(f"{folder.name}/"): info
        for path, info in zip(files.others, files.other_files, strict=True)
        if path.startswith(f"{folder.name}/")
    }
    for format_, pattern in _TABLE_FORMATS.items():
        if any(map(pattern.match, others)):
            found = f"those of a table in the format {format_}, among which are files of rows that were removed"
            return [violation(ViolationKind.TABLE_FORMAT, None, "only Parquet files to be read", found)]
    result = []
    if not files.files[folder.name]:
        expected = "one Parquet file or more (it may have no rows)"
        if others:
            found = shown(f"only {', '.join(list(others)[:3])}")
            result.append(violation(ViolationKind.EMPTY_FOLDER, None, expected, found))
        elif folder.name in landing.list(delivery_path(contract, files.delivery)).folders:
            result.append(violation(ViolationKind.EMPTY_FOLDER, None, expected, "none"))
        else:
            expected = "the folder, with one Parquet file or more"
            result.append(violation(ViolationKind.MISSING_FOLDER, None, expected, "no such folder"))
    for path, info in others.items():
        if landing.head(info, len(PARQUET_MAGIC[0])) in PARQUET_MAGIC:
            expected = f"the folder's Parquet files as {folder.name}/*.parquet"
            result.append(violation(ViolationKind.MISPLACED_FILE, shown(path), expected, "one that is not read"))
        else:
            result.append(_unexpected(files, folder.name, path))
    return result


def _stray_files(contract: Contract, files: DeliveryFiles) -> Iterator[Violation]:
    """The files outside the contract's folders."""
    for path in files.others:
        folder, _, rest = path.partition("/")
        if not rest:
            yield _unexpected(files, ".", path)
        elif folder not in files.files:
            yield _unexpected(files, folder, rest)


def _unexpected(files: DeliveryFiles, folder: str, path: str) -> Violation:
    return Violation(
        ViolationKind.UNEXPECTED_FILE,
        files.delivery,
        shown(folder),
        shown(path),
        None,
        "only <folder>/*.parquet of " + ", ".join(files.files),
        "a file that is not read",
    )


def _disagreements(delivery: str, folder: str, reads: list[FileRead]) -> Iterator[Violation]:
    """A violation for each field that only some files of a folder have as the contract says."""
    readable = [read for read in reads if read.source is not None]
    for column in sorted({column for read in readable for column in read.unusable}):
        wrong = [read for read in readable if column in read.unusable]
        right = [read for read in readable if column not in read.unusable]
        if right:
            yield Violation(
                ViolationKind.FILES_DISAGREE,
                delivery,
                folder,
                shown(", ".join(read.info.name for read in wrong)),
                shown(column),
                shown(f"the same as in {', '.join(read.info.name for read in right)}"),
                ", ".join(sorted({d.kind for read in wrong for d in read.differences if d.path == column})),
            )
