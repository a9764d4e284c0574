"""The sensor: which deliveries it asks a run for, when, and that nothing makes it forget one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import deltalake
import pyarrow as pa
import pytest
from dagster import DagsterEvent, DagsterEventType, DagsterRunStatus
from dagster._core.instance.ref import InstanceRef
from deliveries import DELIVERY, record, table, write

from biocloud_assets.definitions import build_definitions
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi import contract
from biocloud_assets.raw.dsi.checks import landing_key
from biocloud_assets.raw.dsi.contract import DELIVERY_COLUMN, FOLDERS, LOG
from biocloud_assets.raw.dsi.delivery import format_name, look
from biocloud_assets.raw.dsi.partitions import deliveries
from biocloud_assets.raw.dsi.sensors import FINGERPRINT_TAG, refusal
from biocloud_assets.resources import LakehouseResource
from biocloud_assets.settings import Settings

EARLIER = "2026-01-20-06:00:00"
LATER = "2026-02-28-06:00:00"
LONG_AGO = timedelta(days=1)


@cache
def repository(lookback_days: int) -> dg.RepositoryDefinition:
    return build_definitions(Settings(lookback_days=lookback_days)).get_repository_def()


class World:
    """A landing zone, a lake and a Dagster instance; each tick hands its cursor to the next, as the daemon does."""

    def __init__(self, root: Path, instance: dg.DagsterInstance, reference: InstanceRef, days: int = 30) -> None:
        self.landing_root, self.lake_root, self.instance = root / "in", root / "out", instance
        self.lakehouse = LakehouseResource(
            landing_root=str(self.landing_root), lake_root=str(self.lake_root), curated_root="nowhere", engine="sail"
        )
        self.reference = reference
        self.repository = repository(days)
        self.sensor = self.repository.get_sensor_def("dsi_deliveries")
        self.cursor: str | None = None

    def tick(self, *, keep_cursor: bool = False) -> Any:
        """Evaluate the sensor as the daemon does.

        Args:
            keep_cursor: the tick is lost before its cursor is stored, so that the next one starts from the same.
        """
        context = dg.build_sensor_context(
            instance=self.instance,
            instance_ref=self.reference,
            cursor=self.cursor,
            repository_def=self.repository,
            resources={"lakehouse": self.lakehouse},
        )
        found = self.sensor.evaluate_tick(context)
        if not keep_cursor:
            self.cursor = found.cursor
        return found

    def asked(self, ticks: int = 1) -> list[str | None]:
        """The deliveries that the last of some ticks asks a run for."""
        for _ in range(ticks - 1):
            self.tick()
        return [request.partition_key for request in self.tick().run_requests]

    @property
    def start_after(self) -> str:
        assert self.cursor is not None
        return str(json.loads(self.cursor)["start_after"])

    def land(self, name: str = DELIVERY, **folders: Any) -> Path:
        return write(self.landing_root, name, **folders)

    def fingerprint(self, name: str = DELIVERY) -> str:
        return look(DataLake.at(str(self.landing_root)), name).fingerprint

    def log(self, *names: str) -> None:
        """Put deliveries into the delivery log."""
        schema = pa.schema([(column.name, contract.arrow_type(column.type)) for column in LOG.columns])
        deltalake.write_deltalake(
            str(self.lake_root / LOG.path),
            pa.Table.from_pylist([{DELIVERY_COLUMN: name} for name in names], schema=schema),
            partition_by=[DELIVERY_COLUMN],
            mode="append",
        )

    def run(self, status: DagsterRunStatus, *, ago: timedelta = timedelta(), fingerprint: str | None = None) -> None:
        """Store a run of the delivery, as the daemon makes one of a request, that came to a status some time ago."""
        run = self.instance.create_run_for_job(
            self.repository.get_job("dsi_raw"),
            status=DagsterRunStatus.STARTED,
            tags={"dagster/partition": DELIVERY, FINGERPRINT_TAG: fingerprint or self.fingerprint()},
        )
        types = {
            DagsterRunStatus.STARTED: DagsterEventType.RUN_START,
            DagsterRunStatus.FAILURE: DagsterEventType.RUN_FAILURE,
            DagsterRunStatus.CANCELED: DagsterEventType.RUN_CANCELED,
        }
        event = DagsterEvent(types[status].value, job_name="dsi_raw")
        self.instance.run_storage.handle_run_event(run.run_id, event, datetime.now(UTC) - ago)

    def inspected(self, *faults: str, fingerprint: str | None = None) -> None:
        """Report an inspection of the delivery as the landing assets do; faults are of the first folder."""
        for folder in FOLDERS:
            self.instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    landing_key(folder.name),
                    partition=DELIVERY,
                    metadata={
                        "fingerprint": dg.MetadataValue.text(fingerprint or self.fingerprint()),
                        "refused": dg.MetadataValue.bool(bool(faults)),
                        "faults": dg.MetadataValue.text("\n".join(faults) if folder is FOLDERS[0] else ""),
                    },
                )
            )


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InstanceRef]:
    """Without a reference to a stored instance, a tick doesn't validate the partitions that it adds; it isn't used."""
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as instance:
        yield instance.get_ref()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def world(tmp_path: Path, instance: dg.DagsterInstance, reference: InstanceRef) -> World:
    return World(tmp_path, instance, reference)


def touch(path: Path, seconds: float = 60) -> None:
    """Write a file again, later by some seconds."""
    later = path.stat().st_mtime + seconds
    os.utime(path, (later, later))


def name_of(day: int) -> str:
    return (datetime(2026, 1, 1, 6, tzinfo=UTC) + timedelta(days=day)).strftime("%Y-%m-%d-%H:%M:%S")


def test_an_empty_landing_zone_asks_for_nothing(world: World) -> None:
    tick = world.tick()
    assert (tick.run_requests, tick.skip_message) == ([], "no new deliveries")
    world.landing_root.joinpath("dsi").mkdir(parents=True)
    assert world.asked(ticks=2) == []


def test_a_delivery_is_asked_for_when_two_looks_see_the_same(world: World) -> None:
    world.land()
    first = world.tick()
    assert first.run_requests == []
    assert f"{DELIVERY}: new, or changed since the last look" in first.skip_message
    assert world.asked() == [DELIVERY]


def test_a_request_is_of_the_delivery_and_of_the_files_that_were_seen(world: World) -> None:
    world.land()
    world.tick()
    (request,) = world.tick().run_requests
    assert request.partition_key == DELIVERY
    assert request.run_key == f"{DELIVERY}/{world.fingerprint()}/0"
    assert request.tags[FINGERPRINT_TAG] == world.fingerprint()
    assert request.tags["dagster/partition"] == DELIVERY


def test_a_delivery_becomes_a_partition_when_it_is_asked_for_and_not_before(world: World) -> None:
    world.land()
    for expected in ([], [DELIVERY]):
        (request,) = world.tick().dynamic_partitions_requests
        assert request.partitions_def_name == deliveries.name
        assert list(request.partition_keys) == expected


def test_what_is_no_delivery_is_not_asked_for(world: World) -> None:
    for name in ("2026-01-31", "2026-02-30-06:00:00", "_tmp", "2026-01-31-06:00:00.bak", "latest"):
        (world.landing_root / "dsi" / name / "sensor").mkdir(parents=True)
    assert world.asked(ticks=2) == []


@pytest.mark.parametrize("folder", [folder.name for folder in FOLDERS])
def test_a_delivery_without_one_of_its_folders_is_arriving_however_long_it_takes(world: World, folder: str) -> None:
    world.land(**{folder: None})
    for _ in range(4):
        tick = world.tick()
        assert tick.run_requests == []
        assert tick.skip_message == f"{DELIVERY}: arriving, {folder} still to come"
    world.land()
    assert world.asked(ticks=2) == [DELIVERY]


def test_a_folder_without_a_parquet_file_is_still_to_come(world: World) -> None:
    (world.land(sensor=None) / "sensor").mkdir()
    (world.landing_root / "dsi" / DELIVERY / "sensor" / "_SUCCESS").touch()
    (world.landing_root / "dsi" / DELIVERY / "sensor" / ".part-0.parquet.crc").touch()
    assert world.asked(ticks=3) == []


@pytest.mark.parametrize("change", ["written again", "added", "removed"])
def test_a_delivery_that_changes_between_two_looks_waits_for_one_more(world: World, change: str) -> None:
    path = world.land(sensor=[table("sensor"), table("sensor", [record("sensor", id="sensor-2")])])
    world.tick()
    if change == "written again":
        touch(path / "sensor" / "part-0.parquet")
    elif change == "added":
        (path / "sensor" / "part-2.parquet").write_bytes((path / "sensor" / "part-0.parquet").read_bytes())
    else:
        (path / "sensor" / "part-1.parquet").unlink()
    assert world.asked() == []
    assert world.asked() == [DELIVERY]


def test_as_long_as_files_arrive_a_delivery_is_not_asked_for(world: World) -> None:
    path = world.land()
    for _ in range(5):
        assert world.asked() == []
        touch(path / "sensor" / "part-0.parquet")


def test_an_ingested_delivery_is_not_asked_for(world: World) -> None:
    world.land()
    world.land(LATER)
    world.log(DELIVERY)
    assert world.asked(ticks=2) == [LATER]
    world.log(LATER)
    tick = world.tick()
    assert (tick.run_requests, tick.skip_message) == ([], "no new deliveries")


def test_a_delivery_that_left_the_log_is_asked_for_again(world: World) -> None:
    world.land()
    world.log(DELIVERY)
    assert world.asked(ticks=3) == []
    deltalake.DeltaTable(str(world.lake_root / LOG.path)).delete(f"{DELIVERY_COLUMN} = '{DELIVERY}'")
    assert world.asked(ticks=2) == [DELIVERY]


def test_twice_from_the_same_cursor_asks_for_the_same_runs(world: World) -> None:
    for day in range(3):
        world.land(name_of(day))
    world.tick()
    first, second = world.tick(keep_cursor=True), world.tick(keep_cursor=True)
    keys = [request.run_key for request in first.run_requests]
    assert len(set(keys)) == 3
    assert [request.run_key for request in second.run_requests] == keys
    assert second.cursor == first.cursor


def test_a_request_that_never_became_a_run_is_made_again(world: World) -> None:
    world.land()
    assert world.asked(ticks=2) == [DELIVERY]
    assert world.asked(ticks=1) == [DELIVERY]


def test_a_lost_cursor_costs_one_look(world: World) -> None:
    world.land()
    assert world.asked(ticks=2) == [DELIVERY]
    world.cursor = None
    assert world.asked() == []
    assert world.asked() == [DELIVERY]


def test_a_delivery_whose_run_is_under_way_is_not_asked_for_again(world: World) -> None:
    world.land()
    world.tick()
    world.run(DagsterRunStatus.STARTED, ago=timedelta(minutes=15))
    for _ in range(3):
        tick = world.tick()
        assert (tick.run_requests, tick.skip_message) == ([], f"{DELIVERY}: a run is under way")


def test_a_run_that_was_killed_does_not_keep_the_delivery_waiting_for_ever(world: World) -> None:
    world.land()
    world.tick()
    world.run(DagsterRunStatus.STARTED, ago=LONG_AGO)
    (request,) = world.tick().run_requests
    assert request.run_key == f"{DELIVERY}/{world.fingerprint()}/1"


@pytest.mark.parametrize("status", [DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED])
def test_a_run_that_failed_is_asked_for_again_after_a_pause_that_grows(world: World, status: DagsterRunStatus) -> None:
    world.land()
    world.tick()
    world.run(status, ago=timedelta(minutes=9))
    assert world.tick().skip_message == f"{DELIVERY}: a run failed a short while ago"

    world.instance.wipe()
    world.run(status, ago=timedelta(minutes=11))
    (request,) = world.tick().run_requests
    assert request.run_key == f"{DELIVERY}/{world.fingerprint()}/1"
    world.run(status, ago=timedelta(minutes=19))
    assert world.asked() == []

    world.instance.wipe()
    world.run(status, ago=timedelta(hours=1))
    world.run(status, ago=timedelta(minutes=21))
    (request,) = world.tick().run_requests
    assert request.run_key == f"{DELIVERY}/{world.fingerprint()}/2"


def test_after_three_failed_runs_it_is_up_to_a_person(world: World) -> None:
    world.land()
    world.tick()
    keys = set()
    for _ in range(3):
        keys |= {request.run_key for request in world.tick().run_requests}
        world.run(DagsterRunStatus.FAILURE, ago=LONG_AGO)
    assert len(keys) == 3
    assert world.tick().skip_message == f"{DELIVERY}: 3 runs failed; run it by hand when the cause is gone"
    assert world.asked(ticks=3) == []


def test_failed_runs_of_other_files_of_the_delivery_do_not_count(world: World) -> None:
    path = world.land()
    for _ in range(3):
        world.run(DagsterRunStatus.FAILURE)
    assert world.asked(ticks=2) == []
    touch(path / "sensor" / "part-0.parquet")
    assert world.asked(ticks=2) == [DELIVERY]


def test_a_refused_delivery_is_not_asked_for_until_its_files_change(world: World) -> None:
    path = world.land()
    world.inspected("null key: folder algorithm")
    world.tick()
    assert world.tick().skip_message == f"{DELIVERY}: refused, and unchanged since"
    for _ in range(4):
        assert world.asked() == []
    touch(path / "algorithm" / "part-0.parquet")
    assert world.asked(ticks=2) == [DELIVERY]


def test_a_delivery_that_was_inspected_and_not_refused_is_asked_for(world: World) -> None:
    world.land()
    world.inspected()
    assert refusal(world.instance, DELIVERY) is None
    assert world.asked(ticks=2) == [DELIVERY]


def test_the_last_inspection_is_what_counts(world: World) -> None:
    world.land()
    assert refusal(world.instance, DELIVERY) is None
    world.inspected("one", "two", fingerprint="old")
    assert refusal(world.instance, DELIVERY) == ("old", "one\ntwo")
    assert refusal(world.instance, LATER) is None
    assert world.asked(ticks=2) == [DELIVERY]
    world.inspected()
    assert refusal(world.instance, DELIVERY) is None


def test_a_refused_delivery_does_not_keep_others_waiting(world: World) -> None:
    world.land(EARLIER)
    world.land()
    world.land(LATER)
    world.inspected("null key")
    assert world.asked(ticks=2) == [EARLIER, LATER]


def test_a_tick_asks_for_at_most_twenty_runs_and_the_next_for_the_rest(world: World) -> None:
    names = [name_of(day) for day in range(23)]
    for name in names:
        world.land(name)
    assert world.asked(ticks=2) == names[:20]
    world.log(*names[:20])
    assert world.asked() == names[20:]


def test_the_cursor_moves_to_the_newest_settled_delivery_less_the_look_back_window(world: World) -> None:
    world.land()
    world.tick()
    assert world.start_after < DELIVERY
    world.log(DELIVERY)
    world.tick()
    assert world.start_after == "2026-01-01-06:00:00"
    world.land(LATER)
    world.log(LATER)
    world.tick()
    assert world.start_after == "2026-01-29-06:00:00"


@pytest.mark.parametrize("why", ["refused", "failed"])
def test_the_cursor_moves_past_what_is_refused_or_was_tried_in_vain(world: World, why: str) -> None:
    world.land()
    if why == "refused":
        world.inspected("null key")
    else:
        for _ in range(3):
            world.run(DagsterRunStatus.FAILURE)
    world.tick()
    world.tick()
    assert world.start_after == "2026-01-01-06:00:00"


@pytest.mark.parametrize("why", ["arriving", "new", "under way", "failed once"])
def test_the_cursor_never_moves_past_an_open_delivery(world: World, why: str) -> None:
    far_later = ["2026-06-01-06:00:00", "2026-08-01-06:00:00"]
    path = world.land(**{"sensor": None} if why == "arriving" else {})
    for name in far_later:
        world.land(name)
    world.log(*far_later)
    if why == "under way":
        world.run(DagsterRunStatus.STARTED)
    elif why == "failed once":
        world.run(DagsterRunStatus.FAILURE)
    for _ in range(3):
        assert world.asked() == []
        assert world.start_after < DELIVERY
        if why == "new":
            touch(path / "sensor" / "part-0.parquet")
    world.log(DELIVERY)
    world.tick()
    assert world.start_after == "2026-07-02-06:00:00"


def test_a_late_arrival_within_the_window_is_found(world: World) -> None:
    world.land()
    world.log(DELIVERY)
    world.tick()
    world.land("2026-01-01-06:00:01")
    assert world.asked(ticks=2) == ["2026-01-01-06:00:01"]


def test_what_arrives_later_than_the_window_is_left_to_a_person(world: World) -> None:
    world.land()
    world.log(DELIVERY)
    world.tick()
    world.land("2026-01-01-05:59:59")
    assert world.asked(ticks=3) == []


def test_the_window_is_a_setting(tmp_path: Path, instance: dg.DagsterInstance, reference: InstanceRef) -> None:
    world = World(tmp_path, instance, reference, days=2)
    world.land()
    world.log(DELIVERY)
    world.tick()
    assert world.start_after == "2026-01-29-06:00:00"


def test_a_delivery_of_every_possible_time_leaves_a_cursor_from_which_the_next_tick_goes_on(world: World) -> None:
    world.land("0001-01-01-00:00:00")
    assert world.asked(ticks=2) == ["0001-01-01-00:00:00"]
    world.log("0001-01-01-00:00:00")
    world.land()
    assert world.asked(ticks=2) == [DELIVERY]


def test_a_delivery_named_after_a_day_to_come_does_not_hide_todays(world: World) -> None:
    world.land("2962-01-31-06:00:00")
    world.log("2962-01-31-06:00:00")
    world.tick()
    world.land(name := format_name(datetime.now(UTC)))
    assert world.asked(ticks=2) == [name]


def test_what_a_person_reports_by_hand_stops_nothing(world: World) -> None:
    world.land()
    world.tick()
    world.instance.report_runless_asset_event(dg.AssetMaterialization(landing_key("sensor"), partition=DELIVERY))
    assert world.asked() == [DELIVERY]
