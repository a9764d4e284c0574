"""The project's exceptions: one class for each kind of error that a person can fix.

Every message names the thing, what was expected, what was found and what to do.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence


class BiocloudError(Exception):
    """An error that a person can fix.

    Args:
        thing: what the error is about: a variable, a delivery, a table.
        expected: what was expected of it.
        found: what was found instead.
        hint: what to do.
    """

    def __init__(self, thing: str, *, expected: str, found: str, hint: str) -> None:
        self.thing, self.expected, self.found, self.hint = thing, expected, found, hint
        super().__init__(f"{thing}: expected {expected}, found {found}. {hint}")


class SettingsError(BiocloudError):
    """A setting or an argument has a value that can't be used."""


class LakeError(BiocloudError):
    """A path, a file or a bucket can't be used, or a path would leave its root.

    Args:
        thing: what the error is about: a path, an address.
        expected: what was expected of it.
        found: what was found instead.
        hint: what to do.
        transient: whether the cause may pass by itself: no connection, throttling, an error on the server's side.
    """

    def __init__(self, thing: str, *, expected: str, found: str, hint: str, transient: bool = False) -> None:
        self.transient = transient
        super().__init__(thing, expected=expected, found=found, hint=hint)


class DeliveryNameError(BiocloudError):
    """A name is not the name of a delivery, or there is no delivery of that name."""


class RunDateError(BiocloudError):
    """A run date, or a number of days before it, can't be used."""


class DeliveryRefusedError(BiocloudError):
    """A delivery breaks the contract; nothing of it was written.

    Args:
        delivery: the delivery's name.
        violations: every violation that refuses the delivery; warnings are not among them.
        fingerprint: the digest of the delivery's files.
    """

    def __init__(self, delivery: str, violations: Sequence[object], fingerprint: str) -> None:
        self.delivery, self.violations, self.fingerprint = delivery, tuple(violations), fingerprint
        count = f"{len(violations):,} violation{'s' if len(violations) != 1 else ''}"
        first = str(violations[0])
        self.summary = f"{count}: {first if len(first) <= 300 else first[:300] + '…'}"
        super().__init__(
            f"delivery {delivery}",
            expected="data as in the delivery contract",
            found=f"{count}; nothing was written",
            hint="Fix the files and deliver them again:\n" + "\n".join(f"  - {violation}" for violation in violations),
        )


class EngineError(BiocloudError):
    """The Spark engine can't be started or used as it is set up."""


class TableError(BiocloudError):
    """A Delta table is not as the contract says, or would not be after a write."""


class DeployError(BiocloudError):
    """The DAGs can't be deployed; nothing was uploaded or removed."""


class ExportError(BiocloudError):
    """The Dagster definitions can't be exported to Airflow, or the committed export is stale."""


_TRANSIENT = (
    ("pyspark.errors", "PySparkException"),  # except those below
    ("grpc", "RpcError"),
    ("deltalake.exceptions", "CommitFailedError"),
    ("botocore.exceptions", "HTTPClientError"),
    ("botocore.exceptions", "ConnectionError"),
    ("requests.exceptions", "ConnectionError"),
    ("requests.exceptions", "Timeout"),
    # https://docs.databricks.com/api/workspace/introduction: 429, 503, 500 and 504. The other errors of the API (no
    # permission, no such resource, a wrong request) stay until somebody changes something.
    ("databricks.sdk.errors.platform", "TooManyRequests"),
    ("databricks.sdk.errors.platform", "TemporarilyUnavailable"),
    ("databricks.sdk.errors.platform", "InternalError"),
    ("databricks.sdk.errors.platform", "DeadlineExceeded"),
    ("databricks.sdk.errors.platform", "Aborted"),
)
_NOT_TRANSIENT = (
    ("pyspark.errors", "AnalysisException"),
    ("pyspark.errors", "ParseException"),
    ("pyspark.errors", "IllegalArgumentException"),
    ("pyspark.errors", "ArithmeticException"),
    ("pyspark.errors", "NumberFormatException"),
    ("pyspark.errors", "DateTimeException"),
    ("pyspark.errors", "PythonException"),
)


_OLD_VERSION = "Missing commit file: expected version"
"""Sail 0.7 can't read most versions of a table that are older than its latest checkpoint.

A publication whose table got a checkpoint after its snapshot was taken succeeds when it is repeated, with a new one.
"""


_LOST_CONNECTION = re.compile(
    r"Generic S3 error.*(response body error|reading a body|connection (reset|closed)|operation timed out|status 50\d)",
    re.DOTALL | re.IGNORECASE,
)
"""The messages of delta-rs 1.6 about a connection to S3 that was lost; it raises an OSError."""


def is_transient(error: BaseException) -> bool:
    """Whether the cause of an error is the infrastructure and may pass by itself: a repetition can help.

    Errors in data and settings are not, and neither is a query that the engine refuses to analyse or that fails on a
    value.

    Args:
        error: an error of this project, of Python (`ConnectionError`, `TimeoutError`), Spark, delta-rs, boto3,
            requests, gRPC or databricks-sdk. Any other isn't transient.
    """
    if isinstance(error, LakeError):
        return error.transient
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    if storage_failure(error) is not None:
        return False
    if _OLD_VERSION in str(error):
        return True
    if isinstance(error, OSError) and _LOST_CONNECTION.search(str(error)) is not None:
        return True
    if any(_is_instance(error, module, name) for module, name in _NOT_TRANSIENT):
        return False
    return any(_is_instance(error, module, name) for module, name in _TRANSIENT)


_STORAGE_FAILURE = re.compile(
    r"Permission denied|Operation not permitted|Read-only file system|No space left on device|Disk quota exceeded"
    r"|Not a directory|AccessDenied|Access Denied|NoSuchBucket",
    re.IGNORECASE,
)


def storage_failure(error: BaseException) -> str | None:
    """What the storage answered, if an engine's error says that it can't be written; a repetition doesn't help.

    Args:
        error: the error of Spark, Sail or delta-rs.

    Returns:
        the words of the message that say so, such as `No space left on device`; None if it says something else.
    """
    found = _STORAGE_FAILURE.search(str(error))
    return found.group() if found else None


def _is_instance(error: BaseException, module: str, name: str) -> bool:
    """Whether an error is of a class of a package that may not be loaded; then it can't be."""
    class_ = getattr(sys.modules.get(module), name, None)
    return class_ is not None and isinstance(error, class_)
