"""Group sync: the members of the workspace's groups become those of `groups/<environment>_group.yml`.

    databricks/sync_groups.py development --dry-run

What belongs here: the way from the wanted groups to the plan, from the plan to the workspace, and the command. What
doesn't: HTTP (`scim.py`), the file's rules (`group_file.py`), the decision for one group (`plan.py`), Dagster
(`jobs.py`).

The functions do exactly what they say: after `sync_group` the user members are the desired ones, whoever that removes.
What runs unattended, `main` and the Dagster job, passes `Limits`. The workspace's own groups are never touched, and
service principals, nested groups and members that can't be resolved to a user are never removed, by any of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NoReturn

from pydantic import SecretStr
from rich.console import Console

from biocloud_assets.access.group_file import GroupFile, checked_groups, read_group_file
from biocloud_assets.access.plan import GroupPlan, GroupResult, Limits, Plan, as_data, is_protected, plan_group
from biocloud_assets.access.report import plan_markdown, plan_table, result_table
from biocloud_assets.access.scim import ScimError, Workspace
from biocloud_assets.errors import BiocloudError
from biocloud_assets.settings import WorkspaceEnvironment, WorkspaceSettings

ENVIRONMENTS: tuple[WorkspaceEnvironment, ...] = ("development", "production")


class GroupSyncError(BiocloudError):
    """Some groups are not as asked for; the others are. `results` holds all of them."""

    def __init__(self, environment: str, results: tuple[GroupResult, ...]) -> None:
        self.results = results
        bad = [result for result in results if not result.ok]
        super().__init__(
            f"group sync of {environment}",
            expected=f"all {len(results)} groups to be in step",
            found="\n".join(["", *(f"  - {one.group} {one.outcome}: {one.message}" for one in bad), ""]),
            hint="The other groups are in step. Mend what is named and run again.",
        )


# The fixed functions


def create_group(group_name: str, groups_api: str, headers: dict[str, str]) -> str:
    """Create a group, or find the one that is there already.

    Args:
        group_name: the group's name.
        groups_api: the address of the groups, `https://<workspace>/api/2.0/preview/scim/v2/Groups`.
        headers: those that carry the token.

    Returns:
        The group's id.

    Raises:
        BiocloudError: the name is protected.
        ScimError: the workspace can't be reached, or refuses the group.
    """
    _refuse_protected([group_name])
    with Workspace(headers, groups_api=groups_api) as workspace:
        return workspace.create_group(group_name)


def create_user(email: str, users_api: str, headers: dict[str, str]) -> str | None:
    """Create a user, or find the one who is there already.

    Args:
        email: the user's e-mail, in whatever case.
        users_api: the address of the users, `https://<workspace>/api/2.0/preview/scim/v2/Users`.
        headers: those that carry the token.

    Returns:
        The user's id; None where the workspace doesn't take this e-mail.

    Raises:
        ScimError: the workspace can't be reached, or refuses to create users.
    """
    with Workspace(headers, users_api=users_api) as workspace:
        return workspace.create_user(email)


def fetch_all_users(users_api: str, headers: dict[str, str]) -> dict[str, str]:
    """Return every user's id by e-mail, in small letters, as Databricks keeps them.

    Args:
        users_api: the address of the users.
        headers: those that carry the token.

    Raises:
        ScimError: the workspace can't be reached, or its answer is incomplete.
    """
    with Workspace(headers, users_api=users_api) as workspace:
        return workspace.users()


def get_group_id(group_name: str, groups_api: str, headers: dict[str, str]) -> str | None:
    """Return the id of the one group that has exactly this name; None where there is none.

    Args:
        group_name: the group's name.
        groups_api: the address of the groups.
        headers: those that carry the token.

    Raises:
        ScimError: the workspace can't be reached, or several groups have the name.
    """
    with Workspace(headers, groups_api=groups_api) as workspace:
        return workspace.group_id(group_name)


def get_group_members(group_id: str, groups_api: str, headers: dict[str, str], users_api: str) -> dict[str, str]:
    """Return the e-mail of each user who is a member of a group, by id.

    Service principals, nested groups and members that can't be resolved to a user are left out.

    Args:
        group_id: the group's id.
        groups_api: the address of the groups.
        headers: those that carry the token.
        users_api: the address of the users.

    Raises:
        ScimError: the workspace can't be reached, or there is no such group.
    """
    with Workspace(headers, groups_api=groups_api, users_api=users_api) as workspace:
        members = [member for member in workspace.members(group_id) if member.kind in {"user", "unknown"}]
        # All users in one or two requests, rather than one request for each member.
        emails = {identifier: email for email, identifier in workspace.users().items()} if members else {}
        return {member.id: emails[member.id] for member in members if member.id in emails}


def sync_group(
    group_name: str,
    desired_emails: list[str],
    groups_api: str,
    users_api: str,
    headers: dict[str, str],
    dry_run: bool = False,
    *,
    limits: Limits | None = None,
) -> None:
    """Make the desired users the members of one group; the group and the users are created where they are missing.

    Args:
        group_name: the group's name.
        desired_emails: who should be a member, in whatever case.
        groups_api: the address of the groups.
        users_api: the address of the users.
        headers: those that carry the token.
        dry_run: send only GET requests, and print the plan.
        limits: what an unattended run may do; None does exactly what is asked.

    Raises:
        BiocloudError: the name is protected, or an e-mail isn't one; nothing was sent.
        ScimError: the workspace can't be read; nothing was changed.
        GroupSyncError: the group is over its limit, or the workspace refused the change.
    """
    with Workspace(headers, groups_api=groups_api, users_api=users_api) as workspace:
        _run(workspace, group_name, {group_name: desired_emails}, dry_run, limits, ())


def sync_all_groups_for_env(
    env: str,
    config: Mapping[str, str | SecretStr],
    group_definitions: dict[str, list[str]],
    dry_run: bool = False,
    *,
    limits: Limits | None = None,
    protected: Collection[str] = (),
) -> None:
    """Make the desired users the members of every group of an environment.

    All groups are checked and planned before the first change. What goes wrong with one group doesn't stop the others.

    Args:
        env: `development` or `production`.
        config: `host`, the workspace's address, and `token`.
        group_definitions: group name → e-mails.
        dry_run: send only GET requests, and print the plan.
        limits: what an unattended run may do; None does exactly what is asked.
        protected: names of groups that are never touched, beside `admins` and `users`.

    Raises:
        BiocloudError: the environment, the host, a name or an e-mail can't be used; nothing was sent.
        ScimError: the workspace can't be read; nothing was changed.
        GroupSyncError: a group is over its limit, or the workspace refused its change.
    """
    checked_environment(env)
    with Workspace.at(str(config["host"]), config["token"]) as workspace:
        _run(workspace, env, group_definitions, dry_run, limits, protected)


def _run(
    workspace: Workspace,
    environment: str,
    definitions: Mapping[str, list[str]],
    dry_run: bool,
    limits: Limits | None,
    protected: Collection[str],
) -> None:
    """Plan, then print the plan or apply it."""
    plan = make_plan(workspace, environment, definitions, limits=limits, protected=protected)
    if dry_run:
        Console().print(plan_table(plan))
        return
    results = apply_plan(workspace, plan)
    if not all(result.ok for result in results):
        raise GroupSyncError(environment, results)


# Plan and apply


def checked_environment(env: str) -> WorkspaceEnvironment:
    """Return an environment that has a workspace.

    Raises:
        BiocloudError: there is no such one.
    """
    for known in ENVIRONMENTS:
        if env == known:
            return known
    raise BiocloudError(
        "the environment",
        expected=" or ".join(ENVIRONMENTS),
        found=repr(env),
        hint="Each environment has a workspace and a file of its own.",
    )


def _refuse_protected(names: Collection[str], protected: Collection[str] = ()) -> None:
    """Raise where a group that is never touched is asked for."""
    for name in names:
        if is_protected(name, protected):
            raise BiocloudError(
                f"group {name!r}",
                expected="a group of the project's own",
                found="a protected group",
                hint="Who is in it decides who gets into the workspace; change it by hand, in the admin settings.",
            )


def make_plan(
    workspace: Workspace,
    environment: str,
    definitions: Mapping[str, list[str]],
    *,
    limits: Limits | None = None,
    protected: Collection[str] = (),
) -> Plan:
    """Read the workspace and decide what to do with every group. Only GET requests are sent.

    Args:
        workspace: the workspace.
        environment: its name in the plan.
        definitions: group name → e-mails.
        limits: what an unattended run may do; None does exactly what is asked.
        protected: names of groups that are never touched, beside `admins` and `users`.

    Raises:
        BiocloudError: a name or an e-mail can't be used; nothing was sent.
        ScimError: the workspace can't be read, or answers that nothing is there where something must be.
    """
    wanted = checked_groups(definitions)
    _refuse_protected(list(wanted), protected)
    _refuse_unknown(limits.allow_removals if limits else frozenset(), wanted)
    identity = workspace.me() if limits else None
    users = workspace.users()
    if limits and not users:
        raise _stopped("the workspace's users", "at least the token's owner", "none at all")
    known = workspace.groups()
    plans = []
    for name, emails in wanted.items():
        try:
            group_id = _id_of(name, known)
            members = workspace.members(group_id) if group_id else ()
        except BiocloudError as error:
            plans.append(GroupPlan(name, None, refused=str(error)))
            continue
        if group_id and not members and identity and not identity.admin:
            raise _stopped(f"group {name!r}", "its members", "none, with a token that isn't an administrator's")
        plans.append(plan_group(name, group_id, members, users, emails, limits=limits, identity=identity))
    return Plan(environment, tuple(plans))


def _id_of(name: str, known: Mapping[str, list[str]]) -> str | None:
    """Return the id of the one group of exactly this name; None where it has to be created.

    Args:
        name: the group's name.
        known: the ids of the workspace's groups by name.

    Raises:
        BiocloudError: which group is meant isn't certain.
    """
    identifiers = known.get(name, [])
    if len(identifiers) == 1:
        return identifiers[0]
    alike = [other for other in known if other.casefold() == name.casefold()]
    if alike:
        raise BiocloudError(
            f"group {name!r}",
            expected="one group of exactly this name, or none of it in any case",
            found=f"{len(identifiers)} groups of this name" if identifiers else f"it as {alike[0]!r}",
            hint="Write it the same way in the file and in the workspace; delete what is there twice by hand.",
        )
    return None


def apply_plan(workspace: Workspace, plan: Plan) -> tuple[GroupResult, ...]:
    """Do what a plan says, group by group, each verified by reading it back.

    What goes wrong with one group is in its result, and doesn't stop the others.

    Args:
        workspace: the workspace that the plan was made for.
        plan: the plan.
    """
    created: dict[str, str] = {}  # email → id, as two groups may want the same new user
    return tuple(_apply_group(workspace, group, created) for group in plan.groups)


def _apply_group(workspace: Workspace, group: GroupPlan, created: dict[str, str]) -> GroupResult:
    """Do what a plan says for one group."""
    if group.refused:
        return GroupResult(group.group, "left untouched", message=group.refused)
    if not group.writes:
        return GroupResult(group.group, "unchanged")
    before = set(created)
    message = ""
    try:
        add = []
        for person in group.add:
            # All users come first: where one can't be created, nothing of the group is changed.
            identifier = person.id or created.get(person.email) or workspace.create_user(person.email)
            if identifier is None:
                message = f"the workspace doesn't take the user {person.email}; the group is left untouched"
                break
            if person.id is None:
                created[person.email] = identifier
            add.append(identifier)
        else:
            group_id = group.group_id or workspace.create_group(group.group)
            remove = [person.id for person in group.remove if person.id]
            others = workspace.change_members(group_id, add=add, remove=remove) - set(add)
            if group.group_id is None and others:
                # The workspace's list missed it, so nothing was known of its members.
                message = f"it was there already, with {len(others)} other members; run again to have them planned"
    except BiocloudError as error:
        message = str(error)
    new = tuple(email for email in created if email not in before)
    if message:
        return GroupResult(group.group, "failed", created=new, message=message)
    added, removed = (tuple(person.email for person in people) for people in (group.add, group.remove))
    return GroupResult(group.group, "changed", added, removed, new)


def _refuse_unknown(names: Collection[str], wanted: Mapping[str, object]) -> None:
    """Raise where a limit is lifted for a group that isn't synced: it is a slip of the pen."""
    for name in sorted(set(names) - set(wanted)):
        raise BiocloudError(
            f"--allow-removals {name}",
            expected=f"one of the groups {', '.join(sorted(wanted))}",
            found="another name",
            hint="Write the name as in the file.",
        )


