"""Writing tables: a table with other columns is refused, and one that lacks columns gets them."""

from __future__ import annotations

from pathlib import Path

import deltalake
import pyarrow as pa
import pytest

from biocloud_assets.errors import TableError
from biocloud_assets.ingest import delivery_log
from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.schema import DELIVERY_COLUMN, arrow_type
from biocloud_assets.spark import delta_log
from tests.ingest.deliveries import DELIVERY, write
from tests.ingest.lakehouse import content, ingest, step


def create(context: IngestContext, name: str, schema: pa.Schema) -> str:
    """Create an empty table, partitioned by delivery; returns its address."""
    uri = context.lake.uri(CONTRACT.address(CONTRACT.table(name)))
    deltalake.write_deltalake(uri, schema.empty_table(), partition_by=[DELIVERY_COLUMN])
    return uri


def test_a_table_that_lacks_columns_gets_them(context: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / "in")
    older = [column for column in CONTRACT.table("sensor").columns if column.name not in {"serial_number", "owner"}]
    create(context, "sensor", pa.schema([(column.name, arrow_type(column.type)) for column in older]))
    ingest(context, DELIVERY)
    (row,) = content(context)["sensor"]
    assert row["owner"] == {"id": "owner-1", "name": "Zoë"}
    assert row["serial_number"] == "0001"


def test_a_table_of_other_types_is_refused_and_left_as_it_is(context: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / "in")
    create(context, "algorithm", pa.schema([("id", pa.int64()), (DELIVERY_COLUMN, pa.string())]))
    with pytest.raises(TableError, match=r"raw/dsi/algorithm: expected id: string, found id: bigint"):
        ingest(context, DELIVERY)
    assert delta_log.version(context.lake, "raw/dsi/algorithm") == 0
    assert delivery_log.ingested(context.tables, CONTRACT) == set()


def test_a_table_with_a_column_too_many_is_refused(context: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / "in")
    columns = [(column.name, arrow_type(column.type)) for column in CONTRACT.table("sensor").columns]
    create(context, "sensor", pa.schema([*columns, ("colour", pa.string())]))
    with pytest.raises(TableError, match=r"expected colour: no such column, found colour: string"):
        step(context, "raw/dsi/sensor")
    assert delta_log.version(context.lake, "raw/dsi/sensor") == 0
