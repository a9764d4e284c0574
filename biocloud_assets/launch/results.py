"""The results of a step as Dagster's events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from biocloud_assets.steps import CheckResult, Observation, StepResult, Value

DagsterResult = dg.MaterializeResult[Any] | dg.AssetCheckResult | dg.AssetObservation


def asset_key(address: str) -> dg.AssetKey:
    """The key of an asset: `raw/dsi/sensor` is `AssetKey(["raw", "dsi", "sensor"])`.

    Args:
        address: the address of an asset.
    """
    return dg.AssetKey(address.split("/"))


def to_dagster(result: StepResult) -> DagsterResult:
    """What an op of a multi-asset yields for a result.

    Args:
        result: a materialization becomes a `MaterializeResult`, a check result an `AssetCheckResult`, whose severity is
            ERROR if it blocks and WARN if not, and an observation an `AssetObservation`.
    """
    if isinstance(result, CheckResult):
        return dg.AssetCheckResult(
            asset_key=asset_key(result.asset),
            check_name=result.name,
            passed=result.passed,
            severity=dg.AssetCheckSeverity.ERROR if result.blocking else dg.AssetCheckSeverity.WARN,
            description=result.description or None,
            metadata=metadata_values(result.metadata),
        )
    if isinstance(result, Observation):
        return dg.AssetObservation(
            asset_key(result.asset), partition=result.partition, metadata=metadata_values(result.metadata)
        )
    return dg.MaterializeResult(asset_key=asset_key(result.asset), metadata=metadata_values(result.metadata))


def metadata_value(value: Value) -> dg.MetadataValue:
    """A metadata value as one of Dagster's.

    Args:
        value: as the functions of `steps` make it.
    """
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


def metadata_values(metadata: Mapping[str, Value]) -> dict[str, dg.MetadataValue]:
    """Metadata values as Dagster's."""
    return {name: metadata_value(value) for name, value in metadata.items()}


def _columns(columns: list[dict[str, str]]) -> dg.TableSchema:
    return dg.TableSchema([dg.TableColumn(column["name"], column["type"]) for column in columns])
