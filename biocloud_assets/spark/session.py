"""One Spark session per process, on Sail, a local JVM, a Spark Connect server or Databricks, with equal settings."""

from __future__ import annotations

import atexit
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from biocloud_assets.errors import EngineError
from biocloud_assets.settings import Engine, Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_SAIL_ENVIRONMENT = {
    # Parquet's and Delta's statistics leave NaN out, and Sail 0.7 trusts them: it reads a column of one number and NaN
    # as that number throughout. So it must not use them. (Our tables have no statistics for doubles, see `delta`.)
    "SAIL_EXECUTION__COLLECT_STATISTICS": "false",
    "SAIL_PARQUET__PRUNING": "false",
    "SAIL_PARQUET__ENABLE_PAGE_INDEX": "false",
    # Its server ends a session that has sent no request for 15 minutes. One may wait longer than that, for the files of
    # a large delivery to be read, or on a laptop that sleeps. It ends with this process, so a year is no loss.
    "SAIL_SPARK__SESSION_TIMEOUT_SECS": "31536000",
    # Its actors warn about tasks that end with the server, and that `persist` does nothing.
    "RUST_LOG": "warn,sail_common::actor=error,sail_spark_connect=error",
}

# For each function that is called on a column, PySpark records the call site for error messages, and looks for IPython
# on the way. Building an expression takes ten times as long with it.
_CALL_SITES = "spark.python.sql.dataFrameDebugging.enabled"

_S3A_PACKAGES = (
    "org.apache.hadoop:hadoop-aws:3.5.0",  # the Hadoop in PySpark
    # The parts of Amazon's SDK that it uses, in the version that it was built with; the whole SDK is a jar of 686 MB.
    "software.amazon.awssdk:s3:2.35.4",
    "software.amazon.awssdk:s3-transfer-manager:2.35.4",
    "software.amazon.awssdk:sts:2.35.4",
)

_JVM_CONFIGURATION = {
    "spark.master": "local[*]",
    "spark.app.name": "biocloud",
    "spark.driver.memory": "2g",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    _CALL_SITES: "false",
    "spark.jars.excludes": ",".join(
        (
            "software.amazon.awssdk:bundle",
            # Spark contains these.
            "org.apache.hadoop:hadoop-client-api",
            "org.apache.hadoop:hadoop-client-runtime",
        )
    ),
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    # The defaults of Spark and Delta are for clusters: 200 and 50 tasks, and 10,000 to list files for VACUUM.
    "spark.sql.shuffle.partitions": "8",
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "8",
    "spark.databricks.delta.snapshotPartitions": "2",
}

_CONFIGURATION = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.caseSensitive": "true",
    # INT96, the default, doesn't hold the years 1 to 9999 for other readers; dates are in the Gregorian calendar.
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.parquet.datetimeRebaseModeInRead": "CORRECTED",
    "spark.sql.parquet.datetimeRebaseModeInWrite": "CORRECTED",
}

_lock = threading.Lock()
_current: tuple[Engine, SparkSession, Any] | None = None


def get_session(engine: Engine, *, s3_endpoint: str | None = None) -> SparkSession:
    """The session of this process; it is started on the first call and stopped when the process ends.

    Args:
        engine: `sail` (embedded, no Java), `jvm` (a local Spark, needs Java and the extra `jvm`), `connect` (the Spark
            Connect server that SPARK_REMOTE names) or `databricks` (the session that the runtime provides).
        s3_endpoint: the URL of an S3 other than Amazon's.

    Raises:
        EngineError: the engine can't be started, or the process already has a session on another one.
    """
    global _current
    with _lock:
        if _current is None:
            session, server = _START[engine](s3_endpoint)
            for name, value in _CONFIGURATION.items():
                session.conf.set(name, value)
            _current = engine, session, server
            atexit.register(stop_session)
        elif _current[0] != engine:
            raise EngineError(
                f"engine {engine}",
                expected="one engine per process",
                found=f"a session on {_current[0]}",
                hint="Call stop_session() first, or use another process.",
            )
        return _current[1]


def stop_session() -> None:
    """Stop the session and its engine; the session of a Databricks runtime goes on."""
    global _current
    with _lock:
        if _current is None:
            return
        engine, session, server = _current
        _current = None
        if engine == "connect":
            # Otherwise a request that fails is repeated for ten minutes, for instance when the process was interrupted.
            session.client.set_retry_policies([])
        if engine != "databricks":
            session.stop()
        if server is not None:
            server.stop()


def _start_sail(s3_endpoint: str | None) -> tuple[SparkSession, Any]:
    for name, value in _SAIL_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if s3_endpoint is not None and s3_endpoint.startswith("http://"):
        # Sail's S3 client refuses http endpoints unless this is set.
        os.environ.setdefault("AWS_ALLOW_HTTP", "true")
    # PySpark's client prints every error to stderr before it raises it.
    logging.getLogger("pyspark.sql.connect.logging").setLevel(logging.CRITICAL)
    from pysail.spark import SparkConnectServer
    from pyspark.sql import SparkSession

    server = SparkConnectServer(ip="127.0.0.1", port=0)
    server.start(background=True)
    _, port = server.listening_address
    # Created without settings, so that no request is sent yet. By default the client repeats a request for ten minutes,
    # also the one that it sends as the process ends: the process of a run that is terminated early would go on.
    session = SparkSession.builder.remote(f"sc://127.0.0.1:{port}").create()
    session.client.set_retry_policies([])
    session.conf.set(_CALL_SITES, "false")
    return session, server


