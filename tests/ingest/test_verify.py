"""`verify` compares a delivery with the lake, record by record."""

from __future__ import annotations

from pathlib import Path

import deltalake
import pyarrow as pa
import pytest

from biocloud_assets.errors import DeliveryNameError
from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.ingest.verify import Comparison, verify
from biocloud_assets.raw.dsi.contract import CONTRACT
from tests.ingest.deliveries import DELIVERY, record, table, write
from tests.ingest.lakehouse import ingest, written_files


def by_folder(context: IngestContext) -> dict[str, Comparison]:
    return {comparison.folder: comparison for comparison in verify(context, DELIVERY)}


@pytest.fixture
def ingested(context: IngestContext, tmp_path: Path) -> IngestContext:
    write(tmp_path / "in")
    ingest(context, DELIVERY)
    return context


def test_an_ingested_delivery_is_equal_to_its_tables(ingested: IngestContext) -> None:
    found = by_folder(ingested)
    assert list(found) == [folder.name for folder in CONTRACT.folders]
    assert all(comparison.equal and comparison.records == 1 for comparison in found.values())


def test_a_changed_value_in_a_table_is_found(ingested: IngestContext) -> None:
    uri = ingested.lake.uri("raw/dsi/analysis_group_result_region")
    deltalake.DeltaTable(uri).update(updates={"x1": "0.125"})
    found = by_folder(ingested)
    assert [name for name, comparison in found.items() if not comparison.equal] == ["analysis_group_result"]
    assert found["analysis_group_result"].examples == ("result-1: region_groups",)


def test_missing_and_added_records_are_counted(ingested: IngestContext, tmp_path: Path) -> None:
    deltalake.DeltaTable(ingested.lake.uri("raw/dsi/sensor")).delete()
    found = by_folder(ingested)["sensor"]
    assert (found.missing, found.added, found.differing, found.examples) == (1, 0, 0, ("sensor-1: not in the lake",))
    write(tmp_path / "in", algorithm=[record("algorithm", id="algorithm-2")])
    found = by_folder(ingested)["algorithm"]
    assert (found.missing, found.added) == (1, 1)
    assert set(found.examples) == {"algorithm-1: not in the source", "algorithm-2: not in the lake"}


def test_an_unknown_field_that_changed_is_found(context: IngestContext, tmp_path: Path) -> None:
    def deliver(battery: float) -> None:
        write(tmp_path / "in", sensor=table("sensor").append_column("battery", pa.array([battery])))

    deliver(3.7)
    ingest(context, DELIVERY)
    assert by_folder(context)["sensor"].equal
    deliver(3.8)
    assert by_folder(context)["sensor"].examples == ("sensor-1: _rescued",)


def test_a_source_that_breaks_the_contract_now_is_not_equal(ingested: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / "in", sensor=b"not Parquet", algorithm=table("algorithm").drop_columns(["name"]))
    found = by_folder(ingested)
    assert [name for name, comparison in found.items() if not comparison.equal] == ["algorithm", "sensor"]
    assert "missing column" in found["algorithm"].examples[0]
    assert "not Parquet" in found["sensor"].examples[0]


def test_a_comparison_leaves_the_lake_as_it_is(ingested: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / "in", sensor=table("sensor").append_column("battery", pa.array([3.7])))
    before = written_files(ingested)
    assert not by_folder(ingested)["sensor"].equal
    assert written_files(ingested) == before


def test_a_delivery_that_does_not_exist_is_named(context: IngestContext) -> None:
    with pytest.raises(DeliveryNameError):
        list(verify(context, DELIVERY))
