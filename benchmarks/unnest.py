"""Un-nest a delivery and write its tables: this project beside its peers, on a local disk and in S3.

Every contender is a process of its own with an empty lake. They take turns, so that other load on the machine affects
all of them. After the first turn their tables are compared with those of `biocloud ingest`, row by row.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder

from benchmarks.contenders.common import storage_options
from benchmarks.measure import (
    ProcessError,
    Run,
    Say,
    biocloud,
    environment,
    folder_size,
    median,
    megabytes,
    ratio,
    run,
    seconds,
)
from benchmarks.results import Plot, Result, Table
from benchmarks.s3_server import BUCKET, s3_server
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi.contract import CONTRACT, RESULT
from biocloud_assets.schema import Struct
from biocloud_assets.schema import Table as ContractTable


@dataclass(frozen=True)
class Contender:
    """One way to un-nest a delivery.

    Attributes:
        key: its name in the figures.
        title: its name in tables.
        module: of `benchmarks.contenders`; None for the command `biocloud ingest`.
        options: its arguments.
        once: whether it is slow, and so is run only once.
        needs: a command that must be installed.
        guarantees: whether it validates, checks and logs.
        same_tables: whether it writes the tables of the contract, so that they are compared.
    """

    key: str
    title: str
    module: str | None
    options: tuple[str, ...] = ()
    once: bool = False
    needs: str | None = None
    guarantees: bool = False
    same_tables: bool = True


CONTENDERS = (
    Contender("biocloud", "biocloud ingest", None, guarantees=True),
    Contender("sail", "its Spark code alone, on Sail", "spark"),
    Contender("duckdb", "DuckDB + delta-rs", "duckdb"),
    Contender("duckdb_checked", "DuckDB + delta-rs", "duckdb", ("--checked",), guarantees=True),
    Contender("polars", "Polars + delta-rs", "polars"),
    Contender("polars_checked", "Polars + delta-rs", "polars", ("--checked",), guarantees=True),
    Contender("jvm", "its Spark code alone, on a JVM", "spark", ("--engine", "jvm", "--passes", "2"), once=True,
              needs="java"),
    Contender("dlt", "dlt", "dlt", once=True, same_tables=False),
)  # fmt: skip

_FAST = ("biocloud", "sail", "duckdb", "duckdb_checked", "polars", "polars_checked")


@dataclass(frozen=True)
class Round:
    """What is compared with each other.

    Attributes:
        results: of the delivery.
        where: `local`, a disk, or `s3`.
        runs: how often each contender runs.
        contenders: their keys.
    """

    results: int
    where: str
    runs: int
    contenders: tuple[str, ...]


ROUNDS = (
    Round(100_000, "local", 3, ("biocloud", "dlt")),
    Round(200_000, "local", 3, (*_FAST, "jvm")),
    Round(200_000, "s3", 1, _FAST),
    Round(1_000_000, "local", 2, _FAST),
    Round(1_000_000, "s3", 1, _FAST),
)
"""What runs by default, in about 9 minutes on 2 cores."""

_COMPARED_RESULTS = 200_000
"""Up to this size, all rows of the tables are compared; of larger deliveries, their number."""


class DifferentTablesError(Exception):
    """A contender wrote other rows than `biocloud ingest`."""


def measure(*, rounds: Sequence[Round], say: Say) -> Result:
    """Run the rounds, the smallest delivery first.

    Args:
        rounds: what is compared.
        say: reports progress.
    """
    result = Result("unnest")
    for size in sorted({one.results for one in rounds}):
        with tempfile.TemporaryDirectory() as folder:
            say(f"generating {size:,} results")
            landing = Path(folder) / "landing"
            run(biocloud("sample", "--results", str(size), "--seed", "1"), environment(BIOCLOUD_HOME=folder))
            for one in (one for one in rounds if one.results == size):
                with s3_server() if one.where == "s3" else nullcontext({}) as server:
                    found = _Place(Path(folder), landing, one, say, server, result.errors).run()
                _add(result, found, size, one.where)
    _compare_sizes(result, sorted({one.results for one in rounds if one.where == "local"}))
    result.notes.extend(_NOTES)
    return result


@dataclass
class _Row:
    """The medians of one contender."""

    contender: Contender
    wall: float
    cpu: float
    memory: float
    written: float
    work: float | None
    runs: int
    guarantees: str = ""

    @property
    def title(self) -> str:
        return self.contender.title


class _Place:
    """A landing zone and empty lakes, on a local disk or in S3."""

    def __init__(
        self, home: Path, landing: Path, one: Round, say: Say, server: dict[str, str], errors: list[str]
    ) -> None:
        self.home, self.round, self.say, self.server, self.errors = home, one, say, server, errors
        self.delivery = next((landing / CONTRACT.source).iterdir()).name
        self.landing = str(landing)
        self.expected: dict[str, tuple[int, str]] | None = None
        if server:
            self.landing = f"s3://{BUCKET}/landing"
            with _variables(server):
                lake = DataLake.at(self.landing, endpoint=server["AWS_ENDPOINT_URL"])
                for file in landing.rglob("*.parquet"):
                    lake.write(str(file.relative_to(landing)), file.read_bytes())

    def lake(self, name: str) -> str:
        return f"s3://{BUCKET}/lakes/{name}" if self.server else str(self.home / "lakes" / name)

    def clear(self, name: str) -> None:
        if self.server:
            with _variables(self.server):
                self._lake(name).delete_folder(f"lakes/{name}")
        else:
            shutil.rmtree(self.home / "lakes" / name, ignore_errors=True)

    def _lake(self, name: str) -> DataLake:
        return DataLake.at(f"s3://{BUCKET}", endpoint=self.server["AWS_ENDPOINT_URL"])

    def written(self, name: str) -> int:
        if self.server:
            with _variables(self.server):
                return sum(file.size for file in self._lake(name).walk(f"lakes/{name}"))
        return folder_size(self.home / "lakes" / name)

    def start(self, contender: Contender) -> Run:
        """Run a contender with an empty lake."""
        name = contender.key
        self.clear(name)
        if contender.module is None:
            shutil.rmtree(self.home / "dagster", ignore_errors=True)
            roots = {"BIOCLOUD_LANDING_ROOT": self.landing, "BIOCLOUD_LAKE_ROOT": self.lake(name)}
            found = run(biocloud("ingest"), environment(BIOCLOUD_HOME=str(self.home), **roots, **self.server))
        else:
            module = f"benchmarks.contenders.{contender.module}"
            arguments = ["-m", module, self.landing, self.delivery, self.lake(name), *contender.options]
            found = run(arguments, environment(**self.server))
        return Run(found.wall, found.cpu, found.memory, found.output, self.written(name))

    def floor(self) -> Run:
        """Run the floor on the tables that `biocloud ingest` has written."""
        arguments = ["-m", "benchmarks.contenders.floor", self.landing, self.delivery, self.lake("biocloud")]
        return run(arguments, environment())

    def run(self) -> list[_Row]:
        """The medians of all contenders, and of the floor. One that fails is left out."""
        found: dict[str, list[Run]] = {}
        floor: list[Run] = []
        contenders = {one.key: one for one in CONTENDERS if one.key in {"biocloud", *self.round.contenders}}
        for number in range(self.round.runs):
            for one in list(contenders.values()):
                if number and one.once:
                    continue
                self.say(
                    f"{self.round.results:,} results, {self.round.where}, run {number + 1} of {self.round.runs}: "
                    f"{one.key}"
                )
                try:
                    if one.needs and shutil.which(one.needs) is None:
                        raise ProcessError(f"expected the command {one.needs}, found none. Install it.")
                    found.setdefault(one.key, []).append(self.start(one))
                    if not number and one.same_tables and one.key != "biocloud":
                        self.compare(one)
                except (ProcessError, DifferentTablesError) as error:
                    if one.key == "biocloud":
                        raise
                    self.errors.append(f"{one.key}, {self.round.results:,} results, {self.round.where}: {error}")
                    del contenders[one.key]
                    found.pop(one.key, None)
                if one.key != "biocloud":
                    self.clear(one.key)
            if not self.server and "sail" in contenders:
                floor.append(self.floor())
        self.clear("biocloud")
        rows = [row for key, runs in found.items() for row in _rows(contenders[key], runs)]
        if floor:
            work = [one.report["work"][0] for one in floor]
            cpu = median(one.report["cpu"] for one in floor)
            name = Contender("floor", "the floor: decode and encode in Arrow", "floor")
            rows.append(_Row(name, float("nan"), cpu, float("nan"), float("nan"), median(work), len(work)))
        return rows

    def compare(self, contender: Contender) -> None:
        """Compare a contender's tables with those of `biocloud ingest`.

        Raises:
            DifferentTablesError: a table has other rows.
        """
        whole = self.round.results <= _COMPARED_RESULTS
        with _variables(self.server):
            if self.expected is None:
                self.expected = tables_digest(self.lake("biocloud"), whole=whole)
            ours, theirs = self.expected, tables_digest(self.lake(contender.key), whole=whole)
        wrong = [name for name in ours if ours[name] != theirs[name]]
        if wrong:
            raise DifferentTablesError(
                f"{contender.key}: expected the rows of biocloud ingest, found others in "
                + "; ".join(f"{name}: {theirs[name]}, not {ours[name]}" for name in wrong)
            )


def _variables(server: dict[str, str]) -> ExitStack:
    """Let this process find the S3 while the context is open."""
    import os

    stack = ExitStack()
    before = {name: os.environ.get(name) for name in server}
    os.environ.update(server)

    def restore() -> None:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    stack.callback(restore)
    return stack


def tables_digest(lake: str, *, whole: bool) -> dict[str, tuple[int, str]]:
    """The number of rows of each table, and a digest of them that doesn't depend on their order; or only the number."""
    return {table.name: _digest(f"{lake}/{CONTRACT.address(table)}", table, whole=whole) for table in CONTRACT.tables}


