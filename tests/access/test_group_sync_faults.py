"""Each kind of fault at each request of a run: the run succeeds, or stops with a message and nobody loses access."""

from __future__ import annotations

import pytest
from databricks_workspace import ADMIN, FAULTS, DatabricksWorkspace
from helpers import outcomes, sync

from biocloud_assets.access.plan import SyncReport
from biocloud_assets.access.scim import RetryPolicy
from biocloud_assets.errors import BiocloudError

POLICY = RetryPolicy(total=2.0, visible=0.01, backoff=0.001, timeout=(1.0, 0.15))
PASSING = {kind for kind in FAULTS if kind not in {"409", "a log-in page", "empty list"}}

# Removals, additions, a new user in two groups, a new group, other kinds of members, and an unchanged group.
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


def run(workspace: DatabricksWorkspace) -> SyncReport | str:
    """Synchronise; return the report, or the message with which the run stopped."""
    try:
        return sync(workspace, WANTED, policy=POLICY)
    except BiocloudError as error:
        return str(error)


def has_message(outcome: SyncReport | str) -> bool:
    return isinstance(outcome, str) or any(outcome.failures.values())


def is_as_wanted(workspace: DatabricksWorkspace) -> bool:
    return all(
        name in workspace.everything() and workspace.people(name) == {email.lower() for email in emails}
        for name, emails in WANTED.items()
    )


def check_nobody_lost_access(workspace: DatabricksWorkspace, ids: dict[str, str]) -> None:
    """Assert what holds at whatever request a run stops."""
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


def check_the_next_run_completes_it(workspace: DatabricksWorkspace) -> None:
    if not is_as_wanted(workspace):
        workspace.behave()
        assert not isinstance(run(workspace), str)
        assert is_as_wanted(workspace)


def count_requests(workspace: DatabricksWorkspace) -> int:
    set_up(workspace)
    workspace.behave()
    assert not isinstance(run(workspace), str)
    assert is_as_wanted(workspace)
    return len(workspace.log)


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_at_any_one_request(workspace: DatabricksWorkspace, kind: str) -> None:
    requests = count_requests(workspace)
    assert requests >= 14
    for number in range(requests):
        ids = set_up(workspace)
        workspace.behave(faults={number: kind}, strict=number % 2 == 0)
        outcome = run(workspace)
        check_nobody_lost_access(workspace, ids)
        assert has_message(outcome) or is_as_wanted(workspace), f"{kind} at request {number}: no message"
        if kind in PASSING:
            assert is_as_wanted(workspace), f"{kind} at request {number}: {outcome}"
        check_the_next_run_completes_it(workspace)


@pytest.mark.parametrize("kind", ["409", "500", "connection dropped after", "a log-in page"])
def test_a_fault_that_stays_from_any_request_on(workspace: DatabricksWorkspace, kind: str) -> None:
    for number in range(count_requests(workspace)):
        ids = set_up(workspace)
        workspace.behave(faults_from=(number, kind))
        outcome = run(workspace)
        check_nobody_lost_access(workspace, ids)
        assert has_message(outcome) or is_as_wanted(workspace), f"{kind} from request {number}: no message"
        check_the_next_run_completes_it(workspace)


def test_a_fault_in_one_group_does_not_stop_the_others(workspace: DatabricksWorkspace) -> None:
    set_up(workspace)
    alpha = workspace.group_id("alpha")
    workspace.behave(intercept=lambda request: (500, {}, {}) if request.path == f"/Groups/{alpha}" else None)
    outcome = run(workspace)
    assert not isinstance(outcome, str)
    assert outcomes(outcome) == ["refused", "changed", "changed", "unchanged"]
    set_up(workspace)
    workspace.behave(intercept=lambda request: (500, {}, {}) if request.method == "PATCH" else None)
    outcome = run(workspace)
    assert not isinstance(outcome, str)
    assert outcomes(outcome) == ["failed", "failed", "failed", "unchanged"]
