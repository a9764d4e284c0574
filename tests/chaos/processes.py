"""Processes that start in milliseconds: one process loads all modules, and forks one for each task.

    python -m tests.chaos.processes

It reads a line of JSON for each task or kill, and answers with lines of JSON: the process of a task, that its work has
begun, and its exit code.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Process:
    """One task in a process of its own.

    Attributes:
        pid: its number.
    """

    def __init__(self, pid: int, log: Path, answers: queue.SimpleQueue[dict[str, Any]], server: Processes) -> None:
        self.pid, self._log, self._answers, self._server = pid, log, answers, server
        self._exit: int | None = None

    def wait_until_begun(self) -> None:
        """Wait until its engine has started and its work begins."""
        answer = self._answers.get(timeout=60)
        assert answer.get("begun"), f"the process ended with {answer}: {self.printed()}"

    def kill(self) -> None:
        """`kill -9`; no error if it has ended."""
        self._server.send({"kill": self.pid})

    def wait(self, timeout: float = 150) -> int:
        """Its exit code: 0, 1 if the task raised an exception, or minus the signal that has killed it."""
        while self._exit is None:
            self._exit = self._answers.get(timeout=timeout).get("exit")
        return self._exit

    def outcome(self, timeout: float = 150) -> Any:
        """What the task has returned; fails if it has raised an exception."""
        code = self.wait(timeout)
        assert code == 0, f"exit code {code}: {self.printed()}"
        return json.loads(self._log.with_suffix(".json").read_text())

    def printed(self) -> str:
        """The end of what it has printed, with the traceback of an exception."""
        return self._log.read_text(errors="replace")[-6000:]


class Processes:
    """Starts processes. Use it by `with`.

    Args:
        folder: where they write their output.
        environment: variables that all of them have besides those of this process.
    """

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._count = folder, 0
        self._environment = environment or {}
        self._answers: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self._started: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._lock = threading.Lock()

    def __enter__(self) -> Processes:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.processes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, **self._environment},
            text=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=60)

    def _listen(self) -> None:
        assert self._server.stdout is not None
        for line in self._server.stdout:
            answer = json.loads(line)
            # A task can report that it has begun before its number is reported.
            answers = self._answers.setdefault(answer["pid"], queue.SimpleQueue())
            if "started" in answer:
                self._started.put(answer["pid"])
            else:
                answers.put(answer)

    def send(self, message: dict[str, Any]) -> None:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(message) + "\n")
        self._server.stdin.flush()

    def start(self, task: str, *, environment: dict[str, str] | None = None, **arguments: Any) -> Process:
        """Start a task of `tests.chaos.tasks`.

        Args:
            task: the name of the function.
            environment: variables that its process has besides those of this one.
            arguments: its arguments.
        """
        with self._lock:
            self._count += 1
            log = self._folder / f"{self._count:05}-{task}.log"
            self.send({"task": task, "environment": environment or {}, "arguments": arguments, "log": str(log)})
            pid = self._started.get(timeout=60)
        return Process(pid, log, self._answers[pid], self)

    def run(self, task: str, *, environment: dict[str, str] | None = None, **arguments: Any) -> Any:
        """Run a task to its end, and return what it returns."""
        return self.start(task, environment=environment, **arguments).outcome()


@contextmanager
def _reported(log: str) -> Iterator[None]:
    """Send what is printed to a file, that of the engine too."""
    with Path(log).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    yield


def _run(message: dict[str, Any], answers: int) -> int:
    """Run a task in the process that was forked for it, and return the exit code."""
    from biocloud_assets.errors import is_transient
    from tests.chaos import tasks

    def begin() -> None:
        os.write(answers, json.dumps({"pid": os.getpid(), "begun": True}).encode() + b"\n")

    with _reported(message["log"]):
        os.environ |= message["environment"]
        try:
            outcome = getattr(tasks, message["task"])(begin, **message["arguments"])
            Path(message["log"]).with_suffix(".json").write_text(json.dumps(outcome))
        except BaseException as error:
            traceback.print_exc()
            print(f"transient: {is_transient(error)}", file=sys.stderr, flush=True)
            return 1
    return 0


def _serve() -> None:
    from tests.chaos import tasks

    tasks.load()
    answers = os.dup(1)
    requests = os.dup(0)
    os.set_blocking(requests, False)
    children: set[int] = set()
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken)
    selector = selectors.DefaultSelector()
    selector.register(requests, selectors.EVENT_READ)
    selector.register(wake, selectors.EVENT_READ)
    pending = b""

    def answer(message: dict[str, Any]) -> None:
        os.write(answers, json.dumps(message).encode() + b"\n")

    while True:
        ready = {key.fd for key, _ in selector.select()}
        if wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 4096)
            while children:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                children.discard(pid)
                answer({"pid": pid, "exit": os.waitstatus_to_exitcode(status)})
        if requests not in ready:
            continue
        read = os.read(requests, 1 << 20)
        if not read:
            break
        *lines, pending = (pending + read).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "kill" in message:
                if message["kill"] in children:
                    os.kill(message["kill"], signal.SIGKILL)
                continue
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os._exit(_run(message, answers))
            children.add(pid)
            answer({"pid": pid, "started": True})
    for pid in children:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _serve()
