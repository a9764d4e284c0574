"""An S3 (moto's server) in a process of its own, so that its time isn't that of what is measured.

    python -m benchmarks.s3_server [--objects PATTERN COUNT] [--deliveries COUNT]

It prints its URL. The bucket `benchmark` holds what the options say from the start: putting so many objects there by
requests would take minutes.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import threading
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from benchmarks.measure import ROOT, environment
from biocloud_assets.ingest.delivery import format_name
from biocloud_assets.raw.dsi.contract import CONTRACT

BUCKET = "benchmark"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark", "AWS_REGION": "us-east-1"}


@contextmanager
def s3_server(*arguments: str) -> Iterator[dict[str, str]]:
    """A server while the context is open; the variables by which processes find it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.s3_server", *arguments],
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise RuntimeError("the S3 server: expected its URL, found none. See its output above.")
        host = url.removeprefix("http://").partition(":")[0]
        yield {**CREDENTIALS, "AWS_ENDPOINT_URL": url, "AWS_ALLOW_HTTP": "true", "NO_PROXY": host, "no_proxy": host}
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Serve until the process is terminated."""
    from moto.s3.models import S3Backend, s3_backends
    from moto.server import ThreadedMotoServer

    parser = argparse.ArgumentParser()
    parser.add_argument("--objects", nargs=2, metavar=("PATTERN", "COUNT"), action="append", default=[])
    parser.add_argument("--deliveries", type=int, default=0)
    options = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    slow = S3Backend.list_objects_v2

    def quick(self: Any, bucket: Any, prefix: str, delimiter: str, continuation_token: str, **rest: Any) -> Any:
        # The server looks at every object for each page; a page by bisection holds the same.
        if delimiter or not continuation_token:
            return slow(self, bucket, prefix, delimiter, continuation_token, **rest)
        names = sorted(bucket.keys)
        page = islice(names, bisect_right(names, self._pagination_tokens[continuation_token]), None)
        found = islice((name for name in page if name.startswith(prefix)), rest["max_keys"] + 1)
        return self._truncate_result([bucket.keys[name] for name in found], rest["max_keys"])

    setattr(S3Backend, "list_objects_v2", quick)  # noqa: B010
    backend = s3_backends["123456789012"]["aws"]
    backend.create_bucket(BUCKET, "us-east-1")
    names = [pattern.format(number) for pattern, count in options.objects for number in range(int(count))]
    for number in range(options.deliveries):
        names += [f"landing/dsi/{delivery_name(number)}/{one.name}/part-0.parquet" for one in CONTRACT.folders]
    an_hour_ago = datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=1)
    for name in names:
        backend.put_object(BUCKET, name, b"x").last_modified = an_hour_ago
    host, port = server.get_host_and_port()
    print(f"http://{host}:{port}", flush=True)
    threading.Event().wait()


def delivery_name(number: int) -> str:
    """The name of one of many deliveries, an hour apart."""
    return format_name(datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=number))


if __name__ == "__main__":
    main()
