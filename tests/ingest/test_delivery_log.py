"""The delivery log says which deliveries are ingested, and is read without an engine."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from biocloud_assets.ingest import delivery_log
from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.raw.dsi.contract import CONTRACT
from tests.ingest.deliveries import DELIVERY

LATER = "2026-02-28-06:00:00"


def row(**changes: Any) -> dict[str, Any]:
    return {
        "contract_version": 1,
        "rows": {table.name: number for number, table in enumerate(CONTRACT.tables)},
        "engine": "sail",
        "orchestrator": "dagster",
        "run_id": 'it\'s "1"',
        "ingested_at": datetime(2026, 1, 31, 6, 0, 0, 123456, UTC),
        "source_files": 5,
        "source_bytes": 2**40,
        "source_fingerprint": "0123",
        "code_version": "1.0",
        "code_commit": None,
    } | changes


def test_a_row_is_read_as_it_was_written(anywhere: IngestContext) -> None:
    assert delivery_log.read(anywhere.tables, CONTRACT, DELIVERY) is None
    assert delivery_log.ingested(anywhere.tables, CONTRACT) == set()
    delivery_log.write(anywhere, DELIVERY, row())
    assert delivery_log.read(anywhere.tables, CONTRACT, DELIVERY) == row(_delivery=DELIVERY)
    delivery_log.write(anywhere, DELIVERY, row(run_id="2"))
    assert delivery_log.read(anywhere.tables, CONTRACT, DELIVERY) == row(_delivery=DELIVERY, run_id="2")


def test_a_removed_row_is_no_longer_there_and_can_be_removed_again(context: IngestContext) -> None:
    for name in (DELIVERY, LATER):
        delivery_log.write(context, name, row())
    for _ in range(2):
        delivery_log.remove(context, DELIVERY)
        assert delivery_log.ingested(context.tables, CONTRACT) == {LATER}
        assert delivery_log.read(context.tables, CONTRACT, DELIVERY) is None


def test_only_the_rows_that_are_asked_for_are_read(context: IngestContext) -> None:
    for name in (DELIVERY, LATER):
        delivery_log.write(context, name, row(run_id=name))
    found = delivery_log.read_all(context.tables, CONTRACT, [LATER, "2027-01-01-00:00:00"])
    assert {name: logged["run_id"] for name, logged in found.items()} == {LATER: LATER}
    assert delivery_log.read_all(context.tables, CONTRACT, []) == {}


def test_reading_starts_no_engine(context: IngestContext) -> None:
    delivery_log.write(context, DELIVERY, row())
    program = (
        "import json, sys\n"
        "from biocloud_assets.ingest import delivery_log\n"
        "from biocloud_assets.lake import DataLake\n"
        "from biocloud_assets.raw.dsi.contract import CONTRACT\n"
        "from biocloud_assets.spark.table_reader import DeltaRsReader\n"
        "tables = DeltaRsReader(DataLake.at(sys.argv[1]))\n"
        "names = sorted(delivery_log.ingested(tables, CONTRACT))\n"
        "found = delivery_log.read(tables, CONTRACT, names[0])\n"
        "print(json.dumps([names, found['run_id'], sorted({'pyspark', 'pysail'} & set(sys.modules))]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, context.lake.root], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [[DELIVERY], row()["run_id"], []]


@pytest.mark.parametrize("quote", ["'", "\\", "\\'", '"'])
def test_a_name_with_quotes_reads_nothing_else(context: IngestContext, quote: str) -> None:
    delivery_log.write(context, DELIVERY, row())
    assert delivery_log.read(context.tables, CONTRACT, f"{quote} OR 1=1 --") is None
