"""Errors name the thing, what was expected, what was found and what to do; and whether a repetition can help."""

from __future__ import annotations

import botocore.exceptions
import grpc
import pytest
from deltalake.exceptions import CommitFailedError
from pyspark.errors import AnalysisException, PySparkException

from biocloud_assets.errors import (
    BiocloudError,
    DeliveryRefusedError,
    LakeError,
    SettingsError,
    TableError,
    is_transient,
)


def test_a_message_has_the_four_parts() -> None:
    error = SettingsError("BIOCLOUD_ENGINE", expected="sail or jvm", found="'x'", hint="Set it to one of these.")
    assert str(error) == "BIOCLOUD_ENGINE: expected sail or jvm, found 'x'. Set it to one of these."
    assert isinstance(error, BiocloudError)


def test_a_refused_delivery_lists_all_violations_and_has_a_short_summary() -> None:
    violations = [f"null key: {'x' * 400} {number}" for number in range(1200)]
    error = DeliveryRefusedError("2026-01-31-06:00:00", violations, "0123")
    assert "found 1,200 violations; nothing was written" in str(error)
    assert all(violation in str(error) for violation in violations)
    assert error.summary.startswith("1,200 violations: null key")
    assert len(error.summary) < 350
    assert "found 1 violation; nothing" in str(DeliveryRefusedError("2026-01-31-06:00:00", violations[:1], "0123"))


def parts(found: str) -> dict[str, str]:
    return {"expected": "a", "found": found, "hint": "Do."}


READ = "Kernel error -> Generic S3 error\n Error performing GET http://s3/bucket/lake/_delta_log/_last_checkpoint -"
"""How the messages of delta-rs about S3 begin."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (LakeError("s3://bucket", **parts("503"), transient=True), True),
        (LakeError("s3://bucket", **parts("403")), False),
        (TableError("raw/dsi/sensor", **parts("another type")), False),
        (DeliveryRefusedError("2026-01-31-06:00:00", ["null key"], "0123"), False),
        (ConnectionResetError("reset"), True),
        (TimeoutError("late"), True),
        (PySparkException("the server is gone"), True),
        (AnalysisException("no such column"), False),
        (grpc.RpcError("unavailable"), True),
        (CommitFailedError("conflict"), True),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="http://127.0.0.1:1"), True),
        (botocore.exceptions.ReadTimeoutError(endpoint_url="http://127.0.0.1:1"), True),
        (botocore.exceptions.NoCredentialsError(), False),
        (ValueError("a bug"), False),
        (FileNotFoundError("no such file"), False),
        (OSError(f"{READ} HTTP error\n request or response body error\n error reading a body from connection"), True),
        (OSError(f"{READ} Received redirect without LOCATION, this normally indicates a wrong region"), False),
        (OSError(f"{READ} request or response body error\n No space left on device"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_errors_of_the_infrastructure_are_transient(error: Exception, expected: bool) -> None:
    assert is_transient(error) is expected


def test_an_error_keeps_its_parts() -> None:
    error = TableError("raw/dsi/sensor", **parts("another type"))
    assert (error.thing, error.expected, error.found, error.hint) == ("raw/dsi/sensor", "a", "another type", "Do.")
