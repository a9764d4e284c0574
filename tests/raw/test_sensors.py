"""The sensor for deliveries: which it requests a run for, when, and that it misses none."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import deltalake
import pyarrow as pa
import pytest
import sqlalchemy
from dagster import DagsterEvent, DagsterEventType, DagsterRunStatus
from dagster._core.instance.ref import InstanceRef
from deltalake.transaction import AddAction

from biocloud_assets.definitions import build_definitions
from biocloud_assets.ingest.delivery import format_name, list_delivery
from biocloud_assets.lake import DataLake
from biocloud_assets.launch.launcher import (
    FAILED,
    FINGERPRINT_TAG,
    INFRASTRUCTURE,
    OUTCOME_TAG,
    PARTITION_TAG,
    REFUSED,
)
from biocloud_assets.launch.results import asset_key
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.resources import LakehouseResource
from biocloud_assets.schema import DELIVERY_COLUMN, arrow_type
from biocloud_assets.settings import Settings
from tests.ingest.deliveries import DELIVERY, record, table, write

EARLIER = "2026-01-20-06:00:00"
LATER = "2026-02-28-06:00:00"
LONG_AGO = timedelta(days=1)
LOG = CONTRACT.address(CONTRACT.log)


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
            keep_cursor: the tick is killed before its cursor is stored, so the next one starts from the same.
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

    def requested(self, ticks: int = 1) -> list[str | None]:
        """The deliveries that the last of some ticks requests a run for."""
        for _ in range(ticks - 1):
            self.tick()
        return [request.partition_key for request in self.tick().run_requests]

    def land(self, name: str = DELIVERY, *, age: float = 3_600, **folders: Any) -> Path:
        """Write a delivery whose files are of some seconds ago."""
        path = write(self.landing_root, name, **folders)
        for file in path.rglob("*.parquet"):
            touch(file, -age)
        return path

    def fingerprint(self, name: str = DELIVERY) -> str:
        return list_delivery(DataLake.at(str(self.landing_root)), CONTRACT, name).fingerprint

    def log(self, *names: str) -> None:
        """Put deliveries into the delivery log."""
        schema = pa.schema([(column.name, arrow_type(column.type)) for column in CONTRACT.log.columns])
        deltalake.write_deltalake(
            str(self.lake_root / LOG),
            pa.Table.from_pylist([{DELIVERY_COLUMN: name} for name in names], schema=schema),
            partition_by=[DELIVERY_COLUMN],
            mode="append",
        )

    def run(
        self,
        status: DagsterRunStatus,
        *,
        ago: timedelta = timedelta(),
        fingerprint: str | None = None,
        tags: dict[str, str] | None = None,
    ) -> None:
        """Store a run of the delivery, as the daemon makes one of a request, that came to a status some time ago."""
        run = self.instance.create_run_for_job(
            self.repository.get_job("dsi_raw"),
            status=DagsterRunStatus.NOT_STARTED,
            tags={PARTITION_TAG: DELIVERY, FINGERPRINT_TAG: fingerprint or self.fingerprint(), **(tags or {})},
        )
        types = {
            DagsterRunStatus.STARTED: DagsterEventType.RUN_START,
            DagsterRunStatus.FAILURE: DagsterEventType.RUN_FAILURE,
            DagsterRunStatus.CANCELED: DagsterEventType.RUN_CANCELED,
            DagsterRunStatus.SUCCESS: DagsterEventType.RUN_SUCCESS,
        }
        if status in types:
            event = DagsterEvent(types[status].value, job_name="dsi_raw")
            self.instance.run_storage.handle_run_event(run.run_id, event, datetime.now(UTC) - ago)

    def refuse(self, *, fingerprint: str | None = None) -> None:
        """Store a run that has refused the delivery."""
        self.run(DagsterRunStatus.FAILURE, ago=LONG_AGO, fingerprint=fingerprint, tags={OUTCOME_TAG: REFUSED})


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
    """Give a file a time that is later by some seconds."""
    later = path.stat().st_mtime + seconds
    os.utime(path, (later, later))


def name_of(day: int) -> str:
    return (datetime(2026, 1, 1, 6, tzinfo=UTC) + timedelta(days=day)).strftime("%Y-%m-%d-%H:%M:%S")


def test_an_empty_landing_zone_requests_nothing(world: World) -> None:
    tick = world.tick()
    assert (tick.run_requests, tick.skip_message) == ([], "no new deliveries")
    world.landing_root.joinpath("dsi").mkdir(parents=True)
    assert world.requested(ticks=2) == []


def test_a_delivery_is_requested_when_two_ticks_find_the_same_files(world: World) -> None:
    world.land()
    first = world.tick()
    assert first.run_requests == []
    assert first.skip_message == f"{DELIVERY}: new or changed, requested if the next tick finds the same files"
    assert world.requested() == [DELIVERY]


def test_a_request_names_the_delivery_and_the_files_that_were_seen(world: World) -> None:
    world.land()
    world.tick()
    (request,) = world.tick().run_requests
    assert request.partition_key == DELIVERY
    assert request.run_key == f"{DELIVERY}/{world.fingerprint()}/0"
    assert request.tags[FINGERPRINT_TAG] == world.fingerprint()
    assert request.tags[PARTITION_TAG] == DELIVERY


def test_a_delivery_becomes_a_partition_when_it_is_requested_and_not_before(world: World) -> None:
    world.land()
    for expected in ([], [DELIVERY]):
        (request,) = world.tick().dynamic_partitions_requests
        assert request.partitions_def_name == "dsi_delivery"
        assert list(request.partition_keys) == expected


def test_a_folder_with_another_name_than_a_delivery_is_not_requested(world: World) -> None:
    for name in ("2026-01-31", "2026-02-30-06:00:00", "_tmp", "2026-01-31-06:00:00.bak", "latest"):
        (world.landing_root / "dsi" / name / "sensor").mkdir(parents=True)
    assert world.requested(ticks=2) == []


@pytest.mark.parametrize("folder", [folder.name for folder in CONTRACT.folders])
def test_a_delivery_without_one_of_its_folders_is_arriving_however_long_it_takes(world: World, folder: str) -> None:
    world.land(**{folder: None})
    for _ in range(4):
        tick = world.tick()
        assert tick.run_requests == []
        assert tick.skip_message == f"{DELIVERY}: arriving: {folder} still missing"
    world.land()
    assert world.requested(ticks=2) == [DELIVERY]


def test_a_folder_without_a_parquet_file_is_still_missing(world: World) -> None:
    (world.land(sensor=None) / "sensor").mkdir()
    (world.landing_root / "dsi" / DELIVERY / "sensor" / "_SUCCESS").touch()
    (world.landing_root / "dsi" / DELIVERY / "sensor" / ".part-0.parquet.crc").touch()
    assert world.requested(ticks=3) == []


@pytest.mark.parametrize("change", ["written again", "added", "removed"])
def test_a_delivery_that_changes_between_two_ticks_waits_for_one_more(world: World, change: str) -> None:
    path = world.land(sensor=[table("sensor"), table("sensor", [record("sensor", id="sensor-2")])])
    world.tick()
    if change == "written again":
        touch(path / "sensor" / "part-0.parquet")
    elif change == "added":
        (path / "sensor" / "part-2.parquet").write_bytes((path / "sensor" / "part-0.parquet").read_bytes())
        touch(path / "sensor" / "part-2.parquet", -600)
    else:
        (path / "sensor" / "part-1.parquet").unlink()
    assert world.requested() == []
    assert world.requested() == [DELIVERY]


def test_a_delivery_whose_files_are_less_than_a_minute_old_is_arriving(world: World) -> None:
    world.land(age=0)
    for _ in range(3):
        assert world.tick().skip_message == f"{DELIVERY}: arriving: changed less than 60 seconds ago"


def test_as_long_as_files_change_a_delivery_is_not_requested(world: World) -> None:
    path = world.land()
    for _ in range(5):
        assert world.requested() == []
        touch(path / "sensor" / "part-0.parquet")


def test_an_ingested_delivery_is_not_requested(world: World) -> None:
    world.land()
    world.land(LATER)
    world.log(DELIVERY)
    assert world.requested(ticks=2) == [LATER]
    world.log(LATER)
    tick = world.tick()
    assert (tick.run_requests, tick.skip_message) == ([], "no new deliveries")


def test_a_delivery_that_was_removed_from_the_log_is_requested_again(world: World) -> None:
    world.land()
    world.log(DELIVERY)
    assert world.requested(ticks=3) == []
    deltalake.DeltaTable(str(world.lake_root / LOG)).delete(f"{DELIVERY_COLUMN} = '{DELIVERY}'")
    assert world.requested(ticks=2) == [DELIVERY]


def test_two_ticks_from_the_same_cursor_request_the_same_runs(world: World) -> None:
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
    assert world.requested(ticks=2) == [DELIVERY]
    assert world.requested(ticks=2) == [DELIVERY]


@pytest.mark.parametrize("cursor", [None, "", "nonsense", '{"seen": 3}', '{"start_after": "2026-01-01-06:00:00"}'])
def test_a_cursor_that_was_reset_or_edited_by_hand_costs_one_tick(world: World, cursor: str | None) -> None:
    world.land()
    assert world.requested(ticks=2) == [DELIVERY]
    world.cursor = cursor
    assert world.requested() == []
    assert world.requested() == [DELIVERY]


def test_a_delivery_whose_run_is_in_progress_is_not_requested_again(world: World) -> None:
    world.land()
    world.tick()
    world.run(DagsterRunStatus.STARTED, ago=timedelta(minutes=15))
    for _ in range(3):
        tick = world.tick()
        assert (tick.run_requests, tick.skip_message) == ([], f"{DELIVERY}: a run is in progress")


def test_a_run_that_was_created_and_never_launched_does_not_hold_a_delivery(world: World) -> None:
    world.land()
    world.tick()
    for count in range(1, 5):
        world.run(DagsterRunStatus.NOT_STARTED)
        (request,) = world.tick().run_requests
        assert request.run_key == f"{DELIVERY}/{world.fingerprint()}/{count}"


@pytest.mark.parametrize("status", [DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED])
def test_a_delivery_whose_run_failed_is_requested_again_after_a_pause_that_grows(
    world: World, status: DagsterRunStatus
) -> None:
    world.land()
    world.tick()
    world.run(status, ago=timedelta(minutes=9))
    assert world.tick().skip_message == f"{DELIVERY}: a run failed a short while ago"

    world.instance.wipe()
    world.run(status, ago=timedelta(minutes=11))
    (request,) = world.tick().run_requests
    assert request.run_key == f"{DELIVERY}/{world.fingerprint()}/1"
    world.run(status, ago=timedelta(minutes=19))
    assert world.requested() == []

    world.instance.wipe()
    world.run(status, ago=timedelta(hours=1))
    world.run(status, ago=timedelta(minutes=21))
    (request,) = world.tick().run_requests
    assert request.run_key == f"{DELIVERY}/{world.fingerprint()}/2"


def test_after_three_failed_runs_a_person_decides(world: World) -> None:
    world.land()
    world.tick()
    keys = set()
    for _ in range(3):
        keys |= {request.run_key for request in world.tick().run_requests}
        world.run(DagsterRunStatus.FAILURE, ago=LONG_AGO)
    assert len(keys) == 3
    expected = f"{DELIVERY}: 3 runs haven't succeeded; start one by hand when the cause is removed"
    assert world.tick().skip_message == expected
    assert world.requested(ticks=3) == []


def test_a_run_that_the_infrastructure_failed_is_repeated_after_an_hour_four_times_a_day(world: World) -> None:
    world.land()
    world.tick()
    failed = {"tags": {OUTCOME_TAG: INFRASTRUCTURE}}
    world.run(DagsterRunStatus.FAILURE, ago=timedelta(minutes=59), **failed)
    assert world.tick().skip_message == f"{DELIVERY}: a run failed a short while ago"

    world.instance.wipe()
    world.tick()
    for hours in (40, 30, 23, 9, 2):
        assert len(world.tick().run_requests) == 1
        world.run(DagsterRunStatus.FAILURE, ago=timedelta(hours=hours), **failed)
    (request,) = world.tick().run_requests
    assert request.run_key == f"{DELIVERY}/{world.fingerprint()}/5"
    world.run(DagsterRunStatus.FAILURE, ago=timedelta(minutes=61), **failed)
    assert world.tick().skip_message == f"{DELIVERY}: 4 runs were failed by the infrastructure within a day"


def test_a_run_that_failed_for_a_reason_that_stays_is_not_repeated(world: World) -> None:
    world.land()
    world.tick()
    world.run(DagsterRunStatus.FAILURE, ago=LONG_AGO, tags={OUTCOME_TAG: FAILED})
    assert world.tick().skip_message == (
        f"{DELIVERY}: a run failed, and a repetition can't help; start one by hand when the cause is removed"
    )
    world.run(DagsterRunStatus.FAILURE, ago=timedelta(hours=2), tags={OUTCOME_TAG: INFRASTRUCTURE})
    assert len(world.tick().run_requests) == 1  # a person has started another one since


def test_failed_runs_for_other_files_of_the_delivery_do_not_count(world: World) -> None:
    path = world.land()
    for _ in range(3):
        world.run(DagsterRunStatus.FAILURE)
    assert world.requested(ticks=2) == []
    touch(path / "sensor" / "part-0.parquet")
    assert world.requested(ticks=2) == [DELIVERY]


def test_a_refused_delivery_is_not_requested_until_its_files_change(world: World) -> None:
    path = world.land()
    world.refuse()
    world.tick()
    assert world.tick().skip_message == f"{DELIVERY}: refused, and unchanged since"
    for _ in range(4):
        assert world.requested() == []
    touch(path / "algorithm" / "part-0.parquet")
    assert world.requested(ticks=2) == [DELIVERY]


def test_a_refusal_of_other_files_does_not_count(world: World) -> None:
    world.land()
    world.refuse(fingerprint="old")
    assert world.requested(ticks=2) == [DELIVERY]


def test_a_refused_delivery_does_not_delay_others(world: World) -> None:
    world.land(EARLIER)
    world.land()
    world.land(LATER)
    world.refuse()
    assert world.requested(ticks=2) == [EARLIER, LATER]


def test_the_log_of_a_tick_that_requests_runs_says_what_the_other_deliveries_wait_for(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    world.land(EARLIER, sensor=None)
    world.land()
    world.tick()
    assert world.requested() == [DELIVERY]
    assert f"{EARLIER}: arriving: sensor still missing" in capfd.readouterr().err


def test_a_tick_requests_at_most_twenty_runs_and_the_next_ones_the_others(world: World) -> None:
    names = [name_of(day) for day in range(23)]
    for name in names:
        world.land(name)
    assert world.requested(ticks=2) == names[:20]
    world.log(*names[:20])
    assert world.requested() == names[20:]


def test_a_late_delivery_within_the_look_back_window_is_requested(world: World) -> None:
    world.land()
    world.log(DELIVERY)
    world.tick()
    world.land("2026-01-01-06:00:01")
    assert world.requested(ticks=2) == ["2026-01-01-06:00:01"]


def test_a_delivery_before_the_window_is_left_to_a_person_and_the_tick_says_how_to_ingest_it(world: World) -> None:
    world.land()
    world.log(DELIVERY)
    world.land("2026-01-01-06:00:00")
    world.land("2025-12-01-06:00:00")
    for _ in range(3):
        tick = world.tick()
        assert tick.run_requests == []
        assert tick.skip_message == (
            "2 older than the look-back window of 30 days, which no tick requests: "
            "`biocloud ingest 2026-01-01-06:00:00` ingests one"
        )


def test_the_window_is_a_setting(tmp_path: Path, instance: dg.DagsterInstance, reference: InstanceRef) -> None:
    world = World(tmp_path, instance, reference, days=2)
    world.land()
    world.log(DELIVERY)
    world.land("2026-01-29-06:00:00")
    world.land("2026-01-29-06:00:01")
    assert world.requested(ticks=2) == ["2026-01-29-06:00:01"]


def test_deliveries_before_the_first_day_of_the_environment_are_left_to_a_person(world: World) -> None:
    settings = Settings()
    settings.__dict__["not_before"] = "2026-01-01"
    world.repository = build_definitions(settings).get_repository_def()
    world.sensor = world.repository.get_sensor_def("dsi_deliveries")
    for name in ("2025-12-30-06:00:00", "2025-12-31-23:59:59", "2026-01-01-00:00:00"):
        world.land(name)
    assert world.requested(ticks=2) == ["2026-01-01-00:00:00"]
    world.log("2026-01-01-00:00:00")
    assert world.tick().skip_message == (
        "2 before 2026-01-01, the first day that `not_before` allows, which no tick requests: "
        "`biocloud ingest 2025-12-31-23:59:59` ingests one"
    )


def test_the_window_is_before_the_newest_ingested_delivery_and_not_before_an_open_one(world: World) -> None:
    world.land("2026-08-01-06:00:00", sensor=None)
    world.land()
    assert world.requested(ticks=2) == [DELIVERY]


def test_deliveries_of_every_possible_time_are_requested(world: World) -> None:
    world.land("0001-01-01-00:00:00")
    assert world.requested(ticks=2) == ["0001-01-01-00:00:00"]
    world.log("0001-01-01-00:00:00")
    world.land()
    assert world.requested(ticks=2) == [DELIVERY]


def test_a_delivery_named_after_a_future_day_does_not_hide_todays(world: World) -> None:
    world.land("2962-01-31-06:00:00")
    world.log("2962-01-31-06:00:00")
    world.tick()
    world.land(name := format_name(datetime.now(UTC)))
    assert world.requested(ticks=2) == [name]


def test_a_materialisation_that_a_person_reports_by_hand_delays_nothing(world: World) -> None:
    world.land()
    world.tick()
    key = asset_key(CONTRACT.landing_address("sensor"))
    world.instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=DELIVERY))
    assert world.requested() == [DELIVERY]


# Many deliveries


def hour(number: int) -> str:
    """The name of one of many deliveries, one an hour."""
    return format_name(datetime(2025, 1, 1, tzinfo=UTC) + timedelta(hours=number))


class Requests(logging.Handler):
    """The requests that moto's S3 receives."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def requests(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    handler, logger = Requests(), logging.getLogger("werkzeug")
    monkeypatch.setattr(logger, "level", logging.INFO)
    monkeypatch.setattr(logger, "propagate", False)
    logger.addHandler(handler)
    yield handler.lines
    logger.removeHandler(handler)


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """The SQL statements that Dagster's storages execute."""
    found: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        found.append(statement)

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", note)
    yield found
    sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", note)


