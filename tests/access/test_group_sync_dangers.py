"""Each way in which a group sync could lock someone out or give a secret away, shown not to happen."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from databricks_workspace import ADMIN, TOKEN, DatabricksWorkspace, Request
from hypothesis import given
from hypothesis import strategies as st

from biocloud_assets.access import scim
from biocloud_assets.access.plan import GroupResult, Limits, Plan, is_protected, plan_group
from biocloud_assets.access.scim import Identity, Member, Patience, ScimError, Workspace
from biocloud_assets.access.sync_groups import (
    GroupSyncError,
    apply_plan,
    create_group,
    fetch_all_users,
    get_group_id,
    make_plan,
    sync_all_groups_for_env,
    sync_group,
)
from biocloud_assets.errors import BiocloudError

FAST = Patience(attempts=3, reads=4, first_wait=0.001, longest_wait=0.2, read_timeout=5.0)
LIMITS = Limits()


def run(
    workspace: DatabricksWorkspace,
    wanted: dict[str, list[str]],
    limits: Limits | None = LIMITS,
    patience: Patience = FAST,
    **options: Any,
) -> tuple[Plan, tuple[GroupResult, ...]]:
    """Plan and apply, as what runs unattended does, with short waits."""
    with Workspace.at(workspace.host, TOKEN, patience=patience) as client:
        plan = make_plan(client, "development", wanted, limits=limits, **options)
        return plan, apply_plan(client, plan)


def people(workspace: DatabricksWorkspace, count: int) -> dict[str, str]:
    """Create so many users; return their ids by e-mail."""
    return {email: workspace.add_user(email) for email in (f"user{n}@biocloud.example" for n in range(count))}


# Protected groups and members


@pytest.mark.parametrize("name", ["admins", "users", "Admins", "USERS", " admins", "ａｄｍｉｎｓ"])
def test_the_groups_of_the_workspace_are_never_touched(workspace: DatabricksWorkspace, name: str) -> None:
    before = workspace.everything()
    with pytest.raises(BiocloudError):
        sync_group(name, ["x@y.org"], workspace.groups_api, workspace.users_api, workspace.headers)
    with pytest.raises(BiocloudError):
        sync_all_groups_for_env("development", workspace.config, {"fine": ["x@y.org"], name: []})
    with pytest.raises(BiocloudError, match="protected group"):
        create_group(name, workspace.groups_api, workspace.headers)
    assert workspace.log == []
    assert workspace.everything() == before


def test_further_groups_can_be_protected(workspace: DatabricksWorkspace) -> None:
    with pytest.raises(BiocloudError, match="protected group"):
        sync_all_groups_for_env(
            "development", workspace.config, {"Data Owners": ["x@y.org"]}, protected=["data owners"]
        )
    assert workspace.log == []
    assert is_protected("Data Owners", ["data owners"])
    assert not is_protected("biocloud_users_development")


def test_a_crafted_name_does_not_reach_another_group(workspace: DatabricksWorkspace) -> None:
    crafted = 'x" or displayName eq "admins'
    assert get_group_id(crafted, workspace.groups_api, workspace.headers) is None
    run(workspace, {crafted: ["x@y.org"]})
    assert workspace.people("admins") == {ADMIN}
    assert workspace.people(crafted) == {"x@y.org"}


def test_a_server_that_reads_a_filter_loosely_does_not_mislead(workspace: DatabricksWorkspace) -> None:
    def everything(request: Request) -> tuple[int, dict[str, str], Any] | None:
        both = [{"id": "1", "displayName": "admins"}, {"id": "2", "displayName": "Biologists"}]
        return 200, {}, {"totalResults": 2, "Resources": both}

    workspace.behave(intercept=everything)
    assert get_group_id("biologists", workspace.groups_api, workspace.headers) is None


def test_two_groups_of_one_name_are_left_untouched(workspace: DatabricksWorkspace) -> None:
    def twice(request: Request) -> tuple[int, dict[str, str], Any] | None:
        if request.path != "/Groups":
            return None
        both = [{"id": "1", "displayName": "biologists"}, {"id": "2", "displayName": "biologists"}]
        return 200, {}, {"totalResults": 2, "Resources": both}

    workspace.behave(intercept=twice)
    with pytest.raises(ScimError, match="several"):
        get_group_id("biologists", workspace.groups_api, workspace.headers)
    _, results = run(workspace, {"biologists": [ADMIN]})
    assert results[0].outcome == "left untouched"
    assert "2 groups of this name" in results[0].message
    assert workspace.writes == []


def test_a_group_written_in_another_case_is_left_untouched_and_named(workspace: DatabricksWorkspace) -> None:
    workspace.add_group("Biologists")
    _, results = run(workspace, {"biologists": [ADMIN], "botanists": [ADMIN]})
    assert [result.outcome for result in results] == ["left untouched", "changed"]
    assert "'Biologists'" in results[0].message


def test_other_kinds_of_members_are_never_removed(workspace: DatabricksWorkspace) -> None:
    """Even where the list is emptied: service principals, nested groups, and whoever can't be resolved."""
    leaver = workspace.add_user("leaver@biocloud.example")
    gone = workspace.add_user("gone@biocloud.example")
    others = {workspace.add_service_principal("etl"), workspace.add_group("nested"), "ghost-1"}
    workspace.add_group("biologists", [leaver, *others])
    workspace.delete_user(gone)
    plan, _ = run(workspace, {"biologists": []}, limits=None)
    assert workspace.members("biologists") == others
    assert len(plan.groups[0].kept) == 3
    assert any("etl (a service principal)" in kept for kept in plan.groups[0].kept)


