"""`biocloud doctor --cluster`: one run on a cluster of the local workspace, which writes and deletes a probe."""

from __future__ import annotations

from pathlib import Path

import pytest

from biocloud_assets.doctor import context
from biocloud_assets.doctor.step import FOLDER, Probe, parse, report
from biocloud_assets.run_step import main
from tests.databricks_workspace.server import Answer
from tests.doctor.conftest import GIT_URL, Site
from tests.repository import code  # noqa: F401 - a fixture

pytestmark = [pytest.mark.databricks, pytest.mark.timeout(300)]


@pytest.fixture
def ready(site: Site, code: Path, s3_server: str) -> Site:  # noqa: F811
    """An environment whose clusters run the code of this checkout on the local S3."""
    site.workspace.repositories[GIT_URL] = code
    site.workspace.instance_profile = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
    }
    return site


@pytest.mark.parametrize("catalog", ["sail", None])
def test_one_run_lists_writes_reads_and_deletes_and_leaves_nothing(ready: Site, catalog: str | None) -> None:
    import boto3

    ready.configure(catalog=catalog)
    found = ready.examine(on_cluster=True)
    on_cluster = {check: one for check, one in found.items() if check.startswith(("cluster", "probe"))}
    assert {check: one for check, one in on_cluster.items() if one.status != "ok"} == {}
    table = "Delta table by path" if catalog is None else "Delta table by name"
    assert on_cluster.keys() >= {
        "cluster",
        "cluster: versions",
        "cluster: region",
        "cluster: listing of landing_root",
        "cluster: listing of lake_root",
        "cluster: listing of curated_root",
        "cluster: file in lake_root",
        f"cluster: {table}",
        "cluster: deletion of the probe",
        "probe of the message place",
    }
    assert "pyarrow" in on_cluster["cluster: versions"].found
    if catalog is not None:
        for statement in ("CREATE TABLE … LOCATION", "write", "read", "delete", "DROP TABLE"):
            assert statement in on_cluster[f"cluster: {table}"].found
    assert len(ready.workspace.clusters) == 1
    assert "Contents" not in boto3.client("s3").list_objects_v2(Bucket=ready.lake)


def test_what_a_cluster_can_not_do_is_a_finding_and_does_not_stop_the_rest(ready: Site) -> None:
    ready.configure(catalog=None, landing_root="s3://there-is-none")
    ready.configure(cluster={"spark_env_vars": {"AWS_REGION": "us-east-1"}})
    found = ready.examine(on_cluster=True)
    assert found["cluster"].status == "ok"
    assert (found["cluster: region"].status, found["cluster: region"].found) == ("failed", "us-east-1, not eu-west-1")
    assert found["cluster: listing of landing_root"].status == "failed"
    assert found["cluster: Delta table by path"].status == "ok"


def test_a_run_that_fails_is_refused_or_hangs_says_why(ready: Site) -> None:
    ready.workspace.plan_run("no cluster")
    assert "AWS_INSUFFICIENT_INSTANCE_CAPACITY" in ready.examine(on_cluster=True)["cluster"].found
    ready.workspace.plan_run("pending")
    ready.configure(start_timeout_seconds=1, timeout_seconds=1)
    hanging = ready.examine(on_cluster=True)["cluster"]
    assert (hanging.status, "has not ended after 2 seconds, and is cancelled" in hanging.found) == ("failed", True)
    ready.configure(cluster={"instance_pool_id": "1"})
    refused = ready.examine(on_cluster=True)["cluster"]
    assert (refused.status, "Can't find an instance pool with id: 1" in refused.found) == ("failed", True)


@pytest.mark.parametrize("answer", ["500", "drop"])
def test_the_verdict_does_not_need_the_output_of_the_run(
    site: Site, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    monkeypatch.setattr(context, "REQUEST_SECONDS", 2)
    site.workspace.plan_run("no cluster")
    site.workspace.fail_requests("/jobs/runs/get-output", answer=answer, times=99)
    found = site.examine(on_cluster=True)
    assert found["cluster"].status == "failed"
    assert "AWS_INSUFFICIENT_INSTANCE_CAPACITY" in found["cluster"].found
    assert found["cluster: output of the run"].status == "not checked"


def test_a_run_that_can_not_be_cancelled_is_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "REQUEST_SECONDS", 2)
    site.workspace.plan_run("pending")
    site.workspace.fail_requests("/jobs/runs/cancel", answer="drop", times=99)
    site.configure(start_timeout_seconds=1, timeout_seconds=1)
    found = site.examine(on_cluster=True)["cluster"]
    (run_id,) = site.workspace.runs
    assert found.status == "failed"
    assert f"run {run_id} has not ended after 2 seconds, and could not be cancelled" in found.found


def test_where_no_message_can_be_written_the_probe_fails(ready: Site) -> None:
    ready.workspace.plan_run("fail", times=9)
    ready.configure(messages="s3://there-is-none/pipes")
    assert ready.examine(on_cluster=True)["probe of the message place"].status == "failed"
    ready.configure(messages="/Volumes/main/biocloud/staging")
    assert ready.examine(on_cluster=True)["probe of the message place"].status == "ok"
    assert ready.workspace.staged_files() == []


def test_the_probe_can_be_run_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder, on the embedded engine; a root that is missing is a finding."""
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    (tmp_path / "out").mkdir()
    roots = ["--landing-root", str(tmp_path / "in"), "--lake-root", str(tmp_path / "out")]
    main(["--doctor", "--engine", "sail", "--region", "eu-west-1", *roots])
    found = {finding.check: finding.status for finding in parse(capsys.readouterr().out)}
    assert found["cluster: listing of landing_root"] == "failed"
    assert found["cluster: listing of lake_root"] == "ok"
    assert found["cluster: Delta table by path"] == "ok"
    assert not (tmp_path / "out" / FOLDER).exists()


def test_where_the_lake_is_reached_by_name_only_the_files_of_the_probe_stay_and_it_can_be_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    for folder in ("in", "out", "curated", "files"):
        (tmp_path / folder).mkdir()
    roots = (str(tmp_path / "in"), str(tmp_path / "out"), str(tmp_path / "curated"))
    for _ in range(2):
        report(Probe(*roots, "sail", "sail", None, "eu-west-1", str(tmp_path / "files")))
        found = {finding.check: finding for finding in parse(capsys.readouterr().out)}
        assert {finding.status for finding in found.values()} == {"ok"}, found
        assert "cluster: listing of files_root" in found and "cluster: listing of lake_root" not in found
        assert str(tmp_path / "out" / FOLDER) in found["cluster: deletion of the probe"].found
        assert found["cluster: file in files_root"].found == "write, replace, read, delete"
        assert not (tmp_path / "files" / FOLDER).exists()
    assert (tmp_path / "out" / FOLDER).is_dir()


def test_a_file_that_can_not_be_written_beside_the_tables_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
    (tmp_path / "files").write_text("a file, not a folder")
    report(Probe(str(tmp_path / "in"), str(tmp_path / "out"), None, None, "sail", None, None, str(tmp_path / "files")))
    found = {finding.check: finding for finding in parse(capsys.readouterr().out)}
    assert found["cluster: file in files_root: write"].status == "failed"
    assert found["cluster: Delta table by path"].status == "ok"
