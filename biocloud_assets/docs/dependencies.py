"""The page on dependencies: packages with their reasons, and the layers of the code, from pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from biocloud_assets.docs.modules import modules

_KEY = re.compile(r"^(?P<key>[\w-]+) = \[$")
_REQUIREMENT = re.compile(r'^  "(?P<name>[\w.-]+(\[[\w,-]+\])?)(?P<versions>[^"]*)",?(\s*# (?P<reason>.*))?$')


@dataclass
class _Requirements:
    """A list of requirements in pyproject.toml.

    Attributes:
        comment: the lines of comment above it, as one.
        rows: for each requirement the package, its versions and the comment behind it.
    """

    comment: str
    rows: list[tuple[str, str, str]] = field(default_factory=list)


def page(root: Path) -> str:
    """The page, in Markdown.

    Args:
        root: the folder of the repository.

    Raises:
        ValueError: a dependency has no reason.
    """
    return "\n".join(_lines(root)) + "\n"


def _lines(root: Path) -> Iterator[str]:
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    content = tomllib.loads(text)
    lists = _requirements(text)
    yield "<!-- Generated from pyproject.toml by `python -m biocloud_assets.docs`. -->"
    yield ""
    yield "# Dependencies"
    yield ""
    yield "## Between the packages of the code"
    yield ""
    yield "A package imports only packages of the layers below its own. `uv run lint-imports` checks this, and the"
    yield "rules below the table."
    yield ""
    contracts = content["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    yield from _layers(root, layers)
    yield ""
    for contract in contracts:
        if contract["type"] == "forbidden":
            yield from _forbidden(contract)
    yield ""
    yield "## On other packages"
    yield ""
    yield "The exact versions are in `uv.lock`. `uv run deptry .` checks that every imported package is declared, and"
    yield "that every declared one is used."
    yield ""
    always = lists["dependencies"]
    reasons = {name: reason for name, _, reason in always.rows}
    yield "### Always installed"
    yield from _table(always, reasons)
    for kind, names in (
        ("Extra", content["project"]["optional-dependencies"]),
        ("Group", content["dependency-groups"]),
    ):
        for name in names:
            yield ""
            yield f"### {kind} `{name}`"
            yield ""
            yield lists[name].comment
            yield from _table(lists[name], reasons)


def _layers(root: Path, layers: list[str]) -> Iterator[str]:
    summaries = {module.name.removeprefix("biocloud_assets."): module.summary for module in modules(root)}
    yield "| layer | package | content |"
    yield "| --- | --- | --- |"
    for number, layer in enumerate(layers, 1):
        for name in layer.split(" | "):
            yield f"| {number} | `{name}` | {summaries[name]} |"


def _forbidden(contract: dict[str, Any]) -> Iterator[str]:
    sources = ", ".join(f"`{name.removeprefix('biocloud_assets.')}`" for name in contract["source_modules"])
    forbidden = " or ".join(f"`{name}`" for name in contract["forbidden_modules"])
    yield f"- **{contract['name']}.** Not allowed is {forbidden} in {sources}, also through other modules."


def _table(requirements: _Requirements, reasons: dict[str, str]) -> Iterator[str]:
    yield ""
    yield "| package | versions | reason |"
    yield "| --- | --- | --- |"
    for name, versions, comment in requirements.rows:
        reason = comment or reasons.get(name)
        if not reason:
            raise ValueError(f"{name} in pyproject.toml: expected a comment with the reason, found none. Add one.")
        yield f"| `{name}` | {f'`{versions}`' if versions else ''} | {reason} |"


def _requirements(text: str) -> dict[str, _Requirements]:
    """The lists of requirements by their keys, with their comments, which a parser of TOML leaves out."""
    found: dict[str, _Requirements] = {}
    section, current = "", None
    comments: list[str] = []
    for line in text.splitlines():
        if line.startswith("["):
            section, comments, current = line.strip("[]"), [], None
        elif not section.startswith(("project", "dependency-groups")):
            continue
        elif line.startswith("#"):
            comments.append(line.removeprefix("#").strip())
        elif match := _KEY.match(line):
            current = found.setdefault(match["key"], _Requirements(" ".join(comments)))
            comments = []
        elif current and (match := _REQUIREMENT.match(line)):
            current.rows.append((match["name"], match["versions"], match["reason"] or ""))
    return found
