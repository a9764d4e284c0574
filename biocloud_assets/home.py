"""Dagster's home on this machine, which the command line makes and shares with the UI.

What belongs here: the home's folder, its dagster.yaml and opening its instance. What doesn't: what is run in it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import yaml

from biocloud_assets.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

_DAGSTER_YAML = """\
# Made by `biocloud`. Dagster's settings for this machine: https://docs.dagster.io/deployment/oss/dagster-yaml
# The pools have no limit here: a process that is killed would keep its slot, and two writers of a table get along.
telemetry: {enabled: false}
nux: {enabled: false}
concurrency:
  runs: {max_concurrent_runs: 1} # each starts an engine of its own; and the oldest delivery goes first
retention:
  sensor: {purge_after_days: {skipped: 7, started: -1, failure: 30, success: -1}}
"""


def prepare_home(settings: Settings) -> None:
    """Make Dagster's home if there is none, and let this process and its children use it."""
    settings.dagster.mkdir(parents=True, exist_ok=True)
    configuration = settings.dagster / "dagster.yaml"
    if not configuration.exists():
        temporary = configuration.with_suffix(f".{os.getpid()}")
        temporary.write_text(_DAGSTER_YAML)
        temporary.replace(configuration)
    os.environ["DAGSTER_HOME"] = str(settings.dagster)


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """The instance in that home, in which the UI shows what was run."""
    prepare_home(settings)
    import dagster as dg
    from dagster._core.instance.ref import InstanceRef

    if any("storage" in name for name in yaml.safe_load((settings.dagster / "dagster.yaml").read_text()) or ()):
        return dg.DagsterInstance.get()  # somebody has chosen another one
    event_log = {
        "module": "biocloud_assets.event_log",
        "class": "OpenSqliteEventLogStorage",
        "config": {"base_dir": str(settings.dagster / "history" / "runs")},  # where Dagster's own has it
    }
    return dg.DagsterInstance.from_ref(
        InstanceRef.from_dir(str(settings.dagster), overrides={"event_log_storage": event_log})
    )
