"""What happens to a delivery, from its files to its row in the delivery log.

    landing/<source>/<folder>  ──►  raw/<source>/<table>  ──►  checks of the tables  ──►  raw/<source>/delivery

A delivery is one step. A selection (one table, only checks) is the same step with fewer assets and checks. Everything
can be repeated: a delivery replaces exactly its own rows, and what a killed step has left is replaced by the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from typing import Any

from biocloud_assets import __version__, steps
from biocloud_assets.errors import DeliveryNameError, DeliveryRefusedError, LakeError, SettingsError, TableError
from biocloud_assets.ingest import delivery_log, table_checks
from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.ingest.delivery import DeliveryFiles, delivery_path, list_delivery, require_delivery
from biocloud_assets.ingest.inspection import inspect
from biocloud_assets.ingest.staging import staging_folder
from biocloud_assets.ingest.tables import writing_tables
from biocloud_assets.ingest.verify import compare
from biocloud_assets.ingest.violations import Inspection, Violation
from biocloud_assets.schema import DELIVERY_COLUMN, Contract, Folder, Table, column_lineage
from biocloud_assets.steps import CheckResult, Materialization, RunInfo, StepRequest, StepResult, Value

FOLDER_CHECKS = {
    "contract": "The files are complete, with the columns and types of the contract; keys and lists are as it says.",
    "plausible": "Values are in range, references lead to a row, and nothing is unknown to the contract.",
}
"""The checks of each folder: `contract` blocks, `plausible` warns."""

BLOCKING = frozenset({"contract", *table_checks.BLOCKING})
"""The checks that fail the step; the others warn."""

_PREVIEW_ROWS = 5


@dataclass(frozen=True)
class _Selection:
    """What a request selects of a contract."""

    folders: tuple[Folder, ...]
    tables: tuple[Table, ...]
    log: bool
    folder_checks: frozenset[str]
    table_checks: frozenset[str]

    @property
    def needs_inspection(self) -> bool:
        return bool(self.folders or self.tables or self.log or self.folder_checks)


def all_checks(contract: Contract) -> tuple[str, ...]:
    """All asset checks of a contract, `raw/dsi/sensor:key`, in the order in which a delivery runs them."""
    folders = [
        f"{contract.landing_address(folder.name)}:{name}" for folder in contract.folders for name in FOLDER_CHECKS
    ]
    tables = [
        f"{contract.address(table)}:{name}"
        for table in contract.tables
        for name in table_checks.checks_of(contract, table)
    ]
    return (*folders, *tables)


def ingest_step(context: IngestContext, request: StepRequest, run: RunInfo) -> Iterator[StepResult]:
    """Bring one delivery into the lake: validate it, write its tables, check them, and log it.

    Args:
        context: what the ingest works with.
        request: which assets to materialise, which checks to run, and the delivery. Without a delivery, only checks of
            tables can be run, on the rows of all deliveries in the log.
        run: the run that the step belongs to; the delivery log records it.

    Yields:
        the results of the selected assets and checks, each as soon as it is known.

    Raises:
        SettingsError: an address or a check is not of this contract.
        DeliveryNameError: the delivery's name is missing or wrong, or there is no delivery of that name.
        DeliveryRefusedError: the delivery breaks the contract; nothing was written.
        TableError: a table has other columns or types; nothing was written. Or a blocking check of a table failed, or
            the log alone is selected and a table holds an earlier state of the delivery; the delivery is not in the log
            then.
        LakeError: the landing zone or the lake can't be read or written, or the files of the delivery have changed
            since they were listed. In the second case the delivery is not in the log.
    """
    contract = context.contract
    selection = _select(contract, request)
    if request.delivery is None:
        if selection.needs_inspection:
            raise DeliveryNameError(
                "the delivery",
                expected="a delivery's name, yyyy-mm-dd-HH:MM:SS",
                found="none",
                hint="Only checks of tables can be run for all deliveries together.",
            )
        yield from _raise_if_blocked(table_checks.check_tables(context, selection.table_checks, None))
        return
    if not selection.needs_inspection:
        yield from _check_without_writing(context, selection, request.delivery)
        return
    files = require_delivery(context.landing, contract, request.delivery)
    with staging_folder(context.staging) as staging:
        try:
            inspection = inspect(context, files, staging)
        except Exception:  # for instance a file that was replaced after its footer was read
            _raise_if_source_changed(context, files)
            raise
        if inspection.errors:
            yield from _folder_checks(contract, inspection, selection)
            raise DeliveryRefusedError(request.delivery, inspection.errors, inspection.files.fingerprint)
        try:
            with writing_tables(context, inspection, selection.tables) as written:
                yield from _folder_checks(contract, inspection, selection)
                yield from _folders(context, inspection, selection)
                for table in written:
                    yield Materialization(contract.address(table), _table_metadata(context, inspection, table))
        except Exception:  # for instance a footer that doesn't belong to the rest of the file
            _raise_if_source_changed(context, files)
            raise
        if selection.tables:
            _raise_if_source_changed(context, files)
        yield from _check_tables(context, selection, inspection)
        if selection.log:
            _compare_unwritten_tables(context, selection, inspection)
            yield _write_log(context, selection, inspection, run)


def _raise_if_source_changed(context: IngestContext, files: DeliveryFiles) -> None:
    """Fail if the files are no longer those that were listed: the tables may hold rows of the old and new ones."""
    listed = list_delivery(context.landing, context.contract, files.delivery)
    if listed.fingerprint == files.fingerprint:
        return
    if delivery_log.read(context.tables, context.contract, files.delivery) is not None:
        delivery_log.remove(context, files.delivery)
    raise LakeError(
        f"delivery {files.delivery}",
        expected="the same files until it is ingested",
        found="files that were changed, added or removed meanwhile",
        hint="It is not in the delivery log. Ingest it again when it has arrived.",
        transient=True,
    )


def _select(contract: Contract, request: StepRequest) -> _Selection:
    known_checks = set(all_checks(contract))
    for what, asked, known in (
        ("asset", request.assets, set(contract.addresses)),
        ("check", request.checks, known_checks),
    ):
        for name in asked:
            if name not in known:
                raise SettingsError(
                    f"{what} {name}",
                    expected=f"one of the {what}s of the source {contract.source}",
                    found=repr(name),
                    hint=f"They are listed in docs/data-architecture/raw/{contract.source}.md.",
                )
    folder_checks = {name for name in request.checks if name.startswith("landing/")}
    return _Selection(
        folders=tuple(folder for folder in contract.folders if contract.landing_address(folder.name) in request.assets),
        tables=tuple(table for table in contract.tables if contract.address(table) in request.assets),
        log=contract.address(contract.log) in request.assets,
        folder_checks=frozenset(folder_checks),
        table_checks=frozenset(request.checks) - folder_checks,
    )


def _check_without_writing(context: IngestContext, selection: _Selection, delivery: str) -> Iterator[CheckResult]:
    """Check the rows that the lake holds of a delivery; the source may be gone."""
    logged = delivery_log.read(context.tables, context.contract, delivery)
    if logged is None:
        raise DeliveryNameError(
            f"delivery {delivery}",
            expected="an ingested delivery, whose rows can be checked",
            found="none of that name in the delivery log",
            hint="Materialise its assets first.",
        )
    yield from _raise_if_blocked(table_checks.check_tables(context, selection.table_checks, delivery, logged["rows"]))


def _check_tables(context: IngestContext, selection: _Selection, inspection: Inspection) -> Iterator[CheckResult]:
    """Run the selected checks of the tables; whatever is selected, every written table must hold all its rows."""
    contract = context.contract
    counted = contract.tables if selection.log else selection.tables
    always = {f"{contract.address(table)}:{name}" for table in counted for name in table_checks.BLOCKING}
    checks = always | selection.table_checks
    results = table_checks.check_tables(context, checks, inspection.delivery, inspection.rows)
    failed = []
    for result in results:
        if f"{result.asset}:{result.name}" in selection.table_checks:
            yield result
        if result.blocking and not result.passed:
            failed.append(result)
    if failed and selection.tables and delivery_log.read(context.tables, contract, inspection.delivery) is not None:
        delivery_log.remove(context, inspection.delivery)  # the rows that this step has written are wrong
    _raise_for(failed)


def _raise_if_blocked(results: Iterator[CheckResult]) -> Iterator[CheckResult]:
    failed = []
    for result in results:
        yield result
        if result.blocking and not result.passed:
            failed.append(result)
    _raise_for(failed)


def _raise_for(failed: list[CheckResult]) -> None:
    if failed:
        raise TableError(
            ", ".join(sorted({result.asset for result in failed})),
            expected="that all blocking checks pass",
            found="; ".join(f"{result.name} of {result.asset}: {result.description}" for result in failed),
            hint="Ingest the delivery again; if that doesn't help, please report it.",
        )


def _compare_unwritten_tables(context: IngestContext, selection: _Selection, inspection: Inspection) -> None:
    """Refuse to log a delivery if a table that this step hasn't written holds an earlier state of it.

    Such a table may have as many rows as the source, so the records are compared. A row of the same files in the log
    says that all tables were written from them.
    """
    contract, files = context.contract, inspection.files
    unwritten = {table.folder for table in contract.tables if table not in selection.tables}
    logged = delivery_log.read(context.tables, contract, inspection.delivery) if unwritten else None
    if not unwritten or (logged is not None and logged["source_fingerprint"] == files.fingerprint):
        return
    for folder in contract.folders:
        if folder.name not in unwritten:
            continue
        comparison = compare(context, inspection, folder)
        if not comparison.equal:
            tables = [table for table in contract.tables_of(folder.name) if table not in selection.tables]
            raise TableError(
                ", ".join(contract.address(table) for table in tables),
                expected=f"the records of delivery {inspection.delivery} as they are in {folder.name}",
                found=f"other records, for instance {'; '.join(comparison.examples)}",
                hint="The delivery was not logged. Materialise these tables together with the delivery log.",
            )


def _folders(context: IngestContext, inspection: Inspection, selection: _Selection) -> Iterator[Materialization]:
    for folder in selection.folders:
        address = context.contract.landing_address(folder.name)
        yield Materialization(address, _folder_metadata(context, inspection, folder))


def _folder_checks(contract: Contract, inspection: Inspection, selection: _Selection) -> Iterator[CheckResult]:
    for folder, name in product(contract.folders, FOLDER_CHECKS):
        address = contract.landing_address(folder.name)
        if f"{address}:{name}" not in selection.folder_checks:
            continue
        blocking = name in BLOCKING
        found = [
            violation
            for violation in inspection.violations
            if violation.is_warning is not blocking and _concerns(contract, violation, folder)
        ]
        yield CheckResult(
            address,
            name,
            passed=not found,
            blocking=blocking,
            description="\n".join(map(str, found)),
            metadata={"violations": _violation_table(found)} if found else {},
        )


def _concerns(contract: Contract, violation: Violation, folder: Folder) -> bool:
    """Whether a folder's checks report a violation; those outside all folders are reported with the first folder."""
    if violation.folder == folder.name:
        return True
    known = {one.name for one in contract.folders}
    return violation.folder not in known and folder == contract.folders[0]


