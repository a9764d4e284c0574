"""Options, randomness and results of the tests that try to lose data.

Each test has a short form, for the normal run, and a long one (`--chaos=long`). What is random comes from one seed.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.chaos.processes import Processes


@dataclass(frozen=True)
class Row:
    """A row of the table in docs/reliability.md.

    Attributes:
        promise: what the software promises.
        trial: how the promise is tried.
        times: how often.
        outcome: what came out.
    """

    promise: str
    trial: str
    times: str
    outcome: str


class Chaos:
    """The form of a test, its randomness, and its results.

    Attributes:
        long: whether it is the long form.
        random: the source of everything that is random in the test.
    """

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.long = _is_long(request.config)
        self.seed = int(request.config.getoption("--chaos-seed"))
        self.random = random.Random(f"{self.seed} {request.node.name}")
        self._results = request.config.getoption("--chaos-results")
        self._name = request.node.nodeid
        self._line = request.function.__code__.co_firstlineno

    def times(self, short: int, long: int) -> int:
        """How often something is tried."""
        return long if self.long else short

    def record(self, promise: str, trial: str, times: str, outcome: str) -> None:
        """Keep what came out for docs/reliability.md; called when everything has held."""
        row = {"test": self._name, "seed": self.seed, "form": "long" if self.long else "short", "line": self._line}
        row |= {"finished": datetime.now(UTC).isoformat(timespec="seconds")}
        row |= asdict(Row(promise, trial, times, outcome))
        self.keep("row_" + "".join(letter if letter.isalnum() else "_" for letter in self._name), row)

    def keep(self, name: str, value: object) -> None:
        """Keep something else for the document, in a JSON file of its own."""
        if not self._results:
            return
        folder = Path(self._results)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(value, indent=2))


@pytest.fixture
def chaos(request: pytest.FixtureRequest) -> Chaos:
    """The form of the test, its randomness, and its results."""
    return Chaos(request)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests that take a `where` in a folder, in the long form in S3 too."""
    if "where" in metafunc.fixturenames:
        metafunc.parametrize("where", ["folder", "s3"] if _is_long(metafunc.config) else ["folder"])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that have only a long form."""
    if not _is_long(config):
        left_out = [item for item in items if item.get_closest_marker("chaos_long")]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item not in left_out]


def _is_long(config: pytest.Config) -> bool:
    return bool(config.getoption("--chaos") == "long")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show with a failure how to repeat it."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    form, seed = item.config.getoption("--chaos"), item.config.getoption("--chaos-seed")
    report.sections.append(("to repeat", f"uv run pytest -n 0 --chaos={form} --chaos-seed={seed} '{item.nodeid}'"))


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Processes that start in milliseconds."""
    with Processes(tmp_path_factory.mktemp("processes")) as started:
        yield started


@pytest.fixture
def s3_environment(s3_server: str) -> dict[str, str]:
    """The variables by which a process finds the S3."""
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_") or name == "NO_PROXY"}
