"""A Databricks workspace, spoken to over its SCIM API.

What belongs here: requests and answers, with their retries, pages, quoting and the token's safety. What doesn't: who
should be a member of what, which is decided in `sync_groups.py`.

Formats: SCIM 2.0, RFC 7643 (resources) and RFC 7644 (protocol), as Databricks serves them below
`/api/2.0/preview/scim/v2`: https://docs.databricks.com/api/workspace/groups and /users.
"""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import requests
from pydantic import SecretStr
from requests.auth import AuthBase
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from biocloud_assets.errors import BiocloudError

SCIM_PATH = "/api/2.0/preview/scim/v2"
PAGE = 1_000  # resources asked for at once; a server may give fewer
CHUNK = 100  # members changed by one PATCH; larger bodies make the workspace time out

_USER_SCHEMA = "urn:ietf:params:scim:schemas:core:2.0:User"
_GROUP_SCHEMA = "urn:ietf:params:scim:schemas:core:2.0:Group"
_PATCH_SCHEMA = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
_KINDS = {"Users": "user", "Groups": "group", "ServicePrincipals": "service principal"}

Kind = Literal["user", "group", "service principal", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long the workspace is waited for.

    Attributes:
        attempts: how often one request is sent at the most.
        reads: how often a change is read back at the most, until it shows.
        first_wait: seconds before the second attempt; it doubles with each.
        longest_wait: seconds; the bound of one wait, whatever `Retry-After` asks for.
        connect_timeout: seconds.
        read_timeout: seconds without a byte of the answer.
    """

    attempts: int = 5
    reads: int = 7
    first_wait: float = 0.5
    longest_wait: float = 60.0
    connect_timeout: float = 10.0
    read_timeout: float = 60.0


@dataclass(frozen=True)
class Member:
    """A member of a group as the workspace tells of it: its id, what it is, and its display name."""

    id: str
    kind: Kind
    name: str


@dataclass(frozen=True)
class Identity:
    """Whose token it is: the id, the name, and whether it is an administrator's."""

    id: str
    name: str
    admin: bool


class ScimError(BiocloudError):
    """The workspace can't be reached, or answered with something else than expected.

    `status` is the HTTP status of the answer, None where there was none.
    """

    def __init__(self, thing: str, *, expected: str, found: str, hint: str, status: int | None = None) -> None:
        super().__init__(thing, expected=expected, found=found, hint=hint)
        self.status = status


class _TryAgainError(Exception):
    """A fault that may be over by the next attempt. It never leaves this module."""

    def __init__(self, found: str, status: int | None = None, wait: float | None = None) -> None:
        super().__init__(found)
        self.found, self.status, self.wait = found, status, wait


class _Authorization(AuthBase):
    """Sets the headers that hold the token.

    An auth object and not the session's headers: requests lets `~/.netrc` override those. It also keeps the token out
    of the session's `repr`.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = dict(headers)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.update(self._headers)
        return request


def bearer(token: str | SecretStr) -> dict[str, str]:
    """Return the headers that carry a token.

    Raises:
        BiocloudError: the token is empty.
    """
    text = (token.get_secret_value() if isinstance(token, SecretStr) else token).strip()
    if not text:
        raise BiocloudError("the token", expected="a token", found="nothing", hint="Set it for this environment.")
    return {"Authorization": f"Bearer {text}"}


def scim_root(host: str) -> str:
    """Return the address of a workspace's SCIM API.

    Args:
        host: the workspace, as `https://adb-1234.5.azuredatabricks.net`; without a scheme, https is meant.

    Raises:
        BiocloudError: it is not https (http is allowed on loopback), or has a user, a path or a query.
    """
    address = host.strip() if "://" in host else f"https://{host.strip()}"
    address = address.removesuffix("/")
    if urlsplit(address).path or urlsplit(address).query or urlsplit(address).fragment:
        raise BiocloudError(
            "the workspace's host",
            expected="an address without a path, as https://adb-1234.5.azuredatabricks.net",
            found=f"the path {urlsplit(address).path!r}",
            hint="Set it to what stands in the browser before the first single slash.",
        )
    _check_address(address)
    return address + SCIM_PATH


def _is_loopback(hostname: str) -> bool:
    """Whether a host is this very machine, by its name or address alone."""
    try:
        return hostname == "localhost" or ipaddress.ip_address(hostname).is_loopback
    except ValueError:
        return False


def _check_address(url: str) -> None:
    """Refuse an address to which the token may not be sent.

    Raises:
        BiocloudError: neither https nor loopback, or with credentials.
    """
    try:
        parts = urlsplit(url)
        hostname = parts.hostname or ""
        _ = parts.port
    except ValueError:
        parts, hostname = urlsplit(""), ""
    if parts.username is not None or parts.password is not None:
        found = "credentials inside the address"  # which are not shown
    elif not hostname or parts.netloc.endswith(":"):
        found = "no host name, or no port after the colon"
    elif parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(hostname)):
        return
    else:
        found = f"{parts.scheme}://{hostname}"
    raise BiocloudError(
        "the workspace's host",
        expected="an https:// address (http:// only on loopback), without credentials",
        found=found,
        hint="Mend DATABRICKS_HOST_TEST or DATABRICKS_HOST_PROD; over anything else the token could be read.",
    )


class Workspace:
    """One workspace and one token, over one connection. Use it in a `with`.

    Args:
        headers: those that carry the token, as of `bearer`.
        groups_api: the address of the groups, `…/scim/v2/Groups`.
        users_api: the address of the users, `…/scim/v2/Users`.
        patience: how long it is waited for.

    Raises:
        BiocloudError: the token holds a character that can't be in a header.
    """

    def __init__(
        self,
        headers: Mapping[str, str],
        *,
        groups_api: str = "",
        users_api: str = "",
        patience: Patience | None = None,
    ) -> None:
        for value in headers.values():
            # http.client would show the value in its exception.
            if not (value.isascii() and value.isprintable()):
                raise BiocloudError(
                    "the token",
                    expected="printable ASCII characters in one line",
                    found="another character (the token is not shown)",
                    hint="Copy the token again.",
                )
        self.groups_api, self.users_api = groups_api.rstrip("/"), users_api.rstrip("/")
        self.patience = patience or Patience()
        authorization = next((value for name, value in headers.items() if name.lower() == "authorization"), "")
        self._secrets = [text for text in (authorization, authorization.partition(" ")[2]) if text]
        self._session = requests.Session()
        self._session.auth = _Authorization(headers)
        self._session.headers["Accept"] = "application/scim+json, application/json"

    @classmethod
    def at(cls, host: str, token: str | SecretStr, *, patience: Patience | None = None) -> Workspace:
        """Return the workspace at an address.

        Raises:
            BiocloudError: the address or the token can't be used.
        """
        root = scim_root(host)
        return cls(bearer(token), groups_api=f"{root}/Groups", users_api=f"{root}/Users", patience=patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    # Reading

    def me(self) -> Identity | None:
        """Return whose token it is; None where the server has no `/Me`.

        Raises:
            ScimError: the workspace can't be reached, or refuses the token.
        """
        url = f"{self.groups_api.rpartition('/')[0]}/Me"
        response = self._send("GET", url)
        if response.status_code in {404, 405, 501}:
            return None
        data = self._object(response)
        groups = {str(group.get("display", "")) for group in data.get("groups") or []}
        return Identity(str(data.get("id", "")), str(data.get("userName", "")), admin="admins" in groups)

    def users(self) -> dict[str, str]:
        """Return the id of every user by e-mail, in small letters.

        Raises:
            ScimError: the workspace can't be reached, or its answer is incomplete.
        """
        found: dict[str, str] = {}
        for user in self._pages(self.users_api, {"attributes": "id,userName"}):
            email, identifier = str(user.get("userName", "")).lower(), str(user["id"])
            if not email:
                continue  # all that a token sees that isn't an administrator's; such a user can't be resolved
            if found.setdefault(email, identifier) != identifier:
                raise self._ambiguous("user", email)
        return found

    def groups(self) -> dict[str, list[str]]:
        """Return the ids of every group by name. More than one id for a name is for the caller to judge.

        Raises:
            ScimError: the workspace can't be reached, or its answer is incomplete.
        """
        found: dict[str, list[str]] = {}
        for group in self._pages(self.groups_api, {"attributes": "id,displayName"}):
            found.setdefault(str(group.get("displayName", "")), []).append(str(group["id"]))
        return found

    def group_id(self, name: str) -> str | None:
        """Return the id of the one group that has exactly this name.

        Raises:
            ScimError: the workspace can't be reached, or several groups have the name.
        """
        return self._find(self.groups_api, "displayName", name)

    def user_id(self, email: str) -> str | None:
        """Return the id of the one user that has this e-mail, in whatever case.

        Raises:
            ScimError: the workspace can't be reached, or several users have the e-mail.
        """
        return self._find(self.users_api, "userName", email)

    def members(self, group_id: str) -> tuple[Member, ...]:
        """Return the direct members of a group, of every kind.

        Raises:
            ScimError: the workspace can't be reached, or there is no such group.
        """
        # Not from the list of groups: there Databricks leaves the members out, or times out with many.
        data = self._object(self._send("GET", f"{self.groups_api}/{group_id}"))
        return tuple(_member(member) for member in data.get("members") or [])

    # Writing

    def create_user(self, email: str) -> str | None:
        """Create a user, or find the one who is there already.

        Returns:
            The id; None where the workspace doesn't take this e-mail (HTTP 400).

        Raises:
            ScimError: the workspace can't be reached, or refuses to create users.
        """
        response = self._send("POST", self.users_api, body={"schemas": [_USER_SCHEMA], "userName": email})
        if response.status_code == 400:
            return None
        return self._created(response, self.users_api, "userName", email)

    def create_group(self, name: str) -> str:
        """Create a group, or find the one that is there already, and return its id.

        Raises:
            ScimError: the workspace can't be reached, or refuses the group.
        """
        response = self._send("POST", self.groups_api, body={"schemas": [_GROUP_SCHEMA], "displayName": name})
        return self._created(response, self.groups_api, "displayName", name)

    def change_members(self, group_id: str, *, add: Sequence[str], remove: Sequence[str]) -> set[str]:
        """Add and remove members by id, wait until the group shows it, and return the ids of all its members.

        One PATCH, or several of `CHUNK` members where there are more; every addition comes before the first removal,
        so that a fault in between leaves too many members rather than too few.

        Raises:
            ScimError: the workspace can't be reached or refuses the change, or doesn't show it in time.
        """
        refusal: ScimError | None = None
        send = True
        missing, extra = list(add), list(remove)
        for wait in self._waits():
            if send:
                refusal = self._patch(group_id, missing, extra)
            present = self._present(group_id)
            if present is not None:
                missing = [member for member in add if member not in present]
                extra = [member for member in remove if member in present]
                if not missing and not extra:
                    return present
            # What was accepted only needs time to show. What was refused is asked for again, less what is done: a user
            # or group just created may not be known everywhere yet, and a member may have gone in the meantime.
            send = refusal is not None
            time.sleep(wait)
        raise refusal or ScimError(
            f"group {group_id}",
            expected="the change to show when read back",
            found=f"{len(missing)} members still missing, {len(extra)} not yet removed",
            hint="The workspace accepted the change. Run again later, and compare with the check by curl in the docs.",
        )

    # The parts of the above

    def _patch(self, group_id: str, add: Sequence[str], remove: Sequence[str]) -> ScimError | None:
        """Send a change of members; return the refusal that may pass (HTTP 400 or 404), raise any other."""
        for operations in _operations(add, remove):
            body = {"schemas": [_PATCH_SCHEMA], "Operations": operations}
            response = self._send("PATCH", f"{self.groups_api}/{group_id}", body=body)
            if response.status_code in {400, 404}:
                return self._refused(response)
            if not response.ok:
                raise self._refused(response)
        return None

    def _present(self, group_id: str) -> set[str] | None:
        """Return the ids of a group's members; None where there is no group: just created, or gone meanwhile."""
        try:
            return {member.id for member in self.members(group_id)}
        except ScimError as error:
            if error.status == 404:
                return None
            raise

    def _created(self, response: requests.Response, url: str, attribute: str, value: str) -> str:
        """Return the id of what a POST created, or of what was there already (HTTP 409)."""
        if response.ok:
            try:
                return str(self._object(response)["id"])
            except (ScimError, KeyError):
                pass  # created, but the answer got lost: it is looked up
        elif response.status_code != 409:
            raise self._refused(response)
        for wait in self._waits():
            found = self._find(url, attribute, value)
            if found is not None:
                return found
            time.sleep(wait)
        raise ScimError(
            f"{attribute} {value!r}",
            expected="to be found, as the workspace says that it exists",
            found="nothing of exactly that name",
            hint="Something may have the name in another case, or exist in the account but not in the workspace.",
            status=409,
        )

    def _waits(self) -> Iterator[float]:
        """Yield the seconds to wait after each reading back."""
        for attempt in range(self.patience.reads):
            last = attempt == self.patience.reads - 1
            yield 0.0 if last else min(self.patience.first_wait * 2**attempt, self.patience.longest_wait)

    def _find(self, url: str, attribute: str, value: str) -> str | None:
        """Return the id of the one resource whose attribute has this value.

        The value is quoted as JSON, as RFC 7644 says in 3.4.2.2. Filters compare without regard to case, and a server
        may read a filter its own way, so the answer is compared again: a group's name exactly, a user's without case.
        """
        query = f"{attribute} eq {json.dumps(value, ensure_ascii=False)}"

        def plain(text: str) -> str:
            return text.lower() if attribute == "userName" else text

        found = {
            str(resource["id"])
            for resource in self._pages(url, {"filter": query, "attributes": f"id,{attribute}"})
            if plain(str(resource.get(attribute, ""))) == plain(value)
        }
        if len(found) > 1:
            raise self._ambiguous(attribute, value)
        return found.pop() if found else None

    def _pages(self, url: str, parameters: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return all resources of a list.

        It advances by what was received: a server may give fewer than asked for. A resource may come twice and another
        be missed where the list changes meanwhile; that is safe, as who is missed is neither removed nor created anew.
        """
        found: dict[str, dict[str, Any]] = {}
        start, total = 1, 1
        while start <= total:
            data = self._object(self._send("GET", url, {**parameters, "startIndex": str(start), "count": str(PAGE)}))
            resources, told, known = data.get("Resources") or [], data.get("totalResults"), len(found)
            if not isinstance(told, int) or not all(isinstance(one, dict) and one.get("id") for one in resources):
                raise self._incomplete(url, "a list without totalResults, or a resource without an id")
            found.update({str(resource["id"]): resource for resource in resources})
            start, total = start + len(resources), told
            if start <= total and len(found) == known:
                raise self._incomplete(url, f"{len(found)} of {total} resources, and a page with none that is new")
        return list(found.values())

    def _send(
        self, method: str, url: str, parameters: Mapping[str, str] | None = None, *, body: object = None
    ) -> requests.Response:
        """Send one request, again where a fault may pass, and return the answer, whatever its status.

        Raises:
            BiocloudError: the address is neither https nor loopback.
            ScimError: no answer, or the fault didn't pass within the attempts.
        """
        _check_address(url)
        try:
            for attempt in Retrying(
                stop=stop_after_attempt(self.patience.attempts),
                wait=self._wait,
                retry=retry_if_exception_type(_TryAgainError),
                reraise=True,
            ):
                with attempt:
                    return self._send_once(method, url, parameters, body)
        except _TryAgainError as error:
            raise ScimError(
                f"{method} {urlsplit(url).path}",
                expected="an answer",
                found=f"{error.found}, {self.patience.attempts} times",
                hint="What was asked may have been done. Check that the workspace is up, and run again.",
                status=error.status,
            ) from None
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _wait(self, state: RetryCallState) -> float:
        """Return the seconds before the next attempt: what `Retry-After` asks for, else longer each time."""
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, _TryAgainError) and error.wait is not None:
            return min(error.wait, self.patience.longest_wait)
        backoff = wait_random_exponential(multiplier=self.patience.first_wait, max=self.patience.longest_wait)
        return backoff(state)

    def _send_once(
        self, method: str, url: str, parameters: Mapping[str, str] | None, body: object
    ) -> requests.Response:
        """Send one request once.

        Raises:
            _TryAgainError: a fault that may pass.
            ScimError: one that doesn't.
        """
        # On loopback no proxy: over plain http it would read the token. Elsewhere the proxies, and the certificates,
        # that the environment names are used.
        self._session.trust_env = not _is_loopback(urlsplit(url).hostname or "")
        try:
            response = self._session.request(
                method,
                url,
                params=parameters,
                data=None if body is None else json.dumps(body),
                headers={} if body is None else {"Content-Type": "application/scim+json"},
                timeout=(self.patience.connect_timeout, self.patience.read_timeout),
                allow_redirects=False,  # an API doesn't move; a log-in page would come back as 200
            )
        except requests.exceptions.SSLError as error:
            raise self._failed(method, url, error) from None
        except requests.Timeout:
            raise _TryAgainError("no answer in time") from None
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            raise _TryAgainError(f"a broken connection ({self._without_secrets(str(error))})") from None
        except (requests.RequestException, ValueError) as error:
            raise self._failed(method, url, error) from None
        status = response.status_code
        # 409 on a POST says that the thing exists; on a PATCH, that another change was under way. 501 won't pass.
        if status == 429 or (status >= 500 and status != 501) or (status == 409 and method == "PATCH"):
            found = f"HTTP {status}{self._detail(response)}"
            raise _TryAgainError(found, status, _retry_after(response.headers.get("Retry-After")))
        return response

    def _object(self, response: requests.Response) -> dict[str, Any]:
        """Return the JSON object of an answer.

        Raises:
            ScimError: a refusal, or not a JSON object.
        """
        if not response.ok or response.is_redirect:
            raise self._refused(response)
        try:
            data = response.json()
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise ScimError(
                f"{response.request.method} {urlsplit(response.url).path}",
                expected="a JSON object",
                found=f"something else, of type {response.headers.get('Content-Type', 'unknown')!r}",
                hint="Check that the host is a Databricks workspace, and not a log-in page or a proxy.",
                status=response.status_code,
            )
        return data

    def _refused(self, response: requests.Response) -> ScimError:
        """Return the error for an answer that says no."""
        hints = {
            401: "The token is wrong or has expired; make a new one.",
            403: "The token's owner may not do this; it must be an administrator of the workspace.",
            404: "Check the host; a group may also have been deleted meanwhile.",
        }
        return ScimError(
            f"{response.request.method} {urlsplit(response.url).path}",
            expected="the workspace to do it",
            found=f"HTTP {response.status_code}{self._detail(response)}",
            hint=hints.get(response.status_code, "Mend what the workspace names, and run again."),
            status=response.status_code,
        )

    def _failed(self, method: str, url: str, error: Exception) -> ScimError:
        return ScimError(
            f"{method} {urlsplit(url).path}",
            expected="a request that can be sent",
            found=self._without_secrets(f"{type(error).__name__}: {error}"),
            hint="Check the host, and the proxy and certificates of this machine.",
        )

    def _incomplete(self, url: str, found: str) -> ScimError:
        return ScimError(
            f"GET {urlsplit(url).path}",
            expected="a complete list",
            found=found,
            hint="Nothing is done on half a list. Run again.",
        )

    def _ambiguous(self, attribute: str, value: str) -> ScimError:
        return ScimError(
            f"{attribute} {value!r}",
            expected="to name one thing in the workspace",
            found="several",
            hint="Rename or delete one of them by hand; which is meant can't be known.",
        )

    def _detail(self, response: requests.Response) -> str:
        """Return what the workspace says about a refusal, shortened, without the token."""
        try:
            data = response.json()
            text = str(data.get("detail") or data.get("message") or "")
        except (ValueError, AttributeError):
            text = ""
        text = " ".join(self._without_secrets(text).split())
        return f": {text[:300]}" if text else ""

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[token]")
        return text


def _member(data: Mapping[str, Any]) -> Member:
    """Return a member from its JSON. What it is stands in `$ref`, as `Users/123` or as a whole address."""
    parts = str(data.get("$ref", "")).split("/")
    kind = _KINDS.get(parts[-2], "unknown") if len(parts) > 1 else "unknown"
    return Member(str(data.get("value", "")), kind, str(data.get("display", "")))  # type: ignore[arg-type]


def _operations(add: Sequence[str], remove: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    """Yield the operations of each PATCH, of at most `CHUNK` members, the additions first.

    A removal names its one member in the path and has no value: `remove` with the path `members` removes everyone
    (RFC 7644, 3.5.2.2).
    """
    changes = [("add", member) for member in add] + [("remove", member) for member in remove]
    for start in range(0, len(changes), CHUNK):
        chunk = changes[start : start + CHUNK]
        added = [{"value": member} for op, member in chunk if op == "add"]
        operations: list[dict[str, Any]] = [{"op": "add", "path": "members", "value": added}] if added else []
        operations += [
            {"op": "remove", "path": f"members[value eq {json.dumps(member)}]"}
            for op, member in chunk
            if op == "remove"
        ]
        yield operations


def _retry_after(value: str | None) -> float | None:
    """Return the seconds that a `Retry-After` asks for, which holds seconds or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
