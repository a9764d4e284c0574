"""A workspace as a process of its own, for tests in another environment: `python -m tests.databricks_workspace`.

Prints one line of JSON (url, token, control_token) and serves until SIGTERM or Ctrl-C, or until its stdin is closed,
so that it can't outlive the test that started it.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from tests.databricks_workspace.server import Workspace


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, found {text!r}")
    return name, value


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.databricks_workspace", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="a folder of its own")
    parser.add_argument("--repository", type=_pair, action="append", default=[], metavar="GIT_URL=PATH")
    parser.add_argument("--instance-profile", type=_pair, action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--engine", choices=["sail", "jvm", "standard", "none"], default="sail")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    workspace = Workspace(
        options.root,
        repositories=dict(options.repository),
        instance_profile=dict(options.instance_profile),
        engine=None if options.engine == "none" else options.engine,
        port=options.port,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with workspace:
        access = {"url": workspace.url, "token": workspace.token, "control_token": workspace.control_token}
        print(json.dumps(access), flush=True)
        try:
            sys.stdin.read()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
