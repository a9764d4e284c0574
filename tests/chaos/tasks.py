"""What the processes of these tests do. Each function is a task; `begin` reports that its work begins."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from biocloud_assets.ingest import delivery_log
from biocloud_assets.ingest.context import IngestContext, open_context
from biocloud_assets.ingest.step import ingest_step
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.schema import DELIVERY_COLUMN
from biocloud_assets.spark import delta_log
from biocloud_assets.spark.table_reader import TableReader
from biocloud_assets.steps import RunInfo, StepRequest
from tests.ingest.lakehouse import context_at, whole

Begin = Callable[[], None]
"""Reports that the work of a task begins."""


def load() -> None:
    """Load the modules that the tasks need, in the process from which theirs are forked."""
    for module in (
        "boto3",
        "pyarrow.dataset",
        "pyarrow.parquet",
        "pysail.spark",
        "pyspark.sql.connect.session",
        "pyspark.sql.functions",
        "biocloud_assets.spark.delta",
        "tests.airflow.test_deploy",
        "tests.curated.dsi.test_publication",
    ):
        import_module(module)


# Writers.


def ingest(
    begin: Begin,
    root: str,
    deliveries: list[str],
    endpoint: str | None = None,
    user: int | None = None,
    largest_file: int | None = None,
) -> int:
    """Ingest deliveries from `<root>/in` into `<root>/out`; returns the number of results.

    Args:
        begin: reports that the engine has started.
        root: a folder or an `s3://` address.
        deliveries: their names.
        endpoint: the URL of an S3.
        user: the user that the process becomes, if it is root's.
        largest_file: the size in bytes that no file may exceed.
    """
    context = context_at(root, endpoint=endpoint)
    _ = context.spark
    if user is not None and os.geteuid() == 0:
        os.seteuid(user)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    begin()
    run = RunInfo("test", str(os.getpid()), "sail")
    return sum(1 for name in deliveries for _ in ingest_step(context, whole(CONTRACT, name), run))


def curate(begin: Begin, lake: str, curated: str, run_date: str, assets: list[str], endpoint: str | None = None) -> int:
    """Run steps of the curated layer; returns the number of results."""
    from biocloud_assets.curated.dsi.step import curated_step

    context = open_context(
        CONTRACT, landing_root=lake, lake_root=lake, engine="sail", s3_endpoint=endpoint, catalog=None
    )
    _ = context.spark
    begin()
    request = StepRequest(tuple(assets), run_date=run_date, retention_days=0)
    return sum(1 for _ in curated_step(context, DataLake.at(curated, endpoint=endpoint), request))


def publish(begin: Begin, curated: str, salt: str, endpoint: str | None = None) -> None:
    """Publish a day of ten files, write its manifest, and delete older days."""
    from tests.curated.dsi.test_publication import publish_wholly

    lake = DataLake.at(curated, endpoint=endpoint)
    begin()
    publish_wholly(lake, salt)


def deploy(begin: Begin, root: str, prefix: str, endpoint: str, definitions: dict[str, str]) -> None:
    """Deploy DAGs."""
    from tests.airflow.test_deploy import World

    world = World(Path(root), prefix, endpoint)
    world.definitions = definitions
    begin()
    world.deploy()


# Readers.


def content(context: IngestContext, delivery: str) -> dict[str, list[dict[str, Any]]]:
    """A delivery's rows in all tables, sorted."""
    found = {}
    for table in CONTRACT.tables:
        opened = delta_log.open_table(context.lake, CONTRACT.address(table))
        rows = [] if opened is None else opened.to_pyarrow_table(filters=[(DELIVERY_COLUMN, "=", delivery)]).to_pylist()
        found[table.name] = sorted(rows, key=repr)
    return found


def digest(context: IngestContext, delivery: str) -> str:
    """A digest of a delivery's rows in all tables."""
    return hashlib.sha256(repr(content(context, delivery)).encode()).hexdigest()[:16]


def read(begin: Begin, root: str, expected: str, stop: str, endpoint: str | None = None) -> dict[str, Any]:
    """Look at the lake until a file exists, and compare each delivery in the log with what its files hold.

    Args:
        begin: reports the first look.
        root: the lake is at `<root>/out`.
        expected: a JSON file: the digests of a delivery's rows by the fingerprint of its files.
        stop: the file that ends it.
        endpoint: the URL of an S3.

    Returns:
        how often a delivery was seen in the log, and for each time that its rows weren't all there a message.
    """
    context = context_at(root, endpoint=endpoint)
    looks, partial = 0, []
    begin()
    ended = False
    while not ended:
        ended = Path(stop).exists()  # one more look after that
        before = _log(context.tables)
        digests = {name: digest(context, name) for name in before}
        after = _log(context.tables)
        known = json.loads(Path(expected).read_text())
        for name, row in before.items():
            if after.get(name) != row:
                continue  # it was logged anew in the meantime, so its rows may have changed
            looks += 1
            if digests[name] != known[row["source_fingerprint"]]:
                counts = {table: len(rows) for table, rows in content(context, name).items()}
                partial.append(f"{name}, ingested {row['ingested_at']}: {counts}, logged {row['rows']}")
        time.sleep(0.05)
    return {"looks": looks, "partial": partial}


def _log(tables: TableReader) -> dict[str, dict[str, Any]]:
    """The rows of the delivery log, by delivery."""
    return delivery_log.read_all(tables, CONTRACT, delivery_log.ingested(tables, CONTRACT))
