"""Deploying DAGs: what is written to Airflow's bucket, what stays there, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ConnectionClosedError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biocloud_assets.airflow import deploy
from biocloud_assets.airflow.deploy import Plan
from biocloud_assets.airflow.model import DEFAULT_BRANCH
from biocloud_assets.errors import DeployError, LakeError
from biocloud_assets.lake import DataLake

ENVIRONMENT = "development"


class World:
    """Definitions from which DAGs are exported, the committed export, and Airflow's bucket."""

    def __init__(self, root: Path, prefix: str, endpoint: str) -> None:
        self.root, self.prefix, self.endpoint = root, prefix, endpoint
        self.definitions = {"dsi_raw": "retries = 2", "group_sync": "schedule = 'daily'"}
        self.requests: list[str] = []
        self.bucket, _, self.folder = prefix.removeprefix("s3://").partition("/")
        self.s3 = boto3.client("s3", endpoint_url=endpoint)

    def export(self, environment: str, branch: str, commit: str | None = None) -> Mapping[str, str]:
        """As the export does: the DAGs, and beside them a file that isn't for Airflow."""
        dags = {
            f"dags/{name}.py": f"environment, code = {environment!r}, {commit or branch!r}\n{code}\n"
            for name, code in self.definitions.items()
        }
        return {**dags, "mapping.md": f"{len(dags)} DAGs\n"}

    def commit(self, environment: str = ENVIRONMENT) -> None:
        """Write the export for the default branch, and nothing else, into the folder of the committed export."""
        folder = self.root / environment
        for path in [path for path in folder.rglob("*") if path.is_file()]:
            path.unlink()
        for name, text in self.export(environment, DEFAULT_BRANCH).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)

    def target(self, on_request: Callable[[str], None] | None = None) -> DataLake:
        lake = DataLake.at(self.prefix, endpoint=self.endpoint)

        def note(request: Any, **_: Any) -> None:
            self.requests.append(request.method)
            if on_request is not None:
                on_request(request.method)

        lake._s3.meta.events.register("before-send.s3", note)  # type: ignore[attr-defined]
        return lake

    def prepare(
        self,
        branch: str = DEFAULT_BRANCH,
        *,
        environment: str = ENVIRONMENT,
        commit: str | None = None,
        **options: Any,
    ) -> Plan:
        return deploy.prepare(environment, branch, self.target(**options), self.export, self.root, commit)

    def deploy(self, branch: str = DEFAULT_BRANCH, **options: Any) -> Plan:
        """Commit the export of the present definitions, and deploy it."""
        self.commit()
        self.requests.clear()
        plan = self.prepare(branch, **options)
        deploy.apply(plan)
        return plan

    def put(self, key: str, data: bytes = b"# unmanaged\n", **options: Any) -> None:
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=data, **options)

    def objects(self) -> dict[str, bytes]:
        """All objects in the bucket, by key."""
        listed = self.s3.list_objects_v2(Bucket=self.bucket).get("Contents", ())
        return {o["Key"]: self.s3.get_object(Bucket=self.bucket, Key=o["Key"])["Body"].read() for o in listed}

    def expected(
        self, branch: str = DEFAULT_BRANCH, environment: str = ENVIRONMENT, commit: str | None = None
    ) -> dict[str, bytes]:
        """What the bucket should hold for Airflow."""
        exported = self.export(environment, branch, commit)
        return {
            f"{self.folder}/{path.removeprefix('dags/')}": text.encode()
            for path, text in exported.items()
            if path.startswith("dags/")
        }


@pytest.fixture
def world(tmp_path: Path, s3_root: str, s3_server: str) -> World:
    return World(tmp_path, f"{s3_root}/dags", s3_server)


def test_the_first_deployment_uploads_the_dags_and_nothing_else(world: World) -> None:
    plan = world.deploy()
    assert world.objects() == world.expected()
    assert [(change.path, change.kind) for change in plan.changes] == [("dsi_raw.py", "new"), ("group_sync.py", "new")]


