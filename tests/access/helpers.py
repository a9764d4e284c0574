"""Run a group sync against the test server with short waits, without the command around it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from databricks_workspace import DatabricksWorkspace

from biocloud_assets.access.plan import SAFE_LIMITS, GroupSync, Limits, SyncReport
from biocloud_assets.access.scim import RetryPolicy, ScimClient
from biocloud_assets.access.sync_groups import apply_plan, make_plan

FAST = RetryPolicy(total=5.0, visible=0.1, backoff=0.001, timeout=(5.0, 5.0))


def client(workspace: DatabricksWorkspace, policy: RetryPolicy = FAST) -> ScimClient:
    return ScimClient(workspace.headers, workspace.groups_api, workspace.users_api, policy)


def plan(workspace: DatabricksWorkspace, wanted: dict[str, Any], limits: Limits = SAFE_LIMITS) -> list[GroupSync]:
    with client(workspace) as scim:
        return make_plan(scim, wanted, limits)


def sync(
    workspace: DatabricksWorkspace,
    wanted: dict[str, Any],
    limits: Limits = SAFE_LIMITS,
    policy: RetryPolicy = FAST,
) -> SyncReport:
    """Plan and apply; return the report."""
    with client(workspace, policy) as scim:
        report = SyncReport(environment="development", groups=make_plan(scim, wanted, limits))
        apply_plan(scim, report, lambda _: None)
        return report


def any_removal(groups: Iterable[str]) -> Limits:
    """Return limits under which these groups may lose any number of members."""
    return Limits(allow_removals=frozenset(groups))


def outcomes(report: SyncReport) -> list[str]:
    return [group.outcome for group in report.groups]
