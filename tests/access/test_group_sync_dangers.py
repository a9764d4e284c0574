"""Each way in which a group sync could take somebody's access away or reveal a secret, shown not to happen."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from databricks_workspace import ADMIN, TOKEN, DatabricksWorkspace, Request
from helpers import FAST, any_removal, client, outcomes, sync
from hypothesis import given
from hypothesis import strategies as st

from biocloud_assets.access import scim
from biocloud_assets.access.plan import SyncReport, index_by_address, is_protected, plan_group
from biocloud_assets.access.scim import Group, Member, ScimClient, ScimError, User
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


def people(workspace: DatabricksWorkspace, count: int) -> dict[str, str]:
    """Create so many users; return their ids by e-mail."""
    return {email: workspace.add_user(email) for email in (f"user{n}@biocloud.example" for n in range(count))}


# Protected groups and members


@pytest.mark.parametrize("name", ["admins", "users", "account users", "Admins", "USERS", " admins", "ａｄｍｉｎｓ"])
def test_the_groups_of_the_workspace_are_never_touched(workspace: DatabricksWorkspace, name: str) -> None:
    before = workspace.everything()
    with pytest.raises(BiocloudError):
        sync_group(name, ["x@y.org"], workspace.groups_api, workspace.users_api, workspace.headers)
    with pytest.raises(BiocloudError):
        sync_all_groups_for_env("development", workspace.config, {"fine": ["x@y.org"], name: []})
    with pytest.raises(BiocloudError, match="the workspace or account itself"):
        create_group(name, workspace.groups_api, workspace.headers)
    assert workspace.log == []
    assert workspace.everything() == before


def test_other_groups_are_not_protected() -> None:
    assert not is_protected("biocloud_users_development")


def test_a_crafted_name_does_not_reach_another_group(workspace: DatabricksWorkspace) -> None:
    crafted = 'x" or displayName eq "admins'
    assert get_group_id(crafted, workspace.groups_api, workspace.headers) is None
    sync(workspace, {crafted: ["x@y.org"]})
    assert workspace.people("admins") == {ADMIN}
    assert workspace.people(crafted) == {"x@y.org"}


def test_a_server_that_reads_a_filter_loosely_does_not_mislead(workspace: DatabricksWorkspace) -> None:
    def everything(request: Request) -> tuple[int, dict[str, str], Any] | None:
        both = [{"id": "1", "displayName": "admins"}, {"id": "2", "displayName": "Biologists"}]
        return 200, {}, {"totalResults": 2, "Resources": both}

    workspace.behave(intercept=everything)
    assert get_group_id("biologists", workspace.groups_api, workspace.headers) is None


def test_two_groups_of_one_name_are_not_changed(workspace: DatabricksWorkspace) -> None:
    def twice(request: Request) -> tuple[int, dict[str, str], Any] | None:
        if request.path != "/Groups":
            return None
        both = [{"id": "1", "displayName": "biologists"}, {"id": "2", "displayName": "biologists"}]
        return 200, {}, {"totalResults": 2, "Resources": both}

    workspace.behave(intercept=twice)
    with pytest.raises(ScimError, match="several"):
        get_group_id("biologists", workspace.groups_api, workspace.headers)
    report = sync(workspace, {"biologists": [ADMIN]})
    assert outcomes(report) == ["refused"]
    assert "2 groups of this name" in report.failures["biologists"]
    assert workspace.writes == []


def test_a_group_written_in_another_case_is_not_changed_but_named(workspace: DatabricksWorkspace) -> None:
    workspace.add_group("Biologists")
    report = sync(workspace, {"biologists": [ADMIN], "botanists": [ADMIN]})
    assert outcomes(report) == ["refused", "changed"]
    assert "'Biologists'" in report.failures["biologists"]


def test_other_kinds_of_members_are_never_removed(workspace: DatabricksWorkspace) -> None:
    """Even if the list is emptied: service principals, nested groups, and users that aren't listed."""
    leaver = workspace.add_user("leaver@biocloud.example")
    gone = workspace.add_user("gone@biocloud.example")
    others = {workspace.add_service_principal("etl"), workspace.add_group("nested"), "ghost-1"}
    workspace.add_group("biologists", [leaver, *others])
    workspace.delete_user(gone)
    report = sync(workspace, {"biologists": []}, any_removal(["biologists"]))
    assert workspace.members("biologists") == others
    assert len(report.groups[0].kept) == 3
    assert any("etl (a service principal)" in kept for kept in report.groups[0].kept)


