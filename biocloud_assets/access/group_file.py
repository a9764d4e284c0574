"""The rules for `groups/<environment>_group.yml`, checked with file and line before any request.

The format is a mapping of group name to a list of e-mails, as in `groups/schema.json`; the one other key is
`_required`, the e-mails that are never removed from any group.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from biocloud_assets.errors import BiocloudError

REQUIRED = "_required"

# As browsers check `<input type=email>` (HTML Living Standard, "valid e-mail address"), with at least one dot in the
# domain: no invitation reaches a name without one.
_EMAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9-]+)+")


@dataclass(frozen=True)
class _Entry:
    """A value and where it stands (`file:line`, or the group); a list holds entries."""

    place: str
    value: object


@dataclass(frozen=True)
class _NotText:
    """A YAML node that is no text, as a message describes it."""

    text: str

    def __repr__(self) -> str:
        return self.text


class GroupsRefusedError(BiocloudError):
    """The groups break the rules; no request was sent.

    Args:
        thing: the file.
        violations: all violations, each with its file and line; also an attribute of the error.
    """

    def __init__(self, thing: str, violations: Iterable[str]) -> None:
        self.violations = tuple(violations)
        super().__init__(
            thing,
            expected="group names with lists of e-mails, as in groups/schema.json",
            found="one violation" if len(self.violations) == 1 else f"{len(self.violations)} violations",
            hint="Nothing was sent. Fix and run again:" + "".join(f"\n- {violation}" for violation in self.violations),
        )


def check_groups(definitions: Mapping[str, object]) -> dict[str, list[str]]:
    """Check groups that don't come from a file.

    Args:
        definitions: group name → e-mails; `_required` as in a file.

    Returns:
        The same, with the e-mails in lower case.

    Raises:
        GroupsRefusedError: a name or a list breaks the rules.
    """
    entries = []
    for name, emails in definitions.items():
        place = f"group {name!r}"
        value: object = emails
        if isinstance(emails, Iterable) and not isinstance(emails, str | bytes | Mapping):
            value = [_Entry(place, email) for email in emails]
        entries.append((_Entry(place, name), _Entry(place, value)))
    return _checked("the groups", entries)


def read_group_file(path: Path) -> dict[str, list[str]]:
    """Read and check the groups of one environment.

    Args:
        path: `groups/<environment>_group.yml`, or one like it.

    Returns:
        Group name → e-mails in lower case; also `_required` if the file has it.

    Raises:
        BiocloudError: there is no such file.
        GroupsRefusedError: it breaks the rules.
    """
    try:
        # The nodes and not the values: they know their line, repeated keys, and that an unquoted `no` is no text.
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except FileNotFoundError:
        expected = "the file with the groups of this environment"
        hint = "Run from the root of the repository, or set BIOCLOUD_GROUPS to the folder that holds it."
        raise BiocloudError(str(path.absolute()), expected=expected, found="no file", hint=hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise GroupsRefusedError(str(path), [f"{path}: can't be read: {error}"]) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or error
        raise GroupsRefusedError(str(path), [f"{path}:{mark.line + 1 if mark else 1}: not YAML: {problem}"]) from None
    if not isinstance(root, yaml.MappingNode) or not root.value:
        raise GroupsRefusedError(str(path), [f"{path}:1: expected group names with lists, found none"])
    return _checked(str(path), [(_entry(path, key), _entry(path, value)) for key, value in root.value])


def _entry(path: Path, node: yaml.Node, inside: bool = False) -> _Entry:
    """Return what a node holds if YAML reads it as text or as a list of such, and a description of anything else."""
    kind = node.tag.rpartition(":")[2]
    value: object = _NotText({"null": "nothing", "map": "a mapping", "seq": "a list inside the list"}.get(kind, kind))
    if isinstance(node, yaml.SequenceNode) and not inside:
        value = [_entry(path, item, inside=True) for item in node.value]
    elif isinstance(node, yaml.ScalarNode) and kind != "null":
        value = node.value if kind == "str" else _NotText(f"{node.value!r}, which YAML reads as {kind}")
    return _Entry(f"{path}:{node.start_mark.line + 1}", value)


def _checked(thing: str, entries: Iterable[tuple[_Entry, _Entry]]) -> dict[str, list[str]]:
    """Return the groups with e-mails in lower case, or raise with every violation."""
    groups: dict[str, list[str]] = {}
    violations = []
    for key, listed in entries:
        name = key.value
        if not isinstance(name, str) or not name or name != name.strip() or not name.isprintable():
            violations.append(f"{key.place}: expected the name of a group, without spaces around it, found {name!r}")
        elif name.startswith("_") and name != REQUIRED:
            violations.append(f"{key.place}: {name}: only {REQUIRED} may start with '_'")
        elif name in groups:
            violations.append(f"{key.place}: {name}: the key is repeated; YAML would silently use the last one")
        elif name.casefold() in map(str.casefold, groups):
            violations.append(f"{key.place}: {name}: there is another group of that name, in another case")
        emails = groups[str(name)] = []
        if not isinstance(listed.value, list):
            violations.append(f"{listed.place}: {name}: expected a list of e-mails, found {listed.value!r}")
            continue
        for entry in listed.value:
            if not isinstance(entry.value, str) or not _EMAIL.fullmatch(entry.value):
                violations.append(f"{entry.place}: {name}: expected an e-mail, found {entry.value!r}")
            elif entry.value.lower() in emails:
                violations.append(f"{entry.place}: {name}: {entry.value} is listed twice; case doesn't matter")
            else:
                emails.append(entry.value.lower())
    if groups.keys() <= {REQUIRED} and not violations:
        violations.append(f"{thing}: expected at least one group, found none")
    if violations:
        raise GroupsRefusedError(thing, violations)
    return groups
