"""Databricks beyond plain SCIM: kinds of groups, refusals, throttling, users that can't be matched by name.

The cases are from Databricks' documentation, and from the issues of its Terraform provider, of UCX and of its SDKs.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import pytest
from databricks_workspace import ACCOUNT_ID, ACCOUNT_ROOT, ADMIN, TOKEN, DatabricksWorkspace, Request
from helpers import any_removal, client, outcomes, plan, sync

from biocloud_assets.access import scim
from biocloud_assets.access.plan import render
from biocloud_assets.access.scim import RetryPolicy, ScimClient, ScimError
from biocloud_assets.access.sync_groups import GroupSyncError, fetch_all_users, sync_all_groups_for_env, sync_group

Answer = tuple[int, dict[str, str], Any]


# Kinds of groups


def test_an_account_group_is_refused_in_the_plan_with_what_to_do(workspace: DatabricksWorkspace) -> None:
    workspace.add_group("biologists", [workspace.admin], account=True)
    workspace.add_group("botanists", [workspace.admin])
    report = sync(workspace, {"biologists": ["new@y.org"], "botanists": [ADMIN, "new@y.org"]})
    assert outcomes(report) == ["refused", "changed"]
    assert "an account group, which the API of a workspace can't change" in report.failures["biologists"]
    assert "DATABRICKS_ACCOUNT_ID_<ENV>" in report.failures["biologists"]
    assert workspace.people("biologists") == {ADMIN}


def test_a_workspace_that_shows_only_account_groups_is_recognised_too(workspace: DatabricksWorkspace) -> None:
    group = {"id": "1", "displayName": "biologists", "meta": {"resourceType": "Group"}}
    answer = {"totalResults": 1, "Resources": [group]}
    workspace.behave(intercept=lambda request: (200, {}, answer) if request.path == "/Groups" else None)
    assert "found an account group" in plan(workspace, {"biologists": [ADMIN]})[0].reason


def test_a_group_of_a_plain_scim_server_is_no_account_group(workspace: DatabricksWorkspace) -> None:
    """RFC 7643 calls every group `Group`."""
    workspace.add_group("biologists", [workspace.admin])
    workspace.behave(plain=True)
    assert outcomes(sync(workspace, {"biologists": [ADMIN, "new@y.org"]})) == ["changed"]


def test_no_workspace_local_group_is_created_next_to_an_account_group(workspace: DatabricksWorkspace) -> None:
    """The account group isn't assigned to the workspace, whose list doesn't show it."""
    workspace.add_group("biologists", storage=workspace.account)
    report = sync(workspace, {"biologists": [ADMIN], "botanists": [ADMIN]})
    assert outcomes(report) == ["refused", "changed"]
    assert "a workspace-local group would be created" in report.failures["biologists"]
    assert "biologists" not in workspace.everything()


def test_the_plan_names_the_kind_of_each_group_and_warns_of_a_new_local_one(workspace: DatabricksWorkspace) -> None:
    workspace.add_group("biologists", [workspace.admin])
    groups = plan(workspace, {"biologists": [ADMIN], "botanists": [ADMIN]})
    assert [group.kind for group in groups] == ["workspace", "workspace"]
    assert groups[0].warnings == []
    assert "Unity Catalog grants only to account groups" in groups[1].warnings[0]


def test_a_group_of_an_identity_provider_is_refused_in_the_plan(workspace: DatabricksWorkspace) -> None:
    workspace.add_group("biologists", [workspace.admin], external_id="entra-1")
    report = sync(workspace, {"biologists": ["new@y.org"]})
    assert outcomes(report) == ["refused"]
    assert "an identity provider manages its members" in report.failures["biologists"]
    assert workspace.writes == []


def test_with_an_account_id_the_groups_of_the_account_are_synchronised(workspace: DatabricksWorkspace) -> None:
    workspace.add_group("biologists", [workspace.admin], account=True)
    workspace.add_group("biologists", storage=workspace.account)
    workspace.add_group("from entra", external_id="entra-1", storage=workspace.account)
    before = workspace.everything()
    config = workspace.config | {"account_id": ACCOUNT_ID}
    reports: list[Any] = []
    wanted = {"biologists": ["new@y.org"], "botanists": ["new@y.org"], "from entra": ["new@y.org"]}
    workspace.add_account_user("account.admin@y.org")
    with pytest.raises(GroupSyncError, match="identity provider"):
        sync_all_groups_for_env("development", config, wanted, on_update=reports.append)
    assert outcomes(reports[-1]) == ["changed", "changed", "refused"]
    assert {group.kind for group in reports[-1].groups[:2]} == {"account"}
    names = {user.id: user.user_name for user in workspace.account.of("User")}
    members = {one.display_name: {names[m.value] for m in one.members or []} for one in workspace.account.of("Group")}
    assert members == {"biologists": {"new@y.org"}, "botanists": {"new@y.org"}, "from entra": set()}
    assert workspace.everything() == before
    assert all(request.path.startswith(ACCOUNT_ROOT) for request in workspace.log)
    assert not any(request.path.endswith("/Me") for request in workspace.log)


def test_in_an_account_the_owner_of_the_token_stays_only_if_required(workspace: DatabricksWorkspace) -> None:
    owner = workspace.add_account_user("account.admin@y.org")
    for name in ("biologists", "botanists"):
        workspace.add_group(name, [owner], storage=workspace.account)
    config = workspace.config | {"account_id": ACCOUNT_ID}
    reports: list[Any] = []
    sync_all_groups_for_env("development", config, {"biologists": ["new@y.org"]}, on_update=reports.append)
    assert reports[-1].groups[0].removed == ["account.admin@y.org"]
    wanted = {"_required": ["account.admin@y.org"], "botanists": ["new@y.org"]}
    sync_all_groups_for_env("development", config, wanted, on_update=reports.append)
    assert reports[-1].groups[0].kept == ["account.admin@y.org (required)"]
    assert reports[-1].groups[0].removed == []


# Refusals in the server's own words


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (400, {"detail": "Members attribute not supported for current workspace."}, "Members attribute not supported"),
        (400, {"scimType": "invalidValue", "detail": "no such thing"}, "HTTP 400: invalidValue: no such thing"),
        (403, {"error_code": "PERMISSION_DENIED", "message": "not allowed"}, "PERMISSION_DENIED: not allowed"),
        (404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Group gone"}, "Group gone"),
        (409, {"response": "Another change is in progress"}, "HTTP 409: Another change is in progress"),
        (409, {"response": {"reason": "busy"}}, '{"reason": "busy"}'),
        (500, {"detail": "Error in performing the patch operation on group resource."}, "performing the patch"),
        (429, {"error_code": "RESOURCE_EXHAUSTED", "message": "Rate limit reached"}, "Rate limit reached"),
    ],
)
def test_the_reason_of_a_refused_change_is_in_the_message(
    workspace: DatabricksWorkspace, status: int, body: Any, says: str
) -> None:
    workspace.add_group("biologists", [workspace.admin])
    workspace.behave(intercept=lambda request: (status, {}, body) if request.method == "PATCH" else None)
    short = RetryPolicy(total=0.05, visible=0.01, backoff=0.001)
    report = sync(workspace, {"biologists": [ADMIN, "new@y.org"]}, policy=short)
    assert says in report.failures["biologists"]
    assert ".." not in report.failures["biologists"]


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_refused_change_costs_one_request(workspace: DatabricksWorkspace, status: int) -> None:
    workspace.add_group("biologists", [workspace.admin])
    workspace.behave(
        intercept=lambda request: (
            (status, {}, {"detail": "Members attribute not supported for current workspace"})
            if request.method == "PATCH"
            else None
        )
    )
    report = sync(workspace, {"biologists": [ADMIN, "new@y.org"]})
    assert outcomes(report) == ["failed"]
    assert [request.method for request in workspace.log].count("PATCH") == 1


def test_a_change_that_names_a_user_who_does_not_exist_yet_is_repeated(workspace: DatabricksWorkspace) -> None:
    workspace.behave(slow_users=2)
    assert outcomes(sync(workspace, {"biologists": ["new@y.org"]})) == ["changed"]
    assert [request.status for request in workspace.log if request.method == "PATCH"] == [400, 400, 204]


@pytest.mark.parametrize(
    "answer",
    [(400, {"detail": "Invalid email"}), (409, {"detail": "User exists in another account"}), (403, {"message": "no"})],
)
def test_the_reason_of_a_refused_user_is_in_the_message(
    workspace: DatabricksWorkspace, answer: tuple[int, dict[str, str]]
) -> None:
    workspace.behave(
        intercept=lambda request: (answer[0], {}, answer[1]) if (request.method, request.path) == _POST_USER else None
    )
    report = sync(workspace, {"biologists": ["new@y.org"]})
    assert (
        f"new@y.org: POST /api/2.0/preview/scim/v2/Users: expected the server to do it, found HTTP {answer[0]}: "
        in (report.failures["biologists"])
    )
    assert next(iter(answer[1].values())) in report.failures["biologists"]


_POST_USER = ("POST", "/Users")


def test_each_cause_has_a_hint_of_its_own(workspace: DatabricksWorkspace) -> None:
    hints: dict[Any, str] = {}
    short = RetryPolicy(total=0.05, visible=0.01, backoff=0.001, timeout=(0.5, 0.1))
    for status in (400, 401, 403, 404, 409, 429, 500):
        workspace.behave(intercept=lambda request, status=status: (status, {}, {}))
        with client(workspace, short) as api, pytest.raises(ScimError) as failed:
            api.users()
        assert failed.value.status == status
        hints[status] = failed.value.hint
    for fault in ("connection dropped before", "no answer in time"):
        workspace.behave(faults_from=(0, fault))
        with client(workspace, short) as api, pytest.raises(ScimError) as failed:
            api.users()
        hints[fault] = failed.value.hint
    with (
        ScimClient(workspace.headers, users_api="http://127.0.0.1:9/Users", policy=short) as api,
        pytest.raises(ScimError) as failed,
    ):
        api.users()
    hints["no server"] = failed.value.hint
    assert len(set(hints.values())) == len(hints) == 10


def test_an_answer_that_is_not_json_is_shown_unless_it_is_a_web_page(workspace: DatabricksWorkspace) -> None:
    assert scim._server_words({"message": "Bad Gateway"}) == "Bad Gateway"
    assert scim._server_words(None) == ""
    assert scim._server_words({"detail": "same", "message": "same"}) == "same"


# Throttling


class Clock:
    """A clock that the waits move on."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(scim, "time", SimpleNamespace(sleep=clock.sleep, monotonic=lambda: clock.now))
    return clock


