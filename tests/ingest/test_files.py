"""Files of other layouts than the contract's, from the landing zone into the tables: kept whole, or refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from biocloud_assets.errors import DeliveryRefusedError
from biocloud_assets.ingest import delivery_log
from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.ingest.verify import verify
from biocloud_assets.raw.dsi.contract import CONTRACT, RESULT
from biocloud_assets.schema import arrow_schema
from tests.ingest import edge_cases
from tests.ingest.deliveries import DELIVERY, record, table, write
from tests.ingest.lakehouse import content, failed, ingest, written_files


def assert_equal(context: IngestContext, delivery: str = DELIVERY) -> None:
    assert [comparison for comparison in verify(context, delivery) if not comparison.equal] == []


def result(**overrides: Any) -> list[dict[str, Any]]:
    return [record(RESULT, **overrides)]


# Deliveries that are ingested.


@pytest.mark.parametrize("name", [edge_cases.PLAIN, edge_cases.UNKNOWN, edge_cases.WIDE])
def test_edge_cases_of_every_type_come_back_from_the_tables(context: IngestContext, tmp_path: Path, name: str) -> None:
    assert name in edge_cases.write_all(tmp_path / "in")
    ingest(context, name)
    assert delivery_log.ingested(context.tables, CONTRACT) == {name}
    assert_equal(context, name)


def test_types_that_can_be_widened_give_the_types_of_the_contract(context: IngestContext, tmp_path: Path) -> None:
    """Narrow integers, other strings, dictionaries, units of time and order of columns."""
    plain = table("sensor_media_item")
    media = pa.struct(
        [
            ("size_bytes", pa.int32()),
            ("type", pa.dictionary(pa.int8(), pa.string())),
            ("mime_type", pa.large_string()),
            ("filename", pa.string()),
            ("uri", pa.string_view()),
            ("width_px", pa.int16()),
            ("height_px", pa.uint16()),
            ("duration_s", pa.float32()),
        ]
    )
    other = pa.table(
        {
            "media": pa.array(plain["media"].to_pylist(), media),
            "id": pa.array(["item-2"], pa.large_string()),
            "sensor_deployment_id": pa.array(["deployment-1"]).dictionary_encode(),
            "captured_at": plain["captured_at"].cast(pa.timestamp("ns", tz="Europe/Amsterdam")),
            "created_at": plain["created_at"].cast(pa.timestamp("us")),
            "updated_at": pa.nulls(1),
        }
    )
    write(tmp_path / "in", sensor_media_item=[plain, other])
    assert failed(ingest(context, DELIVERY)) == {}
    first, second = content(context)["sensor_media_item"]
    assert second == first | {"id": "item-2", "updated_at": None}
    assert_equal(context)


def test_files_of_a_folder_may_differ_in_unknown_fields(context: IngestContext, tmp_path: Path) -> None:
    results = arrow_schema(CONTRACT.folder(RESULT))
    media = results.field("media").type.value_type
    more = results.set(
        results.get_field_index("media"), pa.field("media", pa.list_(pa.struct([*media, pa.field("more", pa.int32())])))
    )
    medium = {"id": "m1", "sensor_media_item_id": "item-1", "filename": "1.jpg", "more": 7}
    extra = pa.Table.from_pylist(result(id="more", media=[medium]), more)
    write(tmp_path / "in", analysis_group_result=[table(RESULT), extra])
    assert list(failed(ingest(context, DELIVERY))) == [f"landing/dsi/{RESULT}:plausible"]
    rescued = {row["result_id"]: row["_rescued"] for row in content(context)["analysis_group_result_media"]}
    assert rescued == {"result-1": None, "more": '{"more":7}'}
    assert_equal(context)


def test_the_copies_of_files_are_removed_and_never_read_as_tables(context: IngestContext, tmp_path: Path) -> None:
    write(tmp_path / "in", sensor=table("sensor").append_column("battery", pa.array([3.7])))
    ingest(context, DELIVERY)
    assert not [path for path in written_files(context) if not path.startswith(("raw/dsi/", "_files/ingested/dsi/"))]
    (row,) = content(context)["sensor"]
    assert json.loads(row["_rescued"]) == {"battery": 3.7}


def test_not_a_number_stays_one(context: IngestContext, tmp_path: Path) -> None:
    """Statistics of a column leave NaN out, and an engine that trusts them reads it as a number."""
    items = [
        {"scientific_name": "A", "scientific_name_id": None, "probability": probability}
        for probability in (0.5, math.nan, 0.5)
    ]
    predictions = [{"region_group_id": "g1", "taxa": {"type": "multilabel", "items": items}}]
    write(tmp_path / "in", analysis_group_result=result(predictions=predictions))
    ingest(context, DELIVERY)
    rows = context.read_table(CONTRACT.table("analysis_group_result_prediction")).orderBy("taxon_index").collect()
    assert [repr(row["probability"]) for row in rows] == ["0.5", "nan", "0.5"]
    assert_equal(context)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zstd"},
        {"compression": "lz4"},
        {"compression": "brotli"},
        {"use_dictionary": False, "column_encoding": {"name": "DELTA_BYTE_ARRAY"}},
        {"data_page_version": "2.0"},
        {"use_deprecated_int96_timestamps": True},
        {"use_compliant_nested_type": False},
        {"coerce_timestamps": "ms", "allow_truncated_timestamps": True},
        {"store_schema": False},
        {"row_group_size": 1},
    ],
    ids=str,
)
def test_a_file_is_ingested_however_it_is_written(
    context: IngestContext, tmp_path: Path, options: dict[str, Any]
) -> None:
    delivery = write(tmp_path / "in", sensor=[record("sensor", id=f"sensor-{n}", created_at=None) for n in range(1, 4)])
    for file in delivery.rglob("*.parquet"):
        encoding = {
            name: value for name, value in options.items() if name != "column_encoding" or "sensor/" in str(file)
        }
        pq.write_table(pq.read_table(file), file, **encoding)
    assert failed(ingest(context, DELIVERY)) == {}
    assert len(content(context)["sensor"]) == 3
    assert_equal(context)


@pytest.mark.parametrize(
    ("overrides", "check"),
    [
        (
            {
                "region_groups": [
                    {"id": "g", "individual_id": None, "regions": [{"media_id": "m1", "box": {"x1": 1.5}}]}
                ]
            },
            "raw/dsi/analysis_group_result_region:ranges",
        ),
        (
            {
                "predictions": [
                    {
                        "region_group_id": "g1",
                        "taxa": {
                            "type": "multiclass",
                            "items": [{"scientific_name": "A", "scientific_name_id": "1", "probability": math.nan}],
                        },
                    }
                ]
            },
            "raw/dsi/analysis_group_result_prediction:ranges",
        ),
    ],
)
def test_implausible_values_are_ingested_and_reported_twice(
    context: IngestContext, tmp_path: Path, overrides: dict[str, Any], check: str
) -> None:
    """When the files are read, and when the table is checked."""
    write(tmp_path / "in", analysis_group_result=result(**overrides))
    assert set(failed(ingest(context, DELIVERY))) == {f"landing/dsi/{RESULT}:plausible", check}
    assert_equal(context)


# Deliveries that are refused.


def damaged(delivery: Path) -> None:
    """Damage a page of values; the footer stays whole."""
    file = delivery / "algorithm" / "part-1.parquet"
    names = [record("algorithm", id=f"a{number}", name="x" * 50) for number in range(2000)]
    pq.write_table(table("algorithm", names), file)
    data = file.read_bytes()
    file.write_bytes(data[:4] + b"\xff" * 396 + data[400:])


def replaced(folder: str, change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    def apply(delivery: Path) -> None:
        file = delivery / folder / "part-0.parquet"
        pq.write_table(change(pq.read_table(file)), file)

    return apply


def with_values(folder: str, **overrides: Any) -> Callable[[Path], None]:
    return replaced(folder, lambda _: table(folder, [record(folder, **overrides)]))


def truncated(delivery: Path) -> None:
    file = delivery / "sensor" / "part-0.parquet"
    file.write_bytes(file.read_bytes()[:-1])


def without_folder(delivery: Path) -> None:
    (delivery / "sensor" / "part-0.parquet").unlink()
    (delivery / "sensor").rmdir()


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a damaged page": (damaged, r"unreadable Parquet: .*folder algorithm, file part-1\.parquet"),
    "a cut file": (truncated, r"truncated Parquet: .*folder sensor, file part-0\.parquet"),
    "text": (lambda d: (d / "sensor/part-0.parquet").write_text("id;name") and None, "not Parquet: .*folder sensor"),
    "a missing folder": (without_folder, "missing folder: .*folder sensor"),
    "a missing column": (replaced("sensor", lambda t: t.drop_columns(["model"])), "missing column: .*column model"),
    "a renamed column": (
        replaced("sensor", lambda t: t.rename_columns({"serial_number": "serialNumber"})),
        r"renamed column: .*column serial_number: .*found serialNumber",
    ),
    "a wrong type": (
        replaced("sensor", lambda t: t.set_column(1, "name", pa.array([1]))),
        "wrong type: .*column name: expected string, found int64",
    ),
    "a type that loses digits": (
        replaced("sensor", lambda t: t.set_column(6, "created_at", pa.array([1], pa.timestamp("ns", "UTC")))),
        "lossy type: .*column created_at",
    ),
    "a null key": (with_values("sensor", id=None), "null key: .*column id"),
    "a null in a required column": (with_values("sensor", type=None), "null value: .*column type"),
    "a null in a list": (with_values(RESULT, media=[None]), r"null list element: .*column media\[\]"),
    "a repeated key": (
        replaced("sensor", lambda t: pa.concat_tables([t, t])),
        "repeated key: .*column id: expected each key once",
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_delivery_is_refused_as_a_whole(context: IngestContext, tmp_path: Path, reason: str) -> None:
    change, message = REFUSED[reason]
    odd = table("sensor_deployment").append_column("note", pa.array(["so that a copy is made"]))
    change(write(tmp_path / "in", sensor_deployment=odd))
    with pytest.raises(DeliveryRefusedError, match=message):
        ingest(context, DELIVERY)
    assert written_files(context) == []