def test_a_user_that_the_list_misses_is_neither_removed_nor_created_again(workspace: DatabricksWorkspace) -> None:
    """A list that changes while it is read may miss a user."""
    ids = people(workspace, 4)
    workspace.add_group("biologists", ids.values())
    missed = "user1@biocloud.example"

    def without(request: Request) -> tuple[int, dict[str, str], Any] | None:
        if request.method != "GET" or request.path != "/Users" or "filter" in request.query:
            return None
        listed = [{"id": one, "userName": email} for email, one in workspace.emails().items() if email != missed]
        return 200, {}, {"totalResults": len(listed), "Resources": listed}

    workspace.behave(intercept=without)
    sync(workspace, {"biologists": [email for email in ids if email != missed]})
    assert missed in workspace.people("biologists")
    sync(workspace, {"biologists": list(ids)})
    assert workspace.people("biologists") == set(ids)
    assert workspace.emails() == ids | {ADMIN: workspace.admin}


# Limits


@pytest.mark.parametrize(("members", "most"), [(1, 1), (2, 1), (4, 1), (7, 1), (8, 2), (20, 5)])
def test_at_most_a_quarter_of_the_user_members_is_removed_in_one_run(
    workspace: DatabricksWorkspace, members: int, most: int
) -> None:
    ids = people(workspace, members)
    workspace.add_group("biologists", ids.values())
    newcomer = "newcomer@biocloud.example"
    before = workspace.everything()
    if members > most:
        report = sync(workspace, {"biologists": [newcomer, *list(ids)[most + 1 :]]})
        assert outcomes(report) == ["refused"]
        assert f"at most {most}" in report.failures["biologists"]
        assert workspace.writes == []
        assert workspace.everything() == before
    assert outcomes(sync(workspace, {"biologists": [newcomer, *list(ids)[most:]]})) == ["changed"]
    assert len(workspace.people("biologists")) == members - most + 1


def test_the_cap_is_lifted_by_name_for_one_run(workspace: DatabricksWorkspace) -> None:
    ids = people(workspace, 8)
    for group in ("biologists", "botanists"):
        workspace.add_group(group, ids.values())
    wanted = {"biologists": list(ids)[:2], "botanists": list(ids)[:2]}
    assert outcomes(sync(workspace, wanted, any_removal(["biologists"]))) == ["changed", "refused"]
    assert workspace.people("botanists") == set(ids)


def test_lifting_the_cap_of_a_group_that_is_not_in_the_file_is_refused(workspace: DatabricksWorkspace) -> None:
    with pytest.raises(BiocloudError, match="--allow-removals biologist:"):
        sync(workspace, {"biologists": [ADMIN]}, any_removal(["biologist"]))
    assert workspace.log == []


def test_a_group_is_emptied_only_if_that_is_allowed_by_name(workspace: DatabricksWorkspace) -> None:
    workspace.add_group("biologists", people(workspace, 1).values())
    report = sync(workspace, {"biologists": []})
    assert outcomes(report) == ["refused"]
    assert "--allow-removals 'biologists'" in report.failures["biologists"]
    assert workspace.writes == []
    sync(workspace, {"biologists": []}, any_removal(["biologists"]))
    assert workspace.people("biologists") == set()


def test_a_group_over_its_limit_does_not_stop_the_others(workspace: DatabricksWorkspace) -> None:
    ids = people(workspace, 8)
    workspace.add_group("biologists", ids.values())
    with pytest.raises(GroupSyncError, match="- biologists: 8 of its 8 user members would be removed") as failed:
        sync_all_groups_for_env("development", workspace.config, {"biologists": ["new@y.org"], "botanists": [ADMIN]})
    assert outcomes(failed.value.report) == ["refused", "changed"]
    assert workspace.people("biologists") == set(ids)
    assert "new@y.org" not in workspace.emails()