def _retry_after(form: str) -> dict[str, str]:
    if form == "date":
        return {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=5), usegmt=True)}
    return {"none": {}, "seconds": {"Retry-After": "7"}, "zero": {"Retry-After": "0"}}[form]


@pytest.mark.parametrize("form", ["none", "seconds", "zero", "date"])
def test_throttling_for_20_seconds_is_survived_and_each_wait_is_one_line_of_the_log(
    workspace: DatabricksWorkspace, clock: Clock, caplog: pytest.LogCaptureFixture, form: str
) -> None:
    caplog.set_level(logging.INFO, "biocloud_assets")
    until = clock.now + 20
    workspace.behave(
        intercept=lambda request: (429, _retry_after(form), {"message": "too many"}) if clock.now < until else None
    )
    assert fetch_all_users(workspace.users_api, workspace.headers) == {ADMIN: workspace.admin}
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(clock.waits) == len(workspace.log) - 1
    assert all(line.startswith("GET /api/2.0/preview/scim/v2/Users: HTTP 429, retrying in ") for line in lines)
    if form == "seconds":
        assert clock.waits == [7.0, 7.0, 7.0]


@pytest.mark.parametrize("value", ["", "86400", "Fri, 31 Dec 2100 23:59:59 GMT", "-5", "soon", "99999999999999999999"])
def test_throttling_without_end_stops_after_two_minutes(
    workspace: DatabricksWorkspace, clock: Clock, value: str
) -> None:
    headers = {"Retry-After": value} if value else {}
    workspace.behave(intercept=lambda request: (429, headers, {"detail": "too many"}))
    with pytest.raises(ScimError, match=r"HTTP 429: too many\. The server limits the rate"):
        fetch_all_users(workspace.users_api, workspace.headers)
    assert sum(clock.waits) == pytest.approx(120)
    assert max(clock.waits) <= 60


