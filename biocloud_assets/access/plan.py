"""What a group sync does to each group, and what came of it: data, and the same as Markdown.

The limits are those of Kubernetes' peribolos (https://docs.prow.k8s.io/docs/components/cli-tools/peribolos/): a cap on
the share of removals, required members, additions before removals.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from biocloud_assets.access.scim import Group, Member, User

PROTECTED = frozenset({"admins", "users", "account users"})  # their members decide who gets in at all


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a sync may remove.

    Attributes:
        removal_share: the share of a group's user members that one run may remove; one may always be removed, unless
            it is the last.
        allow_removals: names of groups from which any number may be removed.
    """

    removal_share: float = 0.25
    allow_removals: frozenset[str] = frozenset()


SAFE_LIMITS = Limits()


@dataclass(kw_only=True)
class GroupSync:
    """What a sync does to one group and, once it is applied, what it did.

    Attributes:
        group: the group's name.
        id: the group's id; None if it has to be created.
        kind: `account`, or `workspace` for a group that is local to the workspace.
        members: how many user members it has.
        add: users who become members, e-mail → id; None if the user has to be created.
        remove: users who stop being members, id → userName.
        kept: members that are not in the file and stay, each with the reason.
        warnings: what a person should look at.
        outcome: `refused` by the plan, or `failed` when it was applied; `reason` says why.
        added: e-mails of the users who were added.
        removed: userNames of the users who were removed.
    """

    group: str
    id: str | None = None
    kind: Literal["account", "workspace"] = "workspace"
    members: int = 0
    add: dict[str, str | None] = field(default_factory=dict)
    remove: dict[str, str] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    outcome: Literal["unchanged", "planned", "refused", "changed", "failed"] = "unchanged"
    reason: str = ""
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class SyncReport:
    """The plan for an environment and, once it is applied, the results so far.

    Attributes:
        environment: `development` or `production`.
        groups: one entry for each group of the file.
        applied: whether the plan is being applied, or was.
        users_created: the e-mails of the users who were created.
    """

    environment: str
    groups: list[GroupSync]
    applied: bool = False
    users_created: list[str] = field(default_factory=list)

    @property
    def failures(self) -> dict[str, str]:
        """The groups that are not as in the file, with the reason."""
        return {group.group: group.reason for group in self.groups if group.outcome in {"refused", "failed"}}


def is_protected(name: str) -> bool:
    """Whether a group is one of the workspace or account itself, which is never changed.

    Args:
        name: the group's name, in any case and with any spaces around it.
    """
    return unicodedata.normalize("NFKC", name).strip().casefold() in PROTECTED


def index_by_address(users: Iterable[User]) -> dict[str, list[User]]:
    """Return the users by userName and by e-mail. A userName takes precedence over another user's e-mail.

    Args:
        users: every user of the server.

    Returns:
        for each address in lower case the users who have it; more than one if it isn't unique.
    """
    by_name, by_email = defaultdict(list), defaultdict(list)
    for user in users:
        by_name[user.name].append(user)
        for email in user.emails:
            by_email[email].append(user)
    return by_email | by_name