def _digest(uri: str, table: ContractTable, *, whole: bool) -> tuple[int, str]:
    delta = DeltaTable(uri, storage_options=storage_options())
    if not whole:
        return delta.count(), ""
    # A structure whose fields are all null is a null for some writers, so the fields are compared.
    fields = [
        name
        for column in table.columns
        for name in (
            [f"\"{column.name}\"['{field.name}']" for field in column.type.fields]
            if isinstance(column.type, Struct)
            else [f'"{column.name}"']
        )
    ]
    # The length before each value tells ("a", "bc") from ("ab", "c").
    parts = ", ".join(f"coalesce(length({name}::VARCHAR) || ':' || {name}::VARCHAR, '-')" for name in fields)
    query = QueryBuilder().register("rows", delta).execute(f"SELECT sha256(concat({parts})) AS digest FROM rows")
    count, total = 0, np.zeros(4, np.uint64)
    for batch in pa.RecordBatchReader.from_stream(query):
        digests = batch.column(0).cast(pa.binary(32))
        count += len(digests)
        numbers = np.frombuffer(digests.buffers()[1], np.uint64)[4 * digests.offset :][: 4 * len(digests)]
        total += numbers.reshape(-1, 4).sum(axis=0, dtype=np.uint64)  # modulo 2**64
    return count, total.tobytes().hex()


