"""The plan of a sync: what would be added to and removed from each group, as data.

What belongs here: the decision, made from what is wanted and what is there, and what came of it. What doesn't:
requests, and how a plan looks. The plan that is shown is the plan that is applied.

The safety is that of Kubernetes' peribolos (https://docs.prow.k8s.io/docs/components/cli-tools/peribolos/): a cap on
the share of removals, required members, additions before removals.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from biocloud_assets.access.scim import Identity, Member

PROTECTED = frozenset({"admins", "users"})  # the workspace's own groups: who is in them decides who gets in at all

Outcome = Literal["unchanged", "changed", "left untouched", "failed"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a run that nobody watches may do.

    Attributes:
        removal_share: the share of a group's user members that one run may remove; one may always go.
        allow_removals: names of groups for which that share doesn't count in this run.
        allow_empty: whether a group may lose its last user member.
        required: e-mails, in small letters, that are removed from no group.
    """

    removal_share: float = 0.25
    allow_removals: frozenset[str] = frozenset()
    allow_empty: bool = False
    required: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Person:
    """A user: the e-mail in small letters, and the id, None where the user has to be created."""

    email: str
    id: str | None


@dataclass(frozen=True)
class GroupPlan:
    """What a sync does to one group.

    Attributes:
        group: its name.
        group_id: its id; None where it has to be created.
        members: how many user members it has now.
        add: who becomes a member.
        remove: who stops being one.
        kept: members that are not asked for and stay, each with the reason.
        refused: why the group is left untouched; empty where it isn't.
    """

    group: str
    group_id: str | None
    members: int = 0
    add: tuple[Person, ...] = ()
    remove: tuple[Person, ...] = ()
    kept: tuple[str, ...] = ()
    refused: str = ""

    @property
    def writes(self) -> bool:
        """Whether applying it sends anything but GET."""
        return not self.refused and (self.group_id is None or bool(self.add or self.remove))


@dataclass(frozen=True)
class Plan:
    """What a sync does to all groups of an environment."""

    environment: str
    groups: tuple[GroupPlan, ...]


@dataclass(frozen=True)
class GroupResult:
    """What came of one group's plan: the e-mails added and removed, the users created, and what went wrong."""

    group: str
    outcome: Outcome
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    created: tuple[str, ...] = field(default=())
    message: str = ""

    @property
    def ok(self) -> bool:
        """Whether the group is now as asked for."""
        return self.outcome in {"unchanged", "changed"}


def is_protected(name: str, protected: Collection[str] = ()) -> bool:
    """Whether a group is never touched, however its name is written.

    Args:
        name: the group's name.
        protected: names beside the workspace's own, `PROTECTED`.
    """

    def plain(text: str) -> str:
        return unicodedata.normalize("NFKC", text).strip().casefold()

    return plain(name) in {plain(one) for one in (*PROTECTED, *protected)}


def plan_group(
    group: str,
    group_id: str | None,
    members: Sequence[Member],
    users: Mapping[str, str],
    desired: Iterable[str],
    *,
    limits: Limits | None = None,
    identity: Identity | None = None,
) -> GroupPlan:
    """Decide what a sync does to one group.

    Args:
        group: its name.
        group_id: its id; None where there is no such group yet.
        members: its members, of every kind.
        users: e-mail → id of every user of the workspace; e-mails in small letters.
        desired: the e-mails of who should be a member, in small letters.
        limits: what an unattended run may do; None does exactly what is asked.
        identity: whose token it is, who is never removed by an unattended run.
    """
    emails = {identifier: email for email, identifier in users.items()}
    current: dict[str, str] = {}
    kept: list[str] = []
    for member in members:
        if member.kind in {"user", "unknown"} and member.id in emails:
            current[member.id] = emails[member.id]
        else:
            # A user that the workspace doesn't list may be anyone: nobody is removed whose name can't be told.
            what = "a user that can't be looked up" if member.kind in {"user", "unknown"} else f"a {member.kind}"
            kept.append(f"{member.name or member.id} ({what})")
    wanted = set(desired)
    remove = []
    for identifier, email in current.items():
        if email in wanted:
            continue
        if limits and email in limits.required:
            kept.append(f"{email} (required)")
        elif limits and identity and identifier == identity.id:
            kept.append(f"{email} (the token's owner)")
        else:
            remove.append(Person(email, identifier))
    add = [Person(email, users.get(email)) for email in wanted - set(current.values())]
    return GroupPlan(
        group,
        group_id,
        members=len(current),
        add=tuple(sorted(add, key=lambda person: person.email)),
        remove=tuple(sorted(remove, key=lambda person: person.email)),
        kept=tuple(sorted(kept)),
        refused=_over_limit(group, len(current), len(add), len(remove), limits) if limits else "",
    )


def _over_limit(group: str, members: int, adds: int, removals: int, limits: Limits) -> str:
    """Say which limits a plan breaks; nothing where it breaks none."""
    reasons = []
    if removals and removals == members and not adds and not limits.allow_empty:
        reasons.append("it would lose its last user member; write an explicit [] and allow it with --allow-empty")
    most = max(1, int(members * limits.removal_share))
    if removals > most and group not in limits.allow_removals:
        reasons.append(
            f"{removals} of its {members} user members would be removed, at most {most} may go in one run; "
            f"check the file, then allow it once with --allow-removals {group}"
        )
    return "; ".join(reasons)


def as_data(plan: Plan, results: Sequence[GroupResult] | None = None) -> dict[str, Any]:
    """Return a plan and, where it was applied, its results as plain data for JSON."""
    return asdict(plan) | {"results": None if results is None else [asdict(result) for result in results]}
