"""The steps of the job `dsi_raw`, each with what it reports; they know no orchestrator.

What belongs here: which step makes which asset, and what is told of it. What doesn't: the work itself (`ingest`,
`quality`), and Dagster's view of it (`assets`, `checks`).

    landing/dsi/<folder>  ──►  raw/dsi/<table>  ──►  checks of the tables  ──►  raw/dsi/delivery
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from biocloud_assets import steps
from biocloud_assets.errors import SettingsError
from biocloud_assets.raw.dsi import contract, ingest, quality
from biocloud_assets.raw.dsi.contract import DELIVERY_COLUMN, LOG, RESULT, TABLES, Folder, Table
from biocloud_assets.raw.dsi.files import Fault, Inspection
from biocloud_assets.raw.dsi.ingest import Place
from biocloud_assets.spark import delta
from biocloud_assets.steps import CheckReport, Report, Run, Value

_PREVIEW_ROWS = 5

LANDING_CHECKS = {
    "contract": "All files are whole, with the columns and types of the contract; keys and lists are as it says.",
    "plausible": "Values are in range, references lead somewhere, and there is nothing that the contract doesn't know.",
}
"""The checks of each landing asset: `contract` blocks, with the faults that keep a delivery out; `plausible` warns."""

BLOCKING = {"contract", "row_count", "key"}
"""The checks after which nothing goes on if they fail."""


def landing_address(folder: str) -> str:
    """The address of a DSI folder as an asset."""
    return f"landing/dsi/{folder}"


def lanes() -> list[list[tuple[str, ...]]]:
    """The steps that make the folders and tables of a delivery, each with its assets, as they can go side by side.

    A lane has its steps in the order in which Dagster asks for them. A lane waits for another one only until the
    delivery is inspected, and `ingest` sees to that. What comes after the tables, their checks and the log, is in none.
    """
    folders = tuple(sorted(landing_address(folder.name) for folder in contract.FOLDERS))
    copied: list[tuple[str, ...]] = [
        (table.path,) for table in sorted(TABLES, key=lambda table: table.path) if table.folder != RESULT
    ]
    unnested = tuple(sorted(table.path for table in TABLES if table.folder == RESULT))
    return [[folders, unnested], copied]


def run(place: Place, assets: Collection[str], delivery: str, who: Run) -> Iterator[Report]:
    """Make some assets of a delivery, in the order in which they depend on each other.

    Args:
        place: where it runs.
        assets: their addresses.
        delivery: the delivery's name.
        who: who asked for it; the delivery log says so.

    Yields:
        a report for each asset, as soon as it is made.

    Raises:
        SettingsError: an address is none of this room.
        DeliveryNameError, DeliveryRefusedError, TableError: as `ingest` says.
    """
    folders = [folder for folder in contract.FOLDERS if landing_address(folder.name) in assets]
    tables = [table for table in TABLES if table.path in assets]
    known = {landing_address(folder.name) for folder in folders} | {table.path for table in tables} | {LOG.path}
    for address in assets:
        if address not in known:
            raise SettingsError(
                f"step {address}",
                expected="landing/dsi/<folder>, raw/dsi/<table> or raw/dsi/delivery",
                found=address,
                hint="See docs/data-architecture/raw/dsi.md for the names.",
            )
    if folders:
        yield from _inspect(place, folders, delivery)
    for table in tables:
        yield _write(place, table, delivery)
    if LOG.path in assets:
        yield _record(place, delivery, who)


def check(place: Place, checks: Collection[str], delivery: str | None) -> Iterator[CheckReport]:
    """Check some tables.

    Args:
        place: where it runs.
        checks: which: `raw/dsi/sensor:key`, or `raw/dsi/sensor` for all checks of that table.
        delivery: whose rows; all if none.

    Yields:
        what each found.

    Raises:
        SettingsError: there is no such check.
    """
    known = {f"{table.path}:{name}": table for table in TABLES for name in quality.checks_of(table)}
    chosen = {check for check in known if check in checks or check.partition(":")[0] in checks}
    for asked in checks:
        if asked not in known and asked not in {table.path for table in TABLES}:
            raise SettingsError(
                f"step {asked}",
                expected="a check: raw/dsi/<table>, or raw/dsi/<table>:<check>",
                found=asked,
                hint="See docs/data-architecture/raw/dsi.md for the tables and their checks.",
            )
    tables = tuple(table for table in TABLES if any(known[check] == table for check in chosen))
    for table in tables:
        for finding in quality.examine(place, (table,), delivery):
            if f"{table.path}:{finding.check}" in chosen:
                yield CheckReport(
                    table.path,
                    finding.check,
                    passed=finding.passed,
                    blocking=finding.check in BLOCKING,
                    description=f"expected {finding.expected}, found {finding.found}",
                )


def _inspect(place: Place, folders: list[Folder], delivery: str) -> Iterator[Report]:
    """Inspect a delivery: every fault is found before any table is touched, and all are reported at once."""
    inspection = ingest.inspect(place, delivery, again=True)
    for folder in folders:
        yield Report(
            landing_address(folder.name),
            _inspection_metadata(place, inspection, folder),
            tuple(_landing_check(inspection, folder, name) for name in LANDING_CHECKS),
        )


def _landing_check(inspection: Inspection, folder: Folder, name: str) -> CheckReport:
    faults = [fault for fault in inspection.of(folder.name) if fault.is_warning is not (name in BLOCKING)]
    return CheckReport(
        landing_address(folder.name),
        name,
        passed=not faults,
        blocking=name in BLOCKING,
        description="\n".join(map(str, faults)),
        metadata={"faults": _fault_table(faults)} if faults else {},
    )


def _fault_table(faults: list[Fault]) -> Value:
    names = ("kind", "file", "column", "expected", "found")
    return steps.table(
        [(name, "string") for name in names],
        [{name: str(getattr(fault, name) or "") for name in names} for fault in faults],
    )


def _inspection_metadata(place: Place, inspection: Inspection, folder: Folder) -> dict[str, Value]:
    files = inspection.contents.files[folder.name]
    sources = inspection.sources[folder.name]
    metadata = {
        "dagster/row_count": steps.integer(sum(source.rows for source in sources)),
        "bytes": steps.integer(sum(file.size for file in files)),
        "file_count": steps.integer(len(files)),
        "dagster/uri": steps.text(place.landing.uri(f"dsi/{inspection.delivery}/{folder.name}")),
        "fingerprint": steps.text(inspection.contents.fingerprint),
        "refused": steps.boolean(bool(inspection.errors)),
        "faults": steps.text("\n".join(str(fault) for fault in inspection.of(folder.name))),
    }
    if files:
        metadata["files"] = steps.table(
            [("file", "string"), ("bytes", "int"), ("modified", "string")],
            [{"file": file.name, "bytes": file.size, "modified": file.modified.isoformat()} for file in files],
        )
    if sources:
        metadata["dagster/column_schema"] = steps.column_schema(
            [(item.name, str(item.type)) for item in sources[0].schema]
        )
    return metadata


def _write(place: Place, table: Table, delivery: str) -> Report:
    """Write a delivery's rows of one table, and say what is there now."""
    rows = ingest.write_table(place, delivery, table)
    written = delta.read_partition(place.spark, place.lake, table.path, DELIVERY_COLUMN, delivery)
    preview = written.limit(_PREVIEW_ROWS).toArrow().to_pylist()
    size, version = delta.partition_size(place.lake, table.path, DELIVERY_COLUMN, delivery)
    metadata = {
        "dagster/partition_row_count": steps.integer(rows),
        "bytes": steps.integer(size),
        "delta_version": steps.integer(version),
        "dagster/uri": steps.text(place.lake.uri(table.path)),
        "dagster/column_lineage": column_lineage(table),
    }
    if preview:
        metadata["preview"] = steps.markdown(_markdown(preview))
    return Report(table.path, metadata)


