"""The DSI folders and tables as Dagster assets.

What belongs here: keys, dependencies, metadata, policies, and which step makes what. What doesn't: the steps.

    landing/dsi/<folder>  ──►  raw/dsi/<table>  ──►  raw/dsi/delivery
"""

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import dagster as dg

from biocloud_assets.launch.launcher import run_step
from biocloud_assets.launch.report import metadata_value
from biocloud_assets.raw.dsi import contract, steps
from biocloud_assets.raw.dsi.checks import landing_check_specs, landing_key, table_key
from biocloud_assets.raw.dsi.contract import LOG, RESULT, TABLES, Column, Field, Presence, Table
from biocloud_assets.raw.dsi.partitions import deliveries
from biocloud_assets.resources import LakehouseResource
from biocloud_assets.run_step import Step

_OWNERS = ["team:biocloud"]
_TAGS = {"domain": "dsi"}
_RETRIES = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)


def _columns(columns: Iterable[Field | Column], required: Iterable[str]) -> dg.TableSchema:
    """The columns of a folder or of a table, and which of them are never null."""
    never_null = set(required)
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                contract.type_name(column.type),
                description=column.description,
                constraints=dg.TableColumnConstraints(nullable=column.name not in never_null),
            )
            for column in columns
        ]
    )


def _table_spec(table: Table) -> dg.AssetSpec:
    assert table.folder is not None
    return dg.AssetSpec(
        table_key(table),
        deps=[landing_key(table.folder)],
        description=f"One row per {table.row.removeprefix('one ')}.",
        group_name="raw_dsi",
        kinds={"pyspark", "delta"},
        owners=_OWNERS,
        tags={**_TAGS, "layer": "raw"},
        partitions_def=deliveries,
        metadata={
            "dagster/column_schema": _columns(table.columns, table.required_key),
            "dagster/column_lineage": metadata_value(steps.column_lineage(table)),
            "key": ", ".join(table.key),
        },
    )


_landing_specs = [
    dg.AssetSpec(
        landing_key(folder.name),
        description=f"{folder.description} As DSI delivers them, in Parquet; materialising this validates a delivery.",
        group_name="landing_dsi",
        kinds={"parquet"},
        owners=["team:dsi"],
        tags={**_TAGS, "layer": "landing"},
        partitions_def=deliveries,
        metadata={
            "dagster/column_schema": _columns(
                folder.fields, (item.name for item in folder.fields if item.presence is not Presence.OPTIONAL)
            )
        },
    )
    for folder in contract.FOLDERS
]


@dg.multi_asset(
    name="inspect_delivery",
    specs=_landing_specs,
    check_specs=landing_check_specs,
    retry_policy=_RETRIES,
)
def landing_folders(
    context: dg.AssetExecutionContext, lakehouse: LakehouseResource, step_launcher: dg.ResourceParam[Any]
) -> Iterator[dg.MaterializeResult]:
    """Inspect a delivery: every fault is found before any table is touched, and all are reported at once."""
    yield from _make(context, lakehouse, step_launcher)


def _make(
    context: dg.AssetExecutionContext, lakehouse: LakehouseResource, step_launcher: Any
) -> Iterator[dg.MaterializeResult]:
    """Make those assets of the step that are selected."""
    assets = sorted(key.to_user_string() for key in context.selected_asset_keys)
    yield from run_step(context, lakehouse, step_launcher, Step(tuple(assets), delivery=context.partition_key))


def _copied(table: Table) -> dg.AssetsDefinition:
    @dg.multi_asset(
        name=f"raw__dsi__{table.name}", specs=[_table_spec(table)], retry_policy=_RETRIES, pool=f"raw_dsi_{table.name}"
    )
    def copied(
        context: dg.AssetExecutionContext, lakehouse: LakehouseResource, step_launcher: dg.ResourceParam[Any]
    ) -> Iterator[dg.MaterializeResult]:
        yield from _make(context, lakehouse, step_launcher)

    return copied


@dg.multi_asset(
    name=f"raw__dsi__{RESULT}",
    specs=[_table_spec(table) for table in TABLES if table.folder == RESULT],
    can_subset=True,
    retry_policy=_RETRIES,
    pool=f"raw_dsi_{RESULT}",
)
def unnested_tables(
    context: dg.AssetExecutionContext, lakehouse: LakehouseResource, step_launcher: dg.ResourceParam[Any]
) -> Iterator[dg.MaterializeResult]:
    """Un-nest the results into those of the five tables that are selected."""
    yield from _make(context, lakehouse, step_launcher)


@dg.asset(
    key=table_key(LOG),
    deps=[table_key(table) for table in TABLES],
    description="One row per delivery that all tables hold: being in it is what “ingested” means.",
    group_name="raw_dsi",
    kinds={"pyspark", "delta"},
    owners=_OWNERS,
    tags={**_TAGS, "layer": "raw"},
    partitions_def=deliveries,
    metadata={"dagster/column_schema": _columns(LOG.columns, LOG.required_key)},
    retry_policy=_RETRIES,
    pool="raw_dsi_delivery",
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=7), warn_window=timedelta(days=2)),
)
def delivery_log(
    context: dg.AssetExecutionContext, lakehouse: LakehouseResource, step_launcher: dg.ResourceParam[Any]
) -> Iterator[dg.MaterializeResult]:
    """Write the delivery into the log, when all nine tables hold it and their counts reconcile with the source."""
    yield from _make(context, lakehouse, step_launcher)


assets: list[dg.AssetsDefinition] = [
    landing_folders,
    *(_copied(table) for table in TABLES if table.folder != RESULT),
    unnested_tables,
    delivery_log,
]
