"""Processes with one engine each, and what must be equal in the tables that they write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.schema import RESCUED_COLUMN
from biocloud_assets.spark import delta_log


class Engine:
    """A process with one engine."""

    def __init__(self, name: str, home: Path, **environment: str) -> None:
        # Nothing here runs for long enough to be worth the optimising compiler.
        java = {"JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}
        # PySpark sets this once a process has a session on Sail; a process that has it can't start a JVM.
        inherited = {name: value for name, value in os.environ.items() if name != "SPARK_CONNECT_MODE_ENABLED"}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "engine_process.py"), name],
            env={**inherited, **java, "BIOCLOUD_HOME": str(home / name), "BIOCLOUD_QUIET_SECONDS": "0"} | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(home / name).with_suffix(".log").open("w"),
            text=True,
        )
        self._log = (home / name).with_suffix(".log")

    def send(self, landing: DataLake, lake: DataLake, delivery: str, *steps: str) -> None:
        """Ask it to run steps for a delivery."""
        assert self._process.stdin is not None
        request = {"landing": landing.root, "lake": lake.root, "delivery": delivery, "steps": steps}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """The outcome of the first request that it has not answered yet."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": self.printed()}
        assert "error" not in answer, answer["error"]
        return answer

    def __call__(self, landing: DataLake, lake: DataLake, delivery: str, *steps: str) -> dict[str, Any]:
        self.send(landing, lake, delivery, *steps)
        return self.answer()

    def printed(self) -> str:
        """What it has printed to stderr."""
        return self._log.read_text()

    def children(self) -> list[Path]:
        """The processes that it has started, as folders in /proc."""
        pid = self._process.pid
        return [Path("/proc", child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def stop(self) -> int:
        """Close its input, and return its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait(timeout=60)


def tables(lake: DataLake) -> dict[str, Any]:
    """Everything about the tables of a lake that must be equal: schemas, partitions, properties and rows."""
    found = {}
    for spec in (*CONTRACT.tables, CONTRACT.log):
        table = delta_log.open_table(lake, CONTRACT.address(spec))
        assert table is not None, spec.name
        rows = table.to_pyarrow_table()
        if spec is CONTRACT.log:
            rows = rows.drop_columns(["engine", "orchestrator", "run_id", "code_commit", "ingested_at"])
        found[spec.name] = {
            "schema": json.loads(table.schema().to_json()),
            "types": str(rows.schema),
            "partitions": table.metadata().partition_columns,
            "properties": table.metadata().configuration,
            # Compared as JSON values, because a number has several forms: 1e-10, 1.0E-10.
            "rows": sorted(repr(row | rescued(row)) for row in rows.to_pylist()),
        }
    return found


def rescued(row: dict[str, Any]) -> dict[str, Any]:
    return {RESCUED_COLUMN: json.loads(row[RESCUED_COLUMN])} if row.get(RESCUED_COLUMN) is not None else {}