def column_lineage(table: Table) -> Value:
    """Where the columns of a table come from."""
    assert table.folder is not None, table
    folder = landing_address(table.folder)
    return steps.column_lineage(
        {column: [(folder, source) for source in sources] for column, sources in contract.column_lineage(table).items()}
    )


def _record(place: Place, delivery: str, who: Run) -> Report:
    """Write the delivery into the log, when all nine tables hold it and their counts reconcile with the source."""
    row = ingest.record(place, delivery, engine=who.engine, orchestrator=who.orchestrator, run_id=who.id)
    return Report(
        LOG.path,
        {
            "dagster/uri": steps.text(place.lake.uri(LOG.path)),
            "rows": steps.integer(sum(row["rows"].values())),
            "rows_per_table": steps.table(
                [("table", "string"), ("rows", "int")],
                [{"table": name, "rows": count} for name, count in row["rows"].items()],
            ),
            "bytes": steps.integer(row["source_bytes"]),
            "ingested_at": steps.text(row["ingested_at"].isoformat()),
            "run": steps.text(row["run_id"]),
        },
    )


def _markdown(rows: list[dict[str, object]]) -> str:
    """A few rows as a table to look at."""

    def cell(value: object) -> str:
        string = "" if value is None else str(value)
        return (string if len(string) <= 60 else f"{string[:59]}…").replace("|", "\\|").replace("\n", " ")

    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    return "\n".join([*lines, *("| " + " | ".join(map(cell, row.values())) + " |" for row in rows)])
