"""The large workspace of the request counts: 2,000 users, 20 groups of 50, of which 10 are to change by 60 members.

The tests and the benchmark share it.
"""

from __future__ import annotations

from databricks_workspace import DatabricksWorkspace

USERS, GROUPS, SIZE, CHANGED, NEW = 2_000, 20, 50, 10, 5


def set_up(workspace: DatabricksWorkspace) -> dict[str, list[str]]:
    """Fill the workspace; return the wanted groups: in 10 of them 3 members leave and 3 come, 5 of those new users."""
    ids = {email: workspace.add_user(email) for email in (f"user{n}@biocloud.example" for n in range(USERS))}
    emails = list(ids)
    wanted = {}
    for number in range(GROUPS):
        members = emails[number * SIZE : (number + 1) * SIZE]
        workspace.add_group(f"group{number}", [ids[email] for email in members])
        if number < CHANGED:
            newcomers = emails[-3 * (number + 1) : len(emails) - 3 * number]
            if number < NEW:
                newcomers = [f"new{number}@biocloud.example", *newcomers[1:]]
            members = members[3:] + newcomers
        wanted[f"group{number}"] = members
    return wanted
