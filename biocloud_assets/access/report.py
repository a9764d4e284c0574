"""How a plan and its results look to a person: coloured tables for a terminal, Markdown for a merge request.

What doesn't belong here: anything that decides or sends.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from biocloud_assets.access.plan import GroupPlan, GroupResult, Person, Plan


def changes(group: GroupPlan) -> list[tuple[str, str]]:
    """Return the lines of one group's plan: a sign (`+`, `-`, `=`, `!` or nothing) and what it is about."""
    if group.refused:
        lines = [("!", f"left untouched: {group.refused}")]
    elif group.group_id is None:
        lines = [("+", "the group is created")]
    else:
        lines = []
    lines += [("+", _named(person)) for person in group.add]
    lines += [("-", person.email) for person in group.remove]
    lines += [("=", f"{kept} stays") for kept in group.kept]
    return lines or [("", "nothing to do")]


def plan_table(plan: Plan) -> Table:
    """Return the plan as a coloured table."""
    table = Table("group", "members", "change", title=f"Plan for {plan.environment}", title_justify="left")
    colours = {"+": "green", "-": "red", "!": "bold yellow", "=": "cyan", "": "dim"}
    for group in plan.groups:
        text = Text()
        for number, (sign, line) in enumerate(changes(group)):
            text.append("\n" if number else "").append(f"{sign} {line}".strip(), colours[sign])
        table.add_row(Text(group.group), str(group.members), text)
    return table


def result_table(environment: str, results: Sequence[GroupResult]) -> Table:
    """Return the results as a coloured table."""
    table = Table("group", "result", "added", "removed", "created", "message", title_justify="left")
    table.title = f"Result for {environment}"
    for one in results:
        colour = {"changed": "green", "unchanged": "dim"}.get(one.outcome, "bold red")
        counts = (str(len(people)) for people in (one.added, one.removed, one.created))
        table.add_row(Text(one.group), Text(one.outcome, colour), *counts, Text(one.message))
    return table


def plan_markdown(plan: Plan) -> str:
    """Return the plan as Markdown, for a merge request."""
    lines = [f"# Group sync: plan for {plan.environment}", "", "| group | members | change |", "|---|---|---|"]
    for group in plan.groups:
        cell = "<br>".join(f"{sign} {_escaped(line)}".strip() for sign, line in changes(group))
        lines.append(f"| {_escaped(group.group)} | {group.members} | {cell} |")
    writing = sum(group.writes for group in plan.groups)
    refused = sum(bool(group.refused) for group in plan.groups)
    return "\n".join([*lines, "", f"{writing} of {len(plan.groups)} groups change, {refused} are left untouched.", ""])


def _named(person: Person) -> str:
    return person.email if person.id else f"{person.email} (a new user)"


def _escaped(text: str) -> str:
    """Return a text that Markdown shows as it is, in one cell of a table."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{sign}" if sign in "\\`*_{}[]()#+!|~@" else sign for sign in " ".join(text.split()))
