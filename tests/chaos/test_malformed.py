"""Malformed deliveries: each is refused with a message that names the violation; none crashes, hangs or writes."""

from __future__ import annotations

import io
import multiprocessing
import resource
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from biocloud_assets.errors import DeliveryRefusedError
from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.ingest.delivery import DeliveryFiles
from biocloud_assets.ingest.reader import read_delivery
from biocloud_assets.ingest.violations import ViolationKind
from biocloud_assets.lake import DataLake, FileInfo
from biocloud_assets.raw.dsi.contract import CONTRACT, RESULT
from tests.chaos.conftest import Chaos
from tests.ingest import parquet_footer as footer
from tests.ingest.deliveries import DELIVERY, edit, record, table, write
from tests.ingest.lakehouse import content, context_at, ingest
from tests.ingest.test_reader_cases import LONG, chunk_of, text_of
from tests.ingest.test_reader_files import LOSSY, WHOLE, WRONG, bytes_of

pytestmark = pytest.mark.timeout(3600)

Kind = ViolationKind
Make = Callable[[Path, str], object]
"""Writes a delivery of a name below a landing root."""


def given_as(**folders: Any) -> Make:
    """A valid delivery, but for some folders."""
    return lambda root, name: write(root, name, **folders)


def records(folder: str, *overrides: dict[str, Any]) -> Make:
    """A valid delivery, but for the records of one folder."""
    return given_as(**{folder: [record(folder, **one) for one in overrides]})


def beside(path: str, data: bytes) -> Make:
    """A valid delivery with one more file."""

    def make(root: Path, name: str) -> None:
        file = write(root, name) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

    return make


def changed(folder: str, path: str, change: Any) -> Make:
    """A valid delivery in which one field of a folder is another one."""
    return lambda root, name: write(root, name, **{folder: edit(table(folder), path, change)})


def with_footer(change: Callable[[footer.Thrift], None]) -> Make:
    return given_as(sensor=footer.with_footer(bytes_of(LONG), change))


def overwritten(column: str) -> bytes:
    """A file in which a column's pages are overwritten."""
    file = bytearray(bytes_of(LONG, compression="snappy"))
    start, end = chunk_of(bytes(file), column)
    file[start:end] = b"\xff" * (end - start)
    return bytes(file)


def _without_metadata(parsed: footer.Thrift) -> None:
    del parsed[footer.ROW_GROUPS][1][1][0][1][1][1][4][3]


def _with_more_rows(parsed: footer.Thrift) -> None:
    parsed[3] = (parsed[3][0], 3000)


REGION = {"media_id": "m1", "box": None}
MEDIUM = {"id": "m1", "sensor_media_item_id": "item-1", "filename": None}

