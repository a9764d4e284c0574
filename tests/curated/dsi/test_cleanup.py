"""The cleanup deletes the folders of old days and nothing else, in a folder and in S3."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from biocloud_assets.curated.dsi.cleanup import CleanupError, cleanup_curated_folders
from biocloud_assets.curated.dsi.manifest import write_manifest
from biocloud_assets.errors import LakeError, RunDateError
from biocloud_assets.lake import DataLake

DAY = date(2026, 1, 31)


def publish(lake: DataLake, day: str, root: str = "dsi", files: int = 2) -> None:
    for number in range(files):
        lake.write(f"{root}/{day}/observation/part-{number:05}.parquet", b"data")
    write_manifest(f"{root}/{day}", lake, DAY)


def paths(lake: DataLake) -> list[str]:
    return [file.path for file in lake.walk()]


def test_older_folders_are_deleted_and_the_cutoff_is_kept(lake: DataLake) -> None:
    for day in ("2025-12-31", "2026-01-01", "2026-01-02", "2026-01-31", "2026-02-01", "1999-01-01"):
        publish(lake, day)
    cleanup = cleanup_curated_folders("dsi", lake, DAY, 30)
    assert cleanup.cutoff == date(2026, 1, 1)
    assert [(removal.date.isoformat(), removal.files, removal.size) for removal in cleanup.removals] == [
        ("1999-01-01", 2, 8),
        ("2025-12-31", 2, 8),
    ]
    assert [day.isoformat() for day in cleanup.kept] == ["2026-01-01", "2026-01-02", "2026-01-31", "2026-02-01"]
    assert lake.list("dsi").folders == ("2026-01-01", "2026-01-02", "2026-01-31", "2026-02-01")
    before = list(lake.walk())
    assert cleanup_curated_folders("dsi", lake, DAY, 30).removals == ()
    assert list(lake.walk()) == before


UNTOUCHED = (
    "dsi/2020-02-30/file",
    "dsi/2020-1-1/file",
    "dsi/20200101/file",
    "dsi/2020-W01-1/file",
    "dsi/2020-01-01x/file",
    "dsi/2020-01-01 /file",
    "dsi/２０２０-01-01/file",  # digits, but not ours
    "dsi/0000-01-01/file",
    "dsi/latest/2020-01-01/file",
    "dsi/2020-01-02",
    "dsi/manifest.json",
    "dsi2/2020-01-01/file",
    "ds/2020-01-01/file",
    "2020-01-01/file",
    "curated/dsi/2020-01-01/file",
)


def test_only_dates_directly_below_the_root_are_deleted(lake: DataLake) -> None:
    for path in UNTOUCHED:
        lake.write(path, b"data")
    publish(lake, "2020-01-01")
    cleanup = cleanup_curated_folders("dsi", lake, DAY, 0)
    assert [removal.path for removal in cleanup.removals] == ["dsi/2020-01-01"]
    assert paths(lake) == sorted(UNTOUCHED)


def test_a_root_whose_name_begins_alike_is_never_touched(lake: DataLake) -> None:
    publish(lake, "2020-01-01", root="curated/dsi")
    publish(lake, "2020-01-01", root="curated2/dsi")
    publish(lake, "2020-01-01", root="curated/dsi2")
    cleanup_curated_folders("curated/dsi", lake, DAY, 0)
    assert not lake.list("curated/dsi").folders
    assert lake.list("curated2/dsi").folders == lake.list("curated/dsi2").folders == ("2020-01-01",)


def test_a_folder_is_deleted_with_everything_in_it(lake: DataLake) -> None:
    publish(lake, "2020-01-01")
    lake.write("dsi/2020-01-01/deep/2026-01-31/er/file", b"x")
    lake.write("dsi/2020-01-01/.hidden", b"x")
    (removal,) = cleanup_curated_folders("dsi", lake, DAY, 0).removals
    assert (removal.files, removal.size) == (4, 10)
    assert paths(lake) == []
    assert lake.list("dsi").folders == ()


def test_a_dry_run_returns_what_would_be_deleted_and_deletes_nothing(lake: DataLake) -> None:
    for day in ("2020-01-01", "2020-01-02", "2026-01-31"):
        publish(lake, day)
    before = list(lake.walk())
    would = cleanup_curated_folders("dsi", lake, DAY, 30, dry_run=True)
    assert list(lake.walk()) == before
    did = cleanup_curated_folders("dsi", lake, DAY, 30)
    assert (would.dry_run, did.dry_run) == (True, False)
    assert (would.removals, would.kept, would.cutoff) == (did.removals, did.kept, did.cutoff)
    assert len(did.removals) == 2


def test_nothing_to_clean_is_no_error(lake: DataLake) -> None:
    assert cleanup_curated_folders("dsi", lake, DAY, 30).removals == ()


@pytest.mark.parametrize("root", ["", "/", "//", " ", "..", "dsi/..", "../dsi", "/dsi", "dsi/", "."])
def test_a_root_that_is_empty_or_leaves_the_lake_is_refused(lake: DataLake, root: str) -> None:
    publish(lake, "2020-01-01")
    publish(lake, "2020-01-01", root="dsi/dsi")
    lake.write("2020-01-01/file", b"")
    before = list(lake.walk())
    with pytest.raises(LakeError):
        cleanup_curated_folders(root, lake, DAY, 0)
    assert list(lake.walk()) == before


@pytest.mark.parametrize("days", [-1, 36_526, 10**9, True, 1.5, "30", None, float("nan")])
def test_a_negative_or_absurd_number_of_days_is_refused(lake: DataLake, days: Any) -> None:
    publish(lake, "2020-01-01")
    with pytest.raises(RunDateError, match=f"expected a whole number of days.*found {re.escape(repr(days))}"):
        cleanup_curated_folders("dsi", lake, DAY, days)
    assert lake.list("dsi").folders == ("2020-01-01",)


@pytest.mark.parametrize("given_", ["2026-02-30", "20260131", "", None, 20260131, datetime.now(UTC)])
def test_a_run_date_that_is_no_date_is_refused_by_the_cleanup(lake: DataLake, given_: Any) -> None:
    publish(lake, "2020-01-01")
    with pytest.raises(RunDateError):
        cleanup_curated_folders("dsi", lake, given_, 0)
    assert lake.list("dsi").folders == ("2020-01-01",)


def test_a_cutoff_before_the_first_day_keeps_everything(lake: DataLake) -> None:
    publish(lake, "0001-01-01")
    assert cleanup_curated_folders("dsi", lake, date(1, 1, 5), 30).kept == (date.min,)


NAMES = st.one_of(
    st.dates().map(str),
    st.dates(date(2025, 12, 1), date(2026, 2, 28)).map(str),
    st.from_regex(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}", fullmatch=True),
    st.text("0123456789-W٣ x", min_size=1, max_size=11),
    st.sampled_from(["latest", "manifest.json", "2020-01", "2020-13-01", "observation"]),
)


@given(
    folders=st.sets(NAMES, max_size=6),
    files=st.sets(NAMES, max_size=2),
    run_date=st.one_of(st.dates(), st.dates(date(2025, 12, 1), date(2026, 2, 28))),
    days=st.one_of(st.integers(0, 60), st.integers(0, 36_525)),
)
@example(folders={"2026-01-01", "2025-12-31"}, files=set(), run_date=DAY, days=30)
@example(folders={"2024-02-29", "2023-02-29", "2024-02-28"}, files=set(), run_date=date(2024, 3, 1), days=1)
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_it_keeps_and_removes_exactly_what_the_rule_says(
    lake: DataLake, folders: set[str], files: set[str], run_date: date, days: int
) -> None:
    lake.delete([file.path for file in lake.walk()])
    if lake.list("dsi").folders:  # without files, as folders of a file system are
        for name in lake.list("dsi").folders:
            lake.delete_folder(f"dsi/{name}", first="manifest.json")
    for name in folders:
        lake.write(f"dsi/{name}/observation/file", b"x")
    for name in files - folders:
        lake.write(f"dsi/{name}", b"x")

    def is_deleted(name: str) -> bool:
        try:
            day = datetime.strptime(f"{name}+0000", "%Y-%m-%d%z").date()
        except ValueError:
            return False
        return name == day.isoformat() and (run_date - day) > timedelta(days=days)

    expected = sorted(
        [f"dsi/{name}/observation/file" for name in folders if not is_deleted(name)]
        + [f"dsi/{n}" for n in files - folders]
    )
    cleanup = cleanup_curated_folders("dsi", lake, run_date, days)
    assert paths(lake) == expected
    assert {removal.date.isoformat() for removal in cleanup.removals} == {name for name in folders if is_deleted(name)}
    assert cleanup_curated_folders("dsi", lake, run_date, days).removals == ()


# --- failures ---------------------------------------------------------------------------------------------------------


def deny(s3: DataLake, *patterns: str) -> None:
    """Forbid deleting what matches, and nothing else."""
    bucket, _, prefix = s3.root.removeprefix("s3://").partition("/")
    statement = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:DeleteObject",
        "Resource": [f"arn:aws:s3:::{bucket}/{prefix}/{pattern}" for pattern in patterns],
    }
    s3._s3.put_bucket_policy(  # type: ignore[attr-defined]
        Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    )


def allow(s3: DataLake) -> None:
    s3._s3.delete_bucket_policy(Bucket=s3.root.removeprefix("s3://").partition("/")[0])  # type: ignore[attr-defined]


def test_a_file_that_can_not_be_deleted_is_named_and_everything_else_is_deleted(s3: DataLake) -> None:
    for day in ("2020-01-01", "2020-01-02", "2020-01-03"):
        publish(s3, day, files=3)
    deny(s3, "dsi/2020-01-02/observation/part-00001.parquet")
    with pytest.raises(CleanupError, match=r"dsi/2020-01-02/observation/part-00001.parquet: AccessDenied") as raised:
        cleanup_curated_folders("dsi", s3, DAY, 0)
    assert [removal.files for removal in raised.value.cleanup.removals] == [3, 2, 3]
    assert paths(s3) == ["dsi/2020-01-02/observation/part-00001.parquet"]
    allow(s3)
    (removal,) = cleanup_curated_folders("dsi", s3, DAY, 0).removals
    assert removal.files == 1
    assert paths(s3) == []


def test_a_folder_whose_manifest_can_not_be_deleted_stays_whole(s3: DataLake) -> None:
    publish(s3, "2020-01-01")
    publish(s3, "2020-01-02")
    whole = [path for path in paths(s3) if "2020-01-01" in path]
    deny(s3, "dsi/2020-01-01/manifest.json")
    with pytest.raises(CleanupError, match=r"dsi/2020-01-01/manifest.json: AccessDenied"):
        cleanup_curated_folders("dsi", s3, DAY, 0)
    assert paths(s3) == whole


@pytest.mark.parametrize(("status", "transient"), [(503, True), (403, False)])
def test_a_cleanup_that_throttling_has_stopped_may_be_repeated(
    s3: DataLake, monkeypatch: pytest.MonkeyPatch, status: int, transient: bool
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # of the retries
    publish(s3, "2020-01-01")

    class Body:
        def stream(self, **_: object) -> Iterator[bytes]:
            yield b"<Error><Code>SomeCode</Code><Message>Some message</Message></Error>"

    def answer(request: Any, **_: object) -> AWSResponse | None:
        return AWSResponse(request.url, status, {}, Body()) if request.method == "POST" else None

    s3._s3.meta.events.register("before-send.s3", answer)  # type: ignore[attr-defined]
    with pytest.raises(CleanupError) as raised:
        cleanup_curated_folders("dsi", s3, DAY, 0)
    assert raised.value.transient is transient


def test_all_failures_are_reported_and_twenty_are_shown(s3: DataLake) -> None:
    publish(s3, "2020-01-01", files=30)
    deny(s3, "dsi/2020-01-01/observation/*")
    with pytest.raises(CleanupError, match="and 10 more") as raised:
        cleanup_curated_folders("dsi", s3, DAY, 0)
    assert len(raised.value.cleanup.failures) == 30


def test_keys_that_make_no_path_are_deleted_too(s3: DataLake) -> None:
    bucket, _, prefix = s3.root.removeprefix("s3://").partition("/")
    for key in ("2020-01-01/", "2020-01-01/a//b", "2020-01-01/../2026-01-31/x", "2020-01-01/a\\b"):
        s3._s3.put_object(Bucket=bucket, Key=f"{prefix}/dsi/{key}", Body=b"")  # type: ignore[attr-defined]
    s3._s3.put_object(Bucket=bucket, Key=f"{prefix}/dsi/", Body=b"")  # type: ignore[attr-defined]
    publish(s3, "2026-01-31")
    cleanup_curated_folders("dsi", s3, DAY, 0)
    assert s3.list("dsi").folders == ("2026-01-31",)
    assert len(paths(s3)) == 3


def test_links_are_not_followed(tmp_path: Path) -> None:
    lake = DataLake.at(str(tmp_path / "lake"))
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "deep").mkdir(parents=True)
    for name in ("manifest.json", "deep/file"):
        (elsewhere / name).write_text("kept")
    publish(lake, "2020-01-01")
    (tmp_path / "lake/dsi/2020-01-01/link").symlink_to(elsewhere)
    (tmp_path / "lake/dsi/2020-01-01/dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "lake/dsi/2020-01-02").symlink_to(elsewhere)
    cleanup_curated_folders("dsi", lake, DAY, 0)
    assert not list((tmp_path / "lake/dsi").iterdir())
    assert sorted(path.name for path in elsewhere.rglob("*")) == ["deep", "file", "manifest.json"]


def test_a_file_that_the_file_system_refuses_to_delete_is_named(tmp_path: Path) -> None:
    """A folder where the manifest should be can't be unlinked by anyone, so nothing else of that day is deleted."""
    lake = DataLake.at(str(tmp_path))
    lake.write("dsi/2020-01-01/manifest.json/file", b"x")
    lake.write("dsi/2020-01-01/observation/file", b"x")
    publish(lake, "2020-01-02")
    with pytest.raises(CleanupError, match=r"dsi/2020-01-01/manifest.json"):
        cleanup_curated_folders("dsi", lake, DAY, 0)
    assert paths(lake) == ["dsi/2020-01-01/manifest.json/file", "dsi/2020-01-01/observation/file"]


