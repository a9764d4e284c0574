"""Checks of this machine, for `biocloud doctor local`."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from biocloud_assets.doctor.findings import Finding, failed, not_checked, ok, warning
from biocloud_assets.errors import BiocloudError
from biocloud_assets.lake import DataLake
from biocloud_assets.settings import Settings

UI_PORT = 3000
"""The port of the UI unless `biocloud dev --port` gives another one."""

_OLDEST, _NEWEST = (3, 11), (3, 14)
_ENGINE_SECONDS = 120
_FREE_BYTES = 2 * 1024**3


def examine() -> Iterator[Finding]:
    """Check this machine.

    Yields:
        the findings, each as soon as it is known.
    """
    yield _python()
    try:
        settings = Settings.load("local")
    except BiocloudError as error:
        yield failed(error.thing, f"expected {error.expected}, found {error.found}", error.hint)
        return
    checks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (_folders, _disk, _dagster_home, _port, _engine)
    for check in checks:
        try:
            yield from check(settings)
        except Exception as error:
            name = check.__name__.strip("_").replace("_", " ")
            yield not_checked(name, f"{type(error).__name__}: {error}", "Look at this by hand.")


def _python() -> Finding:
    found, here = f"{platform.python_version()}, {sys.executable}", sys.version_info[:2]
    if not _OLDEST <= here <= _NEWEST:
        return failed("Python", found, "Install Python 3.11 to 3.14: `uv python install 3.12 && uv sync`.")
    return ok("Python", found)


def _folders(settings: Settings) -> Iterator[Finding]:
    """Each root can be written: it, or the nearest folder above it that exists."""
    for name in ("landing", "lake", "curated"):
        root = str(getattr(settings, name))
        if "://" in root:
            yield _bucket(f"{name} folder", root, settings.s3_endpoint)
        else:
            yield _writable(f"{name} folder", Path(root), f"BIOCLOUD_{name.upper()}_ROOT")


def _writable(name: str, folder: Path, variable: str) -> Finding:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        return failed(name, f"{there} is a file", f"Move it away, or set {variable} to another folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        return failed(name, f"no permission to write in {there}", f"Set {variable} to another folder, or change it.")
    return ok(name, str(folder) if there == folder else f"{folder}, which is created when it is needed")


def _bucket(name: str, root: str, endpoint: str | None) -> Finding:
    try:
        exists = DataLake.at(root, endpoint=endpoint).exists()
    except BiocloudError as error:
        return failed(name, f"{error.thing}: {error.found}", error.hint)
    return ok(name, root) if exists else failed(name, f"there is no bucket of {root}", "Create it.")


def _disk(settings: Settings) -> Iterator[Finding]:
    home = settings.home.expanduser().absolute()
    free = shutil.disk_usage(next(path for path in (home, *home.parents) if path.exists())).free
    found = f"{free / 1024**3:.1f} GiB free at {home}"
    if free < _FREE_BYTES:
        yield warning("disk", found, "Set BIOCLOUD_HOME to a folder on another disk.")
    else:
        yield ok("disk", found)


def _dagster_home(settings: Settings) -> Iterator[Finding]:
    """Dagster's home can be written, and is that of `local`."""
    home = settings.dagster
    yield _writable("Dagster home", home, "DAGSTER_HOME")
    mark = home / "biocloud_environment"
    if mark.is_file() and (found := mark.read_text(encoding="utf-8").strip()) != "local":
        yield failed("Dagster home: environment", f"that of {found}", "Set DAGSTER_HOME to another folder.")


def _port(settings: Settings) -> Iterator[Finding]:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", UI_PORT))
        except OSError as error:
            advice = "If that isn't Biocloud's own UI: `biocloud dev --port 3001`."
            yield warning("port of the UI", f"{UI_PORT}: {error.strerror or error}", advice)
            return
    yield ok("port of the UI", f"{UI_PORT} is free")


def _engine(settings: Settings) -> Iterator[Finding]:
    """The engine starts and computes, in a process of its own, so that one that hangs can be ended."""
    name = f"engine {settings.engine}"
    if settings.engine == "databricks":
        yield failed(name, "it only exists on a cluster", "Set BIOCLOUD_ENGINE to sail or jvm.")
        return
    program = (
        "from biocloud_assets.spark.session import get_session, stop_session\n"
        f"spark = get_session({settings.engine!r})\n"
        "print(spark.version, spark.range(3).count())\n"
        "stop_session()\n"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=_ENGINE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        yield failed(name, f"it doesn't start within {_ENGINE_SECONDS} seconds", "See docs/engines.md.")
        return
    if done.returncode or not done.stdout.strip().endswith(" 3"):
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        yield failed(name, reason, "Run `uv sync` again, and see docs/engines.md.")
    else:
        yield ok(name, f"starts, Spark {done.stdout.split()[-2]}")