def test_a_user_that_the_list_misses_is_not_removed_nor_made_twice(workspace: DatabricksWorkspace) -> None:
    """A list that changes while it is read may miss someone."""
    ids = people(workspace, 4)
    workspace.add_group("biologists", ids.values())
    missed = "user1@biocloud.example"

    def without(request: Request) -> tuple[int, dict[str, str], Any] | None:
        if request.method != "GET" or request.path != "/Users" or "filter" in request.query:
            return None
        listed = [{"id": one, "userName": email} for email, one in workspace.emails().items() if email != missed]
        return 200, {}, {"totalResults": len(listed), "Resources": listed}

    workspace.behave(intercept=without)
    run(workspace, {"biologists": [email for email in ids if email != missed]})
    assert missed in workspace.people("biologists")
    run(workspace, {"biologists": list(ids)})
    assert workspace.people("biologists") == set(ids)
    assert workspace.emails() == ids | {ADMIN: workspace.admin}


# Limits


@pytest.mark.parametrize(("members", "most"), [(1, 1), (2, 1), (4, 1), (7, 1), (8, 2), (20, 5)])
def test_at_most_a_quarter_of_the_user_members_goes_in_one_run(
    workspace: DatabricksWorkspace, members: int, most: int
) -> None:
    ids = people(workspace, members)
    workspace.add_group("biologists", ids.values())
    newcomer = "newcomer@biocloud.example"
    before = workspace.everything()
    if members > most:
        _, results = run(workspace, {"biologists": [newcomer, *list(ids)[most + 1 :]]})
        assert results[0].outcome == "left untouched"
        assert f"at most {most}" in results[0].message
        assert workspace.writes == []
        assert workspace.everything() == before
    _, results = run(workspace, {"biologists": [newcomer, *list(ids)[most:]]})
    assert results[0].outcome == "changed"
    assert len(workspace.people("biologists")) == members - most + 1


def test_the_cap_is_lifted_by_name_for_one_run(workspace: DatabricksWorkspace) -> None:
    ids = people(workspace, 8)
    for group in ("biologists", "botanists"):
        workspace.add_group(group, ids.values())
    limits = Limits(allow_removals=frozenset({"biologists"}))
    _, results = run(workspace, {"biologists": list(ids)[:2], "botanists": list(ids)[:2]}, limits)
    assert [result.outcome for result in results] == ["changed", "left untouched"]
    assert workspace.people("botanists") == set(ids)


def test_lifting_the_cap_of_a_group_that_is_not_synced_is_a_slip(workspace: DatabricksWorkspace) -> None:
    with pytest.raises(BiocloudError, match="--allow-removals biologist:"):
        run(workspace, {"biologists": [ADMIN]}, Limits(allow_removals=frozenset({"biologist"})))
    assert workspace.log == []


def test_a_group_is_not_emptied_unless_asked_for(workspace: DatabricksWorkspace) -> None:
    workspace.add_group("biologists", people(workspace, 1).values())
    _, results = run(workspace, {"biologists": []})
    assert results[0].outcome == "left untouched"
    assert "--allow-empty" in results[0].message
    assert workspace.writes == []
    run(workspace, {"biologists": []}, Limits(allow_empty=True))
    assert workspace.people("biologists") == set()


