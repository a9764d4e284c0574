"""The `biocloud` command, as a user types it: in processes of its own, with a home of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import deltalake
import pytest

sys.path.insert(0, str(Path(__file__).parent / "raw" / "dsi"))
from deliveries import record, table, write

from biocloud_assets.raw.dsi import contract
from biocloud_assets.raw.dsi.contract import LOG, TABLES
from biocloud_assets.sample import BUNDLED

GOOD, BAD, WORSE, HALF = "2026-01-01-00:00:00", "2026-01-02-00:00:00", "2026-01-03-00:00:00", "2026-01-04-00:00:00"


class Biocloud:
    """The command with an environment: a fresh home, and nothing to wait for."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("BIOCLOUD_", "DAGSTER_"))}
        if "BIOCLOUD_LAKE_ROOT" not in environment or "://" not in environment["BIOCLOUD_LAKE_ROOT"]:
            kept = {name: value for name, value in kept.items() if not name.startswith("AWS_")}
        self.environment = {
            **kept,
            "BIOCLOUD_HOME": str(home),
            "BIOCLOUD_QUIET_SECONDS": "0",
            "COLUMNS": "200",
            **environment,
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "biocloud_assets.cli", *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, code: int = 0) -> str:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=150)
        assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
        return out + err

    def json(self, *arguments: str, code: int = 0) -> Any:
        process = self.start(*arguments, "--json")
        out, err = process.communicate(timeout=150)
        assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
        return json.loads(out)

    def versions(self) -> dict[str, int]:
        """The Delta version of each table."""
        lake = Path(self.environment.get("BIOCLOUD_LAKE_ROOT", self.home / "lake"))
        paths = [lake / spec.path for spec in (*TABLES, LOG)]
        return {path.name: deltalake.DeltaTable(str(path)).version() for path in paths if path.exists()}


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Biocloud, str]:
    """A home into which the sample was ingested, and what the command printed."""
    biocloud = Biocloud(tmp_path_factory.mktemp("home"))
    return biocloud, biocloud("ingest", "--sample")


def test_the_sample_is_ingested_and_shown(sampled: tuple[Biocloud, str]) -> None:
    biocloud, printed = sampled
    for name in BUNDLED:
        assert f"{name} ingested" in printed
    rows = {
        line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.startswith(("analysis", "sensor"))
    }
    assert sum(int(count) for count in rows["sensor_media_item"]) == 423
    assert set(rows) == {spec.name for spec in TABLES if spec.name != "algorithm"}
    for line in ("checks passed", "checks warned", "checks failed", "uv run biocloud dev"):
        assert line in printed
    assert str(biocloud.home / "lake" / "raw" / "dsi") in printed


def test_the_line_that_reads_a_table_works(sampled: tuple[Biocloud, str]) -> None:
    _, printed = sampled
    line = next(line for line in printed.splitlines() if line.startswith("Read a table"))
    program = line.partition('-c "')[2].removesuffix('"')
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert all(deployment in shown for deployment in ("00a2c20d", "29b7d356", "577b543a", "62c200a9"))


def test_reading_the_log_lets_a_process_end_in_peace(sampled: tuple[Biocloud, str]) -> None:
    """Arrow's threads outlive some ways of reading a table, and then abort the process: exit code 134, work done."""
    biocloud, _ = sampled
    program = "import sys; from biocloud_assets.lake import DataLake; from biocloud_assets.raw.dsi import log; "
    program += f"assert log.read(DataLake.at(sys.argv[1]), '{BUNDLED[0]}')"
    command = [sys.executable, "-c", program, str(biocloud.home / "lake")]
    for _ in range(10):  # it was one time in three
        assert subprocess.run(command, capture_output=True, text=True).stderr == ""


def test_a_second_run_writes_nothing_and_says_so(sampled: tuple[Biocloud, str]) -> None:
    biocloud, _ = sampled
    before = biocloud.versions()
    assert "nothing was written" in biocloud("ingest", "--sample")
    assert "Nothing to ingest" in biocloud("ingest")
    assert biocloud.versions() == before


def test_deliveries_and_verify(sampled: tuple[Biocloud, str]) -> None:
    biocloud, _ = sampled
    assert [(row["delivery"], row["state"]) for row in biocloud.json("deliveries")] == [
        (name, "ingested") for name in BUNDLED
    ]
    assert biocloud("verify", *BUNDLED).count("equal") == len(BUNDLED) * len(contract.FOLDERS)


