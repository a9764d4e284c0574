"""A lake in a folder and one in S3: listing, reading, writing, deleting, and paths that stay below the root."""

from __future__ import annotations

import fcntl
import os
import posixpath
import struct
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from hypothesis import example, given
from hypothesis import strategies as st

from biocloud_assets.errors import LakeError
from biocloud_assets.lake import DataLake, FileInfo, Listing

DELIVERIES = [f"2026-01-{day:02}-{hour:02}:00:00" for day in range(1, 32) for hour in range(24)]


@pytest.fixture(params=["folder", "s3"])
def lake(request: pytest.FixtureRequest) -> DataLake:
    """An empty lake."""
    if request.param == "s3":
        return DataLake.at(request.getfixturevalue("s3_root"), endpoint=request.getfixturevalue("s3_server"))
    return DataLake.at(str(request.getfixturevalue("tmp_path") / "root"))


@pytest.fixture
def s3(s3_root: str, s3_server: str) -> DataLake:
    """An empty lake in S3."""
    return DataLake.at(s3_root, endpoint=s3_server)


@pytest.fixture
def requests(s3: DataLake) -> list[str]:
    """The requests that the lake in S3 sends, as they leave: method and URL."""
    sent: list[str] = []
    events = s3._s3.meta.events  # type: ignore[attr-defined]
    events.register("before-send.s3", lambda request, **_: sent.append(f"{request.method} {request.url}"))
    return sent


@pytest.fixture
def put(s3: DataLake) -> Callable[[str], None]:
    """Puts a file straight into the server's memory: thousands of requests would take the time."""
    from moto.s3.models import s3_backends

    backend = s3_backends["123456789012"]["aws"]
    bucket, _, prefix = s3.root.removeprefix("s3://").partition("/")

    def into(path: str) -> None:
        backend.put_object(bucket, f"{prefix}/{path}", b"x")

    return into


def files(lake: DataLake, path: str = "") -> list[str]:
    return [file.path for file in lake.walk(path)]


# List and walk.


def test_list_shows_one_level_in_order(lake: DataLake) -> None:
    for path in ("dsi/b/one", "dsi/a/x/deep", "dsi/a/two", "dsi/z.txt", "dsi/c.txt", "top"):
        lake.write(path, b"")
    listing = lake.list("dsi")
    assert listing.folders == ("a", "b")
    assert [file.path for file in listing.files] == ["dsi/c.txt", "dsi/z.txt"]
    assert [file.name for file in listing.files] == ["c.txt", "z.txt"]
    assert lake.list().folders == ("dsi",)
    assert [file.path for file in lake.list().files] == ["top"]


def test_list_after_a_name_shows_what_is_later(lake: DataLake) -> None:
    for name in "abcd":
        lake.write(f"dsi/{name}/file", b"")
        lake.write(f"dsi/{name}.txt", b"")
    listing = lake.list("dsi", start_after="b.txt")
    assert listing.folders == ("c", "d")
    assert [file.name for file in listing.files] == ["c.txt", "d.txt"]
    # The name itself isn't later than itself, and one that isn't there divides all the same.
    assert lake.list("dsi", start_after="c").folders == ("d",)
    assert lake.list("dsi", start_after="bb").folders == ("c", "d")
    assert lake.list("dsi", start_after="z") == Listing((), ())
    assert lake.list("", start_after="d").folders == ("dsi",)


NAMES = ("a", "a b", "a!", "a-b", "a.b", "a0", "aé", "ab")
"""In order; after `a` some have a character before `/` and some one behind it."""


def test_a_name_that_goes_on_is_later_than_its_beginning(lake: DataLake) -> None:
    for name in NAMES:
        lake.write(f"dsi/{name}.parquet", b"")
        lake.write(f"folders/{name}/file", b"")
    assert [file.name for file in lake.list("dsi", start_after="a").files] == sorted(
        f"{name}.parquet" for name in NAMES
    )
    assert sorted(lake.list("folders", start_after="a").folders) == sorted(NAMES[1:])


def test_folders_are_in_order_of_their_names(lake: DataLake) -> None:
    for name in NAMES:
        lake.write(f"folders/{name}/file", b"")
    assert list(lake.list("folders").folders) == sorted(NAMES)


def test_walk_shows_all_below_in_order(lake: DataLake) -> None:
    paths = ["a", "b-c/d", "b/c/d", "b/c.d", "b/é", "z/1/2/3/4"]
    for path in reversed(paths):
        lake.write(path, path.encode())
    assert files(lake) == sorted(paths)
    assert files(lake, "b") == ["b/c.d", "b/c/d", "b/é"]
    assert [file.size for file in lake.walk("b")] == [5, 5, 4]


