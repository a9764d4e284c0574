"""The local workspace answers the real SDK as Databricks does, and fails as planned."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.config import Config
from databricks.sdk.errors import DatabricksError, InvalidParameterValue, NotFound, PermissionDenied, ResourceConflict
from databricks.sdk.service import jobs

from tests.databricks_workspace.fixture import GIT_URL
from tests.databricks_workspace.runs import TaskRun
from tests.databricks_workspace.server import POOL_ID, Workspace
from tests.needs import unavailable

_CLUSTER = {"spark_version": "17.3.x-scala2.13", "instance_pool_id": POOL_ID, "num_workers": 1}
_SOURCE = {"git_url": GIT_URL, "git_provider": "gitLab", "git_branch": "main"}


@pytest.fixture
def workspace(databricks_workspace: Workspace, tmp_path: Path) -> Workspace:
    """Without Spark, so that clusters start at once, and with a small repository."""
    databricks_workspace.engine = None
    databricks_workspace.repositories[GIT_URL] = tmp_path / "repository"
    git(tmp_path / "repository", "init", "--quiet", "--initial-branch", "main")
    return databricks_workspace


@pytest.fixture
def client(databricks_workspace: Workspace) -> WorkspaceClient:
    return WorkspaceClient(
        config=Config(host=databricks_workspace.url, token=databricks_workspace.token, retry_timeout_seconds=20)
    )


def git(folder: Path, *arguments: str) -> str:
    folder.mkdir(exist_ok=True)
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(workspace: Workspace, script: str, branch: str = "main") -> str:
    """Commit a script as `jobs/script.py`, and leave the checkout on another branch."""
    folder = Path(workspace.repositories[GIT_URL])
    git(folder, "checkout", "--quiet", "-B", branch)
    (folder / "jobs").mkdir(exist_ok=True)
    (folder / "jobs" / "script.py").write_text(script)
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "Change the script")
    return git(folder, "rev-parse", "HEAD")


def submission(**changes: Any) -> dict[str, Any]:
    """A run of `jobs/script.py`; changes by name: of the run, the task, its script or its cluster."""
    body = {"run_name": "test", "git_source": dict(_SOURCE), "tasks": []}
    python = {"python_file": "jobs/script.py", "source": "GIT"} | changes.pop("python", {})
    task = {"task_key": "step", "new_cluster": _CLUSTER | changes.pop("cluster", {}), "spark_python_task": python}
    body["tasks"] = [task | changes.pop("task", {})]
    return body | changes


def submit(client: WorkspaceClient, **changes: Any) -> int:
    return client.api_client.do("POST", "/api/2.2/jobs/runs/submit", body=submission(**changes))["run_id"]


def finish(client: WorkspaceClient, run_id: int) -> tuple[jobs.Run, jobs.RunOutput]:
    wait_for(client, run_id, "TERMINATED", "INTERNAL_ERROR", "SKIPPED")
    run = client.jobs.get_run(run_id)
    return run, client.jobs.get_run_output(run.tasks[0].run_id)


def wait_for(client: WorkspaceClient, run_id: int, *states: str) -> None:
    give_up = time.monotonic() + 100
    while client.jobs.get_run(run_id).state.life_cycle_state.value not in states:
        assert time.monotonic() < give_up, f"run {run_id} didn't reach {states}"
        time.sleep(0.05)


def only_task(workspace: Workspace, run_id: int) -> TaskRun:
    (task,) = workspace.runs[run_id].tasks
    return task


def test_a_script_of_a_branch_runs_with_its_arguments_and_environment(
    workspace: Workspace, client: WorkspaceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-test-process")
    workspace.instance_profile = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    workspace.secrets = {"scope": {"key": "s3cr3t-value"}}
    script = """
