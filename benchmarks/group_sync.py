"""Requests and time of a group sync, compared with a sync that sends one request for each member.

Counted at a SCIM server on loopback: 2,000 users, 20 groups of 50, 10 groups changed by 60 members, pages of 1000.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import requests

from benchmarks.measure import ROOT, Say, ratio, seconds
from benchmarks.results import Result, Table
from biocloud_assets.access.sync_groups import sync_all_groups_for_env

sys.path.insert(0, str(ROOT / "tests" / "access"))

import large_workspace
from databricks_workspace import DatabricksWorkspace

Wanted = dict[str, list[str]]


def one_at_a_time(workspace: DatabricksWorkspace, wanted: Wanted) -> None:
    """Send a request for each user that is looked up, and one for each member that changes."""
    session = requests.Session()
    session.headers.update(workspace.headers | {"Content-Type": "application/scim+json"})

    def ask(method: str, url: str, body: object = None, **parameters: str) -> Any:
        answer = session.request(method, url, params=parameters, data=json.dumps(body) if body else None)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    for name, emails in wanted.items():
        found = ask("GET", workspace.groups_api, filter=f"displayName eq {json.dumps(name)}")
        url = f"{workspace.groups_api}/{found['Resources'][0]['id']}"
        members = {}
        for member in ask("GET", url)["members"]:
            members[ask("GET", f"{workspace.users_api}/{member['value']}")["userName"]] = member["value"]
        changes = []
        for email in set(emails) - set(members):
            user = ask("GET", workspace.users_api, filter=f"userName eq {json.dumps(email)}").get("Resources")
            identifier = user[0]["id"] if user else ask("POST", workspace.users_api, {"userName": email, **_USER})["id"]
            changes.append({"op": "add", "path": "members", "value": [{"value": identifier}]})
        for email in set(members) - set(emails):
            changes.append({"op": "remove", "path": f'members[value eq "{members[email]}"]'})
        for change in changes:
            ask("PATCH", url, {"Operations": [change], **_PATCH})


_USER = {"schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"]}
_PATCH = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"]}


def project(workspace: DatabricksWorkspace, wanted: Wanted) -> None:
    """Synchronise by this project's function."""
    sync_all_groups_for_env("development", workspace.config, wanted)


_SYNCS: dict[str, Callable[[DatabricksWorkspace, Wanted], None]] = {
    "biocloud": project,
    "one request for each member": one_at_a_time,
}


def measure(*, latency: float, say: Say) -> Result:
    """Synchronise twice by each of the syncs.

    Args:
        latency: seconds added to each request, as the network to a workspace does.
        say: reports progress.
    """
    result, rows = Result("group_sync"), []
    found = {}
    for name, sync in _SYNCS.items():
        workspace = DatabricksWorkspace()
        wanted = large_workspace.set_up(workspace)
        for run in ("first", "second"):
            say(f"group sync, {name}, {run} run")
            workspace.behave(intercept=lambda _: time.sleep(latency))
            start = time.perf_counter()
            with contextlib.redirect_stdout(None):  # the plan
                sync(workspace, wanted)
            taken = time.perf_counter() - start
            assert all(workspace.people(group) == set(emails) for group, emails in wanted.items())
            found[name, run] = len(workspace.log), len(workspace.writes), taken
        workspace.close()
    for (name, run), (count, writes, taken) in found.items():
        base = found["biocloud", run][0]
        rows.append([f"{name}, {run} run", ratio(count / base), str(count), str(writes), seconds(taken)])
    result.figures["requests"] = found["biocloud", "first"][0]
    title = f"{large_workspace.USERS:,} users, {large_workspace.GROUPS} groups"
    if latency:
        title += f", {1000 * latency:.0f} ms more for each request"
    result.tables.append(Table(title, ["", "requests / biocloud", "requests", "writes", "time"], rows))
    return result
