"""`biocloud dev`: Dagster's UI and daemon, with the home that the other commands use."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from biocloud_assets.cli.home import open_instance
from biocloud_assets.cli.interrupt import on_interrupt
from biocloud_assets.cli.output import err
from biocloud_assets.errors import BiocloudError
from biocloud_assets.raw import contracts
from biocloud_assets.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

_CHECK_SECONDS = 20
"""The pause between two looks for runs whose process was killed."""

_CANCEL_SECONDS, _STOP_SECONDS = 10, 10
"""How long the end of `dev` waits for the runs to be cancelled, and then for Dagster's processes to end."""


def dev(port: int) -> None:
    """Run `dagster dev` until it is interrupted.

    Args:
        port: the port of the UI.

    Raises:
        BiocloudError: the port is in use.
        SettingsError: Dagster's home can't be used.
    """
    settings = Settings.load()
    _require_free(port)
    with open_instance(settings) as instance:
        from biocloud_assets.cli.runs import close_dead_runs

        _set_pool_limits(instance)
        close_dead_runs(instance)
        arguments = ["dev", "-m", "biocloud_assets.definitions", "-h", "127.0.0.1", "-p", str(port)]
        # In a group of its own: Ctrl-C on a terminal reaches only this process, which cancels the runs first.
        # `dagster dev` is superseded by `dg dev`, which needs the development package dagster-dg-cli.
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore:Function `dev_command` is superseded", "-m", "dagster", *arguments],
            start_new_session=True,
        )
        with on_interrupt(lambda: _stop(instance, process)):
            while True:
                try:
                    sys.exit(process.wait(_CHECK_SECONDS))
                except subprocess.TimeoutExpired:
                    close_dead_runs(instance)


def _set_pool_limits(instance: dg.DagsterInstance) -> None:
    """Set the limits of the pools, except for those that a person has set on the UI's Concurrency page."""
    limits = {"curated_dsi": 1, **{f"{contract.source}_ingest": 2 for contract in contracts()}}
    known = {pool.name for pool in instance.event_log_storage.get_pool_limits() if not pool.from_default}
    for pool, limit in limits.items():
        if pool not in known:
            instance.event_log_storage.set_concurrency_slots(pool, limit)


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise BiocloudError(
                f"port {port}",
                expected="a free port",
                found=error.strerror or str(error),
                hint="Give another one with --port.",
            ) from error


def _stop(instance: dg.DagsterInstance, process: subprocess.Popen[bytes]) -> None:
    """Cancel the runs that are in progress, wait for them, and end Dagster's processes."""
    import dagster as dg

    statuses = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    # Runs of the command line have no such tag, and go on.
    runs = [run for run in instance.get_runs(dg.RunsFilter(statuses=statuses)) if ".dagster/grpc_info" in run.tags]
    if runs:
        names = ", ".join(f"{run.job_name} {run.tags.get('dagster/partition', '')}".strip() for run in runs)
        err.print(f"\nInterrupted. Waiting for runs to be cancelled: {names}")
        for run in runs:
            instance.run_launcher.terminate(run.run_id)
        until = time.monotonic() + _CANCEL_SECONDS
        while time.monotonic() < until and any(
            (now := instance.get_run_by_id(run.run_id)) is not None and not now.is_finished for run in runs
        ):
            time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
