"""The DSI contract's checks, as Dagster shows them.

What belongs here: the specs of the checks, and the step that makes those of the tables. What doesn't: what they find
(`steps`).

The checks of the landing assets are made by the asset itself, for they decide whether anything is written. Those of the
tables have a step of their own, so that they can be run alone, for one delivery or, without a partition, for all.
"""

import warnings
from collections.abc import Iterator
from typing import Any

import dagster as dg

from biocloud_assets.launch.launcher import run_step
from biocloud_assets.launch.report import asset_key
from biocloud_assets.raw.dsi import contract, quality
from biocloud_assets.raw.dsi.partitions import deliveries
from biocloud_assets.raw.dsi.steps import BLOCKING, LANDING_CHECKS, landing_address
from biocloud_assets.resources import LakehouseResource
from biocloud_assets.run_step import Step

# Partitions of checks are in preview; they are what ties a result to its delivery.
warnings.filterwarnings("ignore", category=dg.PreviewWarning, module=__name__)


def landing_key(folder: str) -> dg.AssetKey:
    """The asset key of a DSI folder."""
    return asset_key(landing_address(folder))


def table_key(table: contract.Table) -> dg.AssetKey:
    """The asset key of a table."""
    return asset_key(table.path)


landing_check_specs = [
    dg.AssetCheckSpec(
        name,
        asset=landing_key(folder.name),
        description=description,
        blocking=name in BLOCKING,
        partitions_def=deliveries,
    )
    for folder in contract.FOLDERS
    for name, description in LANDING_CHECKS.items()
]


_DESCRIPTIONS = {
    "row_count": "As many rows as the source has.",
    "key": "No key is null or repeated.",
    "ranges": "All values are in the range that the contract gives.",
    "references": "Every reference is to a row that is in the lake.",
}


@dg.multi_asset_check(
    name="check_tables",
    specs=[
        dg.AssetCheckSpec(
            check,
            asset=table_key(table),
            description=_DESCRIPTIONS[check],
            blocking=check in BLOCKING,
        )
        for table in contract.TABLES
        for check in quality.checks_of(table)
    ],
    can_subset=True,
    compute_kind="pyspark",
)
def check_tables(
    context: dg.AssetCheckExecutionContext, lakehouse: LakehouseResource, step_launcher: dg.ResourceParam[Any]
) -> Iterator[dg.AssetCheckResult]:
    """Check the tables: the rows of the delivery that is the run's partition, or all."""
    selected = sorted(f"{key.asset_key.to_user_string()}:{key.name}" for key in context.selected_asset_check_keys)
    delivery = context.partition_key if context.has_partition_key else None
    yield from run_step(context, lakehouse, step_launcher, Step(checks=tuple(selected), delivery=delivery))
