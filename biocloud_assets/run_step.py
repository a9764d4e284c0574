"""A step as one call: what `databricks/run_step.py` does on a cluster, for Dagster Pipes, for Airflow and by hand.

What belongs here: a step's arguments, which room does it, and how it reports without Dagster. What doesn't: the steps
themselves (`raw.dsi.steps`, …), and submitting one (`launch`, and the DAGs that `airflow` makes).

    run_step.py --step raw/dsi/sensor --delivery 2026-01-31-06:00:00 --landing-root s3://… --lake-root s3://…

It needs neither Dagster nor Airflow. Where Dagster Pipes asked for it, it sends its reports there.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, get_args

from pyspark.errors import AnalysisException

from biocloud_assets.curated.dsi import steps as delivered_back
from biocloud_assets.errors import BiocloudError, SettingsError, TableError
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi import steps as raw
from biocloud_assets.raw.dsi.ingest import Place
from biocloud_assets.settings import Engine, Settings
from biocloud_assets.spark.session import get_session
from biocloud_assets.steps import CheckReport, Report, Run, Sighting

if TYPE_CHECKING:
    from dagster_pipes import PipesContext

Told = Report | CheckReport | Sighting
"""What a step yields."""

SCRIPT = "databricks/run_step.py"
"""Where the script lies in the repository."""


@dataclass(frozen=True)
class Step:
    """What is to be done.

    Attributes:
        assets: the addresses of the assets to make, `raw/dsi/sensor`.
        checks: the checks to make, `raw/dsi/sensor:key`; without a name after the colon, all of the asset's.
        delivery: the delivery that it is about.
        run_date: the day that it is about, `yyyy-mm-dd`.
        days: for the cleanup of the curated layer: how many days before the run date are kept.
        dry_run: do all but write and delete, where a step knows how.
    """

    assets: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    delivery: str | None = None
    run_date: str | None = None
    days: int | None = None
    dry_run: bool = False

    def arguments(self) -> list[str]:
        """The same as arguments of the script."""
        found = [argument for address in self.assets for argument in ("--step", address)]
        found += [argument for name in self.checks for argument in ("--check", name)]
        for name, value in (("--delivery", self.delivery), ("--run-date", self.run_date), ("--days", self.days)):
            found += [] if value is None else [name, str(value)]
        return [*found, "--dry-run"] if self.dry_run else found


def perform(step: Step, place: Place, curated: DataLake | None, who: Run) -> Iterator[Told]:
    """Do a step, here and now.

    Args:
        step: what is to be done.
        place: where.
        curated: the lake of the curated layer; none will do where no asset of it is made.
        who: who asked for it.

    Yields:
        what it made and what its checks found, as soon as that is known.

    Raises:
        BiocloudError: of the kind that the room's steps raise.
    """
    if not step.assets and not step.checks:
        raise SettingsError(SCRIPT, expected="--step or --check", found="neither", hint="Say what is to be done.")
    later = [address for address in step.assets if address.startswith("curated/")]
    if earlier := [address for address in step.assets if address not in later]:
        yield from raw.run(place, earlier, step.delivery or "", who)
    if later:
        if curated is None:
            raise SettingsError(
                "--curated-root",
                expected="the folder or s3:// address of the curated layer",
                found="nothing",
                hint=f"{later[0]} lies there.",
            )
        day = step.run_date or ""
        yield from delivered_back.run(place.spark, place.lake, curated, later, day, step.days, dry_run=step.dry_run)
    if step.checks:
        yield from raw.check(place, step.checks, step.delivery)


def main(arguments: Sequence[str]) -> None:
    """Do a step as the arguments say, and report it.

    Args:
        arguments: those of the command line; `--help` lists them.

    Raises:
        BiocloudError: the step failed, or one of its blocking checks did. A cluster takes any exception for a failed
            run, and shows its message as the reason.
    """
    given = _parser().parse_args(arguments)
    step = Step(
        tuple(given.step), tuple(given.check), given.delivery, given.run_date, given.days, dry_run=given.dry_run
    )
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stdout, force=True)
    for noisy in ("py4j", "pyspark", "botocore", "boto3", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    endpoint = Settings().s3_endpoint
    with _pipes() as pipes:
        log = pipes.log if pipes is not None else logging.getLogger("biocloud")
        try:
            place = Place(
                get_session(given.engine, s3_endpoint=endpoint),
                DataLake.at(given.landing_root, endpoint=endpoint),
                DataLake.at(given.lake_root, endpoint=endpoint),
                given.catalog,
            )
            curated = DataLake.at(given.curated_root, endpoint=endpoint) if given.curated_root else None
            who = Run(given.engine, given.orchestrator, given.run_id)
            failed = []
            for report in perform(step, place, curated, who):
                _tell(report, log)
                failed += [check for check in checks_of(report) if check.blocking and not check.passed]
                if pipes is not None:
                    pipes.report_custom_message(to_message(report))
        except (BiocloudError, AnalysisException) as error:
            if pipes is not None:  # tells Dagster that another try won't mend it
                pipes.report_custom_message({"error": str(error)})
            raise
    if failed and pipes is None:  # Dagster itself keeps back what depends on a blocking check
        raise TableError(
            ", ".join(sorted({check.asset for check in failed})),
            expected="that all blocking checks pass",
            found="\n".join(["", *(f"  - {check.asset}, {check.name}: {check.description}" for check in failed), ""]),
            hint="Nothing that depends on it may go on. Mend what it says, and run it again.",
        )


def to_message(report: Told) -> dict[str, Any]:
    """A report as a message of Dagster Pipes. (Its own messages for assets and checks have no description.)"""
    return {type(report).__name__: asdict(report)}


def from_message(message: dict[str, Any]) -> Told | None:
    """The report that a message of Dagster Pipes holds, if it holds one."""
    match message:
        case {"Report": content}:
            checks = tuple(CheckReport(**check) for check in content["checks"])
            return Report(content["asset"], content["metadata"], checks)
        case {"CheckReport": content}:
            return CheckReport(**content)
        case {"Sighting": content}:
            return Sighting(**content)
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        SCRIPT, description="Make assets, or check them.", formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--step", action="append", default=[], metavar="ADDRESS", help="an asset to make, raw/dsi/sensor; repeatable")
    add("--check", action="append", default=[], metavar="ADDRESS[:NAME]", help="an asset to check; repeatable")
    add("--delivery", help="the delivery, yyyy-mm-dd-HH:MM:SS")
    add("--run-date", help="the day that the curated layer is about, yyyy-mm-dd")
    add("--days", type=int, help="for curated/dsi/days: how many days before the run date are kept")
    add("--dry-run", action="store_true", help="for curated/dsi/…: do all but write and delete")
    add("--landing-root", required=True, help="the folder or s3:// address that holds dsi/<delivery>/")
    add("--lake-root", required=True, help="the folder or s3:// address of the Delta lake")
    add("--curated-root", help="the folder or s3:// address of the curated layer; for curated/dsi/…")
    add("--catalog", help="the catalog of Unity Catalog in which tables are registered")
    add("--engine", choices=get_args(Engine), default="databricks", help="what runs the Spark code")
    add("--orchestrator", default="by hand", help="who asks: dagster, airflow; it goes into the delivery log")
    add("--run-id", default="", help="the orchestrator's identifier of the run; it goes into the delivery log")
    return parser


def checks_of(report: Told) -> tuple[CheckReport, ...]:
    """The checks that a report tells of."""
    match report:
        case CheckReport():
            return (report,)
        case Report():
            return report.checks
    return ()


def level_of(check: CheckReport) -> int:
    """How loud a log is to tell of a check."""
    return logging.INFO if check.passed else logging.ERROR if check.blocking else logging.WARNING


def _tell(report: Told, log: logging.Logger) -> None:
    """Put what a step reports into its log, for those who read it there."""
    if not isinstance(report, CheckReport):
        plain = {"int", "bool"}
        numbers = [f"{k} {v['raw_value']}" for k, v in report.metadata.items() if v["type"] in plain]
        log.info("%s: %s", report.asset, ", ".join(numbers))
    for check in checks_of(report):
        verdict = "passed" if check.passed else "FAILED"
        log.log(level_of(check), "%s, %s: %s %s", check.asset, check.name, verdict, check.description)


@contextmanager
def _pipes() -> Iterator[PipesContext | None]:
    """The way back to Dagster, if Dagster Pipes asked for the step."""
    try:
        import dagster_pipes
    except ImportError:
        yield None
        return
    parameters = dagster_pipes.PipesEnvVarParamsLoader()
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
