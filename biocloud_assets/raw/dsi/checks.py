"""The DSI contract's checks, as Dagster shows them.

What belongs here: which kinds of fault make which check, and what a result looks like. What doesn't: finding faults
(`validation`, `quality`).

The checks of the landing assets are made by the asset itself, for they decide whether anything is written. Those of the
tables have a step of their own, so that they can be run alone, for one delivery or, without a partition, for all.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import dagster as dg

from biocloud_assets.raw.dsi import contract, quality
from biocloud_assets.raw.dsi.partitions import deliveries
from biocloud_assets.raw.dsi.validation import Inspection, Kind
from biocloud_assets.resources import LakehouseResource


@dataclass(frozen=True)
class LandingCheck:
    """A check of a landing asset: the kinds of fault that it fails for."""

    name: str
    description: str
    kinds: frozenset[Kind]
    blocking: bool = True


LANDING_CHECKS: tuple[LandingCheck, ...] = (
    LandingCheck(
        "files",
        "The folder is there, and all its files are whole Parquet files.",
        frozenset(
            {
                Kind.MISSING_FOLDER,
                Kind.EMPTY_FOLDER,
                Kind.NOT_PARQUET,
                Kind.TRUNCATED_PARQUET,
                Kind.UNREADABLE_PARQUET,
            }
        ),
    ),
    LandingCheck(
        "schema",
        "Every column of the contract is there, in its type or one that can be widened to it without loss.",
        frozenset(
            {
                Kind.MISSING_COLUMN,
                Kind.RENAMED_COLUMN,
                Kind.REPEATED_COLUMN,
                Kind.WRONG_TYPE,
                Kind.LOSSY_TYPE,
                Kind.FILES_DISAGREE,
            }
        ),
    ),
    LandingCheck(
        "keys",
        "No key is null or repeated, no required value is null, and no list has a null element.",
        frozenset({Kind.NULL_KEY, Kind.NULL_VALUE, Kind.REPEATED_KEY, Kind.NULL_ELEMENT}),
    ),
    LandingCheck(
        "known",
        "There are no files and columns that the contract doesn't know. The values of such columns are kept.",
        frozenset({Kind.UNKNOWN_COLUMN, Kind.UNEXPECTED_FILE}),
        blocking=False,
    ),
    LandingCheck(
        "ranges",
        "Probabilities and boxes are between 0 and 1, and no box is inverted.",
        frozenset({Kind.PROBABILITY_RANGE, Kind.BOX_RANGE, Kind.BOX_INVERTED}),
        blocking=False,
    ),
    LandingCheck(
        "references",
        "Every reference is to a row of this delivery or of one that is in the lake.",
        frozenset({Kind.UNKNOWN_REFERENCE}),
        blocking=False,
    ),
)


def _landing_checks_of(folder: contract.Folder) -> Iterator[LandingCheck]:
    fields = [item for _, item in contract.walk(folder.fields)]
    for check in LANDING_CHECKS:
        if check.name == "ranges" and not any(item.range for item in fields):
            continue
        if check.name == "references" and not any(item.references for item in fields):
            continue
        yield check


def landing_key(folder: str) -> dg.AssetKey:
    """The asset key of a DSI folder."""
    return dg.AssetKey(["landing", "dsi", folder])


def table_key(table: contract.Table) -> dg.AssetKey:
    """The asset key of a table."""
    return dg.AssetKey(table.path.split("/"))


landing_check_specs = [
    dg.AssetCheckSpec(
        check.name,
        asset=landing_key(folder.name),
        description=check.description,
        blocking=check.blocking,
        partitions_def=deliveries,
    )
    for folder in contract.FOLDERS
    for check in _landing_checks_of(folder)
]


def landing_results(inspection: Inspection, folder: contract.Folder) -> Iterator[dg.AssetCheckResult]:
    """The results of the checks of one folder, from what the inspection found."""
    for check in _landing_checks_of(folder):
        faults = [fault for fault in inspection.of(folder.name) if fault.kind in check.kinds]
        yield dg.AssetCheckResult(
            asset_key=landing_key(folder.name),
            check_name=check.name,
            passed=not faults,
            severity=dg.AssetCheckSeverity.ERROR if check.blocking else dg.AssetCheckSeverity.WARN,
            description="\n".join(map(str, faults)) or None,
            metadata={"faults": _fault_table(faults)} if faults else {},
        )


def _fault_table(faults: list) -> dg.TableMetadataValue:
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
            partitions_def=deliveries,
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
    for finding in quality.examine(lakehouse.place(), tables, delivery):
        key = table_key(contract.table(finding.table))
        if dg.AssetCheckKey(key, finding.check) in selected:
            yield dg.AssetCheckResult(
                asset_key=key,
                check_name=finding.check,
                passed=finding.passed,
                severity=dg.AssetCheckSeverity.ERROR if finding.check in _BLOCKING else dg.AssetCheckSeverity.WARN,
                description=f"expected {finding.expected}, found {finding.found}",
            )
