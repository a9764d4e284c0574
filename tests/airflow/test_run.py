"""The exported DAGs run in the oldest and the newest Airflow, against the local Databricks workspace and an S3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import deltalake
import pytest
import requests

from biocloud_assets.ingest.delivery_log import markers_path
from biocloud_assets.lake import DataLake
from biocloud_assets.launch.launcher import REMOTE_MAX_RETRIES
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.sample import land_bundled
from biocloud_assets.schema import DELIVERY_COLUMN
from tests.airflow.conftest import INSIDE, OLDEST_AND_NEWEST, REFUSED, ROOT, Deployed
from tests.databricks_workspace.fixture import GIT_URL
from tests.databricks_workspace.runs import State
from tests.databricks_workspace.server import POLICY_ID, POOL_ID, SPARK_VERSION
from tests.repository import commit, git

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.timeout(1800),
    pytest.mark.parametrize("version", OLDEST_AND_NEWEST, indirect=True),
]

DELIVERY = "2020-07-10-06:00:00"


def every_key(compute: str) -> dict[str, Any]:
    """Keys of an environment, with which every optional one is set."""
    keys: dict[str, Any] = {
        "run_as": {"service_principal_name": "00000000-1111-2222-3333-444444444444"},
        "viewers": [{"group_name": "engineers"}, {"user_name": "somebody@example.org"}],
        "retention_days": 7,
        "not_before": "2026-01-01",
    }
    if compute == "serverless":
        return {**keys, "cluster": None, "serverless": {"environment_version": "4"}}
    cluster = {
        "spark_version": SPARK_VERSION,
        "instance_pool_id": POOL_ID,
        "driver_instance_pool_id": POOL_ID,
        "policy_id": POLICY_ID,
        "num_workers": 0,
        "data_security_mode": "DATA_SECURITY_MODE_DEDICATED",
        "instance_profile_arn": "arn:aws:iam::000000000000:instance-profile/biocloud",
        "spark_conf": {"spark.sql.ansi.enabled": "true"},
        "custom_tags": {"team": "biocloud"},
        "log_delivery": "s3://logs/clusters",
    }
    return {**keys, "cluster": cluster, "package_index": "https://packages.example.org/simple"}


OPTIONS = {"AWS_ALLOW_HTTP": "true"}


def land(landing: DataLake, delivery: str, *folders: str) -> None:
    """Land a delivery whose files nobody reads."""
    for folder in folders or [folder.name for folder in CONTRACT.folders]:
        landing.write(f"dsi/{delivery}/{folder}/part-0.parquet", b"not read here")


def mark_as_ingested(lake: DataLake, delivery: str) -> None:
    """Mark a delivery as ingested by something else than Airflow."""
    lake.write(f"{markers_path(CONTRACT)}/{delivery}", b"")


def test_a_step_gets_its_arguments_and_its_secrets(quick: Deployed) -> None:
    quick.airflow.migrate()
    run = quick.test("dsi_raw", delivery=DELIVERY)
    assert run["state"] == "success", run["log"][-5000:]
    assert quick.clusters() == ["ingest_dsi"]
    printed = quick.printed()
    assert {
        *(f"--asset={address}" for address in CONTRACT.addresses),
        *(f"--check={address}" for address in CONTRACT.addresses[:-1]),
        f"--delivery={DELIVERY}",
        f"--landing-root={quick.landing.root}",
        f"--lake-root={quick.lake.root}",
        f"--curated-root={quick.site.environment['curated_root']}",
        "--catalog=sail",
        "--region=us-east-1",
        "--orchestrator=airflow",
        f"--run-id={run['run_id']}",
    } == set(printed["arguments"])
    assert printed["environment"]["A_TOKEN"] == "s3cr3t"
    assert printed["environment"]["PLAIN"] == "{# 50 % #} {{ 1 }} 'quoted'"
    assert "s3cr3t" not in run["log"]


def test_the_curated_dag_publishes_the_day_of_the_run_in_one_step(quick: Deployed) -> None:
    quick.airflow.migrate()
    run = quick.test("dsi_curated", run_date="2026-01-31")
    assert run["state"] == "success", run["log"][-5000:]
    assert quick.clusters() == ["dsi_curated"]
    expected = {f"--asset=curated/dsi/{name}" for name in ("observation", "manifest", "retention")}
    assert {*expected, "--run-date=2026-01-31", "--retention-days=30"} <= set(quick.printed()["arguments"])


def test_a_cloud_without_capacity_is_tried_again_as_often_as_dagster_tries_it(quick: Deployed) -> None:
    quick.airflow.migrate()
    quick.workspace.plan_run("no cluster", times=99)
    run = quick.test("dsi_raw", delivery=DELIVERY)
    assert run["state"] == "failed"
    assert len(quick.workspace.runs) == REMOTE_MAX_RETRIES + 1
    assert "AWS_INSUFFICIENT_INSTANCE_CAPACITY_FAILURE" in run["log"]


def test_a_step_that_is_lost_without_a_reason_is_repeated_only_once(quick: Deployed) -> None:
    quick.airflow.migrate()
    quick.workspace.plan_run("fail", message="The Python kernel is unresponsive.", times=9)
    run = quick.test("dsi_raw", delivery=DELIVERY)
    assert run["state"] == "failed"
    assert len(quick.workspace.runs) == 2
    assert "kernel is unresponsive" in run["log"]


def test_a_submission_that_databricks_refuses_is_not_repeated(quick: Deployed) -> None:
    quick.site.export(quick=True, cluster={**quick.site.environment["cluster"], "instance_pool_id": "unknown"})
    quick.airflow.migrate()
    run = quick.test("dsi_raw", delivery=DELIVERY)
    assert (run["state"], run["tasks"]["ingest_dsi"]["try"]) == ("failed", 1)
    assert "Can't find an instance pool with id: unknown" in run["log"]


@pytest.mark.parametrize("deferrable", [False, True], ids=["waiting", "deferred"])
def test_an_error_that_a_retry_cannot_help_fails_the_task_at_once(quick: Deployed, deferrable: bool) -> None:
    quick.airflow.settings["AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE"] = str(deferrable)
    # `dag.test()` of Airflow 2, unlike a worker, renders the templates of a task twice, which secrets don't survive.
    quick.site.export(quick=True, cluster={**quick.site.environment["cluster"], "spark_env_vars": {}})
    quick.airflow.migrate()
    run = quick.test("dsi_raw", delivery=REFUSED)
    assert run["state"] == "failed"
    assert run["tasks"]["ingest_dsi"]["try"] == 1
    assert quick.clusters() == ["ingest_dsi"]
    assert "the delivery is refused" in run["log"]


def test_a_run_that_a_person_cancels_is_not_started_again(quick: Deployed) -> None:
    quick.airflow.migrate()
    quick.workspace.plan_run("hang", task_key="ingest_dsi")

    def cancel() -> None:
        while not quick.clusters():
            time.sleep(0.2)
        requests.post(
            f"{quick.workspace.url}/api/2.1/jobs/runs/cancel",
            json={"run_id": next(iter(quick.workspace.runs))},
            headers={"Authorization": f"Bearer {quick.workspace.token}"},
            timeout=30,
        ).raise_for_status()

    person = threading.Thread(target=cancel, daemon=True)
    person.start()
    run = quick.test("dsi_raw", delivery=DELIVERY)
    person.join(timeout=30)
    assert run["state"] == "failed"
    assert quick.clusters() == ["ingest_dsi"]


def test_a_retry_follows_the_run_of_an_earlier_try_in_a_state_that_the_provider_does_not_know(
    quick: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_json = State.as_json

    def unknown_until_the_retry_has_asked(state: State) -> dict[str, Any]:
        paths = [request.path for request in quick.workspace.requests]
        submissions = [number for number, path in enumerate(paths) if path.endswith("runs/submit")]
        asked = [path for path in paths[submissions[-1] :] if path.endswith("runs/get")]
        answer = as_json(state)
        if len(submissions) == 1 or len(asked) == 1:
            answer["state"]["life_cycle_state"] = "UNHEARD_OF"
        return answer

    monkeypatch.setattr(State, "as_json", unknown_until_the_retry_has_asked)
    quick.airflow.migrate()
    quick.workspace.plan_run("slow", seconds=60, task_key="ingest_dsi")
    run = quick.test("dsi_raw", delivery=DELIVERY)
    assert run["state"] == "success", run["log"][-5000:]
    assert run["tasks"]["ingest_dsi"]["try"] == 2
    assert "Following the run of try 1" in run["log"]
    assert (quick.clusters(), len(quick.workspace.runs)) == (["ingest_dsi"], 1)


def test_a_flaky_step_succeeds_on_its_second_try_with_a_run_of_its_own(quick: Deployed) -> None:
    quick.airflow.migrate()
    quick.workspace.plan_run("fail", message="lost", task_key="ingest_dsi")
    quick.workspace.fail_requests("runs/submit", answer="drop after")  # submitted, but Airflow gets no answer
    run = quick.test("dsi_raw", delivery=DELIVERY)
    assert run["state"] == "success", run["log"][-5000:]
    assert run["tasks"]["ingest_dsi"]["try"] == 2
    assert quick.clusters() == ["ingest_dsi"] * 2


def test_the_code_is_that_of_the_branch_or_the_commit_that_is_deployed_unless_a_run_names_another_branch(
    quick: Deployed,
) -> None:
    head = git(quick.workspace.repositories[GIT_URL], "rev-parse", "main")
    quick.airflow.migrate()

    def ran(**conf: str) -> tuple[str, str, dict[str, str]]:
        run = quick.test("dsi_raw", delivery=DELIVERY, **conf)
        assert run["state"] == "success", run["log"][-5000:]
        body = list(quick.workspace.runs.values())[-1].body
        return quick.printed()["branch"], body["run_name"], body["git_source"]

    source = {"git_url": GIT_URL, "git_provider": "gitLab"}
    name = f"dsi_raw ingest_dsi {DELIVERY} @"
    quick.site.export(branch="feature", quick=True)
    assert ran() == ("feature", f"{name} feature", {**source, "git_branch": "feature"})
    quick.site.export(commit=head, quick=True)
    assert ran() == ("main", f"{name} {head[:12]}", {**source, "git_commit": head})
    assert ran(git_branch="feature") == ("feature", f"{name} feature", {**source, "git_branch": "feature"})


@pytest.mark.parametrize("compute", ["cluster", "serverless"])
def test_the_submission_has_every_key_of_the_environment_and_no_other(quick: Deployed, compute: str) -> None:
    export = quick.site.export(quick=True, **every_key(compute))
    quick.airflow.migrate()
    quick.workspace.plan_run("fail", message="as planned", times=9)
    run = quick.test("dsi_raw", delivery=DELIVERY)
    assert run["state"] == "failed"
    (dag,) = [dag for dag in export.jobs if dag.name == "dsi_raw"]
    text = json.dumps(_as_the_provider_sends(dag.tasks[0].submission))
    for template, value in {"{{ params.delivery }}": DELIVERY, "{{ run_id }}": run["run_id"]}.items():
        text = text.replace(template, value)
    body = dict(next(iter(quick.workspace.runs.values())).body)
    assert len(body.pop("idempotency_token")) == 64
    assert body == json.loads(text)


def _as_the_provider_sends(value: Any) -> Any:
    """A body in which the provider has made each number a string, which Databricks accepts."""
    if isinstance(value, dict):
        return {name: _as_the_provider_sends(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_as_the_provider_sends(item) for item in value]
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def test_the_group_sync_needs_one_node_and_no_library_of_the_lake(quick: Deployed) -> None:
    quick.workspace.secrets |= {"biocloud": {"group-sync-host": "https://example.org", "group-sync-token": "s3cr3t"}}
    script = Path(quick.workspace.repositories[GIT_URL]) / "databricks/sync_groups.py"
    script.write_text(
        "import json, sys\n"
        'found = dbutils.secrets.get("biocloud", "group-sync-host")\n'
        'print("STEP", json.dumps({"arguments": sys.argv[1:], "host": found}))\n'
    )
    git(script.parent, "checkout", "--quiet", "main")
    commit(script.parent, "Add a script")
    quick.airflow.migrate()
    run = quick.test("group_sync")
    assert run["state"] == "success", run["log"][-5000:]
    assert quick.printed() == {
        "arguments": ["development", "--groups", "../groups", "--secret-scope", "biocloud"],
        "host": "https://example.org",
    }
    (task,) = next(iter(quick.workspace.runs.values())).body["tasks"]
    assert task["new_cluster"]["num_workers"] == "0"
    assert "autoscale" not in task["new_cluster"]
    assert {library["pypi"]["package"].split("==")[0] for library in task["libraries"]} == {
        *("pydantic-settings", "pyyaml", "requests", "urllib3")
    }
    assert "s3cr3t" not in run["log"]


def test_a_deferred_run_succeeds_with_its_output_in_the_log(quick: Deployed) -> None:
    quick.airflow.settings["AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE"] = "True"
    quick.site.export(quick=True, cluster={**quick.site.environment["cluster"], "spark_env_vars": {}})
    quick.airflow.migrate()
    quick.workspace.plan_run("slow", seconds=3, task_key="ingest_dsi")
    run = quick.test("dsi_raw", delivery=DELIVERY)
    assert run["state"] == "success", run["log"][-5000:]
    assert "running trigger in line" in run["log"]
    assert "STEP {" in run["log"]
    assert quick.clusters() == ["ingest_dsi"]


def test_a_wrong_name_of_a_delivery_starts_nothing(quick: Deployed) -> None:
    quick.airflow.migrate()
    done = quick.airflow.call(
        *(str(quick.airflow.python), "-P", str(INSIDE), "test", "dsi_raw", '{"delivery": "../other"}', ""), timeout=120
    )
    assert done.returncode != 0
    assert "../other" in done.stdout + done.stderr
    assert quick.clusters() == []


def test_the_dispatcher_starts_each_new_complete_delivery_once(deployed: Deployed) -> None:
    complete, arriving, ingested = "2026-01-30-06:00:00", "2026-01-31-06:00:00", "2026-02-01-06:00:00"
    land(deployed.landing, complete)
    land(deployed.landing, arriving, "sensor", "algorithm")
    land(deployed.landing, ingested)
    land(deployed.landing, "backup-of-2026-01-30")
    mark_as_ingested(deployed.lake, ingested)
    deployed.prepare()

    def dispatch() -> list[str]:
        found = deployed.test("dsi_deliveries")
        assert found["state"] == "success", found["log"][-5000:]
        return sorted(run["conf"]["delivery"] for run in deployed.runs("dsi_raw").values())

    assert dispatch() == [complete]
    ((run_id, run),) = deployed.runs("dsi_raw").items()
    assert run_id.startswith(f"{complete}__")
    assert run["conf"] == {"delivery": complete}
    assert dispatch() == [complete]
    land(deployed.landing, arriving)  # the missing folders
    deployed.landing.write(f"dsi/{complete}/sensor/part-1.parquet", b"another file")
    assert dispatch() == [complete, complete, arriving]
    mark_as_ingested(deployed.lake, arriving)
    assert dispatch() == [complete, complete, arriving]


def test_a_run_of_the_dispatcher_goes_on_where_the_last_one_ended(deployed: Deployed) -> None:
    names = [f"2026-01-{day:02}-06:00:00" for day in range(1, 5)]
    for name in names:
        land(deployed.landing, name)
    file = deployed.site.dags / "dsi_deliveries.py"
    source = file.read_text()
    file.write_text(source.replace("MAX_STARTED = 20", "MAX_STARTED = 2"))
    assert file.read_text() != source
    deployed.prepare()
    for expected in (names[:2], names, names):
        assert deployed.test("dsi_deliveries")["state"] == "success"
        assert sorted(run["conf"]["delivery"] for run in deployed.runs("dsi_raw").values()) == expected


def test_the_dispatcher_repeats_a_run_that_the_infrastructure_has_failed_and_no_other(quick: Deployed) -> None:
    lost, refused = "2026-01-30-06:00:00", REFUSED
    land(quick.landing, lost)
    land(quick.landing, refused)
    quick.prepare()

    def dispatch() -> list[str]:
        found = quick.test("dsi_deliveries")
        assert found["state"] == "success", found["log"][-5000:]
        return sorted(quick.runs("dsi_raw"))

    first, second = dispatch()
    quick.workspace.plan_run("no cluster", times=REMOTE_MAX_RETRIES + 1)
    assert quick.test("dsi_raw", run_id=second, delivery=lost)["state"] == "failed"
    assert quick.test("dsi_raw", run_id=first, delivery=refused)["state"] == "failed"
    found = dispatch()
    assert found[:2] == [first, second]
    (repetition,) = found[2:]
    assert repetition.startswith(f"{second}__after_")
    assert quick.runs("dsi_raw")[repetition]["conf"] == {"delivery": lost}
    assert dispatch() == found  # it is waiting, and isn't started twice


def test_the_dispatcher_repeats_a_run_whose_retries_could_not_reach_databricks(quick: Deployed) -> None:
    lost = "2026-01-30-06:00:00"
    land(quick.landing, lost)
    file = quick.site.dags / "dsi_raw.py"
    source = file.read_text()
    file.write_text(source.replace('"databricks_retry_limit": 5', '"databricks_retry_limit": 1'))
    assert file.read_text() != source
    quick.prepare()
    assert quick.test("dsi_deliveries")["state"] == "success"
    (first,) = quick.runs("dsi_raw")
    quick.workspace.plan_run("no cluster")
    quick.workspace.fail_requests("runs/submit", answer="503", times=99, after=1)
    run = quick.test("dsi_raw", run_id=first, delivery=lost)
    assert (run["state"], run["tasks"]["ingest_dsi"]["try"]) == ("failed", REMOTE_MAX_RETRIES + 1)
    assert quick.test("dsi_deliveries")["state"] == "success"
    assert sorted(quick.runs("dsi_raw"))[1].startswith(f"{first}__after_")


def test_a_step_that_succeeds_while_its_state_cannot_be_read_is_a_success(
    quick: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_json = State.as_json
    unreadable: list[int] = []

    def unknown_when_it_has_just_ended(state: State) -> dict[str, Any]:
        answer, number = as_json(state), len(quick.workspace.requests)
        if state.is_final and unreadable in ([], [number]):
            unreadable[:] = [number]
            answer["state"]["life_cycle_state"] = "UNHEARD_OF"
        return answer

    monkeypatch.setattr(State, "as_json", unknown_when_it_has_just_ended)
    quick.airflow.migrate()
    quick.workspace.plan_run("slow", seconds=3, task_key="ingest_dsi")
    run = quick.test("dsi_raw", delivery=DELIVERY)
    assert run["state"] == "success", run["log"][-5000:]
    assert (run["tasks"]["ingest_dsi"]["try"], quick.clusters()) == (1, ["ingest_dsi"])
    assert "has succeeded; this error is ignored" in run["log"]


def test_a_refused_delivery_fails_its_task_at_once_with_its_violations_in_the_log(deployed: Deployed) -> None:
    (name, *_) = land_bundled(deployed.landing)
    deployed.landing.delete([f"dsi/{name}/sensor/part-0.parquet"])
    deployed.airflow.migrate()
    run = deployed.test("dsi_raw", delivery=name)
    assert run["state"] == "failed"
    assert run["tasks"]["ingest_dsi"]["try"] == 1
    assert deployed.clusters() == ["ingest_dsi"]
    assert f"delivery {name}: expected data as in the delivery contract" in run["log"]
    assert not deployed.lake.list().folders


def test_the_sample_is_ingested_as_by_dagster_with_one_cluster_for_each_delivery(
    deployed: Deployed, tmp_path: Path
) -> None:
    names = land_bundled(deployed.landing)
    deployed.airflow.migrate()
    for number, name in enumerate(names, 1):
        run = deployed.test("dsi_raw", delivery=name)
        assert run["state"] == "success", run["log"][-5000:]
        assert deployed.clusters() == ["ingest_dsi"] * number
        for asset in CONTRACT.addresses:
            assert f"INFO {asset}: " in run["log"]
        assert "INFO raw/dsi/sensor, check row_count: passed" in run["log"]
    run = deployed.test("dsi_curated", run_date="2026-01-31")
    assert run["state"] == "success", run["log"][-5000:]
    assert deployed.clusters() == [*["ingest_dsi"] * len(names), "dsi_curated"]
    curated = DataLake.at(deployed.site.environment["curated_root"], endpoint=deployed.endpoint)
    assert "dsi/2026-01-31/manifest.json" in {file.path for file in curated.walk()}

    settings = {"BIOCLOUD_LANDING_ROOT": deployed.landing.root, "BIOCLOUD_HOME": str(tmp_path / "local")}
    subprocess.run(
        [sys.executable, "-m", "biocloud_assets.cli", "ingest", *names],
        env={**{k: v for k, v in os.environ.items() if not k.startswith("BIOCLOUD_")}, **settings},
        check=True,
        timeout=300,
    )
    local = DataLake.at(str(tmp_path / "local/lake"))
    for table in CONTRACT.tables:
        address = CONTRACT.address(table)
        assert rows(deployed.lake, address) == rows(local, address), address
    log = deltalake.DeltaTable(deployed.lake.uri(CONTRACT.address(CONTRACT.log)), storage_options=OPTIONS)
    logged = log.to_pyarrow_table().to_pylist()
    assert sorted(row[DELIVERY_COLUMN] for row in logged) == sorted(names)
    assert {row["orchestrator"] for row in logged} == {"airflow"}
    head = git(deployed.workspace.repositories[GIT_URL], "rev-parse", "main")
    assert {row["code_commit"] for row in logged} == {head}


def rows(lake: DataLake, path: str) -> list[Any]:
    """All rows of a table, in a fixed order."""
    table = deltalake.DeltaTable(lake.uri(path), storage_options=OPTIONS if "://" in lake.root else None)
    return sorted(repr(sorted(row.items())) for row in table.to_pyarrow_table().to_pylist())


def test_history_is_queued_by_the_command_of_the_docs_and_each_delivery_once(quick: Deployed) -> None:
    text = (ROOT / "docs/airflow.md").read_text()
    command = text.partition("<!-- tested: history -->\n```bash\n")[2].partition("```")[0]
    assert "airflow dags trigger" in command
    names = ["2020-07-10-06:00:00", "2020-08-19-06:00:00"]
    (quick.airflow.home / "history.txt").write_text("\n".join(names) + "\n")
    quick.prepare()
    first = quick.airflow.call("bash", "-e", "-c", command, timeout=300)
    assert first.returncode == 0, first.stdout + first.stderr
    quick.airflow.call("bash", "-c", command, timeout=300)
    runs = quick.runs("dsi_raw")
    assert {run_id: (run["state"], run["conf"]) for run_id, run in runs.items()} == {
        f"history__{name}": ("queued", {"delivery": name}) for name in names
    }
