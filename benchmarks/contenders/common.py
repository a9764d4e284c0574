"""What the contenders share: their arguments, the report of their time, and writing with delta-rs."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.schema import DELIVERY_COLUMN, Table


@dataclass(frozen=True)
class Task:
    """What a contender is asked to do.

    Attributes:
        landing, delivery, lake: where the files are, and where the tables go.
        checked: whether it gives the guarantees of `biocloud ingest`.
        passes: how often the delivery is written; the second time the process is warm.
        engine: of Spark.
    """

    landing: str
    delivery: str
    lake: str
    checked: bool
    passes: int
    engine: str

    @property
    def source(self) -> str:
        """The folder of the delivery."""
        return f"{self.landing}/{CONTRACT.source}/{self.delivery}"

    def uri(self, table: Table) -> str:
        """The address of a table."""
        return f"{self.lake}/{CONTRACT.address(table)}"

    @property
    def is_remote(self) -> bool:
        """Whether files and tables are in S3."""
        return self.landing.startswith("s3://")


def parse() -> Task:
    """The task, from the arguments of the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("landing")
    parser.add_argument("delivery")
    parser.add_argument("lake")
    parser.add_argument("--checked", action="store_true")
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--engine", default="sail")
    return Task(**vars(parser.parse_args()))


class Report:
    """The seconds of each pass."""

    def __init__(self) -> None:
        self._seconds: list[float] = []

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Measure one pass."""
        start = time.perf_counter()
        yield
        self._seconds.append(time.perf_counter() - start)

    def print(self) -> None:
        """Print the report."""
        print(json.dumps({"work": self._seconds}), flush=True)


class CheckError(Exception):
    """A check failed."""


def require(passed: bool, name: str, found: object) -> None:
    """Raise an error if a check has failed."""
    if not passed:
        raise CheckError(f"{name}: found {found}")


def storage_options() -> dict[str, str] | None:
    """What delta-rs needs to know of an S3 besides the AWS-standard variables."""
    return {"allow_http": "true"} if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://") else None


def write_delta(task: Task, table: Table, rows: Any) -> None:
    """Replace the delivery's rows of a table by delta-rs.

    Args:
        task: the task.
        table: the table.
        rows: anything that Arrow can read as a stream, with `_delivery`.
    """
    from deltalake import DeltaTable, write_deltalake

    uri, options = task.uri(table), storage_options()
    exists = DeltaTable.is_deltatable(uri, options)
    write_deltalake(
        uri,
        rows,
        mode="overwrite",
        partition_by=[DELIVERY_COLUMN],
        predicate=f"{DELIVERY_COLUMN} = '{task.delivery}'" if exists else None,
        storage_options=options,
    )


def write_log(task: Task, rows: dict[str, int]) -> None:
    """Write the delivery's row into a delivery log."""
    import pyarrow as pa

    from biocloud_assets.schema import arrow_type

    schema = pa.schema([(column.name, arrow_type(column.type)) for column in CONTRACT.log.columns])
    row = {"rows": rows, "ingested_at": datetime.now(UTC), DELIVERY_COLUMN: task.delivery}
    write_delta(task, CONTRACT.log, pa.Table.from_pylist([row], schema=schema))


def run(work: Callable[[Task], None]) -> None:
    """Do the work as often as asked, and report it."""
    task, report = parse(), Report()
    for _ in range(task.passes):
        with report.timed():
            work(task)
    report.print()
