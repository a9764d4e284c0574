"""Dagster's home on this machine, which the command line shares with the UI. Each environment has its own."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from biocloud_assets.errors import SettingsError
from biocloud_assets.schema import Contract
from biocloud_assets.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

_DAGSTER_YAML = """\
# Written by `biocloud`. Dagster's settings for this machine: https://docs.dagster.io/deployment/oss/dagster-yaml
telemetry: {enabled: false}
nux: {enabled: false}
concurrency:
  runs:
    max_concurrent_runs: 3 # two ingests, each with an engine of its own, and a publication
    tag_concurrency_limits: # one run for each delivery, and for each day of the curated layer
      - {key: dagster/partition, value: {applyLimitPerUniqueValue: true}, limit: 1}
  pools: {granularity: run, default_limit: 2} # `biocloud dev` sets the limit of the pool curated_dsi to 1
run_monitoring:
  enabled: true # a run whose process is killed is marked as failed
  max_runtime_seconds: 14400
compute_logs: # steps write nothing to stdout; capturing it starts processes that a Ctrl-C on a terminal also ends
  module: dagster._core.storage.noop_compute_log_manager
  class: NoOpComputeLogManager
retention:
  sensor: {purge_after_days: {skipped: 7, started: -1, failure: 30, success: -1}}
"""

_ENVIRONMENT_FILE = "biocloud_environment"


def prepare_home(settings: Settings) -> None:
    """Create Dagster's home if there is none, and let this process and its children use it.

    Raises:
        SettingsError: it can't be written, or it is the home of another environment.
    """
    home = settings.dagster
    try:
        home.mkdir(parents=True, exist_ok=True)
        for name, content in (("dagster.yaml", _DAGSTER_YAML), (_ENVIRONMENT_FILE, f"{settings.env}\n")):
            if not (home / name).exists():
                temporary = home / f".{name}.{os.getpid()}"
                temporary.write_text(content, encoding="utf-8")
                temporary.replace(home / name)
        if not os.access(home, os.W_OK):
            raise PermissionError(f"no permission to write in {home}")
        found = (home / _ENVIRONMENT_FILE).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(
            f"Dagster's home {home}",
            expected="a folder that can be written",
            found=error.strerror or str(error),
            hint="Set BIOCLOUD_HOME to another folder, or change the permissions.",
        ) from error
    if found != settings.env:
        raise SettingsError(
            f"Dagster's home {home}",
            expected=f"that of the environment {settings.env}",
            found=f"that of {found}, whose queued runs would run here",
            hint="Set DAGSTER_HOME to another folder, or unset it.",
        )
    os.environ["DAGSTER_HOME"] = str(home)


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """The instance in that home, whose runs the UI shows."""
    prepare_home(settings)
    import dagster as dg

    return dg.DagsterInstance.get()


def register(settings: Settings, deliveries: Iterable[tuple[Contract, str]]) -> None:
    """Register deliveries as partitions, so that the UI offers them; one that is registered stays as it is."""
    if names := list(deliveries):
        with open_instance(settings) as instance:
            for contract, name in names:
                instance.add_dynamic_partitions(f"{contract.source}_delivery", [name])


@contextmanager
def databases_kept_open(settings: Settings) -> Iterator[None]:
    """Hold a connection to each SQLite database of the home while the context is open.

    Dagster opens and closes a connection for each statement. The last connection to close a database writes its
    write-ahead log back (https://sqlite.org/wal.html), which takes longer than the statement; this one closes later.
    """
    connections = [sqlite3.connect(file) for file in settings.dagster.rglob("*.db")]
    try:
        for connection in connections:
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()  # a connection opens its file at first use
        yield
    finally:
        for connection in connections:
            connection.close()


def refusals(settings: Settings, contract: Contract) -> dict[str, tuple[str, str]]:
    """The deliveries that runs of this home have refused: fingerprint and reason of the latest refusal of each.

    It is one query to Dagster, and none if there is no home.
    """
    if not (settings.dagster / "dagster.yaml").exists():
        return {}
    with open_instance(settings) as instance:
        import dagster as dg

        from biocloud_assets.launch.launcher import FINGERPRINT_TAG, OUTCOME_TAG, PARTITION_TAG, REASON_TAG, REFUSED

        runs = instance.get_runs(dg.RunsFilter(tags={OUTCOME_TAG: REFUSED}))
    found: dict[str, tuple[str, str]] = {}
    for run in runs:  # the newest first
        found.setdefault(run.tags[PARTITION_TAG], (run.tags[FINGERPRINT_TAG], run.tags[REASON_TAG]))
    return found
