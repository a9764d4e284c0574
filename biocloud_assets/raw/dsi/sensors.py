"""Looking for new deliveries, and for what others have ingested.

What belongs here: what to ask a run for, when, and what to report of runs that weren't Dagster's. What doesn't: looking
at deliveries (`delivery`), which is also what the command line does.

The delivery log says what is ingested; a run's tags say what was tried. Nothing is remembered that could make a
delivery never run again: a run that was lost or failed is asked for again, a few times, and a refused delivery as soon
as its files change.

What Airflow or a person has ingested is in the delivery log too, with who it was. Being in it is what "ingested" means:
so a table that is written anew from the same files, which changes no row of the log, is no news, and neither is what a
run has written that never got so far.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from pydantic import BaseModel

from biocloud_assets.lake import DataLake
from biocloud_assets.launch.script import NOT_IN_AIRFLOW
from biocloud_assets.raw.dsi import log
from biocloud_assets.raw.dsi.checks import landing_key, table_key
from biocloud_assets.raw.dsi.contract import DELIVERY_COLUMN, FOLDERS, LOG, TABLES
from biocloud_assets.raw.dsi.delivery import Contents, discover, format_name, look, path, window_start
from biocloud_assets.raw.dsi.jobs import dsi_raw
from biocloud_assets.raw.dsi.partitions import deliveries
from biocloud_assets.resources import LakehouseResource
from biocloud_assets.settings import Settings
from biocloud_assets.spark import delta

FINGERPRINT_TAG = "biocloud/fingerprint"
"""The run tag with the fingerprint of the delivery that the run was asked for."""

_REQUESTS_PER_TICK = 20
_TRIES = 3
_BETWEEN_TRIES = timedelta(minutes=10)
_LOST_AFTER = timedelta(hours=6)
"""A run whose process was killed stays "started" for ever; one without news for so long is taken for lost."""

_REPORTS_PER_TICK = 20
"""Deliveries; each is an event for every folder and table."""


def refusal(instance: dg.DagsterInstance, delivery: str) -> tuple[str, str] | None:
    """Why a delivery was refused when it was last inspected: its fingerprint then, and its faults.

    None if it wasn't.
    """
    fingerprint, faults, refused = "", [], False
    for folder in FOLDERS:
        found = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=landing_key(folder.name), asset_partitions=[delivery]), limit=1
        )
        metadata = found.records[0].asset_materialization.metadata if found.records else {}  # type: ignore[union-attr]
        if "refused" in metadata:  # and not reported by hand
            fingerprint = str(metadata["fingerprint"].value)
            refused = bool(metadata["refused"].value)
            faults += [str(metadata["faults"].value)] if metadata["faults"].value else []
    return (fingerprint, "\n".join(faults)) if refused else None


@dataclass(frozen=True)
class _Judgement:
    """About a complete delivery: why not to ask for a run, or None; whether that stays so; how many runs there were."""

    reason: str | None
    settled: bool
    tries: int


def _judge(instance: dg.DagsterInstance, contents: Contents, now: datetime) -> _Judgement:
    runs = instance.get_run_records(
        dg.RunsFilter(
            job_name=dsi_raw.name,
            tags={"dagster/partition": contents.delivery, FINGERPRINT_TAG: contents.fingerprint},
        )
    )
    tries = len(runs)
    refused = refusal(instance, contents.delivery)
    if refused is not None and refused[0] == contents.fingerprint:
        return _Judgement("refused, and unchanged since", True, tries)
    since_news = now - max((run.update_timestamp.replace(tzinfo=UTC) for run in runs), default=now)
    if any(not run.dagster_run.is_finished for run in runs) and since_news < _LOST_AFTER:
        return _Judgement("a run is under way", False, tries)
    if tries >= _TRIES:
        return _Judgement(f"{tries} runs failed; run it by hand when the cause is gone", True, tries)
    if runs and since_news < _BETWEEN_TRIES * tries:
        return _Judgement("a run failed a short while ago", False, tries)
    return _Judgement(None, False, tries)


class _Cursor(BaseModel):
    """What a tick hands to the next one.

    Attributes:
        start_after: the name from which to look on.
        seen: the fingerprint of each delivery that isn't settled: one is complete when two looks see the same.
    """

    start_after: str = ""
    seen: dict[str, str] = {}


def build_sensors(settings: Settings) -> list[dg.SensorDefinition]:
    """The sensors, for an environment: they are on where Dagster is in charge."""

    @dg.sensor(
        name="dsi_deliveries",
        job=dsi_raw,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING
        if settings.leader == "dagster"
        else dg.DefaultSensorStatus.STOPPED,
        description="Registers new complete deliveries as partitions and asks for a run of each.",
    )
    def dsi_deliveries(context: dg.SensorEvaluationContext, lakehouse: LakehouseResource) -> dg.SensorResult:
        cursor = _Cursor.model_validate_json(context.cursor) if context.cursor else _Cursor()
        landing = lakehouse.landing()
        ingested = log.ingested(lakehouse.lake())
        names, _ = discover(landing, start_after=cursor.start_after)
        requests: list[dg.RunRequest] = []
        notes: list[str] = []
        seen: dict[str, str] = {}
        newest_settled = ""
        for name in names:
            if name in ingested:
                newest_settled = name
                continue
            contents = look(landing, name)
            seen[name] = contents.fingerprint
            if contents.missing:
                notes.append(f"{name}: arriving, {', '.join(contents.missing)} still to come")
                continue
            judgement = _judge(context.instance, contents, datetime.now(UTC))
            if cursor.seen.get(name) != contents.fingerprint and not judgement.settled:
                notes.append(f"{name}: new, or changed since the last look; complete if the next one sees the same")
                continue
            if judgement.settled:
                newest_settled = name
                del seen[name]
            if judgement.reason is not None:
                notes.append(f"{name}: {judgement.reason}")
            elif len(requests) < _REQUESTS_PER_TICK:
                requests.append(
                    dg.RunRequest(
                        # The same key from two ticks on the same state is one run; another try has another key.
                        run_key=f"{name}/{contents.fingerprint}/{judgement.tries}",
                        partition_key=name,
                        tags={FINGERPRINT_TAG: contents.fingerprint},
                    )
                )
        # Look on from the newest settled delivery, less the look-back window, but never past one that is still open,
        # nor, if one is named after a day to come, past today.
        newest = min(newest_settled, format_name(datetime.now(UTC)))
        start = window_start(newest, settings.lookback_days) if newest else cursor.start_after
        if seen:
            start = min(start, window_start(min(seen), lookback_days=1))
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else "; ".join(notes) or "no new deliveries",
            cursor=_Cursor(start_after=start, seen=seen).model_dump_json(),
            dynamic_partitions_requests=[
                deliveries.build_add_request([request.partition_key for request in requests if request.partition_key])
            ],
        )

    return [dsi_deliveries]


class _Followed(BaseModel):
    """What a tick of `dsi_outside` hands to the next one.

    Attributes:
        log: the version of the delivery log up to which all is known.
        todo: the deliveries that have changed up to there, and haven't been looked at.
    """

    log: delta.Version | None = None
    todo: list[str] = []


def build_outside_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor that starts nothing: it is on where Airflow is in charge."""

    @dg.sensor(
        name="dsi_outside",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING
        if settings.leader == "airflow"
        else dg.DefaultSensorStatus.STOPPED,
        description="Reports the deliveries that Airflow or a person has ingested, once each, as materialisations.",
        metadata={NOT_IN_AIRFLOW: "It tells Dagster what Airflow has done; Airflow knows that itself."},
    )
    def dsi_outside(context: dg.SensorEvaluationContext, lakehouse: LakehouseResource) -> dg.SensorResult:
        cursor = _Followed.model_validate_json(context.cursor) if context.cursor else _Followed()
        lake = lakehouse.lake()
        now, changed = delta.changed_partitions(lake, LOG.path, DELIVERY_COLUMN, cursor.log)
        todo = sorted({*cursor.todo, *changed})
        rows = log.read_all(lake, todo[:_REPORTS_PER_TICK])
        news = {
            key: (row, unknown)
            for key, row in rows.items()
            if context.instance.get_run_by_id(row["run_id"]) is None
            and (unknown := [asset for asset in _all_assets() if not _is_known(context.instance, asset, key, row)])
        }
        # Before the events: a tick that ends between the two is repeated, and sees then that some are there already.
        if news:
            context.instance.add_dynamic_partitions(str(deliveries.name), sorted(news))
        paths = [table.path for table in TABLES] if news else []
        tables = {table: delta.partition_sizes(lake, table, DELIVERY_COLUMN) for table in paths}
        landing = lakehouse.landing()
        events = [
            event
            for row, unknown in news.values()
            for event in _materialisations(landing, lake, row, tables)
            if event.asset_key in unknown
        ]
        return dg.SensorResult(
            asset_events=events,
            skip_reason=None if events else "nothing new was ingested outside Dagster",
            cursor=_Followed(log=now, todo=todo[_REPORTS_PER_TICK:]).model_dump_json(),
        )

    return dsi_outside