import json, os, sys
print(json.dumps({"argv": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ), "file": "__file__" in globals()}))
print(dbutils.secrets.get("scope", "key"), json.dumps(sys.path))
"""
    used = commit(workspace, script, "feature")
    commit(workspace, "raise SystemExit('the script of main')", "main")
    environment = {
        "BIOCLOUD_ENV": "development",
        "PASSWORD": "{{secrets/scope/key}}",
        "AWS_ENDPOINT_URL": "http://evil",
    }
    run_id = submit(
        client,
        git_source=_SOURCE | {"git_branch": "feature"},
        python={"parameters": ["--delivery", "2026-11-01"]},
        cluster={"spark_env_vars": environment},
    )
    run, output = finish(client, run_id)
    assert run.state.result_state == jobs.RunResultState.SUCCESS, output.logs
    assert run.status.termination_details.code == jobs.TerminationCodeCode.SUCCESS
    assert run.git_source.git_snapshot.used_commit == used
    first, second = output.logs.splitlines()
    seen = json.loads(first)
    task = only_task(workspace, run_id)
    assert seen["argv"] == ["--delivery", "2026-11-01"]
    (checkout,) = (task.folder / "Workspace/Repos/.internal").glob(f"*_commits/{used}")
    assert seen["cwd"] == str(checkout / "jobs")
    assert not (checkout / ".git").exists()
    assert not seen["file"]
    assert "AWS_SECRET_ACCESS_KEY" not in seen["env"]
    assert seen["env"]["AWS_ENDPOINT_URL"] == "http://127.0.0.1:1"
    assert seen["env"]["PASSWORD"] == "[REDACTED]"
    assert task.environment["PASSWORD"] == "s3cr3t-value"
    assert second.startswith("[REDACTED] ") and "s3cr3t-value" not in output.logs
    paths = json.loads(second.removeprefix("[REDACTED] "))
    assert not any(Path(path).is_relative_to(Path(__file__).parents[2]) and ".venv" not in path for path in paths)


@pytest.mark.parametrize("engine", ["sail", pytest.param("jvm", marks=pytest.mark.jvm)])
def test_spark_on_the_cluster_is_a_session_that_code_finds(
    workspace: Workspace, client: WorkspaceClient, engine: str
) -> None:
    if engine == "jvm" and shutil.which("java") is None:
        unavailable("there is no java")
    workspace.engine = engine
    script = "from pyspark.sql import SparkSession\nassert SparkSession.getActiveSession() is spark\n"
    script += "open('/dbfs/count', 'w').write(str(spark.range(5).count()))"
    commit(workspace, script)
    run, output = finish(client, submit(client, cluster={"spark_conf": {"spark.sql.session.timeZone": "UTC"}}))
    assert run.state.result_state == jobs.RunResultState.SUCCESS, output.logs
    assert (workspace.root / "dbfs" / "count").read_text() == "5"


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("def f():\n    raise ValueError('no such delivery')\nf()", "ValueError: no such delivery"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import os; os._exit(0)", "Fatal error: The Python kernel is unresponsive."),
    ],
)
def test_a_script_that_raises_or_exits_is_a_failed_run(
    workspace: Workspace, client: WorkspaceClient, script: str, error: str
) -> None:
    commit(workspace, script)
    run, output = finish(client, submit(client))
    assert run.state.life_cycle_state == jobs.RunLifeCycleState.INTERNAL_ERROR
    assert run.state.result_state == jobs.RunResultState.FAILED
    assert run.state.state_message == (
        "Task step failed with message: Workload failed, see run output for details."
        " This caused all downstream tasks to get skipped."
    )
    assert run.tasks[0].state.life_cycle_state == jobs.RunLifeCycleState.TERMINATED
    assert output.error == error
    if "f()" in script:
        assert 'jobs/script.py", line 2, in f' in output.error_trace


def test_output_is_had_of_a_task_only(workspace: Workspace, client: WorkspaceClient) -> None:
    commit(workspace, "")
    run_id = submit(client)
    with pytest.raises(InvalidParameterValue, match="each individual task run"):
        client.jobs.get_run_output(run_id)


def test_a_long_log_is_cut_at_its_start(workspace: Workspace, client: WorkspaceClient) -> None:
    commit(workspace, "print('first', 'x' * 6 * 1024**2, 'last')")
    _, output = finish(client, submit(client))
    assert output.logs_truncated and len(output.logs) == 5 * 1024**2 and output.logs.endswith("last\n")


def test_runs_go_in_parallel_each_in_its_own_clone(workspace: Workspace, client: WorkspaceClient) -> None:
    script = """
