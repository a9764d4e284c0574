"""The SCIM APIs of a Databricks workspace and its account on loopback: a real SCIM 2.0 server with Databricks' rules.

The server is scim2-server, over HTTP by werkzeug. It differs from plain SCIM as Databricks does:

- ids are numbers; user names are kept in lower case; group names are unique;
- members are users, groups or service principals, which a relative `$ref` tells apart; an unknown member is refused;
- `/Me` names the token's owner, in the workspace only;
- a token that isn't an administrator's sees groups without members and users without names;
- `meta` of a group holds only its kind: `WorkspaceGroup`, or `Group` if it is an account group that is assigned to the
  workspace. The workspace refuses to change the members of an account group
  (https://docs.databricks.com/aws/archive/workspace-level-scim);
- both APIs answer 500 to a change of a group that an identity provider manages (`externalId`);
- the workspace shows the account's groups below `/api/2.0/account/scim/v2`, for reading.

It also counts requests, can show changes late, and can fail at the n-th request.
"""

from __future__ import annotations

import io
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import cache
from typing import Any
from urllib.parse import parse_qs

from scim2_models import Group, InvalidValueException, ScimProvider, UniquenessException, User
from scim2_server.memory import InMemoryStorage
from scim2_server.testserver.application import BEARER_TOKEN_SCHEME, BearerTokenApplication
from scim2_server.utils import (
    load_default_resource_types,
    load_default_schemas,
    load_default_service_provider_config,
)
from werkzeug.serving import WSGIRequestHandler, make_server

ROOT = "/api/2.0/preview/scim/v2"
ACCOUNT_ID = "0a1b2c3d-0000-4000-8000-0123456789ab"
ACCOUNT_ROOT = f"/api/2.0/accounts/{ACCOUNT_ID}/scim/v2"
ACCOUNT_IN_WORKSPACE_ROOT = "/api/2.0/account/scim/v2"
_SCIM = {"Content-Type": "application/scim+json"}
TOKEN = "dapi-0123456789abcdef-not-a-real-token"
ADMIN = "admin@biocloud.example"

_TYPES = {one.name: one for one in load_default_resource_types().values()}

FAULTS = (
    "429 with seconds",
    "429 with a date",
    "409",
    "500",
    "503",
    "connection dropped before",
    "connection dropped after",
    "no answer in time",
    "a log-in page",
    "empty list",
)


@dataclass
class Request:
    """One request as the server received it, and the status of the answer.

    `path` is relative to the workspace's API, and absolute for another.
    """

    method: str
    path: str
    query: dict[str, list[str]]
    body: Any
    authorization: str
    status: int = 0


@dataclass
class Behaviour:
    """What the server does besides serving; all off.

    Attributes:
        faults: request number (from 0) → kind of fault, one of `FAULTS`.
        faults_from: from this request on, every one that isn't in `faults` has the fault of the second item.
        page: resources on a page at the most.
        lag: how many reads of a group after a change still show it as before.
        slow_users: how many PATCHes say of a new user that it doesn't exist yet.
        strict: whether removing who isn't a member is refused (RFC 7644, `noTarget`).
        admin: whether the token is an administrator's.
        plain: whether `meta` is that of a plain SCIM server, which calls every group `Group`.
        me: whether there is `/Me`.
        slow: seconds that `no answer in time` takes.
        intercept: called with each request before it is served; an answer (status, headers, JSON) is sent instead.
    """

    faults: dict[int, str] = field(default_factory=dict)
    faults_from: tuple[int, str] | None = None
    page: int = 1_000
    lag: int = 0
    slow_users: int = 0
    strict: bool = False
    admin: bool = True
    plain: bool = False
    me: bool = True
    slow: float = 0.3
    intercept: Callable[[Request], tuple[int, dict[str, str], Any] | None] | None = None


