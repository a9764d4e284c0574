"""A client for the SCIM API of a Databricks workspace or account: users, groups and their members.

Formats: SCIM 2.0, RFC 7643 (resources) and RFC 7644 (protocol), as Databricks serves them:
https://docs.databricks.com/api/workspace/groups and https://docs.databricks.com/api/account/accountgroups.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import urlsplit

import requests
from pydantic import SecretStr
from urllib3.exceptions import ConnectTimeoutError, HTTPError, ProxyError, ReadTimeoutError, SSLError
from urllib3.util.retry import Retry

from biocloud_assets.errors import BiocloudError

PAGE = 1_000  # resources requested at once; a server may return fewer
CHUNK = 100  # members changed by one PATCH; a workspace times out on much larger bodies
ATTEMPTS = 5  # how often a request is sent if there is another fault than throttling
LONGEST_WAIT = 60.0  # seconds before one retry, also if `Retry-After` asks for more

_ORIGIN = r"(https://[\w.-]+|http://(localhost|127(\.\d+){3}|\[::1\]))(:\d+)?"
_SCHEMA = "urn:ietf:params:scim:schemas:core:2.0:"
_PATCH_SCHEMA = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
_STATUS_HINTS = {
    400: "The server refuses the content of this request; fix what it names.",
    401: "The token is wrong or has expired; create a new one.",
    403: "The owner of the token must be an administrator of the workspace, or of the account for the account API.",
    404: "Check the host and the account ID; a group may also have been deleted in the meantime.",
    409: "It may exist under a name in another case, or in the account but not in the workspace.",
    429: "The server limits the rate of requests; run again later.",
    500: "The server failed; run again later. A group that an identity provider manages can also be the cause.",
}
_CONNECTION_HINTS: dict[type[Exception], str] = {
    SSLError: "Check the certificates of this machine, and whether a proxy replaces the server's.",
    ProxyError: "Check the proxy that the environment names.",
    ConnectTimeoutError: "Check the host, and that this machine can reach it.",
    ReadTimeoutError: "The server is too slow; the request may have been carried out. Run again later.",
    Exception: "The connection broke; the request may have been carried out. Run again.",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How long a request is retried, and how long a change may take until it can be read.

    Attributes:
        total: seconds for which one request is retried.
        visible: seconds that a change, or a user that exists, may take until it can be read.
        backoff: seconds before the second retry, with jitter; the first follows at once, and waits double.
        timeout: seconds to connect, and seconds without a byte of the answer.
    """

    total: float = 120.0
    visible: float = 30.0
    backoff: float = 0.5
    timeout: tuple[float, float] = (10.0, 60.0)


POLICY = RetryPolicy()


class User(NamedTuple):
    """A user (RFC 7643, 4.1).

    Attributes:
        name: the userName, in lower case.
        id: the server's identifier.
        emails: the e-mails, in lower case.
        active: False if the user is deactivated.
    """

    name: str
    id: str
    emails: frozenset[str] = frozenset()
    active: bool = True


class Group(NamedTuple):
    """A group (RFC 7643, 4.2), without its members.

    Attributes:
        name: the displayName.
        id: the server's identifier.
        kind: `account`, or `workspace` for a group that is local to the workspace.
        external: whether an identity provider manages its members: it has an `externalId`.
    """

    name: str
    id: str
    kind: Literal["account", "workspace"]
    external: bool = False


class Member(NamedTuple):
    """A member of a group.

    Attributes:
        id: the server's identifier of the member.
        kind: `user`, `group` or `service principal`.
        name: the display name; empty if the server gives none.
    """

    id: str
    kind: str
    name: str


class ScimError(BiocloudError):
    """The server can't be reached, refuses a request, or answers something unexpected.

    Args:
        thing: the request, `GET /api/2.0/preview/scim/v2/Users`, or the resource.
        expected: what was expected.
        found: what was found; it never has the token.
        hint: what to do.
        status: the HTTP status of the answer; None if there is none. Also an attribute of the error.
    """

    def __init__(self, thing: str, expected: str, found: str, hint: str, status: int | None = None) -> None:
        super().__init__(thing, expected=expected, found=found.rstrip(". "), hint=hint)
        self.status = status


