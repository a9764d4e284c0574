"""The links of README, CONTRIBUTING and the docs pages. No request is sent for those to other servers."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

from tests.docs.markdown import ROOT, Link, anchors, links, markdown_files

DOCS = ROOT / "docs"


def problem(link: Link) -> str | None:
    """What is wrong with a link, or None."""
    if re.match(r"[a-z]+:", link.target):
        address = urlsplit(link.target)
        if address.scheme == "mailto":
            return None
        local = address.hostname in {"127.0.0.1", "localhost"}
        valid = address.scheme in ({"http", "https"} if local else {"https", "http"}) and address.hostname
        return None if valid and (local or "." in str(address.hostname)) else "not a valid address"
    path, _, fragment = link.target.partition("#")
    target = (link.file.parent / path).resolve() if path else link.file
    if not target.exists():
        return "no such file"
    if DOCS in link.file.parents and DOCS not in target.parents:
        return "leads out of docs/, so it is broken on the docs site; name the file as code instead"
    # The anchors of the API reference come from the code; the build of the site checks them.
    if (
        fragment
        and target.suffix == ".md"
        and not fragment.startswith("biocloud_assets.")
        and fragment not in anchors(target)
    ):
        return "no such heading"
    return None


def test_every_link_leads_somewhere() -> None:
    found = [f"{link}: {text}" for file in markdown_files() for link in links(file) if (text := problem(link))]
    assert found == []


def test_the_check_finds_broken_links(tmp_path: Path) -> None:
    broken = {
        "nothing.md": "no such file",
        "access.md#no-such-heading": "no such heading",
        "../README.md": "leads out of docs/, so it is broken on the docs site; name the file as code instead",
        "https://": "not a valid address",
    }
    assert {target: problem(Link(target, DOCS / "index.md", 1)) for target in broken} == broken
    assert problem(Link("access.md#add-a-person", DOCS / "index.md", 1)) is None


def test_a_block_in_a_list_is_indented_by_four_so_that_the_site_keeps_it_in_the_list() -> None:
    """GitLab takes three as well; the site then ends the list, and numbers the next item 1."""
    wrong = []
    for file in markdown_files():
        fenced, after_blank, in_block = False, False, False
        for number, line in enumerate(file.read_text().splitlines(), 1):
            indent = len(line) - len(line.lstrip(" "))
            # After a second paragraph of an item, the next item needs a blank line before it.
            if in_block and not after_blank and not indent and re.match(r"(\d+\.|-) ", line):
                wrong.append(f"{file.relative_to(ROOT)}:{number}: {line[:60]}")
            if after_blank or not line.strip():
                in_block = indent >= 4
            if line.lstrip().startswith("```"):
                fenced = not fenced
            elif fenced:
                continue
            if after_blank and line.strip() and indent % 4:
                wrong.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()[:60]}")
            after_blank = not line.strip()
    assert wrong == []


def test_the_navigation_names_every_page_once() -> None:
    def paths(entries: list[object]) -> list[str]:
        found: list[str] = []
        for entry in entries:
            assert isinstance(entry, dict)
            for value in entry.values():
                found += [value] if isinstance(value, str) else paths(value)
        return found

    nav = paths(tomllib.loads((DOCS / "zensical.toml").read_text())["project"]["nav"])
    pages = [path.relative_to(DOCS).as_posix() for path in markdown_files() if DOCS in path.parents]
    assert sorted(nav) == sorted(pages)
