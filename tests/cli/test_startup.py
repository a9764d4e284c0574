"""What a command loads: those that need no engine start without one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.biocloud import Biocloud, BiocloudHere
from tests.ingest.deliveries import write

ENGINE = ("pyspark.sql.connect", "pysail", "pandas")


def loaded(biocloud: Biocloud, *arguments: str) -> set[str]:
    """The modules that a command has loaded when it ends."""
    program = """
import atexit, sys
atexit.register(lambda: print("\\nmodules", *sys.modules, file=sys.stderr))
sys.argv = ["biocloud", *sys.argv[1:]]
from biocloud_assets.cli import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=biocloud.environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return set(done.stderr.rpartition("modules ")[2].split())


@pytest.mark.parametrize("arguments", [["--help"], ["ingest", "--help"], ["--version"], ["deliveries"]])
def test_these_commands_load_neither_an_engine_nor_dagster(tmp_path: Path, arguments: list[str]) -> None:
    found = loaded(Biocloud(tmp_path), *arguments)
    assert "biocloud_assets.cli.commands" in found
    assert not found & {*ENGINE, "dagster", "matplotlib"}


def test_deliveries_loads_no_engine_with_new_deliveries_and_a_home(tmp_path: Path) -> None:
    biocloud = BiocloudHere(tmp_path)
    write(biocloud.landing)
    biocloud("deliveries", "--register", "2026-01-31-06:00:00")
    assert not loaded(biocloud, "deliveries") & set(ENGINE)


def test_the_definitions_load_no_engine_and_no_library_of_a_single_job(tmp_path: Path) -> None:
    program = "import biocloud_assets.definitions, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=Biocloud(tmp_path).environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=150,
    )
    assert not set(done.stdout.split()) & {*ENGINE, "boto3", "matplotlib", "requests"}


def test_the_check_of_the_airflow_export_loads_no_engine(tmp_path: Path) -> None:
    assert not loaded(Biocloud(tmp_path), "airflow", "export", "--check") & set(ENGINE)
