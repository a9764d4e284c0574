"""How many requests a sync costs, counted at the server."""

from __future__ import annotations

import large_workspace
from databricks_workspace import DatabricksWorkspace
from helpers import any_removal

from biocloud_assets.access.sync_groups import sync_all_groups_for_env


def test_a_sync_of_a_large_workspace_costs_few_requests(workspace: DatabricksWorkspace) -> None:
    """2,000 users, 20 groups of 50, 10 changed, 60 changes, pages of 1,000: at most 52 and the creations, then 42."""
    wanted = large_workspace.set_up(workspace)
    workspace.behave()
    sync_all_groups_for_env("development", workspace.config, wanted)
    creations = [request for request in workspace.writes if request.path == "/Users"]
    assert len(creations) == large_workspace.NEW
    assert len(workspace.log) <= 52 + large_workspace.NEW
    assert len(workspace.writes) == large_workspace.CHANGED + large_workspace.NEW
    assert all(workspace.people(group) == set(emails) for group, emails in wanted.items())

    workspace.behave()
    sync_all_groups_for_env("development", workspace.config, wanted)
    assert len(workspace.log) <= 42
    assert workspace.writes == []


def test_1000_users_and_5_groups_cost_9_requests_to_plan_and_24_to_apply_with_5_new_users(
    workspace: DatabricksWorkspace,
) -> None:
    ids = {email: workspace.add_user(email) for email in (f"user{n}@biocloud.example" for n in range(1_000))}
    emails = list(ids)
    wanted = {}
    for number in range(5):
        members = emails[number * 20 : number * 20 + 20]
        workspace.add_group(f"group{number}", [ids[email] for email in members])
        wanted[f"group{number}"] = [*members[1:], f"new{number}@biocloud.example"]
    workspace.behave()
    sync_all_groups_for_env("development", workspace.config, wanted, dry_run=True)
    assert len(workspace.log) == 9
    assert workspace.writes == []

    workspace.behave()
    sync_all_groups_for_env("development", workspace.config, wanted, limits=any_removal(wanted))
    assert len(workspace.log) == 24
    assert all(workspace.people(group) == set(members) for group, members in wanted.items())

    workspace.behave()
    sync_all_groups_for_env("development", workspace.config, wanted)
    assert len(workspace.log) == 9
    assert workspace.writes == []
