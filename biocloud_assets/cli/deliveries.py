"""`biocloud deliveries`: the deliveries of all sources with their states."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from biocloud_assets.cli.context import source_of
from biocloud_assets.cli.home import refusals, register
from biocloud_assets.cli.output import out, styled
from biocloud_assets.ingest import delivery_log
from biocloud_assets.ingest.delivery import discover
from biocloud_assets.ingest.discovery import list_arrivals, lookback_start
from biocloud_assets.lake import DataLake
from biocloud_assets.raw import contracts
from biocloud_assets.schema import Contract
from biocloud_assets.settings import Settings
from biocloud_assets.spark.table_reader import DeltaRsReader


@dataclass(frozen=True)
class DeliveryState:
    """The state of one delivery.

    Attributes:
        delivery: its name.
        state: `arriving`, `complete`, `late` (only a person ingests it), `refused` or `ingested`.
        reason: why it has that state.
    """

    delivery: str
    state: str
    reason: str = ""


def deliveries(*, as_json: bool, names: list[str]) -> None:
    """Print the deliveries with their states.

    Args:
        as_json: as data instead of a table.
        names: deliveries that are registered as partitions first.

    Raises:
        DeliveryNameError: one isn't the name of a delivery, or there is none of that name.
        LakeError: the landing zone or the lake can't be read.
    """
    settings = Settings.load()
    register(settings, [(source_of(settings, name), name) for name in names])
    landing = DataLake.at(settings.landing, endpoint=settings.s3_endpoint)
    lake = DataLake.at(settings.lake, endpoint=settings.s3_endpoint)
    listed = {contract: list(states(settings, landing, lake, contract)) for contract in contracts()}
    if as_json:
        rows = [
            {"source": contract.source, "delivery": one.delivery, "state": one.state, "reason": one.reason}
            for contract, found in listed.items()
            for one in found
        ]
        out.print_json(json.dumps(rows))
        return
    for contract, found in listed.items():
        table = Table("Delivery", "State", "Why", box=None, pad_edge=False)
        for one in found:
            table.add_row(one.delivery, styled(one.state), escape(one.reason))
        out.print(table if found else f"No deliveries below {landing.uri(contract.source)}.")
        for other in discover(landing, contract)[1]:
            out.print(f"[yellow]not a delivery:[/] {escape(other)} (a name is yyyy-mm-dd-HH:MM:SS)")


def states(settings: Settings, landing: DataLake, lake: DataLake, contract: Contract) -> Iterator[DeliveryState]:
    """The deliveries of a source with their states, oldest first.

    It asks Dagster once, and S3 for the files of those deliveries only that aren't ingested.

    Args:
        settings: of this process.
        landing: the landing zone.
        lake: the lake.
        contract: the contract of the source.
    """
    names, _ = discover(landing, contract)
    ingested = delivery_log.ingested(DeltaRsReader(lake), contract)
    start = lookback_start(ingested, settings.lookback_days)
    pending = [name for name in names if name not in ingested]
    arrivals = {
        one.delivery: one for one in list_arrivals(landing, contract, pending, quiet_seconds=settings.quiet_seconds)
    }
    refused = refusals(settings, contract) if pending else {}
    for name in sorted({*names, *ingested}):
        if name in ingested:
            yield DeliveryState(name, "ingested", "" if name in names else "no longer in the landing zone")
            continue
        arrival = arrivals[name]
        fingerprint, reason = refused.get(name, ("", ""))
        if fingerprint == arrival.files.fingerprint:
            yield DeliveryState(name, "refused", reason)
        elif arrival.incomplete is not None:
            yield DeliveryState(name, "arriving", arrival.incomplete.removeprefix("arriving: "))
        elif name < settings.not_before:
            yield DeliveryState(
                name,
                "late",
                f"before {settings.not_before}, the first day that `not_before` of {settings.env} allows, so no sensor "
                f"takes it: biocloud ingest {name}",
            )
        elif name <= start:
            yield DeliveryState(
                name,
                "late",
                f"older than the look-back window of {settings.lookback_days} days, so no sensor takes it: "
                f"biocloud ingest {name}",
            )
        else:
            yield DeliveryState(name, "complete", "not ingested yet")
