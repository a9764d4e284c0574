"""`biocloud deliveries`: the state of each delivery, and how much it asks S3 and Dagster for."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import deltalake
import pyarrow as pa
import pytest

from biocloud_assets.cli import deliveries as command
from biocloud_assets.cli.home import open_instance
from biocloud_assets.errors import DeliveryNameError
from biocloud_assets.ingest.delivery import format_name, list_delivery
from biocloud_assets.lake import DataLake
from biocloud_assets.launch.launcher import FINGERPRINT_TAG, OUTCOME_TAG, PARTITION_TAG, REASON_TAG, REFUSED
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.schema import DELIVERY_COLUMN, arrow_type
from biocloud_assets.settings import Settings
from tests.ingest.deliveries import DELIVERY, write

LOG = CONTRACT.address(CONTRACT.log)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("BIOCLOUD_HOME", str(tmp_path))
    monkeypatch.setenv("BIOCLOUD_QUIET_SECONDS", "0")
    for name in ("DAGSTER_HOME", "BIOCLOUD_LANDING_ROOT", "BIOCLOUD_LAKE_ROOT"):
        monkeypatch.setenv(name, "")
    return Settings.load()


def log(settings: Settings, *names: str) -> None:
    schema = pa.schema([(column.name, arrow_type(column.type)) for column in CONTRACT.log.columns])
    rows = pa.Table.from_pylist([{DELIVERY_COLUMN: name} for name in names], schema=schema)
    deltalake.write_deltalake(f"{settings.lake}/{LOG}", rows, partition_by=[DELIVERY_COLUMN], mode="append")


def states(settings: Settings) -> dict[str, tuple[str, str]]:
    landing, lake = DataLake.at(settings.landing), DataLake.at(settings.lake)
    return {one.delivery: (one.state, one.reason) for one in command.states(settings, landing, lake, CONTRACT)}


def test_each_delivery_has_a_state_and_a_reason(settings: Settings) -> None:
    landing = Path(settings.landing)
    ingested, gone, half, new, late = (
        "2026-03-01-06:00:00",
        "2026-03-02-06:00:00",
        "2026-03-03-06:00:00",
        "2026-03-04-06:00:00",
        "2025-03-05-06:00:00",
    )
    for name in (ingested, new, late):
        write(landing, name)
    write(landing, half, sensor=None)
    log(settings, ingested, gone)
    assert states(settings) == {
        late: (
            "late",
            f"older than the look-back window of 30 days, so no sensor takes it: biocloud ingest {late}",
        ),
        ingested: ("ingested", ""),
        gone: ("ingested", "no longer in the landing zone"),
        half: ("arriving", "sensor still missing"),
        new: ("complete", "not ingested yet"),
    }


def test_deliveries_before_the_first_day_of_the_environment_are_left_to_a_person(settings: Settings) -> None:
    settings.__dict__["not_before"] = "2026-03-02"
    before, after = "2026-03-01-23:59:59", "2026-03-02-00:00:00"
    for name in (before, after):
        write(Path(settings.landing), name)
    assert states(settings) == {
        before: (
            "late",
            "before 2026-03-02, the first day that `not_before` of local allows, so no sensor takes it: "
            f"biocloud ingest {before}",
        ),
        after: ("complete", "not ingested yet"),
    }


def test_a_refusal_counts_as_long_as_the_files_are_those_that_were_refused(settings: Settings) -> None:
    path = write(Path(settings.landing))
    fingerprint = list_delivery(DataLake.at(settings.landing), CONTRACT, DELIVERY).fingerprint
    with open_instance(settings) as instance:
        from biocloud_assets.definitions import build_definitions

        job = build_definitions(settings).resolve_job_def("dsi_raw")
        tags = {PARTITION_TAG: DELIVERY, OUTCOME_TAG: REFUSED, REASON_TAG: "1 violation", FINGERPRINT_TAG: fingerprint}
        instance.create_run_for_job(job, tags=tags)
    assert states(settings)[DELIVERY] == ("refused", "1 violation")
    (path / "sensor" / "part-0.parquet").unlink()
    assert states(settings)[DELIVERY][0] == "arriving"


def test_dagster_is_asked_once_however_many_deliveries_there_are(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(command, "refusals", lambda *_: asked.append(1) or {})
    start = datetime(2026, 1, 1, tzinfo=UTC)
    names = [format_name(start + timedelta(minutes=number)) for number in range(3_500)]
    for name in names:
        (Path(settings.landing) / "dsi" / name / "sensor").mkdir(parents=True)
    assert {state for state, _ in states(settings).values()} == {"arriving"}
    assert len(asked) == 1


def test_a_delivery_can_be_registered_as_a_partition(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    write(Path(settings.landing))
    command.deliveries(as_json=True, names=[DELIVERY])
    assert [row["state"] for row in json.loads(capsys.readouterr().out)] == ["complete"]
    with open_instance(settings) as instance:
        assert instance.get_dynamic_partitions("dsi_delivery") == [DELIVERY]
    with pytest.raises(DeliveryNameError, match="delivery 2030-01-01-00:00:00: expected a folder at"):
        command.deliveries(as_json=True, names=["2030-01-01-00:00:00"])
