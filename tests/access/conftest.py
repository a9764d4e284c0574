"""The server of the group sync's tests: a real SCIM server over HTTP on loopback, empty for each test."""

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
    """A workspace with one user, an administrator who owns the token."""
    _server.reset()
    return _server


@pytest.fixture(autouse=True)
def _no_workspace_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests away from a workspace that the developer's environment names."""
    for suffix in ("TEST", "PROD"):
        monkeypatch.delenv(f"DATABRICKS_HOST_{suffix}", raising=False)
        monkeypatch.delenv(f"DATABRICKS_TOKEN_{suffix}", raising=False)
        monkeypatch.delenv(f"DATABRICKS_ACCOUNT_ID_{suffix}", raising=False)
    monkeypatch.delenv("BIOCLOUD_GROUPS", raising=False)
