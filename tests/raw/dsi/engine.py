"""A process with a session on one engine, that does what it is told line by line: a process can hold only one engine.

python engine.py jvm
{"landing": "/in", "lake": "/out", "delivery": "2026-01-31-06:00:00", "steps": ["ingest", "verify"]}
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

from biocloud_assets import cli
from biocloud_assets.errors import DeliveryRefusedError
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi import contract, ingest, verify
from biocloud_assets.settings import Settings
from biocloud_assets.spark.session import get_session


def do(landing: str, lake: str, delivery: str, steps: list[str]) -> dict[str, Any]:
    """Do the steps for a delivery, and tell what came out: its faults, and what differs from the source."""
    if steps == ["command"]:
        os.environ |= {"BIOCLOUD_LANDING_ROOT": landing, "BIOCLOUD_LAKE_ROOT": lake}
        return {"code": cli.app(["ingest", delivery, "--json"], standalone_mode=False) or 0}
    settings = Settings.load()
    endpoint = settings.s3_endpoint
    spark = get_session(settings.engine, s3_endpoint=endpoint)
    place = ingest.Place(spark, DataLake.at(landing, endpoint=endpoint), DataLake.at(lake, endpoint=endpoint))
    outcome: dict[str, Any] = {}
    if "ingest" in steps:
        outcome["faults"] = [str(fault) for fault in ingest.inspect(place, delivery).faults]
        try:
            for table in contract.TABLES:
                ingest.write_table(place, delivery, table)
            ingest.record(place, delivery, engine=settings.engine, orchestrator="test", run_id="1")
        except DeliveryRefusedError:
            outcome["refused"] = True
    if "verify" in steps:
        outcome["differing"] = [str(found) for found in verify.verify(place, delivery) if not found.equal]
    return outcome


def main() -> None:
    """Answer each line on stdin with one on stdout, until there are no more."""
    os.environ["BIOCLOUD_ENGINE"] = sys.argv[1]
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        settings = Settings.load()
        get_session(settings.engine, s3_endpoint=settings.s3_endpoint)
        print(json.dumps({}), file=answers, flush=True)
        for line in sys.stdin:
            try:
                answer = do(**json.loads(line))
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
