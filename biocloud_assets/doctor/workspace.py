"""Checks of the Databricks workspace: who asks, and what a cluster is started with.

Sources: the docstrings of databricks-sdk, and https://docs.databricks.com/api/workspace/ (`instancepools`,
`clusterpolicies`, `instanceprofiles`, `gitcredentials`, `secrets`, `disablelegacydbfs`, `disablelegacyaccess`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from biocloud_assets.doctor.context import REQUEST_SECONDS, DoctorContext
from biocloud_assets.doctor.findings import Finding, brief, failed, not_checked, ok, warning
from biocloud_assets.environments import Cluster
from biocloud_assets.launch.workspace import host

if TYPE_CHECKING:
    from databricks.sdk.service.compute import GetInstancePool

GROUP_SYNC_SECRETS = ("biocloud", ("group-sync-host", "group-sync-token"))
"""The scope and the keys of the secrets that the exported DAG `group_sync` reads; no other step needs them."""

_LEGACY_MODES = {
    "NONE",
    "LEGACY_PASSTHROUGH",
    "LEGACY_SINGLE_USER",
    "LEGACY_SINGLE_USER_STANDARD",
    "LEGACY_TABLE_ACL",
}


def connection(context: DoctorContext) -> Iterator[Finding]:
    """The workspace answers, and accepts the credentials."""
    import requests
    from databricks.sdk.errors.base import DatabricksError

    name = "Databricks host and token"
    address = host(context.settings)
    url = address if "://" in address else f"https://{address}"
    try:
        # First without credentials: the client looks for its OAuth endpoints for up to five minutes.
        requests.head(url, timeout=REQUEST_SECONDS, auth=lambda request: request)
    except (requests.RequestException, ValueError) as error:
        yield failed(name, f"no answer from {url}: {brief(error)}", "Check DATABRICKS_HOST, the network and the proxy.")
        return
    advice = "Set DATABRICKS_CLIENT_ID and DATABRICKS_CLIENT_SECRET of the service principal, or DATABRICKS_TOKEN."
    try:
        me = context.me
    except (ValueError, DatabricksError) as error:  # ValueError: there are no credentials
        yield failed(name, f"{url} doesn't accept the credentials: {brief(error)}", advice)
        return
    if not me.user_name:
        yield failed(name, f"{url} answers without a name, as a web site does", "Set DATABRICKS_HOST to the workspace.")
        return
    yield ok(name, f"{url}, as {me.user_name}")
    if not context.submits_as_itself:
        yield not_checked(
            "run_as",
            f"steps run as {context.principal}",
            "Its groups, its Git credential and its right to use the pool can't be seen by another principal. Run this "
            "as that principal.",
        )


def pools(context: DoctorContext) -> Iterator[Finding]:
    """The pools exist, may be used, have the runtime, and are large enough."""
    cluster = context.environment.cluster
    if cluster is None:
        yield ok("instance pool", "none needed: serverless compute")
        return
    workers = cluster.autoscale.min_workers if cluster.autoscale else cluster.num_workers or 0
    most = cluster.autoscale.max_workers if cluster.autoscale else workers
    driver = cluster.driver_instance_pool_id
    if driver is None or driver == cluster.instance_pool_id:
        yield from _pool(context, "instance pool", cluster, cluster.instance_pool_id, workers + 1, most + 1)
    else:
        yield from _pool(context, "instance pool", cluster, cluster.instance_pool_id, workers, most)
        yield from _pool(context, "instance pool of the driver", cluster, driver, 1, 1)


def _pool(
    context: DoctorContext, name: str, cluster: Cluster, pool_id: str, nodes: int, most: int
) -> Iterator[Finding]:
    from databricks.sdk.errors.platform import NotFound, PermissionDenied

    try:
        pool = context.client.instance_pools.get(pool_id)
    except NotFound:
        advice = "Create it (docs/databricks.md), and put its ID into environments.yml."
        yield failed(name, f"no pool with the ID {pool_id}", advice)
        return
    except PermissionDenied as error:
        if not context.submits_as_itself:
            raise
        yield failed(name, f"{pool_id}: {brief(error)}", _attach_command(context, pool_id))
        return
    state = pool.state.value if pool.state is not None else "ACTIVE"
    if state != "ACTIVE":
        yield failed(name, f"{pool.instance_pool_name} is {state}", "Start it, or use another pool.")
        return
    yield ok(name, f"{pool.instance_pool_name}, {pool.node_type_id}")
    yield _preloaded(name, pool, cluster.spark_version)
    yield _capacity(name, pool, nodes, most)
    for instance in (pool.status.pending_instance_errors if pool.status else None) or ():
        yield warning(
            f"{name}: instances", instance.message or "an instance can't be started", "See the cloud account."
        )
    yield from _pool_permission(context, name, pool_id)


def _preloaded(name: str, pool: GetInstancePool, spark_version: str) -> Finding:
    check, preloaded = f"{name}: preloaded runtime", pool.preloaded_spark_versions or []
    if spark_version in preloaded:
        return ok(check, spark_version)
    found = ", ".join(preloaded) or "none"
    return warning(check, f"{found}, not {spark_version}", "Clusters start faster from a pool that has their runtime.")


def _capacity(name: str, pool: GetInstancePool, nodes: int, most: int) -> Finding:
    check, limit = f"{name}: capacity", pool.max_capacity
    used = pool.stats.used_count if pool.stats is not None else None
    takes = f"a step takes {nodes}" if nodes == most else f"a step takes {nodes} to {most}"
    if limit is None:
        return ok(check, f"no limit; {takes}")
    found = f"at most {limit} instances, {used or 0} in use; {takes}"
    if limit < nodes:
        return failed(check, found, "Raise max_capacity of the pool, or lower the number of workers.")
    if limit < most:
        return warning(check, found, "A cluster can't grow to its maximum. Raise max_capacity of the pool.")
    return ok(check, found)


def _pool_permission(context: DoctorContext, name: str, pool_id: str) -> Iterator[Finding]:
    from databricks.sdk.errors.platform import NotFound, PermissionDenied

    check = f"{name}: permission"
    try:
        entries = context.client.instance_pools.get_permissions(pool_id).access_control_list or []
    except (NotFound, PermissionDenied) as error:
        advice = "Only a principal with CAN_MANAGE sees them. `--cluster` shows whether a cluster starts."
        yield not_checked(check, f"no permission to look: {brief(error)}", advice)
        return
    for entry in entries:
        for who in (entry.user_name, entry.group_name, entry.service_principal_name):
            if who is not None and context.is_principal(who) and entry.all_permissions:
                level = entry.all_permissions[0].permission_level
                yield ok(check, f"{level.value if level else 'some'} for {who}")
                return
    yield failed(check, f"none for {context.principal}", _attach_command(context, pool_id))


def _attach_command(context: DoctorContext, pool_id: str) -> str:
    kind = "user_name" if "@" in context.principal else "service_principal_name"
    body = json.dumps({"access_control_list": [{kind: context.principal, "permission_level": "CAN_ATTACH_TO"}]})
    return f"databricks permissions update instance-pools {pool_id} --json '{body}'"


def runtime(context: DoctorContext) -> Iterator[Finding]:
    """The workspace offers the Databricks runtime."""
    name, cluster = "runtime", context.environment.cluster
    if cluster is None:
        yield ok(name, "of serverless compute")
        return
    versions = context.client.clusters.spark_versions().versions or []
    names = {version.key: version.name for version in versions}
    if cluster.spark_version in names:
        yield ok(name, names[cluster.spark_version] or cluster.spark_version)
        return
    offered = [key for key, text in names.items() if key and text and " LTS" in text and not re.search("ml|gpu", key)]
    advice = f"Set spark_version to one that is offered, as {', '.join(sorted(offered, reverse=True)[:3]) or 'none'}."
    yield failed(name, f"{cluster.spark_version} is not offered", advice)


def policy(context: DoctorContext) -> Iterator[Finding]:
    """The policy exists and allows the cluster; or the principal may create clusters without one."""
    name, cluster = "cluster policy", context.environment.cluster
    if cluster is None:
        yield ok(name, "none needed: serverless compute")
    elif cluster.policy_id is not None:
        yield from _policy(context, cluster.policy_id)
    elif not context.submits_as_itself:
        yield not_checked(name, f"none; the entitlements of {context.principal} can't be seen")
    elif "admins" in context.groups or "allow-cluster-create" in {one.value for one in context.me.entitlements or ()}:
        yield ok(name, "none, and none needed")
    else:
        yield warning(
            name,
            "none, and no entitlement to create clusters is visible",
            "Set policy_id, or give the principal the entitlement “Unrestricted cluster creation”, if no group has it.",
        )


def _policy(context: DoctorContext, policy_id: str) -> Iterator[Finding]:
    from databricks.sdk.errors.platform import NotFound

    name = "cluster policy"
    try:
        found = context.client.cluster_policies.get(policy_id)
    except NotFound:
        yield failed(name, f"no policy with the ID {policy_id}", "Put the ID of a policy into policy_id, or remove it.")
        return
    conflicts = policy_conflicts(json.loads(found.definition or "{}"), context.environment.new_cluster())
    if conflicts:
        yield failed(
            name, f"{found.name} doesn't allow {'; '.join(conflicts)}", "Change the policy or environments.yml."
        )
    else:
        yield ok(name, f"{found.name}")


def policy_conflicts(definition: dict[str, Any], cluster: dict[str, Any]) -> list[str]:
    """The keys of a cluster whose values a policy doesn't allow.

    It knows the types `fixed`, `forbidden`, `allowlist` and `blocklist`
    (https://docs.databricks.com/aws/en/admin/clusters/policy-definition).

    Args:
        definition: of the policy.
        cluster: `new_cluster` of the Jobs API.
    """
    given = dict(_flat(cluster))
    conflicts = []
    for key, rule in definition.items():
        if key not in given:
            continue
        value, kind = given[key], rule.get("type")
        if kind == "fixed" and str(rule.get("value")) != str(value):
            conflicts.append(f"{key} {value}, only {rule.get('value')}")
        elif kind == "forbidden":
            conflicts.append(f"{key}")
        elif kind == "allowlist" and value not in rule.get("values", []):
            conflicts.append(f"{key} {value}, only {', '.join(map(str, rule.get('values', [])))}")
        elif kind == "blocklist" and value in rule.get("values", []):
            conflicts.append(f"{key} {value}")
    return conflicts


def _flat(value: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        name = f"{path}.{key}" if path else key
        if isinstance(inner, dict):
            yield from _flat(inner, name)
        else:
            yield name, inner


def instance_profile(context: DoctorContext) -> Iterator[Finding]:
    """The instance profile is registered, and the principal may use it."""
    name, cluster = "instance profile", context.environment.cluster
    arn = cluster.instance_profile_arn if cluster is not None else None
    if arn is None:
        yield ok(name, "none set")
        return
    # The API lists the profiles that the caller may use.
    registered = {profile.instance_profile_arn for profile in context.client.instance_profiles.list()}
    if arn in registered:
        yield ok(name, arn)
    else:
        advice = (
            f"Register it, `databricks instance-profiles add {arn}`, and allow {context.principal} to use it; the "
            "cross-account role of the workspace needs iam:PassRole on its role."
        )
        yield failed(name, f"{arn} is not among the {len(registered)} that may be used", advice)


def git_credential(context: DoctorContext) -> Iterator[Finding]:
    """The principal has a credential for the provider of the repository."""
    name, provider = "Git credential", context.environment.git.provider
    if not context.submits_as_itself:
        yield not_checked(name, f"those of {context.principal} can't be seen", "Run this as that principal.")
        return
    found = [credential.git_provider or "" for credential in context.client.git_credentials.list()]
    if provider.lower() in {other.lower() for other in found}:
        yield ok(name, provider)
    else:
        advice = (
            f"As {context.principal}: `databricks git-credentials create {provider}` with a token that may read it."
        )
        yield failed(name, f"none for {provider}; found {', '.join(found) or 'no other'}", advice)


_REFERENCE = re.compile(r"\{\{secrets/([^/{}]+)/([^/{}]+)\}\}")


def secrets(context: DoctorContext) -> Iterator[Finding]:
    """The secrets exist to which the environment refers, and those of the group sync."""
    cluster = context.environment.cluster
    texts = list(cluster.spark_env_vars.values()) if cluster is not None else []
    needed: dict[str, list[str]] = {}
    for scope, key in (match.groups() for text in texts for match in _REFERENCE.finditer(text)):
        needed.setdefault(scope, []).append(key)
    for scope, keys in needed.items():
        problem = _missing_secrets(context, scope, keys)
        name = f"secrets of the scope {scope}"
        yield ok(name, ", ".join(keys)) if problem is None else failed(name, problem, _secret_advice(scope))
    scope, group_sync = GROUP_SYNC_SECRETS
    problem = _missing_secrets(context, scope, list(group_sync))
    name = "secrets of the group sync"
    if problem is None:
        yield ok(name, ", ".join(group_sync))
    else:
        advice = f"Only the exported DAG group_sync needs them; GitLab CI doesn't. {_secret_advice(scope)}"
        yield warning(name, problem, advice)


def _missing_secrets(context: DoctorContext, scope: str, keys: list[str]) -> str | None:
    from databricks.sdk.errors.platform import NotFound, PermissionDenied

    try:
        found = {secret.key for secret in context.client.secrets.list_secrets(scope)}
    except NotFound:
        return f"no scope {scope}"
    except PermissionDenied:
        return f"no permission to read the scope {scope}"
    missing = [key for key in keys if key not in found]
    return f"the scope {scope} has no {', '.join(missing)}" if missing else None


def _secret_advice(scope: str) -> str:
    commands = (f"create-scope {scope}", f"put-secret {scope} <key>", f"put-acl {scope} <principal> READ")
    return ", ".join(f"`databricks secrets {command}`" for command in commands)


def legacy_settings(context: DoctorContext) -> Iterator[Finding]:
    """What the workspace has switched off, and whether the environment uses it."""
    from databricks.sdk.errors.platform import NotFound

    settings = context.client.settings
    try:
        no_dbfs = bool(settings.disable_legacy_dbfs.get().disable_legacy_dbfs.value)
    except NotFound:  # it was never set
        no_dbfs = False
    if no_dbfs and context.settings.launches == "step_launcher":
        yield failed("DBFS", "switched off, and the step launcher stages there", "Set BIOCLOUD_LAUNCHER=pipes.")
    else:
        yield ok("DBFS", "switched off, and not used" if no_dbfs else "available, and not needed by Pipes and Airflow")
    try:
        no_legacy = bool(settings.disable_legacy_access.get().disable_legacy_access.value)
    except NotFound:
        no_legacy = False
    mode = context.environment.cluster.data_security_mode if context.environment.cluster else ""
    if no_legacy and mode in _LEGACY_MODES:
        advice = "Set data_security_mode to SINGLE_USER or USER_ISOLATION."
        yield failed("legacy access", f"switched off, and data_security_mode is {mode}", advice)
    else:
        yield ok("legacy access", "switched off, and not used" if no_legacy else "available, and not needed")
