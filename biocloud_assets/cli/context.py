"""What the commands work with, from the settings."""

from __future__ import annotations

from biocloud_assets.errors import DeliveryNameError
from biocloud_assets.ingest import context, delivery_log
from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.ingest.delivery import delivery_path, parse_name
from biocloud_assets.lake import DataLake
from biocloud_assets.raw import contracts
from biocloud_assets.schema import Contract
from biocloud_assets.settings import Settings
from biocloud_assets.spark.table_reader import DeltaRsReader


def open_context(settings: Settings, contract: Contract) -> IngestContext:
    """What an ingest of a source works with."""
    return context.open_context(
        contract,
        landing_root=settings.landing,
        lake_root=settings.lake,
        engine=settings.engine,
        s3_endpoint=settings.s3_endpoint,
        catalog=settings.catalog,
    )


def source_of(settings: Settings, delivery: str) -> Contract:
    """The source that has a delivery of a name, in the landing zone or in its log.

    Raises:
        DeliveryNameError: the name is not the name of a delivery, or no source, or more than one, has it.
    """
    parse_name(delivery)
    landing = DataLake.at(settings.landing, endpoint=settings.s3_endpoint)
    tables = DeltaRsReader(DataLake.at(settings.lake, endpoint=settings.s3_endpoint))
    found = [
        contract
        for contract in contracts()
        if delivery in landing.list(contract.source).folders
        or delivery_log.read(tables, contract, delivery) is not None
    ]
    if len(found) == 1:
        return found[0]
    places = ", ".join(landing.uri(delivery_path(contract, delivery)) for contract in contracts())
    raise DeliveryNameError(
        f"delivery {delivery}",
        expected=f"a folder at {places}",
        found="none" if not found else "one in each of " + ", ".join(contract.source for contract in found),
        hint="`biocloud deliveries` lists the deliveries.",
    )