class _Storage(InMemoryStorage):
    """The resources, with Databricks' rules for them."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count(1_000_000_000_000_001)
        self.service_principals: dict[str, str] = {}
        self.account_groups: set[str] = set()  # ids of the groups that belong to the account
        self.names: dict[str, str] = {}  # user id → the userName that is shown instead of the stored one
        self.not_yet: dict[str, int] = {}  # user id → how many PATCHes still don't know it

    def generate_id(self, resource_type: Any, resource: Any) -> str:
        return str(next(self._numbers))

    def of(self, name: str) -> list[Any]:
        """Return every resource of a type, `User` or `Group`."""
        return list(self._resources.get(name, {}).values())

    def kind(self, identifier: str) -> str | None:
        """Return what an id is: the first part of its `$ref`."""
        for name, kind in (("User", "Users"), ("Group", "Groups")):
            if identifier in self._resources.get(name, {}):
                return kind
        return "ServicePrincipals" if identifier in self.service_principals else None

    def create(self, resource_type: Any, resource: Any) -> Any:
        with self.lock:
            return super().create(resource_type, self._checked(resource.model_copy(deep=True)))

    def update(self, resource_type: Any, resource: Any, **options: Any) -> Any:
        with self.lock:
            return super().update(resource_type, self._checked(resource.model_copy(deep=True)), **options)

    def _checked(self, resource: Any) -> Any:
        if hasattr(resource, "user_name"):
            resource.user_name = resource.user_name.lower()
            return resource
        for other in self.of("Group"):
            if other.display_name == resource.display_name and other.id != resource.id:
                raise UniquenessException(detail=f"Group with name {resource.display_name} already exists.")
        members = {member.value: member for member in resource.members or []}
        for identifier in members:
            if self.not_yet.get(identifier, 0) > 0:
                self.not_yet[identifier] -= 1
                raise InvalidValueException(detail=f"Principal {identifier} does not exist")
            if self.kind(identifier) is None and not identifier.startswith("ghost"):
                raise InvalidValueException(detail=f"Principal {identifier} does not exist")
        resource.members = list(members.values()) or None
        return resource


@cache
def _provider(page: int) -> ScimProvider:
    """Return what the server offers: schemas, resource types, and pages of at most so many resources."""
    config = load_default_service_provider_config()
    config.authentication_schemes = [BEARER_TOKEN_SCHEME]
    config.filter.max_results = page
    return ScimProvider.from_discovery(
        load_default_schemas().values(), load_default_resource_types().values(), config=config
    )


class DatabricksWorkspace:
    """A workspace and its account. `host` is the address of both; `log` holds the requests since the last `reset`."""

    def __init__(self) -> None:
        self.reset()
        self._server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=_Handler)
        self.host = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def groups_api(self) -> str:
        return f"{self.host}{ROOT}/Groups"

    @property
    def users_api(self) -> str:
        return f"{self.host}{ROOT}/Users"

    @property
    def config(self) -> dict[str, Any]:
        return {"host": self.host, "token": TOKEN}

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {TOKEN}"}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # Setting it up, and reading its state, without the API

    def reset(self, **behaviour: Any) -> None:
        """Make it a new workspace with one user, the token's owner, who is in the group `admins`; an empty account."""
        self.storage = _Storage()
        self.account = _Storage()
        self._applications: dict[tuple[int, int], BearerTokenApplication] = {}
        self._lock = threading.Lock()
        self._before: dict[str, tuple[int, bytes]] = {}  # path → reads left, and the answer as it was
        self.log: list[Request] = []
        self.behaviour = Behaviour()
        self.admin = self.add_user(ADMIN)
        self.add_group("admins", [self.admin])
        self.behave(**behaviour)

    def behave(self, **behaviour: Any) -> None:
        """Change what it does, and restart the count of requests."""
        self.behaviour = Behaviour(**behaviour)
        self.log = []

    def add_user(self, email: str, *, emails: Iterable[str] = (), active: bool = True, shown_as: str = "") -> str:
        """Add a user; return the id.

        Args:
            email: the userName.
            emails: further addresses.
            active: whether the user may log in.
            shown_as: the userName that the API shows instead, as old users may have capitals in it.
        """
        addresses = [User.Emails(value=one) for one in emails] or None
        user = self.storage.create(_TYPES["User"], User(user_name=email, emails=addresses, active=active))
        if shown_as:
            self.storage.names[str(user.id)] = shown_as
        return str(user.id)

    def add_group(
        self,
        name: str,
        members: Iterable[str] = (),
        *,
        account: bool = False,
        external_id: str | None = None,
        storage: _Storage | None = None,
    ) -> str:
        """Add a group; return the id.

        Args:
            name: the displayName.
            members: ids.
            account: whether it is an account group that is assigned to the workspace.
            external_id: the id that an identity provider gave it.
            storage: where; the workspace's if not given.
        """
        storage = storage or self.storage
        listed = [Group.Members(value=one) for one in members] or None
        group = storage.create(_TYPES["Group"], Group(display_name=name, members=listed, external_id=external_id))
        if account:
            storage.account_groups.add(str(group.id))
        return str(group.id)

    def add_account_user(self, email: str) -> str:
        """Add a user to the account only; return the id."""
        return str(self.account.create(_TYPES["User"], User(user_name=email)).id)

    def add_service_principal(self, name: str) -> str:
        identifier = self.storage.generate_id(None, None)
        self.storage.service_principals[identifier] = name
        return identifier

    def delete_user(self, identifier: str) -> None:
        self.storage.delete(_TYPES["User"], identifier)

    def delete_group(self, identifier: str) -> None:
        self.storage.delete(_TYPES["Group"], identifier)

    def emails(self) -> dict[str, str]:
        """Return every user's id by e-mail."""
        return {user.user_name: user.id for user in self.storage.of("User")}

    def group_id(self, name: str) -> str:
        """Return the id of a group."""
        return next(str(group.id) for group in self.storage.of("Group") if group.display_name == name)

    def members(self, group: str) -> set[str]:
        """Return the ids of a group's members."""
        return self.everything()[group]

    def people(self, group: str) -> set[str]:
        """Return the e-mails of a group's user members."""
        emails = {identifier: email for email, identifier in self.emails().items()}
        return {emails[member] for member in self.members(group) if member in emails}

    def everything(self) -> dict[str, set[str]]:
        """Return the ids of the members of every group, by its name."""
        return {
            group.display_name: {member.value for member in group.members or []} for group in self.storage.of("Group")
        }

    @property
    def writes(self) -> list[Request]:
        return [request for request in self.log if request.method != "GET"]

    # Serving

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        request = Request(
            environ["REQUEST_METHOD"],
            environ["PATH_INFO"].removeprefix(ROOT),
            parse_qs(environ.get("QUERY_STRING", "")),
            json.loads(body) if body else None,
            environ.get("HTTP_AUTHORIZATION", ""),
        )
        with self._lock:
            number = len(self.log)
            self.log.append(request)
        fault = self.behaviour.faults.get(number)
        if fault is None and self.behaviour.faults_from and number >= self.behaviour.faults_from[0]:
            fault = self.behaviour.faults_from[1]
        if fault == "connection dropped before":
            _drop(environ)
        status, headers, answer = self._fault(fault, request) or self._served(environ, request, body)
        if fault == "connection dropped after":
            _drop(environ)
        if fault == "no answer in time":
            time.sleep(self.behaviour.slow)
        request.status = status
        start_response(f"{status} -", [*headers.items(), ("Content-Length", str(len(answer)))])
        return [answer]

    def _fault(self, fault: str | None, request: Request) -> tuple[int, dict[str, str], bytes] | None:
        """Return the answer of a fault that has one."""
        if self.behaviour.intercept and (answer := self.behaviour.intercept(request)):
            return answer[0], _SCIM | answer[1], json.dumps(answer[2]).encode()
        soon = format_datetime(datetime.now(UTC) + timedelta(seconds=0.1), usegmt=True)
        error = json.dumps({"schemas": ["urn:ietf:params:scim:api:messages:2.0:Error"], "detail": f"a fault: {fault}"})
        nothing = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:ListResponse"], "totalResults": 0}
        match fault:
            case "429 with seconds":
                return 429, _SCIM | {"Retry-After": "0"}, error.encode()
            case "429 with a date":
                return 429, _SCIM | {"Retry-After": soon}, error.encode()
            case "409" | "500" | "503":
                return int(fault), _SCIM, error.encode()
            case "a log-in page":
                return 200, {"Content-Type": "text/html"}, b"<html>Log in</html>"
            case "empty list" if request.method == "GET" and request.path in {"/Users", "/Groups"}:
                return 200, _SCIM, json.dumps(nothing).encode()
        return None

    def _served(self, environ: dict[str, Any], request: Request, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Return what the SCIM server answers, as Databricks would put it."""
        if environ.get("HTTP_AUTHORIZATION") != f"Bearer {TOKEN}":
            return _error(401, "Invalid access token.")
        path = environ["PATH_INFO"]
        for root in (ROOT, ACCOUNT_ROOT, ACCOUNT_IN_WORKSPACE_ROOT):
            if path.startswith(f"{root}/"):
                path = path.removeprefix(root)
                break
        else:
            return 404, {"Content-Type": "application/json"}, b'{"error_code": "ENDPOINT_NOT_FOUND"}'
        if request.method != "GET" and (not self.behaviour.admin or root == ACCOUNT_IN_WORKSPACE_ROOT):
            return _error(403, "Only administrators may do this.")
        storage = self.storage if root == ROOT else self.account
        if path == "/Me":
            return self._me() if self.behaviour.me and root == ROOT else _error(404, "no such endpoint")
        if request.method == "GET" and self._before.get(path, (0, b""))[0] > 0:
            left, answer = self._before[path]
            self._before[path] = (left - 1, answer)
            return 200, _SCIM, answer
        if request.method == "PATCH":
            if refusal := self._refused_change(storage, path.rpartition("/")[2], request):
                return refusal
            if self.behaviour.lag and path not in self._before:
                self._before[path] = (self.behaviour.lag, self._call(storage, environ, path, "GET", b"")[2])
        status, headers, answer = self._call(storage, environ, path, request.method, body)
        if request.method == "POST" and path == "/Users" and status == 201 and self.behaviour.slow_users:
            storage.not_yet[json.loads(answer)["id"]] = self.behaviour.slow_users
        return status, headers, answer

    def _refused_change(
        self, storage: _Storage, group_id: str, request: Request
    ) -> tuple[int, dict[str, str], bytes] | None:
        """Return the answer to a change that Databricks refuses."""
        group = next((group for group in storage.of("Group") if group.id == group_id), None)
        if group is None:
            return None
        if group.external_id:
            return _error(500, "Error in performing the patch operation on group resource.")
        if group_id in storage.account_groups:
            return _error(400, "Members attribute not supported for current workspace.")
        present = {member.value for member in group.members or []}
        asked = [one["path"].split('"')[1] for one in request.body["Operations"] if one["op"] == "remove"]
        missing = [identifier for identifier in asked if identifier not in present]
        if self.behaviour.strict and missing:
            return _error(400, f"no member {missing}", scimType="noTarget")
        return None

    def _call(
        self, storage: _Storage, environ: dict[str, Any], path: str, method: str, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """Call the SCIM application and return its answer."""
        got: dict[str, Any] = {}
        inner = environ | {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": ROOT.removesuffix("/v2"),  # the application adds the version itself
            "PATH_INFO": path,
            "wsgi.input": io.BytesIO(body),
            "CONTENT_LENGTH": str(len(body)),
        }
        app = self._application(storage, self.behaviour.page)
        answer = b"".join(
            app(inner, lambda status, headers, exc=None: got.update(status=status, headers=dict(headers)))
        )
        headers = {name: value for name, value in got["headers"].items() if name.lower() != "content-length"}
        return int(got["status"][:3]), headers, self._as_databricks(storage, answer)

    def _application(self, storage: _Storage, page: int) -> BearerTokenApplication:
        key = (id(storage), page)
        if key not in self._applications:
            self._applications[key] = BearerTokenApplication(storage, _provider(page), bearer_tokens=[TOKEN])
        return self._applications[key]

    def _as_databricks(self, storage: _Storage, answer: bytes) -> bytes:
        """Return an answer with Databricks' `$ref` and `meta`, and only what the token may see."""
        if not answer:
            return answer
        data = json.loads(answer)
        for resource in data.get("Resources") or [data]:
            if "displayName" in resource and not self.behaviour.plain:
                is_account = storage is self.account or resource["id"] in storage.account_groups
                resource["meta"] = {"resourceType": "Group" if is_account else "WorkspaceGroup"}
            for member in resource.get("members") or []:
                identifier = member["value"]
                member["$ref"] = f"{storage.kind(identifier) or 'Users'}/{identifier}"
                if identifier in storage.service_principals:
                    member["display"] = storage.service_principals[identifier]
            if resource.get("id") in storage.names:
                resource["userName"] = storage.names[resource["id"]]
            if not self.behaviour.admin:
                resource.pop("members", None)
                resource.pop("userName", None)
        return json.dumps(data).encode()

    def _me(self) -> tuple[int, dict[str, str], bytes]:
        groups = [{"display": "admins", "type": "direct"}] if self.behaviour.admin else []
        data = {"id": self.admin, "userName": ADMIN, "groups": groups}
        return 200, {"Content-Type": "application/scim+json"}, json.dumps(data).encode()


def _error(status: int, detail: str, **more: str) -> tuple[int, dict[str, str], bytes]:
    """Return a SCIM error (RFC 7644, 3.12)."""
    error = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:Error"], "status": str(status), "detail": detail}
    return status, _SCIM, json.dumps(error | more).encode()


class _Handler(WSGIRequestHandler):
    disable_nagle_algorithm = True  # else a kept connection waits 40 ms between head and body

    def log(self, *_: Any) -> None:
        """Log nothing; `DatabricksWorkspace.log` holds the requests."""


def _drop(environ: dict[str, Any]) -> None:
    """Break the connection under the request."""
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionAbortedError
