"""How many requests a sync costs, counted at the server."""

from __future__ import annotations

import large_workspace
from databricks_workspace import DatabricksWorkspace

from biocloud_assets.access.plan import Limits
from biocloud_assets.access.sync_groups import sync_all_groups_for_env


def test_a_sync_of_a_large_workspace_costs_few_requests(workspace: DatabricksWorkspace) -> None:
    """2000 users, 20 groups of 50, 10 changed, 60 changes, pages of 1000: at most 52 and the creations, then 42.

    As what runs unattended does, which asks for one thing more than the functions: whose token it is.
    """
    wanted = large_workspace.set_up(workspace)
    workspace.behave()
    sync_all_groups_for_env("development", workspace.config, wanted, limits=Limits())
    creations = [request for request in workspace.writes if request.path == "/Users"]
    assert len(creations) == large_workspace.NEW
    assert len(workspace.log) <= 52 + large_workspace.NEW
    assert len(workspace.writes) == large_workspace.CHANGED + large_workspace.NEW
    assert all(workspace.people(group) == set(emails) for group, emails in wanted.items())

    workspace.behave()
    sync_all_groups_for_env("development", workspace.config, wanted, limits=Limits())
    assert len(workspace.log) <= 42
    assert workspace.writes == []
