"""The DSI folders and tables as Dagster assets.

What belongs here: keys, dependencies, metadata, policies, and calls of the data code. What doesn't: data code.

    landing/dsi/<folder>  ──►  raw/dsi/<table>  ──►  raw/dsi/delivery
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta

import dagster as dg
from pyspark.errors import AnalysisException

from biocloud_assets.errors import BiocloudError
from biocloud_assets.raw.dsi import contract, ingest
from biocloud_assets.raw.dsi.checks import landing_check_specs, landing_key, landing_results, table_key
from biocloud_assets.raw.dsi.contract import DELIVERY_COLUMN, LOG, RESULT, TABLES, Folder, Table
from biocloud_assets.raw.dsi.partitions import deliveries
from biocloud_assets.raw.dsi.validation import Inspection
from biocloud_assets.resources import LakehouseResource
from biocloud_assets.spark import delta

_OWNERS = ["team:biocloud"]
_TAGS = {"domain": "dsi"}
_RETRIES = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
_PREVIEW_ROWS = 5


def _columns_of(table: Table) -> dg.TableSchema:
    key = set(table.required_key)
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                contract.type_name(column.type),
                description=column.description,
                constraints=dg.TableColumnConstraints(nullable=column.name not in key),
            )
            for column in table.columns
        ]
    )


def _folder_columns(folder: Folder) -> dg.TableSchema:
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                item.name,
                contract.type_name(item.type),
                description=item.description,
                constraints=dg.TableColumnConstraints(nullable=item.presence is contract.Presence.OPTIONAL),
            )
            for item in folder.fields
        ]
    )


def _lineage(table: Table) -> dg.TableColumnLineage:
    assert table.folder is not None
    key = landing_key(table.folder)
    return dg.TableColumnLineage(
        {
            column: [dg.TableColumnDep(asset_key=key, column_name=source) for source in sources]
            for column, sources in contract.column_lineage(table).items()
        }
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
            "dagster/column_schema": _columns_of(table),
            "dagster/column_lineage": _lineage(table),
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
        metadata={"dagster/column_schema": _folder_columns(folder)},
    )
    for folder in contract.FOLDERS
]


@dg.multi_asset(
    name="inspect_delivery",
    specs=_landing_specs,
    check_specs=landing_check_specs,
    retry_policy=_RETRIES,
)
def landing_folders(context: dg.AssetExecutionContext, lakehouse: LakehouseResource) -> Iterator[dg.MaterializeResult]:
    """Inspect a delivery: every fault is found before any table is touched, and all are reported at once."""
    with _no_retry_of_what_stays_wrong():
        inspection = ingest.inspect(lakehouse.place(), context.partition_key, again=True)
    for fault in inspection.warnings:
        context.log.warning(str(fault))
    for fault in inspection.errors:
        context.log.error(str(fault))
    for folder in contract.FOLDERS:
        yield dg.MaterializeResult(
            asset_key=landing_key(folder.name),
            metadata=_inspection_metadata(inspection, folder, lakehouse),
            check_results=list(landing_results(inspection, folder)),
        )


def _inspection_metadata(
    inspection: Inspection, folder: Folder, lakehouse: LakehouseResource
) -> dict[str, dg.MetadataValue]:
    files = inspection.contents.files[folder.name]
    sources = inspection.sources[folder.name]
    listing = dg.MetadataValue.table(
        records=[
            dg.TableRecord({"file": file.name, "bytes": file.size, "modified": file.modified.isoformat()})
            for file in files
        ],
        schema=dg.TableSchema(
            columns=[dg.TableColumn("file"), dg.TableColumn("bytes", "int"), dg.TableColumn("modified")]
        ),
    )
    metadata: dict[str, dg.MetadataValue] = {
        "dagster/row_count": dg.MetadataValue.int(sum(source.rows for source in sources)),
        "bytes": dg.MetadataValue.int(sum(file.size for file in files)),
        "file_count": dg.MetadataValue.int(len(files)),
        "dagster/uri": dg.MetadataValue.text(lakehouse.landing().uri(f"dsi/{inspection.delivery}/{folder.name}")),
        "fingerprint": dg.MetadataValue.text(inspection.contents.fingerprint),
        "refused": dg.MetadataValue.bool(bool(inspection.errors)),
        "faults": dg.MetadataValue.text("\n".join(str(fault) for fault in inspection.of(folder.name))),
    }
    if files:
        metadata["files"] = listing
    if sources:
        metadata["dagster/column_schema"] = dg.MetadataValue.table_schema(
            dg.TableSchema(columns=[dg.TableColumn(item.name, str(item.type)) for item in sources[0].schema])
        )
    return metadata


@contextmanager
def _no_retry_of_what_stays_wrong() -> Iterator[None]:
    """Fail at once for what another try can't mend; only a lost connection or its like is worth one."""
    try:
        yield
    except (BiocloudError, AnalysisException) as error:
        raise dg.Failure(str(error), allow_retries=False) from error


