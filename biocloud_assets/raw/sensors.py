"""The sensors of a source: one asks for a run of each new delivery, one reports what was ingested without Dagster.

The delivery log says what is ingested; the tags of a run say for which files it was started and whether they were
refused. A delivery whose run the infrastructure has failed is requested again a few times a day, and a refused one as
soon as its files change.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from pydantic import BaseModel, ValidationError

from biocloud_assets.ingest import delivery_log
from biocloud_assets.ingest.delivery import delivery_path, discover
from biocloud_assets.ingest.discovery import Arrival, list_arrivals, lookback_start
from biocloud_assets.lake import DataLake
from biocloud_assets.launch.attempts import Attempts
from biocloud_assets.launch.launcher import FINGERPRINT_TAG, PARTITION_TAG
from biocloud_assets.launch.results import asset_key
from biocloud_assets.launch.script import NOT_IN_AIRFLOW
from biocloud_assets.raw.assets import Source
from biocloud_assets.resources import LakehouseResource
from biocloud_assets.schema import DELIVERY_COLUMN, Contract
from biocloud_assets.settings import Settings
from biocloud_assets.spark import delta_log

_INTERVAL_SECONDS = 60
_LISTED_PER_TICK = 60
_REQUESTS_PER_TICK = 20
_REPORTS_PER_TICK = 20
_NOTES_SHOWN = 20
_LATE_LISTED_EVERY = timedelta(hours=1)


class _Late(BaseModel):
    """The deliveries before the look-back window, or before `not_before`, that aren't ingested.

    Attributes:
        count: how many there are.
        newest: the newest of them.
        listed_at: when they were listed.
    """

    count: int = 0
    newest: str = ""
    listed_at: datetime = datetime.min.replace(tzinfo=UTC)


class _Cursor(BaseModel):
    """What a tick hands to the next one: less than 4 KB, however many deliveries there are.

    Attributes:
        after: the delivery after which the next tick goes on; "" to begin with the oldest one.
        seen: the fingerprints of the complete deliveries that the last tick has listed for the first time.
        late: the deliveries that no tick requests.
    """

    after: str = ""
    seen: dict[str, str] = {}
    late: _Late = _Late()


def build_delivery_sensor(source: Source, settings: Settings) -> dg.SensorDefinition:
    """The sensor that requests a run for each new complete delivery.

    A delivery is requested when two ticks in a row have found the same files, none of which has changed for a minute. A
    tick lists the names of the deliveries within the look-back window, and the files of at most 60 that aren't
    ingested; the next tick goes on with the following ones. It asks Dagster once for their runs.
    """
    contract = source.contract
    quiet_seconds = max(settings.quiet_seconds, _INTERVAL_SECONDS)

    @dg.sensor(
        name=f"{contract.source}_deliveries",
        job=source.job,
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING
        if settings.scheduler == "dagster"
        else dg.DefaultSensorStatus.STOPPED,
        description="Registers new complete deliveries as partitions and requests a run for each.",
    )
    def deliveries(context: dg.SensorEvaluationContext, lakehouse: LakehouseResource) -> dg.SensorResult:
        cursor = _read_cursor(context)
        landing = lakehouse.landing()
        ingested = delivery_log.ingested(lakehouse.tables(), contract)
        start = max(settings.not_before, lookback_start(ingested, settings.lookback_days))
        names, _ = discover(landing, contract, start_after=start)
        pending = [name for name in names if name not in ingested]
        chosen, after = _choose(pending, cursor)
        arrivals = list(list_arrivals(landing, contract, chosen, quiet_seconds=quiet_seconds))
        attempts = _attempts(context.instance, arrivals)
        requests: list[dg.RunRequest] = []
        notes: list[str] = []
        seen: dict[str, str] = {}
        for arrival in arrivals:
            delivery, fingerprint = arrival.delivery, arrival.files.fingerprint
            reason = arrival.incomplete or attempts[delivery].reason_to_wait(datetime.now(UTC))
            if reason is not None:
                notes.append(f"{delivery}: {reason}")
            elif fingerprint != cursor.seen.get(delivery) and not attempts[delivery].count:
                notes.append(f"{delivery}: new or changed, requested if the next tick finds the same files")
                seen[delivery] = fingerprint
            elif len(requests) == _REQUESTS_PER_TICK:
                notes.append(f"{delivery}: requested in one of the next ticks")
                seen[delivery] = fingerprint
            else:
                requests.append(_request(arrival, attempts[delivery]))
        late = _list_late(landing, contract, ingested, start, cursor.late)
        why = (
            f"before {start}, the first day that `not_before` allows"
            if start == settings.not_before
            else f"older than the look-back window of {settings.lookback_days} days"
        )
        summary = _summary(notes, left=len(pending) - len(arrivals), late=late, why_late=why)
        for note in summary if requests else ():
            context.log.info(note)
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else "; ".join(summary) or "no new deliveries",
            cursor=_Cursor(after=after, seen=seen, late=late).model_dump_json(exclude_defaults=True),
            dynamic_partitions_requests=[
                source.deliveries.build_add_request([one.partition_key for one in requests if one.partition_key])
            ],
        )

    return deliveries


def _read_cursor(context: dg.SensorEvaluationContext) -> _Cursor:
    """The cursor of the last tick; after one that was edited by hand or that another version wrote, a new one."""
    try:
        return _Cursor.model_validate_json(context.cursor) if context.cursor else _Cursor()
    except ValidationError:
        context.log.warning("The cursor can't be read, so this tick begins with the oldest delivery.")
        return _Cursor()


def _choose(pending: Sequence[str], cursor: _Cursor) -> tuple[list[str], str]:
    """The deliveries that a tick lists, and the one after which the next tick goes on."""
    again = [name for name in pending if name in cursor.seen][:_LISTED_PER_TICK]
    others = [name for name in pending if name not in cursor.seen]
    following = [name for name in others if name > cursor.after] or others
    chosen = following[: _LISTED_PER_TICK - len(again)]
    after = chosen[-1] if chosen and len(chosen) < len(following) else cursor.after if not chosen else ""
    return sorted([*again, *chosen]), after


def _list_late(landing: DataLake, contract: Contract, ingested: set[str], start: str, known: _Late) -> _Late:
    """The deliveries at or before the start of a tick; their names are listed once an hour."""
    now = datetime.now(UTC)
    if not start or now - known.listed_at < _LATE_LISTED_EVERY:
        return known if start else _Late()
    late = [name for name in discover(landing, contract)[0] if name <= start and name not in ingested]
    return _Late(count=len(late), newest=max(late, default=""), listed_at=now)


def _summary(notes: Sequence[str], *, left: int, late: _Late, why_late: str) -> list[str]:
    """What a tick says about the deliveries that it doesn't request."""
    summary = list(notes[:_NOTES_SHOWN])
    if len(notes) > _NOTES_SHOWN:
        summary.append(f"{len(notes) - _NOTES_SHOWN:,} more deliveries wait")
    if left > 0:
        summary.append(f"{left:,} more deliveries are listed in the next ticks")
    if late.count:
        summary.append(
            f"{late.count:,} {why_late}, which no tick requests: `biocloud ingest {late.newest}` ingests one"
        )
    return summary


