"""Where a step keeps the normalised copies of a delivery's files: in a folder of its own, which it deletes at its end.

    <lake>/_files/staging/<time>-<random>/<source>/<delivery>/<folder>/part-NNNNN.parquet

Several steps may read the same delivery at the same time, so a step deletes no folder of another one, unless that began
longer ago than a step can take: then it was killed.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from biocloud_assets.errors import LakeError
from biocloud_assets.ingest.violations import shown
from biocloud_assets.lake import DataLake

LONGEST_STEP = timedelta(days=1)
"""How long a step may take: the largest `timeout_seconds` of an environment; runs in Dagster have a smaller limit."""

_TIME = "%Y%m%dT%H%M%SZ"


@contextmanager
def staging_folder(root: DataLake) -> Iterator[DataLake]:
    """A folder for the copies of one step.

    Args:
        root: the folder that holds those of all steps.

    Yields:
        the folder, which is deleted when the block ends.

    Raises:
        LakeError: a folder could not be listed or deleted.
    """
    now = datetime.now(UTC)
    for name in root.list().folders:
        if (began := _began(name)) is not None and now - began > LONGEST_STEP:
            _delete(root, name)
    own = f"{now:{_TIME}}-{uuid.uuid4().hex}"
    try:
        yield root.below(own)
    finally:
        _delete(root, own)


def _began(name: str) -> datetime | None:
    """When the step of a folder began; None if the folder isn't that of a step."""
    try:
        return datetime.strptime(name.partition("-")[0], _TIME).replace(tzinfo=UTC)
    except ValueError:
        return None


def _delete(root: DataLake, name: str) -> None:
    deletion = root.delete_folder(name)
    if deletion.failures:
        raise LakeError(
            root.uri(name),
            expected="a folder of copies that can be deleted",
            found=shown("; ".join(deletion.failures)),
            hint="Check the permissions, then repeat.",
        )
