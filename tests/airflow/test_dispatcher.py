"""The functions of the exported dispatcher find the same deliveries as this package does, on the same S3."""

from __future__ import annotations

import ast
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto.s3.models import s3_backends

from biocloud_assets.ingest import delivery_log
from biocloud_assets.ingest.context import open_context
from biocloud_assets.ingest.delivery import discover, format_name
from biocloud_assets.ingest.discovery import list_arrivals, lookback_start
from biocloud_assets.ingest.step import ingest_step
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.sample import land_bundled
from biocloud_assets.steps import RunInfo, StepRequest

EXPORTED = Path(__file__).parents[2] / "airflow_export/development/dags/dsi_deliveries.py"
FOLDERS = [folder.name for folder in CONTRACT.folders]
NAMES = [f"2026-01-{day:02}-06:00:00" for day in range(1, 9)]


class Dispatcher:
    """The functions and constants of the exported file, without the DAG, for a root in S3."""

    def __init__(self, root: str, endpoint: str) -> None:
        tree = ast.parse(EXPORTED.read_text())
        tree.body = [
            node
            for node in tree.body
            if isinstance(node, (ast.Assign, ast.FunctionDef, ast.Import, ast.ImportFrom))
            and not (isinstance(node, ast.Import) and node.names[0].name == "pendulum")
        ]
        self.names: dict[str, Any] = {}
        exec(compile(tree, EXPORTED.name, "exec"), self.names)
        bucket, _, prefix = root.removeprefix("s3://").partition("/")
        self.names |= {"LANDING_BUCKET": bucket, "LANDING_PREFIX": f"{prefix}/in/"}
        self.names |= {"MARKERS_BUCKET": bucket, "MARKERS_PREFIX": f"{prefix}/out/_files/ingested/dsi/"}
        self.s3 = boto3.client("s3", endpoint_url=endpoint)
        self.requests = 0
        self.s3.meta.events.register("before-send.s3", self._count)

    def _count(self, **_: Any) -> None:
        self.requests += 1

    def ingested(self) -> set[str]:
        return set(self.names["ingested"](self.s3))

    def find_complete(self, after: str = "", now: datetime | None = None) -> tuple[list[tuple[str, str]], str]:
        complete, after = self.names["find_complete"](self.s3, after, now or datetime.now(UTC))
        return complete, after


class Site:
    """A landing zone and a lake below a root in S3, and the dispatcher for them."""

    def __init__(self, root: str, endpoint: str) -> None:
        self.root, self.endpoint = root, endpoint
        self.landing = DataLake.at(f"{root}/in", endpoint=endpoint)
        self.lake = DataLake.at(f"{root}/out", endpoint=endpoint)
        self.dispatcher = Dispatcher(root, endpoint)
        self.dispatcher.names["QUIET"] = timedelta(0)

    def land(self, delivery: str, *files: str) -> None:
        """Put files straight into the server's memory: a request for each is most of the time of a test."""
        bucket, _, prefix = self.root.removeprefix("s3://").partition("/")
        for file in files or [f"{folder}/part-0.parquet" for folder in FOLDERS]:
            s3_backends["123456789012"]["aws"].put_object(bucket, f"{prefix}/in/dsi/{delivery}/{file}", file.encode())

    def mark(self, delivery: str) -> None:
        self.lake.write(f"{delivery_log.markers_path(CONTRACT)}/{delivery}", b"")

    def expected(self, ingested: set[str], after: str, quiet_seconds: float) -> list[tuple[str, str]]:
        """The complete deliveries, by the functions of this package."""
        start = lookback_start(ingested, self.dispatcher.names["LOOKBACK"].days)
        names, _ = discover(self.landing, CONTRACT, start_after=start)
        pending = [name for name in names if name not in ingested]
        chosen = [name for name in pending if name > after] or pending
        arrivals = list_arrivals(self.landing, CONTRACT, chosen, quiet_seconds=quiet_seconds)
        return [(one.delivery, one.files.fingerprint) for one in arrivals if one.incomplete is None]


@pytest.fixture
def site(s3_root: str, s3_server: str) -> Site:
    return Site(s3_root, s3_server)


@pytest.fixture(scope="module")
def bucket(s3_server: str) -> Iterator[tuple[str, str]]:
    name = f"bucket-{uuid.uuid4().hex}"
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket=name)
    yield f"s3://{name}", s3_server


