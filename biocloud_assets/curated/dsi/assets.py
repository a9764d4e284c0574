"""The curated layer for DSI as Dagster assets: three assets that a graph of three ops makes.

    raw/dsi/<table>  ──►  publish_observations  ──►  write_manifest  ──►  cleanup_curated_folders
                                   │                        │                       │
                        curated/dsi/observation    curated/dsi/manifest    curated/dsi/retention

It is a graph, and not three assets in a row, because of dry runs: an asset that isn't materialised keeps the next one
from running, and an op with another output doesn't. A dry run materialises nothing; it logs what would be as an
observation. Each asset is materialised by its own op, so that a failed cleanup leaves the publication as it is.

Each asset can be selected alone; the ops before it then do nothing.

Only the publication needs Spark, so only its op runs where the launcher says; the others run in Dagster's process.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from biocloud_assets.curated.dsi import results
from biocloud_assets.curated.dsi.cleanup import MAXIMUM_DAYS
from biocloud_assets.curated.dsi.observation import SOURCES, TERMS
from biocloud_assets.curated.dsi.partitions import run_dates
from biocloud_assets.curated.dsi.step import curated_step
from biocloud_assets.launch.launcher import run_step
from biocloud_assets.launch.results import asset_key, metadata_value, metadata_values, to_dagster
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.resources import LakehouseResource
from biocloud_assets.schema import type_name
from biocloud_assets.settings import Settings
from biocloud_assets.steps import Materialization, StepRequest

OBSERVATION = asset_key(results.OBSERVATION)
MANIFEST = asset_key(results.MANIFEST)
RETENTION = asset_key(results.RETENTION)

GRAPH = "curated__dsi"

_RAW = {
    f"raw_{table.name}": asset_key(CONTRACT.address(table))
    for table in (*(CONTRACT.table(name) for name in SOURCES), CONTRACT.log)
}
"""The tables that a publication is made from, by the name of the input. One input with all of them is no part of a
subset: https://github.com/dagster-io/dagster raises "is not a MappedInputPlaceholder" (1.13.27)."""

_POOL = "curated_dsi"
"""With a limit of 1, no two runs write the same day."""

_Yielded = dg.Output[None] | dg.AssetObservation


class StepConfig(dg.Config):
    """What one run does.

    Attributes:
        dry_run: do everything but write and delete.
    """

    dry_run: bool = False


class CleanupConfig(StepConfig):
    """What one run deletes.

    Attributes:
        amount_of_data_days: how many days before the run date are kept, 0 to 36,525.
    """

    amount_of_data_days: int


@dg.op(
    ins={name: dg.In(dg.Nothing) for name in _RAW},
    out={"observation": dg.Out(dg.Nothing, is_required=False), "published": dg.Out(dg.Nothing)},
    pool=_POOL,
)
def publish_observations(
    context: dg.OpExecutionContext,
    config: StepConfig,
    lakehouse: LakehouseResource,
    step_launcher: dg.ResourceParam[Any],
) -> Iterator[_Yielded]:
    """Write the observations of the run date, as of its end; its manifest is removed before the first change."""
    request = StepRequest((results.OBSERVATION,), run_date=context.partition_key, dry_run=config.dry_run)
    yield from _run(context, lakehouse, step_launcher, request, "observation")
    yield from _done(context, "published")


@dg.op(
    ins={"published": dg.In(dg.Nothing)},
    out={"manifest": dg.Out(dg.Nothing, is_required=False), "written": dg.Out(dg.Nothing)},
    pool=_POOL,
)
def write_manifest(
    context: dg.OpExecutionContext, config: StepConfig, lakehouse: LakehouseResource
) -> Iterator[_Yielded]:
    """Write the manifest of the run date's folder: DSI may read the folder from now on."""
    request = StepRequest((results.MANIFEST,), run_date=context.partition_key, dry_run=config.dry_run)
    yield from _run(context, lakehouse, None, request, "manifest")
    yield from _done(context, "written")


@dg.op(
    ins={"written": dg.In(dg.Nothing)},
    out={"retention": dg.Out(dg.Nothing, is_required=False)},
    pool=_POOL,
)
def cleanup_curated_folders(
    context: dg.OpExecutionContext, config: CleanupConfig, lakehouse: LakehouseResource
) -> Iterator[_Yielded]:
    """Delete the folders of days before the retention period, each with its manifest first."""
    request = StepRequest(
        (results.RETENTION,),
        run_date=context.partition_key,
        retention_days=config.amount_of_data_days,
        dry_run=config.dry_run,
    )
    yield from _run(context, lakehouse, None, request, "retention")


