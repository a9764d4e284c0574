"""Fixtures for all tests: an S3 server on loopback, and a new bucket in it."""

from __future__ import annotations

import logging
import os
import signal
import uuid
from collections.abc import Iterator

import hypothesis
import pytest

from tests.databricks_workspace.fixture import databricks_workspace  # noqa: F401

# The time of an example depends on the load of the machine.
hypothesis.settings.register_profile("biocloud", deadline=None)
hypothesis.settings.load_profile("biocloud")

# A shell that runs the tests in the background makes them ignore SIGINT, and a process that ignores it starts processes
# that do. The processes of the tests are those of a person, whose Ctrl-C they receive.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the tests that try to lose data, `tests/chaos`."""
    group = parser.getgroup("chaos")
    group.addoption("--chaos", choices=("short", "long"), default="short", help="the form of tests/chaos")
    group.addoption("--chaos-seed", type=int, default=1, help="the seed of tests/chaos")
    group.addoption("--chaos-results", help="a folder for the results of tests/chaos, one JSON file for each test")


def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: three workers for two cores, because many tests wait for servers and processes."""
    return max(2, (os.cpu_count() or 2) * 3 // 2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no core waits for another one at the end."""
    longest = ("test_interrupt.py", "test_commands.py", "test_curated_sample.py", "test_dispatcher.py", "test_hooks.py")
    items.sort(key=lambda item: longest.index(item.path.name) if item.path.name in longest else len(longest))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of an S3 (moto's server); boto3, delta-rs and the engines find it by the AWS-standard variables."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # otherwise a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": url,
            "AWS_ALLOW_HTTP": "true",
        }.items():
            patch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        no_proxy = ",".join(filter(None, (os.environ.get("NO_PROXY"), host)))
        patch.setenv("NO_PROXY", no_proxy)
        yield url
    server.stop()


@pytest.fixture
def s3_root(s3_server: str) -> str:
    """The root `s3://bucket/some/prefix` in a fresh bucket."""
    import boto3

    bucket = f"bucket-{uuid.uuid4().hex}"
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket=bucket)
    return f"s3://{bucket}/some/prefix"