def test_without_a_change_nothing_is_uploaded(world: World) -> None:
    world.deploy()
    plan = world.deploy()
    assert {change.kind for change in plan.changes} == {"unchanged"}
    assert set(world.requests) == {"GET", "HEAD"}


def test_only_what_changed_is_uploaded(world: World) -> None:
    world.deploy()
    world.definitions["dsi_raw"] = "retries = 3"
    plan = world.deploy()
    assert [change.path for change in plan.of("changed")] == ["dsi_raw.py"]
    assert world.requests.count("PUT") == 1
    assert world.requests.count("POST") == 0
    assert world.objects() == world.expected()


def test_a_dag_that_is_no_longer_exported_is_removed_after_the_uploads(world: World) -> None:
    world.deploy()
    world.definitions["group_sync_2"] = world.definitions.pop("group_sync")
    plan = world.deploy()
    assert [change.path for change in plan.of("removed")] == ["group_sync.py"]
    assert [method for method in world.requests if method in {"PUT", "POST"}] == ["PUT", "POST"]
    assert world.objects() == world.expected()


def test_unmanaged_files_are_kept_inside_and_outside_the_prefix(world: World) -> None:
    unmanaged = [
        f"{world.folder}/unmanaged.py",
        f"{world.folder}/sub/folder/unmanaged.py",
        f"{world.folder}2/dsi_raw.py",
        f"{world.folder}.py",
        "dsi_raw.py",
    ]
    for key in unmanaged:
        world.put(key)
    plan = world.deploy()
    world.definitions.pop("group_sync")
    world.deploy()
    objects = world.objects()
    assert {key: objects.pop(key) for key in unmanaged} == dict.fromkeys(unmanaged, b"# unmanaged\n")
    assert objects == world.expected()
    assert [change.path for change in plan.of("unmanaged")] == ["sub/folder/unmanaged.py", "unmanaged.py"]


def test_a_copy_of_a_deployed_file_under_another_name_is_kept(world: World) -> None:
    world.deploy()
    source = {"Bucket": world.bucket, "Key": f"{world.folder}/dsi_raw.py"}
    world.s3.copy_object(Bucket=world.bucket, Key=f"{world.folder}/my_dsi_raw.py", CopySource=source)
    world.deploy()
    assert f"{world.folder}/my_dsi_raw.py" in world.objects()


def test_an_unmanaged_file_with_the_name_of_a_dag_is_refused_and_named(world: World) -> None:
    world.put(f"{world.folder}/dsi_raw.py")
    before = world.objects()
    with pytest.raises(DeployError) as raised:
        world.deploy()
    assert raised.value.thing == f"{world.prefix}/dsi_raw.py"
    assert world.objects() == before


def test_files_that_another_environment_deployed_are_unmanaged(world: World) -> None:
    world.deploy()
    before = world.objects()
    world.commit("production")
    with pytest.raises(DeployError, match="that a deployment to production has written"):
        world.prepare(environment="production")
    world.definitions = {"other": "retries = 1"}
    world.commit("production")
    deploy.apply(world.prepare(environment="production"))
    assert world.objects() == before | world.expected(environment="production")


