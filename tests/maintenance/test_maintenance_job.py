"""The job `table_maintenance`, the command `biocloud maintain` and `run_step.py --maintain`: the same work, shown."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from biocloud_assets.definitions import build_definitions
from biocloud_assets.errors import SettingsError
from biocloud_assets.launch.results import asset_key
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.run_step import main
from biocloud_assets.settings import Settings
from tests.cli.biocloud import BiocloudHere
from tests.ingest.deliveries import DELIVERY, write
from tests.ingest.lakehouse import context_at, ingest, versions
from tests.maintenance import old_files

TABLES = [CONTRACT.address(table) for table in (*CONTRACT.tables, CONTRACT.log)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with one delivery."""
    root = tmp_path_factory.mktemp("root")
    write(root / "in")
    context = context_at(root)
    ingest(context, DELIVERY)
    return root


def leave_orphan(root: Path) -> Path:
    """Leave a file as a killed write does, long ago."""
    orphan = old_files.leave_orphan(context_at(root), "raw/dsi/sensor")
    os.utime(orphan, (0, 0))
    return orphan


def run(root: Path, **config: Any) -> tuple[dg.ExecuteInProcessResult, list[dg.EventLogRecord]]:
    settings = Settings(landing_root=f"{root}/in", lake_root=f"{root}/out", curated_root=f"{root}/curated")
    with dg.DagsterInstance.ephemeral() as instance:
        result = (
            build_definitions(settings)
            .resolve_job_def("table_maintenance")
            .execute_in_process(
                run_config={"ops": {"maintain_tables": {"config": config}}}, raise_on_error=False, instance=instance
            )
        )
        observed = [
            record
            for table in TABLES
            for record in instance.fetch_observations(dg.AssetRecordsFilter(asset_key(table)), limit=10).records
        ]
    return result, observed


def test_a_run_observes_each_table_with_what_it_did(root: Path) -> None:
    orphan = leave_orphan(root)
    result, observed = run(root)
    assert result.success
    assert not orphan.exists()
    shown = {
        str(record.asset_key and record.asset_key.to_user_string()): {
            name: value.value for name, value in record.asset_observation.metadata.items()
        }
        for record in observed
        if record.asset_observation is not None
    }
    assert shown.keys() == set(TABLES)
    assert shown["raw/dsi/sensor"] == {
        "files_before": 1,
        "files_after": 1,
        "deleted_files": 1,
        "deleted_log_files": 0,
        "reclaimed_bytes": 10,
        "dry_run": False,
    }
    (output,) = [event.step_output_data for event in result.all_events if event.is_successful_output]
    assert output.metadata["reclaimed_bytes"].value == 10
    assert len(output.metadata["tables"].records) == len(TABLES)  # type: ignore[attr-defined]


def test_a_dry_run_deletes_nothing(root: Path) -> None:
    orphan, before = leave_orphan(root), versions(context_at(root))
    result, observed = run(root, dry_run=True)
    assert result.success
    assert orphan.exists()
    assert versions(context_at(root)) == before
    assert len(observed) == len(TABLES)


def test_a_retention_that_is_too_short_fails_the_run_and_is_not_retried(root: Path) -> None:
    orphan = leave_orphan(root)
    result, observed = run(root, retention_days=6)
    assert not result.success
    (failure,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert "expected at least 7 days" in str(failure.error)
    assert (orphan.exists(), observed) == (True, [])


def test_the_script_on_a_cluster_does_it_without_dagster(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    orphan = leave_orphan(root)
    where = ["--landing-root", f"{root}/in", "--lake-root", f"{root}/out", "--engine", "sail"]
    main(["--maintain", "--retention-days", "7", "--dry-run", *where])
    assert orphan.exists()
    main(["--maintain", "--retention-days", "7", *where])
    assert not orphan.exists()
    assert "raw/dsi/sensor: files_before 1" in capsys.readouterr().out
    with pytest.raises(SettingsError, match="without --asset"):
        main(["--maintain", "--asset", "raw/dsi/sensor", *where])


def test_the_command_prints_a_table_and_shows_the_outcome_in_the_ui(root: Path, tmp_path: Path) -> None:
    biocloud = BiocloudHere(tmp_path / "home", BIOCLOUD_LAKE_ROOT=f"{root}/out")
    orphan = leave_orphan(root)
    printed = biocloud("maintain", "--dry-run")
    assert orphan.exists()
    assert "Bytes to reclaim" in printed
    printed = biocloud("maintain")
    assert not orphan.exists()
    lines = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.startswith("raw/")}
    assert lines.keys() == set(TABLES)
    assert lines["raw/dsi/sensor"] == ["1", "1", "1", "0", "10"]
    with biocloud.instance() as instance:
        (record,) = instance.fetch_observations(asset_key("raw/dsi/sensor"), limit=5).records
    assert record.asset_observation is not None
    assert record.asset_observation.metadata["reclaimed_bytes"].value == 10
    assert "expected at least 7 days" in biocloud("maintain", "--days", "3", code=2)
    assert "There is no table" in BiocloudHere(tmp_path / "other")("maintain")
