"""The engine's session as long as its process runs."""

from __future__ import annotations

import os
import subprocess
import sys

from biocloud_assets.spark.session import _SAIL_ENVIRONMENT

TIMEOUT = "SAIL_SPARK__SESSION_TIMEOUT_SECS"
MAX_RUNTIME_SECONDS = 14_400
"""When Dagster ends a run, as `biocloud_assets.cli.home` sets it."""

QUERY_AFTER_A_PAUSE = """
import time
from biocloud_assets.spark.session import get_session

spark = get_session("sail")
spark.range(1).count()
time.sleep(4)
print(spark.range(3).count())
"""


def query_after_a_pause(timeout: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {TIMEOUT: timeout}
    command = [sys.executable, "-c", QUERY_AFTER_A_PAUSE]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_session_outlives_a_pause_that_is_as_long_as_a_run_may_be() -> None:
    assert int(_SAIL_ENVIRONMENT[TIMEOUT]) > MAX_RUNTIME_SECONDS
    assert query_after_a_pause(_SAIL_ENVIRONMENT[TIMEOUT]).stdout == "3\n"
    assert "is not running" in query_after_a_pause("1").stderr, "the variable isn't the one that Sail reads"
