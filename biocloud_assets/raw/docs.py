"""The docs page of each source, generated from its contract.

Two commands:

    python -m biocloud_assets.raw.docs            writes docs/data-architecture/raw/<source>.md
    python -m biocloud_assets.raw.docs --check    exits 1 if a page differs from what this would write
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from pathlib import Path

from biocloud_assets.raw import contracts
from biocloud_assets.schema import Contract, ListOf, Presence, Struct, Table, type_name, walk

DOCS = Path(__file__).parents[2] / "docs" / "data-architecture" / "raw"

_PRESENCE = {Presence.KEY: "key, never null", Presence.REQUIRED: "never null", Presence.OPTIONAL: ""}
_TAKES = {"value": "`{}`", "index": "index in `{}`", "size": "length of `{}`"}


def page(contract: Contract) -> str:
    """The page of a source, in Markdown."""
    return "\n".join(_lines(contract))


def _lines(contract: Contract) -> Iterator[str]:
    source = contract.source
    yield f"<!-- Generated from biocloud_assets/raw/{source}/contract.py by `python -m biocloud_assets.raw.docs`. -->"
    yield ""
    yield f"# raw/{source}: the delivery contract, version {contract.version}"
    yield ""
    yield contract.description
    yield ""
    yield f"A delivery is `<landing root>/{source}/<yyyy-mm-dd-HH:MM:SS>/<folder>/*.parquet`, the time in UTC."
    yield "Times without a zone are in UTC."
    yield "Columns and fields that the contract doesn't know are kept as JSON in `_rescued` of their row."
    yield ""
    yield "## Folders"
    for folder in contract.folders:
        yield ""
        yield f"### {contract.landing_address(folder.name)}"
        yield ""
        yield folder.description
        yield ""
        yield "| field | type | rule | description |"
        yield "| --- | --- | --- | --- |"
        for path, item in walk(folder.fields):
            nested = {ListOf: "list", Struct: "struct"}
            kind = nested.get(type(item.type), str(item.type))
            rules = [_PRESENCE[item.presence]]
            rules += [f"→ `{item.references}`"] if item.references else []
            rules += [f"{item.range[0]:g} to {item.range[1]:g}"] if item.range else []
            yield f"| `{path}` | {kind} | {', '.join(filter(None, rules))} | {item.description} |"
    yield ""
    yield "## Tables"
    for table in (*contract.tables, contract.log):
        yield from _table(contract, table)
    yield ""


def _table(contract: Contract, table: Table) -> Iterator[str]:
    yield ""
    yield f"### {contract.address(table)}"
    yield ""
    yield f"One row per {table.row.removeprefix('one ')}. Key: {', '.join(f'`{name}`' for name in table.key)}, within a"
    yield "delivery. Partitioned by `_delivery`."
    yield ""
    yield "| column | type | from | description |"
    yield "| --- | --- | --- | --- |"
    for column in table.columns:
        source = _TAKES[column.takes].format(column.source) if column.source else ""
        yield f"| `{column.name}` | {type_name(column.type)} | {source} | {column.description} |"


def main() -> None:
    """Write the pages, or check them."""
    stale = False
    for contract in contracts():
        path, new = DOCS / f"{contract.source}.md", page(contract)
        if sys.argv[1:] == ["--check"]:
            old = path.read_text(encoding="utf-8") if path.exists() else ""
            difference = list(difflib.unified_diff(old.splitlines(), new.splitlines(), path.name, "the contract"))
            stale = stale or bool(difference)
            print("\n".join(difference), end="")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(new, encoding="utf-8")
    sys.exit(1 if stale else 0)


if __name__ == "__main__":
    main()
