"""The cluster's side: what a Databricks runtime gives to the script of a `spark_python_task`, then the script.

Runs as a process of its own (`runs` starts it with a job as JSON on stdin), so it imports nothing of the tests.

As on Databricks the script's text is compiled and executed by the runtime: `__file__` is not defined (the path is in
`sys.argv[0]` and in the code's `co_filename`), its folder is not put on `sys.path`, `spark`, `sc` and `dbutils` are
globals, and SystemExit is a failure, even `sys.exit(0)`: https://github.com/NVIDIA/cudf-spark-benchmarks/pull/251,
https://github.com/mozilla/python_mozetl/pull/316. Libraries aren't installed but compared with what is there, and a
package that is neither in `_RUNTIME` nor required by a library can't be imported. A library that requires PySpark is a
failure, because pip would install the PySpark of PyPI over the runtime's, which pip doesn't know of.

The paths /dbfs and /Volumes are mapped into the workspace's folder for Python's own file functions, and /Volumes for
Spark's readers and writers: not for native code or child processes. A file in a volume can't be opened to append to it
or to write at a position: https://docs.databricks.com/aws/en/volumes/volume-files#limitations. Databricks doesn't say
which error that is; users have seen "Illegal seek" and "Input/output error". Whether a file can be renamed over another
one isn't documented either: here it can. The process ends with the script, even if the script leaves threads behind.

In standard mode Python has no AWS credentials, and Spark is Spark Connect, without a SparkContext
(https://docs.databricks.com/aws/en/compute/standard-limitations). Tables are there by name alone: nobody here has READ
FILES or WRITE FILES on an external location, so Spark refuses s3:// paths, with the error that users quote
(https://github.com/AbsaOSS/cobrix/issues/665). The workspace keeps the tables' names between clusters, as Unity Catalog
does.
"""

from __future__ import annotations

import builtins
import errno
import importlib.metadata
import io
import json
import os
import re
import socket
import sys
import traceback
import types
import warnings
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

# Sail's known traps, as biocloud_assets.spark.session has them; Databricks' engine has none of these.
_SAIL_ENVIRONMENT = {
    "SAIL_EXECUTION__COLLECT_STATISTICS": "false",
    "SAIL_PARQUET__PRUNING": "false",
    "SAIL_PARQUET__ENABLE_PAGE_INDEX": "false",
    "RUST_LOG": "warn,sail_common::actor=error,sail_spark_connect=error",
}

# What this project uses of https://docs.databricks.com/aws/en/release-notes/runtime/17.3lts#installed-python-libraries.
# The engines stand in for the runtime's Spark.
_RUNTIME = ["boto3", "matplotlib", "numpy", "pandas", "pyarrow", "pydantic", "requests"]
_ENGINE = ["pyspark", "pysail", "delta-spark", "grpcio", "grpcio-status", "googleapis-common-protos", "zstandard"]
_RUNTIME_SPARK = {"pyspark", "pyspark-client", "pyspark-connect"}

# A path in place of a table: delta.`s3://…`, DESCRIBE DETAIL 's3://…', VACUUM 's3://…'.
_PATHS_IN_SQL = re.compile(r"(?:\w+\.`|(?:DETAIL|HISTORY|VACUUM)\s+')(\w+://[^`']*)", re.IGNORECASE)

_servers: list[Any] = []  # Sail's server stops when the last reference to it goes


def main() -> None:
    """Read the job, prepare the runtime, run the script, and report how it ended."""
    job = json.load(sys.stdin)
    root = job["root"]
    _hide_the_local_project()
    failure = _install(job["libraries"], root)
    if failure is not None:
        _report(job, state="library failure", error=failure)
        return
    _hide_other_packages(job["libraries"])
    spark, context = _start_spark(job["engine"], job["spark_conf"])
    tables = Path(root) / "tables.json"
    if job["engine"] == "standard":
        _register_tables(spark, tables)
        _restrict_paths(root)
    _map_paths(root)
    script = types.ModuleType("__main__")
    script.__dict__.update(spark=spark, sc=context, dbutils=_DbUtils(job["secrets"]), __builtins__=builtins)
    sys.modules["__main__"] = script
    sys.argv = [job["script"], *job["parameters"]]
    _report(job, state="running")
    try:
        exec(compile(Path(job["script"]).read_text(), job["script"], "exec"), script.__dict__)
    except BaseException as error:
        frames = error.__traceback__.tb_next if error.__traceback__ else None  # without this module's own
        trace = "".join(traceback.format_exception(type(error), error, frames))
        print(trace, file=sys.stderr)
        _report(job, state="failed", error=f"{type(error).__name__}: {error}", trace=trace)
    else:
        _report(job, state="succeeded")
    finally:
        if job["engine"] == "standard":
            _keep_tables(spark, tables)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _report(job: dict[str, Any], **report: str) -> None:
    file = Path(job["report"])
    file.with_suffix(".new").write_text(json.dumps(report))
    file.with_suffix(".new").replace(file)


