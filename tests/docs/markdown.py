"""The Markdown files of the repository, and what is in them: links, headings and shell commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^ *```")
_PROGRAMS = (
    r"uv|uvx|biocloud|pip|git|pre-commit|dagster|dg|airflow|databricks|npm|mvn|apt-get|docker|systemctl|psql|\.ci/run"
)
_COMMAND = re.compile(rf"^(?:[A-Z_]+=\S+ )*(?:{_PROGRAMS})(?: |$)")


def markdown_files() -> list[Path]:
    """README, CONTRIBUTING and the pages of the docs site."""
    built = ROOT / "docs/site"
    pages = [path for path in sorted((ROOT / "docs").rglob("*.md")) if built not in path.parents]
    return [*sorted(ROOT.glob("*.md")), *pages]


@dataclass(frozen=True)
class Command:
    """A shell command in a Markdown file.

    Attributes:
        text: without comments.
        file: the file, relative to the repository.
        line: its line in the file, from 1.
        in_prose: whether it is in a sentence or a table; then it may be shortened, as in `biocloud verify`.
    """

    text: str
    file: str
    line: int
    in_prose: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


def commands(file: Path) -> Iterator[Command]:
    """The shell commands in blocks of code and in code spans, those that are joined by `&&` one by one."""
    name, language, block = file.relative_to(ROOT).as_posix(), "", False
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if _FENCE.match(line):
            block = not block
            language = line.strip().removeprefix("```").strip() if block else ""
            continue
        if block:
            found = [line.strip().removeprefix("$ ")] if language in {"bash", "console", "sh", "shell"} else []
            # A block of a shell may hold anything; only what starts a program that the project uses is a command here.
        elif line.startswith("    "):
            found = [line.strip().removeprefix("$ ")]
        else:
            found = re.findall(r"`([^`]+)`", line)
        in_prose = not block and not line.startswith("    ")
        for text in found:
            for part in re.split(r" && ", re.split(r"\s+#\s|\s{3,}", text)[0]):
                if _COMMAND.match(part) and not (in_prose and " " not in part):
                    yield Command(part.strip(), name, number, in_prose)


@dataclass(frozen=True)
class Link:
    """A link in a Markdown file: its target, and where it is."""

    target: str
    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}: {self.target}"


def links(file: Path) -> Iterator[Link]:
    """The links and images of a file, blocks and spans of code excepted."""
    for number, line in _text_lines(file):
        for target in re.findall(r"\]\(<?([^()\s>]+)>?(?: \"[^\"]*\")?\)", re.sub(r"`[^`]*`", "", line)):
            yield Link(target, file, number)
        for target in re.findall(r"<(https?:[^>\s]*)>", line):
            yield Link(target, file, number)


def anchors(file: Path) -> set[str]:
    """The anchors of a file's headings, as GitLab and the docs site make them."""
    found: set[str] = set()
    for _, line in _text_lines(file):
        if match := re.match(r"#{1,6} (.+?)\s*$", line):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match[1])
            found.add(re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower()))
    return found


def _text_lines(file: Path) -> Iterator[tuple[int, str]]:
    block = False
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if _FENCE.match(line):
            block = not block
        elif not block:
            yield number, line