MALFORMED: dict[str, tuple[Make, Kind, str]] = {
    "a folder is missing": (given_as(sensor=None), Kind.MISSING_FOLDER, "folder sensor"),
    "all folders are missing but one": (
        given_as(**{folder.name: None for folder in CONTRACT.folders if folder.name != "sensor"}),
        Kind.MISSING_FOLDER,
        f"folder {RESULT}",
    ),
    "a folder holds only a mark": (
        lambda root, name: (write(root, name, sensor=b"") / "sensor" / "part-0.parquet").rename(
            root / "dsi" / name / "sensor" / "_SUCCESS"
        ),
        Kind.EMPTY_FOLDER,
        "folder sensor",
    ),
    "a folder's name is in upper case": (
        lambda root, name: (write(root, name) / "sensor").rename(root / "dsi" / name / "SENSOR"),
        Kind.MISSING_FOLDER,
        "folder sensor",
    ),
    "an empty file": (given_as(sensor=b""), Kind.NOT_PARQUET, "0 bytes"),
    "a CSV file": (given_as(sensor=b"id,name\nsensor-1,Camera\n" * 10), Kind.NOT_PARQUET, "id,n"),
    "a JSON file": (given_as(sensor=b'[{"id": "sensor-1"}]'), Kind.NOT_PARQUET, "part-0.parquet"),
    "an error page": (given_as(sensor=b"<html><body>503</body></html>" * 9), Kind.NOT_PARQUET, "<htm"),
    "only the magic number": (given_as(sensor=b"PAR1"), Kind.TRUNCATED_PARQUET, "4 bytes"),
    "an encrypted footer": (given_as(sensor=WHOLE[:-4] + b"PARE"), Kind.UNREADABLE_PARQUET, "footer"),
    "a file that lacks its last byte": (given_as(sensor=WHOLE[:-1]), Kind.TRUNCATED_PARQUET, "no footer"),
    "half of a file": (given_as(sensor=WHOLE[: len(WHOLE) // 2]), Kind.TRUNCATED_PARQUET, "part-0.parquet"),
    "a file with zeros at the end": (given_as(sensor=WHOLE + bytes(64)), Kind.TRUNCATED_PARQUET, "part-0.parquet"),
    "a file of zeros": (given_as(sensor=bytes(4096)), Kind.NOT_PARQUET, "part-0.parquet"),
    "two files in one": (given_as(sensor=WHOLE + WHOLE[:200]), Kind.TRUNCATED_PARQUET, "part-0.parquet"),
    "a footer of noise": (
        given_as(sensor=WHOLE[:-400] + b"\xff" * 392 + WHOLE[-8:]),
        Kind.UNREADABLE_PARQUET,
        "footer",
    ),
    "a footer that counts other rows": (with_footer(_with_more_rows), Kind.UNREADABLE_PARQUET, "part-0.parquet"),
    "a column without metadata": (with_footer(_without_metadata), Kind.UNREADABLE_PARQUET, "part-0.parquet"),
    "a key's pages are overwritten": (given_as(sensor=overwritten("id")), Kind.UNREADABLE_PARQUET, "column id"),
    "a value's pages are overwritten": (given_as(sensor=overwritten("name")), Kind.UNREADABLE_PARQUET, "column name"),
    "text that is not UTF-8": (
        changed("sensor", "name", lambda name, _: [(name, text_of(b"Zo\xeb"))]),
        Kind.UNREADABLE_PARQUET,
        "column name",
    ),
    "nested text that is not UTF-8": (
        changed("sensor", "owner.name", lambda name, _: [(name, text_of(b"\xed\xa0\x80"))]),
        Kind.UNREADABLE_PARQUET,
        "column owner.name",
    ),
    "no columns": (given_as(sensor=table("sensor").select([])), Kind.MISSING_COLUMN, "column id"),
    "a missing key": (given_as(sensor=table("sensor").drop_columns(["id"])), Kind.MISSING_COLUMN, "column id"),
    "a missing field in a list": (
        changed(RESULT, "media[].sensor_media_item_id", lambda name, array: []),
        Kind.MISSING_COLUMN,
        "column media[].sensor_media_item_id",
    ),
    "a renamed column": (
        changed("sensor", "serial_number", lambda name, array: [("serialNumber", array)]),
        Kind.RENAMED_COLUMN,
        "column serial_number",
    ),
    "a renamed field in a list of lists": (
        changed(RESULT, "predictions[].taxa.items[].scientific_name", lambda name, array: [("scientificName", array)]),
        Kind.RENAMED_COLUMN,
        "column predictions[].taxa.items[].scientific_name",
    ),
    "a repeated column": (
        changed("sensor", "name", lambda name, array: [(name, array), (name, array)]),
        Kind.REPEATED_COLUMN,
        "column name",
    ),
    "a repeated field": (
        changed("sensor", "owner.name", lambda name, array: [(name, array), (name, array)]),
        Kind.REPEATED_COLUMN,
        "column owner.name",
    ),
    "the columns of another folder": (given_as(sensor=table("algorithm")), Kind.MISSING_COLUMN, "folder sensor"),
    "files that disagree": (
        given_as(
            sensor=[table("sensor"), edit(table("sensor"), "model", lambda name, array: [(name, array.cast("binary"))])]
        ),
        Kind.FILES_DISAGREE,
        "column model",
    ),
    "a null key": (records("sensor", {"id": None}), Kind.NULL_KEY, "column id"),
    "a null that the contract forbids": (records("sensor", {"type": None}), Kind.NULL_VALUE, "column type"),
    "a null reference": (
        records("sensor_deployment", {"sensor_id": None}),
        Kind.NULL_VALUE,
        "column sensor_id",
    ),
    "a repeated key in a file": (records("sensor", {}, {"name": "again"}), Kind.REPEATED_KEY, "sensor-1"),
    "a repeated key in two files": (
        given_as(sensor=[table("sensor"), table("sensor")]),
        Kind.REPEATED_KEY,
        "sensor-1",
    ),
    "a repeated result": (records(RESULT, {}, {}), Kind.REPEATED_KEY, "result-1"),
    "a null medium": (records(RESULT, {"media": [None]}), Kind.NULL_ELEMENT, "column media[]"),
    "a null among media": (records(RESULT, {"media": [MEDIUM, None]}), Kind.NULL_ELEMENT, "column media[]"),
    "a null region group": (records(RESULT, {"region_groups": [None]}), Kind.NULL_ELEMENT, "column region_groups[]"),
    "a null region": (
        records(RESULT, {"region_groups": [{"id": "g", "individual_id": None, "regions": [REGION, None]}]}),
        Kind.NULL_ELEMENT,
        "column region_groups[].regions[]",
    ),
    "a null prediction": (records(RESULT, {"predictions": [None]}), Kind.NULL_ELEMENT, "column predictions[]"),
    "a null taxon": (
        records(RESULT, {"predictions": [{"region_group_id": "g", "taxa": {"type": None, "items": [None]}}]}),
        Kind.NULL_ELEMENT,
        "column predictions[].taxa.items[]",
    ),
    "a Parquet file in a subfolder": (
        beside("sensor/date=2026-01-30/part-1.parquet", WHOLE),
        Kind.MISPLACED_FILE,
        "date=2026-01-30",
    ),
    "a Parquet file with another ending": (beside("sensor/part-1.pq", WHOLE), Kind.MISPLACED_FILE, "part-1.pq"),
    "a file that is still being uploaded": (
        beside("sensor/part-1.parquet.tmp", WHOLE),
        Kind.MISPLACED_FILE,
        "part-1.parquet.tmp",
    ),
    "a Delta table": (beside("sensor/_delta_log/00000000000000000000.json", b"{}"), Kind.TABLE_FORMAT, "Delta"),
    "an Iceberg table": (beside("sensor/metadata/v1.metadata.json", b"{}"), Kind.TABLE_FORMAT, "Iceberg"),
    **{
        f"{folder}.{path} of another type, {number}": (changed(folder, path, change), Kind.WRONG_TYPE, f"column {path}")
        for number, (folder, path, change) in enumerate(WRONG)
    },
    **{
        f"{folder}.{path} of a type that loses something, {number}": (
            changed(folder, path, change),
            Kind.LOSSY_TYPE,
            f"column {path}",
        )
        for number, (folder, path, change, _) in enumerate(LOSSY)
    },
}
"""Each kind of malformed delivery: how it is made, the violation, and what the message names besides."""


def test_every_malformed_delivery_is_refused_by_name_and_nothing_is_written(chaos: Chaos, tmp_path: Path) -> None:
    """Both a new delivery and one that is ingested already."""
    context = context_at(tmp_path)
    new = "2026-02-01-06:00:00"
    write(tmp_path / "in", DELIVERY)
    ingest(context, DELIVERY)
    before, files = content(context), list(context.lake.walk())
    kinds: Counter[str] = Counter()
    # tests/ingest has each of them for the reader; so the short form has some, through the whole step.
    titles = list(MALFORMED) if chaos.long else chaos.random.sample(sorted(MALFORMED), 20)
    for title in titles:
        make, kind, named = MALFORMED[title]
        for name in (DELIVERY, new):
            landing = tmp_path / "in" / "dsi" / name
            if landing.exists():
                landing.rename(tmp_path / f"{len(list(tmp_path.iterdir()))}")
            make(tmp_path / "in", name)
            message = refusal(context, name)
            assert message.startswith(f"delivery {name}: "), title
            assert any(f"{kind}: delivery {name}" in line and named in line for line in message.splitlines()), (
                f"{title}: {message}"
            )
            assert list(context.lake.walk()) == files, title
        kinds[kind] += 1
    assert content(context) == before
    chaos.record(
        "A malformed delivery is refused with a message that names the violation; nothing is written.",
        f"{len(titles)} kinds, each as a new delivery and in the place of one that is in the lake.",
        f"{2 * len(titles)} deliveries",
        "Each was refused, and the message named the delivery and the folder, file or column: "
        + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        + ". No file of the lake changed.",
    )


def refusal(context: IngestContext, name: str) -> str:
    """The message that refuses a delivery; empty if it isn't refused."""
    try:
        ingest(context, name)
    except DeliveryRefusedError as error:
        return str(error)
    return ""


# Bytes.


def _base(folder: str, **options: Any) -> bytes:
    rows = [record(folder, id=f"row-{number}") for number in range(20)]
    file = io.BytesIO()
    pq.write_table(table(folder, rows), file, **options)
    return file.getvalue()


BASES = [
    (folder, _base(folder, **options))
    for folder in ("sensor", "sensor_deployment", RESULT)
    for options in (
        {"compression": "none", "use_dictionary": False},
        {"compression": "snappy", "write_page_checksum": True},
        {"compression": "zstd", "data_page_version": "2.0", "store_schema": False},
    )
]
"""Valid files, with the folder of each."""


@st.composite
def damaged_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """A valid file in which bytes are replaced, lost, repeated, taken from another file, or the footer is changed."""
    folder, base = draw(st.sampled_from(BASES))
    file = bytearray(base)
    for _ in range(draw(st.integers(1, 4))):
        # The footer is where most of the meaning is.
        at = draw(st.integers(0, len(file) - 1) | st.integers(max(0, len(file) - 1500), len(file) - 1))
        length = draw(st.integers(1, 64))
        match draw(st.sampled_from(["byte", "bytes", "lose", "repeat", "other", "cut", "number"])):
            case "byte":
                file[at] ^= 1 << draw(st.integers(0, 7))
            case "bytes":
                file[at : at + length] = draw(st.binary(min_size=1, max_size=64))
            case "lose":
                del file[at : at + length]
            case "repeat":
                file[at:at] = file[at : at + length]
            case "other":
                other = draw(st.sampled_from(BASES))[1]
                start = draw(st.integers(0, len(other) - 1))
                file[at : at + length] = other[start : start + length]
            case "cut":
                del file[at:]
            case "number":  # sizes and counts that are far too large
                file[at : at + 5] = draw(st.sampled_from([b"\xff\xff\xff\xff\x0f", b"\x80\x80\x80\x80\x08", bytes(5)]))
        if not file:
            break
    return folder, bytes(file)


def read_file(root: str, folder: str, data: bytes) -> tuple[str, float, int]:
    """Read a file as the only one of its folder; return the outcome, the seconds, and the process's memory in MB."""
    path = Path(root, "file.parquet")
    path.write_bytes(data)
    info = FileInfo(path.name, len(data), datetime.now(UTC))
    files = {one.name: (info,) if one.name == folder else () for one in CONTRACT.folders}
    start = time.perf_counter()
    inspection = read_delivery(
        DataLake.at(root), CONTRACT, DeliveryFiles(DELIVERY, files), staging=DataLake.at(f"{root}/staging")
    )
    seconds = time.perf_counter() - start
    errors = [error for error in inspection.errors if error.folder == folder]
    for error in errors:
        assert error.file == path.name, error
        str(error).encode()  # it can be shown
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return ("refused" if errors else "accepted"), seconds, memory


def test_damaged_bytes_are_refused_by_file_or_harmless_and_never_crash_or_hang(chaos: Chaos, tmp_path: Path) -> None:
    """In another process, so that a crash is noticed."""
    outcomes: Counter[str] = Counter()
    slowest = largest = 0.0
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    @seed(chaos.seed)
    @settings(
        max_examples=chaos.times(30, 5_000),
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged_files())
    def read_all(damaged: tuple[str, bytes]) -> None:
        nonlocal pool, slowest, largest
        try:
            outcome, seconds, memory = pool.submit(read_file, str(tmp_path), *damaged).result(timeout=30)
        except BrokenProcessPool:
            pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
            raise
        outcomes[outcome] += 1
        slowest, largest = max(slowest, seconds), max(largest, memory)
        assert memory < 2000, "more than 2 GB of memory for a file of some kilobytes"

    read_all()
    pool.shutdown()
    chaos.record(
        "A damaged file is refused by its name or read, and never crashes or hangs a process.",
        "hypothesis replaces, loses, repeats and mixes bytes of valid Parquet files (three folders, three ways of "
        "writing), most of them in the footer.",
        f"{outcomes.total():,} files",
        f"{outcomes['refused']:,} were refused, {outcomes['accepted']:,} could be read; no exception, no crash. The "
        f"slowest took {slowest:.2f} s; the process needed {largest:.0f} MB at most.",
    )
