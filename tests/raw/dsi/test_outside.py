"""The sensor that reports what Airflow or a person has ingested: all of it, to the right partition, once."""

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
from deliveries import DELIVERY, record, write

from biocloud_assets.definitions import build_definitions
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi import contract, ingest, sensors
from biocloud_assets.raw.dsi.assets import assets as all_assets
from biocloud_assets.raw.dsi.checks import check_tables, landing_key, table_key
from biocloud_assets.raw.dsi.contract import DELIVERY_COLUMN, FOLDERS, LOG, TABLES
from biocloud_assets.raw.dsi.delivery import look
from biocloud_assets.raw.dsi.partitions import deliveries
from biocloud_assets.raw.dsi.sensors import refusal
from biocloud_assets.resources import LakehouseResource
from biocloud_assets.settings import Settings
from biocloud_assets.spark import delta

ROOT = Path(__file__).parents[3]
LATER = "2026-02-28-06:00:00"
ASSETS = {
    *(landing_key(folder.name).to_user_string() for folder in FOLDERS),
    *(table.path for table in (*TABLES, LOG)),
}


class World:
    """A landing zone and a lake that Airflow writes, and a Dagster that looks on."""

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

    @property
    def place(self) -> ingest.Place:
        return self.lakehouse.place()

    def tick(self, *, dies_after: int | None = None) -> list[dg.AssetMaterialization]:
        """Do what the daemon does: evaluate the sensor, report its events, add its partitions, keep its cursor.

        Args:
            dies_after: how many events it reports before it is killed.
        """
        context = dg.build_sensor_context(
            instance=self.instance,
            instance_ref=self.reference,
            cursor=self.cursor,
            repository_def=self.repository,
            resources={"lakehouse": self.lakehouse},
        )
        found = self.repository.get_sensor_def("dsi_outside").evaluate_tick(context)
        assert not found.run_requests
        events = list(found.asset_events)
        for event in events[:dies_after]:
            self.instance.report_runless_asset_event(event)
        if dies_after is None:
            self.cursor = found.cursor
        return events

    def land(self, name: str = DELIVERY, **folders: Any) -> None:
        write(self.root / "in", name, **folders)

    def ingest(self, name: str = DELIVERY, *, orchestrator: str = "airflow", run_id: str = "run-1") -> None:
        for table in TABLES:
            ingest.write_table(self.place, name, table)
        ingest.record(self.place, name, engine="sail", orchestrator=orchestrator, run_id=run_id)

    def job(self, *assets: dg.AssetKey) -> dg.ExecuteInProcessResult:
        """Let Dagster itself ingest the delivery, or make some of its assets."""
        self.instance.add_dynamic_partitions(str(deliveries.name), [DELIVERY])
        return dg.materialize(
            [*all_assets, check_tables],
            selection=list(assets) or None,
            instance=self.instance,
            partition_key=DELIVERY,
            resources={"lakehouse": self.lakehouse, "step_launcher": None},
            raise_on_error=False,
        )

    def told(self, asset: dg.AssetKey, delivery: str = DELIVERY) -> list[dict[str, Any]]:
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
    steps = [argument for table in (*TABLES, LOG) for argument in ("--step", table.path)]
    where = ["--landing-root", str(root / "in"), "--lake-root", str(root / "out"), "--engine", "sail"]
    who = ["--orchestrator", "airflow", "--run-id", "scheduled__2026-01-31"]
    subprocess.run(
        [sys.executable, ROOT / "databricks/run_step.py", *steps, "--delivery", DELIVERY, *where, *who],
        check=True,
        capture_output=True,
        timeout=150,
    )
    return root