def _stopped(thing: str, expected: str, found: str) -> ScimError:
    """Return the error for an empty answer where there can't be one."""
    return ScimError(
        thing,
        expected=expected,
        found=found,
        hint="The run is stopped, as whoever can't be seen would be taken for gone. Use an administrator's token.",
    )


# The command


def load_groups(env: WorkspaceEnvironment, settings: WorkspaceSettings, *, allow_empty: bool = False) -> GroupFile:
    """Read the groups of an environment.

    Raises:
        BiocloudError: there is no file, or it breaks the rules.
    """
    return read_group_file(settings.groups / f"{env}_group.yml", allow_empty=allow_empty)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sync_groups.py",
        description="Make the members of the Databricks groups those of groups/<environment>_group.yml.",
        epilog="Exit codes: 0 in step, or planned; 1 a group failed or was over its limit; 2 wrong use, nothing sent.",
    )
    parser.add_argument("environment", choices=ENVIRONMENTS)
    parser.add_argument("--dry-run", action="store_true", help="send only GET requests, and show the plan")
    parser.add_argument("--json", action="store_true", help="print the plan and the result as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the plan as Markdown")
    parser.add_argument(
        "--allow-removals",
        action="append",
        default=[],
        metavar="GROUP",
        help="let this group lose more than a quarter of its members, in this run; may be repeated",
    )
    parser.add_argument("--allow-empty", action="store_true", help="let a list be an explicit []")
    parser.add_argument(
        "--protected",
        action="append",
        default=[],
        metavar="GROUP",
        help="a group never to touch, beside admins and users; may be repeated",
    )
    return parser