def _write(context: dg.AssetExecutionContext, lakehouse: LakehouseResource, table: Table) -> dg.MaterializeResult:
    """Write a delivery's rows of one table, and say what is there now."""
    place = lakehouse.place()
    delivery = context.partition_key
    with _no_retry_of_what_stays_wrong():
        rows = ingest.write_table(place, delivery, table)
    written = delta.read_partition(place.spark, place.lake, table.path, DELIVERY_COLUMN, delivery)
    preview = written.limit(_PREVIEW_ROWS).toArrow().to_pylist()
    size, version = delta.partition_size(place.lake, table.path, DELIVERY_COLUMN, delivery)
    metadata: dict[str, dg.MetadataValue] = {
        "dagster/partition_row_count": dg.MetadataValue.int(rows),
        "bytes": dg.MetadataValue.int(size),
        "delta_version": dg.MetadataValue.int(version),
        "dagster/uri": dg.MetadataValue.text(place.lake.uri(table.path)),
        "dagster/column_lineage": dg.MetadataValue.column_lineage(_lineage(table)),
    }
    if preview:
        metadata["preview"] = dg.MetadataValue.md(_markdown(preview))
    return dg.MaterializeResult(asset_key=table_key(table), metadata=metadata)


def _markdown(rows: list[dict[str, object]]) -> str:
    """A few rows as a table to look at."""

    def cell(value: object) -> str:
        text = "" if value is None else str(value)
        return (text if len(text) <= 60 else f"{text[:59]}…").replace("|", "\\|").replace("\n", " ")

    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    return "\n".join([*lines, *("| " + " | ".join(map(cell, row.values())) + " |" for row in rows)])


def _copied(table: Table) -> dg.AssetsDefinition:
    @dg.multi_asset(
        name=f"raw__dsi__{table.name}", specs=[_table_spec(table)], retry_policy=_RETRIES, pool=f"raw_dsi_{table.name}"
    )
    def copied(context: dg.AssetExecutionContext, lakehouse: LakehouseResource) -> dg.MaterializeResult:
        return _write(context, lakehouse, table)

    return copied


_unnested_tables = {table_key(table): table for table in TABLES if table.folder == RESULT}


@dg.multi_asset(
    name=f"raw__dsi__{RESULT}",
    specs=[_table_spec(table) for table in _unnested_tables.values()],
    can_subset=True,
    retry_policy=_RETRIES,
    pool=f"raw_dsi_{RESULT}",
)
def unnested_tables(context: dg.AssetExecutionContext, lakehouse: LakehouseResource) -> Iterator[dg.MaterializeResult]:
    """Un-nest the results into those of the five tables that are selected."""
    tables = [table for key, table in _unnested_tables.items() if key in context.selected_asset_keys]
    with ThreadPoolExecutor(1) as engine:  # writes the next one while Dagster notes the one before
        yield from engine.map(lambda table: _write(context, lakehouse, table), tables)


@dg.asset(
    key=table_key(LOG),
    deps=[table_key(table) for table in TABLES],
    description="One row per delivery that all tables hold: being in it is what “ingested” means.",
    group_name="raw_dsi",
    kinds={"pyspark", "delta"},
    owners=_OWNERS,
    tags={**_TAGS, "layer": "raw"},
    partitions_def=deliveries,
    metadata={"dagster/column_schema": _columns_of(LOG)},
    retry_policy=_RETRIES,
    pool="raw_dsi_delivery",
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=7), warn_window=timedelta(days=2)),
)
def delivery_log(context: dg.AssetExecutionContext, lakehouse: LakehouseResource) -> dg.MaterializeResult:
    """Write the delivery into the log, when all nine tables hold it and their counts reconcile with the source."""
    place = lakehouse.place()
    with _no_retry_of_what_stays_wrong():
        row = ingest.record(
            place, context.partition_key, engine=lakehouse.engine, orchestrator="dagster", run_id=context.run.run_id
        )
    return dg.MaterializeResult(
        metadata={
            "dagster/uri": place.lake.uri(LOG.path),
            "rows": sum(row["rows"].values()),
            "rows_per_table": dg.MetadataValue.table(
                records=[dg.TableRecord({"table": name, "rows": count}) for name, count in row["rows"].items()],
                schema=dg.TableSchema(columns=[dg.TableColumn("table"), dg.TableColumn("rows", "int")]),
            ),
            "bytes": row["source_bytes"],
            "ingested_at": row["ingested_at"].isoformat(),
            "run": row["run_id"],
        }
    )


assets: list[dg.AssetsDefinition] = [
    landing_folders,
    *(_copied(table) for table in TABLES if table.folder != RESULT),
    unnested_tables,
    delivery_log,
]
