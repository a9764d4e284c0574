"""What an administrator sets up in a workspace: pools, policies, instance profiles, Git credentials, settings.

Sources: https://docs.databricks.com/api/workspace/ (`instancepools`, `clusterpolicies`, `instanceprofiles`,
`gitcredentials`, `currentuser`, `disablelegacydbfs`, `disablelegacyaccess`) and the dataclasses of databricks-sdk,
which have the fields of the answers. A test sets the state; it can't be changed by the API.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.databricks_workspace.api import ApiError, Request, route

if TYPE_CHECKING:
    from tests.databricks_workspace.server import Workspace

POOL_ID, POOL_NAME = "1122-101010-reef1-pool-biocloud", "biocloud"
POLICY_ID = "A1B2C3D4E5F60718"
NODE_TYPE = "m5d.large"
PRINCIPAL = "biocloud@example.org"


def pool(**changes: Any) -> dict[str, Any]:
    """An instance pool, as `instance-pools/get` answers."""
    return {
        "instance_pool_id": POOL_ID,
        "instance_pool_name": POOL_NAME,
        "node_type_id": NODE_TYPE,
        "state": "ACTIVE",
        "min_idle_instances": 0,
        "stats": {"used_count": 0, "idle_count": 0, "pending_used_count": 0, "pending_idle_count": 0},
        "status": {},
        **changes,
    }


@dataclass
class Setup:
    """The state of a workspace that an administrator has set up.

    Attributes:
        me: the principal whose token it is, as `scim/v2/Me` answers.
        pools: the instance pools, by their IDs.
        pool_permissions: of the pools, by their IDs: the levels of the principals, `{"user_name": …}`.
        policies: the cluster policies, by their IDs.
        instance_profiles: the ARNs of those that the principal may use.
        git_credentials: of the principal.
        disable_legacy_access: the setting; None if nobody has ever set it.
        forbidden: parts of paths whose requests are refused because the principal may not see what is there.
    """

    me: dict[str, Any] = field(default_factory=lambda: {"id": "1", "userName": PRINCIPAL, "active": True})
    pools: dict[str, dict[str, Any]] = field(default_factory=lambda: {POOL_ID: pool()})
    pool_permissions: dict[str, list[tuple[dict[str, str], str]]] = field(default_factory=dict)
    policies: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {POLICY_ID: {"policy_id": POLICY_ID, "name": "biocloud", "definition": "{}"}}
    )
    instance_profiles: list[str] = field(default_factory=list)
    git_credentials: list[dict[str, Any]] = field(default_factory=list)
    disable_legacy_access: bool | None = None
    forbidden: list[str] = field(default_factory=list)

    def check_permission(self, path: str) -> None:
        if any(part in path for part in self.forbidden):
            raise ApiError(403, "PERMISSION_DENIED", f"{self.me['userName']} does not have permission to view {path}.")


def nothing_set_up() -> Setup:
    """The state of a workspace in which nobody has set anything up."""
    return Setup(pools={}, policies={})


@route("GET", r"2\.0/preview/scim/v2/Me")
def _me(workspace: Workspace, request: Request) -> Any:
    return workspace.setup.me


@route("GET", r"2\.0/instance-pools/list")
def _list_pools(workspace: Workspace, request: Request) -> Any:
    return {"instance_pools": list(workspace.setup.pools.values())}


@route("GET", r"2\.0/instance-pools/get")
def _get_pool(workspace: Workspace, request: Request) -> Any:
    pool_id = request.argument("instance_pool_id")
    if pool_id not in workspace.setup.pools:
        raise ApiError(404, "RESOURCE_DOES_NOT_EXIST", f"Can't find an instance pool with id: {pool_id}.")
    return workspace.setup.pools[pool_id]


@route("GET", r"2\.0/permissions/instance-pools/([^/]+)")
def _pool_permissions(workspace: Workspace, request: Request, pool_id: str) -> Any:
    if pool_id not in workspace.setup.pools:
        raise ApiError(404, "RESOURCE_DOES_NOT_EXIST", f"Pool {pool_id} does not exist.")
    entries = [
        {**principal, "all_permissions": [{"permission_level": level, "inherited": False}]}
        for principal, level in workspace.setup.pool_permissions.get(pool_id, [])
    ]
    admins = {"group_name": "admins", "all_permissions": [{"permission_level": "CAN_MANAGE", "inherited": True}]}
    return {
        "object_id": f"/instance-pools/{pool_id}",
        "object_type": "instance-pool",
        "access_control_list": [*entries, admins],
    }


@route("GET", r"2\.0/policies/clusters/get")
def _get_policy(workspace: Workspace, request: Request) -> Any:
    policy_id = request.argument("policy_id")
    if policy_id not in workspace.setup.policies:
        raise ApiError(404, "RESOURCE_DOES_NOT_EXIST", f"Can't find a cluster policy with id: {policy_id}.")
    return workspace.setup.policies[policy_id]


@route("GET", r"2\.0/instance-profiles/list")
def _instance_profiles(workspace: Workspace, request: Request) -> Any:
    # Without any, the key is left out.
    found = [
        {"instance_profile_arn": arn, "is_meta_instance_profile": False} for arn in workspace.setup.instance_profiles
    ]
    return {"instance_profiles": found} if found else {}


@route("GET", r"2\.0/git-credentials")
def _git_credentials(workspace: Workspace, request: Request) -> Any:
    found = [{"credential_id": n, **one} for n, one in enumerate(workspace.setup.git_credentials, 1)]
    return {"credentials": found} if found else {}


@route("GET", r"2\.0/settings/types/disable_legacy_dbfs/names/default")
def _disable_legacy_dbfs(workspace: Workspace, request: Request) -> Any:
    return _setting("disable_legacy_dbfs", workspace.disable_legacy_dbfs or None)


@route("GET", r"2\.0/settings/types/disable_legacy_access/names/default")
def _disable_legacy_access(workspace: Workspace, request: Request) -> Any:
    return _setting("disable_legacy_access", workspace.setup.disable_legacy_access)


def _setting(name: str, value: bool | None) -> Any:
    if value is None:
        raise ApiError(404, "NOT_FOUND", f"The setting {name} has not been set for this workspace.")
    return {name: {"value": value}, "setting_name": "default", "etag": "1"}
