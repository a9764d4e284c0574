"""The bundled sample, published: compared with its source, in a folder and in S3, by Dagster and the command line."""

from __future__ import annotations

import base64
import csv
import shutil
import sys
import warnings
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from biocloud_assets.cli import commands
from biocloud_assets.curated.dsi import step
from biocloud_assets.curated.dsi.assets import MANIFEST, OBSERVATION, RETENTION
from biocloud_assets.curated.dsi.plot import detections_by_day
from biocloud_assets.curated.dsi.results import LOG_VERSION
from biocloud_assets.curated.dsi.sensors import VERSION_TAG
from biocloud_assets.definitions import build_definitions
from biocloud_assets.errors import LakeError, RunDateError, TableError
from biocloud_assets.ingest.context import FILES, IngestContext
from biocloud_assets.ingest.snapshot import Snapshot, take_snapshot
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.resources import LakehouseResource
from biocloud_assets.sample import land_bundled
from biocloud_assets.settings import Settings
from biocloud_assets.spark import delta_log
from biocloud_assets.spark.table_reader import DeltaRsReader
from tests.curated.dsi.curated_lake import assert_manifests_match, contents, published
from tests.ingest.lakehouse import context_at, ingest

# --- the Camtrap DP example -------------------------------------------------------------------------------------------


