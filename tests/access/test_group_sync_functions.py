"""Each public function of the group sync, against a real SCIM server over HTTP."""

from __future__ import annotations

import pytest
from databricks_workspace import ADMIN, TOKEN, DatabricksWorkspace
from helpers import any_removal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biocloud_assets.access.scim import ScimError
from biocloud_assets.access.sync_groups import (
    create_group,
    create_user,
    fetch_all_users,
    get_group_id,
    get_group_members,
    sync_all_groups_for_env,
    sync_group,
)


def test_a_created_group_has_the_id_that_is_returned(workspace: DatabricksWorkspace) -> None:
    created = create_group("biologists", workspace.groups_api, workspace.headers)
    assert created == get_group_id("biologists", workspace.groups_api, workspace.headers)


def test_creating_a_group_that_exists_returns_it(workspace: DatabricksWorkspace) -> None:
    existing = workspace.add_group("biologists")
    assert create_group("biologists", workspace.groups_api, workspace.headers) == existing


def test_a_created_user_has_the_id_that_is_returned(workspace: DatabricksWorkspace) -> None:
    created = create_user("Ada@Biocloud.example", workspace.users_api, workspace.headers)
    assert created == workspace.emails()["ada@biocloud.example"]


def test_creating_a_user_that_exists_in_another_case_returns_them(workspace: DatabricksWorkspace) -> None:
    existing = workspace.add_user("ada@biocloud.example")
    assert create_user("ADA@biocloud.example", workspace.users_api, workspace.headers) == existing
    assert [request.status for request in workspace.log] == [409, 200]


def test_a_user_that_the_server_refuses_is_none_and_the_log_has_the_reason(
    workspace: DatabricksWorkspace, caplog: pytest.LogCaptureFixture
) -> None:
    workspace.behave(intercept=lambda request: (400, {}, {"detail": "invalid e-mail"}))
    assert create_user("ada@biocloud.example", workspace.users_api, workspace.headers) is None
    assert "invalid e-mail" in caplog.text


def test_two_user_names_that_differ_in_case_are_an_error_that_names_both(workspace: DatabricksWorkspace) -> None:
    one = workspace.add_user("ada@biocloud.example")
    two = workspace.add_user("other@biocloud.example", shown_as="Ada@Biocloud.example")
    with pytest.raises(ScimError, match=f"'ada@biocloud.example'.*{one} and {two}"):
        fetch_all_users(workspace.users_api, workspace.headers)