import pathlib, sys, time
pathlib.Path("mine").touch(exist_ok=False)
pathlib.Path(f"/Volumes/main/biocloud/staging/{sys.argv[1]}").touch()
while len(list(pathlib.Path("/Volumes/main/biocloud/staging").iterdir())) < 2: time.sleep(0.02)
"""
    commit(workspace, script)
    runs = [submit(client, python={"parameters": [name]}) for name in ("a", "b")]
    assert [finish(client, run_id)[0].state.result_state.value for run_id in runs] == ["SUCCESS", "SUCCESS"]


def test_a_task_follows_another_and_is_skipped_if_it_fails(workspace: Workspace, client: WorkspaceClient) -> None:
    commit(workspace, "print('ran')")
    workspace.plan_run("fail", message="boom", task_key="step")
    first = submission()["tasks"][0]
    second = first | {"task_key": "later", "depends_on": [{"task_key": "step"}]}
    run, output = finish(client, submit(client, tasks=[first, second]))
    assert output.error == "boom"
    assert run.tasks[1].state.result_state == jobs.RunResultState.UPSTREAM_FAILED


def test_the_same_idempotency_token_is_the_same_run(workspace: Workspace, client: WorkspaceClient) -> None:
    commit(workspace, "")
    first = submit(client, idempotency_token="d-1")
    assert submit(client, idempotency_token="d-1") == first
    assert submit(client, idempotency_token="d-2") != first
    finish(client, first)
    client.jobs.delete_run(first)
    with pytest.raises(InvalidParameterValue):
        submit(client, idempotency_token="d-1")
    with pytest.raises(InvalidParameterValue, match="64"):
        submit(client, idempotency_token="x" * 65)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cluster_spec": {}}, "cluster_spec"),
        ({"tasks": []}, "tasks"),
        ({"task": {"job_cluster_key": "shared"}}, "job_cluster_key"),
        ({"task": {"new_cluster": None}}, "Either new_cluster or existing_cluster_id must be specified"),
        ({"task": {"new_cluster": None, "existing_cluster_id": "c"}}, "Cluster c does not exist"),
        ({"task": {"libraries": [{"pip": "x"}]}}, "pip"),
        ({"task": {"timeout_seconds": -1}}, "timeout_seconds"),
        ({"task": {"depends_on": [{"task_key": "other"}]}}, "other"),
        ({"cluster": {"node_type_id": "m5.large"}}, "'node_type_id' cannot be supplied when an instance pool"),
        ({"cluster": {"instance_pool_id": "p"}}, "Can't find an instance pool with id: p"),
        ({"cluster": {"instance_pool_id": None}}, "node_type_id"),
        ({"cluster": {"spark_version": "17"}}, "Invalid spark version 17"),
        ({"cluster": {"autoscale": {"min_workers": 1, "max_workers": 2}}}, "num_workers and autoscale"),
        ({"cluster": {"num_workers": 0}}, "must be a single node"),
        ({"cluster": {"policy_id": "unknown"}}, "Can't find a cluster policy with id: unknown"),
        ({"cluster": {"driver_instance_pool_id": "unknown"}}, "Can't find an instance pool with id: unknown"),
        ({"cluster": {"data_security_mode": "SHARED"}}, "data_security_mode 'SHARED'"),
        ({"cluster": {"cluster_log_conf": {"s3": {"destination": "s3://b/l"}}}}, "region or the endpoint"),
        ({"task": {"environment_key": "default"}}, "unknown environment: default"),
        ({"access_control_list": [{"permission_level": "CAN_VIEW"}]}, "exactly one of"),
        ({"run_as": {"group_name": "admins"}}, "Unknown field group_name in run_as"),
        ({"cluster": {"spark_env_vars": {"A": 1}}}, "spark_env_vars"),
        ({"git_source": None}, "git_source must be specified"),
        ({"git_source": {key: _SOURCE[key] for key in ("git_provider", "git_branch")}}, "git_url"),
        ({"git_source": {key: _SOURCE[key] for key in ("git_url", "git_branch")}}, "git_provider"),
        ({"git_source": _SOURCE | {"git_tag": "v1"}}, "Exactly one of git_branch, git_tag and git_commit"),
        ({"python": {"python_file": "/jobs/script.py"}}, "must be relative"),
        ({"python": {"source": "WORKSPACE"}}, "dbfs:/"),
        ({"python": {"python_file": ""}}, "python_file"),
        ({"python": {"parameters": [1]}}, "parameters"),
    ],
)
def test_a_wrong_submission_is_refused_and_says_why(
    databricks_workspace: Workspace, client: WorkspaceClient, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidParameterValue, match=message):
        submit(client, **changes)
    assert not databricks_workspace.runs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"git_source": _SOURCE | {"git_branch": "gone"}}, "Failed to checkout Git repository.*gone"),
        ({"git_source": _SOURCE | {"git_url": "https://x.org/y.git"}}, "https://x.org/y.git does not exist"),
        ({"python": {"python_file": "jobs/gone.py"}}, "Unable to access the Python file jobs/gone.py"),
        ({"cluster": {"spark_env_vars": {"A": "{{secrets/s/k}}"}}}, "Secret does not exist with scope: s and key: k"),
        ({"task": {"libraries": [{"pypi": {"package": "pytest==0.1"}}]}}, "pytest==0.1: the cluster has"),
        ({"task": {"libraries": [{"pypi": {"package": "databricks-sdk=0.1"}}]}}, "Invalid requirement"),
        ({"task": {"libraries": [{"whl": "/Volumes/main/biocloud/staging/gone.whl"}]}}, "Library installation failed"),
        ({"task": {"libraries": [{"jar": "dbfs:/a.jar"}]}}, "DRIVER_LIBRARY_INSTALLATION_FAILURE"),
    ],
)
def test_what_the_cluster_can_not_have_is_an_internal_error(
    workspace: Workspace, client: WorkspaceClient, changes: dict[str, Any], message: str
) -> None:
    commit(workspace, "print('ran')")
    run, output = finish(client, submit(client, **changes))
    assert run.tasks[0].state.life_cycle_state == jobs.RunLifeCycleState.INTERNAL_ERROR
    assert run.state.result_state == jobs.RunResultState.FAILED
    assert message.split(".*")[0] in run.state.state_message and message.split(".*")[-1] in run.state.state_message
    assert "ran" not in (output.logs or "")


def test_libraries_that_the_cluster_has_are_fine(workspace: Workspace, client: WorkspaceClient) -> None:
    commit(workspace, "print('ran')")
    libraries = [{"pypi": {"package": f"databricks-sdk=={version('databricks-sdk')}"}}]
    run, _ = finish(client, submit(client, task={"libraries": libraries}))
    assert run.state.result_state == jobs.RunResultState.SUCCESS, run.state


def test_a_task_at_the_top_level_and_numbers_as_text_as_airflow_sends_them(
    workspace: Workspace, client: WorkspaceClient
) -> None:
    commit(workspace, "print('ran')")
    (task,) = submission(cluster={"num_workers": "1"})["tasks"]
    body = {key: task[key] for key in ("new_cluster", "spark_python_task")}
    body |= {"git_source": _SOURCE, "timeout_seconds": "600"}
    run_id = client.api_client.do("POST", "/api/2.1/jobs/runs/submit", body=body)["run_id"]
    assert finish(client, run_id)[1].logs == "ran\n"


def test_a_cancelled_run_ends_with_all_its_processes(workspace: Workspace, client: WorkspaceClient) -> None:
    script = """
