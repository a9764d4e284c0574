"""Say in one line whether the environment matches uv.lock, and which packages differ. It changes nothing.

A Git hook runs it after a checkout and a pull: see .pre-commit-config.yaml. It exits with 0 whatever it finds, because
Git passes the exit code of the hook on as that of the checkout.

The packages that `uv sync` installs by default must be there. Those of other extras and groups needn't be; where they
are, they must have the version in the lock. Packages that the lock doesn't name are no difference.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

_SHOWN = 8


def differences() -> list[str]:
    """The packages that differ, each with what is installed and what is in the lock."""
    locked: dict[str, set[str]] = {}
    for package in tomllib.loads(Path("uv.lock").read_text(encoding="utf-8"))["package"]:
        locked.setdefault(package["name"], set()).add(package.get("version", ""))
    installed = _installed()
    found = {
        name: f"{name} {version} instead of {' or '.join(sorted(locked[name]))}"
        for name, version in installed.items()
        if name in locked and version not in locked[name] and locked[name] != {""}
    }
    # `--inexact` leaves packages alone that were installed besides the default ones.
    planned = _uv("sync", "--dry-run", "--inexact", "--frozen", "--no-install-project").stderr
    for name, version in re.findall(r"^ \+ (\S+)==(\S+)", planned, re.MULTILINE):
        if name not in installed:
            found[name] = f"{name} {version} missing"
        found.setdefault(name, f"{name} {installed.get(name)} instead of {version}")
    return [found[name] for name in sorted(found)]


def _installed() -> dict[str, str]:
    environment = os.environ.get("UV_PROJECT_ENVIRONMENT", ".venv")
    listed = _uv("pip", "list", "--python", environment, "--format", "json", "--exclude-editable").stdout
    return {package["name"]: package["version"] for package in json.loads(listed)}


def _uv(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["uv", *arguments, "--offline", "--no-color"], check=True, capture_output=True, text=True)


def main() -> None:
    """Print the line."""
    if os.environ.get("PRE_COMMIT_CHECKOUT_TYPE") == "0":  # files were checked out, not a branch
        return
    try:
        found = differences()
    except subprocess.CalledProcessError as error:
        print(f"uv {error.cmd[1]}: {error.stderr.strip()}")
        return
    if not found:
        print("The environment matches uv.lock.")
        return
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    print(
        f"The environment differs from uv.lock: {', '.join(found[:_SHOWN])}{more}. "
        "Run `uv sync`, with the extras and groups that you use."
    )


if __name__ == "__main__":
    sys.exit(main())
