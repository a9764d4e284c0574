"""Hostile names: nothing leaves its root, and no query and no filter becomes another one."""

from __future__ import annotations

import ast
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from biocloud_assets.access.plan import SAFE_LIMITS
from biocloud_assets.access.scim import RetryPolicy, ScimClient
from biocloud_assets.access.sync_groups import SyncReport, apply_plan, make_plan
from biocloud_assets.curated.dsi import step
from biocloud_assets.curated.dsi.cleanup import cleanup_curated_folders
from biocloud_assets.curated.dsi.manifest import write_manifest
from biocloud_assets.errors import BiocloudError, DeliveryNameError, LakeError
from biocloud_assets.ingest.delivery import discover
from biocloud_assets.ingest.verify import verify
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi.contract import CONTRACT, RESULT
from tests.access.databricks_workspace import ADMIN, DatabricksWorkspace
from tests.chaos.conftest import Chaos
from tests.ingest.deliveries import DELIVERY, record, table, write
from tests.ingest.lakehouse import content, context_at, failed, ingest, land

HOSTILE = (
    "it's",
    "'; DROP TABLE sensor; --",
    "' OR '1'='1",
    '" or displayName eq "admins',
    'x" or userName co "@',
    "`; DELETE FROM sensor; `",
    "a`b",
    "..",
    "../../outside",
    "..\\..\\outside",
    "%2e%2e%2foutside",
    "2026-01-31-06%3A00%3A00",
    "_delivery=2026-01-31-06:00:00",
    "two\nlines",
    "carriage\rreturn",
    "tab\there",
    "nul\0here",
    "\u202ecilbup",  # from right to left
    "ѕensor",  # a Cyrillic letter
    "ｓｅｎｓｏｒ",  # full width
    "e\u0301 and é",
    "zero\u200bwidth",
    "🦊" * 3,
    "${HOME} $(id) {{ params.delivery }} {0} %s",
    "</script><script>alert(1)</script>",
    "[*?]",
    "#fragment?query=1&x=2",
    " leading and trailing ",
    "-rf",
    "C:\\Windows",
    "null",
    "NaN",
    "x" * 1000,
)
"""Values that mean something in SQL, SCIM filters, paths, URLs, templates, shells, HTML or patterns."""


def as_file_names(names: tuple[str, ...]) -> list[str]:
    """Those that can be the name of a file or folder."""
    return [name for name in names if "/" not in name and "\0" not in name and name != ".." and len(name) < 200]


def tree(root: Path, *without: Path) -> dict[str, bytes]:
    """All files below a folder, except in some folders below it."""
    return {
        str(path): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not any(one in path.parents for one in without)
    }


# Deliveries.


def test_a_folder_whose_name_is_hostile_is_no_delivery_and_nothing_is_read_or_written(
    chaos: Chaos, tmp_path: Path
) -> None:
    context = context_at(tmp_path / "root")
    write(tmp_path / "root" / "in", DELIVERY)
    write(tmp_path / "outside", DELIVERY)
    wrong = [f"{DELIVERY}{name}" for name in HOSTILE] + [f"{name}{DELIVERY}" for name in HOSTILE] + list(HOSTILE)
    wrong += [
        DELIVERY.replace(":", "%3A"),
        DELIVERY.replace("-", "\u2010"),
        DELIVERY.replace("0", "\u0660"),  # digits of another script
        DELIVERY.replace("2026", "２０２６"),
        f"{DELIVERY}\n",
        f"../in/dsi/{DELIVERY}",
        f"../../../outside/dsi/{DELIVERY}",
        f"./{DELIVERY}",
        f"{DELIVERY}/",
        "2026-02-30-06:00:00",
        "2026-01-31-24:00:00",
    ]
    folders = sorted(set(as_file_names(tuple(wrong))))
    for name in folders:
        (tmp_path / "root" / "in" / "dsi" / name / "sensor").mkdir(parents=True)
        (tmp_path / "root" / "in" / "dsi" / name / "sensor" / "part-0.parquet").write_bytes(b"PAR1")
    before = tree(tmp_path)
    assert discover(context.landing, CONTRACT) == ([DELIVERY], folders)
    for name in wrong:
        with pytest.raises(DeliveryNameError) as refused:
            ingest(context, name)
        assert len(str(refused.value)) < 1000
        assert "\n" not in str(refused.value).replace(refused.value.hint, "")
    assert tree(tmp_path) == before
    chaos.record(
        "A folder with a hostile name is no delivery.",
        "Folders in the landing zone, and names that are given to an ingest: quotes, backticks, `..`, newlines, `%3A`, "
        "digits of other scripts, 1,000 characters.",
        f"{len(wrong)} names, {len(folders)} of them as folders",
        "Each was refused by name; the valid delivery among them was found; no file was written.",
    )