import pathlib, signal, subprocess, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "600"])
pathlib.Path("/dbfs/child").write_text(str(child.pid))
time.sleep(600)
"""
    commit(workspace, script)
    run_id = submit(client)
    while not (workspace.root / "dbfs" / "child").exists():
        time.sleep(0.05)
    child = int((workspace.root / "dbfs" / "child").read_text())
    wait_for(client, run_id, "RUNNING")
    client.jobs.cancel_run(run_id)
    run, _ = finish(client, run_id)
    assert run.state.result_state == jobs.RunResultState.CANCELED
    assert run.state.life_cycle_state == jobs.RunLifeCycleState.TERMINATED
    assert not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text()


def test_a_run_is_timed_out_once_it_is_running(workspace: Workspace, client: WorkspaceClient) -> None:
    commit(workspace, "import time; time.sleep(600)")
    run, _ = finish(client, submit(client, timeout_seconds=1))
    assert run.state.result_state == jobs.RunResultState.TIMEDOUT
    assert only_task(workspace, run.run_id)._has_exited()


@pytest.mark.databricks
@pytest.mark.timeout(300)
def test_planned_runs_hang_wait_fail_or_lose_their_cluster(workspace: Workspace, client: WorkspaceClient) -> None:
    commit(workspace, "import time; print('began', flush=True); time.sleep(600)")
    workspace.plan_run("pending")
    pending = submit(client)
    workspace.plan_run("hang")
    hanging = submit(client, timeout_seconds=1)
    workspace.plan_run("kill", seconds=0.5)
    killed, _ = finish(client, submit(client))
    workspace.plan_run("slow", seconds=0.5)
    slow = submit(client)
    wait_for(client, slow, "PENDING")
    wait_for(client, slow, "RUNNING")
    workspace.kill_cluster(slow)
    lost, _ = finish(client, slow)
    for run in (killed, lost):
        assert run.state.life_cycle_state == jobs.RunLifeCycleState.INTERNAL_ERROR
        assert "CLOUD_PROVIDER_SHUTDOWN" in run.state.state_message
    assert finish(client, hanging)[0].state.result_state == jobs.RunResultState.TIMEDOUT
    assert client.jobs.get_run(pending).state.life_cycle_state == jobs.RunLifeCycleState.PENDING
    client.jobs.cancel_run(pending)
    assert finish(client, pending)[0].state.result_state == jobs.RunResultState.CANCELED


def test_a_wrong_and_an_expired_token_are_refused(workspace: Workspace, client: WorkspaceClient) -> None:
    assert client.current_user.me().user_name
    assert requests.get(f"{workspace.url}/api/2.1/clusters/list", timeout=5).json()["error_code"] == 401
    workspace.fail_requests("scim/v2/Me", answer="expire", after=1)
    client.current_user.me()
    for _ in range(2):
        with pytest.raises(PermissionDenied, match="Invalid access token"):
            client.current_user.me()
    workspace.issue_token(client.config.token)
    client.current_user.me()
    assert client.config.token not in json.dumps(workspace.show_requests())


@pytest.mark.parametrize("answer", ["429", "503", "drop"])
def test_the_client_retries_what_the_platform_refuses(
    workspace: Workspace, client: WorkspaceClient, answer: Any
) -> None:
    workspace.fail_requests("/dbfs/mkdirs", answer=answer)
    client.dbfs.mkdirs("/tmp/a")
    seen = [request["status"] for request in workspace.show_requests("/dbfs/mkdirs", "POST")]
    assert seen == [0 if answer == "drop" else int(answer), 200]


def test_an_internal_error_is_not_retried(workspace: Workspace, client: WorkspaceClient) -> None:
    workspace.fail_requests("/dbfs/mkdirs", answer="500")
    with pytest.raises(DatabricksError, match="internal error"):
        client.dbfs.mkdirs("/tmp/a")


@pytest.mark.jvm
@pytest.mark.timeout(600)
def test_in_standard_mode_a_script_reaches_files_in_volumes_and_tables_by_name_only(
    workspace: Workspace, client: WorkspaceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("java") is None:
        unavailable("no Java")
    workspace.engine = "standard"
    workspace.instance_profile = {"AWS_ACCESS_KEY_ID": "profile", "AWS_SECRET_ACCESS_KEY": "profile"}
    script = """
