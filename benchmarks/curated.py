"""Requests, time and memory of the manifest and of the cleanup of a folder with many files in S3."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import Counter

from benchmarks.measure import Say, environment, megabytes, run, seconds
from benchmarks.results import Result, Table
from benchmarks.s3_server import BUCKET, s3_server

_PATTERN = "curated/dsi/2020-01-01/observation/part-{:06}.parquet"


def measure(*, files: int, say: Say) -> Result:
    """Write the manifest of a folder, then delete the folder.

    Args:
        files: how many are in it.
        say: reports progress.
    """
    say(f"putting {files:,} files into S3")
    with s3_server("--objects", _PATTERN, str(files)) as server:
        say(f"manifest and cleanup of {files:,} files")
        report = run(["-m", "benchmarks.curated"], environment(**server)).report
    result, rows = Result("curated"), []
    for name in ("manifest", "cleanup"):
        one = report[name]
        assert one["files"] == files, (one, files)
        counts = one["requests"]
        rows.append(
            [name, *(str(counts.get(operation, 0)) for operation in ("ListObjectsV2", "DeleteObjects", "PutObject")),
             seconds(one["seconds"]), megabytes(one["memory"])]
        )  # fmt: skip
    pages = -(-files // 1000)
    result.figures["manifest_requests_per_1000"] = report["manifest"]["requests"]["ListObjectsV2"] / pages
    # One request deletes the manifest, before all others.
    result.figures["cleanup_requests_per_1000"] = (report["cleanup"]["requests"]["DeleteObjects"] - 1) / pages
    columns = ["", "list requests", "delete requests", "put requests", "time", "memory at the peak"]
    result.tables.append(Table(f"{files:,} files in S3", columns, rows))
    result.notes.append(
        "The cleanup lists the days first, and deletes the manifest of a day before its files. The time is mostly the "
        "S3 server's."
    )
    return result


def main() -> None:
    """Write the manifest and clean up; print what each cost."""
    import os

    from biocloud_assets.curated.dsi.cleanup import cleanup_curated_folders
    from biocloud_assets.curated.dsi.manifest import write_manifest
    from biocloud_assets.lake.s3 import S3Lake

    lake = S3Lake(BUCKET, "curated", os.environ["AWS_ENDPOINT_URL"])
    requests: list[str] = []
    lake._s3.meta.events.register("before-call.s3", lambda model, **_: requests.append(model.name))
    report = {}
    for name, work in (
        ("manifest", lambda: write_manifest("dsi/2020-01-01", lake, "2020-01-01").files),
        ("cleanup", lambda: cleanup_curated_folders("dsi", lake, "2026-01-31", 30).removals[0].files),
    ):
        requests.clear()
        start = time.perf_counter()
        files = work()
        report[name] = {
            "files": files,
            "requests": Counter(requests),
            "seconds": time.perf_counter() - start,
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