def _violation_table(violations: list[Violation]) -> Value:
    names = ("kind", "folder", "file", "column", "expected", "found")
    return steps.table(
        [(name, "string") for name in names],
        [{name: str(getattr(violation, name) or "") for name in names} for violation in violations],
    )


def _folder_metadata(context: IngestContext, inspection: Inspection, folder: Folder) -> dict[str, Value]:
    files = inspection.files.files[folder.name]
    sources = inspection.sources[folder.name]
    path = delivery_path(context.contract, inspection.delivery, folder.name)
    return {
        "dagster/partition_row_count": steps.integer(sum(source.rows for source in sources)),
        "bytes": steps.integer(sum(file.size for file in files)),
        "file_count": steps.integer(len(files)),
        "dagster/uri": steps.text(context.landing.uri(path)),
        "fingerprint": steps.text(inspection.files.fingerprint),
        "files": steps.table(
            [("file", "string"), ("bytes", "int"), ("modified", "string")],
            [{"file": file.name, "bytes": file.size, "modified": file.modified.isoformat()} for file in files],
        ),
        "dagster/column_schema": steps.column_schema([(item.name, str(item.type)) for item in sources[0].schema]),
    }


def _table_metadata(context: IngestContext, inspection: Inspection, table: Table) -> dict[str, Value]:
    address = context.contract.address(table)
    partition = context.tables.partition(address, DELIVERY_COLUMN, inspection.delivery, limit=_PREVIEW_ROWS)
    metadata = {
        "dagster/partition_row_count": steps.integer(inspection.rows[table.name]),
        "bytes": steps.integer(partition.size),
        "delta_version": steps.integer(partition.version),
        "dagster/uri": steps.text(context.lake.uri(address)),
        "dagster/column_lineage": table_lineage(context.contract, table),
    }
    rows = partition.first_rows
    return {**metadata, "preview": steps.markdown(_markdown_table(rows))} if rows else metadata