def test_dagster_shows_what_the_command_did(sampled: tuple[Biocloud, str]) -> None:
    """The runs, materialisations and checks are in the instance that `biocloud dev` opens."""
    biocloud, _ = sampled
    program = """
import dagster as dg
instance = dg.DagsterInstance.get()
runs = instance.get_runs()
print(sorted((run.job_name, run.status.value, run.tags["dagster/partition"]) for run in runs))
print(sorted(instance.get_materialized_partitions(dg.AssetKey(["raw", "dsi", "delivery"]))))
"""
    environment = {**biocloud.environment, "DAGSTER_HOME": str(biocloud.home / "dagster")}
    shown = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert shown == [repr([("dsi_raw", "SUCCESS", name) for name in BUNDLED]), repr(list(BUNDLED))]


def test_faulty_deliveries_are_refused_untouched_and_the_others_go_in(tmp_path: Path) -> None:
    landing, lake = tmp_path / "in", tmp_path / "out"
    write(landing, GOOD)
    biocloud = Biocloud(tmp_path / "home", BIOCLOUD_LANDING_ROOT=str(landing), BIOCLOUD_LAKE_ROOT=str(lake))
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
    assert f"{BAD} refused: 2 faults, nothing written" in printed
    assert "renamed column: delivery 2026-01-02-00:00:00, folder sensor, file part-0.parquet, column type" in printed
    assert "repeated key: delivery 2026-01-02-00:00:00, folder algorithm, file part-0.parquet, column id" in printed
    assert (
        "truncated Parquet: delivery 2026-01-03-00:00:00, folder analysis_group_result, file part-0.parquet" in printed
    )
    assert f"{HALF} arriving: still to come: sensor" in printed
    assert biocloud.versions() == before

    states = {row["delivery"]: row for row in biocloud.json("deliveries")}
    assert {name: row["state"] for name, row in states.items()} == {
        GOOD: "ingested",
        BAD: "refused",
        WORSE: "refused",
        HALF: "arriving",
    }
    assert "renamed column" in states[BAD]["reason"]

    # Asked for by name, what is missing is a fault.
    assert "missing folder: delivery 2026-01-04-00:00:00, folder sensor" in biocloud("ingest", HALF, code=1)
    assert biocloud.versions() == before

    # Mended, they go in; the others stay as they are.
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
    biocloud = Biocloud(tmp_path / "home", BIOCLOUD_LANDING_ROOT=f"{s3_root}/in", BIOCLOUD_LAKE_ROOT=f"{s3_root}/out")
    (row,) = biocloud.json("ingest")["deliveries"]
    assert (row["delivery"], row["state"]) == (GOOD, "ingested")
    options = {"allow_http": "true"}
    for spec in TABLES:
        written = deltalake.DeltaTable(f"{s3_root}/out/{spec.path}", storage_options=options).to_pyarrow_table()
        assert (written.num_rows, written.column_names) == (1, [column.name for column in spec.columns])
    assert biocloud("verify", GOOD).count("equal") == len(contract.FOLDERS)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_leaves_nothing_half_written_and_after_a_kill_the_next_run_heals(
    tmp_path: Path, sent: signal.Signals
) -> None:
    biocloud = Biocloud(tmp_path)
    biocloud("sample", "--results", "5000", "--seed", "3")
    process = biocloud.start("ingest")
    first = tmp_path / "lake" / TABLES[0].path / "_delta_log"
    until = time.monotonic() + 60
    while not first.exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    if sent is signal.SIGINT:
        assert process.returncode == 130, out + err
        assert "Interrupted" in err
        for spec in TABLES:
            path = tmp_path / "lake" / spec.path
            if path.exists():
                assert deltalake.DeltaTable(str(path)).to_pyarrow_table().num_rows == 0, spec.name
    (row,) = biocloud.json("ingest")["deliveries"]
    assert row["state"] == "ingested"
    assert biocloud("verify", row["delivery"]).count("equal") == len(contract.FOLDERS)


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
def test_wrong_use_is_code_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    assert message in Biocloud(tmp_path)(*arguments, code=2)


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    printed = Biocloud(tmp_path, BIOCLOUD_ENGINE="duckdb")("deliveries", code=2)
    assert "BIOCLOUD_ENGINE: expected 'sail', 'jvm' or 'databricks', found 'duckdb'" in printed


def test_help_teaches_by_example(tmp_path: Path) -> None:
    biocloud = Biocloud(tmp_path)
    assert "biocloud ingest --sample" in biocloud("--help")
    for command in ("ingest", "deliveries", "verify", "sample", "dev"):
        assert f"biocloud {command}" in biocloud(command, "--help").partition("Example")[2]
