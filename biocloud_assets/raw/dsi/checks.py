"""The DSI contract's checks, as Dagster shows them.

What belongs here: which fault makes which check fail, and what a result looks like. What doesn't: finding faults
(`validation`, `quality`).

The checks of the landing assets are made by the asset itself, for they decide whether anything is written. Those of the
tables have a step of their own, so that they can be run alone, for one delivery or, without a partition, for all.
"""

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import dagster as dg

from biocloud_assets.raw.dsi import contract, quality
from biocloud_assets.raw.dsi.partitions import deliveries
from biocloud_assets.raw.dsi.validation import Fault, Inspection
from biocloud_assets.resources import LakehouseResource

# Partitions of checks are in preview; they are what ties a result to its delivery.
warnings.filterwarnings("ignore", category=dg.PreviewWarning, module=__name__)

LANDING_CHECKS = {
    "contract": "All files are whole, with the columns and types of the contract; keys and lists are as it says.",
    "plausible": "Values are in range, references lead somewhere, and there is nothing that the contract doesn't know.",
}
"""The checks of each landing asset: `contract` blocks, with the faults that keep a delivery out; `plausible` warns."""


def landing_key(folder: str) -> dg.AssetKey:
    """The asset key of a DSI folder."""
    return dg.AssetKey(["landing", "dsi", folder])


def table_key(table: contract.Table) -> dg.AssetKey:
    """The asset key of a table."""
    return dg.AssetKey(table.path.split("/"))


landing_check_specs = [
    dg.AssetCheckSpec(
        name,
        asset=landing_key(folder.name),
        description=description,
        blocking=name == "contract",
        partitions_def=deliveries,
    )
    for folder in contract.FOLDERS
    for name, description in LANDING_CHECKS.items()
]


def landing_results(inspection: Inspection, folder: contract.Folder) -> Iterator[dg.AssetCheckResult]:
    """The results of the checks of one folder, from what the inspection found."""
    for name in LANDING_CHECKS:
        blocking = name == "contract"
        faults = [fault for fault in inspection.of(folder.name) if fault.is_warning is not blocking]
        yield dg.AssetCheckResult(
            asset_key=landing_key(folder.name),
            check_name=name,
            passed=not faults,
            severity=dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN,
            description="\n".join(map(str, faults)) or None,
            metadata={"faults": _fault_table(faults)} if faults else {},
        )


def _fault_table(faults: list[Fault]) -> dg.TableMetadataValue:
    names = ("kind", "file", "column", "expected", "found")
    return dg.MetadataValue.table(
        records=[dg.TableRecord({name: str(getattr(fault, name) or "") for name in names}) for fault in faults],
        schema=dg.TableSchema(columns=[dg.TableColumn(name) for name in names]),
    )


_DESCRIPTIONS = {
    "row_count": "As many rows as the source has.",
    "key": "No key is null or repeated.",
    "ranges": "All values are in the range that the contract gives.",
    "references": "Every reference is to a row that is in the lake.",
}
_BLOCKING = {"row_count", "key"}


@dg.multi_asset_check(
    name="check_tables",
    specs=[
        dg.AssetCheckSpec(
            check,
            asset=table_key(table),
            description=_DESCRIPTIONS[check],
            blocking=check in _BLOCKING,
        )
        for table in contract.TABLES
        for check in quality.checks_of(table)
    ],
    can_subset=True,
    compute_kind="pyspark",
)
def check_tables(context: dg.AssetCheckExecutionContext, lakehouse: LakehouseResource) -> Iterator[dg.AssetCheckResult]:
    """Check the tables: the rows of the delivery that is the run's partition, or all."""
    selected = context.selected_asset_check_keys
    tables = tuple(table for table in contract.TABLES if any(key.asset_key == table_key(table) for key in selected))
    delivery = context.partition_key if context.has_partition_key else None
    place = lakehouse.place()
    with ThreadPoolExecutor(1) as engine:  # examines the next table while Dagster notes the findings of the one before
        examined = engine.map(lambda table: list(quality.examine(place, (table,), delivery)), tables)
        for finding in chain.from_iterable(examined):
            key = table_key(contract.table(finding.table))
            if dg.AssetCheckKey(key, finding.check) in selected:
                yield dg.AssetCheckResult(
                    asset_key=key,
                    check_name=finding.check,
                    passed=finding.passed,
                    severity=dg.AssetCheckSeverity.ERROR if finding.check in _BLOCKING else dg.AssetCheckSeverity.WARN,
                    description=f"expected {finding.expected}, found {finding.found}",
                )