@pytest.mark.parametrize("fault", ["500", "connection dropped before"])
def test_another_fault_is_retried_a_few_times(workspace: DatabricksWorkspace, clock: Clock, fault: str) -> None:
    workspace.behave(faults_from=(0, fault))
    with pytest.raises(ScimError):
        fetch_all_users(workspace.users_api, workspace.headers)
    assert len(workspace.log) == scim.ATTEMPTS


def test_the_log_shows_progress(workspace: DatabricksWorkspace, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "biocloud_assets")
    sync(workspace, {"biologists": ["new1@y.org"], "botanists": ["new2@y.org"]})
    assert [record.getMessage() for record in caplog.records] == [
        "user new1@y.org created (1 of 2)",
        "user new2@y.org created (2 of 2)",
        "group biologists: changed (1 of 2)",
        "group botanists: changed (2 of 2)",
    ]


# Users


def test_two_users_whose_names_differ_in_case_fail_only_the_groups_that_ask_for_them(
    workspace: DatabricksWorkspace,
) -> None:
    ids = {workspace.add_user("ada@y.org"), workspace.add_user("ada2@y.org", shown_as="Ada@y.org")}
    workspace.add_group("botanists", [*ids, workspace.admin])
    report = sync(workspace, {"biologists": ["ada@y.org"], "botanists": [ADMIN]}, any_removal(["botanists"]))
    assert outcomes(report) == ["refused", "changed"]
    assert "ada@y.org is the address of 2 users" in report.failures["biologists"]
    assert all(identifier in report.failures["biologists"] for identifier in ids)
    assert workspace.people("botanists") == {ADMIN}


