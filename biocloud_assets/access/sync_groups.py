"""Synchronise the members of Databricks groups with `groups/<environment>_group.yml`: functions and the command.

    databricks/sync_groups.py development --dry-run

No function changes the groups that come with a workspace or account, or removes service principals, nested groups,
users that aren't listed, or, in a workspace only, the owner of the token; for an account, list the owner in
`_required`. `Limits` caps the removals; lifting it is explicit, group by group.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from biocloud_assets.access.group_file import REQUIRED, check_groups, read_group_file
from biocloud_assets.access.plan import (
    SAFE_LIMITS,
    GroupSync,
    Limits,
    SyncReport,
    escape_markdown,
    index_by_address,
    is_protected,
    plan_group,
    render,
)
from biocloud_assets.access.scim import Group, ScimClient, ScimError, bearer, scim_root
from biocloud_assets.errors import BiocloudError
from biocloud_assets.settings import WorkspaceEnvironment, WorkspaceSettings

ENVIRONMENTS: tuple[WorkspaceEnvironment, ...] = ("development", "production")

HOST_SECRET, TOKEN_SECRET = "group-sync-host", "group-sync-token"
"""The keys in a secret scope of Databricks that hold the address and the token of the workspace or account."""

Definitions = Mapping[str, list[str]]
OnUpdate = Callable[[SyncReport], None]

log = logging.getLogger(__name__)


class GroupSyncError(BiocloudError):
    """Some groups are not as in the file; the others are.

    Args:
        report: the plan and the results; also an attribute of the error.
    """

    def __init__(self, report: SyncReport) -> None:
        self.report = report
        groups = "".join(f"\n- {group}: {reason}" for group, reason in report.failures.items())
        super().__init__(
            f"group sync of {report.environment}",
            expected="all groups as in the file",
            found=f"{len(report.failures)} of {len(report.groups)} that are not",
            hint=f"The other groups are done. Fix the causes and run again:{groups}",
        )


def print_plan(report: SyncReport) -> None:
    """Print the plan before it is applied."""
    if not report.applied:
        print(render(report))


def create_group(group_name: str, groups_api: str, headers: dict[str, str]) -> str:
    """Create a group, or find the one that exists.

    Args:
        group_name: the group's name.
        groups_api: the URL of the groups, `https://<workspace>/api/2.0/preview/scim/v2/Groups`, or of an account's.
        headers: the headers that carry the token.

    Returns:
        The group's id.

    Raises:
        BiocloudError: the name is protected.
        ScimError: the server can't be reached, or refuses the group.
    """
    _refuse_protected([group_name])
    with ScimClient(headers, groups_api=groups_api) as client:
        # Looked up first: not every SCIM server refuses a second group of the same name.
        return client.find(client.groups_api, "displayName", group_name) or client.create_group(group_name)


def create_user(email: str, users_api: str, headers: dict[str, str]) -> str | None:
    """Create a user, or find the one that exists.

    Args:
        email: the user's e-mail, in any case.
        users_api: the URL of the users, `https://<workspace>/api/2.0/preview/scim/v2/Users`, or of an account's.
        headers: the headers that carry the token.

    Returns:
        The user's id; None if the server refuses this e-mail (400), with the reason in the log.

    Raises:
        ScimError: the server can't be reached, or refuses to create users.
    """
    with ScimClient(headers, users_api=users_api) as client:
        ids, _, failed = client.create_users([email])
    for error in failed.values():
        if error.status != 400:
            raise error
        log.warning("%s", error)
    return ids.get(email)


def fetch_all_users(users_api: str, headers: dict[str, str]) -> dict[str, str]:
    """Return every user's id by userName, in lower case.

    Args:
        users_api: the URL of the users.
        headers: the headers that carry the token.

    Raises:
        ScimError: the server can't be reached, its answer is incomplete, or two userNames differ only in case.
    """
    with ScimClient(headers, users_api=users_api) as client:
        found: dict[str, str] = {}
        for user in client.users():
            if found.setdefault(user.name, user.id) != user.id:
                two = f"the ids {found[user.name]} and {user.id}"
                raise ScimError(f"user {user.name!r}", "one user of this name", two, "Rename or delete one of them.")
        return found


def get_group_id(group_name: str, groups_api: str, headers: dict[str, str]) -> str | None:
    """Return the id of the one group of exactly this name; None if there is none.

    Args:
        group_name: the group's name.
        groups_api: the URL of the groups.
        headers: the headers that carry the token.

    Raises:
        ScimError: the server can't be reached, or several groups have the name.
    """
    with ScimClient(headers, groups_api=groups_api) as client:
        return client.find(client.groups_api, "displayName", group_name)


def get_group_members(group_id: str, groups_api: str, headers: dict[str, str], users_api: str) -> dict[str, str]:
    """Return the userName of each user that is a direct member of a group, by id.

    Service principals, nested groups and users that aren't listed are left out.

    Args:
        group_id: the group's id.
        groups_api: the URL of the groups.
        headers: the headers that carry the token.
        users_api: the URL of the users.

    Raises:
        ScimError: the server can't be reached, or there is no such group.
    """
    with ScimClient(headers, groups_api=groups_api, users_api=users_api) as client:
        members = client.members(group_id)
        # All users in a few requests, rather than one request for each member.
        names = {user.id: user.name for user in client.users()} if members else {}
        return {member.id: names[member.id] for member in members if member.id in names}


def sync_group(
    group_name: str,
    desired_emails: list[str],
    groups_api: str,
    users_api: str,
    headers: dict[str, str],
    dry_run: bool = False,
    *,
    limits: Limits = SAFE_LIMITS,
) -> None:
    """Make the desired users the members of one group, creating the group and the users if they don't exist.

    Args:
        group_name: the group's name.
        desired_emails: the e-mails of the desired members, in any case.
        groups_api: the URL of the groups.
        users_api: the URL of the users.
        headers: the headers that carry the token.
        dry_run: only print the plan.
        limits: what the sync may remove.

    Raises:
        BiocloudError: the name is protected, or an e-mail isn't valid; nothing was sent.
        ScimError: the server can't be read; nothing was changed.
        GroupSyncError: the plan was refused, for example for its removals, or the server refused the change.
    """
    with ScimClient(headers, groups_api=groups_api, users_api=users_api) as client:
        _sync(client, group_name, {group_name: desired_emails}, dry_run, limits, print_plan)


def sync_all_groups_for_env(
    env: str,
    config: Mapping[str, str | SecretStr],
    group_definitions: Definitions,
    dry_run: bool = False,
    *,
    limits: Limits = SAFE_LIMITS,
    on_update: OnUpdate = print_plan,
) -> None:
    """Make the desired users the members of every group of an environment.

    All groups are checked and planned before the first change. A group that fails doesn't stop the others.

    Args:
        env: `development` or `production`.
        config: `host` and `token`; with `account_id`, the account's groups are synchronised instead of the workspace's.
        group_definitions: group name → e-mails; `_required` holds e-mails that are never removed.
        dry_run: only make the plan.
        limits: what the sync may remove.
        on_update: called with the report once the plan is made, after users are created, and after each group that
            is changed; the default prints the plan.

    Raises:
        BiocloudError: the environment, the host, a name or an e-mail can't be used; nothing was sent.
        ScimError: the server can't be read; nothing was changed.
        GroupSyncError: a group's plan was refused, or the server refused its change; not in a dry run.
    """
    checked_environment(env)
    root = scim_root(str(config["host"]), str(config.get("account_id") or ""))
    with ScimClient(bearer(config["token"]), groups_api=f"{root}/Groups", users_api=f"{root}/Users") as client:
        _sync(client, env, group_definitions, dry_run, limits, on_update)


def sync_environment(
    env: str,
    dry_run: bool,
    allow_removals: Iterable[str],
    on_update: OnUpdate = print_plan,
    settings: WorkspaceSettings | None = None,
) -> SyncReport:
    """Synchronise an environment with its file, as the settings say; groups that failed are in the report.

    Args:
        env: `development` or `production`.
        dry_run: send only GET requests.
        allow_removals: groups that may lose any number of members.
        on_update: called with the plan, and after each group that is done.
        settings: the workspaces and the folder of the files; by default those of the process's environment.

    Raises:
        BiocloudError: as `sync_all_groups_for_env`, or a setting is missing, or the file breaks the rules.
    """
    environment = checked_environment(env)
    settings = WorkspaceSettings() if settings is None else settings
    definitions = read_group_file(settings.groups / f"{environment}_group.yml")
    config, limits = settings.workspace(environment), Limits(allow_removals=frozenset(allow_removals))
    reports: list[SyncReport] = []

    def update(report: SyncReport) -> None:
        reports.append(report)
        on_update(report)

    with suppress(GroupSyncError):
        sync_all_groups_for_env(environment, config, definitions, dry_run, limits=limits, on_update=update)
    return reports[-1]


def _sync(
    client: ScimClient, name: str, definitions: Definitions, dry_run: bool, limits: Limits, on_update: OnUpdate
) -> None:
    """Make the plan and, if this is no dry run, apply it."""
    report = SyncReport(environment=name, groups=make_plan(client, definitions, limits))
    on_update(report)
    if not dry_run:
        apply_plan(client, report, on_update)
        if report.failures:
            raise GroupSyncError(report)


def checked_environment(env: str) -> WorkspaceEnvironment:
    """Return an environment that has a workspace.

    Args:
        env: a name; `development` and `production` are accepted.

    Raises:
        BiocloudError: it is another name.
    """
    for known in ENVIRONMENTS:
        if env == known:
            return known
    hint = "Each environment has a workspace and a group file of its own."
    raise BiocloudError("the environment", expected=" or ".join(ENVIRONMENTS), found=repr(env), hint=hint)


def _refuse_protected(names: Iterable[str]) -> None:
    for name in filter(is_protected, names):
        found = "a group of the workspace or account itself"
        hint = "Its members decide who gets in at all; change it by hand, in the admin settings."
        raise BiocloudError(f"group {name!r}", expected="a group of the project", found=found, hint=hint)


def make_plan(client: ScimClient, definitions: Mapping[str, object], limits: Limits = SAFE_LIMITS) -> list[GroupSync]:
    """Read the server and decide what to do with every group. Only GET requests are sent.

    Args:
        client: of the workspace or account.
        definitions: for each group the e-mails of its members, in any case; and `_required`, users who are never
            removed.
        limits: what may be removed.

    Returns:
        one plan for each group, in the order of the definitions.

    Raises:
        BiocloudError: a name or an e-mail can't be used; nothing was sent.
        ScimError: the server can't be read, or an answer is empty that can't be.
    """
    wanted = check_groups(definitions)
    required = frozenset(wanted.pop(REQUIRED, []))
    _refuse_protected(wanted)
    for name in sorted(limits.allow_removals - wanted.keys()):
        expected = f"one of the groups {', '.join(sorted(wanted))}"
        hint = "Write the name as in the file."
        raise BiocloudError(f"--allow-removals {name}", expected=expected, found="another name", hint=hint)
    invisible = "Nothing was changed, as who isn't visible would be taken for missing. Use an administrator's token."
    owner, is_admin = client.token_owner()
    users = index_by_address(client.users())
    if not users:
        raise ScimError("the list of users", "at least the token's owner", "no user", invisible)
    groups = client.groups()
    plans = []
    for name, emails in wanted.items():
        try:
            group = _find_group(client, name, groups)
            members = client.members(group.id) if group else []
        except ScimError as error:
            plans.append(GroupSync(group=name, outcome="refused", reason=str(error)))
            continue
        if group and not members and not is_admin:
            found = "none, with a token that isn't an administrator's"
            raise ScimError(f"group {name!r}", "its members", found, invisible)
        plan = plan_group(name, group, members, users, emails, required=required, token_owner=owner, limits=limits)
        if client.is_account:
            plan.kind = "account"
        elif not group:
            plan.warnings.append("it will be local to the workspace, and Unity Catalog grants only to account groups")
        plans.append(plan)
    return plans


def _find_group(client: ScimClient, name: str, groups: Iterable[Group]) -> Group | None:
    """Return the one group of exactly this name, or None if it can be created.

    Raises:
        ScimError: it is not certain which group is meant, or the group can't be changed here.
    """
    alike = [group for group in groups if group.name.casefold() == name.casefold()]
    exact = [group for group in alike if group.name == name]
    thing, use_account = f"group {name!r}", "Set DATABRICKS_ACCOUNT_ID_<ENV> to change it; see docs/access.md."
    if len(exact) > 1 or (alike and not exact):
        found = f"{len(exact)} groups of this name" if exact else f"it as {alike[0].name!r}"
        hint = "Use the same name in the file and on the server; delete duplicates by hand."
        raise ScimError(thing, "one group of exactly this name", found, hint)
    if exact and exact[0].external:
        found = "an externalId: an identity provider manages its members"
        raise ScimError(thing, "a group that Databricks manages", found, "Change its members there, not in the file.")
    if exact and exact[0].kind == "account" and not client.is_account:
        found = "an account group, which the API of a workspace can't change"
        raise ScimError(thing, "a workspace-local group", found, use_account)
    if not exact and client.is_account_group(name):
        found = "one, next to which a workspace-local group would be created"
        raise ScimError(thing, "no account group of this name", found, use_account)
    return exact[0] if exact else None


def apply_plan(client: ScimClient, report: SyncReport, on_update: OnUpdate = print_plan) -> None:
    """Do what a plan says, group by group, and write what was done into it. A failure doesn't stop the others.

    Args:
        client: of the workspace or account.
        report: the plan; its groups get their outcomes.
        on_update: is called with the report after the users were created, and after each group.
    """
    report.applied = True
    planned = [group for group in report.groups if group.outcome == "planned"]
    new = dict.fromkeys(email for group in planned for email, user_id in group.add.items() if user_id is None)
    ids, report.users_created, failed = client.create_users(list(new))
    on_update(report)
    for number, group in enumerate(planned, 1):
        _apply_group(client, group, ids, failed)
        log.info("group %s: %s (%d of %d)", group.group, group.outcome, number, len(planned))
        on_update(report)


def _apply_group(
    client: ScimClient, group: GroupSync, new_users: Mapping[str, str], failed: Mapping[str, ScimError]
) -> None:
    # If a user can't be created, nobody leaves the group: a wrong new address must not take the old one's access away.
    errors = [f"{email}: {failed[email]}" for email in group.add if email in failed]
    add = {email: user_id or new_users.get(email, "") for email, user_id in group.add.items()}
    group_id, present = group.id, set(group.remove)
    try:
        if not errors:
            group_id = group_id or client.create_group(group.group)
            present = client.change_members(group_id, list(add.values()), list(group.remove))
            if group.id is None and (others := present - set(add.values())):
                # The list missed the group, so the plan didn't know its members.
                errors = [f"it existed already, with {len(others)} other members; run again to plan their removal"]
    except BiocloudError as error:
        errors = [str(error)]
        try:  # what was done before the failure
            present = {member.id for member in client.members(group_id)} if group_id else present
        except BiocloudError:
            errors += ["what was changed before can't be read"]
    group.outcome, group.reason = "failed" if errors else "changed", "; ".join(errors)
    group.added = [email for email, user_id in add.items() if user_id in present]
    group.removed = [name for user_id, name in group.remove.items() if user_id not in present]


def main() -> None:
    """Run the command; see `--help`. It ends the process with an exit code, unless that is 0."""
    parser = argparse.ArgumentParser(prog="sync_groups.py", description=__doc__.splitlines()[0])
    parser.epilog = (
        "Exit codes: 0 done, or planned; 1 some groups are not as in the file; 2 wrong use, nothing was sent; "
        "3 nothing could be done: the server refuses the token, can't be reached, or answers incompletely."
    )
    parser.add_argument("environment", choices=ENVIRONMENTS)
    parser.add_argument("--dry-run", action="store_true", help="send only GET requests, and show the plan")
    parser.add_argument("--json", action="store_true", help="print the plan and the results as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the plan and the results as Markdown")
    parser.add_argument(
        "--allow-removals",
        action="append",
        default=[],
        metavar="GROUP",
        help="allow any number of removals from this group",
    )
    parser.add_argument("--groups", type=Path, metavar="FOLDER", help="the folder that holds the group files")
    parser.add_argument(
        "--secret-scope",
        metavar="SCOPE",
        help=f"on Databricks: the secret scope that holds {HOST_SECRET} and {TOKEN_SECRET}",
    )
    parser.add_argument("--account-id", metavar="ID", help="with --secret-scope: synchronise this account's groups")
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s")  # on stderr
    logging.getLogger("biocloud_assets").setLevel(logging.INFO)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # scim.py logs its retries
    message = ""
    try:
        code = _run(options)
    except KeyboardInterrupt:
        code, message = 130, "Interrupted. The groups that the log names are done; run again for the others."
    except BiocloudError as error:
        code, message = 3 if isinstance(error, ScimError) else 2, str(error)
    if message:
        print(message, file=sys.stderr)
    if code:
        sys.exit(code)


def _settings(options: argparse.Namespace) -> WorkspaceSettings:
    """Return the settings of the process's environment, with what the options give instead."""
    given: dict[str, Any] = {}
    if options.groups is not None:
        given["groups"] = options.groups
    if options.secret_scope is not None:
        suffix = "test" if options.environment == "development" else "prod"
        secrets = _dbutils().secrets
        given[f"host_{suffix}"] = secrets.get(options.secret_scope, HOST_SECRET)
        given[f"token_{suffix}"] = SecretStr(secrets.get(options.secret_scope, TOKEN_SECRET))
        given[f"account_id_{suffix}"] = options.account_id or ""
    return WorkspaceSettings(**given)


