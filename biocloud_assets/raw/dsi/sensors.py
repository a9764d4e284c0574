"""Looking for new deliveries.

What belongs here: what to ask a run for, and when. What doesn't: looking at deliveries (`delivery`), which is also what
the command line does.

The delivery log says what is ingested; a run's tags say what was tried. Nothing is remembered that could make a
delivery never run again: a run that was lost or failed is asked for again, a few times, and a refused delivery as soon
as its files change.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import BaseModel

from biocloud_assets.raw.dsi import log
from biocloud_assets.raw.dsi.checks import landing_key
from biocloud_assets.raw.dsi.contract import FOLDERS
from biocloud_assets.raw.dsi.delivery import Contents, discover, format_name, look, window_start
from biocloud_assets.raw.dsi.jobs import dsi_raw
from biocloud_assets.raw.dsi.partitions import deliveries
from biocloud_assets.resources import LakehouseResource
from biocloud_assets.settings import Settings

FINGERPRINT_TAG = "biocloud/fingerprint"
"""The run tag with the fingerprint of the delivery that the run was asked for."""

_REQUESTS_PER_TICK = 20
_TRIES = 3
_BETWEEN_TRIES = timedelta(minutes=10)
_LOST_AFTER = timedelta(hours=6)
"""A run whose process was killed stays "started" for ever; one without news for so long is taken for lost."""


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
