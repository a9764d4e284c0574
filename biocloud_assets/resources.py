"""The Dagster resource with the landing zone, the lake, the curated layer and the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import dagster as dg

from biocloud_assets.ingest.context import IngestContext, open_context
from biocloud_assets.lake import DataLake
from biocloud_assets.schema import Contract
from biocloud_assets.settings import Engine, Settings
from biocloud_assets.spark.session import get_session
from biocloud_assets.spark.table_reader import DeltaRsReader, TableReader

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class LakehouseResource(dg.ConfigurableResource):
    """Where deliveries land, where the tables are, and the engine that writes them.

    Attributes:
        environment: `local`, `development` or `production`.
        landing_root: the folder or `s3://` address that holds `<source>/<delivery>/`.
        lake_root: the folder or `s3://` address of the Delta lake.
        curated_root: the folder or `s3://` address of the curated layer.
        engine: `sail`, `jvm` or `databricks`.
        s3_endpoint: the URL of an S3 other than Amazon's.
        catalog: the catalog of Unity Catalog in which the tables are registered.
    """

    environment: str = "local"
    landing_root: str
    lake_root: str
    curated_root: str
    engine: str
    s3_endpoint: str | None = None
    catalog: str | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> LakehouseResource:
        """The resource that the settings describe."""
        return cls(
            environment=settings.env,
            landing_root=settings.landing,
            lake_root=settings.lake,
            curated_root=settings.curated,
            engine=settings.engine,
            s3_endpoint=settings.s3_endpoint,
            catalog=settings.catalog,
        )

    def landing(self) -> DataLake:
        """The landing zone."""
        return DataLake.at(self.landing_root, endpoint=self.s3_endpoint)

    def lake(self) -> DataLake:
        """The lake."""
        return DataLake.at(self.lake_root, endpoint=self.s3_endpoint)

    def tables(self) -> TableReader:
        """Reads the tables without an engine."""
        return DeltaRsReader(self.lake())

    def curated(self) -> DataLake:
        """The curated layer."""
        return DataLake.at(self.curated_root, endpoint=self.s3_endpoint)

    def ingest_context(self, contract: Contract) -> IngestContext:
        """What an ingest of a source works with."""
        return open_context(
            contract,
            landing_root=self.landing_root,
            lake_root=self.lake_root,
            engine=self.checked_engine,
            s3_endpoint=self.s3_endpoint,
            catalog=self.catalog,
        )

    @property
    def checked_engine(self) -> Engine:
        """The engine; the settings have checked its name."""
        return cast(Engine, self.engine)

    def session(self) -> SparkSession:
        """The Spark session of this process; its engine is started if need be."""
        return get_session(self.checked_engine, s3_endpoint=self.s3_endpoint)
