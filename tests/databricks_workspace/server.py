"""A Databricks workspace on loopback: the REST API that the SDK, Dagster and Airflow call, with planned failures.

DBFS and volumes are in `storage`, what may be submitted in `submission`, what happens to a run in `runs`, what an
administrator sets up in `settings`, and Unity Catalog in `catalog`.

Standard library only, so that any Python can serve it. Sources: https://docs.databricks.com/api/workspace/ (`jobs`,
`clusters`, `instancepools`, `secrets`) and the docstrings of databricks-sdk. Two differences are intended: nothing is
kept after `close`, and `/_control` exists only here (see `Workspace`). Any other path is 404 ENDPOINT_NOT_FOUND.

No public package does the same: moto has no Databricks; minilake 1.9 accepts any token and runs jobs in Docker without
`git_source`, brickhouse 0.1 is an alpha that pins deltalake 1.2, semblance-databricks 0.1 runs nothing.
"""

from __future__ import annotations

import json
import secrets
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import parse_qsl, urlsplit

from tests.databricks_workspace.api import ApiError, Request, Response, route, routes
from tests.databricks_workspace.catalog import UnityCatalog
from tests.databricks_workspace.runs import LOG_LIMIT, Plan, Run, TaskRun
from tests.databricks_workspace.settings import NODE_TYPE, Setup
from tests.databricks_workspace.settings import POLICY_ID as POLICY_ID
from tests.databricks_workspace.settings import POOL_ID as POOL_ID
from tests.databricks_workspace.storage import Storage
from tests.databricks_workspace.submission import check_submission

SPARK_VERSION = "17.3.x-scala2.13"

Answer = Literal["429", "500", "503", "drop", "drop after", "expire"]
How = Literal["fail", "hang", "no cluster", "pending", "slow", "kill"]


@dataclass
class _Fault:
    path: str
    method: str | None
    answer: Answer
    times: int
    after: int
    retry_after: int


