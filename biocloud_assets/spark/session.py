"""One Spark session per process, on Sail, on a local JVM or on Databricks.

What belongs here: starting and stopping engines, and the settings that make them give the same results. What doesn't:
any data code.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from typing import TYPE_CHECKING, Any

from biocloud_assets.errors import EngineError
from biocloud_assets.settings import Engine

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_SAIL_ENVIRONMENT = {
    # Parquet's and Delta's statistics leave NaN out, and Sail 0.7 takes them for the truth about every value: a column
    # of one number and NaN reads as that number throughout. So it may not use them. (The tables that we write have no
    # statistics for doubles either, see `delta`.)
    "SAIL_EXECUTION__COLLECT_STATISTICS": "false",
    "SAIL_PARQUET__PRUNING": "false",
    "SAIL_PARQUET__ENABLE_PAGE_INDEX": "false",
    # Its actors warn of tasks that end with the server, and that `persist` does nothing.
    "RUST_LOG": "warn,sail_common::actor=error,sail_spark_connect=error",
}

_CONFIGURATION = {"spark.sql.session.timeZone": "UTC", "spark.sql.caseSensitive": "true"}

_lock = threading.Lock()
_current: tuple[Engine, SparkSession, Any] | None = None


def get_session(engine: Engine, *, s3_endpoint: str | None = None) -> SparkSession:
    """The session of this process; it is started on the first call and stopped when the process ends.

    Args:
        engine: `sail` (embedded, no Java), `jvm` (a local Spark, needs Java and the extra `jvm`) or `databricks` (the
            session that the runtime provides).
        s3_endpoint: the URL of an S3 other than Amazon's.

    Raises:
        EngineError: the engine can't be started, or the process already has a session on another one.
    """
    global _current
    with _lock:
        if _current is None:
            start = {"sail": _start_sail, "jvm": _start_jvm, "databricks": _start_databricks}[engine]
            session, server = start(s3_endpoint)
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
    """Stop the session and its engine; on Databricks, whose session isn't ours, only let go of it."""
    global _current
    with _lock:
        if _current is None:
            return
        engine, session, server = _current
        _current = None
        if engine != "databricks":
            session.stop()
        if server is not None:
            server.stop()


def _start_sail(s3_endpoint: str | None) -> tuple[SparkSession, Any]:
    for name, value in _SAIL_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if s3_endpoint is not None and s3_endpoint.startswith("http://"):
        # Who names an http endpoint wants it used; Sail's S3 client wants to be told so twice.
        os.environ.setdefault("AWS_ALLOW_HTTP", "true")
    # PySpark's client prints every error to stderr before it raises it.
    logging.getLogger("pyspark.sql.connect.logging").setLevel(logging.CRITICAL)
    from pysail.spark import SparkConnectServer
    from pyspark.sql import SparkSession

    server = SparkConnectServer(ip="127.0.0.1", port=0)
    server.start(background=True)
    _, port = server.listening_address
    return SparkSession.builder.remote(f"sc://127.0.0.1:{port}").getOrCreate(), server


def _start_jvm(s3_endpoint: str | None) -> tuple[SparkSession, Any]:
    try:
        from delta import configure_spark_with_delta_pip
    except ImportError as error:
        raise EngineError(
            "BIOCLOUD_ENGINE=jvm",
            expected="the package delta-spark",
            found="none",
            hint="Install the extra: `uv sync --extra jvm`.",
        ) from error
    from pyspark.sql import SparkSession

    builder = (
        SparkSession.builder.master("local[*]")
        .appName("biocloud")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
    )
    try:
        return configure_spark_with_delta_pip(builder).getOrCreate(), None
    except Exception as error:
        raise EngineError(
            "BIOCLOUD_ENGINE=jvm",
            expected="a local Spark that starts",
            found=str(error).splitlines()[0],
            hint="It needs Java 17 or newer, and on its first start Maven Central for the jars of Delta.",
        ) from error


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
