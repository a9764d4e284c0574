"""What a slower tier needs: where it can't be had, a test skips with the reason, or fails if all has to be there."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def unavailable(reason: str) -> NoReturn:
    """Skip; or fail, where `BIOCLOUD_REQUIRE_ALL=1` says that everything must be there."""
    if os.environ.get("BIOCLOUD_REQUIRE_ALL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
