"""The `biocloud` command as a user types it: once from the first start in processes, and then in this one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import deltalake
import pytest

from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.sample import BUNDLED
from tests.cli.biocloud import Biocloud, BiocloudHere
from tests.ingest.deliveries import DELIVERY, record, table, write
from tests.needs import unavailable

GOOD, BAD, WORSE, HALF = "2026-01-01-00:00:00", "2026-01-02-00:00:00", "2026-01-03-00:00:00", "2026-01-04-00:00:00"


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> tuple[BiocloudHere, str]:
    """A home into which a process has ingested the sample, and what it printed."""
    home = tmp_path_factory.mktemp("home")
    return BiocloudHere(home), Biocloud(home)("ingest", "--sample")


def test_the_sample_is_ingested_and_shown(sampled: tuple[BiocloudHere, str]) -> None:
    biocloud, printed = sampled
    for name in BUNDLED:
        assert f"{name} ingested" in printed
    rows = {
        line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.startswith(("analysis", "sensor"))
    }
    assert sum(int(count) for count in rows["sensor_media_item"]) == 423
    assert set(rows) == {spec.name for spec in CONTRACT.tables if spec.name != "algorithm"}
    for line in ("checks passed", "checks warned", "checks failed", "uv run biocloud dev"):
        assert line in printed
    assert str(biocloud.home / "lake" / "raw" / "dsi") in printed


def test_the_line_that_reads_a_table_works(sampled: tuple[BiocloudHere, str]) -> None:
    _, printed = sampled
    line = next(line for line in printed.splitlines() if line.startswith("Read a table"))
    program = line.partition('-c "')[2].removesuffix('"')
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert all(deployment in shown for deployment in ("00a2c20d", "29b7d356", "577b543a", "62c200a9"))


def test_a_process_that_has_read_the_log_ends_normally(sampled: tuple[BiocloudHere, str]) -> None:
    """Arrow's threads outlive some ways of reading a table, and then abort the process: exit code 134, work done."""
    biocloud, _ = sampled
    program = """
import os, sys
import deltalake, pandas, pyarrow
from biocloud_assets.ingest import delivery_log
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.spark.table_reader import DeltaRsReader
for _ in range(20):  # it is one time in five
    process = os.fork()  # a new process would load all modules, which takes five times as long
    if process == 0:
        assert delivery_log.read(DeltaRsReader(DataLake.at(sys.argv[1])), CONTRACT, sys.argv[2])
        break  # to the end of the interpreter
    assert os.waitpid(process, 0)[1] == 0
"""
    command = [sys.executable, "-c", program, str(biocloud.lake), BUNDLED[0]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_day_is_published_and_old_days_are_deleted_from_the_command_line(sampled: tuple[BiocloudHere, str]) -> None:
    biocloud, _ = sampled
    dsi = biocloud.home / "curated/dsi"
    for day in ("2026-01-01", "2026-03-01"):
        assert "513" in biocloud("curated", "publish", "--run-date", day)
        assert not (dsi / day / "manifest.json").exists(), "DSI may not read it yet"
        assert "written" in biocloud("curated", "manifest", "--run-date", day)
        assert (dsi / day / "manifest.json").exists()
    cleanup = ["curated", "cleanup", "--run-date", "2026-03-01", "--days", "30"]
    assert "would be deleted" in biocloud(*cleanup, "--dry-run")
    assert {folder.name for folder in dsi.iterdir()} == {"2026-01-01", "2026-03-01"}
    assert "deleted" in biocloud(*cleanup)
    assert {folder.name for folder in dsi.iterdir()} == {"2026-03-01"}


def test_a_second_run_writes_nothing_and_says_so(sampled: tuple[BiocloudHere, str]) -> None:
    biocloud, _ = sampled
    before = biocloud.versions()
    assert "nothing was written" in biocloud("ingest", "--sample")
    assert "Nothing to ingest" in biocloud("ingest")
    assert biocloud.versions() == before


def test_deliveries_and_verify(sampled: tuple[BiocloudHere, str]) -> None:
    biocloud, _ = sampled
    assert [(row["delivery"], row["state"]) for row in biocloud.json("deliveries")] == [
        (name, "ingested") for name in BUNDLED
    ]
    assert biocloud("verify", *BUNDLED).count("equal") == len(BUNDLED) * len(CONTRACT.folders)


def test_dagster_shows_what_the_command_did(sampled: tuple[BiocloudHere, str]) -> None:
    """The runs, materialisations and checks are in the instance that `biocloud dev` opens."""
    biocloud, _ = sampled
    with biocloud.instance() as instance:
        runs = instance.get_runs()
        partitions = instance.get_materialized_partitions(dg.AssetKey(["raw", "dsi", "delivery"]))
    assert sorted((run.job_name, run.status.value, run.tags["dagster/partition"]) for run in runs) == [
        ("dsi_raw", "SUCCESS", name) for name in BUNDLED
    ]
    assert sorted(partitions) == list(BUNDLED)


def test_deliveries_with_violations_are_refused_and_the_others_are_ingested(tmp_path: Path) -> None:
    landing, lake = tmp_path / "in", tmp_path / "out"
    write(landing, GOOD)
    biocloud = BiocloudHere(tmp_path / "home", BIOCLOUD_LANDING_ROOT=str(landing), BIOCLOUD_LAKE_ROOT=str(lake))
    biocloud("ingest")
    before = biocloud.versions()
    write(
        landing,
        BAD,
        sensor=table("sensor").rename_columns({"type": "kind"}),
        algorithm=[record("algorithm"), record("algorithm")],
    )
    write(landing, WORSE, analysis_group_result=b"PAR1 and then nothing")
    write(landing, HALF, sensor=None)

    printed = biocloud("ingest", code=1)
    assert f"{BAD} refused: 2 violations, nothing written" in printed
    assert "renamed column: delivery 2026-01-02-00:00:00, folder sensor, file part-0.parquet, column type" in printed
    assert "repeated key: delivery 2026-01-02-00:00:00, folder algorithm, file part-0.parquet, column id" in printed
    assert (
        "truncated Parquet: delivery 2026-01-03-00:00:00, folder analysis_group_result, file part-0.parquet" in printed
    )
    assert f"{HALF} arriving: sensor still missing" in printed
    assert biocloud.versions() == before

    states = {row["delivery"]: row for row in biocloud.json("deliveries")}
    assert {name: row["state"] for name, row in states.items()} == {
        GOOD: "ingested",
        BAD: "refused",
        WORSE: "refused",
        HALF: "arriving",
    }
    assert "renamed column" in states[BAD]["reason"]

    # If it is given by name, a missing folder is a violation.
    assert "missing folder: delivery 2026-01-04-00:00:00, folder sensor" in biocloud("ingest", HALF, code=1)
    assert biocloud.versions() == before

    # A corrected delivery is ingested; the others stay as they are.
    write(landing, BAD)
    printed = biocloud("ingest", code=1)
    assert f"{BAD} ingested" in printed
    assert f"{WORSE} refused" in printed


def test_from_and_to_s3(s3_root: str, s3_server: str, tmp_path: Path) -> None:
    import boto3

    source = write(tmp_path, GOOD)
    bucket, _, prefix = s3_root.removeprefix("s3://").partition("/")
    client = boto3.client("s3", endpoint_url=s3_server)
    for file in source.rglob("*.parquet"):
        client.upload_file(str(file), bucket, f"{prefix}/in/dsi/{GOOD}/{file.relative_to(source).as_posix()}")
    roots = {"BIOCLOUD_LANDING_ROOT": f"{s3_root}/in", "BIOCLOUD_LAKE_ROOT": f"{s3_root}/out"}
    biocloud = BiocloudHere(tmp_path / "home", **roots)
    (row,) = biocloud.json("ingest")["deliveries"]
    assert (row["delivery"], row["state"]) == (GOOD, "ingested")
    options = {"allow_http": "true"}
    for spec in CONTRACT.tables:
        written = deltalake.DeltaTable(
            f"{s3_root}/out/{CONTRACT.address(spec)}", storage_options=options
        ).to_pyarrow_table()
        assert (written.num_rows, written.column_names) == (1, [column.name for column in spec.columns])
    assert biocloud("verify", GOOD).count("equal") == len(CONTRACT.folders)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ingest", "yesterday"], "expected a real date and time as yyyy-mm-dd-HH:MM:SS"),
        (["ingest", "../../etc"], "expected a real date and time"),
        (["ingest", "--fast"], "No such option: --fast"),
        (["verify"], "Missing argument"),
        (["sample"], "Missing option '--results'"),
        (["nonsense"], "No such command"),
    ],
)
def test_wrong_use_is_exit_code_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    assert message in BiocloudHere(tmp_path)(*arguments, code=2)


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    printed = Biocloud(tmp_path, BIOCLOUD_ENGINE="duckdb")("deliveries", code=2)
    assert "BIOCLOUD_ENGINE: expected 'sail', 'jvm', 'connect' or 'databricks', found 'duckdb'" in printed