class _Retry(Retry):
    """urllib3's `Retry` with a limit on the total time, and one log line for each wait."""

    total_time, deadline = 0.0, 0.0

    def new(self, **options: Any) -> Self:
        new = super().new(**options)
        new.total_time, new.deadline = self.total_time, self.deadline or time.monotonic() + self.total_time
        return new

    def is_retry(self, method: str, status_code: int, has_retry_after: bool = False) -> bool:
        if status_code in {429, 503}:
            return True
        # 409 on a POST means that the resource exists; on a PATCH, that another change of the group is in progress.
        passing = status_code in {500, 502, 504} or (status_code == 409 and method == "PATCH")
        return passing and len(self.history) < ATTEMPTS - 1

    def is_exhausted(self) -> bool:
        return super().is_exhausted() or time.monotonic() >= self.deadline

    def sleep(self, response: Any = None) -> None:
        try:
            wait = self.get_retry_after(response) if response is not None else None
        except (HTTPError, ValueError, OverflowError):
            wait = None  # neither seconds nor a date
        wait = max(0.0, min(wait or self.get_backoff_time(), LONGEST_WAIT, self.deadline - time.monotonic()))
        last = self.history[-1]
        reason = f"HTTP {last.status}" if last.status else type(last.error).__name__
        log.warning("%s %s: %s, retrying in %.1f s", last.method, urlsplit(last.url or "").path, reason, wait)
        time.sleep(wait)


def bearer(token: str | SecretStr) -> dict[str, str]:
    """Return the headers that carry a token.

    Args:
        token: the token; spaces around it are removed.
    """
    text = token.get_secret_value() if isinstance(token, SecretStr) else token
    return {"Authorization": f"Bearer {text.strip()}"}


def scim_root(host: str, account_id: str = "") -> str:
    """Return the URL of the SCIM API of a workspace, or of an account.

    Args:
        host: as `https://adb-1234.5.azuredatabricks.net`, or for an account `https://accounts.cloud.databricks.com`;
            https if there is no scheme.
        account_id: the ID of the account; empty for the workspace.

    Raises:
        BiocloudError: not https (http is allowed on loopback), or with credentials, a path or a query.
    """
    url = (host.strip() if "://" in host else f"https://{host.strip()}").removesuffix("/")
    _check_url(url, path="")
    return f"{url}/api/2.0/accounts/{account_id}/scim/v2" if account_id else f"{url}/api/2.0/preview/scim/v2"


def _check_url(url: str, path: str = "/.*") -> None:
    """Raise BiocloudError if the token may not be sent to a URL."""
    if not re.fullmatch(_ORIGIN + path, url, re.ASCII | re.IGNORECASE):
        raise BiocloudError(
            "the workspace's host",
            expected="an https:// address (http:// only on loopback), without credentials, path or query",
            found=repr(re.sub("//.*@", "//[credentials]@", url)),
            hint="Fix DATABRICKS_HOST_TEST or DATABRICKS_HOST_PROD, as https://adb-1234.5.azuredatabricks.net.",
        )