def _request(arrival: Arrival, attempts: Attempts) -> dg.RunRequest:
    fingerprint = arrival.files.fingerprint
    return dg.RunRequest(
        # Two ticks on the same state give the same key, so one run; another attempt has another key.
        run_key=f"{arrival.delivery}/{fingerprint}/{attempts.count}",
        partition_key=arrival.delivery,
        tags={FINGERPRINT_TAG: fingerprint},
    )


def _attempts(instance: dg.DagsterInstance, arrivals: Sequence[Arrival]) -> dict[str, Attempts]:
    """The runs of any job that were started for the present files of each delivery: one query for all."""
    found: dict[str, list[dg.RunRecord]] = {arrival.delivery: [] for arrival in arrivals}
    fingerprints = {arrival.delivery: arrival.files.fingerprint for arrival in arrivals}
    if arrivals:
        tags: dict[str, Any] = {PARTITION_TAG: list(fingerprints)}
        for record in instance.get_run_records(dg.RunsFilter(tags=tags)):
            delivery = record.dagster_run.tags[PARTITION_TAG]
            if record.dagster_run.tags.get(FINGERPRINT_TAG) == fingerprints.get(delivery):
                found[delivery].append(record)
    return {delivery: Attempts(records) for delivery, records in found.items()}


class _ExternalCursor(BaseModel):
    """What a tick of the external ingest sensor hands to the next one.

    Attributes:
        since: the version of the delivery log up to which everything has been reported.
        until: the version at which the present pass began, which reports what has changed since then.
        after: the delivery after which the pass goes on; "" if none is in progress.
    """

    since: delta_log.Version | None = None
    until: delta_log.Version | None = None
    after: str = ""


