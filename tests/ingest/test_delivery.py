"""Deliveries in the landing zone: their names, which there are, which files one holds, and whether it has changed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from biocloud_assets.errors import DeliveryNameError
from biocloud_assets.ingest.delivery import (
    DeliveryFiles,
    delivery_path,
    discover,
    format_name,
    is_name,
    list_delivery,
    parse_name,
    require_delivery,
    window_start,
)
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi.contract import CONTRACT
from tests.ingest.deliveries import DELIVERY, write

FOLDERS = [folder.name for folder in CONTRACT.folders]
SECONDS = st.datetimes(timezones=st.just(UTC)).map(lambda time: time.replace(microsecond=0))


# Names.


@given(SECONDS)
@example(datetime(1, 1, 1, tzinfo=UTC))
@example(datetime(999, 12, 31, 23, 59, 59, tzinfo=UTC))
@example(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
@example(datetime(2024, 2, 29, tzinfo=UTC))
def test_a_name_stands_for_its_time_and_back(time: datetime) -> None:
    name = format_name(time)
    assert len(name) == 19
    assert parse_name(name) == time
    assert parse_name(name).tzinfo is UTC
    assert delivery_path(CONTRACT, name) == f"dsi/{name}"


@given(SECONDS, SECONDS)
def test_names_are_in_the_order_of_their_times(one: datetime, other: datetime) -> None:
    assert (format_name(one) < format_name(other)) == (one < other)


def test_a_time_elsewhere_is_named_in_utc() -> None:
    assert format_name(datetime(2026, 1, 31, 7, tzinfo=timezone(timedelta(hours=1)))) == DELIVERY


def refused(name: str) -> None:
    for call in (parse_name, lambda name: delivery_path(CONTRACT, name), lambda name: window_start(name, 1)):
        with pytest.raises(DeliveryNameError, match=r"yyyy-mm-dd-HH:MM:SS, for instance 2026-01-31-06:00:00") as raised:
            call(name)
        assert repr(name) in str(raised.value)
    assert not is_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "2026-13-01-00:00:00",
        "2026-00-01-00:00:00",
        "2026-02-29-00:00:00",
        "2026-04-31-00:00:00",
        "2026-01-00-00:00:00",
        "2026-01-31-24:00:00",
        "2026-01-31-06:60:00",
        "2026-01-31-06:00:60",
        "2026-01-31-06:00:61",
        "0000-01-31-06:00:00",
        "2026-01-31-06:00:00\n",
        "\n2026-01-31-06:00:00",
        " 2026-01-31-06:00:00",
        "2026-01-31-06:00:00 ",
        "2026-01-31 06:00:00",
        "2026-01-31T06:00:00",
        "2026-01-31-06:00:00Z",
        "2026-01-31-06:00:00.5",
        "2026-01-31-06:00",
        "2026-1-31-06:00:00",
        "26-01-31-06:00:00",
        "12026-01-31-06:00:00",
        "+026-01-31-06:00:00",
        "2026-01-31-06-00-00",
        "2026-01-31-06:0 :00",
        "٢٠٢٦-٠١-٣١-٠٦:٠٠:٠٠",
        "2026-01-31-06:00:0０",
        "2026\u201101-31-06:00:00",
        "..",
        "../2026-01-31-06:00:00",
        "2026-01-31-06:00:00/",
        "2026-01-31-06:00:00/..",
        "dsi/2026-01-31-06:00:00",
        "2026-01-31-06:00:00\0",
    ],
)
def test_a_similar_text_is_refused(name: str) -> None:
    refused(name)


@given(
    st.one_of(st.text(), st.text("0123456789-: \n/.", max_size=20), st.from_regex(r"\d{4}-\d\d-\d\d-\d\d:\d\d:\d\d"))
)
def test_a_text_is_a_name_only_if_it_is_written_as_one(name: str) -> None:
    try:
        time = parse_name(name)
    except DeliveryNameError:
        # Another implementation: a refused text has another shape, or stands for no real time.
        shape = re.fullmatch("([0-9]{4})-([0-9]{2})-([0-9]{2})-([0-9]{2}):([0-9]{2}):([0-9]{2})", name)
        if shape:
            with pytest.raises(ValueError, match=r"must be in|out of range"):
                datetime(*(int(part) for part in shape.groups()))  # type: ignore[arg-type]  # noqa: DTZ001
    else:
        assert format_name(time) == name


def test_the_path_of_a_folder() -> None:
    assert delivery_path(CONTRACT, DELIVERY, "sensor") == f"dsi/{DELIVERY}/sensor"


@pytest.mark.parametrize(
    ("newest", "days", "start"),
    [
        ("2026-01-31-06:00:00", 30, "2026-01-01-06:00:00"),
        ("2024-03-01-00:00:00", 1, "2024-02-29-00:00:00"),
        ("2026-01-31-06:00:00", 0, "2026-01-31-06:00:00"),
        ("0001-01-31-06:00:00", 30, "0001-01-01-06:00:00"),
        ("0001-01-30-06:00:00", 30, ""),
        ("0001-01-01-00:00:00", 3660, ""),
    ],
)
def test_the_window_starts_days_before_the_newest(newest: str, days: int, start: str) -> None:
    assert window_start(newest, days) == start


@given(SECONDS, st.integers(0, 3660))
def test_no_delivery_within_the_window_is_before_its_start(newest: datetime, days: int) -> None:
    start = window_start(format_name(newest), days)
    inside = newest - datetime.min.replace(tzinfo=UTC)
    if inside >= timedelta(days=days):
        assert parse_name(start) == newest - timedelta(days=days)
    else:
        assert start == ""


# Discovery.


@pytest.fixture(params=["folder", "s3"])
def landing(request: pytest.FixtureRequest) -> DataLake:
    """An empty landing zone."""
    if request.param == "s3":
        return DataLake.at(request.getfixturevalue("s3_root"), endpoint=request.getfixturevalue("s3_server"))
    return DataLake.at(str(request.getfixturevalue("tmp_path")))


NAMES = ["0999-12-31-23:59:59", "2025-12-31-23:00:00", "2026-01-01-00:00:00", "2026-01-31-06:00:00"]


def test_an_empty_landing_zone_has_no_deliveries(landing: DataLake) -> None:
    assert discover(landing, CONTRACT) == ([], [])
    landing.write("other/2026-01-31-06:00:00/sensor/part-0.parquet", b"")
    assert discover(landing, CONTRACT) == ([], [])


def test_deliveries_are_found_oldest_first_and_other_names_are_listed_apart(landing: DataLake) -> None:
    foreign = ["2026-02-30-00:00:00", "2026-01-31", "tmp", "Zoë's test", "2026-01-31-06:00:00 (copy)", "_log"]
    for name in [*reversed(NAMES), *foreign]:
        landing.write(f"dsi/{name}/sensor/part-0.parquet", b"")
    landing.write("dsi/2026-01-31-07:00:00", b"a file is no delivery")
    names, others = discover(landing, CONTRACT)
    assert names == NAMES
    assert sorted(others) == sorted(foreign)


def test_only_later_deliveries_are_found(landing: DataLake) -> None:
    for name in [*NAMES, "2020", "2027"]:
        landing.write(f"dsi/{name}/sensor/part-0.parquet", b"")
    assert discover(landing, CONTRACT, start_after=NAMES[1]) == (NAMES[2:], ["2027"])
    assert discover(landing, CONTRACT, start_after=window_start(NAMES[-1], 30)) == (NAMES[3:], ["2027"])
    assert discover(landing, CONTRACT, start_after=window_start(NAMES[-1], 31)) == (NAMES[1:], ["2027"])
    assert discover(landing, CONTRACT, start_after=window_start("0001-01-01-00:00:00", 30))[0] == NAMES


def test_requests_grow_only_with_new_deliveries(s3_root: str, s3_server: str) -> None:
    from moto.s3.models import s3_backends

    bucket, _, prefix = s3_root.removeprefix("s3://").partition("/")
    start = datetime(2026, 1, 1, tzinfo=UTC)

    def deliver(hours: range) -> list[str]:
        names = [format_name(start + timedelta(hours=hour)) for hour in hours]
        for name in names:
            for folder in FOLDERS:
                s3_backends["123456789012"]["aws"].put_object(bucket, f"{prefix}/dsi/{name}/{folder}/0.parquet", b"")
        return names

    landing = DataLake.at(s3_root, endpoint=s3_server)
    sent: list[str] = []
    landing._s3.meta.events.register(  # type: ignore[attr-defined]
        "before-send.s3", lambda request, **_: sent.append(request.url)
    )
    old = deliver(range(1500))
    assert discover(landing, CONTRACT) == (old, [])
    assert len(sent) == 2
    sent.clear()
    new = deliver(range(1500, 1510))
    assert discover(landing, CONTRACT, start_after=old[-1]) == (new, [])
    assert len(sent) == 1
    sent.clear()
    list_delivery(landing, CONTRACT, new[-1])
    assert len(sent) == 1


# Files of a delivery.


def test_the_parquet_files_of_the_five_folders_are_listed(landing: DataLake) -> None:
    for name in (DELIVERY, "2026-01-31-07:00:00"):
        for folder in FOLDERS:
            landing.write(f"dsi/{name}/{folder}/part-1.parquet", b"12345")
            landing.write(f"dsi/{name}/{folder}/part-0.zstd.parquet", b"1234567")
    listed = list_delivery(landing, CONTRACT, DELIVERY)
    assert listed.delivery == DELIVERY
    assert list(listed.files) == FOLDERS
    assert listed.missing == listed.others == ()
    for folder, files in listed.files.items():
        parts = [f"dsi/{DELIVERY}/{folder}/{name}" for name in ("part-0.zstd.parquet", "part-1.parquet")]
        assert [file.path for file in files] == parts
    assert len(listed.all_files) == 10
    assert listed.size == 60


def test_marks_of_writers_are_ignored_and_unexpected_files_are_listed_apart(landing: DataLake) -> None:
    root = f"dsi/{DELIVERY}"
    landing.write(f"{root}/sensor/part-0.parquet", b"")
    ignored = ["_SUCCESS", ".DS_Store", "sensor/_SUCCESS", "sensor/.part-0.parquet.crc", "sensor/_metadata.parquet"]
    others = [
        "README.txt",
        "algorithm/data.csv",
        "algorithm/part-0.PARQUET",
        "algorithm/sub/part-0.parquet",
        "camera/part-0.parquet",
        "loose.parquet",
        "sensor/_temporary/0/part-0.parquet",
    ]
    for name in [*ignored, *others]:
        landing.write(f"{root}/{name}", b"x")
    landing.write(f"{root}/algorithm/started", b"")
    listed = list_delivery(landing, CONTRACT, DELIVERY)
    assert [file.path for file in listed.all_files] == [f"{root}/sensor/part-0.parquet"]
    assert sorted(listed.others) == sorted(others)
    assert listed.missing == ("algorithm", "sensor_deployment", "sensor_media_item", "analysis_group_result")


def test_a_delivery_that_does_not_exist_misses_all_folders(landing: DataLake) -> None:
    listed = list_delivery(landing, CONTRACT, DELIVERY)
    assert listed.missing == tuple(FOLDERS)
    assert listed.all_files == ()
    assert listed.others == ()
    assert listed.size == 0
    assert listed.quiet_for(datetime.now(UTC)) == float("inf")


def test_only_a_delivery_can_be_listed(landing: DataLake) -> None:
    with pytest.raises(DeliveryNameError):
        list_delivery(landing, CONTRACT, "../other")


def test_a_delivery_that_must_exist_is_named_with_its_place_if_it_does_not(landing: DataLake) -> None:
    with pytest.raises(DeliveryNameError, match=f"expected a folder at .*dsi/{DELIVERY}, found none"):
        require_delivery(landing, CONTRACT, DELIVERY)
    landing.write(f"dsi/{DELIVERY}/_SUCCESS", b"")
    assert require_delivery(landing, CONTRACT, DELIVERY).missing == tuple(FOLDERS)


# Changes.


@pytest.fixture
def delivery(tmp_path: Path) -> Path:
    """A delivery in a folder, last changed at noon."""
    root = write(tmp_path)
    for file in root.rglob("*.parquet"):
        set_time(file, NOON)
    return root


NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def set_time(file: Path, time: datetime) -> None:
    os.utime(file, (time.timestamp(), time.timestamp()))


def seen(root: Path) -> DeliveryFiles:
    return list_delivery(DataLake.at(str(root.parents[1])), CONTRACT, DELIVERY)


def longer(file: Path) -> None:
    time = file.stat().st_mtime_ns
    file.write_bytes(file.read_bytes() + b"x")
    os.utime(file, ns=(time, time))


CHANGES: dict[str, Callable[[Path], object]] = {
    "added": lambda file: file.with_name("part-1.parquet").write_bytes(b""),
    "removed": lambda file: file.unlink(),
    "renamed": lambda file: file.rename(file.with_name("part-1.parquet")),
    "moved": lambda file: file.rename(file.parents[1] / "algorithm" / "part-1.parquet"),
    "of another size": longer,
    "later": lambda file: set_time(file, NOON + timedelta(seconds=1)),
    "earlier": lambda file: set_time(file, NOON - timedelta(days=1)),
    "later by a thousandth of a second": lambda file: set_time(file, NOON + timedelta(milliseconds=1)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_fingerprint_changes_with_a_file(delivery: Path, change: str) -> None:
    before = seen(delivery).fingerprint
    CHANGES[change](delivery / "sensor" / "part-0.parquet")
    assert seen(delivery).fingerprint != before


def test_the_fingerprint_stays_if_no_parquet_file_changes(delivery: Path, tmp_path: Path) -> None:
    before = seen(delivery).fingerprint
    assert seen(delivery).fingerprint == before
    for name in ("_SUCCESS", "sensor/_SUCCESS", "sensor/.part-0.parquet.crc", "README.txt"):
        (delivery / name).write_text("x")
    (delivery / "sensor" / "part-0.parquet").read_bytes()
    assert seen(delivery).fingerprint == before
    moved = tmp_path / "elsewhere" / "dsi" / DELIVERY
    moved.parent.mkdir(parents=True)
    delivery.rename(moved)
    assert seen(moved).fingerprint == before, "it is the same delivery wherever the landing zone is"


def test_the_fingerprint_on_s3_depends_on_the_content(s3_root: str, s3_server: str) -> None:
    landing = DataLake.at(s3_root, endpoint=s3_server)
    prints = []
    for data in (b"one", b"two", b"one"):
        landing.write(f"dsi/{DELIVERY}/sensor/part-0.parquet", data)
        prints.append(list_delivery(landing, CONTRACT, DELIVERY).fingerprint)
    assert prints[0] == prints[2] != prints[1]


def test_a_delivery_is_quiet_since_its_last_change(delivery: Path) -> None:
    assert seen(delivery).quiet_for(NOON + timedelta(minutes=1)) == 60
    set_time(delivery / "analysis_group_result" / "part-0.parquet", NOON + timedelta(seconds=50))
    assert seen(delivery).quiet_for(NOON + timedelta(minutes=1)) == 10
    set_time(delivery / "algorithm" / "part-0.parquet", NOON - timedelta(days=1))
    assert seen(delivery).quiet_for(NOON + timedelta(minutes=1)) == 10