import os, boto3, pandas
assert sc is None and not hasattr(spark, "_jsc")
assert not [name for name in os.environ if name.startswith("AWS_ACCESS") or name.startswith("AWS_SECRET")]
folder = "/Volumes/main/biocloud/staging"
pandas.DataFrame({"id": [1, 2]}).to_parquet(open(f"{folder}/rows.parquet", "wb"))
assert spark.read.parquet(f"{folder}/rows.parquet").count() == 2
for attempt in (
    lambda: spark.read.format("delta").load("s3://lake/raw/dsi/sensor"),
    lambda: spark.read.parquet("s3://landing/dsi"),
    lambda: spark.range(1).write.format("delta").save("s3://lake/raw/dsi/sensor"),
    lambda: spark.sql("SELECT * FROM delta.`s3://lake/raw/dsi/sensor`"),
    lambda: spark.sql("DESCRIBE HISTORY 's3://lake/raw/dsi/sensor'"),
):
    try:
        attempt()
    except Exception as error:
        assert "INSUFFICIENT_PERMISSIONS" in str(error), error
    else:
        raise AssertionError("a path of S3 was used")
try:
    open(f"{folder}/rows.parquet", "ab")
except OSError as error:
    print("no append:", error)
else:
    raise AssertionError("a file of a volume was opened to append to it")
