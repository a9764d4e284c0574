"""Sail and Spark on a JVM write equal tables from the same deliveries, and can write into one lake at the same time.

Each engine has a process of its own for all these tests, because Spark takes minutes to warm up.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from biocloud_assets.ingest import delivery_log
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.sample import land_bundled, synthetic
from biocloud_assets.spark.table_reader import DeltaRsReader
from tests.ingest import edge_cases
from tests.ingest.deliveries import record, table, write
from tests.ingest.engines import Engine, tables
from tests.needs import unavailable

pytestmark = [pytest.mark.jvm, pytest.mark.timeout(1800)]

BAD = "2026-04-30-06:00:00"


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory, s3_server: str) -> Iterator[tuple[Engine, Engine]]:
    """Sail, and Spark on a JVM."""
    missing = [
        what
        for what, found in {
            "Java": shutil.which("java") or os.environ.get("JAVA_HOME"),
            "the package delta-spark (the extra jvm)": find_spec("delta"),
        }.items()
        if not found
    ]
    if missing:
        unavailable(f"there is no {' and no '.join(missing)}")
    home = tmp_path_factory.mktemp("engines")
    sail, jvm = Engine("sail", home), Engine("jvm", home)
    try:
        sail.answer()
        try:
            jvm.answer()
        except AssertionError as error:
            unavailable(f"Spark can't be started: {error}")
        yield sail, jvm
    finally:
        sail.stop()
        jvm.stop()


def test_both_at_once_write_the_tables_that_one_of_them_writes(engines: tuple[Engine, Engine], tmp_path: Path) -> None:
    """Into one lake, each its own deliveries; either can replace the rows that the other has written."""
    sail, jvm = engines
    landing, alone, together = (DataLake.at(str(tmp_path / name)) for name in ("in", "alone", "together"))
    write(tmp_path / "in", edge_cases.PLAIN)
    sail(landing, together, edge_cases.PLAIN, "ingest")
    hard = edge_cases.write_all(tmp_path / "in")
    others = synthetic.write(landing, results=200, seed=11, deliveries=4)
    for name in others:
        sail.send(landing, together, name, "ingest")
    for name in hard:
        jvm.send(landing, together, name, "ingest")
    for _ in others:
        assert "refused" not in sail.answer()
    for name in (*hard, *others):
        sail.send(landing, alone, name, "ingest")
    by_jvm = [jvm.answer() for _ in hard]
    by_sail = [sail.answer() for _ in (*hard, *others)]

    assert delivery_log.ingested(DeltaRsReader(together), CONTRACT) == {*hard, *others}
    expected, found = tables(alone), tables(together)
    for name in expected:
        assert found[name] == expected[name], name
    # Every failed check, with its examples.
    assert [answer["failed"] for answer in by_jvm] == [answer["failed"] for answer in by_sail[: len(hard)]]

    # Each re-nests and replaces the rows that the other has written.
    assert jvm(landing, together, edge_cases.UNKNOWN, "verify") == {"differing": []}
    assert jvm(landing, together, others[0], "verify") == {"differing": []}
    assert sail(landing, together, edge_cases.PLAIN, "verify") == {"differing": []}
    write(tmp_path / "in", edge_cases.WIDE, sensor=[record("sensor"), record("sensor", id="sensor-2")])
    for lake in (alone, together):
        assert sail(landing, lake, edge_cases.WIDE, "ingest", "verify")["differing"] == []
    assert tables(together) == tables(alone)


def test_both_refuse_the_same_for_the_same_reasons(engines: tuple[Engine, Engine], tmp_path: Path) -> None:
    landing, lake = DataLake.at(str(tmp_path / "in")), DataLake.at(str(tmp_path / "lake"))
    result = record(
        "analysis_group_result",
        algorithm_id="nowhere",
        media=[None],
        predictions=[{"region_group_id": "g1", "taxa": None}, None],
    )
    write(
        tmp_path / "in",
        BAD,
        algorithm=[record("algorithm", id=None), record("algorithm", id="a"), record("algorithm", id="a", name=None)],
        sensor=[table("sensor"), table("sensor").drop_columns(["type"])],
        sensor_media_item=table("sensor_media_item").rename_columns({"captured_at": "captured"}),
        analysis_group_result=[result],
    )
    by_sail, by_jvm = (engine(landing, lake, BAD, "ingest") for engine in engines)
    assert by_sail == by_jvm
    assert by_jvm["refused"]
    kinds = {violation.partition(":")[0] for violation in by_jvm["refused"]}
    assert kinds >= {"null key", "repeated key", "null value", "null list element", "missing column", "renamed column"}
    assert "dangling reference" in by_jvm["failed"]["landing/dsi/analysis_group_result:plausible"]
    assert not list(lake.walk())


def test_the_command_on_s3(engines: tuple[Engine, Engine], s3_server: str, s3_root: str, tmp_path: Path) -> None:
    """`biocloud ingest` of the sample, with both roots on S3; then the other engine writes into the same tables."""
    sail, jvm = engines
    landing, lake = (DataLake.at(f"{s3_root}/{name}", endpoint=s3_server) for name in ("in", "lake"))
    first, *_, last = land_bundled(landing)
    assert jvm(landing, lake, last, "command") == {"code": 0}
    sail(landing, lake, first, "ingest")
    assert sail(landing, lake, last, "verify") == {"differing": []}

    local = DataLake.at(str(tmp_path / "lake"))
    for name in (first, last):
        sail(landing, local, name, "ingest")
    assert tables(lake) == tables(local)


def test_the_jvm_prints_no_warnings_and_ends_with_its_process(engines: tuple[Engine, Engine]) -> None:
    """The last of these tests: it stops the JVM."""
    _, jvm = engines
    children = jvm.children()
    assert children
    assert jvm.stop() == 0
    deadline = time.monotonic() + 60
    while any(child.exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(child.exists() for child in children)
    printed = jvm.printed()
    assert "testing" not in printed, "no credentials"
    assert [line for line in printed.splitlines() if "WARN" in line or "INFO" in line or "Exception" in line] == []


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("JAVA_HOME", "/nowhere", "/nowhere/bin/java: No such file"),
        (
            "PYSPARK_SUBMIT_ARGS",
            "--packages org.example:none:1 pyspark-shell",
            "dependency: org.example#none;1: not found",
        ),
    ],
)
def test_a_jvm_that_can_not_start_says_why(variable: str, value: str, reason: str) -> None:
    program = "from biocloud_assets.spark.session import get_session; get_session('jvm')"
    environment = {**os.environ, variable: value}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert "EngineError" in last
    assert reason in last


def test_the_jars_fit_the_spark_they_are_for() -> None:
    """Hadoop's S3 must be of the version of the Hadoop that is in PySpark."""
    import pyspark

    from biocloud_assets.spark import session

    jars = {path.name for path in (Path(pyspark.__file__).parent / "jars").glob("*.jar")}
    assert f"spark-core_2.13-{pyspark.__version__}.jar" in jars
    hadoop = next(package.rpartition(":")[2] for package in session._S3A_PACKAGES if "hadoop-aws" in package)
    assert f"hadoop-client-api-{hadoop}.jar" in jars