@pytest.fixture
def s3_world(world: World, s3_root: str, s3_server: str) -> World:
    """A world whose landing zone is on S3."""
    world.lakehouse = LakehouseResource(
        landing_root=s3_root,
        lake_root=str(world.lake_root),
        curated_root="nowhere",
        engine="sail",
        s3_endpoint=s3_server,
    )
    return world


def put(world: World, names: Iterable[str]) -> None:
    """Put deliveries straight into the memory of moto's S3: as many requests would take minutes."""
    from moto.s3.models import s3_backends

    backend = s3_backends["123456789012"]["aws"]
    bucket, _, prefix = world.lakehouse.landing_root.removeprefix("s3://").partition("/")
    for name in names:
        for folder in CONTRACT.folders:
            key = backend.put_object(bucket, f"{prefix}/dsi/{name}/{folder.name}/part-0.parquet", b"x")
            key.last_modified = datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=1)


def log_many(world: World, names: Iterable[str]) -> None:
    """Commit deliveries to the delivery log, without their data files."""
    fields = pa.schema([(column.name, arrow_type(column.type)) for column in CONTRACT.log.columns])
    schema = deltalake.Schema.from_arrow(fields)
    path = world.lake_root / LOG
    log = (
        deltalake.DeltaTable(str(path))
        if path.exists()
        else deltalake.DeltaTable.create(str(path), schema, partition_by=[DELIVERY_COLUMN])
    )
    actions = [AddAction(f"{name}-{uuid.uuid4()}.parquet", 1, {DELIVERY_COLUMN: name}, 0, True, "{}") for name in names]
    log.create_write_transaction(actions, "append", schema, [DELIVERY_COLUMN])


