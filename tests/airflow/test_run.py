"""The exported DAGs run: against the local Databricks workspace, with data in S3."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest

from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi.contract import DELIVERY_COLUMN, FOLDERS, LOG, TABLES
from biocloud_assets.sample import land_bundled
from tests.airflow.conftest import INSIDE, Deployed

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.timeout(1800),
    pytest.mark.parametrize("version", ["airflow-2-11", "airflow-3-3"], indirect=True),
]

DELIVERY = "2020-07-10-06:00:00"
OPTIONS = {"AWS_ALLOW_HTTP": "true"}


def states(run: dict[str, Any]) -> dict[str, str]:
    return {name: task["state"] for name, task in run["tasks"].items()}


def land(landing: DataLake, delivery: str, *folders: str) -> None:
    """Land a delivery of files that nobody looks into."""
    for folder in folders or [folder.name for folder in FOLDERS]:
        landing.write(f"dsi/{delivery}/{folder}/part-0.parquet", b"not read here")


def log(lake: DataLake, delivery: str) -> None:
    """Log a delivery as ingested, as someone else than Airflow would."""
    rows = pa.table({"rows": [1], DELIVERY_COLUMN: [delivery]})
    deltalake.write_deltalake(
        lake.uri(LOG.path), rows, mode="append", partition_by=[DELIVERY_COLUMN], storage_options=OPTIONS
    )


def test_every_step_gets_its_arguments_and_its_secrets(quick: Deployed) -> None:
    quick.airflow.migrate()
    run = quick.test("dsi_raw", delivery=DELIVERY)
    assert run["state"] == "success", run["log"][-5000:]
    assert set(states(run).values()) == {"success"}
    assert Counter(quick.submitted()) == Counter(list(states(run)))
    said = quick.said("raw__dsi__delivery")
    arguments = dict(zip(said["arguments"][::2], said["arguments"][1::2], strict=True))
    assert (
        arguments.items()
        >= {
            "--step": "raw/dsi/delivery",
            "--delivery": DELIVERY,
            "--landing-root": quick.landing.root,
            "--lake-root": quick.lake.root,
            "--catalog": "sail",
            "--orchestrator": "airflow",
            "--run-id": run["run_id"],
        }.items()
    )
    assert said["environment"]["A_TOKEN"] == "s3cr3t"
    assert said["environment"]["PLAIN"] == "{# 50 % #} {{ 1 }} 'quoted'"
    assert "s3cr3t" not in run["log"]


def test_a_failing_step_fails_the_run_and_nothing_that_depends_on_it_runs(quick: Deployed) -> None:
    quick.airflow.migrate()
    quick.workspace.plan_run("fail", message="no such table", task_key="raw__dsi__sensor", times=3)
    run = quick.test("dsi_raw", delivery=DELIVERY)
    assert run["state"] == "failed"
    assert states(run) == {
        **dict.fromkeys(states(run), "success"),
        "raw__dsi__sensor": "failed",
        "check_tables": "upstream_failed",
        "raw__dsi__delivery": "upstream_failed",
    }
    assert Counter(quick.submitted())["raw__dsi__sensor"] == 3  # as often as Dagster tries it
    assert not {"check_tables", "raw__dsi__delivery"} & set(quick.submitted())
    assert "no such table" in run["log"]


def test_a_flaky_step_succeeds_on_its_second_try_with_a_run_of_its_own(quick: Deployed) -> None:
    quick.airflow.migrate()
    quick.workspace.plan_run("fail", message="lost", task_key="raw__dsi__sensor")
    quick.workspace.fail_requests("runs/submit", answer="drop after")  # done, but Airflow never hears of it
    run = quick.test("dsi_raw", delivery=DELIVERY)
    assert run["state"] == "success", run["log"][-5000:]
    assert run["tasks"]["raw__dsi__sensor"]["try"] == 2
    assert Counter(quick.submitted()) == Counter(list(states(run))) + Counter(["raw__dsi__sensor"])


def test_what_is_deployed_from_a_branch_runs_the_code_of_that_branch(quick: Deployed) -> None:
    quick.site.export(branch="feature")
    quick.airflow.migrate()
    run = quick.test("dsi_raw", delivery=DELIVERY)
    assert run["state"] == "success", run["log"][-5000:]
    assert quick.said("raw__dsi__sensor")["branch"] == "feature"


def test_where_airflow_defers_by_default_a_run_takes_no_worker_while_it_waits(quick: Deployed) -> None:
    quick.airflow.settings["AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE"] = "True"
    # Without a secret: `dag.test()` of Airflow 2, unlike a worker, renders a task again that it has rendered before.
    quick.site.export(cluster={**quick.site.environment["cluster"], "spark_env_vars": {}})
    quick.airflow.migrate()
    run = quick.test("dsi_raw", delivery=DELIVERY)
    assert run["state"] == "success", run["log"][-5000:]
    assert "running trigger in line" in run["log"]
    assert Counter(quick.submitted()) == Counter(list(states(run)))


def test_a_delivery_that_is_none_starts_nothing(quick: Deployed) -> None:
    quick.airflow.migrate()
    done = quick.airflow.call(
        *(str(quick.airflow.python), "-P", str(INSIDE), "test", "dsi_raw", '{"delivery": "../other"}'), timeout=120
    )
    assert done.returncode != 0
    assert "../other" in done.stdout + done.stderr
    assert quick.submitted() == []


def test_the_dispatcher_starts_each_new_complete_delivery_once(deployed: Deployed) -> None:
    complete, arriving, ingested = "2026-01-30-06:00:00", "2026-01-31-06:00:00", "2026-02-01-06:00:00"
    land(deployed.landing, complete)
    land(deployed.landing, arriving, "sensor", "algorithm")
    land(deployed.landing, ingested)
    land(deployed.landing, "backup-of-2026-01-30")
    log(deployed.lake, ingested)
    deployed.prepare()

    def look() -> list[str]:
        found = deployed.test("dsi_deliveries")
        assert found["state"] == "success", found["log"][-5000:]
        return sorted(run["conf"]["delivery"] for run in deployed.runs("dsi_raw").values())

    assert look() == [complete]
    ((run_id, run),) = deployed.runs("dsi_raw").items()
    assert run_id.startswith(f"{complete}__")
    assert run["conf"] == {"delivery": complete}
    assert look() == [complete]
    land(deployed.landing, arriving)  # the rest of it
    deployed.landing.write(f"dsi/{complete}/sensor/part-1.parquet", b"mended")
    assert look() == [complete, complete, arriving]
    log(deployed.lake, arriving)
    assert look() == [complete, complete, arriving]


def test_the_sample_is_ingested_as_at_home(deployed: Deployed, tmp_path: Path) -> None:
    names = land_bundled(deployed.landing)
    deployed.airflow.migrate()
    for name in names:
        run = deployed.test("dsi_raw", delivery=name)
        assert run["state"] == "success", run["log"][-5000:]
    settings = {"BIOCLOUD_LANDING_ROOT": deployed.landing.root, "BIOCLOUD_HOME": str(tmp_path / "home-of-biocloud")}
    subprocess.run(
        [sys.executable, "-m", "biocloud_assets.cli", "ingest", *names],
        env={**{k: v for k, v in os.environ.items() if not k.startswith("BIOCLOUD_")}, **settings},
        check=True,
        timeout=300,
    )
    at_home = DataLake.at(str(tmp_path / "home-of-biocloud/lake"))
    for table in TABLES:
        assert rows(deployed.lake, table.path) == rows(at_home, table.path), table.path
    logged = deltalake.DeltaTable(deployed.lake.uri(LOG.path), storage_options=OPTIONS).to_pyarrow_table().to_pylist()
    assert sorted(row[DELIVERY_COLUMN] for row in logged) == sorted(names)
    assert {row["orchestrator"] for row in logged} == {"airflow"}


def rows(lake: DataLake, path: str) -> list[str]:
    """All rows of a table, in an order of their own."""
    table = deltalake.DeltaTable(lake.uri(path), storage_options=OPTIONS if "://" in lake.root else None)
    found = table.to_pyarrow_table()
    return sorted(repr(sorted(row.items())) for row in found.to_pylist())
