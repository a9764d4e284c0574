"""A run on a Spark JVM that is terminated, as the UI does it."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import dagster as dg
import pytest

from tests.cli.biocloud import Biocloud, Dev, wait_for
from tests.needs import unavailable

pytestmark = [pytest.mark.jvm, pytest.mark.timeout(900)]

LARGE = "2024-01-01-00:00:00"  # as `biocloud sample` calls it


def test_a_run_that_is_terminated_on_a_jvm_is_canceled_and_its_process_ends(tmp_path: Path) -> None:
    if not shutil.which("java") or find_spec("delta") is None:
        unavailable("there is no Java, or no package delta-spark (the extra jvm)")
    biocloud = Biocloud(tmp_path, BIOCLOUD_ENGINE="jvm")
    biocloud("sample", "--results", "50000")
    dev = Dev(biocloud)
    try:
        with biocloud.instance() as instance:
            instance.add_dynamic_partitions("dsi_delivery", [LARGE])
            run = dev.launch(LARGE)
            wait_for(lambda: instance.all_logs(run, of_type=dg.DagsterEventType.STEP_START))
        process = biocloud.process_of(run)
        wait_for(lambda: [child for child in process.children() if child.name() == "java"])
        dev.terminate(run)
        assert dev.wait(run) == "CANCELED"
        wait_for(lambda: not process.is_running(), seconds=30)
    finally:
        dev.stop()
