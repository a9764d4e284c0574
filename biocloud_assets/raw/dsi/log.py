"""The delivery log: which deliveries are ingested. Being in it is what "ingested" means.

What belongs here: reading the table `raw/dsi/delivery`, which takes no engine, so that sensors and the command line
can. What doesn't: writing it, which is the last step of `ingest`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi.contract import DELIVERY_COLUMN, LOG
from biocloud_assets.spark import delta


def ingested(lake: DataLake) -> set[str]:
    """The names of all ingested deliveries.

    They are the table's partitions, so its Delta log tells them, and no data file is read however many there are.
    """
    return delta.partition_values(lake, LOG.path, DELIVERY_COLUMN)


def read(lake: DataLake, delivery: str) -> dict[str, Any] | None:
    """What the log says of one delivery (the columns of `contract.LOG`); None if it is not ingested."""
    return read_all(lake, [delivery]).get(delivery)


def read_all(lake: DataLake, deliveries: Collection[str]) -> dict[str, dict[str, Any]]:
    """What the log says of some deliveries, by their names; those that are not ingested are left out."""
    table = delta.open_table(lake, LOG.path) if deliveries else None
    if table is None:
        return {}
    import pyarrow as pa
    from deltalake import QueryBuilder

    # Not `to_pyarrow_table`: with it, a process that ends soon after sometimes aborts (delta-io/delta-rs#2184).
    names = ", ".join("'" + name.replace("'", "''") + "'" for name in deliveries)
    query = f"SELECT * FROM log WHERE {DELIVERY_COLUMN} IN ({names})"
    rows = pa.table(QueryBuilder().register("log", table).execute(query)).to_pylist()
    return {row[DELIVERY_COLUMN]: dict(row) for row in rows}