OTHER_FILES = ["_SUCCESS", "sensor/_temporary.parquet", "sensor/.hidden.parquet", "sensor/deep/part-0.parquet"]
OTHER_FILES += ["sensor/part-0.csv", "sensor/part-1.parquet", "unknown/part-0.parquet", "README.md"]

deliveries = st.dictionaries(
    st.one_of(
        st.sampled_from([*NAMES, "2026-13-01-06:00:00", "2026-01-01", "other", "٢٠٢٦-01-01-06:00:00"]),
        st.integers(0, 9000 * 366 * 86_400).map(
            lambda s: format_name(datetime(1, 1, 1, tzinfo=UTC) + timedelta(seconds=s))
        ),
    ),
    st.tuples(
        st.one_of(st.just(set(FOLDERS)), st.sets(st.sampled_from(FOLDERS))), st.sets(st.sampled_from(OTHER_FILES))
    ),
    max_size=6,
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(deliveries, st.data())
def test_it_finds_the_deliveries_that_the_sensor_finds(
    bucket: tuple[str, str], landed: dict[str, tuple[set[str], set[str]]], data: st.DataObject
) -> None:
    root, endpoint = bucket
    site = Site(f"{root}/{uuid.uuid4().hex}", endpoint)
    for name, (folders, others) in landed.items():
        for file in sorted({*(f"{folder}/part-0.parquet" for folder in folders), *others}):
            site.land(name, file)
    valid = [name for name in landed if site.dispatcher.names["time_of"](name)]
    ingested = set(data.draw(st.lists(st.sampled_from(valid)))) if valid else set()
    for name in ingested:
        site.mark(name)
    after = data.draw(st.sampled_from(["", *landed]))
    quiet_seconds = data.draw(st.sampled_from([0, 3600]))
    site.dispatcher.names["QUIET"] = timedelta(seconds=quiet_seconds)
    assert site.dispatcher.ingested() == ingested
    assert site.dispatcher.find_complete(after)[0] == site.expected(ingested, after, quiet_seconds)


RECENT = format_name(datetime.now(UTC) - timedelta(days=10))


@pytest.mark.parametrize(
    ("ingested", "landed", "found"),
    [
        ([], ["2020-01-01-06:00:00", RECENT], ["2020-01-01-06:00:00", RECENT]),
        (
            ["2026-06-01-06:00:00"],
            ["2026-05-02-06:00:00", "2026-05-02-06:00:01", "2026-07-01-06:00:00"],
            ["2026-05-02-06:00:01", "2026-07-01-06:00:00"],
        ),
        (["9000-01-01-06:00:00"], ["2020-01-01-06:00:00", RECENT], [RECENT]),
        (["0500-06-01-06:00:00"], ["0500-05-01-06:00:00", "0500-05-20-06:00:00"], ["0500-05-20-06:00:00"]),
        (["0001-01-05-06:00:00"], ["0001-01-01-06:00:00"], ["0001-01-01-06:00:00"]),
    ],
    ids=["nothing ingested", "30 days", "a name in the future", "a year before 1000", "the first days"],
)
def test_the_lookback_window_is_that_of_the_sensor(
    site: Site, ingested: list[str], landed: list[str], found: list[str]
) -> None:
    for name in ingested:
        site.mark(name)
    for name in landed:
        site.land(name)
    complete, _ = site.dispatcher.find_complete()
    assert complete == site.expected(set(ingested), "", 0)
    assert [name for name, _ in complete] == found


def test_a_run_asks_s3_once_for_each_listing_and_for_each_delivery_that_is_not_ingested(site: Site) -> None:
    for name in NAMES:
        site.land(name)
    for name in NAMES[:6]:
        site.mark(name)
    assert [name for name, _ in site.dispatcher.find_complete()[0]] == NAMES[6:]
    assert site.dispatcher.requests == 2 + 2


def test_a_run_goes_on_after_the_last_one_and_begins_again_at_the_end(site: Site) -> None:
    for name in NAMES:
        site.land(name)
    site.land(NAMES[1], "sensor/part-0.parquet")
    site.landing.delete([f"dsi/{NAMES[1]}/algorithm/part-0.parquet"])
    site.dispatcher.names |= {"MAX_LISTED": 4, "MAX_STARTED": 2}
    after, found = "", []
    for _ in range(5):
        complete, after = site.dispatcher.find_complete(after)
        found.append([name for name, _ in complete])
    assert found == [[NAMES[0], NAMES[2]], NAMES[3:5], NAMES[5:7], NAMES[7:], [NAMES[0], NAMES[2]]]


def test_a_delivery_that_was_changed_gets_another_fingerprint(site: Site) -> None:
    site.land(NAMES[0])
    ((_, before),) = site.dispatcher.find_complete()[0]
    site.land(NAMES[0], "sensor/_SUCCESS")
    assert site.dispatcher.find_complete()[0] == [(NAMES[0], before)]
    site.land(NAMES[0], "sensor/part-1.parquet")
    ((_, after),) = site.dispatcher.find_complete()[0]
    assert after != before


def test_the_markers_are_those_of_the_delivery_log(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, *_ = land_bundled(site.landing)
    context = open_context(
        CONTRACT,
        landing_root=site.landing.root,
        lake_root=site.lake.root,
        engine="sail",
        s3_endpoint=site.endpoint,
        catalog=None,
    )

    def ingest(delivery: str) -> None:
        list(ingest_step(context, StepRequest(CONTRACT.addresses, delivery=delivery), RunInfo("script", "", "sail")))

    def logged() -> set[str]:
        return delivery_log.ingested(context.tables, CONTRACT)

    ingest(first)
    row = delivery_log.read(context.tables, CONTRACT, first)
    assert row is not None
    delivery_log.write(context, second, row)
    assert site.dispatcher.ingested() == logged() == {first, second}
    site.lake.delete([f"{delivery_log.markers_path(CONTRACT)}/{first}"])  # as if the step was killed before it
    ingest(first)
    assert site.dispatcher.ingested() == logged() == {first, second}

    delivery_log.remove(context, first)
    assert site.dispatcher.ingested() == logged() == {second}
    # The folder of the partition remains, which is why it doesn't say what is ingested.
    folders = site.lake.list(CONTRACT.address(CONTRACT.log)).folders
    assert len([folder for folder in folders if folder.startswith("_delivery=")]) == 2

    def fail(*_: Any) -> None:
        raise ConnectionError("no connection")

    with monkeypatch.context() as patch, pytest.raises(ConnectionError):
        patch.setattr(delivery_log, "_replace", fail)
        delivery_log.write(context, first, row)
    assert site.dispatcher.ingested() == logged() == {second}
    with monkeypatch.context() as patch, pytest.raises(ConnectionError):
        patch.setattr(delivery_log, "_replace", fail)
        delivery_log.remove(context, second)
    assert (site.dispatcher.ingested(), logged()) == (set(), {second})  # a marker never outlives its row


def test_deliveries_before_the_first_day_are_left_to_a_person_as_by_the_sensor(site: Site) -> None:
    names = ["2025-12-31-23:59:59", "2026-01-01-00:00:00", "2026-01-02-06:00:00"]
    for name in names:
        site.land(name)
    site.dispatcher.names["NOT_BEFORE"] = "2026-01-01"
    assert [name for name, _ in site.dispatcher.find_complete()[0]] == names[1:]
    site.mark("2026-01-05-06:00:00")  # its look-back window begins before that day
    assert [name for name, _ in site.dispatcher.find_complete()[0]] == names[1:]
    site.mark("2026-02-01-00:00:00")  # and this one after it
    assert [name for name, _ in site.dispatcher.find_complete()[0]] == names[2:]


NOW = datetime(2026, 2, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("hours_ago", "run", "reason"),
    [
        ([], "2026-01-31__abc", None),
        ([0.9], "", "a run failed a short while ago"),
        ([1], "2026-01-31__abc__after_2026-02-01T11:00:00Z", None),
        ([9, 5, 2], "2026-01-31__abc__after_2026-02-01T10:00:00Z", None),
        ([20, 9, 5, 2], "", "4 runs have failed within a day"),
        ([30, 25, 9, 5, 2], "2026-01-31__abc__after_2026-02-01T10:00:00Z", None),
        ([100], "2026-01-31__abc__after_2026-01-28T08:00:00Z", None),
    ],
)
def test_a_run_that_the_infrastructure_failed_is_repeated_after_an_hour_four_times_a_day(
    site: Site, hours_ago: list[float], run: str, reason: str | None
) -> None:
    failures = [(NOW - timedelta(hours=hours)).isoformat() for hours in hours_ago]
    name, why = site.dispatcher.names["next_run"]("2026-01-31", "abc", failures, NOW)
    if reason is None:
        assert (name, why) == (run, None)
    else:
        assert reason in why
