"""What the groups should be: `groups/<environment>_group.yml`, read and checked before any request.

What belongs here: the rules for group names and e-mails, and the file and line of what breaks them. What doesn't: what
the groups are now.

The format is a mapping of group name to a list of e-mails, as in `groups/schema.json`; the one other key is
`_required`, the e-mails that are never removed from any group.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from biocloud_assets.errors import BiocloudError

REQUIRED = "_required"

# As browsers check `<input type=email>` (HTML Living Standard, "valid e-mail address"), with at least one dot in the
# domain: a user name without one is no mailbox that an invitation reaches.
_EMAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9-]+)+")


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: where (`file:line`, or the group's name), and what."""

    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


@dataclass(frozen=True)
class GroupFile:
    """A checked file: the e-mails by group, and those that are never removed. All e-mails are in small letters."""

    groups: dict[str, list[str]]
    required: tuple[str, ...] = ()


class GroupsRefusedError(BiocloudError):
    """The groups asked for break the rules; no request was sent. `faults` holds every fault that was found."""

    def __init__(self, thing: str, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__(
            thing,
            expected="group names with lists of e-mails, as in groups/schema.json",
            found="\n".join(["", *(f"  - {fault}" for fault in self.faults), ""]),
            hint="Mend it and run again. Nothing was sent to the workspace.",
        )


def checked_groups(definitions: Mapping[str, object]) -> dict[str, list[str]]:
    """Check groups that don't come from a file.

    Args:
        definitions: group name → e-mails.

    Returns:
        The same, with the e-mails in small letters.

    Raises:
        GroupsRefusedError: a name or a list breaks the rules.
    """
    faults: list[Fault] = []
    checked: dict[str, list[str]] = {}
    for name, emails in definitions.items():
        place = f"group {name!r}"
        faults += [Fault(place, text) for text in _name_faults(name, checked)]
        if isinstance(emails, (str, bytes)) or not isinstance(emails, Iterable):
            faults.append(Fault(place, f"expected a list of e-mails, found {emails!r}"))
            continue
        listed = list(emails)
        faults += [Fault(place, text) for text in _email_faults(listed) if text]
        checked[name] = [str(email).lower() for email in listed]
    if faults:
        raise GroupsRefusedError("the groups", faults)
    return checked


def read_group_file(path: Path, *, allow_empty: bool = False) -> GroupFile:
    """Read and check the groups of one environment.

    Args:
        path: the file.
        allow_empty: whether a list may be an explicit `[]`.

    Raises:
        BiocloudError: there is no such file.
        GroupsRefusedError: it breaks the rules; every fault with its line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BiocloudError(
            str(path.absolute()),
            expected="the file with the groups of this environment",
            found="no file",
            hint="Run from the root of the repository, or set BIOCLOUD_GROUPS to the folder that holds it.",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise GroupsRefusedError(str(path), [Fault(str(path), f"can't be read: {error}")]) from None
    try:
        # The nodes and not the values: they know their line, repeated keys, and that `no` was no text.
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise GroupsRefusedError(str(path), [Fault(f"{path}:{line}", f"no YAML: {error.problem}")]) from None
    except yaml.YAMLError as error:
        raise GroupsRefusedError(str(path), [Fault(f"{path}:1", f"no YAML: {error}")]) from None
    if not isinstance(root, yaml.MappingNode) or not root.value:
        raise GroupsRefusedError(str(path), [Fault(f"{path}:1", "expected group names with lists, found none")])
    groups: dict[str, list[str]] = {}
    faults: list[Fault] = []
    for key, value in root.value:
        faults += [
            Fault(f"{path}:{node.start_mark.line + 1}", text) for node, text in _entry_faults(key, value, groups)
        ]
        if isinstance(key, yaml.ScalarNode) and isinstance(value, yaml.SequenceNode):
            groups[key.value] = [str(item.value).lower() for item in value.value]
            if not value.value and not allow_empty and key.value != REQUIRED:
                text = f"{key.value}: the list is empty, which would remove everyone; allow it with --allow-empty"
                faults.append(Fault(f"{path}:{value.start_mark.line + 1}", text))
    required = tuple(groups.pop(REQUIRED, []))
    if not groups and not faults:
        faults.append(Fault(f"{path}:1", "expected at least one group, found none"))
    if faults:
        raise GroupsRefusedError(str(path), faults)
    return GroupFile(groups, required)


def _entry_faults(key: yaml.Node, value: yaml.Node, known: Mapping[str, object]) -> Iterator[tuple[yaml.Node, str]]:
    """Yield what is wrong with one entry of the file, and the node that it is about."""
    name = _text(key)
    if name is None:
        yield key, f"expected the name of a group, found {_shown(key)}"
        return
    if name != REQUIRED or name in known:
        for text in _name_faults(name, known):
            yield key, text
    if not isinstance(value, yaml.SequenceNode):
        yield value, f"{name}: expected a list of e-mails, each after a '- ', found {_shown(value)}"
        return
    emails = [_text(item) for item in value.value]
    for item, email, text in zip(value.value, emails, _email_faults(emails), strict=True):
        if text:
            shown = f"expected an e-mail, found {_shown(item)}" if email is None else text
            yield item, f"{name}: {shown}"


def _name_faults(name: object, known: Mapping[str, object]) -> Iterator[str]:
    """Yield what is wrong with a group's name."""
    if not isinstance(name, str) or not name or name != name.strip() or not name.isprintable():
        yield f"{name!r}: expected a group's name, without blanks around it"
    elif name.startswith("_") and name not in known:
        yield f"{name}: no group's name starts with '_'; the one such key is {REQUIRED}"
    elif name in known:
        yield f"{name}: the key is repeated; YAML would take the last one silently"
    elif name.casefold() in {other.casefold() for other in known}:
        yield f"{name}: there is another group of that name, in another case"


def _email_faults(emails: Iterable[object]) -> Iterator[str]:
    """Yield for each e-mail what is wrong with it; nothing ('') where it is right."""
    seen: set[str] = set()
    for email in emails:
        if not isinstance(email, str) or not _EMAIL.fullmatch(email):
            yield f"expected an e-mail, found {email!r}"
        elif email.lower() in seen:
            yield f"{email} is there twice; e-mails are the same in any case"
        else:
            yield ""
            seen.add(email.lower())


def _text(node: yaml.Node) -> str | None:
    """Return what a node holds where YAML takes it for text, and not for a boolean, a number or nothing."""
    return node.value if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str" else None


def _shown(node: yaml.Node) -> str:
    """Say what a node is, for an error."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list inside the list"
    kind = node.tag.rpartition(":")[2]
    if kind == "null":
        return "nothing"
    return f"{node.value!r}, a bare text" if kind == "str" else f"{node.value!r}, which YAML reads as {kind}"
