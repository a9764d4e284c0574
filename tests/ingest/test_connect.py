"""A Spark Connect server in a process of its own writes the tables that Sail writes in this process."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from biocloud_assets.errors import EngineError
from biocloud_assets.lake import DataLake
from biocloud_assets.spark import session
from tests.ingest import edge_cases
from tests.ingest.deliveries import write
from tests.ingest.engines import Engine, tables
from tests.needs import unavailable

_SAIL = """
from pysail.spark import SparkConnectServer
server = SparkConnectServer(ip="127.0.0.1", port=0)
server.start(background=True)
print(server.listening_address[1], flush=True)
input()
"""


@contextmanager
def sail_server() -> Iterator[str]:
    """A Sail server; yields its address."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SAIL],
        env=os.environ | session._SAIL_ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"sc://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()
        process.wait(timeout=60)


@contextmanager
def spark_server(folder: Path) -> Iterator[str]:
    """Spark's own server with Delta; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = {
        **session._JVM_CONFIGURATION,
        "spark.jars.packages": f"io.delta:delta-spark_4.2_2.13:{session.version('delta-spark')}",
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": str(port),
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
    }
    import pyspark

    log = folder / "spark.log"
    process = subprocess.Popen(
        [
            str(Path(pyspark.__file__).parent / "bin/spark-submit"),
            *("--class", "org.apache.spark.sql.connect.service.SparkConnectServer"),
            *(part for key, value in configuration.items() for part in ("--conf", f"{key}={value}")),
            "spark-internal",
        ],
        env=os.environ | {"JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"},
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
    )
    try:
        while process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        if process.poll() is not None:
            unavailable(f"Spark's Connect server can't be started: {log.read_text()[-2000:]}")
        yield f"sc://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)


def _is_equal_to_sail(remote: str, home: Path) -> None:
    landing, by_server, by_sail = (DataLake.at(str(home / name)) for name in ("in", "server", "sail"))
    write(home / "in", edge_cases.PLAIN)
    names = [edge_cases.PLAIN, *edge_cases.write_all(home / "in")]
    connect, sail = Engine("connect", home, SPARK_REMOTE=remote), Engine("sail", home)
    try:
        for engine, lake in ((connect, by_server), (sail, by_sail)):
            engine.answer()
            for name in names:
                assert "refused" not in engine(landing, lake, name, "ingest")
        assert connect(landing, by_server, names[-1], "verify")["differing"] == []
    finally:
        connect.stop()
        sail.stop()
    expected, found = tables(by_sail), tables(by_server)
    for name in expected:
        assert found[name] == expected[name], name


def test_a_sail_server_writes_the_same_tables(tmp_path: Path) -> None:
    with sail_server() as remote:
        _is_equal_to_sail(remote, tmp_path)


@pytest.mark.jvm
@pytest.mark.timeout(1800)
def test_a_spark_connect_server_writes_the_same_tables(tmp_path: Path) -> None:
    if not shutil.which("java") or find_spec("delta") is None:
        unavailable("there is no Java, or no package delta-spark (the extra jvm)")
    with spark_server(tmp_path) as remote:
        _is_equal_to_sail(remote, tmp_path)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "BIOCLOUD_ENGINE=connect: expected the address of a Spark Connect server in SPARK_REMOTE.*found nothing"),
        ({"SPARK_REMOTE": "sc://127.0.0.1:1"}, "expected a Spark Connect server that answers, found .*refused"),
        ({"SPARK_REMOTE": "nonsense"}, "SPARK_REMOTE=nonsense: expected a Spark Connect server that answers"),
    ],
)
def test_a_missing_or_wrong_address_is_named(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPARK_REMOTE", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(EngineError, match=message):
        session._start_connect(None)