def test_a_change_is_recognised_by_the_bytes_and_not_by_the_etag(world: World) -> None:
    world.definitions["dsi_raw"] = "#" * (5 << 20)  # the least that S3 takes for a part
    world.deploy()
    key = f"{world.folder}/dsi_raw.py"
    head = world.s3.head_object(Bucket=world.bucket, Key=key)
    upload = world.s3.create_multipart_upload(Bucket=world.bucket, Key=key, Metadata=head["Metadata"])["UploadId"]
    named = {"Bucket": world.bucket, "Key": key, "UploadId": upload}
    part = world.s3.upload_part(**named, PartNumber=1, Body=world.expected()[key])
    world.s3.complete_multipart_upload(**named, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
    assert world.s3.head_object(Bucket=world.bucket, Key=key)["ETag"] != head["ETag"]
    assert {change.kind for change in world.deploy().changes} == {"unchanged"}


@pytest.mark.parametrize("at", range(4))
def test_a_deployment_that_is_interrupted_is_completed_by_the_next_one(world: World, at: int) -> None:
    world.put(f"{world.folder}/unmanaged.py")
    world.deploy()
    world.definitions = {"dsi_raw": "retries = 3", "new_1": "", "new_2": ""}  # one changed, two new, one gone
    before, after = world.objects(), world.expected()
    written = 0

    def drop(method: str) -> None:
        nonlocal written
        if method in {"PUT", "POST"}:
            if written == at:
                raise ConnectionClosedError(endpoint_url=world.endpoint)
            written += 1

    with pytest.raises(LakeError):
        world.deploy(on_request=drop)
    for key, data in world.objects().items():
        assert data in (before.get(key), after.get(key)), "each file is whole, the old one or the new"
    world.deploy()
    assert world.objects() == after | {f"{world.folder}/unmanaged.py": b"# unmanaged\n"}


def test_a_plan_writes_nothing(world: World) -> None:
    world.deploy()
    before = world.objects()
    world.definitions = {"dsi_raw": "retries = 3", "new": ""}
    world.commit()
    world.requests.clear()
    plan = world.prepare()
    assert [(change.path, change.kind) for change in plan.changes] == [
        ("dsi_raw.py", "changed"),
        ("group_sync.py", "removed"),
        ("new.py", "new"),
    ]
    assert world.objects() == before
    assert set(world.requests) == {"GET", "HEAD"}


def test_the_dags_carry_the_branch_that_is_deployed(world: World) -> None:
    world.deploy("feature/x")
    assert world.objects() == world.expected("feature/x") != world.expected()
    world.deploy()
    assert world.objects() == world.expected()


def test_the_dags_of_a_commit_carry_it_and_the_committed_export_is_still_that_of_the_branch(world: World) -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    plan = world.deploy(commit=commit)
    assert world.objects() == world.expected(commit=commit) != world.expected()
    assert plan.code == f"the commit {commit}"


def test_only_the_default_branch_goes_to_production(world: World) -> None:
    world.commit("production")
    with pytest.raises(DeployError, match="branch feature/x: expected main, the only branch that goes to production"):
        world.prepare("feature/x", environment="production")
    deploy.apply(world.prepare(environment="production"))
    assert world.objects() == world.expected(environment="production")


@pytest.mark.parametrize("how", ["changed", "missing", "surplus", "beside the DAGs", "never exported"])
def test_a_stale_export_is_refused(world: World, how: str) -> None:
    folder = world.root / ENVIRONMENT
    if how != "never exported":
        world.commit()
    match how:
        case "changed":
            world.definitions["dsi_raw"] = "retries = 3"
        case "missing":
            (folder / "dags/dsi_raw.py").unlink()
        case "surplus":
            (folder / "dags/old.py").write_text("")
        case "beside the DAGs":
            (folder / "mapping.md").write_text("")
    with pytest.raises(DeployError) as raised:
        world.prepare()
    assert raised.value.thing == str(folder)
    named = {"surplus": "dags/old.py", "beside the DAGs": "mapping.md"}.get(how, "dags/dsi_raw.py")
    assert named in raised.value.found
    assert "biocloud airflow export" in raised.value.hint
    assert world.objects() == {}


@pytest.mark.parametrize("code", ["def :", "x = '\0'", "return)"])
def test_a_dag_that_python_cannot_parse_is_refused(world: World, code: str) -> None:
    world.definitions["dsi_raw"] = code
    with pytest.raises(DeployError, match=r"dsi_raw\.py: "):
        world.deploy()
    assert world.objects() == {}


def test_an_export_without_dags_removes_nothing(world: World) -> None:
    world.deploy()
    before = world.objects()
    world.definitions = {}
    with pytest.raises(DeployError, match="at least one DAG"):
        world.deploy()
    assert world.objects() == before


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["x = 1", "x = 2"]), min_size=1),
        min_size=1,
        max_size=4,
    )
)
def test_whatever_was_deployed_before_the_bucket_holds_the_present_export(
    world: World, deployments: list[dict[str, str]]
) -> None:
    for world.definitions in deployments:
        world.deploy()
        assert world.objects() == world.expected()