def main() -> None:
    """Run the command; see `--help`. It ends the process with an exit code, unless that is 0."""
    options = _parser().parse_args()
    errors = Console(stderr=True, soft_wrap=True)
    try:
        settings = WorkspaceSettings()
        file = load_groups(options.environment, settings, allow_empty=options.allow_empty)
        config = settings.workspace(options.environment)
        limits = Limits(
            allow_removals=frozenset(options.allow_removals),
            allow_empty=options.allow_empty,
            required=frozenset(file.required),
        )
        with Workspace.at(str(config["host"]), config["token"]) as workspace:
            # As data goes to stdout alone, a person reads the tables on stderr.
            console = errors if options.json else Console()
            plan = make_plan(workspace, options.environment, file.groups, limits=limits, protected=options.protected)
            console.print(plan_table(plan))
            if options.markdown:
                options.markdown.write_text(plan_markdown(plan), encoding="utf-8")
            results = None if options.dry_run else apply_plan(workspace, plan)
            if results is not None:
                console.print(result_table(plan.environment, results))
            if options.json:
                print(json.dumps(as_data(plan, results), indent=2))
    except ScimError as error:
        _end(errors, error, 1)
    except BiocloudError as error:
        _end(errors, error, 2)
    over = [group.group for group in plan.groups if group.refused]
    failed = [result.group for result in results or () if not result.ok]
    if over or failed:
        sys.exit(1)


def _end(errors: Console, error: BiocloudError, code: int) -> NoReturn:
    errors.print(str(error), style="bold red", markup=False, highlight=False)
    sys.exit(code)