def _start_jvm(s3_endpoint: str | None) -> tuple[SparkSession, Any]:
    try:
        delta = version("delta-spark")
    except PackageNotFoundError:
        raise EngineError(
            "BIOCLOUD_ENGINE=jvm",
            expected="the package delta-spark",
            found="none",
            hint="Install the extra: `uv sync --extra jvm`.",
        ) from None
    from pyspark import SparkConf, SparkContext
    from pyspark.java_gateway import launch_gateway
    from pyspark.sql import SparkSession

    configuration = SparkConf(loadDefaults=False)
    configuration.setAll([*_JVM_CONFIGURATION.items(), *_s3a(s3_endpoint).items()])
    configuration.set("spark.jars.packages", ",".join((f"io.delta:delta-spark_4.2_2.13:{delta}", *_S3A_PACKAGES)))
    output = _Output()
    try:
        gateway = launch_gateway(configuration, {"stdout": output.end, "stderr": output.end})
        context = SparkContext(conf=configuration, gateway=gateway)
    except Exception as error:
        raise EngineError(
            "BIOCLOUD_ENGINE=jvm",
            expected="a local Spark that starts",
            found=output.reason() or str(error).splitlines()[0],
            hint="It needs Java 17 or newer, and on its first start Maven Central for its jars: see docs/engines.md.",
        ) from error
    # Errors are raised, so they needn't be logged as well.
    context.setLogLevel("FATAL")
    logging.getLogger("DataFrameQueryContextLogger").setLevel(logging.CRITICAL)
    output.pass_on()
    return SparkSession(context), None


class _Output:
    """The output of the JVM: kept while it starts, and then passed on to stderr.

    Attributes:
        end: the file descriptor to which the JVM writes.
    """

    def __init__(self) -> None:
        start, self.end = os.pipe()
        self._kept: list[str] = []
        self._started = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(start,), daemon=True)
        self._reader.start()

    def _read(self, start: int) -> None:
        with os.fdopen(start, errors="replace") as lines:
            for line in lines:
                if self._started.is_set():
                    sys.stderr.write(line)
                else:
                    self._kept.append(line.strip())

    def pass_on(self) -> None:
        """Pass on what follows: the JVM has started."""
        os.close(self.end)
        self._started.set()

    def reason(self) -> str:
        """Why the JVM ended: its exception, or else the last lines of its output."""
        os.close(self.end)
        self._reader.join(timeout=5)
        exception = [line for line in self._kept if line.startswith("Exception in thread")]
        return "; ".join(exception or [line for line in self._kept if line][-3:])


def _s3a(endpoint: str | None) -> dict[str, str]:
    """Hadoop's settings for `s3://`, with credentials and region found the AWS-standard way."""
    found = {
        "spark.hadoop.fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
        "spark.hadoop.fs.s3a.aws.credentials.provider": (
            "software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider"
        ),
        "spark.hadoop.fs.s3a.endpoint.region": "${env.AWS_REGION:-us-east-1}",
    }
    if endpoint is not None:
        found["spark.hadoop.fs.s3a.endpoint"] = endpoint
        found["spark.hadoop.fs.s3a.path.style.access"] = "true"
        found["spark.hadoop.fs.s3a.connection.ssl.enabled"] = str(endpoint.startswith("https://")).lower()
    return found


_CONNECT_PORT = 15002
"""The port of a Spark Connect server whose address has none."""

_CONNECT_SECONDS = 10


def _start_connect(s3_endpoint: str | None) -> tuple[SparkSession, Any]:
    """Connect to a server, which has an S3 endpoint and credentials of its own."""
    remote = Settings.load().spark_remote
    if remote is None:
        raise EngineError(
            "BIOCLOUD_ENGINE=connect",
            expected="the address of a Spark Connect server in SPARK_REMOTE, sc://host:port",
            found="nothing",
            hint="Set SPARK_REMOTE, or use another engine: see docs/engines.md.",
        )
    logging.getLogger("pyspark.sql.connect.logging").setLevel(logging.CRITICAL)
    from pyspark.sql import SparkSession

    address = urlsplit(remote)
    try:
        # PySpark's client asks again for minutes if nobody answers, so the connection is tried first.
        with socket.create_connection((address.hostname or "", address.port or _CONNECT_PORT), _CONNECT_SECONDS):
            pass
        session = SparkSession.builder.remote(remote).config(_CALL_SITES, "false").getOrCreate()
        _ = session.version  # the first request
    except Exception as error:
        raise EngineError(
            f"SPARK_REMOTE={remote.partition(';')[0]}",  # a token may follow
            expected="a Spark Connect server that answers",
            found=str(error).splitlines()[0] if str(error) else type(error).__name__,
            hint="Check the address, and that the server runs.",
        ) from error
    return session, None


def _start_databricks(s3_endpoint: str | None) -> tuple[SparkSession, Any]:
    from pyspark.sql import SparkSession

    session = SparkSession.getActiveSession()
    if session is None:
        raise EngineError(
            "BIOCLOUD_ENGINE=databricks",
            expected="the session of a Databricks runtime",
            found="none",
            hint="Run it on a Databricks cluster, or set BIOCLOUD_ENGINE to sail or jvm.",
        )
    return session, None


_START: dict[Engine, Callable[[str | None], tuple[SparkSession, Any]]] = {
    "sail": _start_sail,
    "jvm": _start_jvm,
    "connect": _start_connect,
    "databricks": _start_databricks,
}
