"""The workspace that the tests of the group sync talk to: a real server over loopback HTTP, new for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from databricks_workspace import DatabricksWorkspace


@pytest.fixture(scope="session")
def _server() -> Iterator[DatabricksWorkspace]:
    server = DatabricksWorkspace()
    yield server
    server.close()


@pytest.fixture
def workspace(_server: DatabricksWorkspace) -> DatabricksWorkspace:
    """A workspace with one administrator, whose token it is."""
    _server.reset()
    return _server


@pytest.fixture(autouse=True)
def _no_workspace_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches a workspace that the developer's shell names."""
    for suffix in ("TEST", "PROD"):
        monkeypatch.delenv(f"DATABRICKS_HOST_{suffix}", raising=False)
        monkeypatch.delenv(f"DATABRICKS_TOKEN_{suffix}", raising=False)
    monkeypatch.delenv("BIOCLOUD_GROUPS", raising=False)
