"""`databricks/run_step.py`, the entry point on a cluster: it runs a step, reports its results, and needs no Dagster."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import deltalake
import pytest

from biocloud_assets import __version__
from biocloud_assets.curated.dsi.results import MANIFEST, OBSERVATION, RETENTION
from biocloud_assets.errors import BiocloudError, DeliveryRefusedError, LakeError, TableError
from biocloud_assets.ingest import delivery_log
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.run_step import NOT_RETRYABLE, main
from biocloud_assets.spark.table_reader import DeltaRsReader
from biocloud_assets.steps import StepRequest
from biocloud_assets.version import code_commit
from tests.ingest.deliveries import DELIVERY, record, write

ROOT = Path(__file__).parents[1]
CHECKED = tuple(address for address in CONTRACT.addresses if address != CONTRACT.address(CONTRACT.log))
WHOLE = StepRequest(CONTRACT.addresses, CHECKED)
"""All assets of a delivery, with all their checks."""


@pytest.fixture
def where(tmp_path: Path) -> list[str]:
    folders = {"landing": "in", "lake": "out", "curated": "curated"}
    roots = [part for name, folder in folders.items() for part in (f"--{name}-root", str(tmp_path / folder))]
    return ["--delivery", DELIVERY, "--engine", "sail", *roots]


def tables(lake: Path) -> Iterator[deltalake.DeltaTable]:
    for table in (*CONTRACT.tables, CONTRACT.log):
        yield deltalake.DeltaTable(str(lake / CONTRACT.address(table)))


def test_one_step_ingests_a_delivery_and_can_be_repeated(
    tmp_path: Path, where: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in", DELIVERY)
    main([*WHOLE.arguments(), *where, "--orchestrator", "airflow", "--run-id", "scheduled__1"])
    row = delivery_log.read(DeltaRsReader(DataLake.at(str(tmp_path / "out"))), CONTRACT, DELIVERY)
    assert row is not None
    assert (row["engine"], row["orchestrator"], row["run_id"]) == ("sail", "airflow", "scheduled__1")
    assert (row["code_version"], row["code_commit"]) == (__version__, code_commit())
    printed = capsys.readouterr().out
    for line in (
        "raw/dsi/sensor, check key: passed",
        "landing/dsi/sensor, check contract: passed",
        "raw/dsi/delivery:",
    ):
        assert line in printed
    versions = [table.version() for table in tables(tmp_path / "out")]
    rows = [table.to_pyarrow_table().to_pylist() for table in tables(tmp_path / "out")]
    main([*WHOLE.arguments(), *where])
    assert [table.to_pyarrow_table().to_pylist() for table in tables(tmp_path / "out")] == rows
    assert versions[-1] == list(tables(tmp_path / "out"))[-1].version(), "the log is left as it is"


def test_the_steps_of_the_curated_layer_publish_a_day(tmp_path: Path, where: list[str]) -> None:
    write(tmp_path / "in", DELIVERY)
    main([*WHOLE.arguments(), *where])
    day = "2026-02-01"
    curated = tmp_path / "curated/dsi"
    (curated / "2025-01-01").mkdir(parents=True)
    (curated / "2025-01-01/file").write_text("old")
    requests = [
        StepRequest((OBSERVATION, MANIFEST), run_date=day),
        StepRequest((RETENTION,), run_date=day, retention_days=30),
    ]
    main([*requests[0].arguments(), "--dry-run", *where])
    main([*requests[1].arguments(), "--dry-run", *where])
    assert sorted(path.name for path in curated.iterdir()) == ["2025-01-01"], "a dry run changes nothing"
    for request in requests:
        main([*request.arguments(), *where])
    assert sorted(path.name for path in curated.iterdir()) == [day]
    assert sorted(path.name for path in (curated / day).iterdir()) == ["manifest.json", "observation"]
    with pytest.raises(BiocloudError, match="expected the number of days that are kept, found none"):
        main([*StepRequest((RETENTION,), run_date=day).arguments(), *where])


def test_a_refused_delivery_fails_the_step_for_good(
    tmp_path: Path, where: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in", DELIVERY, sensor=[record("sensor", id=None)])
    for request in (WHOLE, StepRequest(("raw/dsi/algorithm",))):
        with pytest.raises(DeliveryRefusedError, match=r"null key: .*column id") as raised:
            main([*request.arguments(), *where])
        assert NOT_RETRYABLE in str(raised.value)
        assert NOT_RETRYABLE in capsys.readouterr().out
    assert not list((tmp_path / "out").rglob("*.parquet"))


def test_the_output_of_a_refused_delivery_has_its_failed_checks(
    tmp_path: Path, where: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in", DELIVERY, sensor=[record("sensor", id=None)])
    with pytest.raises(DeliveryRefusedError):
        main([*WHOLE.arguments(), *where])
    printed = capsys.readouterr().out
    assert "ERROR landing/dsi/sensor, check contract: failed. null key" in printed
    assert "landing/dsi/algorithm, check contract: passed" in printed


def test_an_error_of_the_infrastructure_can_be_retried(
    tmp_path: Path, where: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # of the retries of boto3
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LakeError, match=r"expected an answer from S3") as raised:
        main([*WHOLE.arguments(), *where, "--landing-root", "s3://bucket/in"])
    assert NOT_RETRYABLE not in str(raised.value) + capsys.readouterr().out


def test_a_blocking_check_that_fails_fails_the_step_and_a_warning_does_not(tmp_path: Path, where: list[str]) -> None:
    write(tmp_path / "in", DELIVERY, sensor_deployment=[record("sensor_deployment", sensor_id="nowhere")])
    main([*WHOLE.arguments(), *where])
    checks = StepRequest(checks=("raw/dsi/sensor_deployment",)).arguments()
    main([*checks, *where])
    deltalake.DeltaTable(str(tmp_path / "out/raw/dsi/sensor_deployment")).delete()
    with pytest.raises(TableError, match=r"row_count of raw/dsi/sensor_deployment: expected 1 row.*found 0"):
        main([*checks, *where])
    main([*StepRequest(checks=("raw/dsi/sensor_deployment:key",)).arguments(), *where])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--asset", "raw/nonsense/sensor"], "expected addresses of one source, raw/<source>/<table>"),
        (["--asset", "raw/dsi/nonsense"], "asset raw/dsi/nonsense: expected one of the assets of the source dsi"),
        (["--asset", "raw/dsi/sensor", "--asset", OBSERVATION], "expected addresses of one source"),
        (["--asset", "curated/dsi/nonsense", "--run-date", "2026-01-31"], "asset curated/dsi/nonsense: expected"),
        (["--asset", "raw/dsi/sensor", "--delivery", "../../etc"], "yyyy-mm-dd-HH:MM:SS"),
        (["--check", "raw/dsi/sensor:colour"], "check raw/dsi/sensor:colour: expected one of the checks"),
        (["--asset", "raw/dsi/sensor", "--delivery", ""], "yyyy-mm-dd-HH:MM:SS"),
        ([], "expected --asset or --check, found neither"),
    ],
)
def test_wrong_arguments_are_named(where: list[str], arguments: list[str], message: str) -> None:
    with pytest.raises(BiocloudError) as raised:
        main([*where, *arguments])
    assert message in str(raised.value)


def test_the_curated_layer_needs_its_root(tmp_path: Path) -> None:
    arguments = ["--asset", OBSERVATION, "--run-date", "2026-01-31", "--engine", "sail"]
    with pytest.raises(BiocloudError, match="--curated-root: expected the folder"):
        main([*arguments, "--landing-root", str(tmp_path), "--lake-root", str(tmp_path)])


def test_on_its_own_the_script_ends_with_the_reason_and_loads_no_orchestrator(tmp_path: Path, where: list[str]) -> None:
    write(tmp_path / "in", DELIVERY, sensor=[record("sensor", id=None)])
    program = (
        "import runpy, sys\n"
        f"sys.argv = {['run_step.py', '--asset', 'raw/dsi/sensor', *where]!r}\n"
        "try:\n"
        f"    runpy.run_path({str(ROOT / 'databricks/run_step.py')!r}, run_name='__main__')\n"
        "finally:\n"
        "    print('loaded:', sorted({'dagster', 'airflow', 'typer'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert "null key" in done.stderr
    assert "loaded: []" in done.stdout