def test_a_group_over_its_limit_does_not_stop_the_others(workspace: DatabricksWorkspace) -> None:
    ids = people(workspace, 8)
    workspace.add_group("biologists", ids.values())
    with pytest.raises(GroupSyncError, match="biologists left untouched") as failed:
        sync_all_groups_for_env(
            "development", workspace.config, {"biologists": ["new@y.org"], "botanists": [ADMIN]}, limits=LIMITS
        )
    assert [result.outcome for result in failed.value.results] == ["left untouched", "changed"]
    assert workspace.people("biologists") == set(ids)
    assert "new@y.org" not in workspace.emails()


def test_required_members_and_the_owner_of_the_token_stay(workspace: DatabricksWorkspace) -> None:
    ids = people(workspace, 2)
    workspace.add_group("biologists", [workspace.admin, *ids.values()])
    limits = Limits(required=frozenset({"user0@biocloud.example"}), allow_removals=frozenset({"biologists"}))
    plan, _ = run(workspace, {"biologists": ["new@y.org"]}, limits)
    assert workspace.people("biologists") == {ADMIN, "user0@biocloud.example", "new@y.org"}
    assert plan.groups[0].kept == (f"{ADMIN} (the token's owner)", "user0@biocloud.example (required)")


def test_a_workspace_without_me_is_synced_all_the_same(workspace: DatabricksWorkspace) -> None:
    workspace.behave(me=False)
    run(workspace, {"biologists": ["new@y.org"]})
    assert workspace.people("biologists") == {"new@y.org"}


_ids = st.integers(0, 11).map(str)