def _dbutils() -> Any:
    """Return Databricks' utilities. Serverless compute has no environment variables, so secrets are read by them.

    A script of a job has them as a global; the SDK, which every runtime has, offers them to modules:
    https://docs.databricks.com/aws/en/dev-tools/sdk-python#use-databricks-utilities
    """
    script = sys.modules["__main__"]
    if hasattr(script, "dbutils"):
        return script.dbutils
    if find_spec("dbruntime") is None:  # the package that only a Databricks runtime has; the SDK is elsewhere too
        raise BiocloudError(
            "--secret-scope",
            expected="a Databricks cluster or serverless compute",
            found="no Databricks runtime",
            hint="Elsewhere, set DATABRICKS_HOST_<ENV> and DATABRICKS_TOKEN_<ENV>.",
        )
    from databricks.sdk.runtime import dbutils

    return dbutils


def _run(options: argparse.Namespace) -> int:
    """Synchronise as the options say; show the plan, the results and every failure. Return 1 if a group failed."""
    out = sys.stderr if options.json else sys.stdout

    def write(text: str) -> None:
        if options.markdown:
            options.markdown.write_text(text, encoding="utf-8")

    def update(report: SyncReport) -> None:
        if not report.applied:
            print(render(report), file=out, flush=True)
        write(render(report, escape_markdown))  # after each group: the record is complete even if the process is killed

    try:
        write("")  # before anything is sent
    except OSError as error:
        raise BiocloudError(
            f"--markdown {options.markdown}", expected="a file that can be written",
            found=str(error.strerror), hint="Create its folder first, or choose another.",
        ) from None  # fmt: skip
    try:
        settings = _settings(options)
        report = sync_environment(options.environment, options.dry_run, options.allow_removals, update, settings)
    except BiocloudError as error:
        write(f"# Group sync of {options.environment}\n\n{escape_markdown(str(error))}\n")
        raise
    if not options.dry_run:
        print(render(report), file=out)
    write(render(report, escape_markdown))
    if options.json:
        print(json.dumps(asdict(report), indent=2))
    return 1 if report.failures else 0