def test_help_teaches_by_example(tmp_path: Path) -> None:
    biocloud = BiocloudHere(tmp_path)
    assert "biocloud ingest --sample" in biocloud("--help")
    for command in ("ingest", "deliveries", "verify", "sample", "maintain", "dev"):
        assert f"biocloud {command}" in biocloud(command, "--help").partition("Example")[2]


def test_a_refused_delivery_was_not_written_and_its_warnings_are_no_violations(tmp_path: Path) -> None:
    biocloud = Biocloud(tmp_path)  # in a process: its output is JSON whatever a library prints
    write(biocloud.landing, GOOD)
    write(
        biocloud.landing,
        BAD,
        algorithm=[record("algorithm", id=None)],
        sensor_media_item=[record("sensor_media_item", sensor_deployment_id="nowhere")],
    )
    document = biocloud.json("ingest", code=1)
    assert document["written"] == 1
    states = {row["delivery"]: (row["state"], row["reason"]) for row in document["deliveries"]}
    assert states == {GOOD: ("ingested", ""), BAD: ("refused", "1 violation, nothing written")}


def test_a_delivery_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    """The lake is a table of other columns for one folder, so that no delivery can be ingested."""
    biocloud = BiocloudHere(tmp_path)
    for name in (GOOD, BAD):
        write(biocloud.landing, name)
    (biocloud.lake / "raw").mkdir(parents=True)
    (biocloud.lake / "raw" / "dsi").write_text("a file where a folder is expected")
    document = biocloud.json("ingest", code=1)
    assert [(row["delivery"], row["state"]) for row in document["deliveries"]] == [(GOOD, "failed"), (BAD, "failed")]
    assert document["written"] == 0
    printed = biocloud("ingest", code=1)
    assert "Read a table" not in printed
    assert "Traceback" not in printed


