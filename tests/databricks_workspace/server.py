"""A Databricks workspace on loopback: the REST API that the SDK, Dagster and Airflow call, and the faults of a bad day.

What belongs here: HTTP, tokens, DBFS, files in volumes, secrets, pools and clusters as they are looked up, faults,
and the record of what was asked. What doesn't: what happens to a run (`runs`).

Standard library only, so that any Python can serve it. Sources: https://docs.databricks.com/api/workspace/ (`jobs`,
`dbfs`, `files`, `clusters`, `instancepools`, `secrets`) and the docstrings of databricks-sdk. On purpose it differs:
nothing lasts beyond `close`; the volumes are those it was made with; a path that it doesn't serve is 404
ENDPOINT_NOT_FOUND, so a client that asks for more is found out; `/_control` exists only here (see `Workspace`).

Nothing public fits in its place: moto has no Databricks; minilake 1.9 takes any token and runs jobs in Docker without
`git_source`, brickhouse 0.1 is an alpha that pins deltalake 1.2, semblance-databricks 0.1 runs nothing.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import shutil
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.databricks_workspace.runs import LOG_LIMIT, ApiError, Plan, Run, TaskRun, check_submission

POOL_ID, POOL_NAME = "1122-101010-reef1-pool-biocloud", "biocloud"
NODE_TYPE = "m5d.large"
SPARK_VERSION = "17.3.x-scala2.13"
_POOL = {"instance_pool_id": POOL_ID, "instance_pool_name": POOL_NAME, "node_type_id": NODE_TYPE, "state": "ACTIVE"}
_BLOCK_LIMIT = 1024**2  # of DBFS, for one read, put or add-block

Answer = Literal["429", "500", "503", "drop", "drop after", "expire"]
How = Literal["fail", "hang", "pending", "slow", "kill"]


@dataclass
class Request:
    """A request as it came in; `status` is 0 if the connection was dropped. The token isn't kept."""

    method: str
    path: str
    query: dict[str, str]
    body: Any = None
    status: int = 0
    content: bytes = field(default=b"", repr=False)
    start: int = field(default=0, repr=False)  # of the header Range

    @property
    def arguments(self) -> dict[str, Any]:
        return self.query | (self.body if isinstance(self.body, dict) else {})

    def argument(self, name: str) -> Any:
        if self.arguments.get(name) in (None, ""):
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"Missing required field: {name}")
        return self.arguments[name]


@dataclass
class Response:
    status: int = 200
    body: Any = None
    content: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class _Fault:
    path: str
    method: str | None
    answer: Answer
    times: int
    after: int
    retry_after: int


_routes: list[tuple[str, re.Pattern[str], Callable[..., Any]]] = []