def test_a_deactivated_user_is_not_added_but_stays_a_member(workspace: DatabricksWorkspace) -> None:
    ada = workspace.add_user("ada@y.org", active=False)
    workspace.add_group("biologists", [workspace.admin])
    workspace.add_group("botanists", [ada])
    report = sync(workspace, {"biologists": [ADMIN, "ada@y.org"], "botanists": ["ada@y.org"]})
    assert outcomes(report) == ["unchanged", "unchanged"]
    assert report.groups[0].warnings == ["ada@y.org is deactivated and is not added"]
    assert report.groups[1].warnings == []
    assert "- warning: ada@y.org is deactivated" in render(report)
    assert workspace.writes == []


def test_a_guest_is_found_by_e_mail(workspace: DatabricksWorkspace) -> None:
    guest = workspace.add_user("ada_y.org#ext#@tenant.example", emails=["Ada@y.org"])
    workspace.add_group("botanists", [guest])
    report = sync(workspace, {"biologists": ["ada@y.org"], "botanists": ["ada@y.org"]})
    assert outcomes(report) == ["changed", "unchanged"]
    assert workspace.members("biologists") == {guest}
    assert report.users_created == []


def test_a_user_name_takes_precedence_over_the_e_mail_of_another_user(workspace: DatabricksWorkspace) -> None:
    ada = workspace.add_user("ada@y.org")
    workspace.add_user("other@y.org", emails=["ada@y.org"])
    sync(workspace, {"biologists": ["ada@y.org"]})
    assert workspace.members("biologists") == {ada}


def test_an_e_mail_of_two_guests_fails_only_the_groups_that_ask_for_it(workspace: DatabricksWorkspace) -> None:
    for number in range(2):
        workspace.add_user(f"guest{number}@tenant.example", emails=["ada@y.org"])
    report = sync(workspace, {"biologists": ["ada@y.org"], "botanists": [ADMIN]})
    assert outcomes(report) == ["refused", "changed"]
    assert "guest0@tenant.example" in report.failures["biologists"]
    assert "guest1@tenant.example" in report.failures["biologists"]


def test_required_members_are_recognised_by_every_address(workspace: DatabricksWorkspace) -> None:
    guest = workspace.add_user("ada_y.org#ext#@tenant.example", emails=["ada@y.org"])
    workspace.add_group("biologists", [guest])
    sync(workspace, {"_required": ["ada@y.org"], "biologists": [ADMIN]})
    assert workspace.members("biologists") == {guest, workspace.admin}