class ScimClient:
    """One SCIM API and one token, over one connection. Use it in a `with` statement.

    Every method that sends a request raises ScimError if the server can't be reached, refuses it, or answers something
    unexpected.

    Args:
        headers: the headers that carry the token, as of `bearer`.
        groups_api: the URL of the groups, `…/scim/v2/Groups`.
        users_api: the URL of the users, `…/scim/v2/Users`.
        policy: how long to retry and to wait.

    Raises:
        BiocloudError: the token may not be sent to a URL, is empty, or holds a character that a header can't.
    """

    def __init__(
        self,
        headers: Mapping[str, str],
        groups_api: str = "",
        users_api: str = "",
        policy: RetryPolicy = POLICY,
    ) -> None:
        self.groups_api, self.users_api, self.policy = groups_api.rstrip("/"), users_api.rstrip("/"), policy
        for url in filter(None, (self.groups_api, self.users_api)):
            _check_url(url)
        authorization = next((value for name, value in headers.items() if name.lower() == "authorization"), "")
        self._secrets = [text for text in (authorization, authorization.partition(" ")[2]) if text]
        # Checked here, as http.client would show the value in its exception.
        if not all(value.isascii() and value.isprintable() and value.strip() != "Bearer" for value in headers.values()):
            found = "nothing, or another character (the token is not shown)"
            expected = "printable ASCII characters in one line"
            raise BiocloudError("the token", expected=expected, found=found, hint="Copy the token again.")
        self.is_account = "/api/2.0/accounts/" in self.groups_api
        retry = _Retry(
            None, ATTEMPTS - 1, ATTEMPTS - 1, other=0, allowed_methods=None, raise_on_status=False,
            backoff_factor=policy.backoff, backoff_jitter=policy.backoff, backoff_max=LONGEST_WAIT,
        )  # fmt: skip
        retry.total_time = policy.total
        self._session = requests.Session()

        def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
            request.headers.update(headers)
            return request

        self._session.auth = authorize  # not in the session's headers, which requests lets `~/.netrc` override
        self._session.headers["Accept"] = "application/scim+json, application/json"
        # http is loopback, and a proxy could read the token there. For https, the environment's proxies are used.
        self._session.trust_env = not (groups_api or users_api).lower().startswith("http://")
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def token_owner(self) -> tuple[str, bool]:
        """Return the id of the token's owner and whether they are an administrator; ("", True) if the API can't say.

        An account has no documented request for this (https://github.com/databricks/databricks-sdk-py/issues/609, of
        databricks-sdk 0.60; check again at version 1), so nobody is protected as the owner of the token there. A server
        whose `Me` answers 404, 405 or 501 is treated in the same way.
        """
        try:
            data = {} if self.is_account else self._request("GET", self.groups_api.removesuffix("Groups") + "Me")
        except ScimError as error:
            if error.status not in {404, 405, 501}:
                raise
            data = {}
        is_admin = not data or any(group.get("display") == "admins" for group in data.get("groups") or [])
        return str(data.get("id", "")), is_admin

    def users(self) -> list[User]:
        """Return every user that has a userName: a token that isn't an administrator's sees users without."""
        found = []
        for data in self._pages(self.users_api, {"attributes": "id,userName,emails,active"}):
            if name := str(data.get("userName") or "").lower():
                emails = frozenset(str(email.get("value", "")).lower() for email in data.get("emails") or [])
                found.append(User(name, str(data["id"]), emails, data.get("active") is not False))
        return found

    def groups(self) -> list[Group]:
        """Return every group, without members: Databricks leaves them out of lists."""
        groups = self._pages(self.groups_api, {"attributes": "id,displayName,meta,externalId"})
        metas = [data.get("meta") or {} for data in groups]
        # Other SCIM servers call every group `Group` (RFC 7643, 3.1) and give its location, which Databricks doesn't.
        databricks = any("location" not in meta or meta.get("resourceType") == "WorkspaceGroup" for meta in metas)
        found = []
        for data, meta in zip(groups, metas, strict=True):
            is_account = self.is_account or (databricks and meta.get("resourceType") == "Group")
            kind: Literal["account", "workspace"] = "account" if is_account else "workspace"
            found.append(Group(str(data.get("displayName", "")), str(data["id"]), kind, bool(data.get("externalId"))))
        return found

    def is_account_group(self, name: str) -> bool:
        """Whether the account of this workspace has a group of this name; False if the workspace can't say.

        Args:
            name: the group's name, which is compared exactly.
        """
        url = self.groups_api.replace("/preview/scim/v2/", "/account/scim/v2/")
        try:
            return url != self.groups_api and self.find(url, "displayName", name) is not None
        except ScimError as error:
            if error.status in {400, 403, 404, 405, 501}:
                return False
            raise

    def find(self, url: str, attribute: str, value: str) -> str | None:
        """Return the id of the one group of exactly this name, or of the one user of this userName in any case.

        The value is quoted as JSON (RFC 7644, 3.4.2.2). The result is compared again: filters ignore case, and a
        server may read a filter in its own way.

        Args:
            url: the URL of the groups or of the users.
            attribute: `displayName` or `userName`.
            value: the name that is looked for.

        Returns:
            the id; None if there is none.

        Raises:
            ScimError: several resources have the value.
        """
        query = {"filter": f"{attribute} eq {json.dumps(value, ensure_ascii=False)}", "attributes": f"id,{attribute}"}
        fold = str.lower if attribute == "userName" else str
        pages = self._pages(url, query)
        found = {str(data["id"]) for data in pages if fold(str(data.get(attribute, ""))) == fold(value)}
        if len(found) > 1:
            several = f"several, with the ids {', '.join(sorted(found))}"
            raise ScimError(f"{attribute} {value!r}", "one resource", several, "Rename or delete all but one of them.")
        return found.pop() if found else None

    def members(self, group_id: str) -> list[Member]:
        """Return the direct members of a group, of every kind.

        Args:
            group_id: the group's id.
        """
        kinds = {"Groups": "group", "ServicePrincipals": "service principal"}
        found = []
        for data in self._request("GET", f"{self.groups_api}/{group_id}").get("members") or []:
            kind = kinds.get(str(data.get("$ref", "")).rpartition("/")[0].rpartition("/")[2], "user")
            found.append(Member(str(data.get("value", "")), kind, str(data.get("display", ""))))
        return found

    def create_group(self, name: str) -> str:
        """Create a group, or find the one that exists, and return its id.

        Args:
            name: the group's name.
        """
        try:
            return self._create(self.groups_api, "Group", displayName=name)
        except ScimError as error:
            found = self.find(self.groups_api, "displayName", name) if error.status == 409 else None
            if found is None:
                raise
            return found

    def create_users(self, emails: Sequence[str]) -> tuple[dict[str, str], list[str], dict[str, ScimError]]:
        """Create users.

        Args:
            emails: their e-mails, which become the userNames.

        Returns:
            The ids by e-mail, also of users that exist already; the e-mails that were created; the errors by e-mail.
            There is one bounded wait for all users that exist according to the server (409) but aren't found yet.
        """
        ids: dict[str, str] = {}
        failed: dict[str, ScimError] = {}
        for number, email in enumerate(emails, 1):
            try:
                ids[email] = self._create(self.users_api, "User", userName=email)
                log.info("user %s created (%d of %d)", email, number, len(emails))
            except ScimError as error:
                failed[email] = error
                if error.status in {None, 401, 403, 429}:  # the others would fail in the same way
                    failed |= dict.fromkeys(emails[number:], error)
                    break
        created = list(ids)
        pending = [email for email, error in failed.items() if error.status == 409]
        for _ in self._until_visible(f"{len(pending)} users that exist") if pending else ():
            ids |= {email: found for email in pending if (found := self.find(self.users_api, "userName", email))}
            pending = [email for email in pending if email not in ids]
            if not pending:
                break
        return ids, created, {email: error for email, error in failed.items() if email not in ids}

    def change_members(self, group_id: str, add: Sequence[str], remove: Sequence[str]) -> set[str]:
        """Add and remove members by id, wait until the group shows it, and return the ids of all its members.

        A PATCH changes at most `CHUNK` members, and every addition is sent before the first removal, so that a failure
        in between leaves too many members rather than too few.

        Raises:
            ScimError: the server refuses the change, or doesn't show it in time.
        """
        missing, extra, send = list(add), list(remove), True
        for _ in self._until_visible(f"group {group_id}"):
            refusal = None
            try:
                for operations in _operations(missing, extra) if send else ():
                    body = {"schemas": [_PATCH_SCHEMA], "Operations": operations}
                    self._request("PATCH", f"{self.groups_api}/{group_id}", body=body)
            except ScimError as error:
                refusal = _passing(error)
            try:
                present = {member.id for member in self.members(group_id)}
                missing, extra = [one for one in add if one not in present], [one for one in remove if one in present]
                if not missing and not extra:
                    return present
            except ScimError as error:
                refusal = refusal or _passing(error)
            send = refusal is not None  # an accepted change only needs time
        found = f"{len(missing)} members still missing, {len(extra)} not yet removed"
        hint = "The server accepted the change. Run again later."
        raise refusal or ScimError(f"group {group_id}", "the change to be visible when read back", found, hint)

    def _create(self, url: str, resource: str, **attributes: str) -> str:
        return str(self._request("POST", url, body={"schemas": [_SCHEMA + resource], **attributes}).get("id"))

    def _until_visible(self, thing: str) -> Iterator[None]:
        """Yield at once, and again after growing waits until the time for a change to be visible is over."""
        deadline, wait = time.monotonic() + self.policy.visible, self.policy.backoff
        yield
        while time.monotonic() + wait <= deadline:
            log.info("%s: not visible yet, reading again in %.1f s", thing, wait)
            time.sleep(wait)
            wait *= 2
            yield

    def _pages(self, url: str, parameters: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return all resources of a list. It advances by the number received, as a server may return fewer than asked.

        If the list changes meanwhile, a resource may be missed; its user is then neither removed nor created again.
        """
        found: dict[str, dict[str, Any]] = {}
        start: int = 1
        total: Any = 1
        while start <= total:
            data = self._request("GET", url, {**parameters, "startIndex": str(start), "count": str(PAGE)})
            resources, total, known = data.get("Resources") or [], data.get("totalResults"), len(found)
            valid = isinstance(total, int) and all(isinstance(one, dict) and one.get("id") for one in resources)
            if valid:
                found |= {str(resource["id"]): resource for resource in resources}
                start += len(resources)
            if not valid or (start <= total and len(found) == known):
                text = f"{len(found)} of {total} resources" if valid else "no totalResults, or a resource without id"
                hint = "Nothing is changed on the basis of an incomplete list. Run again."
                raise ScimError(f"GET {urlsplit(url).path}", "a complete list", text, hint)
        return list(found.values())

    def _request(
        self, method: str, url: str, parameters: Mapping[str, str] | None = None, *, body: object = None
    ) -> dict[str, Any]:
        """Send one request and return the JSON object of the answer, which a PATCH may not have."""
        thing = f"{method} {urlsplit(url).path}"
        content = {} if body is None else {"Content-Type": "application/scim+json"}
        data = None if body is None else json.dumps(body)
        try:
            response = self._session.request(
                method, url, parameters, data, content, timeout=self.policy.timeout,
                allow_redirects=False,  # a log-in page would come back as 200
            )  # fmt: skip
        except (requests.RequestException, HTTPError, ValueError) as error:
            cause = getattr(error.args[0] if error.args else None, "reason", error)
            hint = next(hint for kind, hint in _CONNECTION_HINTS.items() if isinstance(cause, kind))
            raise ScimError(thing, "an answer", self._redacted(f"{type(cause).__name__}: {cause}"), hint) from None
        status, kind = response.status_code, response.headers.get("Content-Type", "unknown")
        try:
            answer = response.json()
        except ValueError:
            answer = None if "html" in kind else {"message": response.text}
        if not response.ok or response.is_redirect:
            hint = _STATUS_HINTS.get(min(status, 500), "Check that the host is a Databricks workspace or account.")
            found = f"HTTP {status}: {self._redacted(_server_words(answer))}".rstrip(": ")
            raise ScimError(thing, "the server to do it", found, hint, status)
        if method != "PATCH" and (not isinstance(answer, dict) or "json" not in kind):
            hint = "Check that the host is a Databricks workspace, and not a log-in page or a proxy."
            raise ScimError(thing, "a JSON object", f"something else, of type {kind!r}", hint, status)
        return answer if isinstance(answer, dict) else {}

    def _redacted(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[token]")
        return " ".join(text.split())[:500]


def _passing(error: ScimError) -> ScimError:
    """Return the refusal of a PATCH that a later attempt may not meet; raise any other.

    What was just created may not be known everywhere yet, and a member to be removed may have left (`noTarget`).
    """
    if error.status == 404 or "does not exist" in error.found or "noTarget" in error.found:
        return error
    raise error


def _server_words(answer: Any) -> str:
    """Return the reason for a refusal in the server's own words."""
    keys = ("scimType", "error_code", "detail", "message", "response", "error")
    values = [answer.get(key) for key in keys] if isinstance(answer, dict) else []
    return ": ".join(dict.fromkeys(value if isinstance(value, str) else json.dumps(value) for value in values if value))


def _operations(add: Sequence[str], remove: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    """Yield the operations of each PATCH, the additions first.

    A removal names its one member in the path and has no value: `remove` with the path `members` removes everyone
    (RFC 7644, 3.5.2.2).
    """
    changes = [*((True, member) for member in add), *((False, member) for member in remove)]
    for start in range(0, len(changes), CHUNK):
        chunk = changes[start : start + CHUNK]
        added = [{"value": member} for is_added, member in chunk if is_added]
        removed = [f"members[value eq {json.dumps(member)}]" for is_added, member in chunk if not is_added]
        operations = [{"op": "remove", "path": path} for path in removed]
        yield [{"op": "add", "path": "members", "value": added}, *operations] if added else operations
