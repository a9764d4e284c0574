"""`databricks/run_step.py`, the one entry on a cluster: it does a step, says how it went, and needs no Dagster."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import deltalake
import pytest

from biocloud_assets.curated.dsi.reports import DAYS, MANIFEST, OBSERVATION
from biocloud_assets.errors import BiocloudError, DeliveryRefusedError, TableError
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi import contract, log
from biocloud_assets.raw.dsi.steps import landing_address
from biocloud_assets.run_step import Step, main
from tests.raw.dsi.deliveries import DELIVERY, record, write

ROOT = Path(__file__).parents[1]
LANDING = tuple(landing_address(folder.name) for folder in contract.FOLDERS)
TABLES = tuple(table.path for table in contract.TABLES)
JOB = [Step(LANDING), Step(TABLES), Step(checks=TABLES), Step((contract.LOG.path,))]
"""The steps of the job `dsi_raw`, in their order."""


@pytest.fixture
def where(tmp_path: Path) -> list[str]:
    folders = {"landing": "in", "lake": "out", "curated": "curated"}
    roots = [part for name, folder in folders.items() for part in (f"--{name}-root", str(tmp_path / folder))]
    return ["--delivery", DELIVERY, "--engine", "sail", *roots]


def tables(lake: Path) -> Iterator[deltalake.DeltaTable]:
    for path in (*TABLES, contract.LOG.path):
        yield deltalake.DeltaTable(str(lake / path))


def test_the_steps_of_a_job_ingest_a_delivery(
    tmp_path: Path, where: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in", DELIVERY)
    for step in JOB:
        main([*step.arguments(), *where, "--orchestrator", "airflow", "--run-id", "scheduled__1"])
    row = log.read(DataLake.at(str(tmp_path / "out")), DELIVERY)
    assert row is not None
    assert (row["engine"], row["orchestrator"], row["run_id"]) == ("sail", "airflow", "scheduled__1")
    assert "raw/dsi/sensor, key: passed" in capsys.readouterr().out
    versions = [table.version() for table in tables(tmp_path / "out")]
    rows = [table.to_pyarrow_table().to_pylist() for table in tables(tmp_path / "out")]
    for step in JOB:
        main([*step.arguments(), *where])
    assert [table.to_pyarrow_table().to_pylist() for table in tables(tmp_path / "out")] == rows
    assert next(reversed(versions)) == list(tables(tmp_path / "out"))[-1].version(), "the log is left as it is"


def test_the_steps_of_the_curated_layer_deliver_back(tmp_path: Path, where: list[str]) -> None:
    write(tmp_path / "in", DELIVERY)
    for step in JOB:
        main([*step.arguments(), *where])
    day = "2026-02-01"
    curated = tmp_path / "curated/dsi"
    (curated / "2025-01-01").mkdir(parents=True)
    (curated / "2025-01-01/file").write_text("old")
    steps = [
        Step((OBSERVATION,), run_date=day),
        Step((MANIFEST,), run_date=day),
        Step((DAYS,), run_date=day, days=30),
    ]
    for step in steps:
        main([*step.arguments(), "--dry-run", *where])
    assert sorted(path.name for path in curated.iterdir()) == ["2025-01-01"], "a dry run does nothing"
    for step in steps:
        main([*step.arguments(), *where])
    assert sorted(path.name for path in curated.iterdir()) == [day]
    assert sorted(path.name for path in (curated / day).iterdir()) == ["manifest.json", "observation"]
    with pytest.raises(BiocloudError, match="how many days are kept"):
        main([*Step((DAYS,), run_date=day).arguments(), *where])


def test_a_refused_delivery_fails_the_inspection_and_any_other_step(
    tmp_path: Path, where: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in", DELIVERY, sensor=[record("sensor", id=None)])
    with pytest.raises(TableError, match=r"landing/dsi/sensor, contract: null key: .*column id"):
        main([*Step(LANDING).arguments(), *where])
    assert "ERROR" in capsys.readouterr().out
    with pytest.raises(DeliveryRefusedError, match=r"null key: .*column id"):
        main([*Step(("raw/dsi/algorithm",)).arguments(), *where])
    assert not (tmp_path / "out").exists()


def test_a_blocking_check_that_fails_fails_the_step_and_a_warning_does_not(tmp_path: Path, where: list[str]) -> None:
    write(tmp_path / "in", DELIVERY, sensor_deployment=[record("sensor_deployment", sensor_id="nowhere")])
    main([*Step(LANDING).arguments(), *where])
    main([*Step(TABLES).arguments(), *where])
    main([*Step(checks=("raw/dsi/sensor_deployment",)).arguments(), *where])
    table = deltalake.DeltaTable(str(tmp_path / "out/raw/dsi/sensor_deployment"))
    table.delete()
    with pytest.raises(TableError, match=r"raw/dsi/sensor_deployment, row_count: expected 1 row.*found 0"):
        main([*Step(checks=("raw/dsi/sensor_deployment",)).arguments(), *where])
    main([*Step(checks=("raw/dsi/sensor_deployment:key",)).arguments(), *where])
    with pytest.raises(TableError, match="not in the log"):
        main([*Step((contract.LOG.path,)).arguments(), *where])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--step", "raw/dsi/nonsense"], "step raw/dsi/nonsense: expected landing/dsi/<folder>"),
        (["--step", "raw/dsi/sensor", "--delivery", "../../etc"], "yyyy-mm-dd-HH:MM:SS"),
        (["--check", "raw/dsi/sensor:colour"], "step raw/dsi/sensor:colour: expected a check"),
        (["--step", "raw/dsi/sensor", "--delivery", ""], "yyyy-mm-dd-HH:MM:SS"),
        ([], "expected --step or --check"),
    ],
)
def test_wrong_arguments_are_named(where: list[str], arguments: list[str], said: str) -> None:
    with pytest.raises(BiocloudError) as raised:
        main([*where, *arguments])
    assert said in str(raised.value)


def test_on_its_own_the_script_ends_with_the_reason_and_loads_no_orchestrator(tmp_path: Path, where: list[str]) -> None:
    write(tmp_path / "in", DELIVERY, sensor=[record("sensor", id=None)])
    program = (
        "import runpy, sys\n"
        f"sys.argv = {['run_step.py', '--step', 'raw/dsi/sensor', *where]!r}\n"
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
