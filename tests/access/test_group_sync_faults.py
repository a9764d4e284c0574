"""Each kind of fault at each request of a run: it converges, or stops with a message and nobody worse off."""

from __future__ import annotations

import pytest
from databricks_workspace import ADMIN, FAULTS, TOKEN, DatabricksWorkspace

from biocloud_assets.access.plan import GroupResult, Limits
from biocloud_assets.access.scim import Patience, Workspace
from biocloud_assets.access.sync_groups import apply_plan, make_plan
from biocloud_assets.errors import BiocloudError

PATIENT = Patience(attempts=3, reads=3, first_wait=0.001, longest_wait=1.5, read_timeout=0.15)
PASSING = {kind for kind in FAULTS if kind not in {"409", "a log-in page", "empty list"}}

# Removals, additions, a new user in two groups, a new group, other kinds of members, and a group that needs nothing.
BEFORE = {
    "alpha": {"u0", "u1", "u2", "u3", "etl"},
    "beta": {"u4", "nested"},
    "same": {"u1"},
    "elsewhere": {"u0", "u4"},
}
WANTED = {
    "alpha": ["u1@y.org", "u2@y.org", "u3@y.org", "u4@y.org"],
    "beta": ["U4@y.org", "new@y.org"],
    "gamma": ["new@y.org", "u5@y.org"],
    "same": ["u1@y.org"],
}


def set_up(workspace: DatabricksWorkspace) -> dict[str, str]:
    """Make the workspace as it is before the run; return the ids by short name."""
    workspace.reset()
    ids = {f"u{n}": workspace.add_user(f"u{n}@y.org") for n in range(6)}
    ids |= {"etl": workspace.add_service_principal("etl"), "nested": workspace.add_group("nested")}
    for name, members in BEFORE.items():
        workspace.add_group(name, [ids[member] for member in sorted(members)])
    return ids


def run(workspace: DatabricksWorkspace) -> tuple[GroupResult, ...] | str:
    """Sync as what runs unattended does; return the results, or the message with which it stopped."""
    try:
        with Workspace.at(workspace.host, TOKEN, patience=PATIENT) as client:
            return apply_plan(client, make_plan(client, "development", WANTED, limits=Limits()))
    except BiocloudError as error:
        return str(error)


def in_step(workspace: DatabricksWorkspace) -> bool:
    return all(
        name in workspace.everything() and workspace.people(name) == {email.lower() for email in emails}
        for name, emails in WANTED.items()
    )


def check_nobody_is_worse_off(workspace: DatabricksWorkspace, ids: dict[str, str]) -> None:
    """What holds whenever and wherever a run stops."""
    everything = workspace.everything()
    assert everything["admins"] == {workspace.admin}
    assert everything["elsewhere"] == {ids[member] for member in BEFORE["elsewhere"]}
    for name, emails in WANTED.items():
        wanted = {email.lower() for email in emails}
        before = BEFORE.get(name, set())
        people_before = {f"{member}@y.org" for member in before if member.startswith("u")}
        if name not in everything:
            assert not before
            continue
        people = workspace.people(name)
        assert people >= people_before & wanted, "a desired member was removed"
        assert people <= people_before | wanted, "somebody else was added"
        assert people >= people_before or people >= wanted, "a member was removed before all were added"
        assert everything[name] >= {ids[member] for member in before & {"etl", "nested"}}
    assert set(workspace.emails()) <= {ADMIN, "new@y.org", *(f"u{n}@y.org" for n in range(6))}


def check_the_next_run_mends_it(workspace: DatabricksWorkspace) -> None:
    if not in_step(workspace):
        workspace.behave()
        assert not isinstance(run(workspace), str)
        assert in_step(workspace)


def count_requests(workspace: DatabricksWorkspace) -> int:
    set_up(workspace)
    workspace.behave()
    assert not isinstance(run(workspace), str)
    assert in_step(workspace)
    return len(workspace.log)


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_at_any_one_request(workspace: DatabricksWorkspace, kind: str) -> None:
    requests = count_requests(workspace)
    assert requests >= 14
    for number in range(requests):
        ids = set_up(workspace)
        workspace.behave(faults={number: kind}, strict=number % 2 == 0)
        outcome = run(workspace)
        check_nobody_is_worse_off(workspace, ids)
        told = isinstance(outcome, str) or any(result.message for result in outcome)
        assert told or in_step(workspace), f"{kind} at request {number}: neither in step nor a message"
        if kind in PASSING:
            assert in_step(workspace), f"{kind} at request {number}: {outcome}"
        check_the_next_run_mends_it(workspace)


@pytest.mark.parametrize("kind", ["409", "500", "connection dropped after", "a log-in page"])
def test_a_fault_that_stays_from_any_request_on(workspace: DatabricksWorkspace, kind: str) -> None:
    for number in range(count_requests(workspace)):
        ids = set_up(workspace)
        workspace.behave(faults_from=(number, kind))
        outcome = run(workspace)
        check_nobody_is_worse_off(workspace, ids)
        told = isinstance(outcome, str) or any(result.message for result in outcome)
        assert told or in_step(workspace), f"{kind} from request {number}: neither in step nor a message"
        check_the_next_run_mends_it(workspace)


def test_a_fault_in_one_group_does_not_stop_the_others(workspace: DatabricksWorkspace) -> None:
    set_up(workspace)
    alpha = workspace.group_id("alpha")
    workspace.behave(intercept=lambda request: (500, {}, {}) if request.path == f"/Groups/{alpha}" else None)
    outcome = run(workspace)
    assert not isinstance(outcome, str)
    assert {result.group: result.outcome for result in outcome} == {
        "alpha": "left untouched",
        "beta": "changed",
        "gamma": "changed",
        "same": "unchanged",
    }
    set_up(workspace)
    workspace.behave(intercept=lambda request: (500, {}, {}) if request.method == "PATCH" else None)
    outcome = run(workspace)
    assert not isinstance(outcome, str)
    assert [result.outcome for result in outcome] == ["failed", "failed", "failed", "unchanged"]
