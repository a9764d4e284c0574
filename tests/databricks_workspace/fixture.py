"""The fixture `databricks_workspace`, for every test: imported by tests/conftest.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.databricks_workspace.server import Workspace

GIT_URL = "https://git.example.org/biocloud/biocloud.git"
_ROOT = Path(__file__).parents[2]


@pytest.fixture
def databricks_workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A fresh workspace, served on loopback, whose `git_url` GIT_URL is the repository that these tests are in.

    A test sets `engine`, `repositories`, `instance_profile` and `secrets` on it as it needs before it submits. The
    environment (credentials, proxies) of the process that tests neither reaches a cluster nor is used by the SDK.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("DATABRICKS_")]:
            patch.delenv(name)
        patch.setenv("NO_PROXY", ",".join(filter(None, (os.environ.get("NO_PROXY"), "127.0.0.1"))))
        with Workspace(tmp_path_factory.mktemp("databricks"), repositories={GIT_URL: _ROOT}) as workspace:
            yield workspace