class Hidden:
    """A server that says of some users that they exist (409), and finds them only after some searches."""

    def __init__(self, workspace: DatabricksWorkspace, emails: list[str], searches: int) -> None:
        self.left = dict.fromkeys(emails, searches)
        self.asked: list[str] = []
        self.ids = {email: workspace.add_user(email) for email in emails}

    def __call__(self, request: Request) -> Answer | None:
        if request.path != "/Users":
            return None
        if request.method == "POST" and request.body["userName"] in self.left:
            return 409, {}, {"detail": f"User {request.body['userName']} is in the account", "scimType": "uniqueness"}
        if request.method == "GET" and "filter" not in request.query:
            return 200, {}, {"totalResults": 1, "Resources": [{"id": "1", "userName": ADMIN}]}
        for email in self.left:
            if request.method == "GET" and email in request.query["filter"][0]:
                self.asked.append(email)
                self.left[email] -= 1
                return None if self.left[email] < 0 else (200, {}, {"totalResults": 0})
        return None


def test_users_that_exist_but_are_not_found_cost_one_wait_together(
    workspace: DatabricksWorkspace, clock: Clock
) -> None:
    hidden = [f"hidden{number}@y.org" for number in range(5)]
    server = Hidden(workspace, hidden, searches=1_000)
    workspace.behave(intercept=server)
    report = sync(workspace, {f"group{n}": [email] for n, email in enumerate(hidden)}, policy=RetryPolicy())
    assert outcomes(report) == ["failed"] * 5
    assert "uniqueness: User hidden3@y.org is in the account" in report.failures["group3"]
    assert sum(clock.waits) <= 30
    assert len(server.asked) == 5 * (len(clock.waits) + 1)


def test_users_that_exist_and_are_found_later_become_members(workspace: DatabricksWorkspace) -> None:
    server = Hidden(workspace, ["hidden0@y.org", "hidden1@y.org"], searches=2)
    workspace.behave(intercept=server)
    report = sync(workspace, {"biologists": ["hidden0@y.org", "hidden1@y.org", "new@y.org"]})
    assert outcomes(report) == ["changed"]
    assert report.users_created == ["new@y.org"]
    assert workspace.members("biologists") >= set(server.ids.values())


# Partial results


def test_a_group_that_fails_in_the_middle_reports_what_was_done(workspace: DatabricksWorkspace) -> None:
    ids = {f"user{n:03}@y.org": workspace.add_user(f"user{n:03}@y.org") for n in range(150)}
    workspace.add_group("biologists", [workspace.admin])
    patches = 0

    def refuse_the_second(request: Request) -> Answer | None:
        nonlocal patches
        patches += request.method == "PATCH"
        return (403, {}, {"detail": "no more"}) if request.method == "PATCH" and patches == 2 else None

    workspace.behave(intercept=refuse_the_second)
    report = sync(workspace, {"biologists": [*ids], "botanists": [ADMIN]}, any_removal(["biologists"]))
    (biologists, _) = report.groups
    assert outcomes(report) == ["failed", "changed"]
    assert biologists.added == list(ids)[:100]
    assert biologists.removed == []
    assert "no more" in biologists.reason
    assert workspace.people("biologists") == {ADMIN, *biologists.added}


def test_a_failure_after_which_the_group_cannot_be_read_says_so(workspace: DatabricksWorkspace) -> None:
    group = workspace.add_group("biologists", [workspace.admin])
    failing = False

    def fail(request: Request) -> Answer | None:
        nonlocal failing
        failing = failing or request.method == "PATCH"
        return (403, {}, {"detail": "no"}) if failing and request.path == f"/Groups/{group}" else None

    workspace.behave(intercept=fail)
    report = sync(workspace, {"biologists": [ADMIN, "new@y.org"]})
    assert "can't be read" in report.failures["biologists"]
    assert report.groups[0].added == []
    assert report.users_created == ["new@y.org"]


def test_one_refused_token_does_not_cost_a_request_for_each_new_user(workspace: DatabricksWorkspace) -> None:
    workspace.behave(
        intercept=lambda request: (403, {}, {"detail": "no"}) if (request.method, request.path) == _POST_USER else None
    )
    report = sync(workspace, {"biologists": [f"new{n}@y.org" for n in range(20)]})
    assert outcomes(report) == ["failed"]
    assert len(workspace.writes) == 1


def test_the_token_of_the_account_api_is_checked_like_that_of_the_workspace(workspace: DatabricksWorkspace) -> None:
    root = f"{workspace.host}{ACCOUNT_ROOT}"
    with pytest.raises(ScimError, match="HTTP 401"):
        sync_group("a", ["x@y.org"], f"{root}/Groups", f"{root}/Users", {"Authorization": f"Bearer {TOKEN}x"})
