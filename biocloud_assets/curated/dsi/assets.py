"""What is delivered back to DSI, as Dagster sees it: three assets that a graph of three ops makes.

What belongs here: keys, dependencies, configuration, and calls of the steps. What doesn't: the steps.

    raw/dsi/<table>  ──►  publish_observations  ──►  write_manifest  ──►  cleanup_curated_folders
                                   │                        │                       │
                        curated/dsi/observation    curated/dsi/manifest     curated/dsi/days

It is a graph, and not three assets in a row, for the sake of dry runs: an asset that isn't materialised keeps the next
one from running, and an op with another output doesn't. In a dry run nothing is materialised; what would be is logged
as an observation. Each asset is materialised as soon as its own op is through, so that a cleanup that fails leaves the
publication as it is.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from biocloud_assets.curated.dsi import reports
from biocloud_assets.curated.dsi.cleanup import MAXIMUM_DAYS
from biocloud_assets.curated.dsi.observation import SOURCES, TERMS
from biocloud_assets.curated.dsi.partitions import run_dates
from biocloud_assets.launch import launcher
from biocloud_assets.launch.report import asset_key, metadata_value, to_dagster, values
from biocloud_assets.raw.dsi import contract
from biocloud_assets.raw.dsi.checks import table_key
from biocloud_assets.raw.dsi.contract import LOG, table
from biocloud_assets.resources import LakehouseResource
from biocloud_assets.run_step import Step, Told
from biocloud_assets.settings import Settings
from biocloud_assets.steps import Report

OBSERVATION = asset_key(reports.OBSERVATION)
MANIFEST = asset_key(reports.MANIFEST)
DAYS = asset_key(reports.DAYS)

_Yielded = dg.Output[None] | dg.AssetObservation

GRAPH = "curated__dsi"

_RETRIES = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
_POOL = "curated_dsi"  # where it has a limit of 1, no two runs write the same day


class StepConfig(dg.Config):
    """What one run does."""

    dry_run: bool = False


class CleanupConfig(StepConfig):
    """What one run deletes."""

    amount_of_data_days: int


@dg.op(
    ins={"raw": dg.In(dg.Nothing)},
    out={"observation": dg.Out(dg.Nothing, is_required=False), "published": dg.Out(dg.Nothing)},
    retry_policy=_RETRIES,
    pool=_POOL,
)
def publish_observations(
    context: dg.OpExecutionContext,
    config: StepConfig,
    lakehouse: LakehouseResource,
    step_launcher: dg.ResourceParam[Any],
) -> Iterator[_Yielded]:
    """Write the observations of the run date, as of its end; its manifest is taken away before the first change."""
    step = Step((reports.OBSERVATION,), run_date=context.partition_key, dry_run=config.dry_run)
    yield from _outputs(launcher.reports(context, lakehouse, step_launcher, step), "observation")
    yield dg.Output(None, "published")


@dg.op(
    ins={"published": dg.In(dg.Nothing)},
    out={"manifest": dg.Out(dg.Nothing, is_required=False), "written": dg.Out(dg.Nothing)},
    retry_policy=_RETRIES,
    pool=_POOL,
)
def write_manifest(
    context: dg.OpExecutionContext,
    config: StepConfig,
    lakehouse: LakehouseResource,
    step_launcher: dg.ResourceParam[Any],
) -> Iterator[_Yielded]:
    """Write the manifest of the run date's folder: DSI may read it from now on."""
    step = Step((reports.MANIFEST,), run_date=context.partition_key, dry_run=config.dry_run)
    yield from _outputs(launcher.reports(context, lakehouse, step_launcher, step), "manifest")
    yield dg.Output(None, "written")


