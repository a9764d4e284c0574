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
from contextlib import contextmanager
from typing import Any

import dagster as dg
from pyspark.errors import AnalysisException

from biocloud_assets.curated.dsi import metadata, steps
from biocloud_assets.curated.dsi.cleanup import MAXIMUM_DAYS, CleanupError
from biocloud_assets.curated.dsi.metadata import DAYS, MANIFEST, OBSERVATION
from biocloud_assets.curated.dsi.observation import SOURCES
from biocloud_assets.curated.dsi.partitions import run_dates
from biocloud_assets.errors import BiocloudError
from biocloud_assets.raw.dsi.checks import table_key
from biocloud_assets.raw.dsi.contract import LOG, table
from biocloud_assets.resources import LakehouseResource
from biocloud_assets.settings import Settings

GRAPH = "curated__dsi"

_RETRIES = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
_POOL = "curated_dsi"  # where it has a limit of 1, no two runs write the same day


class StepConfig(dg.Config):
    """What one run does."""

    dry_run: bool = False


class CleanupConfig(StepConfig):
    """What one run deletes."""

    amount_of_data_days: int


@contextmanager
def _no_retry_of_what_stays_wrong() -> Iterator[None]:
    """Fail at once for what another try can't mend; only a lost connection or its like is worth one."""
    try:
        yield
    except (BiocloudError, AnalysisException) as error:
        raise dg.Failure(str(error), allow_retries=False) from error


@dg.op(
    ins={"raw": dg.In(dg.Nothing)},
    out={"observation": dg.Out(dg.Nothing, is_required=False), "published": dg.Out(dg.Nothing)},
    retry_policy=_RETRIES,
    pool=_POOL,
)
def publish_observations(
    context: dg.OpExecutionContext, config: StepConfig, lakehouse: LakehouseResource
) -> Iterator[dg.Output[None] | dg.AssetObservation]:
    """Write the observations of the run date, as of its end; its manifest is taken away before the first change."""
    place = lakehouse.place()
    with _no_retry_of_what_stays_wrong():
        published = steps.publish(
            place.spark, place.lake, lakehouse.curated(), context.partition_key, dry_run=config.dry_run
        )
    yield _made(context, "observation", OBSERVATION, metadata.of_publication(published), dry_run=config.dry_run)
    yield dg.Output(None, "published")


@dg.op(
    ins={"published": dg.In(dg.Nothing)},
    out={"manifest": dg.Out(dg.Nothing, is_required=False), "written": dg.Out(dg.Nothing)},
    retry_policy=_RETRIES,
    pool=_POOL,
)
def write_manifest(
    context: dg.OpExecutionContext, config: StepConfig, lakehouse: LakehouseResource
) -> Iterator[dg.Output[None] | dg.AssetObservation]:
    """Write the manifest of the run date's folder: DSI may read it from now on."""
    with _no_retry_of_what_stays_wrong():
        written = steps.manifest(lakehouse.curated(), context.partition_key, dry_run=config.dry_run)
    made = metadata.of_manifest(written, dry_run=config.dry_run)
    yield _made(context, "manifest", MANIFEST, made, dry_run=config.dry_run)
    yield dg.Output(None, "written")


@dg.op(
    ins={"written": dg.In(dg.Nothing)},
    out={"days": dg.Out(dg.Nothing, is_required=False)},
    retry_policy=_RETRIES,
    pool=_POOL,
)
def cleanup_curated_folders(
    context: dg.OpExecutionContext, config: CleanupConfig, lakehouse: LakehouseResource
) -> Iterator[dg.Output[None] | dg.AssetObservation]:
    """Delete the folders of days that are no longer offered, each with its manifest first."""
    days, dry_run = config.amount_of_data_days, config.dry_run
    with _no_retry_of_what_stays_wrong():
        try:
            cleaned = steps.cleanup(lakehouse.curated(), context.partition_key, days, dry_run=dry_run)
        except CleanupError as error:
            yield from metadata.of_removals(error.cleanup)
            failed = dg.AssetObservation(
                DAYS, partition=context.partition_key, metadata=metadata.of_cleanup(error.cleanup)
            )
            yield failed
            raise
    yield from metadata.of_removals(cleaned)
    yield _made(context, "days", DAYS, metadata.of_cleanup(cleaned), dry_run=dry_run)


def _made(
    context: dg.OpExecutionContext, output: str, key: dg.AssetKey, made: dict[str, dg.MetadataValue], *, dry_run: bool
) -> dg.Output[None] | dg.AssetObservation:
    """The output that materialises an asset; in a dry run, only an observation of it."""
    if dry_run:
        return dg.AssetObservation(key, partition=context.partition_key, metadata=made)
    return dg.Output(None, output, metadata=made)


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
            "observation": {"dagster/column_schema": metadata.columns(), "dagster/column_lineage": metadata.lineage()}
        },
        tags_by_output_name={
            name: {"domain": "dsi", "layer": "curated", **{f"dagster/kind/{kind}": "" for kind in kinds}}
            for name, kinds in _KINDS.items()
        },
        owners_by_output_name={name: ["team:biocloud"] for name in _DESCRIPTIONS},
    )