def lines(name: str) -> list[dict[str, str]]:
    with (Path(__file__).parent / "camtrap" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[IngestContext, Path]:
    root = tmp_path_factory.mktemp("sample")
    context = context_at(root)
    ingest(context, *land_bundled(context.landing))
    return context, root


def utc(text: str) -> str:
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def number(text: str) -> float | None:
    return float(text) if text else None


def test_every_observation_of_a_medium_agrees_with_the_source(sample: tuple[IngestContext, Path]) -> None:
    """One by one: species, date, position, medium, probability, who identified it, event and deployment."""
    rows = published(*sample, "2023-02-07")
    deployments = {line["deploymentID"]: line for line in lines("deployments.csv")}
    media = {line["mediaID"]: line for line in lines("media.csv")}
    source = [line for line in lines("observations.csv") if line["observationLevel"] == "media"]
    assert len(source) == 513
    expected = []
    for line in source:
        deployment = deployments[line["deploymentID"]]
        expected.append(
            {
                "regionGroupID": line["observationID"],
                "eventID": line["eventID"],
                "parentEventID": line["deploymentID"],
                "eventDate": utc(line["eventStart"]),
                "scientificName": line["scientificName"] or None,
                "occurrenceStatus": "present" if line["scientificName"] else None,
                "organismID": line["individualID"] or None,
                "decimalLatitude": float(deployment["latitude"]),
                "decimalLongitude": float(deployment["longitude"]),
                "coordinateUncertaintyInMeters": float(deployment["coordinateUncertainty"]),
                "locality": deployment["locationName"],
                "habitat": deployment["habitat"],
                "samplingEffort": f"{utc(deployment['deploymentStart'])}/{utc(deployment['deploymentEnd'])}",
                "sensorID": deployment["cameraID"],
                "associatedMedia": media[line["mediaID"]]["filePath"],
                "probability": number(line["classificationProbability"]),
                # The version of a model is a field of its own in the contract.
                "identifiedBy": line["classifiedBy"].replace(" Version ", " "),
                "basisOfRecord": "MachineObservation",
                "samplingProtocol": "camera",
            }
        )
    compared = [{name: row[name] for name in expected[0]} for row in rows]
    by_group = sorted(compared, key=lambda row: row["regionGroupID"])
    assert by_group == sorted(expected, key=lambda row: row["regionGroupID"])


def test_only_the_documented_fields_differ_from_the_source(sample: tuple[IngestContext, Path]) -> None:
    """Observations of whole events have no region group; the time of a result is that of its last classification."""
    rows = published(*sample, "2023-02-07")
    source = lines("observations.csv")
    assert len(source) - len(rows) == sum(line["observationLevel"] == "event" for line in source) == 36
    by_group = {line["observationID"]: line for line in source}
    for row in rows:
        line = by_group[row["regionGroupID"]]
        same_result = [
            utc(other["classificationTimestamp"])
            for other in source
            if (other["eventID"], other["classifiedBy"]) == (line["eventID"], line["classifiedBy"])
            and other["classificationTimestamp"]
        ]
        assert row["dateIdentified"] == max(same_result, default=None)


def test_a_day_has_the_deliveries_until_its_end(sample: tuple[IngestContext, Path]) -> None:
    context, root = sample
    assert len(published(context, root, "2020-12-31")) == 0, "people's results for whole events only"
    assert len(published(context, root, "2021-10-10")) == 0
    assert len(published(context, root, "2021-10-11")) == 20
    assert len(published(context, root, "2023-02-06")) == 20
    with pytest.raises(TableError, match="expected an ingested delivery of 2020-07-09 or earlier, found none"):
        published(context, root, "2020-07-09")
    with pytest.raises(RunDateError):
        published(context, root, "2020-07-32")
    assert (
        take_snapshot(context.tables, CONTRACT, date(2021, 10, 11)).deliveries
        == context.landing.list("dsi").folders[:3]
    )


# --- in a folder and in S3 --------------------------------------------------------------------------------------------


def test_two_days_are_published_once_and_the_older_one_is_deleted(
    sample: tuple[IngestContext, Path], lake: DataLake
) -> None:
    """`lake` is the curated layer, in a folder and in S3."""
    context, _ = sample

    def deliver(day: str, days: int) -> tuple[int, bool, list[str]]:
        published = step.publish(context, lake, day)
        written = step.manifest(lake, day).written
        cleaned = step.cleanup(lake, day, days)
        return published.changed, written, [str(removal.date) for removal in cleaned.removals]

    assert deliver("2021-12-01", 30) == (1, True, [])
    assert deliver("2023-02-07", 1000) == (1, True, [])
    assert assert_manifests_match(lake) == ["2021-12-01", "2023-02-07"]

    before, listed = contents(lake), list(lake.walk())
    assert deliver("2021-12-01", 1000) == deliver("2023-02-07", 1000) == (0, False, [])
    assert (contents(lake), list(lake.walk())) == (before, listed), "not one file was written again"

    assert deliver("2023-02-07", 433) == (0, False, []), "exactly on the cutoff"
    assert deliver("2023-02-07", 432) == (0, False, ["2021-12-01"])
    assert contents(lake) == {path: data for path, data in before.items() if "2023-02-07" in path}


def test_a_dry_run_of_each_step_changes_nothing(sample: tuple[IngestContext, Path], lake: DataLake) -> None:
    context, _ = sample
    publication = step.publish(context, lake, "2023-02-07", dry_run=True)
    assert (publication.rows, publication.changed, publication.dry_run) == (513, 1, True)
    assert contents(lake) == {}
    assert step.manifest(lake, "2023-02-07", dry_run=True).files == 0
    with pytest.raises(LakeError, match="expected a day that was published, found no observations"):
        step.manifest(lake, "2023-02-07")
    assert contents(lake) == {}


def test_from_a_lake_in_s3(s3_root: str, s3_server: str, sample: tuple[IngestContext, Path]) -> None:
    context = sample[0]
    lake = DataLake.at(f"{s3_root}/lake", endpoint=s3_server)
    for path, data in contents(context.lake).items():
        lake.write(path, data)
    there = replace(context, lake=lake, files=lake.below(FILES), tables=DeltaRsReader(lake))
    curated = DataLake.at(f"{s3_root}/curated", endpoint=s3_server)
    publication = step.publish(there, curated, "2023-02-07")
    assert (publication.rows, publication.deliveries) == (513, context.landing.list("dsi").folders)


def test_a_day_is_published_though_a_table_gets_a_checkpoint_meanwhile(
    sample: tuple[IngestContext, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sail can't read the snapshot then."""
    lake = DataLake.at(str(tmp_path / "lake"))
    shutil.copytree(sample[0].lake.root, lake.root)
    there = replace(sample[0], lake=lake, files=lake.below(FILES), tables=DeltaRsReader(lake))
    taken: list[Snapshot] = []

    def take(*arguments: Any) -> Snapshot:
        taken.append(take_snapshot(*arguments))
        if len(taken) == 1:
            sensor = delta_log.open_table(lake, "raw/dsi/sensor")
            assert sensor is not None
            sensor.alter.set_table_description("another commit")
            sensor.create_checkpoint()
        return taken[-1]

    monkeypatch.setattr(step, "take_snapshot", take)
    assert step.publish(there, DataLake.at(str(tmp_path / "curated")), "2023-02-07").rows == 513
    first, second = (one.versions["sensor"] for one in taken)
    assert second == first + 1


# --- Dagster ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def definitions(
    sample: tuple[IngestContext, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dg.Definitions, DataLake]:
    for name, root in (("LANDING", "in"), ("LAKE", "out")):
        monkeypatch.setenv(f"BIOCLOUD_{name}_ROOT", str(sample[1] / root))
    monkeypatch.setenv("BIOCLOUD_CURATED_ROOT", str(tmp_path / "curated"))
    return build_definitions(Settings.load()), DataLake.at(str(tmp_path / "curated"))


def run(
    definitions: dg.Definitions, instance: dg.DagsterInstance, day: str, **config: Any
) -> dg.ExecuteInProcessResult:
    return definitions.resolve_job_def("dsi_curated").execute_in_process(
        instance=instance,
        partition_key=day,
        raise_on_error=False,
        run_config={
            "ops": {"curated__dsi": {"config": config}},
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        },
    )


def events(result: dg.ExecuteInProcessResult, kind: str) -> list[tuple[str, str | None]]:
    found = [event for event in result.all_events if event.event_type_value == kind]
    return [(event.asset_key.to_user_string(), event.partition) for event in found if event.asset_key]


def test_the_job_publishes_then_writes_the_manifest_then_cleans_up(
    definitions: tuple[dg.Definitions, DataLake],
) -> None:
    defs, lake = definitions
    with dg.DagsterInstance.ephemeral() as instance:
        lake.write("dsi/2022-12-31/observation/part-00000.parquet", b"old")
        lake.write("dsi/2022-12-31/manifest.json", b"{}")
        dry = run(defs, instance, "2023-02-07", dry_run=True)
        assert dry.success
        assert events(dry, "ASSET_MATERIALIZATION") == []
        assert events(dry, "ASSET_OBSERVATION") == [
            ("curated/dsi/observation", "2023-02-07"),
            ("curated/dsi/manifest", "2023-02-07"),
            ("curated/dsi/observation", "2022-12-31"),
            ("curated/dsi/retention", "2023-02-07"),
        ]
        assert lake.list("dsi").folders == ("2022-12-31",)

        result = run(defs, instance, "2023-02-07")
        assert result.success
        steps_done = [event.step_key for event in result.all_events if event.event_type_value == "STEP_SUCCESS"]
        assert steps_done == [
            f"curated__dsi.{name}" for name in ("publish_observations", "write_manifest", "cleanup_curated_folders")
        ]
        assert events(result, "ASSET_MATERIALIZATION") == [
            (key.to_user_string(), "2023-02-07") for key in (OBSERVATION, MANIFEST, RETENTION)
        ]
        assert events(result, "ASSET_OBSERVATION") == [("curated/dsi/observation", "2022-12-31")]
        assert assert_manifests_match(lake) == ["2023-02-07"]
        assert lake.list("dsi").folders == ("2023-02-07",)

        event = instance.get_latest_materialization_event(OBSERVATION)
        assert event and event.asset_materialization
        metadata = event.asset_materialization.metadata
        assert metadata["dagster/partition_row_count"].value == 513
        assert metadata["species"].value == 10
        image = str(metadata["detections"].value).partition("base64,")[2].rstrip(")")
        assert base64.b64decode(image, validate=True).startswith(b"\x89PNG")


def test_each_asset_can_be_materialised_alone(definitions: tuple[dg.Definitions, DataLake]) -> None:
    defs, lake = definitions
    job = defs.resolve_job_def("dsi_curated")
    lake.write("dsi/2022-12-31/observation/part-00000.parquet", b"old")
    with dg.DagsterInstance.ephemeral() as instance:
        for key in (OBSERVATION, MANIFEST, RETENTION):
            before = set(contents(lake))
            result = job.execute_in_process(
                instance=instance, partition_key="2023-02-07", asset_selection=[key], raise_on_error=False
            )
            assert result.success, key
            assert events(result, "ASSET_MATERIALIZATION") == [(key.to_user_string(), "2023-02-07")]
            changed = before ^ set(contents(lake))
            assert changed, key
            assert all(path.startswith("dsi/2022-12-31/") for path in changed) == (key == RETENTION)
            assert ("dsi/2023-02-07/manifest.json" in changed) == (key == MANIFEST)


def test_the_plot_draws_any_name_without_a_warning() -> None:
    names = ["貓頭鷹", "🦉", "Bubo $\\nonsense$ bubo", "50% & more_", ""]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = detections_by_day({name: {"2026-01-30": 1, "2026-01-31": 2} for name in names}, "Détections 日")
    assert image.startswith(b"\x89PNG")


def test_a_cleanup_that_fails_leaves_the_publication_as_it_is(definitions: tuple[dg.Definitions, DataLake]) -> None:
    defs, lake = definitions
    with dg.DagsterInstance.ephemeral() as instance:
        lake.write("dsi/2020-01-01/manifest.json/file", b"a folder where the manifest should be")
        result = run(defs, instance, "2023-02-07")
        assert not result.success
        assert events(result, "ASSET_MATERIALIZATION") == [
            ("curated/dsi/observation", "2023-02-07"),
            ("curated/dsi/manifest", "2023-02-07"),
        ]
        assert ("curated/dsi/retention", "2023-02-07") in events(result, "ASSET_OBSERVATION")
        assert "dsi/2023-02-07/manifest.json" in contents(lake)


def test_a_number_of_days_out_of_range_fails_without_deleting(definitions: tuple[dg.Definitions, DataLake]) -> None:
    defs, lake = definitions
    with dg.DagsterInstance.ephemeral() as instance:
        lake.write("dsi/2020-01-01/file", b"")
        assert not run(defs, instance, "2023-02-07", amount_of_data_days=-1).success
        assert "2020-01-01" in lake.list("dsi").folders


def test_the_schedule_requests_today_if_anything_is_ingested(
    definitions: tuple[dg.Definitions, DataLake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = definitions[0].get_repository_def()
    schedule = repository.get_schedule_def("dsi_curated_daily")

    def requested() -> list[str | None]:
        context = dg.build_schedule_context(
            scheduled_execution_time=datetime(2026, 1, 31, 6, 30, tzinfo=UTC),
            repository_def=repository,
            resources={"lakehouse": LakehouseResource.from_settings(Settings.load())},
        )
        return [request.partition_key for request in schedule.evaluate_tick(context).run_requests or ()]

    assert requested() == ["2026-01-31"]
    monkeypatch.setenv("BIOCLOUD_LAKE_ROOT", str(tmp_path / "empty"))
    assert requested() == []


def test_the_sensor_requests_a_run_if_the_log_has_changed_since_the_last_publication(
    definitions: tuple[dg.Definitions, DataLake], sample: tuple[IngestContext, Path]
) -> None:
    repository = definitions[0].get_repository_def()
    sensor = repository.get_sensor_def("dsi_curated_on_delivery")
    today = datetime.now(UTC).date().isoformat()
    cursor: str | None = None

    with dg.DagsterInstance.ephemeral() as instance:

        def tick() -> list[str | None]:
            nonlocal cursor
            context = dg.build_sensor_context(
                instance=instance,
                cursor=cursor,
                repository_def=repository,
                resources={"lakehouse": LakehouseResource.from_settings(Settings.load())},
            )
            found = sensor.evaluate_tick(context)
            cursor = found.cursor or cursor
            return [request.partition_key for request in found.run_requests or ()]

        def report(day: str, log_version: int) -> None:
            instance.report_runless_asset_event(
                dg.AssetMaterialization(OBSERVATION, partition=day, metadata={LOG_VERSION: log_version})
            )

        version = take_snapshot(sample[0].tables, CONTRACT, date.today()).log_version  # noqa: DTZ011
        assert tick() == [], "it may still be changing"
        assert tick() == [today]
        assert tick() == [today], "requested again until it is published, with the same run key"
        report("2026-01-31", version - 1)
        assert tick() == [today], "the last publication was made from an older log"
        report("2026-01-31", version)
        assert tick() == []
        report("2026-01-30", version - 1)
        assert tick() == [], "the publication of an older day doesn't count"


def test_the_sensor_requests_a_failed_publication_again_after_a_pause_that_grows(
    definitions: tuple[dg.Definitions, DataLake], sample: tuple[IngestContext, Path]
) -> None:
    repository = definitions[0].get_repository_def()
    sensor = repository.get_sensor_def("dsi_curated_on_delivery")
    version = take_snapshot(sample[0].tables, CONTRACT, date.today()).log_version  # noqa: DTZ011
    today = datetime.now(UTC).date().isoformat()

    with dg.DagsterInstance.ephemeral() as instance:

        def tick() -> list[str | None] | str | None:
            context = dg.build_sensor_context(
                instance=instance,
                cursor=str(version),
                repository_def=repository,
                resources={"lakehouse": LakehouseResource.from_settings(Settings.load())},
            )
            found = sensor.evaluate_tick(context)
            return [request.run_key for request in found.run_requests or ()] or found.skip_message

        def fail(ago: timedelta) -> None:
            run = instance.create_run_for_job(
                repository.get_job("dsi_curated"),
                tags={VERSION_TAG: str(version), "dagster/partition": today},
                status=dg.DagsterRunStatus.NOT_STARTED,
            )
            event = dg.DagsterEvent(dg.DagsterEventType.RUN_FAILURE.value, job_name="dsi_curated")
            instance.run_storage.handle_run_event(run.run_id, event, datetime.now(UTC) - ago)

        assert tick() == [f"{version}/0"]
        fail(timedelta(minutes=9))
        assert tick() == "a run failed a short while ago"

        instance.wipe()
        fail(timedelta(hours=2))
        assert tick() == [f"{version}/1"]
        fail(timedelta(minutes=19))
        assert tick() == "a run failed a short while ago"

        instance.wipe()
        for count in range(1, 3):
            fail(timedelta(hours=2))
            assert tick() == [f"{version}/{count}"]
        fail(timedelta(hours=2))
        assert tick() == "3 runs haven't succeeded; start one by hand when the cause is removed"


# --- the command line -------------------------------------------------------------------------------------------------


def test_the_command_line(
    sample: tuple[IngestContext, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process: a new one for each line would start an engine and Dagster each time."""
    for name, value in {
        "BIOCLOUD_HOME": tmp_path,
        "BIOCLOUD_LANDING_ROOT": sample[1] / "in",
        "BIOCLOUD_LAKE_ROOT": sample[1] / "out",
        "DAGSTER_HOME": tmp_path / "dagster",
        "COLUMNS": 200,
    }.items():
        monkeypatch.setenv(name, str(value))
    lake = DataLake.at(str(tmp_path / "curated"))

    def biocloud(*arguments: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["biocloud", "curated", *arguments])
        with pytest.raises(SystemExit) as ended:
            commands.run_command()
        printed = "".join(capsys.readouterr())
        assert ended.value.code == code, printed
        return printed

    day = ("--run-date", "2023-02-07")
    lake.write("dsi/2020-01-01/file", b"")
    assert "513" in biocloud("publish", *day, "--dry-run")
    assert "expected a day that was published" in biocloud("manifest", *day, code=1)
    assert lake.list("dsi").folders == ("2020-01-01",)
    biocloud("publish", *day)
    assert "written" in biocloud("manifest", *day)
    assert assert_manifests_match(lake) == ["2023-02-07"]
    assert "would be deleted" in biocloud("cleanup", *day, "--dry-run")
    assert "2020-01-01" in lake.list("dsi").folders
    assert "deleted" in biocloud("cleanup", *day)
    assert lake.list("dsi").folders == ("2023-02-07",)
    assert "expected a whole number of days" in biocloud("cleanup", *day, "--days", "-1", code=2)
    assert "expected a day that isn't in the future" in biocloud("cleanup", "--run-date", "9999-01-01", code=2)
    assert "or a real one as yyyy-mm-dd" in biocloud("publish", "--run-date", "2023-02-30", code=2)

    with dg.DagsterInstance.get() as instance:
        for key in (OBSERVATION, MANIFEST, RETENTION):
            assert instance.get_materialized_partitions(key) == {"2023-02-07"}, (
                "the UI shows the runs of the command line"
            )