@pytest.mark.parametrize("page", [1, 3, 7, 1_000])
def test_all_users_are_fetched_whatever_the_size_of_a_page(workspace: DatabricksWorkspace, page: int) -> None:
    """The server limits `count`; advancing by the number asked for would skip users."""
    expected = {f"user{n}@biocloud.example": workspace.add_user(f"User{n}@Biocloud.example") for n in range(20)}
    workspace.behave(page=page)
    assert fetch_all_users(workspace.users_api, workspace.headers) == expected | {ADMIN: workspace.admin}
    assert len(workspace.log) == -(-21 // page)


def test_a_group_that_is_not_there_has_no_id(workspace: DatabricksWorkspace) -> None:
    workspace.add_group("Biologists")
    assert get_group_id("biologists", workspace.groups_api, workspace.headers) is None
    assert get_group_id("biolog", workspace.groups_api, workspace.headers) is None


@pytest.mark.parametrize(
    "name", ['with "quotes"', "back\\slash", "a and b", "naïve 群", 'x" or displayName eq "admins']
)
def test_a_group_is_found_by_any_name(workspace: DatabricksWorkspace, name: str) -> None:
    assert get_group_id(name, workspace.groups_api, workspace.headers) is None
    identifier = workspace.add_group(name)
    assert get_group_id(name, workspace.groups_api, workspace.headers) == identifier


def test_the_members_of_a_group_are_its_users_by_id(workspace: DatabricksWorkspace) -> None:
    ada, bob = workspace.add_user("ada@biocloud.example"), workspace.add_user("bob@biocloud.example")
    others = [workspace.add_service_principal("etl"), workspace.add_group("nested"), "ghost-1"]
    group = workspace.add_group("biologists", [ada, bob, *others])
    members = get_group_members(group, workspace.groups_api, workspace.headers, workspace.users_api)
    assert members == {ada: "ada@biocloud.example", bob: "bob@biocloud.example"}


def test_the_members_of_a_group_that_is_not_there_are_an_error(workspace: DatabricksWorkspace) -> None:
    with pytest.raises(ScimError, match="HTTP 404"):
        get_group_members("4711", workspace.groups_api, workspace.headers, workspace.users_api)


def test_a_sync_creates_adds_and_removes(workspace: DatabricksWorkspace) -> None:
    ada = workspace.add_user("ada@biocloud.example")
    workspace.add_group("biologists", [ada])
    wanted = ["New@Biocloud.example"]
    sync_group("biologists", wanted, workspace.groups_api, workspace.users_api, workspace.headers)
    assert workspace.people("biologists") == {"new@biocloud.example"}
    sync_group("botanists", wanted, workspace.groups_api, workspace.users_api, workspace.headers)
    assert workspace.people("botanists") == {"new@biocloud.example"}


def test_a_dry_run_of_one_group_shows_the_plan(
    workspace: DatabricksWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.add_group("biologists", [workspace.add_user("ada@biocloud.example")])
    sync_group(
        "biologists",
        ["bob@biocloud.example"],
        workspace.groups_api,
        workspace.users_api,
        workspace.headers,
        dry_run=True,
    )
    shown = capsys.readouterr().out
    assert "- add bob@biocloud.example" in shown
    assert "- remove ada@biocloud.example" in shown
    assert "Users to create:\n\n- bob@biocloud.example" in shown
    assert workspace.writes == []


def test_the_token_may_be_a_secret_or_a_text(workspace: DatabricksWorkspace) -> None:
    from pydantic import SecretStr

    for token in (TOKEN, SecretStr(TOKEN)):
        sync_all_groups_for_env("production", {"host": workspace.host, "token": token}, {"g": [ADMIN]})
    assert workspace.people("g") == {ADMIN}


_PEOPLE = [f"user{n}@biocloud.example" for n in range(6)]
_NEW = [f"new{n}@biocloud.example" for n in range(3)]
_GROUPS = ["alpha", "beta", 'x" or displayName eq "admins', "gamma"]
_members = st.sets(st.sampled_from([*_PEOPLE, "etl", "nested", "ghost-1"]))


def _in_some_case(email: str) -> st.SearchStrategy[str]:
    return st.sampled_from([email, email.upper(), email.title()])


_desired = st.sets(st.sampled_from([*_PEOPLE, *_NEW])).flatmap(
    lambda emails: st.tuples(*map(_in_some_case, sorted(emails))).map(list)
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    there=st.dictionaries(st.sampled_from(_GROUPS), _members),
    wanted=st.dictionaries(st.sampled_from(_GROUPS), _desired, min_size=1),
    page=st.sampled_from([1, 2, 5, 1_000]),
    strict=st.booleans(),
)
def test_any_workspace_and_any_definitions(
    workspace: DatabricksWorkspace,
    there: dict[str, set[str]],
    wanted: dict[str, list[str]],
    page: int,
    strict: bool,
) -> None:
    """After a sync exactly the desired users are members, besides other kinds; a second run writes nothing."""
    workspace.reset()
    ids = {email: workspace.add_user(email) for email in _PEOPLE}
    ids |= {
        "etl": workspace.add_service_principal("etl"),
        "nested": workspace.add_group("nested"),
        "ghost-1": "ghost-1",
    }
    for name, members in there.items():
        workspace.add_group(name, [ids[member] for member in members])
    before = workspace.everything()

    workspace.behave(page=page, strict=strict)
    sync_all_groups_for_env("development", workspace.config, wanted, dry_run=True)
    assert workspace.writes == []
    assert workspace.everything() == before

    sync_all_groups_for_env("development", workspace.config, wanted, limits=any_removal(wanted))
    for name, emails in wanted.items():
        assert workspace.people(name) == {email.lower() for email in emails}
        protected = {ids[kind] for kind in ("etl", "nested", "ghost-1")}
        assert workspace.members(name) & protected == before.get(name, set()) & protected
    after = workspace.everything()
    assert {name: after[name] for name in before if name not in wanted} == {
        name: members for name, members in before.items() if name not in wanted
    }

    workspace.behave(page=page, strict=strict)
    sync_all_groups_for_env("development", workspace.config, wanted)
    assert workspace.writes == []