@given(
    members=st.lists(st.tuples(_ids, st.sampled_from(["user", "unknown", "group", "service principal"]))),
    listed=st.sets(_ids),
    desired=st.sets(_ids),
    required=st.sets(_ids, max_size=3),
    me=st.none() | _ids,
    limits=st.builds(Limits, allow_empty=st.booleans(), allow_removals=st.sampled_from([frozenset(), frozenset("g")])),
)
def test_no_plan_breaks_a_limit(
    members: list[tuple[str, Any]],
    listed: set[str],
    desired: set[str],
    required: set[str],
    me: str | None,
    limits: Limits,
) -> None:
    """For any group: what isn't refused keeps to every limit, and leads to exactly the desired members."""
    unique = {identifier: Member(identifier, kind, "") for identifier, kind in members}
    users = {f"{identifier}@y.org": identifier for identifier in listed}
    wanted = {f"{identifier}@y.org" for identifier in desired}
    never = {f"{identifier}@y.org" for identifier in required} | {f"{me}@y.org"}
    limits = Limits(
        allow_empty=limits.allow_empty,
        allow_removals=limits.allow_removals,
        required=frozenset(f"{identifier}@y.org" for identifier in required),
    )
    identity = Identity(me, f"{me}@y.org", admin=True) if me else None
    plan = plan_group("g", "1", list(unique.values()), users, wanted, limits=limits, identity=identity)
    now = {
        f"{one.id}@y.org" for one in unique.values() if one.kind in {"user", "unknown"} and f"{one.id}@y.org" in users
    }
    add, remove = {person.email for person in plan.add}, {person.email for person in plan.remove}
    assert remove <= now - wanted
    assert not remove & never
    assert (now | add) - remove == wanted | (now & never)
    assert len(plan.kept) + len(now) - len(now & never - wanted) == len(unique)
    if not plan.refused:
        assert len(remove) <= max(1, len(now) // 4) or limits.allow_removals
        assert (now | add) - remove or not now or limits.allow_empty


# Empty answers


def test_no_users_at_all_stops_the_run(workspace: DatabricksWorkspace) -> None:
    workspace.add_group("biologists", people(workspace, 2).values())
    nothing = {"totalResults": 0}
    workspace.behave(intercept=lambda request: (200, {}, nothing) if request.path == "/Users" else None)
    with pytest.raises(ScimError, match="none at all"):
        run(workspace, {"biologists": ["new@y.org"]})
    assert workspace.writes == []


def test_a_token_that_is_no_administrators_stops_the_run(workspace: DatabricksWorkspace) -> None:
    """It sees groups without members, and users without names."""
    ids = people(workspace, 2)
    workspace.add_group("biologists", ids.values())
    workspace.behave(admin=False)
    with pytest.raises(ScimError, match="administrator's token"):
        run(workspace, {"biologists": ["new@y.org"]})

    def with_names(request: Request) -> tuple[int, dict[str, str], Any] | None:
        if request.path != "/Users":
            return None
        listed = [{"id": identifier, "userName": email} for email, identifier in ids.items()]
        return 200, {}, {"totalResults": len(listed), "Resources": listed}

    workspace.behave(admin=False, intercept=with_names)
    with pytest.raises(ScimError, match=r"'biologists'.* none, with a token that isn't an administrator's"):
        run(workspace, {"biologists": ["new@y.org"]})
    assert workspace.writes == []
    assert workspace.people("biologists") == set(ids)


@pytest.mark.parametrize(
    "answer",
    [
        {"Resources": [{"id": "1", "userName": "a@y.org"}]},
        {"totalResults": 5, "Resources": []},
        {"totalResults": 5, "Resources": [{"id": "1", "userName": "a@y.org"}]},
        {"totalResults": 1, "Resources": [{"userName": "a@y.org"}]},
        {"totalResults": 1, "Resources": ["a@y.org"]},
        ["a@y.org"],
    ],
    ids=["no total", "a page of none", "the same page again", "no id", "no resource", "no object"],
)
def test_half_a_list_of_users_stops_the_run(workspace: DatabricksWorkspace, answer: Any) -> None:
    workspace.behave(intercept=lambda request: (200, {}, answer) if request.path == "/Users" else None)
    with pytest.raises(ScimError):
        fetch_all_users(workspace.users_api, workspace.headers)
    assert len(workspace.log) <= 2


# Writing


def test_one_request_changes_a_group_additions_first_and_removals_by_member(workspace: DatabricksWorkspace) -> None:
    ids = people(workspace, 8)
    workspace.add_group("biologists", list(ids.values())[:6])
    run(workspace, {"biologists": list(ids)[1:]})
    (patch,) = workspace.writes
    added = [{"value": identifier} for identifier in list(ids.values())[6:]]
    assert patch.body["Operations"] == [
        {"op": "add", "path": "members", "value": added},
        {"op": "remove", "path": f'members[value eq "{ids["user0@biocloud.example"]}"]'},
    ]


def test_a_large_change_is_cut_into_chunks_all_additions_first(workspace: DatabricksWorkspace) -> None:
    ids = list(people(workspace, 260).items())
    workspace.add_group("biologists", [identifier for _, identifier in ids[:130]])
    run(workspace, {"biologists": [email for email, _ in ids[130:]]}, limits=None)
    changed = []
    for patch in workspace.writes:
        chunk = []
        for operation in patch.body["Operations"]:
            assert operation["op"] == "add" or (operation["path"] != "members" and "value" not in operation)
            chunk += ["add"] * len(operation["value"]) if operation["op"] == "add" else ["remove"]
        assert len(chunk) <= scim.CHUNK
        changed += chunk
    assert changed == ["add"] * 130 + ["remove"] * 130
    assert len(workspace.writes) == 3
    assert workspace.people("biologists") == {email for email, _ in ids[130:]}


def test_all_groups_are_planned_before_the_first_write(workspace: DatabricksWorkspace) -> None:
    run(workspace, {"a": ["new1@y.org"], "b": ["new2@y.org"], "c": [ADMIN]})
    workspace.log.clear()
    run(workspace, {"a": [ADMIN, "new1@y.org"], "b": ["new2@y.org", ADMIN], "c": [ADMIN]})
    methods = [request.method for request in workspace.log]
    assert methods[: methods.index("PATCH")] == ["GET"] * 6  # whose token, users, groups, and three groups
    assert methods[methods.index("PATCH") :] == ["PATCH", "GET"] * 2


def test_where_a_user_cannot_be_created_nobody_is_removed(workspace: DatabricksWorkspace) -> None:
    """Else a slip in a new address would take the old one's access away."""
    ids = people(workspace, 2)
    workspace.add_group("biologists", ids.values())
    refuse: Callable[[Request], Any] = lambda request: (  # noqa: E731
        (400, {}, {"detail": "invalid e-mail"}) if request.method == "POST" and request.path == "/Users" else None
    )
    workspace.behave(intercept=refuse)
    _, results = run(workspace, {"biologists": ["new@y.org", "user1@biocloud.example"], "botanists": [ADMIN]})
    assert [result.outcome for result in results] == ["failed", "changed"]
    assert "new@y.org" in results[0].message
    assert workspace.people("biologists") == set(ids)


def test_a_workspace_that_lags_behind_is_waited_for(workspace: DatabricksWorkspace) -> None:
    workspace.add_group("biologists", people(workspace, 4).values())
    workspace.behave(lag=2, slow_users=2)
    _, results = run(workspace, {"biologists": ["new@y.org"]}, limits=None)
    assert results[0].outcome == "changed"
    assert workspace.people("biologists") == {"new@y.org"}


def test_a_change_that_does_not_show_is_reported(workspace: DatabricksWorkspace) -> None:
    """The workspace says yes to a change, and does nothing."""
    workspace.add_group("biologists", [workspace.admin])
    workspace.behave(intercept=lambda request: (200, {}, {}) if request.method == "PATCH" else None)
    _, results = run(workspace, {"biologists": [ADMIN, "new@y.org"], "botanists": []}, limits=None)
    assert [result.outcome for result in results] == ["failed", "changed"]
    assert "1 members still missing" in results[0].message


def test_a_member_who_left_meanwhile_does_not_fail_the_change(workspace: DatabricksWorkspace) -> None:
    """A server may refuse the removal of who isn't there; what is left of the change is done."""
    ids = people(workspace, 4)
    group = workspace.add_group("biologists", ids.values())
    workspace.behave(strict=True)
    with Workspace.at(workspace.host, TOKEN, patience=FAST) as client:
        plan = make_plan(client, "development", {"biologists": ["new@y.org", "user3@biocloud.example"]})
        client.change_members(group, add=[], remove=[ids["user0@biocloud.example"]])
        (result,) = apply_plan(client, plan)
    assert result.outcome == "changed"
    assert workspace.people("biologists") == {"new@y.org", "user3@biocloud.example"}


def test_a_group_that_is_gone_meanwhile_is_not_taken_for_synced(workspace: DatabricksWorkspace) -> None:
    """Who was to leave it is no longer in it, but nobody else is either."""
    group = workspace.add_group("biologists", people(workspace, 2).values())
    with Workspace.at(workspace.host, TOKEN, patience=FAST) as client:
        plan = make_plan(client, "development", {"biologists": ["user1@biocloud.example"], "botanists": [ADMIN]})
        workspace.delete_group(group)
        results = apply_plan(client, plan)
    assert [result.outcome for result in results] == ["failed", "changed"]
    assert "HTTP 404" in results[0].message


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_followed(workspace: DatabricksWorkspace, form: str) -> None:
    asked: list[datetime] = []

    def busy(request: Request) -> tuple[int, dict[str, str], Any] | None:
        asked.append(datetime.now(UTC))
        if len(asked) > 1:
            return None
        # A date has whole seconds.
        soon = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
        return 429, {"Retry-After": "1" if form == "seconds" else format_datetime(soon, usegmt=True)}, {}

    workspace.behave(intercept=busy)
    assert fetch_all_users(workspace.users_api, workspace.headers) == {ADMIN: workspace.admin}
    assert 0.9 < (asked[1] - asked[0]).total_seconds() < 4


@pytest.mark.parametrize("value", ["86400", "Fri, 31 Dec 2100 23:59:59 GMT", "-5", "soon", "99999999999999999999"])
def test_retry_after_is_bounded(workspace: DatabricksWorkspace, value: str) -> None:
    workspace.behave(intercept=lambda request: (429, {"Retry-After": value}, {"detail": "too many"}))
    started = datetime.now(UTC)
    with (
        Workspace.at(workspace.host, TOKEN, patience=FAST) as client,
        pytest.raises(ScimError, match=f"HTTP 429: too many, {FAST.attempts} times"),
    ):
        client.users()
    assert (datetime.now(UTC) - started).total_seconds() < 3
    assert len(workspace.log) == FAST.attempts


# The token


def _told(error: BaseException) -> str:
    """Return all that a log or an event could show of an error."""
    return "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))


@pytest.mark.parametrize("fault", ["401 that repeats the token", "500 that repeats the token", "no server", "redirect"])
def test_the_token_is_in_no_error_and_no_log(
    workspace: DatabricksWorkspace, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    config = workspace.config

    def repeats(request: Request) -> tuple[int, dict[str, str], Any]:
        if fault == "redirect":
            return 302, {"Location": f"{workspace.host}/elsewhere?{request.authorization}"}, {}
        return int(fault[:3]), {"Retry-After": "0"}, {"detail": f"not with {request.authorization}"}

    workspace.behave(intercept=repeats)
    if fault == "no server":
        config["host"] = "http://127.0.0.1:9"
    with pytest.raises(ScimError) as failed, Workspace.at(config["host"], TOKEN, patience=FAST) as client:
        make_plan(client, "development", {"a": [ADMIN]})
    assert TOKEN not in _told(failed.value) + caplog.text
    assert all("elsewhere" not in request.path for request in workspace.log)


def test_the_token_is_in_no_plan_and_no_result(workspace: DatabricksWorkspace) -> None:
    plan, results = run(workspace, {"a": ["new@y.org"]})
    assert TOKEN not in repr((plan, results))
    with Workspace.at(workspace.host, TOKEN) as client:
        assert TOKEN not in repr(client) + repr(vars(client)["_session"].auth) + repr(client._session.headers)


@pytest.mark.parametrize("token", ["two\nlines", "tab\there", "emoji-\N{KEY}", " "])
def test_a_token_that_cannot_be_sent_is_refused_without_showing_it(workspace: DatabricksWorkspace, token: str) -> None:
    with pytest.raises(BiocloudError) as refused:
        sync_all_groups_for_env("development", {"host": workspace.host, "token": token}, {"a": [ADMIN]})
    assert not token.strip() or token not in _told(refused.value)
    assert workspace.log == []


def test_netrc_does_not_override_the_token(
    workspace: DatabricksWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setattr(scim, "_is_loopback", lambda _: False)  # as for a workspace elsewhere
    monkeypatch.setattr(scim, "_check_address", lambda _: None)
    run(workspace, {"a": [ADMIN]})
    assert {request.authorization for request in workspace.log} == {f"Bearer {TOKEN}"}


def test_a_proxy_of_the_environment_does_not_see_what_goes_to_loopback(
    workspace: DatabricksWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over plain http a proxy would read the token."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://someone:else@127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    run(workspace, {"a": [ADMIN]})
    assert workspace.people("a") == {ADMIN}


def test_a_proxys_credentials_do_not_override_the_token(
    workspace: DatabricksWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workspace itself stands in for the proxy: it gets the request as a proxy would."""
    monkeypatch.setenv("http_proxy", workspace.host.replace("://", "://someone:else@"))
    for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(scim, "_check_address", lambda _: None)
    with Workspace.at("http://workspace.example", TOKEN, patience=FAST) as client:
        assert client.users() == {ADMIN: workspace.admin}
    assert workspace.log[0].authorization == f"Bearer {TOKEN}"


@pytest.mark.parametrize(
    "host",
    [
        "http://adb-1.azuredatabricks.net",
        "http://127.0.0.1.evil.example",
        "http://localhost.evil.example",
        "ftp://127.0.0.1",
        "https://someone:secret@adb-1.azuredatabricks.net",
        "http://someone:secret@127.0.0.1",
        "https://adb-1.azuredatabricks.net/?o=123",
        "https://adb-1.azuredatabricks.net/#setting",
        "https://",
        "https:",
        "https:///",
        "https://adb-1.azuredatabricks.net:port",
        "",
    ],
)
def test_the_token_goes_over_https_or_loopback_only(host: str) -> None:
    with pytest.raises(BiocloudError, match="the workspace's host: expected an") as refused:
        sync_all_groups_for_env("development", {"host": host, "token": TOKEN}, {"a": [ADMIN]})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("host", "root"),
    [
        ("https://adb-1.azuredatabricks.net/", "https://adb-1.azuredatabricks.net"),
        (" adb-1.azuredatabricks.net ", "https://adb-1.azuredatabricks.net"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://localhost", "http://localhost"),
    ],
)
def test_a_host_is_taken_as_people_write_it(host: str, root: str) -> None:
    assert scim.scim_root(host) == f"{root}/api/2.0/preview/scim/v2"


def test_the_addresses_of_single_functions_are_checked_too() -> None:
    with pytest.raises(BiocloudError, match="only on loopback"):
        fetch_all_users("http://adb-1.azuredatabricks.net/Users", {"Authorization": f"Bearer {TOKEN}"})
