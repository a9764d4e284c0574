"""The sensor that reports what Airflow or a script has ingested: everything, for the right partition, once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import deltalake
import pyarrow as pa
import pytest
from dagster._core.instance.ref import InstanceRef

from biocloud_assets.definitions import build_definitions
from biocloud_assets.ingest.delivery import list_delivery
from biocloud_assets.ingest.step import ingest_step
from biocloud_assets.lake import DataLake
from biocloud_assets.launch.results import asset_key
from biocloud_assets.raw import sensors
from biocloud_assets.raw.assets import build_source
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.resources import LakehouseResource
from biocloud_assets.schema import DELIVERY_COLUMN, arrow_type
from biocloud_assets.settings import Settings
from biocloud_assets.spark import delta_log
from biocloud_assets.steps import RunInfo, StepRequest
from tests.ingest.deliveries import DELIVERY, record, write

ROOT = Path(__file__).parents[2]
LATER = "2026-02-28-06:00:00"
ASSETS = set(CONTRACT.addresses)
LOG = CONTRACT.address(CONTRACT.log)
SENSOR = asset_key(CONTRACT.address(CONTRACT.table("sensor")))


class World:
    """A landing zone and a lake that Airflow writes, and a Dagster instance that observes them."""

    def __init__(self, root: Path, instance: dg.DagsterInstance, reference: InstanceRef) -> None:
        self.root, self.instance, self.reference = root, instance, reference
        self.lakehouse = LakehouseResource(
            landing_root=str(root / "in"),
            lake_root=str(root / "out"),
            curated_root=str(root / "curated"),
            engine="sail",
        )
        self.repository = build_definitions(Settings()).get_repository_def()
        self.cursor: str | None = None

    def tick(self, *, killed_after: int | None = None) -> list[dg.AssetMaterialization]:
        """Do what the daemon does: evaluate the sensor, report its events, add its partitions, keep its cursor.

        Args:
            killed_after: how many events it reports before it is killed.
        """
        context = dg.build_sensor_context(
            instance=self.instance,
            instance_ref=self.reference,
            cursor=self.cursor,
            repository_def=self.repository,
            resources={"lakehouse": self.lakehouse},
        )
        found = self.repository.get_sensor_def("dsi_external_ingests").evaluate_tick(context)
        assert not found.run_requests
        events = list(found.asset_events)
        for event in events[:killed_after]:
            self.instance.report_runless_asset_event(event)
        if killed_after is None:
            self.cursor = found.cursor
        return events

    def land(self, name: str = DELIVERY, **folders: Any) -> None:
        write(self.root / "in", name, **folders)

    def ingest(self, name: str = DELIVERY, *, orchestrator: str = "airflow", run_id: str = "run-1") -> None:
        request = StepRequest(CONTRACT.addresses, (), name)
        run = RunInfo(orchestrator, run_id, "sail")
        assert list(ingest_step(self.lakehouse.ingest_context(CONTRACT), request, run))

    def job(self, *assets: dg.AssetKey) -> dg.ExecuteInProcessResult:
        """Let Dagster itself ingest the delivery, or materialise some of its assets."""
        self.instance.add_dynamic_partitions("dsi_delivery", [DELIVERY])
        return dg.materialize(
            [build_source(CONTRACT).assets],
            selection=list(assets) or None,
            instance=self.instance,
            partition_key=DELIVERY,
            resources={"lakehouse": self.lakehouse, "step_launcher": None},
            raise_on_error=False,
        )

    def reported(self, asset: dg.AssetKey, delivery: str = DELIVERY) -> list[dict[str, Any]]:
        """The metadata of all that was ever reported of an asset's partition, the newest first."""
        records = self.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[delivery]), limit=100
        ).records
        return [
            {name: value.value for name, value in one.asset_materialization.metadata.items()}  # type: ignore[union-attr]
            for one in records
        ]


def of(events: list[dg.AssetMaterialization]) -> dict[str | None, set[str]]:
    """The assets that events are of, by delivery; none twice."""
    found: dict[str | None, set[str]] = {}
    for event in events:
        assets = found.setdefault(event.partition, set())
        assert event.asset_key.to_user_string() not in assets
        assets.add(event.asset_key.to_user_string())
    return found


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InstanceRef]:
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as instance:
        yield instance.get_ref()


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A delivery, ingested as an Airflow task on a cluster does it; copied for each test."""
    root = tmp_path_factory.mktemp("ingested")
    write(root / "in", sensor=[record("sensor"), record("sensor", id="sensor-2")])
    request = StepRequest(CONTRACT.addresses, (), DELIVERY).arguments()
    roots = ["--landing-root", str(root / "in"), "--lake-root", str(root / "out"), "--engine", "sail"]
    run = ["--orchestrator", "airflow", "--run-id", "scheduled__2026-01-31"]
    subprocess.run(
        [sys.executable, ROOT / "databricks/run_step.py", *request, *roots, *run],
        check=True,
        capture_output=True,
        timeout=150,
    )
    return root


@pytest.fixture
def empty(tmp_path: Path, reference: InstanceRef) -> Iterator[World]:
    """Nothing was delivered yet."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield World(tmp_path / "data", instance, reference)