def _rows(contender: Contender, runs: Sequence[Run]) -> Iterator[_Row]:
    """The medians of one contender; those of a second pass in the same process are a row of their own."""
    works = [one.report["work"] for one in runs] if contender.module else []
    first = median(work[0] for work in works) if works else None
    wall = median(one.wall - sum(work[1:]) for one, work in zip(runs, works or [[]] * len(runs), strict=True))
    passes = len(works[0]) if works else 1
    cpu = median(one.cpu for one in runs) if passes == 1 else float("nan")
    memory, written = median(one.memory for one in runs), median(one.written for one in runs)
    yield _Row(contender, wall, cpu, memory, written, first, len(runs))
    if passes > 1:
        warm = Contender(f"{contender.key}_warm", f"{contender.title}, warm", contender.module)
        yield _Row(warm, float("nan"), float("nan"), memory, float("nan"), median(w[1] for w in works), len(runs))


def _add(result: Result, rows: Sequence[_Row], size: int, where: str) -> None:
    """Add a table, its figures and a plot of one size and place."""
    by_key = {row.contender.key: row for row in rows}
    ours = by_key["biocloud"]
    floor = by_key.get("floor")
    fastest = min((row.work for row in rows if row.work is not None), default=None)
    cells = []
    for row in sorted(rows, key=lambda row: row.wall if row.wall == row.wall else float("inf")):
        work = floor.work if floor is not None else fastest
        cells.append(
            [
                row.title,
                "yes" if row.contender.guarantees else "no",
                _cell(row.wall / ours.wall, ratio),
                _cell(row.work / work if row.work is not None and work else None, ratio),
                _cell(row.wall, seconds),
                _cell(row.work, seconds),
                _cell(row.cpu, seconds),
                _cell(row.memory, megabytes),
                _cell(row.written, megabytes),
                str(row.runs),
            ]
        )
    place = "local disk" if where == "local" else "S3"
    base = "work / floor" if floor is not None else "work / fastest"
    columns = ["", "guarantees", "time / biocloud", base, "time", "work", "CPU", "memory", "written", "runs"]
    result.tables.append(Table(f"{size:,} results, {place}", columns, cells))
    prefix = f"{size}.{where}"
    for key, row in by_key.items():
        for name in ("wall", "cpu", "memory", "written", "work"):
            value = getattr(row, name)
            if value is not None and value == value:
                result.figures[f"{prefix}.{key}.{name}"] = float(value)
        if key != "biocloud" and row.wall == row.wall:
            result.figures[f"{prefix}.biocloud/{key}"] = ours.wall / row.wall
    if floor is not None and floor.work and "sail" in by_key:
        result.figures[f"{prefix}.sail/floor"] = (by_key["sail"].work or 0) / floor.work
    bars = {
        f"{row.title}{' with the guarantees' if row.contender.guarantees and row is not ours else ''}": row.wall
        for row in rows
        if row.wall == row.wall and row.wall < 6 * ours.wall
    }
    result.plots.append(Plot(f"unnest-{size}-{where}", f"{size:,} results, {place}: seconds, whole process", bars))


