"""CONTRIBUTING.md: each example, applied to a copy of the project, has the effect that it promises."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from biocloud_assets.access.group_file import read_group_file

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(400)

_DEFINED = """
import json
from biocloud_assets.definitions import defs
repository = defs.get_repository_def()
graph = repository.asset_graph
print(json.dumps({
    "assets": {
        key.to_user_string(): [column.name for column in graph.get(key).metadata["dagster/column_schema"].columns]
        if "dagster/column_schema" in graph.get(key).metadata else []
        for key in graph.get_all_asset_keys()
    },
    "checks": [f"{check.asset_key.to_user_string()}:{check.name}" for check in graph.asset_check_keys],
    "jobs": [job.name for job in repository.get_all_jobs()],
    "sensors": [sensor.name for sensor in repository.sensor_defs],
}))
"""


_REPORT = """
from biocloud_assets.definitions import defs
assert defs.resolve_job_def("maintenance_report").execute_in_process().success
"""


def sections() -> dict[str, str]:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    _, *parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


class Copy:
    """A copy of the project, to which the examples of a section are applied."""

    def __init__(self, root: Path, section: str) -> None:
        self.root = root
        for name in ("biocloud_assets", "databricks", "groups", "airflow_export"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.parquet"))
        shutil.copy(ROOT / "uv.lock", root)
        text = sections()[section]
        for path, code in re.findall(r"^`(\S+\.py)`:\n\n```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(code)
            (root / path).parent.joinpath("__init__.py").touch()
        for diff in re.findall(r"^```diff\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            done = subprocess.run(
                ["git", "apply", "--verbose", "-"], cwd=root, input=diff, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr

    def run(self, *arguments: str) -> str:
        """Run Python in the copy, whose package comes before the installed one."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BIOCLOUD_")}
        environment |= {"BIOCLOUD_HOME": str(self.root / "home"), "PYTHONPATH": str(self.root)}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=self.root, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def definitions(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("-c", _DEFINED).splitlines()[-1])
        return found

    def lint(self) -> None:
        """The examples are written as the project's code is."""
        configuration = ("--config", str(ROOT / "pyproject.toml"))
        self.run("-m", "ruff", "check", *configuration, "biocloud_assets")
        self.run("-m", "ruff", "format", *configuration, "--check", "biocloud_assets")


def test_every_example_is_tried() -> None:
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {heading.lower().replace(" ", "_") for heading in sections()} <= tested


def test_add_a_folder_to_the_contract(tmp_path: Path) -> None:
    copy = Copy(tmp_path / "copy", "Add a folder to the contract")
    found = copy.definitions()
    assert found["assets"]["raw/dsi/observer"] == ["id", "name", "_rescued", "_delivery"]
    assert {"landing/dsi/observer:contract", "raw/dsi/observer:key", "raw/dsi/observer:row_count"} <= {*found["checks"]}
    copy.run("-m", "biocloud_assets.raw.docs")
    assert "raw/dsi/observer" in (copy.root / "docs/data-architecture/raw/dsi.md").read_text()
    copy.lint()


def test_add_a_table(tmp_path: Path) -> None:
    copy = Copy(tmp_path / "copy", "Add a table")
    columns = copy.definitions()["assets"]["raw/dsi/analysis_group_result_tag"]
    assert columns == ["result_id", "tag_index", "name", "_rescued", "_delivery"]
    copy.lint()


def test_add_a_check(tmp_path: Path) -> None:
    copy = Copy(tmp_path / "copy", "Add a check")
    found = copy.definitions()
    assert "raw/dsi/sensor:ranges" in found["checks"]
    assert "battery" in found["assets"]["raw/dsi/sensor"]
    copy.lint()


def test_add_a_source(tmp_path: Path) -> None:
    copy = Copy(tmp_path / "copy", "Add a source")
    found = copy.definitions()
    assert {"landing/birds/count", "raw/birds/count", "raw/birds/delivery"} <= found["assets"].keys()
    assert "raw/birds/count:ranges" in found["checks"]
    assert "birds_raw" in found["jobs"]
    assert "birds_deliveries" in found["sensors"]
    copy.lint()


def test_add_a_dag(tmp_path: Path) -> None:
    copy = Copy(tmp_path / "copy", "Add a DAG")
    copy.run("-c", _REPORT)
    copy.run("-m", "biocloud_assets.cli", "airflow", "export", "--env", "development")
    dag = (copy.root / "airflow_export/development/dags/maintenance_report.py").read_text()
    assert '"--dry-run"' in dag
    copy.lint()


def test_add_a_group(tmp_path: Path) -> None:
    copy = Copy(tmp_path / "copy", "Add a group")
    file = "groups/development_group.yml"
    copy.run("-m", "check_jsonschema", "--schemafile", "groups/schema.json", file)
    groups = read_group_file(copy.root / file)
    assert groups["biocloud_readers_development"] == ["biocloud.reader@example.org"]
