"""A Git repository with the code of this checkout, which the clusters of the local workspace check out."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the code of this checkout, committed to `main`."""
    root = tmp_path_factory.mktemp("code") / "biocloud"
    for part in ("biocloud_assets", "databricks"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    git(root, "init", "--quiet", "--initial-branch=main")
    commit(root, "Initial commit")
    return root


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True, timeout=60)
    return done.stdout.strip()


def commit(root: Path, message: str) -> None:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    git(root, "add", "--all")
    git(root, *identity, "commit", "--quiet", "--message", message)