def _cell(value: float | None, shown: object) -> str:
    return "" if value is None or value != value else shown(value)  # type: ignore[operator]


def _compare_sizes(result: Result, sizes: Sequence[int]) -> None:
    """How time and memory of `biocloud ingest` grow with the delivery."""
    if len(sizes) < 2:
        return
    first, rows = sizes[0], []
    for size in sizes:
        wall, memory = (result.figures[f"{size}.local.biocloud.{name}"] for name in ("wall", "memory"))
        base_wall, base_memory = (result.figures[f"{first}.local.biocloud.{name}"] for name in ("wall", "memory"))
        result.figures[f"growth.{size // first}.wall"] = wall / base_wall
        result.figures[f"growth.{size // first}.memory"] = memory / base_memory
        rows.append(
            [f"{size:,} results", ratio(size / first), ratio(wall / base_wall), ratio(memory / base_memory),
             seconds(wall), megabytes(memory)]
        )  # fmt: skip
    columns = ["", "results", "time", "memory", "time", "memory"]
    result.tables.append(Table("Growth of biocloud ingest with the delivery", columns, rows))


_NOTES = [
    "`biocloud ingest` is measured as people run it: a new process, a new Dagster home, Dagster, all checks, the "
    "delivery log. `guarantees` says whether a contender validates keys, nulls, null elements, ranges and references "
    "before it writes, reads the tables back and checks keys, counts, ranges and references after it, and logs the "
    "delivery last. `biocloud ingest` also finds unknown fields, damaged values and other layouts of files, which the "
    "others don't.",
    "`time` is that of the whole process, `work` is without the start of Python, imports and engine. All contenders "
    "but dlt write the same nine tables with the same columns and partitions; the benchmark compares every row up to "
    f"{_COMPARED_RESULTS:,} results, and the numbers of rows beyond. "
    f"dlt un-nests to tables of its own shape, named after {RESULT}.",
    "The floor decodes the nested files and encodes the flat tables in Arrow, on all cores; nothing else.",
    "DuckDB has no S3 client in its package, so it copies the files first. Memory is that of the process and its "
    "children at the peak; the S3 server isn't part of it.",
]
