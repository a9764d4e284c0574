"""Many small deliveries, one after the other, into one lake that is maintained: nothing grows that need not."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from biocloud_assets.ingest import delivery_log
from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.ingest.delivery import format_name
from biocloud_assets.maintenance.tables import maintain_table
from biocloud_assets.raw.dsi.contract import CONTRACT, RESULT
from biocloud_assets.spark import delta_log
from tests.chaos.conftest import Chaos
from tests.ingest.deliveries import record, write
from tests.ingest.lakehouse import context_at, ingest

pytestmark = pytest.mark.timeout(7200)

RESULTS = 20
"""How many results a delivery has."""

REPEATED = 10
"""Each so manieth delivery is delivered again with other values, and ingested again."""


def maintain(context: IngestContext) -> None:
    """Do what the maintenance job does, and then delete replaced files too, for which it waits a week."""
    from deltalake import PostCommitHookProperties

    # No checkpoint with this commit: Sail 0.7 can't read most versions before the newest checkpoint.
    hook = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
    for table in (*CONTRACT.tables, CONTRACT.log):
        path = CONTRACT.address(table)
        maintain_table(context.lake, path)
        opened = delta_log.open_table(context.lake, path)
        assert opened is not None
        opened.vacuum(0, dry_run=False, enforce_retention_duration=False, full=True, post_commithook_properties=hook)


def deliver(root: Path, number: int, *, again: bool = False) -> str:
    """Write the small delivery of a number."""
    name = format_name(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=number))
    tag = "again" if again else "first"
    write(
        root / "in",
        name,
        sensor=[record("sensor", id=f"new-{number}", name=tag), record("sensor", id="sensor-1")],
        analysis_group_result=[record(RESULT, id=f"r-{number}-{one}") for one in range(RESULTS)],
    )
    return name


def files(context: IngestContext) -> dict[str, int]:
    """How many data files and log files all tables have together, and the bytes of the log files."""
    found = list(context.lake.walk("raw"))
    log = [file for file in found if "/_delta_log/" in file.path]
    return {"data files": len(found) - len(log), "log files": len(log), "log bytes": sum(file.size for file in log)}


def test_many_small_deliveries_grow_the_tables_by_their_rows_alone_and_the_history_stays_readable(
    chaos: Chaos, tmp_path: Path
) -> None:
    context = context_at(tmp_path)
    count, every = chaos.times(10, 1000), chaos.times(5, 100)
    seconds: list[float] = []
    table: list[dict[str, Any]] = []
    deliveries = set()
    for number in range(count):
        name = deliver(tmp_path, number)
        began = time.perf_counter()
        ingest(context, name)
        seconds.append(time.perf_counter() - began)
        deliveries.add(name)
        if number % REPEATED == REPEATED - 1:
            ingest(context, deliver(tmp_path, number, again=True))
        if number % every == every - 1:
            before = files(context)
            began = time.perf_counter()
            maintain(context)
            maintenance = time.perf_counter() - began
            after = files(context)
            table.append(
                {
                    "deliveries": number + 1,
                    "seconds": median(seconds[-every:]),
                    "maintenance": maintenance,
                    "data files before": before["data files"],
                    "data files": after["data files"],
                    "log files": after["log files"],
                    "log bytes": after["log bytes"],
                }
            )
            chaos.keep("long_run", {"seconds": seconds, "table": table})
            assert delivery_log.ingested(context.tables, CONTRACT) == deliveries
            # One file for each delivery in each of nine tables and the log: nothing that was replaced is kept.
            assert after["data files"] == 10 * len(deliveries)
    for one in (*CONTRACT.tables, CONTRACT.log):
        opened = delta_log.open_table(context.lake, CONTRACT.address(one))
        assert opened is not None
        versions = [entry["version"] for entry in opened.history()]
        assert versions == list(range(opened.version(), -1, -1)), "every commit is in the history"
        rows = {RESULT: RESULTS, "sensor": 2}.get(one.name, RESULTS if one.name.startswith(RESULT) else 1)
        assert opened.to_pyarrow_dataset().count_rows() == rows * len(deliveries)
        # A version before the first delivery that was replaced still has all its files.
        opened.load_as_version(REPEATED - 1)
        assert opened.to_pyarrow_dataset().count_rows() == rows * (REPEATED - 1)
        # Every version of the log can be opened.
        for version in chaos.random.sample(versions, min(len(versions), 20)):
            opened.load_as_version(version)
    assert sum(1 for entry in context.lake.walk("_files/ingested")) == len(deliveries)
    first, last = table[0]["seconds"], table[-1]["seconds"]
    chaos.record(
        "Many small deliveries grow the tables by their rows alone; the history stays readable.",
        f"{count:,} deliveries of {RESULTS} results, one after the other into one lake; each tenth is delivered again "
        f"with other values. After each {every}, small files are merged and replaced ones deleted.",
        f"{count:,} deliveries, {count // REPEATED:,} repetitions",
        f"After each maintenance: one data file for each delivery and table. All versions are in the history. The "
        f"median time of a delivery was {first:.2f} s for the first {every} and {last:.2f} s for the last.",
    )
