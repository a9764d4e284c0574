"""The docs page of the raw DSI layer, made from the contract.

    python -m biocloud_assets.raw.dsi.docs            writes docs/data-architecture/raw/dsi.md
    python -m biocloud_assets.raw.dsi.docs --check    exits 1 if it isn't what this would write

What belongs here: how the contract reads as a page. What doesn't: the contract.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from pathlib import Path

from biocloud_assets.raw.dsi import contract
from biocloud_assets.raw.dsi.contract import FOLDERS, LOG, TABLES, Presence, Table

PAGE = Path(__file__).parents[3] / "docs" / "data-architecture" / "raw" / "dsi.md"

_PRESENCE = {Presence.KEY: "key, never null", Presence.REQUIRED: "never null", Presence.OPTIONAL: ""}
_TAKES = {"value": "`{}`", "index": "index in `{}`", "size": "length of `{}`"}


def page() -> str:
    """The page, in Markdown."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield "<!-- Generated from biocloud_assets/raw/dsi/contract.py by `python -m biocloud_assets.raw.dsi.docs`. -->"
    yield ""
    yield f"# raw/dsi: the DSI delivery contract, version {contract.VERSION}"
    yield ""
    yield "A delivery is `<landing root>/dsi/<yyyy-mm-dd-HH:MM:SS>/<folder>/*.parquet`, the time in UTC."
    yield "Times without a zone are taken for UTC."
    yield "What the contract doesn't know is kept as JSON in `_rescued` of the row it belongs to."
    yield ""
    yield "## Folders"
    for folder in FOLDERS:
        yield ""
        yield f"### landing/dsi/{folder.name}"
        yield ""
        yield folder.description
        yield ""
        yield "| field | type | rule | what it is |"
        yield "| --- | --- | --- | --- |"
        for path, item in contract.walk(folder.fields):
            nested = {contract.ListOf: "list", contract.Struct: "struct"}
            kind = nested.get(type(item.type), str(item.type))
            rules = [_PRESENCE[item.presence]]
            rules += [f"→ `{item.references}`"] if item.references else []
            rules += [f"{item.range[0]:g} to {item.range[1]:g}"] if item.range else []
            yield f"| `{path}` | {kind} | {', '.join(filter(None, rules))} | {item.description} |"
    yield ""
    yield "## Tables"
    for table in (*TABLES, LOG):
        yield from _table(table)
    yield ""


def _table(table: Table) -> Iterator[str]:
    yield ""
    yield f"### {table.path}"
    yield ""
    yield f"One row per {table.row.removeprefix('one ')}. Key: {', '.join(f'`{name}`' for name in table.key)}, within a"
    yield "delivery. Partitioned by `_delivery`."
    yield ""
    yield "| column | type | from | what it is |"
    yield "| --- | --- | --- | --- |"
    for column in table.columns:
        source = _TAKES[column.takes].format(column.source) if column.source else ""
        yield f"| `{column.name}` | {contract.type_name(column.type)} | {source} | {column.description} |"


def main() -> None:
    """Write the page, or check it."""
    if sys.argv[1:] == ["--check"]:
        there = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
        difference = list(difflib.unified_diff(there.splitlines(), page().splitlines(), str(PAGE.name), "contract"))
        if difference:
            print("\n".join(difference))
            sys.exit(1)
    else:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
