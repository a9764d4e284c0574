"""What a step reports, in Dagster's words.

What belongs here: translating `steps.Report` and `steps.CheckReport`. What doesn't: making them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from biocloud_assets.run_step import Told
from biocloud_assets.steps import CheckReport, Sighting, Value


def asset_key(address: str) -> dg.AssetKey:
    """The key of an asset: `raw/dsi/sensor` is `AssetKey(["raw", "dsi", "sensor"])`."""
    return dg.AssetKey(address.split("/"))


def to_dagster(report: Told) -> dg.MaterializeResult | dg.AssetCheckResult | dg.AssetObservation:
    """What a step yields to Dagster for a report."""
    if isinstance(report, CheckReport):
        return _check(report)
    if isinstance(report, Sighting):
        return dg.AssetObservation(
            asset_key(report.asset), partition=report.partition, metadata=values(report.metadata)
        )
    return dg.MaterializeResult(
        asset_key=asset_key(report.asset),
        metadata=values(report.metadata),
        check_results=[_check(check) for check in report.checks],
    )


def metadata_value(value: Value) -> dg.MetadataValue:
    """A value of a report as one of Dagster's."""
    raw: Any = value["raw_value"]
    match value["type"]:
        case "int":
            return dg.MetadataValue.int(raw)
        case "bool":
            return dg.MetadataValue.bool(raw)
        case "text":
            return dg.MetadataValue.text(raw)
        case "md":
            return dg.MetadataValue.md(raw)
        case "table":
            records = [dg.TableRecord(record) for record in raw["records"]]
            return dg.MetadataValue.table(records=records, schema=_columns(raw["schema"]))
        case "table_schema":
            return dg.MetadataValue.table_schema(_columns(raw["columns"]))
        case "table_column_lineage":
            return dg.MetadataValue.column_lineage(
                dg.TableColumnLineage(
                    {
                        column: [dg.TableColumnDep(asset_key(dep["asset_key"]), dep["column_name"]) for dep in deps]
                        for column, deps in raw["deps_by_column"].items()
                    }
                )
            )
    raise AssertionError(value)


def _check(report: CheckReport) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=asset_key(report.asset),
        check_name=report.name,
        passed=report.passed,
        severity=dg.AssetCheckSeverity.ERROR if report.blocking else dg.AssetCheckSeverity.WARN,
        description=report.description or None,
        metadata=values(report.metadata),
    )


def values(metadata: Mapping[str, Value]) -> dict[str, dg.MetadataValue]:
    """The values of a report as Dagster's."""
    return {name: metadata_value(value) for name, value in metadata.items()}


def _columns(columns: list[dict[str, str]]) -> dg.TableSchema:
    return dg.TableSchema([dg.TableColumn(column["name"], column["type"]) for column in columns])