class Workspace(Storage):
    """A workspace, served from `start` (or `with`) to `close`.

    The methods below "Planned failures" and "Records" can be called by another process too: POST to
    `/_control/<method>` with the arguments as a JSON object and the header `Authorization: Bearer <control_token>`.

    Args:
        root: a folder of its own; DBFS, volumes and the runs' folders lie below.
        repositories: which local repository stands behind a `git_url`.
        volumes: the volumes that exist, as `/Volumes/<catalog>/<schema>/<volume>`.
        instance_profile: environment that every cluster has, whatever the job asks (an S3 endpoint and its keys).
        scopes: secrets, by scope and key.
        engine: what `spark` is on a cluster: `sail`, `jvm`, `standard` (Spark Connect on a JVM, with the restrictions
            of Databricks' standard mode) or None (no Spark: such a cluster starts at once).
        spark_conf: what every session is set to; `jvm` has no Delta but by the jars and extensions given here.
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
        spark_conf: Mapping[str, str] | None = None,
        python: str = sys.executable,
        port: int = 0,
    ) -> None:
        super().__init__(root, volumes)
        self.repositories = dict(repositories or {})
        self.instance_profile = dict(instance_profile or {})
        self.secrets = {scope: dict(values) for scope, values in (scopes or {}).items()}
        self.engine, self.python = engine, python
        self.spark_conf = dict(spark_conf or {})
        self.setup, self.unity_catalog = Setup(), UnityCatalog()
        self.control_token = "control-" + secrets.token_hex(16)
        self.token = self.issue_token()
        self.requests: list[Request] = []
        self.runs: dict[int, Run] = {}
        self._faults: list[_Fault] = []
        self._plans: list[Plan] = []
        self._idempotency: dict[str, int] = {}
        self._next_id = 1000
        self._lock = threading.RLock()
        self._server = _Server(self, port)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> Workspace:
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop serving, cancel what runs, and wait until it has ended."""
        self._server.shutdown()
        self._server.drop_connections()
        self._server.server_close()
        self._thread.join()
        for run in self.runs.values():
            self._cancel(run.tasks)
        for run in self.runs.values():
            run.join()

    __enter__ = start

    def __exit__(self, *_: object) -> None:
        self.close()

    # Planned failures

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
            answer: a status code, `drop` (the connection, before anything is done), `drop after` (done, but without an
                answer) or `expire` (every token, from this request on).
            method: only requests with this method.
            times: how many requests fail.
            after: how many requests succeed before.
            retry_after: seconds, the header of 429 and 503.
        """
        if answer not in get_args(Answer):
            raise ValueError(f"answer {answer!r} is none of {get_args(Answer)}")
        with self._lock:
            self._faults.append(_Fault(path, method, answer, times, after, retry_after))

    def plan_run(
        self, how: How, *, message: str = "", seconds: float = 0.0, task_key: str | None = None, times: int = 1
    ) -> None:
        """Decide what happens to the next tasks submitted (with this key, if one is given).

        Args:
            how: `fail` (with the message, the script doesn't run), `hang` (RUNNING until cancelled or timed out),
                `no cluster` (the cloud has no capacity for one), `pending` (never leaves PENDING), `slow` (stays
                PENDING for so many seconds) or `kill` (the cluster is lost so many seconds after the script began).
            message: the error of a run that fails.
            seconds: see `how`.
            task_key: only tasks with this key.
            times: for how many tasks.
        """
        if how not in get_args(How):
            raise ValueError(f"how {how!r} is none of {get_args(How)}")
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

    # Records

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

    @property
    def clusters(self) -> list[str]:
        """The identifiers of the clusters that were started."""
        return [task.cluster_id for run in self.runs.values() for task in run.tasks if task.cluster_id is not None]

    def staged_files(self) -> list[str]:
        """The files in DBFS and in the volumes."""
        found = [path for folder in ("dbfs", "Volumes") for path in (self.root / folder).rglob("*")]
        return [str(path) for path in found if path.is_file()]

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
        self.setup.check_permission(request.path)
        for method, pattern, function in routes:
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
        except (TypeError, ValueError, ApiError) as error:
            return Response(400, {"message": str(error)})

    # Jobs

    def _find(self, run_id: Any) -> Run | TaskRun:
        for run in list(self.runs.values()):
            candidates: list[Run | TaskRun] = [run, *run.tasks]
            for found in candidates:
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

    @route("POST", r"2\.[12]/jobs/runs/submit")
    def _submit(self, request: Request) -> Any:
        body = request.body if isinstance(request.body, dict) else {}
        tasks = check_submission(body, set(self.setup.pools), set(self.setup.policies))
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

    @route("GET", r"2\.[12]/jobs/runs/get")
    def _get_run(self, request: Request) -> Any:
        return self._find(request.argument("run_id")).as_json()

    @route("GET", r"2\.[12]/jobs/runs/list")
    def _list_runs(self, request: Request) -> Any:
        runs = [
            run for run in reversed(self.runs.values()) if not run.state.is_final or not request.flag("active_only")
        ]
        return {"runs": [run.as_json() for run in runs], "has_more": False}

    @route("GET", r"2\.[12]/jobs/runs/get-output")
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

    @route("POST", r"2\.[12]/jobs/runs/cancel")
    def _cancel_run(self, request: Request) -> None:
        self._cancel(self._tasks(request.argument("run_id")))

    @route("POST", r"2\.[12]/jobs/runs/cancel-all")
    def _cancel_all(self, request: Request) -> None:
        if "job_id" not in request.arguments and not request.flag("all_queued_runs"):
            raise ApiError(400, "INVALID_PARAMETER_VALUE", "Either job_id or all_queued_runs must be specified.")
        for run in list(self.runs.values()):
            if str(request.arguments.get("job_id", run.run_id)) == str(run.run_id):
                self._cancel(run.tasks)

    @route("POST", r"2\.[12]/jobs/runs/delete")
    def _delete_run(self, request: Request) -> None:
        run = self._find(request.argument("run_id"))
        if not isinstance(run, Run) or not run.state.is_final:
            raise ApiError(400, "INVALID_STATE", f"Run {run.run_id} is active: cancel it first.")
        del self.runs[run.run_id]

    # Compute

    def _cluster(self, task: TaskRun) -> dict[str, Any]:
        state = "TERMINATED" if task.state.is_final else "RUNNING"
        own = {"cluster_id": task.cluster_id, "cluster_name": f"job-{task.parent.run_id}-run-{task.run_id}"}
        return {**task.task.get("new_cluster", {}), **own, "state": state, "cluster_source": "JOB"}

    @route("GET", r"2\.[01]/clusters/list")
    def _list_clusters(self, request: Request) -> Any:
        tasks = [task for run in self.runs.values() for task in run.tasks if task.cluster_id is not None]
        return {"clusters": [self._cluster(task) for task in tasks]}

    @route("GET", r"2\.[01]/clusters/get")
    def _get_cluster(self, request: Request) -> Any:
        cluster_id = request.argument("cluster_id")
        for run in list(self.runs.values()):
            for task in run.tasks:
                if task.cluster_id == cluster_id:
                    return self._cluster(task)
        raise ApiError(400, "INVALID_PARAMETER_VALUE", f"Cluster {cluster_id} does not exist")

    @route("GET", r"2\.[01]/clusters/spark-versions")
    def _spark_versions(self, request: Request) -> Any:
        return {"versions": [{"key": SPARK_VERSION, "name": "17.3 LTS (includes Apache Spark 4.0.0, Scala 2.13)"}]}

    @route("GET", r"2\.[01]/clusters/list-node-types")
    def _node_types(self, request: Request) -> Any:
        node = {"node_type_id": NODE_TYPE, "memory_mb": 8192, "num_cores": 2, "instance_type_id": NODE_TYPE}
        return {"node_types": [node | {"description": NODE_TYPE, "category": "General Purpose"}]}

    # Secrets

    @route("GET", r"2\.0/secrets/scopes/list")
    def _list_scopes(self, request: Request) -> Any:
        return {"scopes": [{"name": scope, "backend_type": "DATABRICKS"} for scope in self.secrets]}

    @route("POST", r"2\.0/secrets/scopes/create")
    def _create_scope(self, request: Request) -> None:
        if request.argument("scope") in self.secrets:
            raise ApiError(400, "RESOURCE_ALREADY_EXISTS", f"Scope {request.argument('scope')} already exists!")
        self.secrets[request.argument("scope")] = {}

    def _scope(self, request: Request) -> dict[str, str]:
        if request.argument("scope") not in self.secrets:
            message = f"Scope {request.argument('scope')} does not exist!"
            raise ApiError(404, "RESOURCE_DOES_NOT_EXIST", message)
        return self.secrets[request.argument("scope")]

    @route("POST", r"2\.0/secrets/put")
    def _put_secret(self, request: Request) -> None:
        self._scope(request)[request.argument("key")] = request.argument("string_value")

    @route("GET", r"2\.0/secrets/list")
    def _list_secrets(self, request: Request) -> Any:
        return {"secrets": [{"key": key} for key in self._scope(request)]}


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
    disable_nagle_algorithm = True  # else a kept connection waits 40 ms between head and body
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