# --- many -------------------------------------------------------------------------------------------------------------


def test_the_manifest_is_deleted_first_and_the_rest_in_batches_of_a_thousand(
    s3: DataLake, requests: list[str], put: Callable[[str], None]
) -> None:
    for number in range(2500):
        put(f"dsi/2020-01-01/a/{number:06}")
    put("dsi/2020-01-01/manifest.json")
    deleted: list[list[str]] = []

    def note(params: dict[str, Any], **_: Any) -> None:
        deleted.append([item["Key"].rpartition("/")[2] for item in params["Delete"]["Objects"]])

    s3._s3.meta.events.register("provide-client-params.s3.DeleteObjects", note)  # type: ignore[attr-defined]
    cleanup_curated_folders("dsi", s3, DAY, 0)
    assert deleted[0] == ["manifest.json"]
    assert [len(batch) for batch in deleted[1:]] == [1000, 1000, 500]
    # One to find the days; then a page is listed before it is deleted.
    assert requests == ["ListObjectsV2", "DeleteObjects", *(["ListObjectsV2", "DeleteObjects"] * 3)]
    assert paths(s3) == []


_PROGRAM = """
import sys
from pathlib import Path
from biocloud_assets.curated.dsi.cleanup import cleanup_curated_folders
from biocloud_assets.lake import DataLake
root, endpoint, path = sys.argv[1:]
lake = DataLake.at(root, endpoint=endpoint)
requests = []
lake._s3.meta.events.register("before-call.s3", lambda model, **_: requests.append(model.name))
(removal,) = cleanup_curated_folders(path, lake, "2026-01-31", 30).removals
print(removal.files, len(requests), Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.large
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("quick_listing")
def test_100_000_files_take_202_requests_and_the_memory_of_2_000(
    s3: DataLake, s3_server: str, put: Callable[[str], None]
) -> None:
    seen = {}
    for count in (2_000, 100_000):
        for number in range(count):
            put(f"of-{count}/2020-01-01/observation/part-{number:06}.parquet")
        arguments = [sys.executable, "-c", _PROGRAM, s3.root, s3_server, f"of-{count}"]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        files, requests, seen[count] = map(int, done.stdout.split())
        # One to find the days, one for the manifest; then each page is listed, and deleted.
        assert (files, requests) == (count, 2 + 2 * count // 1000)
    print(f"kilobytes at the peak: {seen}")
    assert seen[100_000] < seen[2_000] + 10_000, "kilobytes at the peak"
    assert paths(s3) == []