def build_external_ingest_sensor(source: Source, settings: Settings) -> dg.SensorDefinition:
    """The sensor that reports what Airflow or a script has ingested; it starts no run."""
    contract = source.contract

    @dg.sensor(
        name=f"{contract.source}_external_ingests",
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING
        if settings.scheduler == "airflow"
        else dg.DefaultSensorStatus.STOPPED,
        description="Reports the deliveries that Airflow or a script has ingested, once each, as materialisations.",
        metadata={NOT_IN_AIRFLOW: "It tells Dagster what Airflow has done; Airflow knows that itself."},
    )
    def external_ingests(context: dg.SensorEvaluationContext, lakehouse: LakehouseResource) -> dg.SensorResult:
        try:
            cursor = _ExternalCursor.model_validate_json(context.cursor) if context.cursor else _ExternalCursor()
        except ValidationError:
            context.log.warning("The cursor can't be read, so this tick begins with the whole delivery log.")
            cursor = _ExternalCursor()
        lake = lakehouse.lake()
        now, changed = delta_log.changed_partitions(lake, contract.address(contract.log), DELIVERY_COLUMN, cursor.since)
        left = sorted(name for name in changed if name > cursor.after)
        chosen = left[:_REPORTS_PER_TICK]
        rows = delivery_log.read_all(lakehouse.tables(), contract, chosen)
        news = {
            key: (row, unknown)
            for key, row in rows.items()
            if not context.instance.has_run(row["run_id"])
            and (unknown := [a for a in contract.addresses if not _is_known(context.instance, a, key, row)])
        }
        # Added before the events are stored: a tick that ends in between is repeated, and then reports the rest.
        if news:
            context.instance.add_dynamic_partitions(str(source.deliveries.name), sorted(news))
        addresses = [contract.address(table) for table in contract.tables] if news else []
        sizes = {address: delta_log.partition_sizes(lake, address, DELIVERY_COLUMN) for address in addresses}
        landing = lakehouse.landing()
        events = [
            event
            for row, unknown in news.values()
            for event in _materializations(contract, landing, lake, row, sizes)
            if event.asset_key.to_user_string() in unknown
        ]
        return dg.SensorResult(
            asset_events=events,
            skip_reason=None if events else "nothing new was ingested outside Dagster",
            cursor=_next_pass(cursor, now, chosen, finished=len(chosen) == len(left)).model_dump_json(),
        )

    return external_ingests


def _next_pass(
    cursor: _ExternalCursor, now: delta_log.Version | None, chosen: Sequence[str], *, finished: bool
) -> _ExternalCursor:
    """The cursor after a tick. What changes during a pass is reported by the next one, which begins at its start."""
    began = cursor.until if cursor.after else now
    if finished:
        return _ExternalCursor(since=began)
    return _ExternalCursor(since=cursor.since, until=began, after=chosen[-1])


def _is_known(instance: dg.DagsterInstance, address: str, delivery: str, row: dict[str, Any]) -> bool:
    """Whether that ingest of an asset was reported already, or a Dagster run has materialised the asset since."""
    found = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=asset_key(address), asset_partitions=[delivery]), limit=1
    ).records
    materialization = found[0].asset_materialization if found else None
    if materialization is None:
        return False
    origin = _origin(row)
    metadata = materialization.metadata
    if all(name in metadata and metadata[name].value == origin[name] for name in ("run", "ingested_at")):
        return True
    is_of_a_run = instance.has_run(found[0].run_id)
    return is_of_a_run and found[0].timestamp > row["ingested_at"].timestamp()


def _origin(row: dict[str, Any]) -> dict[str, str]:
    """Who ingested a delivery, and when."""
    return {
        "orchestrator": row["orchestrator"],
        "run": row["run_id"],
        "engine": row["engine"],
        "ingested_at": row["ingested_at"].isoformat(),
    }


def _materializations(
    contract: Contract,
    landing: DataLake,
    lake: DataLake,
    row: dict[str, Any],
    sizes: dict[str, tuple[dict[str, int], int]],
) -> list[dg.AssetMaterialization]:
    """The materialisations of one ingested delivery, with the metadata that a run of Dagster's would give.

    Args:
        contract: the contract of its source.
        landing: the landing zone.
        lake: the lake.
        row: its row in the delivery log.
        sizes: for each table's address, the bytes of its partitions and its version.
    """
    delivery, counts = row[DELIVERY_COLUMN], row["rows"]
    origin = _origin(row)
    found: dict[str, dict[str, Any]] = {}
    for folder in contract.folders:
        found[contract.landing_address(folder.name)] = {
            "dagster/partition_row_count": counts[contract.record_table(folder.name).name],
            "dagster/uri": landing.uri(delivery_path(contract, delivery, folder.name)),
            "fingerprint": row["source_fingerprint"],
        }
    for table in contract.tables:
        address = contract.address(table)
        bytes_by_delivery, version = sizes[address]
        found[address] = {
            "dagster/partition_row_count": counts[table.name],
            "dagster/uri": lake.uri(address),
            "bytes": bytes_by_delivery.get(delivery, 0),
            "delta_version": version,
        }
    found[contract.address(contract.log)] = {
        "dagster/uri": lake.uri(contract.address(contract.log)),
        "rows": sum(counts.values()),
        "bytes": row["source_bytes"],
    }
    return [
        dg.AssetMaterialization(
            asset_key(address),
            description=f"Ingested outside Dagster: {origin['orchestrator']}, run {origin['run'] or 'without a name'}.",
            metadata={**metadata, **origin},
            partition=delivery,
        )
        for address, metadata in found.items()
    ]