def test_a_landing_zone_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    printed = Biocloud(tmp_path, BIOCLOUD_LANDING_ROOT=str(tmp_path / "nowhere"))("ingest", code=1)
    assert f"{tmp_path / 'nowhere'}: expected the landing zone" in printed


def test_a_delivery_without_a_folder_is_an_error_and_nothing_is_recorded(tmp_path: Path) -> None:
    biocloud = BiocloudHere(tmp_path)
    write(biocloud.landing, GOOD)
    printed = biocloud("ingest", "2030-01-01-00:00:00", code=2)
    assert "delivery 2030-01-01-00:00:00: expected a folder at" in printed
    assert not (tmp_path / "dagster").exists()
    assert not biocloud.versions()


def test_ingest_restores_the_partition_of_an_ingested_delivery(sampled: tuple[BiocloudHere, str]) -> None:
    biocloud, _ = sampled
    with biocloud.instance() as instance:
        instance.delete_dynamic_partition("dsi_delivery", BUNDLED[0])
    biocloud("ingest", BUNDLED[0])
    with biocloud.instance() as instance:
        assert BUNDLED[0] in instance.get_dynamic_partitions("dsi_delivery")


def test_production_without_credentials_is_one_message(tmp_path: Path) -> None:
    biocloud = Biocloud(tmp_path, BIOCLOUD_ENV="production", AWS_EC2_METADATA_DISABLED="true", HOME=str(tmp_path))
    printed = biocloud("deliveries", code=1)
    assert "Unable to locate credentials" in printed
    assert "Traceback" not in printed


@pytest.mark.timeout(600)
def test_a_full_disk_is_one_message_without_a_retry_and_leaves_nothing_half_ingested(tmp_path: Path) -> None:
    lake = tmp_path / "disk" / "lake"
    biocloud = BiocloudHere(tmp_path / "home", BIOCLOUD_LAKE_ROOT=str(lake))
    write(biocloud.landing, DELIVERY, sensor=[record("sensor", id=f"sensor-{number}") for number in range(20_000)])
    lake.parent.mkdir()
    with small_disk(lake.parent) as grow:
        (row,) = biocloud.json("ingest", code=1)["deliveries"]
        assert row["state"] == "failed"
        assert row["reason"] == (
            f"{lake}: expected a lake that can be written, found No space left on device. Check the permissions and "
            "the space that is left."
        )
        (run,) = biocloud.runs()
        with biocloud.instance() as instance:
            events = [entry.dagster_event_type for entry in instance.all_logs(run.run_id)]
        assert dg.DagsterEventType.STEP_FAILURE in events
        assert dg.DagsterEventType.STEP_UP_FOR_RETRY not in events
        assert [row["state"] for row in biocloud.json("deliveries")] == ["complete"]

        grow()
        assert biocloud.json("ingest")["deliveries"][0]["state"] == "ingested"
        assert biocloud("verify", DELIVERY).count("equal") == 5


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[], None]]:
    """A file system of 160 KB at a folder; the context is a function that makes it large enough."""
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        unavailable("needs the permission to mount a small file system")

    def grow() -> None:
        subprocess.run(["mount", "-o", "remount,size=100m", folder], check=True)

    try:
        yield grow
    finally:
        subprocess.run(["umount", folder], check=True)
