"""`biocloud doctor local`: what a laptop lacks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from biocloud_assets.doctor import laptop
from biocloud_assets.doctor.findings import Finding


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, a free port, and an engine that needn't be started anew by each test."""
    for name in [name for name in os.environ if name.startswith(("BIOCLOUD_", "DAGSTER_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BIOCLOUD_HOME", str(tmp_path / "home"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setattr(laptop, "UI_PORT", probe.getsockname()[1])
    return tmp_path / "home"


def examine() -> dict[str, Finding]:
    return {finding.check: finding for finding in laptop.examine()}


def test_all_is_ok_on_a_new_machine_and_nothing_is_created(home: Path) -> None:
    found = examine()
    assert {finding.status for finding in found.values()} == {"ok"}, found
    assert found["engine sail"].found.startswith("starts, Spark")
    assert found.keys() >= {"Python", "landing folder", "lake folder", "disk", "Dagster home", "port of the UI"}
    assert not home.exists()


@pytest.mark.parametrize(
    ("variables", "check", "text"),
    [
        ({"BIOCLOUD_ENGINE": "databricks"}, "engine databricks", "it only exists on a cluster"),
        ({"BIOCLOUD_ENGINE": "duckdb"}, "BIOCLOUD_ENGINE", "found 'duckdb'"),
        ({"BIOCLOUD_LAKE_ROOT": "{file}/lake"}, "lake folder", "{file} is a file → Move it away, or set BIOCLOUD_LAKE"),
        ({"BIOCLOUD_LANDING_ROOT": "s3://there-is-none"}, "landing folder", "there is no bucket"),
        ({"DAGSTER_HOME": "{other}"}, "Dagster home: environment", "that of production → Set DAGSTER_HOME"),
    ],
)
def test_what_is_wrong_is_named_with_what_to_do(
    home: Path,
    tmp_path: Path,
    s3_server: str,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    check: str,
    text: str,
) -> None:
    monkeypatch.setattr(laptop, "_ENGINE_SECONDS", 0.01)  # it isn't what is tested here
    paths: dict[str, Any] = {"file": tmp_path / "file", "other": tmp_path / "other"}
    paths["file"].write_text("")
    paths["other"].mkdir()
    (paths["other"] / "biocloud_environment").write_text("production\n")
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(**paths))
    finding = examine()[check]
    assert finding.status == "failed"
    assert text.format(**paths) in f"{finding.found} → {finding.hint}"


def test_a_port_in_use_and_an_engine_that_does_not_start_are_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laptop, "_ENGINE_SECONDS", 0.01)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", laptop.UI_PORT))
        taken.listen()
        found = examine()
    assert found["port of the UI"].status == "warning"
    assert "biocloud dev --port" in found["port of the UI"].hint
    assert found["engine sail"].status == "failed"
    monkeypatch.setattr(laptop, "_ENGINE_SECONDS", 60)
    monkeypatch.setenv("BIOCLOUD_ENGINE", "jvm")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert examine()["engine jvm"].status == "failed"


def test_a_full_disk_and_an_old_python_are_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laptop, "_ENGINE_SECONDS", 0.01)
    monkeypatch.setattr(laptop, "_FREE_BYTES", 2**70)
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))
    found = examine()
    assert found["disk"].status == "warning"
    assert found["Python"].status == "failed"
    assert "uv python install" in found["Python"].hint


def test_the_command_prints_the_findings_as_json(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "biocloud_assets.cli", "doctor", "local", "--json"],
        capture_output=True,
        text=True,
        timeout=150,
    )
    rows = {row["check"]: row["status"] for row in json.loads(done.stdout)}
    assert rows["engine sail"] == rows["Python"] == "ok"
    assert done.returncode == (1 if "failed" in rows.values() else 0)
