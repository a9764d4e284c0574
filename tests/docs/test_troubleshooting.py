"""The page on troubleshooting knows every error, every violation and every exit code."""

from __future__ import annotations

import re

from biocloud_assets import run_step  # noqa: F401  imports the modules that define errors
from biocloud_assets.access import group_file, scim, sync_groups  # noqa: F401
from biocloud_assets.airflow import deploy, render  # noqa: F401
from biocloud_assets.cli import commands  # noqa: F401
from biocloud_assets.errors import BiocloudError
from biocloud_assets.ingest.violations import WARNINGS, ViolationKind
from tests.docs.markdown import ROOT

PAGE = (ROOT / "docs/troubleshooting.md").read_text()


def section(heading: str) -> str:
    """The text below a heading, up to the next one."""
    return re.split(r"^#+ ", PAGE.partition(f"# {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """The rows of a table without its head, as cells."""
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if line[:2] == "| "][
        2:
    ]


def error_classes(of: type[BiocloudError] = BiocloudError) -> set[type[BiocloudError]]:
    return {of, *(found for below in of.__subclasses__() for found in error_classes(below))}


def test_every_error_class_has_a_section_with_cause_and_remedy() -> None:
    names = {class_.__name__ for class_ in error_classes() if class_.__module__.startswith("biocloud_assets")}
    assert set(re.findall(r"^### (\w+Error)$", PAGE, re.MULTILINE)) == names
    assert all(len(section(name).split()) >= 10 for name in names)


def test_every_violation_has_a_cause_and_a_remedy() -> None:
    refusing = rows(section("Violations that refuse a delivery"))
    warning = rows(section("Violations that are warnings"))
    assert [row[0] for row in refusing] == [kind.value for kind in ViolationKind if kind not in WARNINGS]
    assert [row[0] for row in warning] == [kind.value for kind in ViolationKind if kind in WARNINGS]
    assert all(len(row) == 3 and all(row) for row in [*refusing, *warning])


def test_every_exit_code_of_a_command_is_described() -> None:
    head, *table = [line for line in section("Exit codes").splitlines() if line.startswith("|")]
    names = [cell.strip(" `") for cell in head.strip("|").split("|")][1:]
    described: dict[str, set[int]] = {name: set() for name in names}
    for line in table[1:]:
        code, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        for name, cell in zip(names, cells, strict=True):
            described[name] |= {int(code)} if cell else set()
    assert described["biocloud"] == exit_codes("biocloud_assets/cli/__init__.py")
    assert described["databricks/sync_groups.py"] == exit_codes("biocloud_assets/access/sync_groups.py") | {0, 130}
    assert described["databricks/run_step.py"] == {0, 1, 2}


def exit_codes(file: str) -> set[int]:
    """The exit codes that the description of a command names."""
    text = re.sub(r"[\"\n]\s*", " ", (ROOT / file).read_text().partition("Exit codes:")[2][:400])
    return {int(code) for code in re.findall(r"(?:^|[,;]) +(\d{1,3}) ", f",{text}")}
