"""The Dagster definitions: assets, checks, jobs, sensors and schedules, and that Dagster's own commands load them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from biocloud_assets.definitions import build_definitions
from biocloud_assets.launch.results import asset_key
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.schema import DELIVERY_COLUMN, RESCUED_COLUMN
from biocloud_assets.settings import Settings

SNAPSHOT = Path(__file__).with_name("definitions.json")


def local() -> dg.Definitions:
    return build_definitions(Settings())


def snapshot(definitions: dg.Definitions) -> dict[str, Any]:
    """The definitions in a form that is easy to compare."""
    repository = definitions.get_repository_def()
    graph = repository.asset_graph
    return {
        "assets": {
            key.to_user_string(): {
                "deps": sorted(parent.to_user_string() for parent in graph.get(key).parent_keys),
                "group": graph.get(key).group_name,
                "kinds": sorted(graph.get(key).kinds),
                "owners": sorted(graph.get(key).owners),
                "partitions": getattr(graph.get(key).partitions_def, "name", None),
                "pools": sorted(graph.get(key).pools or ()),
                "checks": sorted(
                    f"{check.name}{' (blocking)' if graph.get(check).blocking else ''}"
                    for check in graph.asset_check_keys
                    if check.asset_key == key
                ),
            }
            for key in sorted(graph.get_all_asset_keys())
        },
        "jobs": sorted(job.name for job in repository.get_all_jobs() if not job.name.startswith("__")),
        "sensors": {sensor.name: sensor.default_status.value for sensor in repository.sensor_defs},
        "schedules": sorted(schedule.name for schedule in repository.schedule_defs),
    }


def test_the_definitions_are_as_in_the_snapshot() -> None:
    """`python tests/test_definitions.py` writes the snapshot; review the difference."""
    assert snapshot(local()) == json.loads(SNAPSHOT.read_text())


def test_every_folder_and_table_is_an_asset_with_its_address() -> None:
    keys = {key.to_user_string() for key in local().get_repository_def().asset_graph.get_all_asset_keys()}
    assert set(CONTRACT.addresses) <= keys


def test_every_column_of_a_table_has_a_description_of_its_source() -> None:
    graph = local().get_repository_def().asset_graph
    for table in CONTRACT.tables:
        metadata = graph.get(asset_key(CONTRACT.address(table))).metadata
        columns = [column.name for column in metadata["dagster/column_schema"].columns]
        assert columns == [column.name for column in table.columns]
        lineage = metadata["dagster/column_lineage"].value.deps_by_column
        for column in table.columns:
            if column.name not in {RESCUED_COLUMN, DELIVERY_COLUMN}:
                (source,) = lineage[column.name]
                assert source.asset_key == dg.AssetKey(["landing", "dsi", str(table.folder)])
                assert source.column_name in {item.name for item in CONTRACT.folder(str(table.folder)).fields}


@pytest.mark.parametrize("command", [["asset", "list"], ["definitions", "validate"]])
def test_dagsters_own_commands_load_it(command: list[str], tmp_path: Path) -> None:
    workspace = ["-w", "workspace.yaml"] if command[0] == "definitions" else ["-m", "biocloud_assets.definitions"]
    done = subprocess.run(
        [sys.executable, "-m", "dagster", *command, *workspace],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if command == ["asset", "list"]:
        assert "raw/dsi/delivery" in done.stdout.splitlines()
    assert "PreviewWarning" not in done.stderr


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(snapshot(local()), indent=2) + "\n")
