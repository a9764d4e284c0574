"""The probe on a cluster, `databricks/run_step.py --doctor`: what a step finds there.

It writes to the folder `_doctor` below the lake's root, and below that of the lake's files, and to nothing else. Each
finding is a line of the output.
"""

from __future__ import annotations

import json
import os
import platform
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from biocloud_assets import __version__
from biocloud_assets.doctor.findings import Finding, brief, failed, ok, warning
from biocloud_assets.lake import DataLake
from biocloud_assets.raw import contracts
from biocloud_assets.settings import Engine
from biocloud_assets.spark.table_reader import table_name

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FOLDER = "_doctor"
"""The folder below the lake's root that the probe writes to, and deletes."""

_FILE = f"{FOLDER}/2026-01-31-06:00:00"
"""A file named as the marker of a delivery."""

_Attempt = tuple[str, Callable[[], object]]

_PREFIX = "biocloud doctor: "
_PACKAGES = ("pyspark", "pyarrow", "pydantic", "deltalake", "boto3", "dagster-pipes")


@dataclass(frozen=True)
class Probe:
    """What is probed.

    Attributes:
        landing: the root of the landing zone.
        lake: the root of the lake.
        curated: the root of the curated layer.
        catalog: the catalog of Unity Catalog, if there is one.
        engine: what `spark` is.
        s3_endpoint: the URL of an S3 other than Amazon's.
        region: the region of the environment.
        files: the folder of the lake's files that aren't tables, in a volume; a step then has no other access to the
            lake's files, and `_doctor` stays.
    """

    landing: str
    lake: str
    curated: str | None
    catalog: str | None
    engine: Engine
    s3_endpoint: str | None
    region: str | None
    files: str | None = None


def report(probe: Probe) -> None:
    """Run the probe, and print a line for each finding.

    Args:
        probe: where to read and write.
    """
    for check in (_versions, _region, _listing, _files, _spark):
        try:
            for finding in check(probe):
                print(_PREFIX + json.dumps(asdict(finding)), flush=True)
        except Exception as error:  # what each check expects is a finding; anything else must not stop the others
            text = brief(error)
            finding = failed(f"cluster: {check.__name__.strip('_')}", f"{type(error).__name__}: {text}", _ADVICE)
            print(_PREFIX + json.dumps(asdict(finding)), flush=True)


_ADVICE = "See the log of the run."


def parse(log: str) -> Iterator[Finding]:
    """The findings in the output of a run.

    Args:
        log: the output; lines that aren't findings are left out.
    """
    for line in log.splitlines():
        if line.startswith(_PREFIX):
            yield Finding(**json.loads(line.removeprefix(_PREFIX)))


def _versions(probe: Probe) -> Iterator[Finding]:
    """The modules of a step are imported already: `run_step` does."""
    found = [f"Biocloud {__version__}", f"Python {platform.python_version()}"]
    if runtime := os.environ.get("DATABRICKS_RUNTIME_VERSION"):
        found.append(f"Databricks {runtime}")
    missing = []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    # On Databricks the runtime's own Spark is no installed package.
    missing = [package for package in missing if package != "pyspark"]
    name = "cluster: versions"
    if missing:
        yield warning(name, f"{', '.join(found)}; no {', '.join(missing)}", "Add them to libraries if a step fails.")
    else:
        yield ok(name, ", ".join(found))


def _region(probe: Probe) -> Iterator[Finding]:
    found = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if found is None or found != (probe.region or found):
        advice = "A policy or spark_env_vars sets another AWS_REGION than the key region."
        yield failed("cluster: region", f"{found or 'none'}, not {probe.region}", advice)
    else:
        yield ok("cluster: region", found)


def _listing(probe: Probe) -> Iterator[Finding]:
    from biocloud_assets.errors import LakeError

    lake_files = ("lake_root", probe.lake) if probe.files is None else ("files_root", probe.files)
    for name, root in (("landing_root", probe.landing), lake_files, ("curated_root", probe.curated)):
        if root is None:
            continue
        check = f"cluster: listing of {name}"
        advice = "The instance profile or the volume has to give access: docs/databricks.md."
        try:
            lake = DataLake.at(root, endpoint=probe.s3_endpoint)
            listing = lake.list()
            exists = bool(listing.folders or listing.files) or lake.exists()
        except LakeError as error:
            yield failed(check, f"{error.thing}: {error.found}", advice)
            continue
        if exists:
            yield ok(check, f"{root}: {len(listing.folders)} folders, {len(listing.files)} files")
        else:
            yield failed(check, f"there is no {root}", advice)