def _run(
    context: dg.OpExecutionContext, lakehouse: LakehouseResource, launcher: Any, request: StepRequest, output: str
) -> Iterator[_Yielded]:
    """Run a step if its asset is selected; a materialization becomes the output that materialises the asset."""
    if output not in context.selected_output_names:
        return
    step = run_step(
        context,
        lakehouse,
        launcher,
        request,
        lambda _: curated_step(lakehouse.ingest_context(CONTRACT), lakehouse.curated(), request),
    )
    for result in step:
        if isinstance(result, Materialization):
            yield dg.Output(None, output, metadata=metadata_values(result.metadata))
        else:
            observation = to_dagster(result)
            assert isinstance(observation, dg.AssetObservation), observation
            yield observation


def _done(context: dg.OpExecutionContext, output: str) -> Iterator[_Yielded]:
    """The output for which the next op waits; a selection of assets that ends here is without it."""
    if output in context.selected_output_names:
        yield dg.Output(None, output)


def _columns() -> dg.TableSchema:
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                term.name,
                type_name(term.type),
                description=f"{term.description}. {term.iri or 'A term of Biocloud.'}",
                constraints=dg.TableColumnConstraints(nullable=term.name not in {"occurrenceID", "basisOfRecord"}),
            )
            for term in TERMS
        ]
    )


_DESCRIPTIONS = {
    "observation": "One row per region group of each current result, in Darwin Core terms, as of the run date's end.",
    "manifest": "The manifest of the run date's folder: while it is there, the folder is complete and doesn't change.",
    "retention": "The days that have a folder, and those whose folder the run has deleted.",
}
_KINDS = {"observation": ("pyspark", "parquet"), "manifest": ("json",), "retention": ("python",)}


def build_assets(settings: Settings) -> dg.AssetsDefinition:
    """The assets of an environment.

    Args:
        settings: with the number of days that are kept by default.
    """

    def ops(config: dict[str, Any]) -> dict[str, Any]:
        step = {"config": {"dry_run": config["dry_run"]}}
        return {"publish_observations": step, "write_manifest": step, "cleanup_curated_folders": {"config": config}}

    @dg.graph(
        name=GRAPH,
        ins={name: dg.GraphIn() for name in _RAW},
        out={name: dg.GraphOut() for name in _DESCRIPTIONS},
        config=dg.ConfigMapping(
            config_fn=ops,
            config_schema={
                "dry_run": dg.Field(bool, default_value=False, description="do everything but write and delete"),
                "amount_of_data_days": dg.Field(
                    int,
                    default_value=settings.retention,
                    description=f"how many days before the run date are kept, 0 to {MAXIMUM_DAYS:,}",
                ),
            },
        ),
    )
    def curated(**tables: Any) -> dict[str, Any]:
        observation, published = publish_observations(**tables)
        manifest, written = write_manifest(published)
        retention = cleanup_curated_folders(written)
        return {"observation": observation, "manifest": manifest, "retention": retention}

    return dg.AssetsDefinition.from_graph(
        curated,
        keys_by_input_name=_RAW,
        keys_by_output_name={"observation": OBSERVATION, "manifest": MANIFEST, "retention": RETENTION},
        internal_asset_deps={"observation": set(_RAW.values()), "manifest": {OBSERVATION}, "retention": {MANIFEST}},
        partitions_def=run_dates,
        partition_mappings=dict.fromkeys(_RAW, dg.AllPartitionMapping()),
        group_name="curated_dsi",
        can_subset=True,
        descriptions_by_output_name=_DESCRIPTIONS,
        metadata_by_output_name={
            "observation": {
                "dagster/column_schema": _columns(),
                "dagster/column_lineage": metadata_value(results.lineage()),
            }
        },
        tags_by_output_name={
            name: {"domain": "dsi", "layer": "curated", **{f"dagster/kind/{kind}": "" for kind in kinds}}
            for name, kinds in _KINDS.items()
        },
        code_versions_by_output_name=dict.fromkeys(_DESCRIPTIONS, "1"),
        owners_by_output_name={name: ["team:biocloud"] for name in _DESCRIPTIONS},
    )
