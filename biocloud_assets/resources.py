"""What assets, checks and sensors work with, as Dagster resources.

What belongs here: making the data code's objects from the configuration that the UI shows. What doesn't: data code.
"""

from __future__ import annotations

import dagster as dg

from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi.ingest import Place
from biocloud_assets.settings import Engine, Settings
from biocloud_assets.spark.session import get_session


class LakehouseResource(dg.ConfigurableResource):
    """Where deliveries land, where tables lie, and the engine that gets them there.

    Attributes:
        landing_root: the folder or `s3://` address that holds `dsi/<delivery>/`.
        lake_root: the folder or `s3://` address of the Delta lake.
        curated_root: the folder or `s3://` address of the curated layer.
        engine: `sail`, `jvm` or `databricks`.
        s3_endpoint: the URL of an S3 other than Amazon's.
        catalog: the catalog of Unity Catalog in which the tables are registered.
    """

    landing_root: str
    lake_root: str
    curated_root: str
    engine: str
    s3_endpoint: str | None = None
    catalog: str | None = None

    @classmethod
    def of(cls, settings: Settings) -> LakehouseResource:
        """The resource that the settings describe."""
        return cls(
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

    def curated(self) -> DataLake:
        """The curated layer."""
        return DataLake.at(self.curated_root, endpoint=self.s3_endpoint)

    def place(self) -> Place:
        """The landing zone and the lake, and the session of this process; it is started if need be."""
        engine: Engine = self.engine  # type: ignore[assignment]  # checked by the settings
        return Place(get_session(engine, s3_endpoint=self.s3_endpoint), self.landing(), self.lake(), self.catalog)