def _all_assets() -> list[dg.AssetKey]:
    return [*(landing_key(folder.name) for folder in FOLDERS), *(table_key(table) for table in (*TABLES, LOG))]


def _is_known(instance: dg.DagsterInstance, asset: dg.AssetKey, delivery: str, row: dict[str, Any]) -> bool:
    """Whether that ingest was reported of an asset already, or a run of Dagster's has made the asset since."""
    found = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[delivery]), limit=1
    ).records
    if not found:
        return False
    metadata = found[0].asset_materialization.metadata  # type: ignore[union-attr]
    who = _who(row)
    if all(name in metadata and metadata[name].value == who[name] for name in ("run", "ingested_at")):
        return True
    is_a_runs = instance.get_run_by_id(found[0].run_id) is not None
    return is_a_runs and found[0].timestamp > row["ingested_at"].timestamp()


def _who(row: dict[str, Any]) -> dict[str, str]:
    """Who ingested a delivery, and when."""
    return {
        "orchestrator": row["orchestrator"],
        "run": row["run_id"],
        "engine": row["engine"],
        "ingested_at": row["ingested_at"].isoformat(),
    }


def _materialisations(
    landing: DataLake, lake: DataLake, row: dict[str, Any], tables: dict[str, tuple[dict[str, int], int]]
) -> list[dg.AssetMaterialization]:
    """What is reported of one ingested delivery, in the words of the steps' own reports.

    Args:
        landing: where it landed.
        lake: where its tables lie.
        row: what the log says of it.
        tables: for each table, the bytes of its partitions and its version.
    """
    delivery, counts = row[DELIVERY_COLUMN], row["rows"]
    who = _who(row)
    found: dict[dg.AssetKey, dict[str, Any]] = {}
    for folder in FOLDERS:  # a record of a folder is a row of the table of that name
        found[landing_key(folder.name)] = {
            "dagster/row_count": counts[folder.name],
            "dagster/uri": landing.uri(path(delivery, folder.name)),
            "fingerprint": row["source_fingerprint"],
            "refused": False,
            "faults": "",
        }
    for table in TABLES:
        sizes, version = tables[table.path]
        found[table_key(table)] = {
            "dagster/partition_row_count": counts[table.name],
            "dagster/uri": lake.uri(table.path),
            "bytes": sizes.get(delivery, 0),
            "delta_version": version,
        }
    found[table_key(LOG)] = {
        "dagster/uri": lake.uri(LOG.path),
        "rows": sum(counts.values()),
        "bytes": row["source_bytes"],
    }
    return [
        dg.AssetMaterialization(
            key,
            description=f"Ingested outside Dagster: {who['orchestrator']}, run {who['run'] or 'without a name'}.",
            metadata={**metadata, **who},
            partition=delivery,
        )
        for key, metadata in found.items()
    ]
