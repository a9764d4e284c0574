"""Landing zones and lakes of the embedded engine, in folders and in S3."""

from __future__ import annotations

from pathlib import Path

import pytest

from biocloud_assets.ingest.context import IngestContext
from tests.ingest.lakehouse import context_at


@pytest.fixture
def context(tmp_path: Path) -> IngestContext:
    """An empty landing zone and an empty lake in folders."""
    return context_at(tmp_path)


@pytest.fixture(params=["folder", "s3"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> IngestContext:
    """An empty landing zone and an empty lake, both in folders or both in S3."""
    if request.param == "folder":
        return context_at(tmp_path)
    return context_at(request.getfixturevalue("s3_root"), endpoint=request.getfixturevalue("s3_server"))