@pytest.fixture
def amsterdam(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose clock shows another time than UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Amsterdam")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("amsterdam")
def test_the_time_of_a_file_is_in_utc(lake: DataLake) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)  # S3 keeps whole seconds
    lake.write("a", b"data")
    (file,) = lake.list().files
    assert before <= file.modified <= datetime.now(UTC) + timedelta(seconds=2)
    assert file.modified.utcoffset() == timedelta(0)
    assert file.size == 4
    assert list(lake.walk()) == [file]


def test_a_path_that_does_not_exist_lists_nothing(lake: DataLake) -> None:
    lake.write("a/file", b"")
    for path in ("nowhere", "a/nowhere", "a/file/below"):
        assert lake.list(path) == Listing((), ())
        assert files(lake, path) == []


def test_a_neighbour_whose_name_begins_alike_is_not_listed(lake: DataLake) -> None:
    lake.write("curated/in", b"")
    lake.write("curated2/out", b"")
    assert files(lake, "curated") == ["curated/in"]
    assert [file.path for file in lake.list("curated").files] == ["curated/in"]
    root = DataLake.at(f"{lake.root}/curated", endpoint=os.environ.get("AWS_ENDPOINT_URL"))
    assert files(root) == ["in"]
    assert lake.list().folders == ("curated", "curated2")


@pytest.mark.parametrize(
    "name", ["with space", "Zoë", "大熊猫", "🦊", "a+b=c&d?e#f%20", "2026-01-31-06:00:00", 'it\'s "x"']
)
def test_names_in_any_script(lake: DataLake, name: str) -> None:
    lake.write(f"{name}/{name}.parquet", name.encode())
    assert lake.list().folders == (name,)
    assert [file.name for file in lake.list(name).files] == [f"{name}.parquet"]
    assert files(lake) == [f"{name}/{name}.parquet"]
    assert lake.read(f"{name}/{name}.parquet") == name.encode()
    assert lake.list("", start_after=name).folders == ()
    lake.delete([f"{name}/{name}.parquet"])
    assert files(lake) == []


# Read.


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ({}, b"0123456789"),
        ({"start": 4}, b"456789"),
        ({"start": 2, "length": 3}, b"234"),
        ({"length": 3}, b"012"),
        ({"start": 8, "length": 100}, b"89"),
        ({"length": 0}, b""),
        ({"start": 5, "length": 0}, b""),
        ({"start": 10}, b""),
        ({"start": 11, "length": 5}, b""),
        ({"start": -3}, b"789"),
        ({"start": -4, "length": 2}, b"67"),
        ({"start": -10}, b"0123456789"),
        ({"start": -100}, b"0123456789"),
        ({"start": -100, "length": 2}, b"01"),
    ],
)
def test_read_whole_or_a_part(lake: DataLake, span: dict[str, int], expected: bytes) -> None:
    lake.write("a/file", b"0123456789")
    assert lake.read("a/file", **span) == expected


@pytest.mark.parametrize("span", [{}, {"start": -4}, {"start": 0, "length": 4}, {"start": 7}])
def test_read_an_empty_file(lake: DataLake, span: dict[str, int]) -> None:
    lake.write("empty", b"")
    assert lake.read("empty", **span) == b""


@pytest.mark.parametrize("path", ["nowhere", "a", "a/file/below"])
def test_a_file_that_can_not_be_read_is_named(lake: DataLake, path: str) -> None:
    lake.write("a/file", b"")
    with pytest.raises(LakeError) as raised:
        lake.read(path)
    assert raised.value.thing == f"{lake.root}/{path}"
    assert str(raised.value).startswith(f"{lake.root}/{path}: expected ")
    assert raised.value.found
    assert "Check the" in raised.value.hint


linux = pytest.mark.skipif(sys.platform != "linux", reason="needs files of Linux that can be opened and not read")


