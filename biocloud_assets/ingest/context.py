"""What an ingest works with: the contract, the landing zone, the lake and the engine."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from biocloud_assets.errors import SettingsError
from biocloud_assets.lake import DataLake
from biocloud_assets.schema import Contract, Table
from biocloud_assets.settings import Engine
from biocloud_assets.spark.table_reader import DeltaRsReader, EngineReader, TableReader

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

FILES = "_files"
"""The folder in the lake for files that aren't tables."""


@dataclass(frozen=True)
class IngestContext:
    """What an ingest works with.

    Attributes:
        contract: what the source delivers, and the tables that are made from it.
        landing: the landing zone.
        lake: the lake with the Delta tables.
        get_session: returns the Spark session of this process, and starts its engine if need be.
        files: the lake's files that aren't tables: normalised copies of delivered files, and the markers of ingested
            deliveries.
        tables: reads versions, schemas and small amounts of data of the tables.
        engine: what runs the Spark code.
        catalog: the catalog of Unity Catalog that has the tables, if there is one.
    """

    contract: Contract
    landing: DataLake
    lake: DataLake
    get_session: Callable[[], SparkSession]
    files: DataLake
    tables: TableReader
    engine: Engine
    catalog: str | None = None

    @cached_property
    def spark(self) -> SparkSession:
        """The Spark session; the engine is started when it is first needed."""
        return self.get_session()

    def start_engine(self) -> None:
        """Start the engine in another thread, so that it is ready when it is first needed."""

        def start() -> None:
            # An error is raised again, and reported, where the session is needed. A Databricks runtime gives its
            # session only to the thread that runs the script, so there is nothing to start there.
            with suppress(Exception):
                self.get_session()

        threading.Thread(target=start, name="start engine", daemon=True).start()

    @cached_property
    def staging(self) -> DataLake:
        """The folder that holds the steps' normalised copies of files; see `ingest.staging`."""
        return self.files.below("staging")

    def read_table(self, table: Table, *, version: int | None = None) -> DataFrame:
        """All rows of a table, as of a version or the latest."""
        from biocloud_assets.spark import delta

        return delta.read_table(
            self.spark, self.lake, self.contract.address(table), catalog=self.catalog, version=version
        )


def open_context(
    contract: Contract,
    *,
    landing_root: str,
    lake_root: str,
    engine: Engine,
    s3_endpoint: str | None,
    catalog: str | None,
    files_root: str | None = None,
) -> IngestContext:
    """The context of an ingest, for every caller: Dagster, the command line and the script on a cluster.

    Args:
        contract: the contract of the source.
        landing_root: the folder or `s3://` address that holds `<source>/<delivery>/`.
        lake_root: the folder or `s3://` address of the Delta lake.
        engine: `sail`, `jvm` or `databricks`.
        s3_endpoint: the URL of an S3 other than Amazon's.
        catalog: the catalog of Unity Catalog that has the tables, if there is one.
        files_root: the folder of the lake's other files, in a volume of Unity Catalog. With it, this process may have
            no access to the files of the tables, so the engine alone reads and writes them. Without it, these files
            are in the lake, in `_files`.

    Raises:
        LakeError: a root is neither a folder nor an `s3://` address.
        SettingsError: the lake's root has characters for which an engine writes to another path; or there is a
            `files_root`, but no catalog.
    """

    def start() -> SparkSession:
        from biocloud_assets.spark.session import get_session

        return get_session(engine, s3_endpoint=s3_endpoint)

    landing, lake = (DataLake.at(root, endpoint=s3_endpoint) for root in (landing_root, lake_root))
    _check_lake_root(lake.root)
    if files_root is None:
        return IngestContext(contract, landing, lake, start, lake.below(FILES), DeltaRsReader(lake), engine, catalog)
    if catalog is None:
        raise SettingsError(
            f"the lake's files in {files_root}",
            expected="a catalog of Unity Catalog, whose tables the engine reads and writes by name",
            found="none",
            hint="Give the catalog too, or don't use volumes.",
        )
    files = DataLake.at(files_root)
    return IngestContext(contract, landing, lake, start, files, EngineReader(start, catalog), engine, catalog)


def _check_lake_root(root: str) -> None:
    """Refuse a root that Sail 0.7 percent-encodes when it writes Delta, which results in another path."""
    unsupported = sorted(set(re.sub(r"[\w./:&'@+,=~-]", "", root, flags=re.ASCII)))
    if unsupported:
        raise SettingsError(
            f"the lake's root {root}",
            expected="plain letters, digits and . _ - + : & ' @ , = ~",
            found=f"{' '.join(map(repr, unsupported))} in it",
            hint="Set BIOCLOUD_LAKE_ROOT to another folder.",
        )