def test_the_public_functions_have_the_limits_by_default(workspace: DatabricksWorkspace) -> None:
    ids = people(workspace, 8)
    workspace.add_group("botanists", ids.values())
    with pytest.raises(GroupSyncError, match="it would be empty"):
        sync_group("botanists", [], workspace.groups_api, workspace.users_api, workspace.headers)
    with pytest.raises(GroupSyncError, match="it would be empty"):
        sync_all_groups_for_env("development", workspace.config, {"botanists": []})
    assert workspace.people("botanists") == set(ids)
    sync_all_groups_for_env("development", workspace.config, {"botanists": []}, limits=any_removal(["botanists"]))
    assert workspace.people("botanists") == set()


def test_required_members_and_the_owner_of_the_token_stay(workspace: DatabricksWorkspace) -> None:
    ids = people(workspace, 2)
    workspace.add_group("biologists", [workspace.admin, *ids.values()])
    wanted = {"_required": ["user0@biocloud.example"], "biologists": ["new@y.org"]}
    report = sync(workspace, wanted, any_removal(["biologists"]))
    assert workspace.people("biologists") == {ADMIN, "user0@biocloud.example", "new@y.org"}
    assert report.groups[0].kept == [f"{ADMIN} (the token owner)", "user0@biocloud.example (required)"]


def test_a_server_without_me_is_synchronised_too(workspace: DatabricksWorkspace) -> None:
    workspace.behave(me=False)
    sync(workspace, {"biologists": ["new@y.org"]})
    assert workspace.people("biologists") == {"new@y.org"}


_ids = st.integers(0, 11).map(str)


