"""A step on a cluster: what `databricks/run_step.py` does for Dagster Pipes, for Airflow and for a script.

    run_step.py --asset raw/dsi/sensor --delivery 2026-01-31-06:00:00 --landing-root s3://… --lake-root s3://…

It needs neither Dagster nor Airflow. If Dagster Pipes has started it, it reports its results there.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from biocloud_assets.curated.dsi.step import curated_step
from biocloud_assets.errors import DeliveryRefusedError, SettingsError, is_transient
from biocloud_assets.ingest.context import IngestContext, open_context
from biocloud_assets.ingest.step import all_checks, ingest_step
from biocloud_assets.lake import DataLake
from biocloud_assets.maintenance.step import maintenance_step
from biocloud_assets.raw import contract_of
from biocloud_assets.raw.dsi.contract import CONTRACT as DSI
from biocloud_assets.schema import Contract
from biocloud_assets.settings import Engine, Settings, set_region
from biocloud_assets.steps import STEP_SCRIPT, RunInfo, StepRequest, StepResult, log_results, to_message
from biocloud_assets.version import code_commit

if TYPE_CHECKING:
    from dagster_pipes import PipesContext
    from pyspark.sql import SparkSession

NOT_RETRYABLE = "biocloud: a retry can't help"
"""What a failed step writes in its output if a repetition can't help; Airflow's task then fails at once."""

RETRYABLE = "biocloud: a retry can help"
"""What a failed step writes in its output if the infrastructure has failed it."""


@dataclass(frozen=True)
class Roots:
    """Where a step reads and writes, and on which engine.

    Attributes:
        landing: the folder or `s3://` address that holds `<source>/<delivery>/`.
        lake: the folder or `s3://` address of the Delta lake.
        curated: the folder or `s3://` address of the curated layer, if the step needs it.
        files: the folder of the lake's files that aren't tables, in a volume of Unity Catalog, if there is one.
        catalog: the catalog of Unity Catalog, if there is one.
        engine: `sail`, `jvm` or `databricks`.
        s3_endpoint: the URL of an S3 other than Amazon's.
    """

    landing: str
    lake: str
    curated: str | None
    files: str | None
    catalog: str | None
    engine: Engine
    s3_endpoint: str | None


def run_step(request: StepRequest, roots: Roots, run: RunInfo) -> Iterator[StepResult]:
    """Run a step in this process.

    Args:
        request: assets and checks of one source, or assets of the curated layer, or the maintenance.
        roots: where it reads and writes.
        run: the run that the step belongs to.

    Yields:
        its results, each as soon as it is known.

    Raises:
        SettingsError: nothing is asked for, an address belongs to no source, or several sources are mixed.
        BiocloudError: as `ingest_step`, `curated_step` and `maintenance_step` say.
    """
    if request.maintain:
        yield from _maintenance_step(request, roots)
        return
    if not request.assets and not request.checks:
        raise SettingsError(
            STEP_SCRIPT, expected="--asset or --check", found="neither", hint="Name what to materialise."
        )
    addresses = [*request.assets, *(check.partition(":")[0] for check in request.checks)]
    curated = [address for address in addresses if address.startswith("curated/")]
    if curated and len(curated) == len(addresses):
        yield from curated_step(_context(DSI, roots), _curated(request, roots), request)
        return
    contract = contract_of(addresses[0])
    if contract is None or any(contract_of(address) != contract for address in addresses):
        raise SettingsError(
            STEP_SCRIPT,
            expected="addresses of one source, raw/<source>/<table>, or of curated/",
            found=", ".join(addresses),
            hint="Run one step for each source.",
        )
    yield from ingest_step(_context(contract, roots), request, run)


def _context(contract: Contract, roots: Roots) -> IngestContext:
    return open_context(
        contract,
        landing_root=roots.landing,
        lake_root=roots.lake,
        engine=roots.engine,
        s3_endpoint=roots.s3_endpoint,
        catalog=roots.catalog,
        files_root=roots.files,
    )


def _maintenance_step(request: StepRequest, roots: Roots) -> Iterator[StepResult]:
    if request.assets or request.checks:
        raise SettingsError(
            STEP_SCRIPT,
            expected="--maintain, which is for all tables, without --asset and --check",
            found=", ".join((*request.assets, *request.checks)),
            hint="Run two steps.",
        )
    lake = DataLake.at(roots.lake, endpoint=roots.s3_endpoint)
    yield from maintenance_step(
        roots.engine, lambda: _session(roots), lake, request, roots.catalog, roots.files is None
    )


def _session(roots: Roots) -> SparkSession:
    from biocloud_assets.spark.session import get_session

    return get_session(roots.engine, s3_endpoint=roots.s3_endpoint)


def _curated(request: StepRequest, roots: Roots) -> DataLake:
    if roots.curated is None:
        raise SettingsError(
            "--curated-root",
            expected="the folder or s3:// address of the curated layer",
            found="none",
            hint=f"{request.assets[0]} is stored there.",
        )
    return DataLake.at(roots.curated, endpoint=roots.s3_endpoint)


def main(arguments: Sequence[str]) -> None:
    """Run a step as the arguments say, and report its results.

    Args:
        arguments: those of the command line; `--help` lists them.

    Raises:
        BiocloudError: the step failed. A cluster takes any exception for a failed run, and shows its message as the
            reason.
    """
    given = _parser().parse_args(arguments)
    if given.region is not None:
        set_region(given.region)
    if given.doctor:
        _probe(given)
        return
    request = _request(given)
    roots = Roots(
        given.landing_root,
        given.lake_root,
        given.curated_root,
        given.files_root,
        given.catalog,
        given.engine,
        Settings().s3_endpoint,
    )
    run = RunInfo(given.orchestrator, given.run_id, given.engine, code_commit())
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stdout, force=True)
    for verbose in ("py4j", "pyspark", "botocore", "boto3", "urllib3"):
        logging.getLogger(verbose).setLevel(logging.WARNING)
    log = logging.getLogger("biocloud")
    with _pipes() as pipes:
        try:
            for result in log_results(run_step(request, roots, run), log):
                if pipes is not None:
                    pipes.report_custom_message(to_message(result))
        except Exception as error:
            retryable = is_transient(error)
            if pipes is not None:
                pipes.report_custom_message({"error": _error_message(error, retryable)})
            log.error(RETRYABLE if retryable else NOT_RETRYABLE)
            if not retryable:
                error.args = (f"{error} [{NOT_RETRYABLE}]",)
            raise


def _probe(given: argparse.Namespace) -> None:
    """Print what a step finds on this cluster, for `biocloud doctor --cluster`."""
    from biocloud_assets.doctor.step import Probe, report

    roots = given.landing_root, given.lake_root, given.curated_root
    endpoint = Settings().s3_endpoint
    report(Probe(*roots, given.catalog, given.engine, endpoint, given.region, given.files_root))


def _error_message(error: Exception, retryable: bool) -> dict[str, object]:
    message: dict[str, object] = {"message": str(error), "retryable": retryable}
    if isinstance(error, DeliveryRefusedError):
        message["refused"] = {"delivery": error.delivery, "summary": error.summary, "fingerprint": error.fingerprint}
    return message


def _request(given: argparse.Namespace) -> StepRequest:
    """The request of the arguments; `--check` with an address alone selects all checks of that asset."""
    checks: list[str] = []
    for name in given.check:
        contract = contract_of(name)
        if ":" in name or contract is None:
            checks.append(name)
        else:
            checks += [check for check in all_checks(contract) if check.partition(":")[0] == name] or [name]
    return StepRequest(
        tuple(given.asset),
        tuple(checks),
        given.delivery,
        given.run_date,
        given.retention_days,
        maintain=given.maintain,
        dry_run=given.dry_run,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        STEP_SCRIPT, description="Materialise assets, or check them.", formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--asset", action="append", default=[], metavar="ADDRESS", help="an asset to materialise; repeatable")
    add("--check", action="append", default=[], metavar="ADDRESS[:NAME]", help="an asset check to run; repeatable")
    add("--delivery", help="the delivery, yyyy-mm-dd-HH:MM:SS")
    add("--run-date", help="the day of the curated layer, yyyy-mm-dd")
    add("--retention-days", type=int, help="for curated/dsi/retention and --maintain: what is kept")
    add("--maintain", action="store_true", help="maintain all tables of the lake: compaction, vacuum, old log files")
    add("--dry-run", action="store_true", help="for curated/dsi/… and --maintain: do everything but write and delete")
    add("--landing-root", required=True, help="the folder or s3:// address that holds <source>/<delivery>/")
    add("--lake-root", required=True, help="the folder or s3:// address of the Delta lake")
    add("--curated-root", help="the folder or s3:// address of the curated layer")
    add("--files-root", help="the folder of the lake's files that aren't tables, in a volume of Unity Catalog")
    add("--catalog", type=lambda name: name or None, help="the catalog of Unity Catalog that has the tables")
    add("--engine", choices=get_args(Engine), default="databricks", help="what runs the Spark code")
    add("--orchestrator", default="script", help="what starts the step; the delivery log records it")
    add("--region", help="the AWS region of the buckets, if the process has no AWS_REGION")
    add("--doctor", action="store_true", help="only say what a step finds here: `biocloud doctor` starts it")
    add("--dagster-pipes-context", help=argparse.SUPPRESS)
    add("--dagster-pipes-messages", help=argparse.SUPPRESS)
    add("--run-id", default="", help="the orchestrator's identifier of the run; the delivery log records it")
    return parser


@contextmanager
def _pipes() -> Iterator[PipesContext | None]:
    """The connection to Dagster, if Dagster Pipes has started the step."""
    try:
        import dagster_pipes
    except ImportError:
        yield None
        return
    parameters: dagster_pipes.PipesParamsLoader = dagster_pipes.PipesEnvVarParamsLoader()
    if not parameters.is_dagster_pipes_process():
        parameters = dagster_pipes.PipesCliArgsParamsLoader()  # serverless compute has no environment variables
    if not parameters.is_dagster_pipes_process():
        yield None
        return
    writer: dagster_pipes.PipesMessageWriter
    if "bucket" in parameters.load_messages_params():
        import boto3

        s3 = boto3.client("s3", endpoint_url=Settings().s3_endpoint)
        writer = dagster_pipes.PipesS3MessageWriter(client=s3, interval=1)
    else:
        writer = dagster_pipes.PipesUnityCatalogVolumesMessageWriter(interval=1)
    with dagster_pipes.open_dagster_pipes(message_writer=writer, params_loader=parameters) as context:
        yield context
