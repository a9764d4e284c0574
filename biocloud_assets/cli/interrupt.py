"""Ctrl-C and SIGTERM end the command within two seconds, whatever library is at work.

If a run on Databricks is active, cancelling it takes up to `biocloud_assets.launch.workspace.CANCEL_SECONDS` more.

The command runs in a thread, and the main thread, which alone receives signals in Python, only waits. A library that is
busy outside Python (delta-rs, Arrow, the engine) can therefore not delay the end. The process then ends without
waiting for that thread: a delivery survives being killed at any moment, and its next ingest replaces what was written.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_POLL_SECONDS = 0.1

_callbacks: list[Callable[[], None]] = []


class _Interrupted(BaseException):
    """A signal that ends the process."""

    def __init__(self, number: int) -> None:
        self.number = number


def exit_at_once() -> None:
    """From now on SIGINT and SIGTERM end the process at once; the exit code is 128 and the signal's number."""

    def end(number: int, _: FrameType | None) -> None:
        os._exit(128 + number)

    for number in _SIGNALS:
        signal.signal(number, end)


@contextmanager
def on_interrupt(callback: Callable[[], None]) -> Iterator[None]:
    """While the context is open, an interrupt calls a function before the process ends; the last one is called first.

    Args:
        callback: what to do, in the main thread. It may be called while the command is at work in another thread.
    """
    _callbacks.append(callback)
    try:
        yield
    finally:
        _callbacks.remove(callback)


def cancel_databricks_runs() -> None:
    """Cancel the active runs of this process on Databricks; a callback for `on_interrupt`."""
    from biocloud_assets.cli.output import err
    from biocloud_assets.launch import workspace

    for message in workspace.cancel_active():
        err.print(message, markup=False, soft_wrap=True)


def run_interruptibly(work: Callable[[], None]) -> None:
    """Do some work in a thread, and end the process if it is interrupted.

    Args:
        work: what to do; what it raises is raised here.
    """
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    def interrupt(number: int, _: FrameType | None) -> None:
        raise _Interrupted(number)

    thread = threading.Thread(target=run, name="command", daemon=True)
    try:
        for number in _SIGNALS:
            signal.signal(number, interrupt)
        thread.start()
        while thread.is_alive():
            thread.join(_POLL_SECONDS)
    except _Interrupted as interrupted:
        for number in _SIGNALS:  # Some programs that start this one, as `uv run`, send the signal a second time.
            signal.signal(number, signal.SIG_IGN)
        for callback in reversed(_callbacks):
            callback()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(128 + interrupted.number)  # not sys.exit, which would wait for the libraries' threads
    exit_at_once()
    if errors:
        raise errors[0]
