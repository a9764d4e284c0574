"""A source as Dagster assets: one multi-asset for its folders, its tables and its delivery log.

    landing/<source>/<folder>  ──►  raw/<source>/<table>  ──►  raw/<source>/delivery

A delivery is a partition, and one step. A selection of assets or checks is the same step with a subset.
"""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from biocloud_assets.ingest import table_checks
from biocloud_assets.ingest.step import BLOCKING, FOLDER_CHECKS, ingest_step, table_lineage
from biocloud_assets.launch.launcher import ENVIRONMENT_TAG, run_step
from biocloud_assets.launch.results import DagsterResult, asset_key, metadata_value, to_dagster
from biocloud_assets.resources import LakehouseResource
from biocloud_assets.schema import Column, Contract, Field, Folder, Presence, Table, type_name
from biocloud_assets.steps import StepRequest

if TYPE_CHECKING:
    # What `define_asset_job` returns has no public name in Dagster 1.13.
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

# AssetCheckSpec.partitions_def is in preview; it is what gives a check result its partition.
warnings.filterwarnings("ignore", category=dg.PreviewWarning, module=__name__)

_OWNER = "team:biocloud"


@dataclass(frozen=True)
class Source:
    """What Dagster knows of a source.

    Attributes:
        contract: its contract.
        deliveries: the partitions: one for each delivery, whose name is the key.
        assets: its assets, with their checks.
        job: ingests one delivery.
    """

    contract: Contract
    deliveries: dg.DynamicPartitionsDefinition
    assets: dg.AssetsDefinition
    job: "UnresolvedAssetJobDefinition"


def build_source(contract: Contract, *, environment: str = "local") -> Source:
    """The assets of a source, and the job that ingests one delivery.

    Args:
        contract: its contract.
        environment: the environment whose runs the job makes.
    """
    deliveries = dg.DynamicPartitionsDefinition(name=f"{contract.source}_delivery")
    assets = _build_assets(contract, deliveries)
    job = dg.define_asset_job(
        f"{contract.source}_raw",
        selection=dg.AssetSelection.assets(assets),
        description="Ingest one delivery: validate it, write its tables, check them, and log it.",
        tags={"domain": contract.source, ENVIRONMENT_TAG: environment},
    )
    return Source(contract, deliveries, assets, job)


def _build_assets(contract: Contract, deliveries: dg.DynamicPartitionsDefinition) -> dg.AssetsDefinition:
    @dg.multi_asset(
        name=f"ingest_{contract.source}",
        description=f"Ingest one delivery of {contract.source}: validate it, write its tables, check them, and log it.",
        specs=[
            *(_folder_spec(contract, folder) for folder in contract.folders),
            *(_table_spec(contract, table) for table in contract.tables),
            _log_spec(contract),
        ],
        check_specs=list(_check_specs(contract, deliveries)),
        partitions_def=deliveries,
        can_subset=True,
        pool=f"{contract.source}_ingest",
    )
    def ingest(
        context: dg.AssetExecutionContext, lakehouse: LakehouseResource, step_launcher: dg.ResourceParam[Any]
    ) -> Iterator[DagsterResult]:
        request = StepRequest(
            assets=tuple(sorted(key.to_user_string() for key in context.selected_asset_keys)),
            checks=tuple(
                sorted(f"{key.asset_key.to_user_string()}:{key.name}" for key in context.selected_asset_check_keys)
            ),
            delivery=_delivery_of(context),
        )
        ingest_context = lakehouse.ingest_context(contract)
        results = run_step(
            context, lakehouse, step_launcher, request, lambda run: ingest_step(ingest_context, request, run)
        )
        yield from map(to_dagster, results)

    return ingest


def _delivery_of(context: dg.AssetExecutionContext) -> str:
    """The delivery that the run is for.

    Raises:
        dg.Failure: the run has no partition, or more than one.
    """
    if context.has_partition_key:
        return context.partition_key
    found = "a range of partitions" if context.has_partition_key_range else "none"
    raise dg.Failure(
        f"run {context.run.run_id}: expected one delivery as its partition, found {found}. Choose one partition, or "
        "start a backfill with a run for each.",
        allow_retries=False,
    )


def _columns(columns: Iterable[Field | Column], required: Iterable[str]) -> dg.TableSchema:
    """The columns of a folder or of a table, and which of them are never null."""
    never_null = set(required)
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                type_name(column.type),
                description=column.description,
                constraints=dg.TableColumnConstraints(nullable=column.name not in never_null),
            )
            for column in columns
        ]
    )


def _folder_spec(contract: Contract, folder: Folder) -> dg.AssetSpec:
    required = (field.name for field in folder.fields if field.presence is not Presence.OPTIONAL)
    return dg.AssetSpec(
        asset_key(contract.landing_address(folder.name)),
        description=f"{folder.description} As delivered, in Parquet; materialising this validates a delivery.",
        group_name=f"landing_{contract.source}",
        kinds={"parquet"},
        owners=[contract.owner],
        tags={"domain": contract.source, "layer": "landing"},
        code_version=str(contract.version),
        metadata={"dagster/column_schema": _columns(folder.fields, required)},
    )


def _table_spec(contract: Contract, table: Table) -> dg.AssetSpec:
    assert table.folder is not None, table
    return dg.AssetSpec(
        asset_key(contract.address(table)),
        deps=[asset_key(contract.landing_address(table.folder))],
        description=f"One row per {table.row.removeprefix('one ')}.",
        group_name=f"raw_{contract.source}",
        kinds={"pyspark", "deltalake"},
        owners=[_OWNER],
        tags={"domain": contract.source, "layer": "raw"},
        code_version=str(contract.version),
        metadata={
            "dagster/column_schema": _columns(table.columns, table.required_key),
            "dagster/column_lineage": metadata_value(table_lineage(contract, table)),
            "key": ", ".join(table.key),
        },
    )


def _log_spec(contract: Contract) -> dg.AssetSpec:
    return dg.AssetSpec(
        asset_key(contract.address(contract.log)),
        deps=[asset_key(contract.address(table)) for table in contract.tables],
        description="One row per delivery that all tables hold. A delivery is ingested if and only if it is in here.",
        group_name=f"raw_{contract.source}",
        kinds={"pyspark", "deltalake"},
        owners=[_OWNER],
        tags={"domain": contract.source, "layer": "raw"},
        code_version=str(contract.version),
        metadata={"dagster/column_schema": _columns(contract.log.columns, contract.log.required_key)},
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=7), warn_window=timedelta(days=2)),
    )


def _check_specs(contract: Contract, deliveries: dg.DynamicPartitionsDefinition) -> Iterator[dg.AssetCheckSpec]:
    checks = [
        *(
            (contract.landing_address(folder.name), name, description)
            for folder in contract.folders
            for name, description in FOLDER_CHECKS.items()
        ),
        *(
            (contract.address(table), name, table_checks.DESCRIPTIONS[name])
            for table in contract.tables
            for name in table_checks.checks_of(contract, table)
        ),
    ]
    for address, name, description in checks:
        yield dg.AssetCheckSpec(
            name,
            asset=asset_key(address),
            description=description,
            blocking=name in BLOCKING,
            partitions_def=deliveries,
        )
