"""Polars and delta-rs, by hand: lazy frames over the Parquet files, collected by the streaming engine."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from operator import or_

import polars as pl

from benchmarks.contenders.common import Task, require, run, storage_options, write_delta, write_log
from biocloud_assets.ingest.table_checks import range_columns, reference_columns
from biocloud_assets.raw.dsi.contract import CONTRACT, RESULT
from biocloud_assets.schema import DELIVERY_COLUMN, Presence

Frames = dict[str, pl.LazyFrame]


def scan(task: Task) -> Frames:
    """The folders of the delivery."""
    options = None
    if task.is_remote and (endpoint := os.environ.get("AWS_ENDPOINT_URL")):
        options = {"endpoint_url": endpoint, "allow_http": "true"}
    return {
        folder.name: pl.scan_parquet(f"{task.source}/{folder.name}/*.parquet", storage_options=options)
        for folder in CONTRACT.folders
    }


def _explode(frame: pl.LazyFrame, lists: str, index: str) -> pl.LazyFrame:
    """One row for each element of a list, with its index; none for a null or an empty list."""
    indexes = pl.int_ranges(pl.col(lists).list.len(), dtype=pl.Int32).alias(index)
    return frame.with_columns(indexes).explode(lists, index, empty_as_null=False, keep_nulls=False)


def unnest(folders: Frames, delivery: str) -> Frames:
    """The rows of the nine tables."""
    records = folders[RESULT]
    length = {name: pl.col(name).list.len().cast(pl.Int32) for name in ("media", "region_groups", "predictions")}
    generated = pl.col("generated_by").struct
    medium, group, region = (pl.col(name).struct for name in ("media", "region_groups", "regions"))
    prediction, item = pl.col("predictions").struct, pl.col("items").struct
    groups = _explode(
        records.select(pl.col("id").alias("result_id"), "region_groups"), "region_groups", "region_group_index"
    ).select(
        "result_id",
        "region_group_index",
        group.field("id").alias("region_group_id"),
        group.field("individual_id"),
        group.field("regions"),
    )
    predictions = _explode(
        records.select(pl.col("id").alias("result_id"), "predictions"), "predictions", "prediction_index"
    ).select(
        "result_id",
        "prediction_index",
        prediction.field("region_group_id"),
        prediction.field("taxa").struct.field("type").alias("taxa_type"),
        prediction.field("taxa").struct.field("items"),
    )
    box = region.field("box").struct
    tables = {
        **{name: frame for name, frame in folders.items() if name != RESULT},
        RESULT: records.select(
            "id",
            "analysis_group_id",
            "algorithm_id",
            "sensor_deployment_id",
            generated.field("datetime").alias("generated_at"),
            *(generated.field(name).alias(f"generated_{name}") for name in ("tag", "version", "parameters")),
            length["media"].alias("media_count"),
            length["region_groups"].alias("region_group_count"),
            length["predictions"].alias("prediction_count"),
            "created_at",
        ),
        f"{RESULT}_media": _explode(
            records.select(pl.col("id").alias("result_id"), "media"), "media", "media_index"
        ).select(
            "result_id",
            "media_index",
            medium.field("id").alias("media_id"),
            medium.field("sensor_media_item_id"),
            medium.field("filename"),
        ),
        f"{RESULT}_region_group": groups.select(
            "result_id",
            "region_group_index",
            "region_group_id",
            "individual_id",
            pl.col("regions").list.len().cast(pl.Int32).alias("region_count"),
        ),
        f"{RESULT}_region": _explode(groups, "regions", "region_index").select(
            "result_id",
            "region_group_index",
            "region_group_id",
            "region_index",
            region.field("media_id"),
            *(box.field(name) for name in ("x1", "y1", "x2", "y2", "t1", "t2")),
        ),
        # A prediction without taxa keeps one row.
        f"{RESULT}_prediction": predictions.with_columns(
            pl.col("items").list.len().cast(pl.Int32).alias("taxon_count"),
            pl.int_ranges(pl.col("items").list.len(), dtype=pl.Int32).alias("taxon_index"),
        )
        .explode("items", "taxon_index", empty_as_null=True)
        .select(
            "result_id",
            "prediction_index",
            "region_group_id",
            "taxa_type",
            "taxon_count",
            "taxon_index",
            item.field("scientific_name"),
            item.field("scientific_name_id"),
            item.field("probability"),
        ),
    }
    added = pl.lit(None, pl.String).alias("_rescued"), pl.lit(delivery).alias(DELIVERY_COLUMN)
    return {name: frame.with_columns(*added) for name, frame in tables.items()}


def work(task: Task) -> None:
    """Write the delivery."""
    folders = scan(task)
    if task.checked:
        validate(folders)
    tables = unnest(folders, task.delivery)
    with ThreadPoolExecutor(2) as pool:
        written = list(
            pool.map(
                lambda table: write_delta(task, table, tables[table.name].collect(engine="streaming")), CONTRACT.tables
            )
        )
    assert len(written) == len(tables)
    if task.checked:
        write_log(task, check_tables(task, tables))


def _outside(value: pl.Expr, low: float = 0, high: float = 1) -> pl.Expr:
    return ~value.is_between(low, high)


def _dangling(ids: pl.LazyFrame, column: str, targets: pl.LazyFrame) -> pl.LazyFrame:
    return (
        ids.select(pl.col(column).alias("id"))
        .drop_nulls()
        .unique()
        .join(targets.select("id"), on="id", how="anti")
        .select(pl.len().alias(f"dangling references in {column}"))
    )


def validate(folders: Frames) -> None:
    """Check keys, nulls, null elements, ranges and references of the files."""
    records = folders[RESULT]
    media = records.select(pl.col("media").explode(empty_as_null=False, keep_nulls=False))
    groups = records.select(pl.col("region_groups").explode(empty_as_null=False, keep_nulls=False))
    regions = groups.select(
        pl.col("region_groups").struct.field("regions").explode(empty_as_null=False, keep_nulls=False)
    )
    predictions = records.select(pl.col("predictions").explode(empty_as_null=False, keep_nulls=False))
    taxa = predictions.select(
        pl.col("predictions").struct.field("taxa").struct.field("items").explode(empty_as_null=False, keep_nulls=False)
    )
    box = pl.col("regions").struct.field("box").struct
    found = [
        media.select(pl.col("media").null_count().alias("null media")),
        groups.select(pl.col("region_groups").null_count().alias("null region groups")),
        predictions.select(pl.col("predictions").null_count().alias("null predictions")),
        regions.select(
            pl.col("regions").null_count().alias("null regions"),
            reduce(or_, (_outside(box.field(name)) for name in ("x1", "y1", "x2", "y2"))).sum().alias("outside"),
            reduce(or_, (box.field(f"{axis}1") > box.field(f"{axis}2") for axis in "xyt")).sum().alias("not ordered"),
        ),
        taxa.select(
            pl.col("items").null_count().alias("null taxa"),
            _outside(pl.col("items").struct.field("probability")).sum().alias("probabilities outside"),
        ),
        _dangling(folders["sensor_deployment"], "sensor_id", folders["sensor"]),
        _dangling(folders["sensor_media_item"], "sensor_deployment_id", folders["sensor_deployment"]),
        _dangling(records, "algorithm_id", folders["algorithm"]),
        _dangling(records, "sensor_deployment_id", folders["sensor_deployment"]),
        _dangling(
            media.select(pl.col("media").struct.field("sensor_media_item_id")),
            "sensor_media_item_id",
            folders["sensor_media_item"],
        ),
        *(
            folders[folder.name].select(
                (pl.len() - pl.col(folder.key).n_unique()).alias(f"repeated keys in {folder.name}"),
                *(
                    pl.col(field.name).null_count().alias(f"nulls in {folder.name}.{field.name}")
                    for field in folder.fields
                    if field.presence is not Presence.OPTIONAL
                ),
            )
            for folder in CONTRACT.folders
        ),
    ]
    for result in pl.collect_all(found, engine="streaming"):
        for name, count in result.row(0, named=True).items():
            require(not count, name, count)


def check_tables(task: Task, tables: Frames) -> dict[str, int]:
    """Read the tables back: compare rows, and check keys, ranges and references. Returns the rows of each."""
    options = storage_options()
    lake = {
        table.name: pl.scan_delta(task.uri(table), storage_options=options).filter(
            pl.col(DELIVERY_COLUMN) == task.delivery
        )
        for table in CONTRACT.tables
    }
    totals, references = [], []
    for table in CONTRACT.tables:
        wrong = [
            *(pl.col(name).is_null() for name in table.required_key),
            *(_outside(pl.col(name), *span) for name, span in range_columns(CONTRACT, table).items()),
        ]
        totals.append(
            lake[table.name].select(
                pl.len().alias("rows"),
                pl.struct(table.key).hash().n_unique().alias("keys"),
                reduce(or_, wrong).sum().alias("wrong"),
            )
        )
        references += [
            _dangling(lake[table.name], column, lake[target])
            for column, target in reference_columns(CONTRACT, table).items()
        ]
    expected = [frame.select(pl.len()) for frame in tables.values()]
    found = pl.collect_all([*totals, *references, *expected], engine="streaming")
    names = list(tables)
    wanted = {name: frame.item() for name, frame in zip(names, found[-len(names) :], strict=True)}
    for table, frame in zip(CONTRACT.tables, found, strict=False):
        total = frame.row(0, named=True)
        require(total["rows"] == wanted[table.name], f"rows of {table.name}", total)
        require(total["keys"] == total["rows"], f"repeated keys in {table.name}", total)
        require(not total["wrong"], f"null keys and values outside their range in {table.name}", total)
    for frame in found[len(totals) : len(totals) + len(references)]:
        require(not frame.item(), frame.columns[0], frame.item())
    return wanted


if __name__ == "__main__":
    run(work)
