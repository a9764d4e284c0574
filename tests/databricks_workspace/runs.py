"""Runs: the states of a run and its tasks on a cluster, which is a subprocess here, or on serverless compute.

What happens inside of the cluster's Python is in `boot`.

Sources: https://docs.databricks.com/api/workspace/jobs/getrun and …/jobs/getrunoutput for the fields and states; the
messages are those that users quote in public issues. Two differences are intended: `timeout_seconds` counts from
RUNNING on, and a library counts as installed if the Python of these tests has it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.databricks_workspace.server import Workspace

_SECRET_REFERENCE = re.compile(r"\{\{\s*secrets/([^/{}\s]+)/([^/{}\s]+)\s*\}\}")

LOG_LIMIT = 5 * 1024**2  # get-output returns the last 5 MB
_GRACE_SECONDS = 3.0  # between SIGTERM and SIGKILL
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class State:
    """The state of a run or task: `state` of Jobs 2.1 and `status` of Jobs 2.2."""

    life_cycle: str
    result: str | None = None
    message: str = ""
    code: str = ""  # the termination code of Jobs 2.2

    @property
    def is_final(self) -> bool:
        return self.life_cycle in ("TERMINATED", "SKIPPED", "INTERNAL_ERROR")

    def as_json(self) -> dict[str, Any]:
        state = {"life_cycle_state": self.life_cycle, "state_message": self.message}
        state["user_cancelled_or_timedout"] = self.result in ("CANCELED", "TIMEDOUT")
        status: dict[str, Any] = {"state": "TERMINATED" if self.is_final else self.life_cycle}
        if self.result is not None:
            state["result_state"] = self.result
            kinds = {"SUCCESS": "SUCCESS", "CLUSTER_ERROR": "CLOUD_FAILURE", "INTERNAL_ERROR": "INTERNAL_ERROR"}
            kind = kinds.get(self.code, "CLIENT_ERROR")
            status["termination_details"] = {"code": self.code, "type": kind, "message": self.message}
        return {"state": state, "status": status}


class _Ended(Exception):  # noqa: N818 - an end, not always an error
    """A task has ended, in whatever way."""

    def __init__(self, state: State, error: str = "", trace: str = "") -> None:
        super().__init__(state.message)
        self.state, self.error, self.trace = state, error, trace


def _broken(code: str, message: str) -> _Ended:
    return _Ended(State("INTERNAL_ERROR", "FAILED", message, code))


def _workload_failed(error: str, trace: str) -> _Ended:
    message = "Workload failed, see run output for details"
    return _Ended(State("TERMINATED", "FAILED", message, "RUN_EXECUTION_ERROR"), error, trace)


_CANCELLED = State("TERMINATED", "CANCELED", "Run cancelled.", "USER_CANCELED")
_TIMED_OUT = State("TERMINATED", "TIMEDOUT", "Run timed out: it exceeded timeout_seconds.", "CANCELED")
_SUCCEEDED = State("TERMINATED", "SUCCESS", "", "SUCCESS")
_UPSTREAM_FAILED = State("SKIPPED", "UPSTREAM_FAILED", "An upstream task failed.", "SKIPPED")


@dataclass
class Plan:
    """What happens to the next run: see `Workspace.plan_run`."""

    how: str
    message: str = ""
    seconds: float = 0.0
    task_key: str | None = None


@dataclass
class TaskRun:
    """A task of a run, and its cluster."""

    workspace: Workspace
    parent: Run
    run_id: int
    task: dict[str, Any]
    folder: Path
    state: State = State("PENDING", message="Waiting for cluster")
    error: str = ""
    trace: str = ""
    environment: dict[str, str] = field(default_factory=dict)  # of the cluster, secrets resolved
    cluster_id: str | None = None
    started: float = 0.0
    ended: float = 0.0
    cancelled: threading.Event = field(default_factory=threading.Event)
    killed: threading.Event = field(default_factory=threading.Event)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def key(self) -> str:
        return self.task["task_key"]

    @property
    def log(self) -> str:
        """What the script and its runtime wrote to stdout and stderr so far, as it is on the cluster's disk."""
        file = self.folder / "log"
        return file.read_text(errors="replace") if file.exists() else ""

    def live(self) -> None:
        """Run the task to its end; the body of its thread."""
        self.started = time.time()
        try:
            self._run()
            end = _Ended(_SUCCEEDED)
        except _Ended as ended:
            end = ended
        except Exception as error:  # a defect of the workspace must end the run, not hang it
            end = _broken("INTERNAL_ERROR", f"The local workspace failed: {error!r}")
        self.error, self.trace = end.error, end.trace
        if end.state.life_cycle != "SKIPPED":
            self.state = State("TERMINATING", end.state.result, end.state.message, end.state.code)
            self._stop_cluster()
        self.ended = time.time()
        self.state = end.state

    def _wait(self, until: Callable[[], bool], deadline: float = float("inf")) -> None:
        while not until():
            if self.cancelled.is_set():
                raise _Ended(_CANCELLED)
            if self.killed.is_set():
                raise _broken(
                    "CLUSTER_ERROR",
                    f"Cluster '{self.cluster_id}' was terminated. Reason: CLOUD_PROVIDER_SHUTDOWN (CLOUD_FAILURE)",
                )
            if time.monotonic() > deadline:
                raise _Ended(_TIMED_OUT)
            time.sleep(_POLL_SECONDS)

    def _run(self) -> None:
        upstream_keys = {upstream["task_key"] for upstream in self.task.get("depends_on", [])}
        upstream = [task for task in self.parent.tasks if task.key in upstream_keys]
        self._wait(lambda: all(task.state.is_final for task in upstream))
        if any(task.state.result != "SUCCESS" for task in upstream):
            raise _Ended(_UPSTREAM_FAILED)
        plan = self.workspace.take_plan(self.key)
        if plan.how in ("pending", "slow"):
            ready = float("inf") if plan.how == "pending" else time.monotonic() + plan.seconds
            self._wait(lambda: time.monotonic() > ready)
        if not self.is_serverless:
            self.cluster_id = f"{time.strftime('%m%d-%H%M%S')}-{uuid.uuid4().hex[:8]}"
        if plan.how == "no cluster":
            raise _broken(
                "CLUSTER_ERROR",
                f"Unexpected failure while waiting for the cluster ({self.cluster_id}) to be ready: Cluster"
                f" {self.cluster_id} is in unexpected state Terminated: AWS_INSUFFICIENT_INSTANCE_CAPACITY_FAILURE"
                "(CLOUD_FAILURE)",
            )
        if plan.how not in ("fail", "hang"):
            self._start_cluster()
            self._wait(lambda: self._report()["state"] != "starting" or self._has_exited())
            if self._report()["state"] == "library failure":
                raise self._library_failure(self._report()["error"])
        limits = [int(settings.get("timeout_seconds") or 0) for settings in (self.task, self.parent.body)]
        deadline = time.monotonic() + min((limit for limit in limits if limit), default=float("inf"))
        self.state = State("RUNNING", message="In run")
        if plan.how == "fail":
            raise _workload_failed(plan.message, plan.message)
        if plan.how == "hang":
            self._wait(lambda: False, deadline)
        if plan.how == "kill":
            kill_at = time.monotonic() + plan.seconds
            self._wait(lambda: self._has_exited() or time.monotonic() > kill_at, deadline)
            self.killed.set()
        self._wait(self._has_exited, deadline)
        report = self._report()
        if report["state"] == "failed":
            raise _workload_failed(report["error"], report["trace"])
        if report["state"] != "succeeded":
            raise _workload_failed("Fatal error: The Python kernel is unresponsive.", self.log[-2000:])

    def _start_cluster(self) -> None:
        """Clone, and start the cluster's Python; the job goes over its stdin, so that no secret is in a file."""
        workspace, python, cluster = self.workspace, self.task["spark_python_task"], self.task.get("new_cluster") or {}
        for name in ("home", "tmp", "driver"):
            (self.folder / name).mkdir(parents=True)
        # Nothing of the process that tests: no secret of it, and none of its import paths.
        basics = {name: os.environ[name] for name in ("PATH", "JAVA_HOME") if name in os.environ}
        basics |= {"HOME": str(self.folder / "home"), "TMPDIR": str(self.folder / "tmp"), "LANG": "C.UTF-8"}
        basics |= {"TZ": "Etc/UTC", "PYTHONUNBUFFERED": "1"}
        version = ".".join(cluster["spark_version"].split(".")[:2]) if cluster else f"client.{self._serverless_version}"
        basics["DATABRICKS_RUNTIME_VERSION"] = version
        given = {name: self._resolve(value) for name, value in (cluster.get("spark_env_vars") or {}).items()}
        # Serverless compute has neither an instance profile nor variables of the job; in standard mode Python has no
        # access to the instance profile: https://docs.databricks.com/aws/en/compute/standard-limitations.
        has_profile = not self.is_serverless and workspace.engine != "standard"
        self.environment = basics | given | (workspace.instance_profile if has_profile else {})
        if python.get("source") == "GIT":
            script = self._clone(basics) / python["python_file"]
            # https://docs.databricks.com/files/cwd-dbr-14.html: the folder of the script, not the repository's.
            folder = script.parent
        else:
            script, folder = workspace.local_path(python["python_file"]), self.folder / "driver"
        if not script.is_file():
            raise _broken("RESOURCE_NOT_FOUND", f"Unable to access the Python file {python['python_file']}.")
        job = {
            "script": str(script),
            "parameters": python.get("parameters") or [],
            "libraries": self._libraries,
            "engine": workspace.engine,
            "spark_conf": workspace.spark_conf | (cluster.get("spark_conf") or {}) | self._usage_tags(),
            "secrets": workspace.secrets,
            "root": str(workspace.root),
            "report": str(self.folder / "report.json"),
        }
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [workspace.python, "-s", "-P", str(Path(__file__).with_name("boot.py"))],
                cwd=folder,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a process group of its own, to end it with all that it started
            )
        assert self._process.stdin is not None
        with self._process.stdin as stdin:
            stdin.write(json.dumps(job).encode())

    @property
    def is_serverless(self) -> bool:
        return bool(self.task.get("environment_key"))

    @property
    def _serverless_environment(self) -> dict[str, Any]:
        specs = {one["environment_key"]: one["spec"] for one in self.parent.body.get("environments") or []}
        return specs[self.task["environment_key"]]

    @property
    def _serverless_version(self) -> str:
        return self._serverless_environment["environment_version"]

    @property
    def _libraries(self) -> list[dict[str, Any]]:
        if self.is_serverless:
            return [{"pypi": {"package": name}} for name in self._serverless_environment.get("dependencies") or []]
        return self.task.get("libraries") or []

    def _usage_tags(self) -> dict[str, str]:
        """The settings by which code on a cluster (of dagster-pipes, for one) finds out where it runs."""
        tags = {"clusterId": self.cluster_id or "", "clusterLogDeliveryEnabled": "false", "clusterLogDestination": ""}
        return {f"spark.databricks.clusterUsageTags.{name}": value for name, value in tags.items()}

    def _clone(self, environment: dict[str, str]) -> Path:
        source = self.parent.body["git_source"]
        kind = next(key for key in ("git_branch", "git_tag", "git_commit") if source.get(key))
        reference = {"git_branch": "refs/remotes/origin/", "git_tag": "refs/tags/", "git_commit": ""}[kind]
        repository = self.workspace.repositories.get(source["git_url"])
        clone = self.folder / "clone"

        def git(*arguments: str) -> str:
            done = subprocess.run(["git", *arguments], env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise _broken("REPOSITORY_CHECKOUT_FAILED", f"Failed to checkout Git repository: {done.stderr.strip()}")
            return done.stdout.strip()

        if repository is None:
            message = f"Failed to checkout Git repository: {source['git_url']} does not exist or is not accessible."
            raise _broken("REPOSITORY_CHECKOUT_FAILED", message)
        git("clone", "--quiet", "--no-checkout", str(repository), str(clone))
        git("-C", str(clone), "checkout", "--quiet", "--detach", reference + source[kind])
        self.parent.used_commit = git("-C", str(clone), "rev-parse", "HEAD")
        # As in tracebacks that users publish: the path names the commit, and there is no .git folder.
        folder = self.folder / f"Workspace/Repos/.internal/{uuid.uuid4().hex[:10]}_commits/{self.parent.used_commit}"
        folder.parent.mkdir(parents=True)
        shutil.rmtree(clone / ".git")
        return clone.rename(folder)

    def _resolve(self, value: str) -> str:
        def secret(match: re.Match[str]) -> str:
            scope, key = match.groups()
            if key not in self.workspace.secrets.get(scope, {}):
                raise _broken("CLUSTER_ERROR", f"Secret does not exist with scope: {scope} and key: {key}")
            return self.workspace.secrets[scope][key]

        return _SECRET_REFERENCE.sub(secret, value)

    def _report(self) -> dict[str, str]:
        file = self.folder / "report.json"
        return json.loads(file.read_text()) if file.exists() else {"state": "starting"}

    def _has_exited(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def _library_failure(self, reason: str) -> _Ended:
        return _broken(
            "LIBRARY_INSTALLATION_ERROR",
            f"Library installation failed for library due to user error for {reason} Library installation attempted"
            f" on the driver node of cluster {self.cluster_id} and failed."
            " Error Code: DRIVER_LIBRARY_INSTALLATION_FAILURE",
        )

    def _stop_cluster(self) -> None:
        """End the whole process group: SIGTERM, then SIGKILL; at once SIGKILL if the cluster was to be killed."""
        process = self._process
        if process is None:
            return
        for signal_number in (signal.SIGKILL,) if self.killed.is_set() else (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, signal_number)
                process.wait(timeout=_GRACE_SECONDS)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        process.wait()

    def as_json(self) -> dict[str, Any]:
        """The task as in `runs/get`."""
        answer = {
            "run_id": self.run_id,
            "task_key": self.key,
            "attempt_number": 0,
            "start_time": int(self.started * 1000),
            "end_time": int(self.ended * 1000),
            "run_page_url": self.parent.page_url,
            **self.state.as_json(),
            **{key: value for key, value in self.task.items() if key != "task_key"},
        }
        if self.cluster_id is not None:
            answer["cluster_instance"] = {"cluster_id": self.cluster_id}
        return answer


@dataclass
class Run:
    """A run: what was submitted, and its tasks."""

    workspace: Workspace
    run_id: int
    body: dict[str, Any]
    tasks: list[TaskRun] = field(default_factory=list)
    used_commit: str = ""
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        self._threads = [threading.Thread(target=task.live, name=f"run {task.run_id}") for task in self.tasks]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    @property
    def page_url(self) -> str:
        return f"{self.workspace.url}/?o={self.workspace.workspace_id}#job/{self.run_id}/run/{self.run_id}"

    @property
    def state(self) -> State:
        """Made from the tasks' states; a failed task makes the run INTERNAL_ERROR, as on Databricks."""
        states = [task.state for task in self.tasks]
        if not all(state.is_final for state in states):
            if len({state.life_cycle for state in states}) == 1:
                return states[0]
            return State("RUNNING", message="In run")
        for result in ("CANCELED", "TIMEDOUT"):
            for state in states:
                if state.result == result:
                    return state
        for task in self.tasks:
            if task.state.result == "FAILED":
                message = f"Task {task.key} failed with message: {task.state.message}."
                message += " This caused all downstream tasks to get skipped."
                return State("INTERNAL_ERROR", "FAILED", message, task.state.code)
        return _SUCCEEDED

    def as_json(self) -> dict[str, Any]:
        """The run as in `runs/get`."""
        answer = {
            "job_id": self.run_id,
            "run_id": self.run_id,
            "run_name": self.body.get("run_name") or "Untitled",
            "run_type": "SUBMIT_RUN",
            "format": "MULTI_TASK",
            "run_page_url": self.page_url,
            "start_time": int(min(task.started for task in self.tasks) * 1000),
            "end_time": int(max(task.ended for task in self.tasks) * 1000) if self.state.is_final else 0,
            "tasks": [task.as_json() for task in self.tasks],
            **self.state.as_json(),
        }
        if self.body.get("git_source"):
            answer["git_source"] = self.body["git_source"] | {"git_snapshot": {"used_commit": self.used_commit}}
        return answer
