"""A process with a session on one engine, of which a process can hold only one; it answers each line on stdin.

python engine_process.py jvm
{"landing": "/in", "lake": "/out", "delivery": "2026-01-31-06:00:00", "steps": ["ingest", "verify"]}
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

from biocloud_assets.errors import DeliveryRefusedError
from biocloud_assets.ingest.context import open_context
from biocloud_assets.ingest.step import all_checks, ingest_step
from biocloud_assets.ingest.verify import verify
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.settings import Settings
from biocloud_assets.steps import CheckResult, RunInfo, StepRequest


def run(landing: str, lake: str, delivery: str, steps: list[str]) -> dict[str, Any]:
    """Run the steps for a delivery; return the descriptions of failed checks, and what differs from the source."""
    if steps == ["command"]:
        from biocloud_assets.cli.commands import app

        os.environ |= {"BIOCLOUD_LANDING_ROOT": landing, "BIOCLOUD_LAKE_ROOT": lake}
        return {"code": app(["ingest", delivery, "--json"], standalone_mode=False) or 0}
    settings = Settings.load()
    context = open_context(
        CONTRACT,
        landing_root=landing,
        lake_root=lake,
        engine=settings.engine,
        s3_endpoint=settings.s3_endpoint,
        catalog=None,
    )
    outcome: dict[str, Any] = {}
    if "ingest" in steps:
        request = StepRequest(CONTRACT.addresses, all_checks(CONTRACT), delivery)
        checks: dict[str, str] = {}
        outcome["failed"] = checks
        try:
            for result in ingest_step(context, request, RunInfo("test", "1", settings.engine)):
                if isinstance(result, CheckResult) and not result.passed:
                    checks[f"{result.asset}:{result.name}"] = result.description
        except DeliveryRefusedError as error:
            outcome["refused"] = [str(violation) for violation in error.violations]
    if "verify" in steps:
        outcome["differing"] = [str(found) for found in verify(context, delivery) if not found.equal]
    return outcome


def main() -> None:
    """Answer each line on stdin with one on stdout, until there are no more."""
    os.environ["BIOCLOUD_ENGINE"] = sys.argv[1]
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        from biocloud_assets.spark.session import get_session

        settings = Settings.load()
        get_session(settings.engine, s3_endpoint=settings.s3_endpoint)
        print(json.dumps({}), file=answers, flush=True)
        for line in sys.stdin:
            try:
                answer = run(**json.loads(line))
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
