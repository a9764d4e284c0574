"""Steps that are done ahead of Dagster: each is done once, in order, and told to whoever asks for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from biocloud_assets.launch.ahead import ahead, told
from biocloud_assets.run_step import Step, Told
from biocloud_assets.steps import Report

ONE, TWO, THREE = (Step((address,)) for address in ("one", "two", "three"))


class Work:
    """What was begun, in order, and by which thread; a step reports twice."""

    def __init__(self, fails: Step | None = None) -> None:
        self.begun: list[Step] = []
        self.threads: set[int] = set()
        self.fails = fails
        self.done = {step: threading.Event() for step in (ONE, TWO, THREE)}

    def __call__(self, step: Step) -> Iterator[Told]:
        self.begun.append(step)
        self.threads.add(threading.get_ident())
        yield Report(step.assets[0], {"half": {}})
        if step == self.fails:
            self.fails = None
            raise OSError(f"no {step.assets[0]}")
        yield Report(step.assets[0], {})
        self.done[step].set()


def test_steps_are_done_before_anybody_asks_and_only_once() -> None:
    work = Work()
    with ahead((ONE, TWO), work):
        assert work.done[TWO].wait(10)
        assert list(told(ONE, work)) == [Report("one", {"half": {}}), Report("one", {})]
        assert len(list(told(TWO, work))) == 2
    assert work.begun == [ONE, TWO]
    assert threading.get_ident() not in work.threads


def test_a_step_that_was_not_foreseen_is_done_when_asked_for() -> None:
    work = Work()
    with ahead((ONE,), work):
        assert len(list(told(THREE, work))) == 2
        assert len(list(told(ONE, work))) == 2
    assert len(list(told(ONE, work))) == 2, "again, once it has been told"
    assert sorted(work.begun, key=repr) == [ONE, ONE, THREE]


def test_they_may_be_asked_for_in_another_order_and_a_report_comes_as_soon_as_it_is_known() -> None:
    go_on = threading.Event()

    def slow(step: Step) -> Iterator[Told]:
        yield Report(step.assets[0], {"half": {}})
        assert go_on.wait(10)
        yield Report(step.assets[0], {})

    with ahead((ONE, TWO), slow):
        reports = told(ONE, slow)
        assert next(reports) == Report("one", {"half": {}})
        go_on.set()
        assert len(list(told(TWO, slow))) == 2
        assert list(reports) == [Report("one", {})]


def test_a_fault_comes_to_who_asked_for_that_step_and_another_try_does_it_then() -> None:
    work = Work(fails=TWO)
    with ahead((ONE, TWO, THREE), work):
        assert len(list(told(ONE, work))) == 2
        with pytest.raises(OSError, match="no two"):
            list(told(TWO, work))
        assert work.begun == [ONE, TWO], "nothing that comes after it is begun"
        assert len(list(told(TWO, work))) == 2
        assert len(list(told(THREE, work))) == 2
    assert work.begun == [ONE, TWO, TWO, THREE]


def test_nothing_is_begun_after_the_run_has_ended() -> None:
    begun, go_on = threading.Event(), threading.Event()
    work = Work()

    def slow(step: Step) -> Iterator[Told]:
        begun.set()
        assert go_on.wait(10)
        yield from work(step)

    threading.Timer(0.2, go_on.set).start()
    with ahead((ONE, TWO), slow):
        assert begun.wait(10)
    assert work.begun == [ONE]
    assert not work.done[ONE].is_set(), "what was under way went no further than its next report"
    assert len(list(told(ONE, work))) == 2, "and whoever asks now has it done anew"
