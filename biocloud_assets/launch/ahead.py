"""Steps of this process that are done while Dagster still notes what came before, which takes it long.

What belongs here: doing steps in a thread of their own, in the order in which Dagster will ask for them, and handing
over what they report. What doesn't: which steps these are, and Dagster, which needn't be there yet when they begin.

Nothing is written that Dagster would have kept back: a step that writes looks for itself whether it may
(`raw.dsi.ingest`), and the delivery log isn't among the steps that are done ahead. Several threads may go side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event, Thread

from biocloud_assets.run_step import Step, Told


@dataclass(frozen=True)
class _End:
    """Nothing more comes of a step: it is done, or it failed, or it wasn't begun since one before it failed."""

    error: BaseException | None = None
    begun: bool = True


_Queue = SimpleQueue[Told | _End]

_under_way: dict[Step, _Queue] = {}


@contextmanager
def ahead(steps: Sequence[Step], do: Callable[[Step], Iterator[Told]]) -> Iterator[None]:
    """Do steps in a thread, one after the other, until all are done, one fails or the block is left.

    Args:
        steps: what is to be done, in order.
        do: does a step, and yields what it reports.
    """
    queues: dict[Step, _Queue] = {step: SimpleQueue() for step in steps}
    left = Event()
    thread = Thread(target=_work, args=(queues, do, left), name="engine", daemon=True)
    _under_way.update(queues)
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()
        for step in steps:
            _under_way.pop(step, None)


def told(step: Step, do: Callable[[Step], Iterator[Told]]) -> Iterator[Told]:
    """What a step reports that may be under way; it is begun now if it isn't, or if one before it failed.

    Args:
        step: what is to be done.
        do: does it, and yields what it reports.

    Raises:
        BaseException: whatever the step raised.
    """
    queue = _under_way.pop(step, None)
    end = _End(begun=False)
    if queue is not None:
        end = yield from _heard(queue)
    if not end.begun:
        with ahead((step,), do):
            end = yield from _heard(_under_way.pop(step))
    if end.error is not None:
        raise end.error


def _heard(queue: _Queue) -> Generator[Told, None, _End]:
    while not isinstance(report := queue.get(), _End):
        yield report
    return report


def _work(queues: dict[Step, _Queue], do: Callable[[Step], Iterator[Told]], left: Event) -> None:
    failed = False
    for step, queue in queues.items():
        if failed or left.is_set():
            queue.put(_End(begun=False))
            continue
        try:
            for report in do(step):
                queue.put(report)
                if left.is_set():
                    break
            queue.put(_End())
        except BaseException as error:  # for whoever asks for the step
            failed = True
            queue.put(_End(error))