@linux
@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda lake, file: lake.open(file).read(), "Input/output error"),
        (lambda lake, file: lake.open(file).read(10), "Input/output error"),
        (lambda lake, file: lake.open(file).read(1_000_000), "Input/output error"),
        (lambda lake, file: lake.open(file).readinto(bytearray(10)), "Input/output error"),
        (lambda lake, file: lake.open(file).seek(0, os.SEEK_END), "Invalid argument"),
        (lambda lake, file: lake.head(file, 4), "Input/output error"),
        (lambda lake, file: lake.read(file.path), "Invalid argument"),
    ],
)
def test_an_error_while_a_file_is_read_names_it_and_is_transient(
    tmp_path: Path, read: Callable[[DataLake, FileInfo], object], words: str
) -> None:
    """Linux opens the memory of a process as a file, but can neither read its first page nor seek to its end."""
    (tmp_path / "file").symlink_to("/proc/self/mem")
    lake = DataLake.at(str(tmp_path))
    (file,) = lake.list().files
    with pytest.raises(LakeError) as raised:
        read(lake, file)
    assert (raised.value.thing, raised.value.found) == (f"{tmp_path}/file", words)
    assert "Repeat" in raised.value.hint
    assert raised.value.transient


_TIOCGPTN = 0x80045430
"""The request for the number of a pseudoterminal; `os.ptsname` is newer than Python 3.11."""


@linux
def test_opening_a_file_is_transient_only_if_it_fails_with_an_input_output_error(tmp_path: Path) -> None:
    """Linux opens no pseudoterminal that is still locked, as a new one is."""
    lake = DataLake.at(str(tmp_path))
    terminal = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
    try:
        (number,) = struct.unpack("I", fcntl.ioctl(terminal, _TIOCGPTN, bytes(4)))
        (tmp_path / "locked").symlink_to(f"/dev/pts/{number}")
        (tmp_path / "no-target").symlink_to("missing")
        for path, words, transient in (
            ("locked", "Input/output error", True),
            ("no-target", "No such file or directory", False),
        ):
            for read in (lake.read, lambda path: lake.open(FileInfo(path, 1, datetime.now(UTC)))):
                with pytest.raises(LakeError) as raised:
                    read(path)
                assert (raised.value.thing, raised.value.found) == (f"{tmp_path}/{path}", words)
                assert raised.value.transient is transient
    finally:
        os.close(terminal)


# Write.


