"""Write the generated pages of the docs site.

Two commands:

    python -m biocloud_assets.docs            writes docs/codebase.md, docs/dependencies.md and docs/api/
    python -m biocloud_assets.docs --check    exits 1 and shows the difference if a page differs from it
"""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

from biocloud_assets.docs import api, codebase, dependencies

ROOT = Path(__file__).parents[2]


def pages() -> dict[str, str]:
    """All generated pages: their Markdown by their path in docs/."""
    return {
        "codebase.md": codebase.page(ROOT),
        "dependencies.md": dependencies.page(ROOT),
        **api.pages(ROOT),
    }


def main() -> None:
    """Write the pages, or check them."""
    docs, new = ROOT / "docs", pages()
    old = {name: (docs / name).read_text(encoding="utf-8") for name in new if (docs / name).exists()}
    old |= {f"api/{path.name}": path.read_text(encoding="utf-8") for path in (docs / "api").glob("*.md")}
    if sys.argv[1:] != ["--check"]:
        for name in old.keys() - new.keys():
            (docs / name).unlink()
        for name, text in new.items():
            (docs / name).parent.mkdir(parents=True, exist_ok=True)
            (docs / name).write_text(text, encoding="utf-8")
        return
    stale = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    for name in stale:
        lines = old.get(name, "").splitlines(), new.get(name, "").splitlines()
        print("\n".join(difflib.unified_diff(*lines, f"docs/{name}", "what the code says", lineterm="")))
    if stale:
        print("\nStale: run `uv run python -m biocloud_assets.docs` and commit what it writes.")
        sys.exit(1)


if __name__ == "__main__":
    main()