@pytest.fixture
def world(empty: World, ingested: Path) -> World:
    shutil.copytree(ingested, empty.root)
    return empty


def test_before_anything_was_ingested_there_is_nothing_to_report(empty: World) -> None:
    assert empty.tick() == []
    assert empty.tick() == []


def test_what_airflow_ingested_is_a_materialisation_of_every_asset_with_its_rows_and_its_run(world: World) -> None:
    assert of(world.tick()) == {DELIVERY: ASSETS}
    assert world.instance.get_dynamic_partitions("dsi_delivery") == [DELIVERY]
    for table in CONTRACT.tables:
        (found,) = world.reported(asset_key(CONTRACT.address(table)))
        assert found["dagster/partition_row_count"] == (2 if table.name == "sensor" else 1)
        assert (found["orchestrator"], found["run"], found["engine"]) == ("airflow", "scheduled__2026-01-31", "sail")
        sizes, version = delta_log.partition_sizes(world.lakehouse.lake(), CONTRACT.address(table), DELIVERY_COLUMN)
        assert (found["bytes"], found["delta_version"]) == (sizes[DELIVERY], version)
    (log,) = world.reported(asset_key(LOG))
    assert log["rows"] == len(CONTRACT.tables) + 1
    (folder,) = world.reported(asset_key(CONTRACT.landing_address("sensor")))
    assert folder["dagster/partition_row_count"] == 2
    assert folder["fingerprint"] == list_delivery(world.lakehouse.landing(), CONTRACT, DELIVERY).fingerprint


def test_it_is_reported_once(world: World) -> None:
    world.tick()
    assert world.tick() == []
    world.cursor = None  # as a person resets it in the UI
    assert world.tick() == []


@pytest.mark.parametrize("reported", [0, 1, 7, 15])
def test_a_tick_that_is_killed_after_any_event_leaves_exactly_the_others_to_the_next(
    world: World, reported: int
) -> None:
    world.tick(killed_after=reported)
    assert world.instance.get_dynamic_partitions("dsi_delivery") == [DELIVERY], "before the first event"
    assert len(world.tick()) == len(ASSETS) - reported
    for asset in ASSETS:
        assert len(world.reported(asset_key(asset))) == 1


def test_what_dagster_itself_ingested_is_not_reported(empty: World) -> None:
    empty.land()
    assert empty.job().success
    assert empty.tick() == []


def test_what_another_dagster_ingested_is_reported(empty: World) -> None:
    empty.land()
    empty.ingest(orchestrator="dagster", run_id="8c1f0a52-0000-0000-0000-000000000000")
    assert of(empty.tick()) == {DELIVERY: ASSETS}
    assert empty.reported(asset_key(LOG))[0]["orchestrator"] == "dagster"


def test_an_asset_that_dagster_has_materialised_since_keeps_that_materialisation(world: World) -> None:
    assert world.job(SENSOR).success
    assert of(world.tick()) == {DELIVERY: ASSETS - {SENSOR.to_user_string()}}
    assert "orchestrator" not in world.reported(SENSOR)[0]


def test_a_delivery_that_changed_is_reported_again_when_it_is_ingested_again(world: World) -> None:
    world.tick()
    world.land(sensor=[record("sensor", id=f"sensor-{number}") for number in range(1, 4)])
    table = StepRequest((CONTRACT.address(CONTRACT.table("sensor")),), (), DELIVERY)
    list(ingest_step(world.lakehouse.ingest_context(CONTRACT), table, RunInfo("script", "", "sail")))
    assert world.tick() == [], "not in the log while its tables are being replaced"
    world.ingest(orchestrator="script", run_id="")
    assert of(world.tick()) == {DELIVERY: ASSETS}
    new, old = world.reported(SENSOR)
    assert (old["dagster/partition_row_count"], old["orchestrator"]) == (2, "airflow")
    assert (new["dagster/partition_row_count"], new["orchestrator"]) == (3, "script")


def test_what_was_removed_from_the_log_and_ingested_again_between_two_ticks_is_reported_again(world: World) -> None:
    world.tick()
    lake = deltalake.DeltaTable(str(world.root / "out" / LOG))
    lake.delete(f"{DELIVERY_COLUMN} = '{DELIVERY}'")
    world.ingest(run_id="run-2")
    assert of(world.tick()) == {DELIVERY: ASSETS}