def test_files_of_hostile_names_are_ingested_and_nothing_leaves_the_lake(
    where: str, chaos: Chaos, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if where == "folder":
        root: str = str(tmp_path / "root")
        context = context_at(root)
        names = as_file_names(HOSTILE)
    else:
        root, endpoint = request.getfixturevalue("s3_root"), request.getfixturevalue("s3_server")
        context = context_at(root, endpoint=endpoint)
        # A key has 1,024 bytes at most; XML can't hold the others, in which S3 lists them.
        names = [name for name in as_file_names(HOSTILE) if name.isprintable() or name in {"\u202ecilbup"}]
        names += ["x" * 900]
    names = [name for name in names if not name.startswith((".", "_"))]  # these are marks, which aren't read
    write(tmp_path / "made")
    (tmp_path / "bystander").write_text("outside")
    land(context, tmp_path / "made")
    for number, name in enumerate(names):
        file = io.BytesIO()
        pq.write_table(table("sensor", [record("sensor", id=f"file-{number}")]), file)
        _put(context.landing, f"dsi/{DELIVERY}/sensor/{name}.parquet", file.getvalue())
    before = tree(tmp_path, tmp_path / "root" / "out")
    assert failed(ingest(context, DELIVERY)) == {}
    assert {row["id"] for row in content(context)["sensor"]} == {
        "sensor-1",
        *(f"file-{number}" for number in range(len(names))),
    }
    assert tree(tmp_path, tmp_path / "root" / "out") == before
    written = [file.path for file in context.lake.walk()]
    assert all(path.startswith(("raw/dsi/", "_files/ingested/dsi/")) for path in written)
    assert {path.split("/")[2] for path in written if path.startswith("raw/")} == {
        table.name for table in (*CONTRACT.tables, CONTRACT.log)
    }
    chaos.record(
        f"Files of hostile names are ingested, and nothing leaves the lake ({where}).",
        "One delivery with a file of each name.",
        f"{len(names)} files",
        "The rows of all files are in the table; no file was written outside the tables.",
    )


def _put(lake: DataLake, path: str, data: bytes) -> None:
    """Write a file under a name that `DataLake.write` may refuse."""
    if lake.root.startswith("s3://"):
        bucket, _, prefix = lake.root.removeprefix("s3://").partition("/")
        lake._s3.put_object(Bucket=bucket, Key=f"{prefix}/{path}", Body=data)  # type: ignore[attr-defined]
    else:
        Path(lake.root, path).write_bytes(data)


def _strings(value: Any, suffix: str) -> Any:
    """A record in which each text is another one, except types and references."""
    if isinstance(value, dict):
        kept = ("_id", "type")  # references, and what says how a value is read
        return {name: item if name.endswith(kept) else _strings(item, suffix) for name, item in value.items()}
    if isinstance(value, list):
        return [_strings(item, suffix) for item in value]
    return suffix if isinstance(value, str) else value


def test_hostile_values_come_back_as_they_are_and_change_no_other_row(chaos: Chaos, tmp_path: Path) -> None:
    """In every text column of every folder, in keys and references too."""
    context = context_at(tmp_path)
    other = "2026-01-30-06:00:00"
    write(tmp_path / "in", other)
    ingest(context, other)
    before = content(context)
    folders: dict[str, list[dict[str, Any]]] = {}
    for folder in (folder.name for folder in CONTRACT.folders):
        folders[folder] = [_strings(record(folder), name) | {"id": name} for name in HOSTILE]
    for index, name in enumerate(HOSTILE):
        folders["sensor_deployment"][index]["sensor_id"] = name
        folders["sensor_media_item"][index]["sensor_deployment_id"] = name
        result = folders[RESULT][index]
        result |= {"algorithm_id": name, "sensor_deployment_id": name, "analysis_group_id": name}
        result["media"][0] |= {"id": name, "sensor_media_item_id": name}
        result["region_groups"][0]["regions"][0]["media_id"] = name
        result["predictions"][0]["region_group_id"] = name
    write(tmp_path / "in", DELIVERY, **folders)
    for _ in range(2):  # the second time, each row is replaced
        results = ingest(context, DELIVERY)
        assert failed(results) == {}
    assert all(found.equal for found in verify(context, DELIVERY))
    after = content(context)
    for name, rows in after.items():
        assert [row for row in rows if row["_delivery"] == other] == before[name]
        key = "id" if "id" in rows[0] else "result_id"
        assert sorted(row[key] for row in rows if row["_delivery"] == DELIVERY) == sorted(HOSTILE)
    curated = DataLake.at(str(tmp_path / "curated"))
    publication = step.publish(context, curated, "2026-01-31")
    step.manifest(curated, "2026-01-31")
    (file,) = curated.walk(publication.path)
    names = pq.read_table(io.BytesIO(curated.read(file.path)))["scientificName"].to_pylist()
    assert set(HOSTILE) <= set(names)
    chaos.record(
        "Hostile values come back as they are, and change no other row.",
        "Each value in every text column of every folder, in keys and references too; ingested twice, read back, and "
        "published.",
        f"{len(HOSTILE)} values in {sum(len(folder.fields) for folder in CONTRACT.folders)} columns",
        "Tables, checks and the published file hold exactly these values; the rows of another delivery are unchanged.",
    )


# The curated layer.


def test_the_cleanup_keeps_folders_whose_names_only_look_like_days(chaos: Chaos, tmp_path: Path) -> None:
    lake = DataLake.at(str(tmp_path / "lake"))
    day = "2020-01-01"
    kept = [f"{day}{name}" for name in as_file_names(HOSTILE)] + as_file_names(HOSTILE)
    kept += [
        day.replace("-", "\u2010"),
        day.replace("2020", "２０２０"),
        f"{day}T00",
        "2020-1-1",
        "20200101",
        "2020-02-30",
    ]
    kept += [f" {day}", f"{day} ", day.replace("-", "%2D"), "2020-W01-1"]
    for name in (*kept, day):
        path = tmp_path / "lake" / "dsi" / name
        path.mkdir(parents=True)
        (path / "file").write_text("kept")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("outside")
    (tmp_path / "lake" / "dsi" / "2020-01-02").symlink_to(tmp_path / "outside")
    removed = cleanup_curated_folders("dsi", lake, "2026-01-31", 0)
    assert [str(one.date) for one in removed.removals] == [day, "2020-01-02"]
    assert sorted(lake.list("dsi").folders) == sorted(kept)
    assert (tmp_path / "outside" / "file").read_text() == "outside"
    roots = [name for name in HOSTILE if "\\" in name or "\0" in name or ".." in name.split("/")]
    for root in roots:
        with pytest.raises(LakeError):
            cleanup_curated_folders(root, lake, "2026-01-31", 0)
        with pytest.raises(LakeError):
            write_manifest(root, lake, "2026-01-31")
    assert tree(tmp_path / "outside") == {str(tmp_path / "outside" / "file"): b"outside"}
    chaos.record(
        "The cleanup deletes days and nothing that looks like one.",
        "Folders with hostile names, look-alikes of days, a link to a folder outside; and hostile roots.",
        f"{len(kept)} folders, {len(roots)} roots",
        "Only real days were deleted, of the link not its target; each root that leaves the lake was refused.",
    )


# Group sync.

FAST = RetryPolicy(total=5.0, visible=0.1, backoff=0.001, timeout=(5.0, 5.0))


@pytest.fixture(scope="module")
def scim_server() -> Iterator[DatabricksWorkspace]:
    """A real SCIM server."""
    server = DatabricksWorkspace()
    server.reset()
    yield server
    server.close()


def _sync(server: DatabricksWorkspace, wanted: dict[str, list[str]]) -> SyncReport | BiocloudError:
    """Synchronise groups; returns the report, or the error if the whole is refused."""
    try:
        with ScimClient(server.headers, server.groups_api, server.users_api, FAST) as scim:
            report = SyncReport(environment="development", groups=make_plan(scim, wanted, SAFE_LIMITS))
            apply_plan(scim, report, lambda _: None)
            return report
    except BiocloudError as error:
        return error


def test_hostile_group_names_reach_no_other_group(chaos: Chaos, scim_server: DatabricksWorkspace) -> None:
    server = scim_server
    server.reset()
    server.add_group("biologists", [server.add_user("someone@biocloud.example")])
    made = 0
    hostile = [
        *HOSTILE,
        "ａｄｍｉｎｓ",
        "аdmins",
        "admins ",
        "ADMINS",
        'biologists" or displayName sw "',
        "biologists\0",
    ]
    for name in hostile:
        before = server.people("admins"), server.people("biologists")
        outcome = _sync(server, {name: ["new@biocloud.example"]})
        assert (server.people("admins"), server.people("biologists")) == before, name
        if isinstance(outcome, BiocloudError) or outcome.failures:
            continue
        assert server.people(name) == {"new@biocloud.example"}, name
        made += 1
    assert made
    chaos.record(
        "A hostile group name reaches no other group.",
        "Each name is synchronised with a real SCIM server, with names that end a filter and look-alikes of `admins`.",
        f"{len(hostile)} names",
        f"{made} groups of exactly that name were made, {len(hostile) - made} names were refused; the members of all "
        "other groups stayed.",
    )


def test_hostile_addresses_reach_no_other_user(chaos: Chaos, scim_server: DatabricksWorkspace) -> None:
    server = scim_server
    server.reset()
    bystander = "someone@biocloud.example"
    server.add_group("biologists", [server.add_user(bystander)])
    hostile = [*HOSTILE, *(f"{name}@biocloud.example" for name in HOSTILE), f'{bystander}" or userName eq "{ADMIN}']
    added = 0
    for number, address in enumerate(hostile):
        before = server.emails()
        outcome = _sync(server, {f"group-{number}": [address]})
        after = server.emails()
        assert before.items() <= after.items(), address
        assert (server.people("admins"), server.people("biologists")) == ({ADMIN}, {bystander}), address
        if isinstance(outcome, BiocloudError) or outcome.failures:
            continue
        assert server.people(f"group-{number}") == set(after) - set(before) == {address.lower()}
        added += 1
    assert added
    chaos.record(
        "A hostile e-mail address reaches no other user.",
        "Each address is the only member of a new group of a real SCIM server; some of them end a filter.",
        f"{len(hostile)} addresses",
        f"{added} were taken as exactly one new user, {len(hostile) - added} were refused; no other user became a "
        "member, lost the membership or was changed.",
    )


# Airflow.


@pytest.mark.chaos_long
def test_a_hostile_branch_name_is_text_in_the_dags_and_nothing_else(chaos: Chaos) -> None:
    from biocloud_assets.airflow import collect, render

    definitions, settings = collect.build_definitions("development")
    branches = [name for name in HOSTILE if name.strip()]
    plain = _shapes(render.render(collect.collect(definitions, settings, branch="main")))
    refused = 0
    for branch in branches:
        try:
            files = render.render(collect.collect(definitions, settings, branch=branch))
        except BiocloudError:
            refused += 1
            continue
        assert _shapes(files) == plain, branch
    chaos.record(
        "A hostile branch name is text in the exported DAGs.",
        "The DAGs are exported for a branch of each name, and parsed.",
        f"{len(branches)} names",
        f"{refused} were refused; all other exports are the same program but for the texts in it.",
    )


def _shapes(files: dict[str, str]) -> dict[str, str]:
    """The programs of exported files, without the texts in them."""
    shapes = {}
    for path, text in files.items():
        if path.endswith(".py"):
            parsed = ast.parse(text)
            for node in ast.walk(parsed):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    node.value = ""
            shapes[path] = ast.dump(parsed)
    return shapes
