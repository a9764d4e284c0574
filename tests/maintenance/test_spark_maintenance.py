"""The maintenance on a Spark that has OPTIMIZE and VACUUM: a JVM's, as on Databricks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from biocloud_assets.ingest.verify import verify
from tests.ingest.deliveries import DELIVERY, record, write
from tests.ingest.lakehouse import content, context_at, ingest, versions
from tests.maintenance.old_files import age, age_removals, leave_orphan, split
from tests.needs import unavailable

PREDICTION = "raw/dsi/analysis_group_result_prediction"

_PROGRAM = """
import contextlib, json, sys
from dataclasses import asdict
from biocloud_assets.lake import DataLake
from biocloud_assets.maintenance.step import maintain_tables
from biocloud_assets.spark.session import get_session
lake = DataLake.at(sys.argv[1])
with contextlib.redirect_stdout(sys.stderr):
    outcomes = [
        list(map(asdict, maintain_tables("jvm", lambda: get_session("jvm"), lake, days=None, dry_run=dry_run)))
        for dry_run in (True, False, False)
    ]
print(json.dumps(outcomes))
"""


@pytest.mark.jvm
@pytest.mark.timeout(900)
def test_spark_merges_and_deletes_the_same_files(tmp_path: Path) -> None:
    if find_spec("delta") is None:
        unavailable("the extra jvm isn't installed")
    write(tmp_path / "in", analysis_group_result=[record("analysis_group_result", id=f"r{n}") for n in range(20)])
    context = context_at(tmp_path)
    ingest(context, DELIVERY)
    split(context, "analysis_group_result_prediction")  # replaces the file of the ingest
    orphan = leave_orphan(context, PREDICTION)
    age(context, 8 * 86_400)
    age_removals(context, PREDICTION, 8 * 86_400)
    expected, before = content(context), versions(context)
    # The Spark Connect session of this process has left its variables in the environment.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SPARK_")}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, context.lake.root],
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    planned, first, second = ({one["table"]: one for one in outcomes} for outcomes in json.loads(done.stdout))
    assert planned[PREDICTION] | {"dry_run": False} == first[PREDICTION]
    assert first[PREDICTION]["files_before"] > first[PREDICTION]["files_after"] == 1
    assert first[PREDICTION]["deleted_files"] == 2
    assert not orphan.exists()
    assert second[PREDICTION] == first[PREDICTION] | {"files_before": 1, "deleted_files": 0, "reclaimed": 0}
    after = versions(context)
    assert {name for name in before if before[name] != after[name]} == {"analysis_group_result_prediction"}
    assert content(context) == expected
    assert all(comparison.equal for comparison in verify(context, DELIVERY))