def test_write_replaces_the_whole_file(lake: DataLake) -> None:
    lake.write("a/b/file", b"a long first text")
    lake.write("a/b/file", b"short")
    assert lake.read("a/b/file") == b"short"
    assert files(lake) == ["a/b/file"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = DataLake.at(str(tmp_path))
    lake.write("a/file", b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises((OSError, LakeError), match="No space left"):
        lake.write("a/file", b"new")
    with pytest.raises((OSError, LakeError), match="No space left"):
        lake.write("a/other", b"new")
    assert lake.read("a/file") == b"old"
    assert files(lake) == ["a/file"], "no half or temporary file is left"


def test_a_reader_never_sees_half_of_a_file(tmp_path: Path) -> None:
    lake = DataLake.at(str(tmp_path))
    lake.write("file", b"old")
    with (tmp_path / "file").open("rb") as reader:
        lake.write("file", b"new and longer")
        assert reader.read() == b"old"
    assert lake.read("file") == b"new and longer"


def test_others_may_read_what_is_written_as_any_new_file(tmp_path: Path) -> None:
    DataLake.at(str(tmp_path)).write("file", b"")
    (tmp_path / "usual").touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_write_to_where_it_can_not_be_names_the_file(tmp_path: Path) -> None:
    lake = DataLake.at(str(tmp_path))
    lake.write("a", b"")
    with pytest.raises(LakeError, match=r"/a/b: expected "):
        lake.write("a/b", b"")


# Delete.


def test_only_the_named_files_are_deleted(lake: DataLake) -> None:
    for path in ("a/1", "a/2", "a/3"):
        lake.write(path, b"")
    lake.delete(iter(["a/1", "a/3", "a/never", "nowhere/never"]))
    assert files(lake) == ["a/2"]
    lake.delete([])
    lake.delete(["a/1"])
    assert files(lake) == ["a/2"]


def test_a_file_that_can_not_be_deleted_is_named_and_the_rest_is_deleted(tmp_path: Path) -> None:
    lake = DataLake.at(str(tmp_path))
    lake.write("a/b/file", b"")
    lake.write("c", b"")
    with pytest.raises(LakeError, match=r"a/b: .*Check the permissions") as raised:
        lake.delete(["a/b", "c"])
    assert raised.value.thing == lake.root
    assert files(lake) == ["a/b/file"]


# Requests to S3.


def test_deleting_thousands_takes_a_request_for_each_thousand(
    s3: DataLake, requests: list[str], put: Callable[[str], None]
) -> None:
    paths = [f"many/{number}" for number in range(2100)]
    for path in paths:
        put(path)
    put("other")
    s3.delete(paths)
    assert len(requests) == 3
    requests.clear()
    assert files(s3) == ["other"]
    s3.delete([])
    assert len(requests) == 1, "nothing to delete, so no request"


def test_listing_deliveries_does_not_list_what_is_in_them(
    s3: DataLake, requests: list[str], put: Callable[[str], None]
) -> None:
    names = [f"{year}{name[4:]}" for year in (2025, 2026) for name in DELIVERIES]
    for name in names:
        for number in range(5):
            put(f"dsi/{name}/sensor/part-{number}.parquet")
    assert s3.list("dsi").folders == tuple(names)
    assert len(requests) == -(-len(names) // 1000) == 2


def test_listing_after_a_name_asks_for_what_is_behind_it_alone(
    s3: DataLake, requests: list[str], put: Callable[[str], None]
) -> None:
    names = [f"{year}{name[4:]}" for year in (2024, 2025, 2026) for name in DELIVERIES]
    for name in names:
        put(f"dsi/{name}/sensor/part-0.parquet")
    answered: list[int] = []

    def count(parsed: dict[str, Any], **_: Any) -> None:
        answered.append(parsed["KeyCount"])

    s3._s3.meta.events.register("after-call.s3.ListObjectsV2", count)  # type: ignore[attr-defined]
    assert s3.list("dsi", start_after=names[-8]).folders == tuple(names[-7:])
    assert len(requests) == 1
    # What S3 lists behind a name begins with that name's own folder.
    assert answered == [8]


def test_walking_takes_a_request_for_each_thousand(
    s3: DataLake, requests: list[str], put: Callable[[str], None]
) -> None:
    for number in range(2001):
        put(f"a/{number // 10}/{number}")
    assert len(files(s3)) == 2001
    assert len(requests) == 3


def test_a_part_of_a_file_is_all_that_is_transferred(s3: DataLake, requests: list[str]) -> None:
    s3.write("file", bytes(1_000_000))
    lengths: list[int] = []
    s3._s3.meta.events.register(  # type: ignore[attr-defined]
        "after-call.s3.GetObject", lambda parsed, **_: lengths.append(parsed["ContentLength"])
    )
    s3.read("file", start=-8)
    s3.read("file", start=100, length=50)
    assert lengths == [8, 50]


def test_the_marker_of_an_empty_folder_is_no_file(s3: DataLake, put: Callable[[str], None]) -> None:
    put("dsi/empty/")
    assert s3.list("dsi").folders == ("empty",)
    assert s3.list("dsi/empty").files == ()
    assert files(s3) == []


# Paths and roots.

PARTS = st.one_of(
    st.sampled_from(["", ".", "..", "a", "Zoë", " ", "...", "~", "a\\..\\b", "\0", "C:"]), st.text(max_size=4)
)
PATHS = st.one_of(st.text(), st.lists(PARTS, max_size=5).map("/".join))


@pytest.fixture(scope="module", params=["/lake/landing", "s3://bucket/some/prefix", "s3://bucket"])
def somewhere(request: pytest.FixtureRequest) -> DataLake:
    """A lake that is never asked for anything."""
    return DataLake.at(request.param, endpoint="http://127.0.0.1:1")


@given(path=PATHS)
@example(path="../landing2/x")
@example(path="a/../../x")
@example(path="/etc/passwd")
@example(path="a//b")
@example(path="a/")
def test_no_path_leaves_the_root(somewhere: DataLake, path: str) -> None:
    try:
        uri = somewhere.uri(path)
    except LakeError as error:
        assert repr(path) in str(error)
        assert "No path may leave its root" in str(error)
        assert set(path.split("/")) & {"", ".", ".."} or "\\" in path or "\0" in path, "a plain path is not refused"
        return
    if path:
        assert uri == f"{somewhere.root}/{path}"
    else:
        assert uri == somewhere.root
    _, _, below_scheme = uri.rpartition("://")
    assert posixpath.normpath(below_scheme) == below_scheme


@pytest.mark.parametrize("path", ["../out", "a/../../out", "/out", "a//b", "./a", "a/", "a\\b", "a\0b"])
def test_every_call_refuses_a_path_that_would_leave(lake: DataLake, path: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: lake.uri(path),
        lambda: lake.list(path),
        lambda: list(lake.walk(path)),
        lambda: lake.read(path),
        lambda: lake.write(path, b""),
        lambda: lake.delete([path]),
    ]
    for call in calls:
        with pytest.raises(LakeError, match="No path may leave its root"):
            call()


@pytest.mark.parametrize(
    ("root", "address"),
    [
        ("/data/lake", "/data/lake"),
        ("/data/lake/", "/data/lake"),
        ("file:///data/lake", "/data/lake"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a/b", "s3://bucket/a/b"),
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("s3a://bucket/a", "s3://bucket/a"),
    ],
)
def test_a_root_has_one_address(root: str, address: str) -> None:
    lake = DataLake.at(root, endpoint="http://127.0.0.1:1")
    assert lake.root == lake.uri() == address
    assert lake.uri("a/b") == f"{address}/a/b"
    assert repr(lake) == f"DataLake({address!r})"


def test_a_relative_folder_and_home_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert DataLake.at("here").root == DataLake.at("~/here").root == str(tmp_path / "here")


@pytest.mark.parametrize(
    "root",
    ["gs://bucket/a", "https://host/a", "abfss://a@b/c", "s3://", "s3:///a", "file://host/a", "s3://bucket/a/../b"],
)
def test_roots_of_other_forms_are_refused(root: str) -> None:
    with pytest.raises(LakeError):
        DataLake.at(root, endpoint="http://127.0.0.1:1")


@pytest.mark.parametrize("root", ["gs://bucket/a", "s3://", "file://host/a"])
def test_a_refused_root_is_named_with_the_valid_forms(root: str) -> None:
    with pytest.raises(LakeError, match=r"expected a folder or s3://bucket/prefix") as raised:
        DataLake.at(root)
    assert repr(root) in str(raised.value)


@pytest.mark.parametrize(
    ("endpoint", "insecure"), [("http://127.0.0.1:9000", True), ("https://s3.example.org", False), (None, False)]
)
def test_only_an_s3_over_http_is_insecure(endpoint: str | None, insecure: bool, tmp_path: Path) -> None:
    assert DataLake.at("s3://bucket", endpoint=endpoint).insecure is insecure
    assert not DataLake.at(str(tmp_path), endpoint=endpoint).insecure


@pytest.mark.parametrize("call", ["list", "walk", "read", "write", "delete"])
def test_a_bucket_that_is_not_there_is_named(s3_server: str, call: str) -> None:
    lake = DataLake.at("s3://no-such-bucket/prefix", endpoint=s3_server)
    calls: dict[str, Callable[[], object]] = {
        "list": lambda: lake.list("dsi"),
        "walk": lambda: list(lake.walk("dsi")),
        "read": lambda: lake.read("dsi"),
        "write": lambda: lake.write("dsi", b""),
        "delete": lambda: lake.delete(["dsi"]),
    }
    with pytest.raises(LakeError, match=r"^s3://no-such-bucket/prefix.*NoSuchBucket.*Check the address, the endpoint"):
        calls[call]()


def test_an_s3_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # of the retries
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    lake = DataLake.at("s3://bucket/prefix", endpoint="http://127.0.0.1:1")
    with pytest.raises(LakeError, match=r"^s3://bucket/prefix/a: .*http://127\.0\.0\.1:1.*Check the address") as raised:
        lake.read("a")
    assert raised.value.transient


@pytest.mark.parametrize(
    ("status", "transient"), [(500, True), (503, True), (429, True), (403, False), (404, False), (400, False)]
)
def test_only_throttling_and_errors_of_the_server_are_transient(
    s3: DataLake, monkeypatch: pytest.MonkeyPatch, status: int, transient: bool
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # of the retries

    class Body:
        def stream(self, **_: object) -> Iterator[bytes]:
            yield b"<Error><Code>SomeCode</Code><Message>Some message</Message></Error>"

    def answer(request: Any, **_: object) -> AWSResponse:
        return AWSResponse(request.url, status, {}, Body())

    s3._s3.meta.events.register("before-send.s3", answer)  # type: ignore[attr-defined]
    with pytest.raises(LakeError) as raised:
        s3.read("a")
    assert raised.value.transient is transient


def test_labels_stay_with_a_file_in_s3_until_it_is_written_without(s3: DataLake) -> None:
    s3.write("a", b"1", labels={"owner": "biocloud"})
    assert s3.labels("a") == {"owner": "biocloud"}
    s3.write("a", b"2")
    assert s3.labels("a") == s3.labels("nothing/here") == {}


def test_a_folder_refuses_labels(tmp_path: Path) -> None:
    lake = DataLake.at(str(tmp_path))
    with pytest.raises(LakeError, match="a folder, which keeps no labels"):
        lake.write("a", b"1", labels={"owner": "biocloud"})
    assert lake.list().files == ()
