"""The packages and modules of the codebase, read from the files without importing them."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Module:
    """A module or a package.

    Attributes:
        name: its dotted name.
        path: of its file in the repository; of its folder, if it is a package.
        summary: the first paragraph of its docstring, on one line.
        is_package: whether it is a package.
        defines: whether it defines a class or a function; a package may only import those of its modules.
    """

    name: str
    path: str
    summary: str
    is_package: bool
    defines: bool


def modules(root: Path) -> list[Module]:
    """All modules of the package, by name, those that are run with `python -m` excepted.

    Args:
        root: the folder of the repository.
    """
    found = []
    for file in (root / "biocloud_assets").rglob("*.py"):
        if file.name == "__main__.py":
            continue
        is_package = file.name == "__init__.py"
        path = file.parent if is_package else file
        name = ".".join(path.relative_to(root).with_suffix("").parts)
        tree = ast.parse(file.read_text(encoding="utf-8"))
        summary = " ".join((ast.get_docstring(tree) or "").partition("\n\n")[0].split())
        defines = any(isinstance(node, (ast.ClassDef, ast.FunctionDef)) for node in tree.body)
        found.append(Module(name, path.relative_to(root).as_posix(), summary, is_package, defines))
    return sorted(found, key=lambda module: module.name)
