"""An empty lake, in a folder and in S3, and what is asked of the S3."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest

from biocloud_assets.lake import DataLake


@pytest.fixture(params=["folder", "s3"])
def lake(request: pytest.FixtureRequest) -> DataLake:
    """An empty lake."""
    if request.param == "s3":
        return DataLake.at(request.getfixturevalue("s3_root"), endpoint=request.getfixturevalue("s3_server"))
    return DataLake.at(str(request.getfixturevalue("tmp_path") / "lake"))


@pytest.fixture
def s3(s3_root: str, s3_server: str) -> DataLake:
    """An empty lake in S3."""
    return DataLake.at(s3_root, endpoint=s3_server)


@pytest.fixture
def requests(s3: DataLake) -> list[str]:
    """The operations that the lake in S3 asks for, by their names in S3's API, with the path or prefix."""
    sent: list[str] = []

    def note(params: dict[str, object], model: object, **_: object) -> None:
        sent.append(getattr(model, "name", ""))

    s3._s3.meta.events.register("before-call.s3", note)  # type: ignore[attr-defined]
    return sent


@pytest.fixture
def put(s3: DataLake) -> Callable[[str], None]:
    """Puts a file straight into the server's memory: 100,000 requests would take minutes."""
    from moto.s3.models import s3_backends

    backend = s3_backends["123456789012"]["aws"]
    bucket, _, prefix = s3.root.removeprefix("s3://").partition("/")

    def into(path: str) -> None:
        backend.put_object(bucket, f"{prefix}/{path}", b"x")

    return into


@pytest.fixture
def quick_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server find a page of a listing by bisection: it looks at every object for each page, which takes it
    minutes for 100,000. What it answers is the same."""
    from moto.s3.models import S3Backend

    slow = S3Backend.list_objects_v2

    def quick(self: Any, bucket: Any, prefix: str, delimiter: str, continuation_token: str, **rest: Any) -> Any:
        if delimiter or not continuation_token:
            return slow(self, bucket, prefix, delimiter, continuation_token, **rest)
        names = sorted(bucket.keys)
        page = islice(names, bisect_right(names, self._pagination_tokens[continuation_token]), None)
        found = islice((name for name in page if name.startswith(prefix)), rest["max_keys"] + 1)
        return self._truncate_result([bucket.keys[name] for name in found], rest["max_keys"])

    monkeypatch.setattr(S3Backend, "list_objects_v2", quick)
