"""Deliveries for tests, written with Arrow: valid ones, and any part of one replaced by something else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.schema import arrow_schema

DELIVERY = "2026-01-31-06:00:00"

_TIME = datetime(2026, 1, 30, 12, 30, 15, 123456, tzinfo=UTC)

_RECORDS: dict[str, dict[str, Any]] = {
    "algorithm": {
        "id": "algorithm-1",
        "name": "Model",
        "version": "1.2",
        "tag": "stable",
        "description": "Recognises species",
        "media_type": "image",
        "taxonomy": {"namespace": "nsr", "version": "2025"},
        "created_at": _TIME,
        "updated_at": _TIME,
    },
    "sensor": {
        "id": "sensor-1",
        "name": "Camera 1",
        "type": "camera",
        "model": "X1",
        "serial_number": "0001",
        "owner": {"id": "owner-1", "name": "Zoë"},
        "created_at": _TIME,
        "updated_at": _TIME,
    },
    "sensor_deployment": {
        "id": "deployment-1",
        "sensor_id": "sensor-1",
        "name": "Dune",
        "location": {
            "latitude": 52.16,
            "longitude": 4.48,
            "coordinate_uncertainty_m": 10.0,
            "elevation_m": -2.0,
        },
        "project": {"id": "project-1", "name": "Dunes"},
        "habitat": "dune",
        "start_at": _TIME,
        "end_at": _TIME,
        "created_at": _TIME,
        "updated_at": _TIME,
    },
    "sensor_media_item": {
        "id": "item-1",
        "sensor_deployment_id": "deployment-1",
        "captured_at": _TIME,
        "media": {
            "type": "image",
            "mime_type": "image/jpeg",
            "filename": "1.jpg",
            "uri": "s3://media/1.jpg",
            "size_bytes": 3_000_000,
            "width_px": 1920,
            "height_px": 1080,
            "duration_s": 1.0,
        },
        "created_at": _TIME,
        "updated_at": _TIME,
    },
    "analysis_group_result": {
        "id": "result-1",
        "analysis_group_id": "group-1",
        "algorithm_id": "algorithm-1",
        "sensor_deployment_id": "deployment-1",
        "generated_by": {"datetime": _TIME, "tag": "service", "version": "3", "parameters": '{"crop": true}'},
        "media": [{"id": "m1", "sensor_media_item_id": "item-1", "filename": "1.jpg"}],
        "region_groups": [
            {
                "id": "g1",
                "individual_id": "i1",
                "regions": [
                    {"media_id": "m1", "box": {"x1": 0.0, "y1": 0.25, "x2": 0.5, "y2": 1.0, "t1": 0.0, "t2": 1.0}}
                ],
            }
        ],
        "predictions": [
            {
                "region_group_id": "g1",
                "taxa": {
                    "type": "multiclass",
                    "items": [{"scientific_name": "Vulpes vulpes", "scientific_name_id": "1", "probability": 0.75}],
                },
            }
        ],
        "created_at": _TIME,
    },
}

Given: TypeAlias = list[dict[str, Any]] | pa.Table | list[pa.Table] | bytes | None


def record(folder: str, **overrides: Any) -> dict[str, Any]:
    """A valid record of a folder, all its fields filled, some of them replaced.

    The references in the records of all folders point at each other: `sensor-1`, `deployment-1`, `item-1`,
    `algorithm-1`, and `result-1` for the result.
    """
    unknown = set(overrides) - set(_RECORDS[folder])
    assert not unknown, f"no column of {folder}: {unknown}"
    return copy.deepcopy(_RECORDS[folder]) | overrides


def table(folder: str, records: list[dict[str, Any]] | None = None) -> pa.Table:
    """Records, or the one valid record, as a table of the contract's schema."""
    schema = arrow_schema(CONTRACT.folder(folder))
    return pa.Table.from_pylist([record(folder)] if records is None else records, schema=schema)


def write(root: Path, name: str = DELIVERY, **folders: Given) -> Path:
    """Write a delivery below a landing root: whole and valid, but for the folders that are given.

    Args:
        root: the landing root.
        name: the delivery's name.
        folders: for a folder, what to write instead of one valid record: records, in one file of the contract's
            schema; a table, as it is; several tables, as `part-0.parquet`, `part-1.parquet`, …; the bytes of a file;
            or None for no folder at all.

    Returns:
        the delivery's path.
    """
    unknown = set(folders) - set(_RECORDS)
    assert not unknown, f"no folder of the contract: {unknown}"
    delivery = root / "dsi" / name
    delivery.mkdir(parents=True, exist_ok=True)
    for folder in _RECORDS:
        given = folders.get(folder, [record(folder)])
        if given is None:
            continue
        (delivery / folder).mkdir(exist_ok=True)
        if isinstance(given, bytes):
            (delivery / folder / "part-0.parquet").write_bytes(given)
            continue
        tables: list[pa.Table] = [given] if isinstance(given, pa.Table) else []
        if isinstance(given, list):
            are_tables = given and isinstance(given[0], pa.Table)
            tables = given if are_tables else [table(folder, given)]
        for number, one in enumerate(tables):
            pq.write_table(one, delivery / folder / f"part-{number}.parquet")
    return delivery


Change = Callable[[str, pa.Array], list[tuple[str, pa.Array]]]


def edit(of: pa.Table, path: str, change: Change) -> pa.Table:
    """A table in which one field, however deep, is changed, dropped or made several.

    Args:
        of: the table.
        path: the path of the field, with `[]` behind a list.
        change: takes the name of the field and its values, of all structures and lists together, and returns the
            fields that stand in its place.
    """

    def level(columns: list[tuple[str, pa.Array]], steps: list[str]) -> list[tuple[str, pa.Array]]:
        edited: list[tuple[str, pa.Array]] = []
        for name, array in columns:
            if name != steps[0]:
                edited.append((name, array))
            elif len(steps) == 1:
                edited += change(name, array)
            else:
                edited.append((name, inside(array, steps[1:])))
        return edited

    def inside(array: pa.Array, steps: list[str]) -> pa.Array:
        mask = array.is_null() if array.null_count else None
        if steps[0] == "[]":
            return pa.ListArray.from_arrays(array.offsets, inside(array.values, steps[1:]), mask=mask)
        fields = level(list(zip([field.name for field in array.type], array.flatten(), strict=True)), steps)
        names = [name for name, _ in fields]
        return pa.StructArray.from_arrays([values for _, values in fields], names=names, mask=mask)

    columns = [(name, of.column(name).combine_chunks()) for name in of.column_names]
    edited = level(columns, path.replace("[]", ".[]").split("."))
    return pa.table([values for _, values in edited], names=[name for name, _ in edited])