@dg.op(
    ins={"written": dg.In(dg.Nothing)},
    out={"days": dg.Out(dg.Nothing, is_required=False)},
    retry_policy=_RETRIES,
    pool=_POOL,
)
def cleanup_curated_folders(
    context: dg.OpExecutionContext,
    config: CleanupConfig,
    lakehouse: LakehouseResource,
    step_launcher: dg.ResourceParam[Any],
) -> Iterator[_Yielded]:
    """Delete the folders of days that are no longer offered, each with its manifest first."""
    step = Step(
        (reports.DAYS,),
        run_date=context.partition_key,
        days=config.amount_of_data_days,
        dry_run=config.dry_run,
    )
    yield from _outputs(launcher.reports(context, lakehouse, step_launcher, step), "days")


def _outputs(told: Iterator[Told], output: str) -> Iterator[_Yielded]:
    """What a step made as the output that materialises its asset; what it only saw, as observations."""
    for report in told:
        if isinstance(report, Report):
            yield dg.Output(None, output, metadata=values(report.metadata))
        else:
            seen = to_dagster(report)
            assert isinstance(seen, dg.AssetObservation), seen
            yield seen


def _columns() -> dg.TableSchema:
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                term.name,
                contract.type_name(term.type),
                description=f"{term.description}. {term.iri or 'A term of Biocloud.'}",
                constraints=dg.TableColumnConstraints(nullable=term.name not in {"occurrenceID", "basisOfRecord"}),
            )
            for term in TERMS
        ]
    )


_DESCRIPTIONS = {
    "observation": "One row per region group of each current result, in Darwin Core terms, as of the run date's end.",
    "manifest": "The manifest of the run date's folder: while it is there, the folder is whole and at rest.",
    "days": "Which days have a folder, and which ones' went with the run.",
}
_KINDS = {"observation": ("pyspark", "parquet"), "manifest": ("json",), "days": ()}


def build_assets(settings: Settings) -> dg.AssetsDefinition:
    """The assets of an environment.

    Args:
        settings: with the number of days that are kept by default.
    """
    raw = {f"raw_{of.name}": table_key(of) for of in (*map(table, SOURCES), LOG)}

    def ops(config: dict[str, Any]) -> dict[str, Any]:
        step = {"config": {"dry_run": config["dry_run"]}}
        return {"publish_observations": step, "write_manifest": step, "cleanup_curated_folders": {"config": config}}

    @dg.graph(
        name=GRAPH,
        ins={name: dg.GraphIn() for name in raw},
        out={name: dg.GraphOut() for name in _DESCRIPTIONS},
        config=dg.ConfigMapping(
            config_fn=ops,
            config_schema={
                "dry_run": dg.Field(bool, default_value=False, description="do all but write and delete"),
                "amount_of_data_days": dg.Field(
                    int,
                    default_value=settings.curated_days,
                    description=f"how many days before the run date are kept, 0 to {MAXIMUM_DAYS:,}",
                ),
            },
        ),
    )
    def curated(**tables: Any) -> dict[str, Any]:
        observation, published = publish_observations(list(tables.values()))
        manifest, written = write_manifest(published)
        days = cleanup_curated_folders(written)
        return {"observation": observation, "manifest": manifest, "days": days}

    return dg.AssetsDefinition.from_graph(
        curated,
        keys_by_input_name=raw,
        keys_by_output_name={"observation": OBSERVATION, "manifest": MANIFEST, "days": DAYS},
        internal_asset_deps={"observation": set(raw.values()), "manifest": {OBSERVATION}, "days": {MANIFEST}},
        partitions_def=run_dates,
        partition_mappings=dict.fromkeys(raw, dg.AllPartitionMapping()),
        group_name="curated_dsi",
        descriptions_by_output_name=_DESCRIPTIONS,
        metadata_by_output_name={
            "observation": {
                "dagster/column_schema": _columns(),
                "dagster/column_lineage": metadata_value(reports.lineage()),
            }
        },
        tags_by_output_name={
            name: {"domain": "dsi", "layer": "curated", **{f"dagster/kind/{kind}": "" for kind in kinds}}
            for name, kinds in _KINDS.items()
        },
        owners_by_output_name={name: ["team:biocloud"] for name in _DESCRIPTIONS},
    )
