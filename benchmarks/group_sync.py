"""Requests and seconds of a group sync, compared with a sync that sends one request for each member.

    uv run python benchmarks/group_sync.py [--latency 0.05]

Counted at a SCIM server on loopback: 2,000 users, 20 groups of 50, 10 groups changed by 60 members, pages of 1000.
`--latency` adds seconds to each request, as the network to a workspace does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "access"))

import large_workspace
from databricks_workspace import DatabricksWorkspace

from biocloud_assets.access.sync_groups import sync_all_groups_for_env

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
    """Synchronise with this project's function."""
    sync_all_groups_for_env("development", workspace.config, wanted)


def measure(sync: Callable[[DatabricksWorkspace, Wanted], None], latency: float) -> None:
    """Print the requests of a first and a second run."""
    workspace = DatabricksWorkspace()
    wanted = large_workspace.set_up(workspace)
    for run in ("first", "second"):

        def slower(_: object) -> None:
            time.sleep(latency)

        workspace.behave(intercept=slower if latency else None)
        started = time.perf_counter()
        with contextlib.redirect_stdout(None):  # the plan
            sync(workspace, wanted)
        seconds = time.perf_counter() - started
        assert all(workspace.people(group) == set(emails) for group, emails in wanted.items())
        print(f"{sync.__name__:14} {run:7} {len(workspace.log):5} {len(workspace.writes):7} {seconds:8.2f}")
    workspace.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latency", type=float, default=0.0, help="seconds added to each request")
    options = parser.parse_args()
    print(f"{'sync':14} {'run':7} {'all':>5} {'writes':>7} {'seconds':>8}")
    for sync in (project, one_at_a_time):
        measure(sync, options.latency)