def table_lineage(contract: Contract, table: Table) -> Value:
    """The columns of the delivery's folder from which each column of a table is made."""
    assert table.folder is not None, table
    folder = contract.landing_address(table.folder)
    return steps.column_lineage(
        {column: [(folder, source) for source in sources] for column, sources in column_lineage(table).items()}
    )


def _write_log(context: IngestContext, selection: _Selection, inspection: Inspection, run: RunInfo) -> Materialization:
    """Write the delivery into the log; a row that says the same of files, tables and code is left as it is."""
    contract, files = context.contract, inspection.files
    row: dict[str, Any] = {
        "contract_version": contract.version,
        "rows": inspection.rows,
        "engine": run.engine,
        "orchestrator": run.orchestrator,
        "run_id": run.run_id,
        "ingested_at": datetime.now(UTC),
        "source_files": len(files.all_files),
        "source_bytes": files.size,
        "source_fingerprint": files.fingerprint,
        "code_version": __version__,
        "code_commit": run.commit,
    }
    compared = ["contract_version", "rows", "source_fingerprint"]
    if set(selection.tables) == set(contract.tables):  # else other code may have written the others
        compared += ["code_version", "code_commit"]
    logged = delivery_log.read(context.tables, contract, inspection.delivery)
    if logged is not None and all(logged[name] == row[name] for name in compared):
        row = logged
        delivery_log.write_marker(context, inspection.delivery)  # a step that was killed may have written only the row
    else:
        delivery_log.write(context, inspection.delivery, row)
    address = contract.address(contract.log)
    return Materialization(
        address,
        {
            "dagster/uri": steps.text(context.lake.uri(address)),
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


def _markdown_table(rows: list[dict[str, object]]) -> str:
    def cell(value: object) -> str:
        string = "" if value is None else str(value)
        return (string if len(string) <= 60 else f"{string[:59]}…").replace("|", "\\|").replace("\n", " ")

    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    return "\n".join([*lines, *("| " + " | ".join(map(cell, row.values())) + " |" for row in rows)])