@given(
    members=st.dictionaries(_ids, st.sampled_from(["user", "group", "service principal"])),
    listed=st.sets(_ids),
    desired=st.sets(_ids),
    required=st.sets(_ids, max_size=3),
    owner=st.just("") | _ids,
    allowed=st.booleans(),
)
def test_no_plan_breaks_a_limit(
    members: dict[str, str], listed: set[str], desired: set[str], required: set[str], owner: str, allowed: bool
) -> None:
    """A plan that isn't refused keeps every limit, and leads to exactly the desired members."""
    users = index_by_address(User(f"{one}@y.org", one) for one in listed)
    wanted = {f"{one}@y.org" for one in desired}
    kept = {f"{one}@y.org" for one in required} | {f"{owner}@y.org"}
    plan = plan_group(
        "g",
        Group("g", "1", "workspace"),
        [Member(one, kind, "") for one, kind in members.items()],
        users,
        wanted,
        required=kept,
        token_owner=owner,
        limits=any_removal(["g"] * allowed),
    )
    now = {f"{one}@y.org" for one, kind in members.items() if kind == "user" and one in listed}
    add, remove = set(plan.add), set(plan.remove.values())
    assert remove <= now - wanted
    assert not remove & kept
    assert (now | add) - remove == wanted | (now & kept)
    assert len(plan.kept) + len(now) - len(now & kept - wanted) == len(members)
    if plan.outcome != "refused" and not allowed:
        assert len(remove) <= max(1, len(now) // 4)
        assert (now | add) - remove or not now


# Empty answers


def test_no_users_at_all_stops_the_run(workspace: DatabricksWorkspace) -> None:
    workspace.add_group("biologists", people(workspace, 2).values())
    nothing = {"totalResults": 0}
    workspace.behave(intercept=lambda request: (200, {}, nothing) if request.path == "/Users" else None)
    with pytest.raises(ScimError, match="found no user"):
        sync(workspace, {"biologists": ["new@y.org"]})
    assert workspace.writes == []


def test_a_token_that_is_not_an_administrators_stops_the_run(workspace: DatabricksWorkspace) -> None:
    """It sees groups without members, and users without names."""
    ids = people(workspace, 2)
    workspace.add_group("biologists", ids.values())
    workspace.behave(admin=False)
    with pytest.raises(ScimError, match="administrator's token"):
        sync(workspace, {"biologists": ["new@y.org"]})

    def with_names(request: Request) -> tuple[int, dict[str, str], Any] | None:
        if request.path != "/Users":
            return None
        listed = [{"id": identifier, "userName": email} for email, identifier in ids.items()]
        return 200, {}, {"totalResults": len(listed), "Resources": listed}

    workspace.behave(admin=False, intercept=with_names)
    with pytest.raises(ScimError, match=r"'biologists'.* none, with a token that isn't an administrator's"):
        sync(workspace, {"biologists": ["new@y.org"]})
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
def test_an_incomplete_list_of_users_stops_the_run(workspace: DatabricksWorkspace, answer: Any) -> None:
    workspace.behave(intercept=lambda request: (200, {}, answer) if request.path == "/Users" else None)
    with pytest.raises(ScimError):
        fetch_all_users(workspace.users_api, workspace.headers)
    assert len(workspace.log) <= 2


# Writing


def test_one_request_changes_a_group_additions_first_and_removals_by_member(workspace: DatabricksWorkspace) -> None:
    ids = people(workspace, 8)
    workspace.add_group("biologists", list(ids.values())[:6])
    sync(workspace, {"biologists": list(ids)[1:]})
    (patch,) = workspace.writes
    added = [{"value": identifier} for identifier in list(ids.values())[6:]]
    assert patch.body["Operations"] == [
        {"op": "add", "path": "members", "value": added},
        {"op": "remove", "path": f'members[value eq "{ids["user0@biocloud.example"]}"]'},
    ]


def test_a_large_change_is_cut_into_chunks_all_additions_first(workspace: DatabricksWorkspace) -> None:
    ids = list(people(workspace, 260).items())
    workspace.add_group("biologists", [identifier for _, identifier in ids[:130]])
    sync(workspace, {"biologists": [email for email, _ in ids[130:]]}, any_removal(["biologists"]))
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
    sync(workspace, {"a": ["new1@y.org"], "b": ["new2@y.org"], "c": [ADMIN]})
    workspace.log.clear()
    sync(workspace, {"a": [ADMIN, "new1@y.org"], "b": ["new2@y.org", ADMIN], "c": [ADMIN]})
    methods = [request.method for request in workspace.log]
    assert methods[: methods.index("PATCH")] == ["GET"] * 6  # the token's owner, users, groups, and three groups
    assert methods[methods.index("PATCH") :] == ["PATCH", "GET"] * 2


def test_if_a_user_cannot_be_created_nobody_is_removed(workspace: DatabricksWorkspace) -> None:
    """A wrong new address must not take the old one's access away."""
    ids = people(workspace, 2)
    workspace.add_group("biologists", ids.values())
    refuse: Callable[[Request], Any] = lambda request: (  # noqa: E731
        (400, {}, {"detail": "invalid e-mail"}) if request.method == "POST" and request.path == "/Users" else None
    )
    workspace.behave(intercept=refuse)
    report = sync(workspace, {"biologists": ["new@y.org", "user1@biocloud.example"], "botanists": [ADMIN]})
    assert outcomes(report) == ["failed", "changed"]
    assert "new@y.org" in report.failures["biologists"]
    assert "HTTP 400: invalid e-mail" in report.failures["biologists"]
    assert workspace.people("biologists") == set(ids)


def test_a_server_that_shows_changes_late_is_waited_for(workspace: DatabricksWorkspace) -> None:
    workspace.add_group("biologists", people(workspace, 4).values())
    workspace.behave(lag=2, slow_users=2)
    assert outcomes(sync(workspace, {"biologists": ["new@y.org"]}, any_removal(["biologists"]))) == ["changed"]
    assert workspace.people("biologists") == {"new@y.org"}


def test_a_change_that_does_not_show_is_reported(workspace: DatabricksWorkspace) -> None:
    """The server accepts a change, and does nothing."""
    workspace.add_group("biologists", [workspace.admin])
    workspace.behave(intercept=lambda request: (200, {}, {}) if request.method == "PATCH" else None)
    report = sync(workspace, {"biologists": [ADMIN, "new@y.org"], "botanists": []})
    assert outcomes(report) == ["failed", "changed"]
    assert "1 members still missing" in report.failures["biologists"]


def test_a_member_who_left_in_the_meantime_does_not_fail_the_change(workspace: DatabricksWorkspace) -> None:
    """A server may refuse to remove a user who isn't a member; the rest of the change is done."""
    ids = people(workspace, 4)
    group = workspace.add_group("biologists", ids.values())
    workspace.behave(strict=True)
    wanted = {"biologists": ["new@y.org", "user3@biocloud.example"]}
    with client(workspace) as api:
        report = SyncReport(environment="development", groups=make_plan(api, wanted, any_removal(wanted)))
        api.change_members(group, add=[], remove=[ids["user0@biocloud.example"]])
        apply_plan(api, report)
    assert outcomes(report) == ["changed"]
    assert workspace.people("biologists") == set(wanted["biologists"])


def test_a_group_that_is_deleted_in_the_meantime_is_reported(workspace: DatabricksWorkspace) -> None:
    """The user who was to leave it is no longer in it, but nobody else is either."""
    group = workspace.add_group("biologists", people(workspace, 2).values())
    wanted = {"biologists": ["user1@biocloud.example"], "botanists": [ADMIN]}
    with client(workspace) as api:
        report = SyncReport(environment="development", groups=make_plan(api, wanted))
        workspace.delete_group(group)
        apply_plan(api, report)
    assert outcomes(report) == ["failed", "changed"]
    assert "HTTP 404" in report.failures["biologists"]
    assert report.groups[0].removed == []


# The token


def _everything_about(error: BaseException) -> str:
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
    root = scim.scim_root(config["host"])
    with (
        pytest.raises(ScimError) as failed,
        ScimClient(workspace.headers, f"{root}/Groups", f"{root}/Users", FAST) as api,
    ):
        make_plan(api, {"a": [ADMIN]})
    assert TOKEN not in _everything_about(failed.value) + caplog.text
    assert all("elsewhere" not in request.path for request in workspace.log)


def test_the_token_is_in_no_plan_and_no_result(workspace: DatabricksWorkspace) -> None:
    assert TOKEN not in repr(sync(workspace, {"a": ["new@y.org"]}))
    with client(workspace) as api:
        assert TOKEN not in repr(api) + repr(api._session.auth) + repr(api._session.headers)


@pytest.mark.parametrize("token", ["two\nlines", "tab\there", "emoji-\N{KEY}", " "])
def test_a_token_that_cannot_be_sent_is_refused_without_showing_it(workspace: DatabricksWorkspace, token: str) -> None:
    with pytest.raises(BiocloudError) as refused:
        sync_all_groups_for_env("development", {"host": workspace.host, "token": token}, {"a": [ADMIN]})
    assert not token.strip() or token not in _everything_about(refused.value)
    assert workspace.log == []


def test_netrc_does_not_override_the_token(
    workspace: DatabricksWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with client(workspace) as api:
        api._session.trust_env = True  # as for a workspace that is not on loopback
        make_plan(api, {"a": [ADMIN]})
    assert {request.authorization for request in workspace.log} == {f"Bearer {TOKEN}"}


def test_a_proxy_of_the_environment_does_not_see_requests_to_loopback(
    workspace: DatabricksWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over plain http a proxy could read the token."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://someone:else@127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    sync(workspace, {"a": [ADMIN]})
    assert workspace.people("a") == {ADMIN}


def test_the_credentials_of_a_proxy_do_not_override_the_token(
    workspace: DatabricksWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test server takes the proxy's part: it receives the request as a proxy would."""
    monkeypatch.setenv("http_proxy", workspace.host.replace("://", "://someone:else@"))
    for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(scim, "_check_url", lambda *_: None)
    root = "http://workspace.example/api/2.0/preview/scim/v2"
    with ScimClient(workspace.headers, f"{root}/Groups", f"{root}/Users", FAST) as api:
        api._session.trust_env = True
        assert [user.name for user in api.users()] == [ADMIN]
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
        ("HTTPS://ADB-1.azuredatabricks.net", "HTTPS://ADB-1.azuredatabricks.net"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("https://127.0.0.1:8443", "https://127.0.0.1:8443"),
        ("http://localhost", "http://localhost"),
    ],
)
def test_a_host_may_have_spaces_a_slash_at_the_end_or_no_scheme(host: str, root: str) -> None:
    assert scim.scim_root(host) == f"{root}/api/2.0/preview/scim/v2"


def test_the_addresses_of_single_functions_are_checked_too() -> None:
    with pytest.raises(BiocloudError, match="only on loopback"):
        fetch_all_users("http://adb-1.azuredatabricks.net/Users", {"Authorization": f"Bearer {TOKEN}"})