def _hide_the_local_project() -> None:
    """A project installed for development is on `sys.path`: the script must bring the code of its own branch."""
    own = [sys.prefix, sys.base_prefix, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.path[:] = [path for path in sys.path if any(Path(path).is_relative_to(folder) for folder in own)]


def _install(libraries: list[dict[str, Any]], root: str) -> str | None:
    """Why a library can't be had on this cluster, if so."""
    for library in libraries:
        from packaging.requirements import InvalidRequirement, Requirement

        ((kind, value),) = library.items()
        name = f'{kind}: "{value["package"] if kind == "pypi" else value}".'
        if kind == "pypi":
            try:
                requirement = Requirement(value["package"])
                found = importlib.metadata.version(requirement.name)
            except InvalidRequirement as error:
                return f"{name} Invalid requirement: {error}."
            except importlib.metadata.PackageNotFoundError:
                return f"{name} No matching distribution found for {value['package']}: the cluster has none."
            if not requirement.specifier.contains(found, prereleases=True):
                return f"{name} No matching distribution found for {value['package']}: the cluster has {found}."
            if replaced := _RUNTIME_SPARK & _closure([requirement]):
                return f"{name} It would install {', '.join(sorted(replaced))} of PyPI over the runtime's own Spark."
        elif kind == "whl" and Path(_mapped(value, root)).is_file():
            sys.path.insert(0, _mapped(value, root))
        else:
            return f"{name} The local cluster installs only packages of PyPI that it has, and wheels that exist."
    return None


def _closure(requirements: list[Any]) -> set[str]:
    """The names of the installed distributions that some requirements need, themselves included."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: set[str] = set()
    todo = list(requirements)
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        key = f"{name}[{','.join(sorted(requirement.extras))}]"
        if key in found:
            continue
        found |= {key, name}
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for text in requires:
            needed = Requirement(text)
            extras = requirement.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(needed)
    return {name for name in found if "[" not in name}


class _Finder(PathFinder):
    """Finds modules on `sys.path`, except those of packages that a cluster doesn't have."""

    hidden: frozenset[str] = frozenset()

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> Any:
        return None if fullname.partition(".")[0] in cls.hidden else PathFinder.find_spec(fullname, path, target)


def _hide_other_packages(libraries: list[dict[str, Any]]) -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    asked = [library["pypi"]["package"] for library in libraries if "pypi" in library]
    there = _closure([Requirement(name) for name in (*asked, *_RUNTIME)]) | set(_ENGINE)
    there |= {"packaging", "setuptools", "pip", "py4j"}
    _Finder.hidden = frozenset(
        module
        for module, distributions in importlib.metadata.packages_distributions().items()
        if not there & {canonicalize_name(name) for name in distributions}
    )
    sys.meta_path[sys.meta_path.index(PathFinder)] = _Finder


def _start_spark(engine: str | None, configuration: dict[str, Any]) -> tuple[Any, Any]:
    if engine is None:
        return None, None
    from pyspark.sql import SparkSession

    if engine == "standard":  # Spark's own Connect server, with a JVM of its own
        from pyspark.sql.connect.client import DefaultChannelBuilder

        port = _free_port()
        # Without a port of its own, a second cluster at the same time couldn't start. PySpark has no setting for the
        # port to which the client of a local server connects, only one for the server.
        DefaultChannelBuilder.default_port = staticmethod(lambda: port)
        binding = {"address": "127.0.0.1", "port": str(port)}
        configuration = configuration | {f"spark.connect.grpc.binding.{key}": value for key, value in binding.items()}
        builder = SparkSession.builder.remote("local[2]")
        warnings.simplefilter("ignore")  # it can't set again what the server was started with
        return builder.config(map=configuration).getOrCreate(), None
    if engine == "jvm":
        builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
        spark = builder.config(map=configuration).getOrCreate()
        return spark, spark.sparkContext
    for name, value in _SAIL_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from pysail.spark import SparkConnectServer

    server = SparkConnectServer(ip="127.0.0.1", port=0)
    server.start(background=True)
    _servers.append(server)
    spark = SparkSession.builder.remote(f"sc://127.0.0.1:{server.listening_address[1]}").getOrCreate()
    for name, value in configuration.items():
        spark.conf.set(name, value)
    return spark, None  # no SparkContext over Spark Connect, as on Databricks' standard clusters


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _register_tables(spark: Any, file: Path) -> None:
    """Register the tables of earlier clusters; the catalog of the local Spark is in its memory."""
    for name, location in (json.loads(file.read_text()) if file.exists() else {}).items():
        spark.sql(f"CREATE SCHEMA IF NOT EXISTS {name.rpartition('.')[0]}")
        spark.sql(f"CREATE TABLE {name} USING DELTA LOCATION '{location}'")


def _keep_tables(spark: Any, file: Path) -> None:
    tables = {}
    for (schema,) in spark.sql("SHOW SCHEMAS").collect():
        for table in spark.sql(f"SHOW TABLES IN {schema}").collect():
            if not table["isTemporary"]:
                name = f"{schema}.{table['tableName']}"
                tables[name] = spark.sql(f"DESCRIBE DETAIL {name}").collect()[0]["location"]
    file.write_text(json.dumps(tables))


def _restrict_paths(root: str) -> None:
    """Let Spark's readers, writers and statements use paths of volumes only, except as the location of a table."""
    from pyspark.errors import AnalysisException
    from pyspark.sql.connect.readwriter import DataFrameReader, DataFrameWriter
    from pyspark.sql.connect.session import SparkSession

    def refuse(path: str, privilege: str) -> None:
        if not path.startswith("/Volumes/"):
            raise AnalysisException(
                f"[INSUFFICIENT_PERMISSIONS] Insufficient privileges:\nUser does not have permission {privilege} on "
                f"any file. SQLSTATE: 42501 ({path})"
            )

    def restricted(function: Callable[..., Any], privilege: str) -> Callable[..., Any]:
        def call(self: Any, path: Any = None, *arguments: Any, **named: Any) -> Any:
            for one in [path] if isinstance(path, str) else path or []:
                refuse(one, privilege)
            mapped = [_mapped(one, root) for one in path] if isinstance(path, list) else _mapped(path, root)
            return function(self, mapped, *arguments, **named)

        return call

    execute = SparkSession.sql

    def sql(self: Any, query: str, *arguments: Any, **named: Any) -> Any:
        for path in _PATHS_IN_SQL.findall(query):
            refuse(path, "SELECT")
        return execute(self, query, *arguments, **named)

    SparkSession.sql = sql
    DataFrameReader.load = restricted(DataFrameReader.load, "SELECT")
    DataFrameWriter.save = restricted(DataFrameWriter.save, "MODIFY")


def _mapped(path: Any, root: str) -> Any:
    if isinstance(path, (str, os.PathLike)):
        text = os.fspath(path)
        for start, folder in (("/dbfs/", "dbfs"), ("dbfs:/", "dbfs"), ("/Volumes/", "Volumes")):
            if isinstance(text, str) and text.startswith(start):
                return f"{root}/{folder}/{text.removeprefix(start).lstrip('/')}"
    return path


def _map_paths(root: str) -> None:
    """Databricks mounts DBFS and the volumes; a test may not, so Python's file functions translate the paths."""

    def mapping(function: Callable[..., Any], paths: int) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            return function(*[_mapped(value, root) for value in arguments[:paths]], *arguments[paths:], **named)

        return call

    really_open = io.open

    def open_file(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        path = os.fspath(file) if isinstance(file, (str, os.PathLike)) else ""
        if isinstance(path, str) and path.startswith("/Volumes/") and not {"a", "+"}.isdisjoint(mode):
            raise OSError(errno.ESPIPE, os.strerror(errno.ESPIPE), path)
        return really_open(_mapped(file, root), mode, *arguments, **named)

    builtins.open = io.open = open_file
    for name in ("open", "stat", "lstat", "access", "listdir", "scandir", "mkdir", "rmdir", "remove", "unlink"):
        setattr(os, name, mapping(getattr(os, name), 1))
    for name in ("utime", "chmod"):
        setattr(os, name, mapping(getattr(os, name), 1))
    for name in ("rename", "replace"):
        setattr(os, name, mapping(getattr(os, name), 2))


class _Secrets:
    def __init__(self, secrets: dict[str, dict[str, str]]) -> None:
        self._secrets = secrets

    def get(self, scope: str, key: str) -> str:
        if key not in self._secrets.get(scope, {}):
            raise ValueError(f"Secret does not exist with scope: {scope} and key: {key}")
        return self._secrets[scope][key]


class _DbUtils:
    def __init__(self, secrets: dict[str, dict[str, str]]) -> None:
        self.secrets = _Secrets(secrets)


if __name__ == "__main__":
    main()