"""
    commit(workspace, script)
    with socket.socket() as other:
        with contextlib.suppress(OSError):  # PySpark's port for a local server is taken, by this or another process
            other.bind(("127.0.0.1", 15002))
            other.listen()
        run, output = finish(client, submit(client))
    assert run.state.result_state is jobs.RunResultState.SUCCESS, output.error
    assert "no append" in (output.logs or "")


def test_a_submission_whose_answer_is_lost_ran_and_its_token_finds_it(
    workspace: Workspace, client: WorkspaceClient
) -> None:
    commit(workspace, "")
    workspace.fail_requests("/runs/submit", answer="drop after", times=2)
    with pytest.raises(requests.ConnectionError):
        headers = {"Authorization": f"Bearer {workspace.token}"}
        body = submission(idempotency_token="d-1")
        requests.post(f"{workspace.url}/api/2.2/jobs/runs/submit", json=body, headers=headers, timeout=5)
    (run_id,) = workspace.runs
    assert submit(client, idempotency_token="d-1") == run_id
    assert len(workspace.show_requests("/runs/submit")) == 3


def test_dbfs_is_read_and_written_in_blocks(workspace: Workspace, client: WorkspaceClient) -> None:
    content = os.urandom(1024**2 + 5)
    with client.dbfs.open("/staging/file", write=True, overwrite=True) as file:
        file.write(content)
    with client.dbfs.open("/staging/file", read=True) as file:
        assert file.read() == content
    assert (workspace.root / "dbfs/staging/file").read_bytes() == content
    assert [entry.path for entry in client.dbfs.list("/staging")] == ["/staging/file"]
    with pytest.raises(DatabricksError, match="at most"):
        client.dbfs.read("/staging/file", length=1024**2 + 1)
    with pytest.raises(DatabricksError, match="already exists"):
        client.dbfs.create("/staging/file")
    with pytest.raises(DatabricksError, match="not empty"):
        client.api_client.do("POST", "/api/2.0/dbfs/delete", body={"path": "/staging"})
    client.dbfs.delete("/staging", recursive=True)
    for path in ("/staging/file", "/../secret"):
        with pytest.raises((NotFound, InvalidParameterValue)):
            client.dbfs.get_status(path)


def test_files_of_a_volume_are_seen_by_the_client_and_by_the_script(
    workspace: Workspace, client: WorkspaceClient
) -> None:
    volume = "/Volumes/main/biocloud/staging"
    client.files.create_directory(f"{volume}/in")
    client.files.upload(f"{volume}/in/ü 1.txt", io.BytesIO(b"from the client"))
    with pytest.raises(ResourceConflict):
        client.files.upload(f"{volume}/in/ü 1.txt", io.BytesIO(b"again"), overwrite=False)
    commit(workspace, f"open('{volume}/out', 'w').write(open('{volume}/in/ü 1.txt').read() + ', read')")
    run, output = finish(client, submit(client))
    assert run.state.result_state == jobs.RunResultState.SUCCESS, output.logs
    assert client.files.download(f"{volume}/out").contents.read() == b"from the client, read"
    assert client.files.get_metadata(f"{volume}/out").content_length == 21
    assert sorted(entry.name for entry in client.files.list_directory_contents(volume, page_size=1)) == ["in", "out"]
    with pytest.raises(DatabricksError, match="not empty"):
        client.files.delete_directory(f"{volume}/in")
    client.files.delete(f"{volume}/in/ü 1.txt")
    client.files.delete_directory(f"{volume}/in")
    with pytest.raises(NotFound):
        client.files.get_directory_metadata(f"{volume}/in")
    with pytest.raises(NotFound, match="does not exist"):
        client.files.upload("/Volumes/main/other/staging/file", io.BytesIO(b""))


def test_the_rest_of_what_the_sdk_looks_up(workspace: Workspace, client: WorkspaceClient) -> None:
    commit(workspace, "print(dbutils.secrets.get(scope='made', key='key'))")
    client.secrets.create_scope("made")
    client.secrets.put_secret("made", "key", string_value="v4lue")
    assert [secret.key for secret in client.secrets.list_secrets("made")] == ["key"]
    run, output = finish(client, submit(client))
    assert output.logs == "[REDACTED]\n"
    cluster_id = run.tasks[0].cluster_instance.cluster_id
    assert client.clusters.get(cluster_id).instance_pool_id == POOL_ID
    assert [cluster.cluster_id for cluster in client.clusters.list()] == [cluster_id]
    assert client.clusters.select_spark_version(long_term_support=True, scala="2.13")
    assert [pool.instance_pool_name for pool in client.instance_pools.list()] == ["biocloud"]
    assert [listed.run_id for listed in client.jobs.list_runs()] == [run.run_id]
    assert client.get_workspace_id() == int(workspace.workspace_id)
    with pytest.raises(NotFound, match="No API found"):
        client.warehouses.get("w")


def test_another_process_serves_and_controls_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.databricks_workspace", "--root", str(tmp_path), "--engine", "none"]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        access = json.loads(process.stdout.readline())
        client = WorkspaceClient(host=access["url"], token=access["token"])

        def control(name: str, token: str = access["control_token"], **arguments: Any) -> requests.Response:
            headers = {"Authorization": f"Bearer {token}"}
            return requests.post(f"{access['url']}/_control/{name}", json=arguments, headers=headers, timeout=5)

        client.dbfs.put("/script.py", contents="cHJpbnQoJ3JhbicpCg==")
        control("plan_run", how="fail", message="as planned").raise_for_status()
        body = submission(python={"python_file": "dbfs:/script.py", "source": "WORKSPACE"})
        for expected in ("as planned", None):
            run_id = client.api_client.do("POST", "/api/2.2/jobs/runs/submit", body=body)["run_id"]
            assert finish(client, run_id)[1].error == expected
        assert control("show_runs").json()["result"][1]["tasks"][0]["log"] == "ran\n"
        assert control("close").status_code == 404
        assert control("fail_requests", path="/", answer="418").status_code == 400
        assert control("plan_run", how="unknown").status_code == 400
        assert control("show_requests", token=access["token"]).status_code == 403
        control("expire_token")
        with pytest.raises(PermissionDenied):
            client.current_user.me()
        assert access["token"] not in control("show_requests").text
    finally:
        process.stdin.close()
        assert process.wait(timeout=10) == 0


def test_nothing_is_left_running_when_it_is_closed(tmp_path: Path) -> None:
    (tmp_path / "dbfs").mkdir()
    (tmp_path / "dbfs" / "script.py").write_text("import time; time.sleep(600)")
    with Workspace(tmp_path, engine=None) as workspace:
        client = WorkspaceClient(host=workspace.url, token=workspace.token)
        python = {"python_file": "dbfs:/script.py", "source": "WORKSPACE"}
        run_id = submit(client, python=python, git_source=None)
        wait_for(client, run_id, "RUNNING")
        task = only_task(workspace, run_id)
    assert task._has_exited()
    assert task.state.result == "CANCELED"
    with pytest.raises(requests.ConnectionError):
        requests.get(workspace.url, timeout=5)