def _files(probe: Probe) -> Iterator[Finding]:
    """A file as a step writes it beside the tables.

    The documentation of volumes doesn't say whether a file can be renamed over another one, or have colons in its name
    (https://docs.databricks.com/aws/en/volumes/volume-files).
    """
    name, root = ("lake_root", probe.lake) if probe.files is None else ("files_root", probe.files)
    lake = DataLake.at(root, endpoint=probe.s3_endpoint)
    yield from _attempts(f"cluster: file in {name}", _file(lake))


def _file(lake: DataLake) -> Iterator[_Attempt]:
    yield "write", lambda: lake.write(_FILE, b"first")
    yield "replace", lambda: lake.write(_FILE, b"second")
    yield "read", lambda: _expect("second", lake.read(_FILE).decode())
    yield "delete", lambda: _expect((), lake.delete_folder(FOLDER).failures)


def _spark(probe: Probe) -> Iterator[Finding]:
    from biocloud_assets.spark.session import get_session

    spark = get_session(probe.engine, s3_endpoint=probe.s3_endpoint)
    yield ok("cluster: Spark", spark.version)
    uri = f"{probe.lake.rstrip('/')}/{FOLDER}"
    if probe.catalog is None:
        yield from _attempts("cluster: Delta table by path", _by_path(spark, uri))
    else:
        table = table_name(f"raw/{contracts()[0].source}/{FOLDER}", probe.catalog)
        yield from _attempts("cluster: Delta table by name", _by_name(spark, table, uri))
    if probe.files is None:
        yield from _clean(DataLake.at(probe.lake, endpoint=probe.s3_endpoint))
    else:
        # https://docs.databricks.com/aws/en/tables/external: DROP TABLE leaves the files of an external table.
        yield ok("cluster: deletion of the probe", f"a few small files stay in {uri}; the next probe uses them again")


def _attempts(name: str, attempts: Iterator[_Attempt]) -> Iterator[Finding]:
    """The finding about statements that build on one another: the first that fails is the one to fix."""
    done = []
    for what, action in attempts:
        try:
            action()
        except Exception as error:
            text = brief(error)
            yield failed(f"{name}: {what}", f"{type(error).__name__}: {text}", "Compare with `biocloud grants`.")
            return
        done.append(what)
    yield ok(name, ", ".join(done))


def _by_path(spark: SparkSession, uri: str) -> Iterator[_Attempt]:
    yield "write", lambda: spark.range(3).write.format("delta").mode("overwrite").save(uri)
    yield "read", lambda: _expect(3, spark.read.format("delta").load(uri).count())


def _by_name(spark: SparkSession, name: str, uri: str) -> Iterator[_Attempt]:
    table, number = ".".join(f"`{part}`" for part in name.split(".")), uuid.uuid4().int % 2**62
    yield "CREATE SCHEMA", lambda: spark.sql(f"CREATE SCHEMA IF NOT EXISTS {table.rpartition('.')[0]}")
    create = f"CREATE TABLE IF NOT EXISTS {table} (id BIGINT) USING DELTA LOCATION '{uri}'"
    yield "CREATE TABLE … LOCATION", lambda: spark.sql(create)
    # A probe whose files couldn't be deleted has left rows, so its own number is in each row.
    yield "write", lambda: spark.sql(f"INSERT INTO {table} SELECT {number} AS id FROM range(3)")
    yield "read", lambda: _expect(3, spark.table(table).where(f"id = {number}").count())
    yield "delete", lambda: spark.sql(f"DELETE FROM {table} WHERE id = {number}")
    yield "DROP TABLE", lambda: spark.sql(f"DROP TABLE {table}")


def _expect(expected: object, found: object) -> None:
    if expected != found:
        raise ValueError(f"expected {expected}, found {found}")


def _clean(lake: DataLake) -> Iterator[Finding]:
    from biocloud_assets.errors import LakeError

    name = "cluster: deletion of the probe"
    try:
        failures = lake.delete_folder(FOLDER).failures
    except LakeError as error:
        failures = (error.found,)
    if failures:
        yield warning(name, "; ".join(failures), f"Delete {lake.uri(FOLDER)} by hand.")
    else:
        yield ok(name, lake.uri(FOLDER))
