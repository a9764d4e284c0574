"""What a group file may hold; everything else is refused with file and line, before any request."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from databricks_workspace import DatabricksWorkspace

from biocloud_assets.access.group_file import GroupsRefusedError, read_group_file
from biocloud_assets.access.sync_groups import sync_all_groups_for_env, sync_group
from biocloud_assets.errors import BiocloudError

ROOT = Path(__file__).parents[2]


def test_a_file_holds_groups_of_emails_which_are_read_in_lower_case(tmp_path: Path) -> None:
    path = tmp_path / "development_group.yml"
    path.write_text("_required: [Boss@biocloud.example]\na:\n  - Ada@Biocloud.example\nb: []\n")
    assert read_group_file(path) == {"_required": ["boss@biocloud.example"], "a": ["ada@biocloud.example"], "b": []}


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: [x@y.org]\nb: [x@y.org]\na: [z@y.org]\n", 3, "a: the key is repeated"),
        ("a: [x@y.org]\nA: [z@y.org]\n", 2, "another group of that name"),
        ("a: [x@y.org]\nb: x@y.org\n", 2, "expected a list of e-mails"),
        ("a:\nb: [x@y.org]\n", 1, "found nothing"),
        ("a: [x@y.org]\nb: null\n", 2, "found nothing"),
        ("a: {x: y}\n", 1, "found a mapping"),
        ("a:\n  - x@y.org\n  - ada\n", 3, "expected an e-mail, found 'ada'"),
        ("a:\n  - x@y.org\n  -\n", 3, "expected an e-mail, found nothing"),
        ("a:\n  - no\n", 2, "which YAML reads as bool"),
        ("a:\n  - 7\n", 2, "which YAML reads as int"),
        ("a:\n  - [x@y.org]\n", 2, "a list inside the list"),
        ("a:\n  - 'x@y.org '\n", 2, "expected an e-mail"),
        ('a:\n  - "x@y.org\\n"\n', 2, "expected an e-mail"),
        ("a:\n  - x@y\n", 2, "expected an e-mail"),
        ("a:\n  - x@y.org\n  - X@Y.org\n", 3, "X@Y.org is listed twice"),
        ("a:\n  - x@y.org\n  - x@y.org\n", 3, "x@y.org is listed twice"),
        ("on: [x@y.org]\n", 1, "which YAML reads as bool"),
        ("7: [x@y.org]\n", 1, "which YAML reads as int"),
        ("' a': [x@y.org]\n", 1, "without spaces around it"),
        ("_requird: [x@y.org]\na: [x@y.org]\n", 1, "_required"),
        ("_required: [x@y.org]\n_required: [z@y.org]\na: [x@y.org]\n", 2, "the key is repeated"),
        ("base: &b\n  a: [x@y.org]\n<<: *b\n", 3, "expected the name of a group"),
        ("a: &x [*x]\n", 1, "a list inside the list"),
        ("- a\n", 1, "expected group names"),
        ("", 1, "expected group names"),
        ("# nothing\n", 1, "expected group names"),
        ("a: [x@y.org\nb: [x@y.org]\n", 2, "not YAML"),
        ("a: [x@y.org]\n---\nb: [x@y.org]\n", 2, "not YAML"),
        ("a: [*missing]\n", 1, "not YAML"),
        ("a: ['x@y.org']\n\x00", 1, "not YAML"),
    ],
)
def test_a_violation_is_refused_with_its_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    path = tmp_path / "development_group.yml"
    path.write_text(text)
    with pytest.raises(GroupsRefusedError) as refused:
        read_group_file(path)
    assert any(one.startswith(f"{path}:{line}: ") and says in one for one in refused.value.violations)
    assert all(one in str(refused.value) for one in refused.value.violations)


def test_all_violations_of_a_file_are_named_in_one_message(tmp_path: Path) -> None:
    path = tmp_path / "development_group.yml"
    path.write_text("a: x@y.org\nb: [nobody]\nc: [x@y.org, X@y.org]\n")
    with pytest.raises(GroupsRefusedError) as refused:
        read_group_file(path)
    message, *items = str(refused.value).splitlines()
    assert "found 3 violations. Nothing was sent. Fix and run again:" in message
    assert [item.partition(": ")[0] for item in items] == [f"- {path}:{line}" for line in (1, 2, 3)]


def test_a_file_with_nothing_but_required_members_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "development_group.yml"
    path.write_text("_required: [x@y.org]\n")
    with pytest.raises(GroupsRefusedError, match="at least one group"):
        read_group_file(path)


def test_no_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BiocloudError, match="BIOCLOUD_GROUPS") as refused:
        read_group_file(tmp_path / "development_group.yml")
    assert str(tmp_path / "development_group.yml") in str(refused.value)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "development_group.yml"
    path.write_bytes(b"a: [\xff\xfe]\n")
    with pytest.raises(GroupsRefusedError, match="can't be read"):
        read_group_file(path)


@pytest.mark.parametrize(
    "definitions",
    [
        {"a": "x@y.org"},
        {"a": None},
        {"a": ["nobody"]},
        {"a": [None]},
        {"a": ["x@y.org", "X@Y.ORG"]},
        {"a": ["x@y.org"], "A": ["x@y.org"]},
        {"": ["x@y.org"]},
        {},
        {"_required": ["x@y.org"]},
        {"fine": ["x@y.org"], "a\nb": ["x@y.org"]},
    ],
)
def test_definitions_from_code_have_the_same_rules(
    workspace: DatabricksWorkspace, definitions: dict[str, list[str]]
) -> None:
    with pytest.raises(GroupsRefusedError):
        sync_all_groups_for_env("development", workspace.config, definitions)
    assert workspace.log == []


@pytest.mark.parametrize("env", ["staging", "local", "", "Production"])
def test_an_unknown_environment_is_refused_before_any_request(workspace: DatabricksWorkspace, env: str) -> None:
    with pytest.raises(BiocloudError, match="development or production"):
        sync_all_groups_for_env(env, workspace.config, {"a": ["x@y.org"]})
    assert workspace.log == []


def test_a_bare_string_is_not_taken_for_its_letters(workspace: DatabricksWorkspace) -> None:
    with pytest.raises(GroupsRefusedError):
        sync_group("a", "x@y.org", workspace.groups_api, workspace.users_api, workspace.headers)  # type: ignore[arg-type]
    assert workspace.log == []


@pytest.mark.parametrize("env", ["development", "production"])
def test_the_files_of_the_project_follow_their_own_rules(env: str) -> None:
    path = ROOT / "groups" / f"{env}_group.yml"
    assert f"biocloud_users_{env}" in read_group_file(path)


def test_the_schema_for_editors_accepts_the_names_and_emails_that_the_reader_accepts(tmp_path: Path) -> None:
    schema = json.loads((ROOT / "groups" / "schema.json").read_text())
    (name,) = schema["patternProperties"]
    email = schema["$defs"]["emails"]["items"]["pattern"]
    path = tmp_path / "development_group.yml"

    def is_accepted(group: str, person: str) -> bool:
        path.write_text(yaml.safe_dump({group: [person]}))
        try:
            read_group_file(path)
        except GroupsRefusedError:
            return False
        return True

    for person in (
        "a@b.org",
        "A.b+c@d-e.f.org",
        "a@b",
        "a b@c.org",
        "@b.org",
        "a@",
        "a@b.org ",
        "a@-b.org",
        "a@@b.org",
    ):
        assert bool(re.search(email, person)) == is_accepted("a", person), person
    for group in ("a", "a b", "biocloud_users_development", "_x", " a", "a ", 'x" y'):
        assert bool(re.search(name, group)) == is_accepted(group, "a@b.org"), group