def _route(method: str, path: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _routes.append((method, re.compile("/api/" + path), function))
        return function

    return register


class Workspace:
    """A workspace, served from `start` (or `with`) to `close`.

    The methods of "A bad day" and "What was seen" can be called by another process too: POST to `/_control/<method>`
    with the arguments as a JSON object and the header `Authorization: Bearer <control_token>`.

    Args:
        root: a folder of its own; DBFS, volumes and the runs' folders lie below.
        repositories: which local repository stands behind a `git_url`.
        volumes: the volumes that exist, as `/Volumes/<catalog>/<schema>/<volume>`.
        instance_profile: environment that every cluster has, whatever the job asks (an S3 endpoint and its keys).
        scopes: secrets, by scope and key.
        engine: what `spark` is on a cluster: `sail`, `jvm` or None (no Spark: such a cluster starts at once).
        python: the interpreter of the clusters.
        port: 0 for a free one.
    """

    workspace_id = "1122334455667788"

    def __init__(
        self,
        root: Path,
        *,
        repositories: Mapping[str, Path | str] | None = None,
        volumes: tuple[str, ...] = ("/Volumes/main/biocloud/staging",),
        instance_profile: Mapping[str, str] | None = None,
        scopes: Mapping[str, Mapping[str, str]] | None = None,
        engine: str | None = "sail",
        python: str = sys.executable,
        port: int = 0,
    ) -> None:
        self.root = root.resolve()
        self.repositories = dict(repositories or {})
        self.instance_profile = dict(instance_profile or {})
        self.secrets = {scope: dict(values) for scope, values in (scopes or {}).items()}
        self.engine, self.python = engine, python
        self.control_token = "control-" + secrets.token_hex(16)
        self.token = self.issue_token()
        self.requests: list[Request] = []
        self.runs: dict[int, Run] = {}
        self._faults: list[_Fault] = []
        self._plans: list[Plan] = []
        self._idempotency: dict[str, int] = {}
        self._handles: dict[int, Path] = {}
        self._next_id = 1000
        self._lock = threading.RLock()
        for folder in ("dbfs", *(volume.lstrip("/") for volume in volumes)):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        self._volumes = [PurePosixPath(volume) for volume in volumes]
        self._server = _Server(self, port)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> Workspace:
        self._thread.start()
        return self

    def close(self) -> None:
        """Cancel what runs, wait until it has ended, and stop serving."""
        for run in self.runs.values():
            self._cancel(run.tasks)
        for run in list(self.runs.values()):
            run.join()
        self._server.shutdown()
        self._server.drop_connections()
        self._server.server_close()
        self._thread.join()

    __enter__ = start

    def __exit__(self, *_: object) -> None:
        self.close()

    # A bad day

    def fail_requests(
        self,
        path: str,
        *,
        answer: Answer,
        method: str | None = None,
        times: int = 1,
        after: int = 0,
        retry_after: int = 0,
    ) -> None:
        """Let the next requests fail whose path contains `path`.

        Args:
            answer: a status code, `drop` (the connection, before anything is done), `drop after` (done, but the
                client never hears of it) or `expire` (every token, from this request on).
            times: how many requests; `after` as many that go well.
            retry_after: seconds, the header of 429 and 503.
        """
        with self._lock:
            self._faults.append(_Fault(path, method, answer, times, after, retry_after))

    def plan_run(
        self, how: How, *, message: str = "", seconds: float = 0.0, task_key: str | None = None, times: int = 1
    ) -> None:
        """Decide what happens to the next tasks submitted (with this key, if one is given).

        Args:
            how: `fail` (with the message, the script doesn't run), `hang` (RUNNING until cancelled or timed out),
                `pending` (never leaves PENDING), `slow` (stays PENDING for so many seconds) or `kill` (the cluster is
                lost so many seconds after the script began).
        """
        with self._lock:
            self._plans += [Plan(how, message, seconds, task_key) for _ in range(times)]

    def take_plan(self, task_key: str) -> Plan:
        """The plan for a task that starts now; for `runs`."""
        with self._lock:
            for plan in self._plans:
                if plan.task_key in (None, task_key):
                    self._plans.remove(plan)
                    return plan
        return Plan("run")

    def kill_cluster(self, run_id: int) -> None:
        """Lose the clusters of a run, now: SIGKILL."""
        for task in self._tasks(run_id):
            task.killed.set()

    def expire_token(self) -> None:
        """Every token given out so far is invalid from now on."""
        self._tokens: set[str] = set()

    def issue_token(self, token: str | None = None) -> str:
        """A valid token: a new one, or this one (again)."""
        self.token = token or "dapi" + secrets.token_hex(16)
        self._tokens = getattr(self, "_tokens", set()) | {self.token}
        return self.token

    # What was seen

    def show_requests(self, path: str = "", method: str | None = None) -> list[dict[str, Any]]:
        """Every request so far whose path contains `path`, without its token."""
        return [
            {key: getattr(request, key) for key in ("method", "path", "query", "body", "status")}
            for request in list(self.requests)
            if path in request.path and method in (None, request.method)
        ]

    def show_runs(self) -> list[dict[str, Any]]:
        """Every run: what was submitted, and each task's state, log and cluster environment."""
        return [
            {
                "run_id": run.run_id,
                "body": run.body,
                "tasks": [
                    {"task_key": task.key, "log": task.log, "environment": task.environment, **task.state.as_json()}
                    for task in run.tasks
                ],
            }
            for run in list(self.runs.values())
        ]

    # Requests

    def answer(self, request: Request, authorization: str) -> Response | None:
        """What to answer; None to drop the connection."""
        if request.path.startswith("/_control/"):
            return self._control(request, authorization)
        with self._lock:
            self.requests.append(request)
        fault = self._take_fault(request)
        if fault is not None and fault.answer == "drop":
            return None
        if fault is not None and fault.answer == "expire":
            self.expire_token()
        elif fault is not None and fault.answer != "drop after":
            status = int(fault.answer)
            code, message = {
                429: ("REQUEST_LIMIT_EXCEEDED", "Current request has to be retried: too many requests."),
                500: ("INTERNAL_ERROR", "An internal error occurred."),
                503: ("TEMPORARILY_UNAVAILABLE", "The service is temporarily unavailable."),
            }[status]
            headers = {} if status == 500 else {"Retry-After": str(fault.retry_after)}
            return Response(status, {"error_code": code, "message": message}, headers=headers)
        try:
            response = self._dispatch(request, authorization)
        except ApiError as error:
            response = Response(error.status, {"error_code": error.error_code, "message": error.message})
        except Exception as error:  # a defect of the workspace must be seen, not retried as a lost connection
            traceback.print_exc()
            response = Response(500, {"error_code": "INTERNAL_ERROR", "message": f"Local workspace: {error!r}"})
        return None if fault is not None and fault.answer == "drop after" else response

    def _dispatch(self, request: Request, authorization: str) -> Response:
        scheme, _, token = authorization.partition(" ")
        if scheme != "Bearer" or not token:
            raise ApiError(401, 401, "Credential was not sent or was of an unsupported type for this API.")
        if token not in self._tokens:
            raise ApiError(403, 403, "Invalid access token.")
        for method, pattern, function in _routes:
            match = pattern.fullmatch(request.path) if method == request.method else None
            if match is not None:
                done = function(self, request, *match.groups())
                return done if isinstance(done, Response) else Response(body=done if done is not None else {})
        raise ApiError(404, "ENDPOINT_NOT_FOUND", f"No API found for '{request.method} {request.path}'")

    def _take_fault(self, request: Request) -> _Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.path in request.path and fault.method in (None, request.method):
                    if fault.after:
                        fault.after -= 1
                        continue
                    fault.times -= 1
                    if not fault.times:
                        self._faults.remove(fault)
                    return fault
        return None

    def _control(self, request: Request, authorization: str) -> Response:
        name = request.path.removeprefix("/_control/")
        allowed = ("fail_requests", "plan_run", "kill_cluster", "expire_token", "issue_token")
        if authorization != f"Bearer {self.control_token}":
            return Response(403, {"message": "Not the control token."})
        if request.method != "POST" or name not in (*allowed, "show_requests", "show_runs"):
            return Response(404, {"message": f"There is no {name}."})
        try:
            return Response(body={"result": getattr(self, name)(**(request.body or {}))})
        except (TypeError, ApiError) as error:
            return Response(400, {"message": str(error)})

    # Jobs

    def _find(self, run_id: Any) -> Run | TaskRun:
        for run in list(self.runs.values()):
            for found in (run, *run.tasks):
                if str(found.run_id) == str(run_id):
                    return found
        raise ApiError(400, "INVALID_PARAMETER_VALUE", f"Run {run_id} does not exist.")

    def _tasks(self, run_id: Any) -> list[TaskRun]:
        found = self._find(run_id)
        return found.tasks if isinstance(found, Run) else [found]

    def _cancel(self, tasks: list[TaskRun]) -> None:
        for task in tasks:
            task.cancelled.set()

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    @_route("POST", r"2\.[12]/jobs/runs/submit")
    def _submit(self, request: Request) -> Any:
        body = request.body if isinstance(request.body, dict) else {}
        tasks = check_submission(body, {POOL_ID})
        key = body.get("idempotency_token")
        with self._lock:
            if key and key in self._idempotency:
                run_id = self._idempotency[key]
                if run_id not in self.runs:
                    raise ApiError(400, "INVALID_PARAMETER_VALUE", f"The run of idempotency token {key} was deleted.")
                return {"run_id": run_id}
            run = Run(self, self._new_id(), body)
            for task in tasks:
                task_id = self._new_id()
                run.tasks.append(TaskRun(self, run, task_id, task, self.root / "runs" / str(task_id)))
            self.runs[run.run_id] = run
            if key:
                self._idempotency[key] = run.run_id
            run.start()
        return {"run_id": run.run_id}

    @_route("GET", r"2\.[12]/jobs/runs/get")
    def _get_run(self, request: Request) -> Any:
        return self._find(request.argument("run_id")).as_json()

    @_route("GET", r"2\.[12]/jobs/runs/list")
    def _list_runs(self, request: Request) -> Any:
        runs = [
            run for run in reversed(self.runs.values()) if not run.state.is_final or not _flag(request, "active_only")
        ]
        return {"runs": [run.as_json() for run in runs], "has_more": False}

    @_route("GET", r"2\.[12]/jobs/runs/get-output")
    def _get_output(self, request: Request) -> Any:
        task = self._find(request.argument("run_id"))
        if isinstance(task, Run):
            message = "Retrieving the output of runs with multiple tasks is not supported."
            message += " Please retrieve the output of each individual task run instead."
            raise ApiError(400, "INVALID_PARAMETER_VALUE", message)
        log = self._redact(task.log)
        answer = {"metadata": task.as_json(), "logs": log[-LOG_LIMIT:], "logs_truncated": len(log) > LOG_LIMIT}
        if task.error:
            answer |= {"error": self._redact(task.error), "error_trace": self._redact(task.trace)}
        return answer

    def _redact(self, text: str) -> str:
        """https://docs.databricks.com/security/secrets/redaction.html"""
        for values in self.secrets.values():
            for value in filter(None, values.values()):
                text = text.replace(value, "[REDACTED]")
        return text

    @_route("POST", r"2\.[12]/jobs/runs/cancel")
    def _cancel_run(self, request: Request) -> None:
        self._cancel(self._tasks(request.argument("run_id")))

    @_route("POST", r"2\.[12]/jobs/runs/cancel-all")
    def _cancel_all(self, request: Request) -> None:
        if "job_id" not in request.arguments and not _flag(request, "all_queued_runs"):
            raise ApiError(400, "INVALID_PARAMETER_VALUE", "Either job_id or all_queued_runs must be specified.")
        for run in list(self.runs.values()):
            if str(request.arguments.get("job_id", run.run_id)) == str(run.run_id):
                self._cancel(run.tasks)

    @_route("POST", r"2\.[12]/jobs/runs/delete")
    def _delete_run(self, request: Request) -> None:
        run = self._find(request.argument("run_id"))
        if not isinstance(run, Run) or not run.state.is_final:
            raise ApiError(400, "INVALID_STATE", f"Run {run.run_id} is active: cancel it first.")
        del self.runs[run.run_id]

    # Compute

    def _cluster(self, task: TaskRun) -> dict[str, Any]:
        state = "TERMINATED" if task.state.is_final else "RUNNING"
        own = {"cluster_id": task.cluster_id, "cluster_name": f"job-{task.parent.run_id}-run-{task.run_id}"}
        return {**task.task["new_cluster"], **own, "state": state, "cluster_source": "JOB"}

    @_route("GET", r"2\.[01]/clusters/list")
    def _list_clusters(self, request: Request) -> Any:
        tasks = [task for run in self.runs.values() for task in run.tasks if task.cluster_id is not None]
        return {"clusters": [self._cluster(task) for task in tasks]}

    @_route("GET", r"2\.[01]/clusters/get")
    def _get_cluster(self, request: Request) -> Any:
        cluster_id = request.argument("cluster_id")
        for run in list(self.runs.values()):
            for task in run.tasks:
                if task.cluster_id == cluster_id:
                    return self._cluster(task)
        raise ApiError(400, "INVALID_PARAMETER_VALUE", f"Cluster {cluster_id} does not exist")

    @_route("GET", r"2\.[01]/clusters/spark-versions")
    def _spark_versions(self, request: Request) -> Any:
        return {"versions": [{"key": SPARK_VERSION, "name": "17.3 LTS (includes Apache Spark 4.0.0, Scala 2.13)"}]}

    @_route("GET", r"2\.[01]/clusters/list-node-types")
    def _node_types(self, request: Request) -> Any:
        node = {"node_type_id": NODE_TYPE, "memory_mb": 8192, "num_cores": 2, "instance_type_id": NODE_TYPE}
        return {"node_types": [node | {"description": NODE_TYPE, "category": "General Purpose"}]}

    @_route("GET", r"2\.0/instance-pools/list")
    def _list_pools(self, request: Request) -> Any:
        return {"instance_pools": [_POOL]}

    @_route("GET", r"2\.0/instance-pools/get")
    def _get_pool(self, request: Request) -> Any:
        if request.argument("instance_pool_id") != POOL_ID:
            message = f"Can't find an instance pool with id: {request.argument('instance_pool_id')}."
            raise ApiError(404, "RESOURCE_DOES_NOT_EXIST", message)
        return _POOL

    @_route("GET", r"2\.0/preview/scim/v2/Me")
    def _me(self, request: Request) -> Any:
        return {"id": "1", "userName": "biocloud@example.org", "active": True}

    # Secrets

    @_route("GET", r"2\.0/secrets/scopes/list")
    def _list_scopes(self, request: Request) -> Any:
        return {"scopes": [{"name": scope, "backend_type": "DATABRICKS"} for scope in self.secrets]}

    @_route("POST", r"2\.0/secrets/scopes/create")
    def _create_scope(self, request: Request) -> None:
        if request.argument("scope") in self.secrets:
            raise ApiError(400, "RESOURCE_ALREADY_EXISTS", f"Scope {request.argument('scope')} already exists!")
        self.secrets[request.argument("scope")] = {}

    def _scope(self, request: Request) -> dict[str, str]:
        if request.argument("scope") not in self.secrets:
            message = f"Scope {request.argument('scope')} does not exist!"
            raise ApiError(404, "RESOURCE_DOES_NOT_EXIST", message)
        return self.secrets[request.argument("scope")]

    @_route("POST", r"2\.0/secrets/put")
    def _put_secret(self, request: Request) -> None:
        self._scope(request)[request.argument("key")] = request.argument("string_value")

    @_route("GET", r"2\.0/secrets/list")
    def _list_secrets(self, request: Request) -> Any:
        return {"secrets": [{"key": key} for key in self._scope(request)]}

    # DBFS

    def local_path(self, path: str) -> Path:
        """Where a path of DBFS or a volume is on this machine: `dbfs:/a`, `/Volumes/a`."""
        inside = path.removeprefix("dbfs:")
        if not inside.startswith("/") or ".." in PurePosixPath(inside).parts:
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"Path must be absolute: {path}")
        parts = [part for part in inside.split("/") if part]
        return self.root.joinpath(*([] if parts[:1] == ["Volumes"] else ["dbfs"]), *parts)

    def _dbfs(self, request: Request, *, exists: bool = False) -> Path:
        path = self.local_path(request.argument("path"))
        if exists and not path.exists():
            message = f"No file or directory exists on path {request.argument('path')}."
            raise ApiError(404, "RESOURCE_DOES_NOT_EXIST", message)
        return path

    def _status(self, path: Path) -> dict[str, Any]:
        size = 0 if path.is_dir() else path.stat().st_size
        changed = int(path.stat().st_mtime * 1000)
        inside = "/" + str(path.relative_to(self.root / "dbfs"))
        return {"path": inside, "is_dir": path.is_dir(), "file_size": size, "modification_time": changed}

    def _create(self, request: Request, content: bytes) -> Path:
        path = self._dbfs(request)
        if path.is_dir() or (path.exists() and not _flag(request, "overwrite")):
            message = f"A file or directory already exists at the input path {request.argument('path')}."
            raise ApiError(400, "RESOURCE_ALREADY_EXISTS", message)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def _block(self, request: Request, name: str) -> bytes:
        content = base64.b64decode(request.arguments.get(name) or "")
        if len(content) > _BLOCK_LIMIT:
            raise ApiError(400, "MAX_BLOCK_SIZE_EXCEEDED", f"A block has at most {_BLOCK_LIMIT} bytes.")
        return content

    def _handle(self, request: Request) -> Path:
        if int(request.argument("handle")) not in self._handles:
            message = f"No stream with handle {request.argument('handle')} is open."
            raise ApiError(404, "RESOURCE_DOES_NOT_EXIST", message)
        return self._handles[int(request.argument("handle"))]

    @_route("POST", r"2\.0/dbfs/mkdirs")
    def _mkdirs(self, request: Request) -> None:
        self._dbfs(request).mkdir(parents=True, exist_ok=True)

    @_route("POST", r"2\.0/dbfs/put")
    def _put(self, request: Request) -> None:
        self._create(request, self._block(request, "contents"))

    @_route("POST", r"2\.0/dbfs/create")
    def _open_stream(self, request: Request) -> Any:
        path = self._create(request, b"")
        with self._lock:
            handle = self._new_id()
            self._handles[handle] = path
        return {"handle": handle}

    @_route("POST", r"2\.0/dbfs/add-block")
    def _add_block(self, request: Request) -> None:
        with self._handle(request).open("ab") as file:
            file.write(self._block(request, "data"))

    @_route("POST", r"2\.0/dbfs/close")
    def _close_stream(self, request: Request) -> None:
        self._handle(request)
        del self._handles[int(request.argument("handle"))]

    @_route("GET", r"2\.0/dbfs/read")
    def _read(self, request: Request) -> Any:
        path = self._dbfs(request, exists=True)
        offset, length = (int(request.arguments.get(name) or 0) for name in ("offset", "length"))
        if length > _BLOCK_LIMIT:
            raise ApiError(400, "MAX_READ_SIZE_EXCEEDED", f"One read has at most {_BLOCK_LIMIT} bytes.")
        if path.is_dir() or offset < 0 or length < 0:
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"Can't read {path.name} from {offset}, {length} bytes.")
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read(length or _BLOCK_LIMIT // 2)
        return {"bytes_read": len(content), "data": base64.b64encode(content).decode()}

    @_route("GET", r"2\.0/dbfs/get-status")
    def _get_status(self, request: Request) -> Any:
        return self._status(self._dbfs(request, exists=True))

    @_route("GET", r"2\.0/dbfs/list")
    def _list_dbfs(self, request: Request) -> Any:
        path = self._dbfs(request, exists=True)
        return {"files": [self._status(file) for file in (sorted(path.iterdir()) if path.is_dir() else [path])]}

    @_route("POST", r"2\.0/dbfs/delete")
    def _delete(self, request: Request) -> None:
        path = self._dbfs(request, exists=True)
        if not path.is_dir():
            path.unlink()
        elif _flag(request, "recursive"):
            shutil.rmtree(path)
        elif any(path.iterdir()):
            raise ApiError(400, "IO_ERROR", f"The directory {request.argument('path')} is not empty.")
        else:
            path.rmdir()

    # Files in volumes

    def _volume_path(self, path: str, kind: Literal["file", "directory"] | None = None) -> Path:
        path = unquote(path)
        if not any(PurePosixPath(path).is_relative_to(volume) for volume in self._volumes):
            raise ApiError(404, "NOT_FOUND", f"The volume of {path} does not exist or isn't accessible.")
        found = self.local_path(path)
        if kind is not None and not (found.is_dir() if kind == "directory" else found.is_file()):
            raise ApiError(404, "NOT_FOUND", f"The {kind} being accessed is not found: {path}")
        return found

    @_route("PUT", r"2\.0/fs/files(/.+)")
    def _upload(self, request: Request, path: str) -> Response:
        file = self._volume_path(path)
        if file.is_dir() or (file.exists() and request.query.get("overwrite", "true") == "false"):
            raise ApiError(409, "ALREADY_EXISTS", f"The file being created already exists: {unquote(path)}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(request.content)
        return Response(204, content=b"")

    @_route("GET", r"2\.0/fs/files(/.+)")
    def _download(self, request: Request, path: str) -> Response:
        file = self._volume_path(path, "file")
        headers = {"Last-Modified": formatdate(file.stat().st_mtime, usegmt=True)}
        return Response(206 if request.start else 200, content=file.read_bytes()[request.start :], headers=headers)

    @_route("HEAD", r"2\.0/fs/files(/.+)")
    def _file_metadata(self, request: Request, path: str) -> Response:
        return self._download(request, path)

    @_route("DELETE", r"2\.0/fs/files(/.+)")
    def _delete_file(self, request: Request, path: str) -> Response:
        self._volume_path(path, "file").unlink()
        return Response(204, content=b"")

    @_route("PUT", r"2\.0/fs/directories(/.+)")
    def _make_directory(self, request: Request, path: str) -> Response:
        self._volume_path(path).mkdir(parents=True, exist_ok=True)
        return Response(204, content=b"")

    @_route("HEAD", r"2\.0/fs/directories(/.+)")
    def _directory_metadata(self, request: Request, path: str) -> Response:
        self._volume_path(path, "directory")
        return Response(content=b"")

    @_route("DELETE", r"2\.0/fs/directories(/.+)")
    def _delete_directory(self, request: Request, path: str) -> Response:
        directory = self._volume_path(path, "directory")
        if any(directory.iterdir()):
            raise ApiError(400, "FILES_API_DIRECTORY_IS_NOT_EMPTY", f"The directory is not empty: {unquote(path)}")
        directory.rmdir()
        return Response(204, content=b"")

    @_route("GET", r"2\.0/fs/directories(/.+)")
    def _list_directory(self, request: Request, path: str) -> Any:
        entries = sorted(self._volume_path(path, "directory").iterdir())
        start, size = int(request.query.get("page_token") or 0), int(request.query.get("page_size") or 1000)
        answer: dict[str, Any] = {
            "contents": [
                {
                    "path": f"{unquote(path).rstrip('/')}/{entry.name}",
                    "name": entry.name,
                    "is_directory": entry.is_dir(),
                    "last_modified": int(entry.stat().st_mtime * 1000),
                    **({} if entry.is_dir() else {"file_size": entry.stat().st_size}),
                }
                for entry in entries[start : start + size]
            ]
        }
        if start + size < len(entries):
            answer["next_page_token"] = str(start + size)
        return answer


def _flag(request: Request, name: str) -> bool:
    return str(request.arguments.get(name, False)).lower() == "true"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, workspace: Workspace, port: int) -> None:
        self.workspace = workspace
        self._connections: deque[socket.socket] = deque()
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.append(request)
        super().process_request(request, client_address)

    def drop_connections(self) -> None:
        """A client keeps its connections open; their threads end with them."""
        for connection in self._connections:
            drop(connection)


def drop(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it is closed already


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _serve(self) -> None:
        url = urlsplit(self.path)
        request = Request(self.command, url.path, dict(parse_qsl(url.query)), content=self._content())
        request.start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if "json" in self.headers.get("Content-Type", "") or request.path.startswith("/_control/"):
            request.body = json.loads(request.content or b"{}")
        elif request.content:
            request.body = request.content.decode(errors="replace")
        response = self.server.workspace.answer(request, self.headers.get("Authorization", ""))
        if response is None:
            self.close_connection = True
            drop(self.connection)
            return
        request.status = response.status
        content = response.content if response.content is not None else json.dumps(response.body).encode()
        self.send_response(response.status)
        self.send_header("Content-Type", "application/json" if response.content is None else "application/octet-stream")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Databricks-Org-Id", Workspace.workspace_id)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD" and response.status != 204:
            self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = _serve  # noqa: N815 - the library's names

    def _content(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = b""
        while size := int(self.rfile.readline().strip(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Silent: `Workspace.requests` is the record."""