def test_a_tick_with_ten_thousand_ingested_deliveries_lists_the_new_ones_only(
    s3_world: World, requests: list[str]
) -> None:
    known, new = [hour(number) for number in range(10_000)], [hour(number) for number in range(10_000, 10_020)]
    put(s3_world, [*known[-1_000:], *new])
    log_many(s3_world, known)
    s3_world.tick()
    names, late = 1, 2  # 1,000 names are listed by one request
    assert len(requests) == len(new) + names + late
    requests.clear()
    assert s3_world.requested() == new
    assert len(requests) == len(new) + names


def test_a_tick_with_thousands_of_new_deliveries_lists_sixty_of_them_and_keeps_a_small_cursor(
    s3_world: World, requests: list[str]
) -> None:
    names = [hour(number) for number in range(3_500)]
    put(s3_world, names)
    for expected in ([], names[:20], names[20:40]):
        requests.clear()
        tick = s3_world.tick()
        assert [request.partition_key for request in tick.run_requests] == expected
        assert len(requests) <= 60 + 2 * 4  # the files of 60, and the names of all, 1,000 at once
        assert len(str(tick.cursor)) < 4_096
        assert len(str(tick.skip_message)) < 4_096
        log_many(s3_world, expected)


def test_every_one_of_many_deliveries_is_requested_once(s3_world: World) -> None:
    names = [hour(number) for number in range(150)]
    put(s3_world, names)
    requested: list[str | None] = []
    for _ in range(12):
        found = s3_world.requested()
        log_many(s3_world, [str(name) for name in found])
        requested += found
    assert sorted(map(str, requested)) == names


def test_many_deliveries_that_are_arriving_do_not_hide_a_complete_one(world: World) -> None:
    for number in range(130):
        (world.landing_root / "dsi" / hour(number) / "sensor").mkdir(parents=True)
    world.land(hour(130))
    ticks = [world.tick() for _ in range(6)]
    assert [request.partition_key for tick in ticks for request in tick.run_requests] == [hour(130)]
    for tick in ticks:
        assert len(str(tick.skip_message)) < 4_096


def test_the_number_of_queries_to_dagster_does_not_grow_with_the_number_of_deliveries(
    world: World, statements: list[str]
) -> None:
    counts = []
    for number in (1, 12, 24):
        for name in map(hour, range(number)):
            world.land(name)
        world.tick()
        statements.clear()
        world.tick(keep_cursor=True)
        counts.append(len(statements))
    assert len(set(counts)) == 1, counts