@pytest.fixture
def empty(tmp_path: Path, reference: InstanceRef) -> Iterator[World]:
    """Nothing has landed yet."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield World(tmp_path / "data", instance, reference)


@pytest.fixture
def world(empty: World, ingested: Path) -> World:
    shutil.copytree(ingested, empty.root)
    return empty


def test_before_anything_was_ingested_there_is_nothing_to_report(empty: World) -> None:
    assert empty.tick() == []
    assert empty.tick() == []


def test_what_airflow_ingested_is_a_materialisation_of_every_asset_with_its_rows_and_who_it_was(world: World) -> None:
    assert of(world.tick()) == {DELIVERY: ASSETS}
    assert world.instance.get_dynamic_partitions(str(deliveries.name)) == [DELIVERY]
    for table in TABLES:
        (told,) = world.told(table_key(table))
        assert told["dagster/partition_row_count"] == (2 if table.name == "sensor" else 1)
        assert (told["orchestrator"], told["run"], told["engine"]) == ("airflow", "scheduled__2026-01-31", "sail")
        size, version = delta.partition_size(world.lakehouse.lake(), table.path, DELIVERY_COLUMN, DELIVERY)
        assert (told["bytes"], told["delta_version"]) == (size, version)
    (log,) = world.told(table_key(LOG))
    assert log["rows"] == len(TABLES) + 1
    (folder,) = world.told(landing_key("sensor"))
    assert folder["dagster/row_count"] == 2
    assert folder["fingerprint"] == look(world.lakehouse.landing(), DELIVERY).fingerprint


def test_it_is_reported_once(world: World) -> None:
    world.tick()
    assert world.tick() == []
    world.cursor = None  # as a person resets it in the UI
    assert world.tick() == []


@pytest.mark.parametrize("reported", [0, 1, 7, 15])
def test_a_tick_that_is_killed_after_any_event_leaves_exactly_the_others_to_the_next(
    world: World, reported: int
) -> None:
    world.tick(dies_after=reported)
    assert world.instance.get_dynamic_partitions(str(deliveries.name)) == [DELIVERY], "before the first event"
    assert len(world.tick()) == len(ASSETS) - reported
    for asset in ASSETS:
        assert len(world.told(dg.AssetKey(asset.split("/")))) == 1


def test_what_dagster_itself_ingested_is_not_reported(empty: World) -> None:
    empty.land()
    assert empty.job().success
    assert empty.tick() == []


def test_what_another_dagster_ingested_is_reported(empty: World) -> None:
    empty.land()
    empty.ingest(orchestrator="dagster", run_id="8c1f0a52-0000-0000-0000-000000000000")
    assert of(empty.tick()) == {DELIVERY: ASSETS}
    assert empty.told(table_key(LOG))[0]["orchestrator"] == "dagster"


def test_an_asset_that_dagster_has_made_since_keeps_dagsters_report(world: World) -> None:
    sensor = table_key(contract.table("sensor"))
    assert world.job(sensor).success
    assert of(world.tick()) == {DELIVERY: ASSETS - {sensor.to_user_string()}}
    assert "orchestrator" not in world.told(sensor)[0]


def test_a_delivery_that_changed_is_reported_again_when_it_is_ingested_again(world: World) -> None:
    world.tick()
    world.land(sensor=[record("sensor", id=f"sensor-{number}") for number in range(1, 4)])
    ingest.write_table(world.place, DELIVERY, TABLES[0])
    assert world.tick() == [], "out of the log while its tables are being replaced"
    world.ingest(orchestrator="by hand", run_id="")
    assert of(world.tick()) == {DELIVERY: ASSETS}
    new, old = world.told(table_key(contract.table("sensor")))
    assert (old["dagster/partition_row_count"], old["orchestrator"]) == (2, "airflow")
    assert (new["dagster/partition_row_count"], new["orchestrator"]) == (3, "by hand")


def test_what_was_withdrawn_and_ingested_again_between_two_ticks_is_reported_again(world: World) -> None:
    world.tick()
    lake = deltalake.DeltaTable(str(world.root / "out" / LOG.path))
    lake.delete(f"{DELIVERY_COLUMN} = '{DELIVERY}'")
    world.ingest(run_id="run-2")
    assert of(world.tick()) == {DELIVERY: ASSETS}


def test_all_of_several_deliveries_between_two_ticks_are_reported(world: World) -> None:
    for name in ("2026-03-01-06:00:00", LATER):
        world.land(name)
        world.ingest(name)
    assert of(world.tick()) == dict.fromkeys([DELIVERY, LATER, "2026-03-01-06:00:00"], ASSETS)


def test_when_the_log_was_made_anew_only_what_is_new_is_reported(world: World) -> None:
    """Its version goes back then."""
    world.land(LATER)
    world.ingest(LATER)
    world.tick()
    rows = deltalake.DeltaTable(str(world.root / "out" / LOG.path)).to_pyarrow_table()
    shutil.rmtree(world.root / "out" / LOG.path)
    assert world.tick() == [], "no log, no news"
    deltalake.write_deltalake(str(world.root / "out" / LOG.path), rows, partition_by=[DELIVERY_COLUMN])
    assert world.tick() == []
    third = "2026-03-01-06:00:00"
    world.land(third)
    world.ingest(third)
    assert of(world.tick()) == {third: ASSETS}


def test_a_history_that_was_cleaned_up_hides_nothing_and_repeats_nothing(world: World) -> None:
    world.tick()
    world.land(LATER)
    world.ingest(LATER)
    table = deltalake.DeltaTable(str(world.root / "out" / LOG.path))
    table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    table.create_checkpoint()
    commits = sorted((world.root / "out" / LOG.path / "_delta_log").glob("*.json"))
    for commit in commits[:-1]:
        commit.unlink()
    assert of(world.tick()) == {LATER: ASSETS}


def fill(world: World, count: int) -> list[str]:
    """Put deliveries into the log alone, all at once."""
    names = [f"2027-01-01-00:{number:02}:00" for number in range(count)]
    schema = pa.schema([(column.name, contract.arrow_type(column.type)) for column in LOG.columns])
    row = {"rows": dict.fromkeys((table.name for table in TABLES), 5), "orchestrator": "airflow", "run_id": "backfill"}
    row |= {"engine": "databricks", "ingested_at": datetime(2027, 1, 2, tzinfo=UTC), "source_fingerprint": "0"}
    rows = [
        {DELIVERY_COLUMN: name, "contract_version": 1, "source_files": 5, "source_bytes": 9, **row} for name in names
    ]
    path = str(world.root / "out" / LOG.path)
    deltalake.write_deltalake(path, pa.Table.from_pylist(rows, schema), partition_by=[DELIVERY_COLUMN], mode="append")
    return names


def test_a_backlog_is_worked_off_over_some_ticks_and_none_is_forgotten(
    empty: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "_REPORTS_PER_TICK", 3)
    names = fill(empty, 7)
    ticks = [of(empty.tick()) for _ in range(4)]
    assert [len(one) for one in ticks] == [3, 3, 1, 0]
    assert sorted(str(name) for one in ticks for name in one) == names


def test_a_tick_without_news_reads_the_log_and_nothing_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.tick()
    opened = []
    really = delta.open_table

    def note(lake: DataLake, path: str) -> Any:
        opened.append(path)
        return really(lake, path)

    monkeypatch.setattr(delta, "open_table", note)
    monkeypatch.setattr(dg.DagsterInstance, "fetch_materializations", None)
    assert world.tick() == []
    assert opened == [LOG.path]


def test_a_delivery_that_dagster_refused_is_no_longer_refused_when_airflow_has_ingested_it_mended(
    empty: World,
) -> None:
    empty.land(sensor=[record("sensor", id=None)])
    assert not empty.job().success
    assert refusal(empty.instance, DELIVERY) is not None
    empty.land()
    empty.ingest()
    assert of(empty.tick()) == {DELIVERY: ASSETS}
    assert refusal(empty.instance, DELIVERY) is None


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
    assert empty.told(table_key(TABLES[0]))[0]["dagster/uri"] == f"{s3_root}/out/{TABLES[0].path}"


def test_the_engine_is_not_needed_to_look(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("biocloud_assets.resources.get_session", None)
    assert of(world.tick()) == {DELIVERY: ASSETS}