def test_all_of_several_deliveries_between_two_ticks_are_reported(world: World) -> None:
    for name in ("2026-03-01-06:00:00", LATER):
        world.land(name)
        world.ingest(name)
    assert of(world.tick()) == dict.fromkeys([DELIVERY, LATER, "2026-03-01-06:00:00"], ASSETS)


def test_when_the_log_was_created_again_only_what_is_new_is_reported(world: World) -> None:
    """Its version goes back then."""
    world.land(LATER)
    world.ingest(LATER)
    world.tick()
    rows = deltalake.DeltaTable(str(world.root / "out" / LOG)).to_pyarrow_table()
    shutil.rmtree(world.root / "out" / LOG)
    assert world.tick() == [], "no log"
    deltalake.write_deltalake(str(world.root / "out" / LOG), rows, partition_by=[DELIVERY_COLUMN])
    assert world.tick() == []
    third = "2026-03-01-06:00:00"
    world.land(third)
    world.ingest(third)
    assert of(world.tick()) == {third: ASSETS}


def test_a_history_that_was_cleaned_up_hides_nothing_and_repeats_nothing(world: World) -> None:
    world.tick()
    world.land(LATER)
    world.ingest(LATER)
    table = deltalake.DeltaTable(str(world.root / "out" / LOG))
    table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    table.create_checkpoint()
    commits = sorted((world.root / "out" / LOG / "_delta_log").glob("*.json"))
    for commit in commits[:-1]:
        commit.unlink()
    assert of(world.tick()) == {LATER: ASSETS}


def fill(world: World, count: int) -> list[str]:
    """Put deliveries into the log alone, all at once."""
    names = [f"2027-01-01-00:{number:02}:00" for number in range(count)]
    schema = pa.schema([(column.name, arrow_type(column.type)) for column in CONTRACT.log.columns])
    row = {
        "rows": dict.fromkeys((table.name for table in CONTRACT.tables), 5),
        "orchestrator": "airflow",
        "run_id": "backfill",
    }
    row |= {"engine": "databricks", "ingested_at": datetime(2027, 1, 2, tzinfo=UTC), "source_fingerprint": "0"}
    rows = [
        {DELIVERY_COLUMN: name, "contract_version": 1, "source_files": 5, "source_bytes": 9, **row} for name in names
    ]
    path = str(world.root / "out" / LOG)
    deltalake.write_deltalake(path, pa.Table.from_pylist(rows, schema), partition_by=[DELIVERY_COLUMN], mode="append")
    return names


def test_a_backlog_is_reported_over_some_ticks_completely_and_the_cursor_stays_small(
    empty: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "_REPORTS_PER_TICK", 3)
    names = fill(empty, 7)
    ticks = []
    for _ in range(4):
        ticks.append(of(empty.tick()))
        assert len(str(empty.cursor)) < 500
    assert [len(one) for one in ticks] == [3, 3, 1, 0]
    assert sorted(str(name) for one in ticks for name in one) == names


def test_what_is_ingested_while_a_backlog_is_reported_is_reported_too(
    empty: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "_REPORTS_PER_TICK", 3)
    names = fill(empty, 4)
    reported = [*of(empty.tick())]
    empty.land()
    empty.ingest()
    assert names[0] > DELIVERY, "before those that the first tick has reported"
    for _ in range(3):
        reported += of(empty.tick())
    assert sorted(map(str, reported)) == [DELIVERY, *names]


def test_a_tick_without_news_reads_the_log_and_nothing_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.tick()
    opened = []
    real = delta_log.open_table

    def note(lake: DataLake, path: str) -> Any:
        opened.append(path)
        return real(lake, path)

    monkeypatch.setattr(delta_log, "open_table", note)
    monkeypatch.setattr(dg.DagsterInstance, "fetch_materializations", None)
    assert world.tick() == []
    assert opened == [LOG]


def test_it_works_on_s3(empty: World, s3_root: str, s3_server: str, tmp_path: Path) -> None:
    empty.lakehouse = LakehouseResource(
        landing_root=f"{s3_root}/in",
        lake_root=f"{s3_root}/out",
        curated_root=f"{s3_root}/curated",
        engine="sail",
        s3_endpoint=s3_server,
    )
    source = write(tmp_path / "made")
    for file in sorted(source.rglob("*.parquet")):
        name = f"dsi/{DELIVERY}/{file.relative_to(source).as_posix()}"
        empty.lakehouse.landing().write(name, file.read_bytes())
    empty.ingest()
    assert of(empty.tick()) == {DELIVERY: ASSETS}
    assert empty.tick() == []
    assert empty.reported(SENSOR)[0]["dagster/uri"] == f"{s3_root}/out/raw/dsi/sensor"


def test_no_engine_is_needed_to_report(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("biocloud_assets.resources.get_session", None)
    assert of(world.tick()) == {DELIVERY: ASSETS}
