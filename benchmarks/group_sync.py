"""Requests and seconds of a group sync, beside the same sync one member at a time.

    uv run python benchmarks/group_sync.py [--latency 0.05]

Counted at a SCIM server on loopback: 2000 users, 20 groups of 50, 10 groups changed by 60 members, pages of 1000.
`--latency` adds seconds to each request, as a workspace elsewhere does.
"""

from __future__ import annotations

import argparse
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

from biocloud_assets.access.plan import Limits
from biocloud_assets.access.sync_groups import sync_all_groups_for_env

Wanted = dict[str, list[str]]


def one_at_a_time(workspace: DatabricksWorkspace, wanted: Wanted) -> None:
    """Sync with a request for each user looked up and for each member changed, as scripts that grow by hand do."""
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


def functions(workspace: DatabricksWorkspace, wanted: Wanted) -> None:
    """Sync by the fixed function, without limits."""
    sync_all_groups_for_env("development", workspace.config, wanted)


def unattended(workspace: DatabricksWorkspace, wanted: Wanted) -> None:
    """Sync as the command and the Dagster job do, which also ask whose token it is."""
    sync_all_groups_for_env("development", workspace.config, wanted, limits=Limits())


def measure(sync: Callable[[DatabricksWorkspace, Wanted], None], latency: float) -> None:
    """Print the requests of a first and a second run."""
    workspace = DatabricksWorkspace()
    wanted = large_workspace.set_up(workspace)
    for run in ("first", "second"):

        def slower(_: object) -> None:
            time.sleep(latency)

        workspace.behave(intercept=slower if latency else None)
        started = time.perf_counter()
        sync(workspace, wanted)
        seconds = time.perf_counter() - started
        assert all(workspace.people(group) == set(emails) for group, emails in wanted.items())
        print(f"{sync.__name__:14} {run:7} {len(workspace.log):5} {len(workspace.writes):7} {seconds:8.2f}")
    workspace.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latency", type=float, default=0.0, help="seconds added to each request")
    options = parser.parse_args()
    print(f"{'how':14} {'run':7} {'all':>5} {'writes':>7} {'seconds':>8}")
    for sync in (functions, unattended, one_at_a_time):
        measure(sync, options.latency)