def plan_group(
    name: str,
    group: Group | None,
    members: Sequence[Member],
    users: Mapping[str, Sequence[User]],
    desired: Iterable[str],
    *,
    required: Collection[str] = (),
    token_owner: str = "",
    limits: Limits = SAFE_LIMITS,
) -> GroupSync:
    """Decide what a sync does to one group.

    Args:
        name: the group's name.
        group: the group; None if it has to be created.
        members: its members, of every kind.
        users: every user of the server, as of `index_by_address`.
        desired: the e-mails of the desired members, in lower case.
        required: e-mails, in lower case, that are never removed.
        token_owner: the id of the user whose token it is, who is never removed; empty if it isn't known, as for an
            account.
        limits: what the sync may remove.
    """
    by_id = {user.id: user for found in users.values() for user in found}
    current = {member.id: by_id[member.id] for member in members if member.kind == "user" and member.id in by_id}
    plan = GroupSync(group=name, members=len(current))
    if group:
        plan.id, plan.kind = group.id, group.kind
    for member in members:
        if member.id not in current:  # a user that isn't listed may be anyone, and so isn't removed
            kind = "a user that is not listed" if member.kind == "user" else f"a {member.kind}"
            plan.kept.append(f"{member.name or member.id} ({kind})")
    wanted: set[str] = set()
    reasons = []
    for email in sorted(set(desired)):
        found = users.get(email, ())
        if len(found) > 1:
            names = ", ".join(f"{user.name} ({user.id})" for user in found)
            reasons.append(f"{email} is the address of {len(found)} users: {names}; rename or delete all but one")
        elif not found:
            plan.add[email] = None
        elif not found[0].active and found[0].id not in current:
            plan.warnings.append(f"{email} is deactivated and is not added")
        elif found[0].id not in wanted:
            wanted.add(found[0].id)
            if found[0].id not in current:
                plan.add[email] = found[0].id
    for user in sorted(current.values()):
        if user.id not in wanted:
            if user.id == token_owner or not {user.name, *user.emails}.isdisjoint(required):
                plan.kept.append(f"{user.name} ({'the token owner' if user.id == token_owner else 'required'})")
            else:
                plan.remove[user.id] = user.name
    most = max(1, int(len(current) * limits.removal_share))
    is_emptied = len(plan.remove) == len(current) and not plan.add
    if plan.remove and (is_emptied or len(plan.remove) > most) and name not in limits.allow_removals:
        cap = "it would be empty" if is_emptied else f"at most {most} may be removed in one run"
        reasons.append(
            f"{len(plan.remove)} of its {len(current)} user members would be removed, and {cap}; "
            f"if the file is right, allow it once with --allow-removals '{name}'"
        )
    plan.reason = "; ".join(reasons)
    plan.outcome = "refused" if reasons else "planned" if plan.add or plan.remove or not group else "unchanged"
    return plan


def render(report: SyncReport, escape: Callable[[str], str] = str) -> str:
    """Return the plan, or the results if it is applied, as Markdown; no line is wrapped.

    Args:
        report: the plan and the results.
        escape: makes a text safe for Markdown; the default leaves it as it reads best in a terminal.
    """
    rows: list[tuple[str, ...]] = [("group", "kind", "members", "add", "remove", "outcome")]
    changes = []
    for one in report.groups:
        done = one.outcome in {"changed", "failed"}
        add, remove = (one.added, one.removed) if done else (list(one.add), list(one.remove.values()))
        rows.append((escape(one.group), one.kind, str(one.members), str(len(add)), str(len(remove)), one.outcome))
        lines = [f"{'added' if done else 'add'} {email}" for email in add]
        lines += [f"{'removed' if done else 'remove'} {name}" for name in remove]
        lines += [f"keep {kept}" for kept in one.kept] + [f"warning: {warning}" for warning in one.warnings]
        if lines:
            changes += [f"{escape(one.group)}:", "", *(f"- {escape(line)}" for line in lines), ""]
    new = [email for one in report.groups for email, user_id in one.add.items() if user_id is None]
    users = report.users_created if report.applied else list(dict.fromkeys(new))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    text = [f"# Group sync of {report.environment}: {'result' if report.applied else 'plan'}", ""]
    text += ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    text += ["", *changes]
    if users:
        text += [f"Users {'created' if report.applied else 'to create'}:", ""]
        text += [*(f"- {escape(email)}" for email in users), ""]
    if report.failures:
        text += ["Not as in the file:", ""]
        text += [*(f"- {escape(group)}: {escape(reason)}" for group, reason in report.failures.items()), ""]
    return "\n".join(text)


def escape_markdown(text: str) -> str:
    """Return a text that Markdown shows as it is, in one cell of a table."""
    text = " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())
    return "".join(f"\\{sign}" if sign in "\\`*_{}[]()#+!|~@" else sign for sign in text)
