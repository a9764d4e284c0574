"""Which Git commit of the code a process runs. The version is `biocloud_assets.__version__`."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

COMMIT_FILE = "COMMIT"
"""A file beside a copy of the package that was made from a checkout, with the commit."""

_DATABRICKS_CHECKOUT = re.compile(r"/Repos/\.internal/\w+_commits/([0-9a-f]{40})(/|$)")
"""Where a Databricks run checks its Git source out; there is no `.git` folder in it."""


def code_commit(checkout: Path | None = None) -> str | None:
    """The Git commit of a checkout or of a copy of one; None if it is neither, or Git can't be run.

    Args:
        checkout: the root of the checkout; by default the one that this code is part of.
    """
    root = Path(__file__).parents[1] if checkout is None else checkout
    on_databricks = _DATABRICKS_CHECKOUT.search(root.as_posix())
    if on_databricks is not None:
        return on_databricks[1]
    if (root / COMMIT_FILE).is_file():
        return (root / COMMIT_FILE).read_text().strip() or None
    if not (root / ".git").exists():
        return None
    try:
        asked = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip()


def is_on_branch(commit: str, branch: str, checkout: Path | None = None) -> bool:
    """Whether a commit is part of a branch, of the remote `origin` if that is known; False if Git can't be run.

    Args:
        commit: the commit.
        branch: the name of the branch.
        checkout: the root of the checkout; by default the one that this code is part of.
    """
    root = Path(__file__).parents[1] if checkout is None else checkout
    for reference in (f"refs/remotes/origin/{branch}", f"refs/heads/{branch}"):
        try:
            known = subprocess.run(
                ["git", "rev-parse", "--verify", "--quiet", reference], cwd=root, stdout=subprocess.DEVNULL, timeout=10
            )
            if known.returncode:
                continue
            found = subprocess.run(["git", "merge-base", "--is-ancestor", commit, reference], cwd=root, timeout=10)
        except (OSError, subprocess.SubprocessError):
            return False
        return found.returncode == 0
    return False
