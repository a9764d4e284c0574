"""What a group file may say, and that everything else is refused by file and line, before any request."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from databricks_workspace import DatabricksWorkspace

from biocloud_assets.access.group_file import GroupFile, GroupsRefusedError, read_group_file
from biocloud_assets.access.sync_groups import sync_all_groups_for_env, sync_group
from biocloud_assets.errors import BiocloudError

ROOT = Path(__file__).parents[2]


def test_a_file_is_groups_of_emails_in_small_letters(tmp_path: Path) -> None:
    path = tmp_path / "development_group.yml"
    path.write_text("a:\n  - Ada@Biocloud.example\n  - bob@biocloud.example\nb: [cy@biocloud.example]\n")
    assert read_group_file(path) == GroupFile(
        {"a": ["ada@biocloud.example", "bob@biocloud.example"], "b": ["cy@biocloud.example"]}
    )


def test_the_required_members_are_no_group(tmp_path: Path) -> None:
    path = tmp_path / "development_group.yml"
    path.write_text("_required: [Boss@biocloud.example]\na: [ada@biocloud.example]\n")
    assert read_group_file(path) == GroupFile({"a": ["ada@biocloud.example"]}, ("boss@biocloud.example",))


def test_an_explicit_empty_list_is_allowed_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "development_group.yml"
    path.write_text("a: []\n")
    assert read_group_file(path, allow_empty=True) == GroupFile({"a": []})
    with pytest.raises(GroupsRefusedError, match=r"development_group\.yml:1: .*--allow-empty"):
        read_group_file(path)


@pytest.mark.parametrize("allow_empty", [False, True])
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
        ("a:\n  - x@y.org\n  - X@Y.org\n", 3, "X@Y.org is there twice"),
        ("a:\n  - x@y.org\n  - x@y.org\n", 3, "x@y.org is there twice"),
        ("on: [x@y.org]\n", 1, "which YAML reads as bool"),
        ("7: [x@y.org]\n", 1, "which YAML reads as int"),
        ("' a': [x@y.org]\n", 1, "without blanks around it"),
        ("_requird: [x@y.org]\na: [x@y.org]\n", 1, "_required"),
        ("_required: [x@y.org]\n_required: [z@y.org]\na: [x@y.org]\n", 2, "the key is repeated"),
        ("_required: [x@y.org]\n", 1, "at least one group"),
        ("base: &b\n  a: [x@y.org]\n<<: *b\n", 3, "expected the name of a group"),
        ("a: &x [*x]\n", 1, "a list inside the list"),
        ("- a\n", 1, "expected group names"),
        ("", 1, "expected group names"),
        ("# nothing\n", 1, "expected group names"),
        ("a: [x@y.org\nb: [x@y.org]\n", 2, "no YAML"),
        ("a: [x@y.org]\n---\nb: [x@y.org]\n", 2, "no YAML"),
        ("a: [*missing]\n", 1, "no YAML"),
        ("a: ['x@y.org']\n\x00", 1, "no YAML"),
    ],
)
def test_what_breaks_the_rules_is_refused_with_its_line(
    tmp_path: Path, text: str, line: int, says: str, allow_empty: bool
) -> None:
    path = tmp_path / "development_group.yml"
    path.write_text(text)
    with pytest.raises(GroupsRefusedError, match=re.escape(f"{path}:{line}: ")) as refused:
        read_group_file(path, allow_empty=allow_empty)
    assert any(says in fault.text and fault.place == f"{path}:{line}" for fault in refused.value.faults)


def test_every_fault_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "development_group.yml"
    path.write_text("a: x@y.org\nb: [nobody]\nc: [x@y.org, X@y.org]\n")
    with pytest.raises(GroupsRefusedError) as refused:
        read_group_file(path)
    assert [fault.place for fault in refused.value.faults] == [f"{path}:1", f"{path}:2", f"{path}:3"]


def test_no_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BiocloudError, match="BIOCLOUD_GROUPS") as refused:
        read_group_file(tmp_path / "development_group.yml")
    assert str(tmp_path / "development_group.yml") in str(refused.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
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
        {"fine": ["x@y.org"], "a\nb": ["x@y.org"]},
    ],
)
def test_definitions_that_come_from_code_have_the_same_rules(
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
    assert f"biocloud_users_{env}" in read_group_file(path).groups


def test_the_schema_for_editors_says_what_the_reader_says(tmp_path: Path) -> None:
    """What the schema's patterns can tell, they tell the same as the reader."""
    schema = json.loads((ROOT / "groups" / "schema.json").read_text())
    (name,) = schema["patternProperties"]
    email = schema["$defs"]["emails"]["items"]["pattern"]
    path = tmp_path / "development_group.yml"

    def taken(group: str, person: str) -> bool:
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
        assert bool(re.search(email, person)) == taken("a", person), person
    for group in ("a", "a b", "biocloud_users_development", "_x", " a", "a ", 'x" y'):
        assert bool(re.search(name, group)) == taken(group, "a@b.org"), group
