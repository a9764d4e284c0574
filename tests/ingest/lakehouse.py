"""Landing zones and lakes for tests: ingest deliveries, and read what the tables hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from biocloud_assets.ingest.context import IngestContext, open_context
from biocloud_assets.ingest.step import all_checks, ingest_step
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.schema import Contract
from biocloud_assets.spark import delta_log
from biocloud_assets.steps import CheckResult, RunInfo, StepRequest, StepResult
from tests.ingest.deliveries import DELIVERY, write

RUN = RunInfo("test", "run-1", "sail", "0123abcd")


def context_at(root: Path | str, *, endpoint: str | None = None, contract: Contract = CONTRACT) -> IngestContext:
    """The landing zone `<root>/in` and the lake `<root>/out`, with the embedded engine."""
    return open_context(
        contract,
        landing_root=f"{root}/in",
        lake_root=f"{root}/out",
        engine="sail",
        s3_endpoint=endpoint,
        catalog=None,
    )


def land(context: IngestContext, made: Path, name: str = DELIVERY, **folders: Any) -> None:
    """Write a delivery into the landing zone, which may be in S3.

    Args:
        context: its landing zone.
        made: a folder in which the files are made first.
        name: the delivery's name.
        folders: as in `deliveries.write`.
    """
    source = write(made, name, **folders)
    for file in sorted(source.rglob("*.parquet")):
        context.landing.write(f"dsi/{name}/{file.relative_to(source).as_posix()}", file.read_bytes())


def whole(contract: Contract, delivery: str) -> StepRequest:
    """The request for all assets and checks of a delivery."""
    return StepRequest(contract.addresses, all_checks(contract), delivery)


def ingest(context: IngestContext, *deliveries: str, run: RunInfo = RUN) -> list[StepResult]:
    """Ingest whole deliveries; returns the results."""
    return [result for name in deliveries for result in ingest_step(context, whole(context.contract, name), run)]


def step(
    context: IngestContext, *assets: str, checks: tuple[str, ...] = (), delivery: str | None = DELIVERY
) -> list[StepResult]:
    """Run a step for some assets (`raw/dsi/sensor`) and checks (`raw/dsi/sensor:key`) of a delivery."""
    return list(ingest_step(context, StepRequest(assets, checks, delivery), RUN))


def failed(results: list[StepResult]) -> dict[str, str]:
    """The checks that failed, with their descriptions."""
    return {
        f"{result.asset}:{result.name}": result.description
        for result in results
        if isinstance(result, CheckResult) and not result.passed
    }


def content(context: IngestContext) -> dict[str, list[dict[str, Any]]]:
    """All rows of all tables, sorted. The delivery log isn't among them: it holds times."""
    tables = {
        table.name: delta_log.open_table(context.lake, context.contract.address(table))
        for table in context.contract.tables
    }
    return {
        name: sorted(table.to_pyarrow_table().to_pylist(), key=repr) if table else [] for name, table in tables.items()
    }


def versions(context: IngestContext) -> dict[str, int | None]:
    """The Delta version of each table and of the delivery log; None for one that doesn't exist."""
    contract = context.contract
    return {
        table.name: delta_log.version(context.lake, contract.address(table))
        for table in (*contract.tables, contract.log)
    }


def written_files(context: IngestContext) -> list[str]:
    """All files of the lake, those in its staging folder too."""
    return [file.path for file in context.lake.walk()]
