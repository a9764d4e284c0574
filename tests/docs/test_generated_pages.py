"""The pages that are generated from the code: they are up to date, and a change of the code makes them stale."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from biocloud_assets.docs import __main__ as docs
from biocloud_assets.docs import api, codebase, dependencies
from biocloud_assets.docs.modules import modules
from biocloud_assets.raw.dsi.contract import CONTRACT
from tests.docs.markdown import ROOT


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder docs/ with all generated pages, made by the command."""
    pages = docs.pages()
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    monkeypatch.setattr(docs, "pages", lambda: pages)
    monkeypatch.setattr(sys, "argv", ["docs"])
    (tmp_path / "docs/api").mkdir(parents=True)
    (tmp_path / "docs/api/removed.md").write_text("# A package that is gone\n")
    docs.main()
    return tmp_path / "docs"


def test_the_command_writes_the_pages_as_they_are_committed(written: Path) -> None:
    made = {path.relative_to(written).as_posix(): path.read_text() for path in written.rglob("*.md")}
    assert made == {name: (ROOT / "docs" / name).read_text() for name in made}
    assert {path.name for path in (written / "api").iterdir()} == {path.name for path in (ROOT / "docs/api").iterdir()}


def test_a_stale_page_is_shown_with_the_difference(
    written: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["docs", "--check"])
    docs.main()
    (written / "codebase.md").write_text("# By hand\n")
    with pytest.raises(SystemExit) as ended:
        docs.main()
    assert ended.value.code == 1
    assert "-# By hand" in capsys.readouterr().out
    assert (written / "codebase.md").read_text() == "# By hand\n", "a check writes nothing"


def test_the_codebase_page_has_every_asset_column_reference_and_package() -> None:
    page = codebase.page(ROOT)
    for address in CONTRACT.addresses:
        assert f"\n### {address}\n" in page
    for table in CONTRACT.tables:
        section = page.partition(f"\n### {CONTRACT.address(table)}\n")[2].partition("\n### ")[0]
        for column in table.columns:
            assert f"| `{column.name}` |" in section
    assert "| `sensor_id` | `string` | → `raw/dsi/sensor` | `sensor_id` |" in page
    assert "| `biocloud_development.raw_dsi.sensor` |" in page
    assert all(
        f"| `{one.path}/` |" in page for one in modules(ROOT) if one.is_package and one.path != "biocloud_assets"
    )


def test_every_module_is_in_the_api_reference() -> None:
    text = "\n".join(api.pages(ROOT).values())
    missing = {module.name for module in modules(ROOT) if f"::: {module.name}\n" not in text}
    assert {name for name in missing if not name.startswith("biocloud_assets.docs")} == {"biocloud_assets"}


def test_a_dependency_without_a_reason_is_refused(tmp_path: Path) -> None:
    text = (ROOT / "pyproject.toml").read_text()
    line = next(line for line in text.splitlines() if line.startswith('  "typer'))
    (tmp_path / "pyproject.toml").write_text(text.replace(line, line.partition("#")[0].rstrip()))
    (tmp_path / "biocloud_assets").symlink_to(ROOT / "biocloud_assets")
    with pytest.raises(ValueError, match=r"typer in pyproject\.toml: expected a comment with the reason"):
        dependencies.page(tmp_path)
