"""How long Airflow takes to load the exported DAG files, compared with the same DAGs by hand and by dag-factory.

Airflow and its providers are imported before; each round loads a file as Airflow does. The file by hand makes the same
tasks, edges and outlets in a loop with the provider's own operator; dag-factory reads them from YAML. Everything runs
in the environment `airflow-3-3` of tests/airflow/environments. The files are loaded in turns, so that other load on
the machine affects all of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import ROOT, Say, ratio
from benchmarks.results import Result, Table

_PYTHON = ROOT / ".biocloud/environments/airflow-3-3/bin/python"

_MEASURE = """
import importlib.machinery, importlib.util, json, statistics, sys, time
import airflow.providers.amazon.aws.hooks.s3, airflow.providers.databricks.operators.databricks
import airflow.providers.standard.operators.trigger_dagrun
from airflow.sdk import DAG
rounds, files = int(sys.argv[1]), sys.argv[2:]
times = {file: [] for file in files}
for number in range(rounds + 3):
    for file in files:
        # As Airflow's DagBag loads a file.
        loader = importlib.machinery.SourceFileLoader("dag_file", file)
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader("dag_file", loader))
        start = time.perf_counter()
        loader.exec_module(module)
        seconds = time.perf_counter() - start
        assert any(isinstance(value, DAG) for value in vars(module).values()), file
        if number >= 3:
            times[file].append(seconds)
print("ANSWER", json.dumps({file: statistics.median(found) for file, found in times.items()}))
"""

_READ = """
import json, sys
from airflow.sdk import DAG
names = {"__name__": "dag_file"}
exec(compile(open(sys.argv[1]).read(), sys.argv[1], "exec"), names)
(dag,) = [value for value in names.values() if isinstance(value, DAG)]
tasks = {
    task.task_id: {"json": task.json, "retries": task.retries, "upstream": sorted(task.upstream_task_ids),
                   "outlets": [asset.uri for asset in task.outlets], "inlets": [asset.uri for asset in task.inlets]}
    for task in dag.tasks
}
print("ANSWER", json.dumps({"cron": getattr(dag.timetable, "expression", None), "tasks": tasks}))
"""


def read(file: Path) -> dict[str, Any]:
    """The schedule and the tasks of an exported file, as Airflow loads them."""
    return dict(inside("-c", _READ, str(file)))


def by_hand(cron: str | None, found: dict[str, Any]) -> str:
    """A file with the same tasks, written by hand."""
    edges = [(up, name) for name, task in found.items() for up in task["upstream"]]
    return f"""
from datetime import timedelta
import pendulum
from airflow.providers.databricks.operators.databricks import DatabricksSubmitRunOperator
from airflow.sdk import DAG, Asset, Param

TASKS = {found!r}

with DAG(
    dag_id="by_hand", schedule={cron!r}, start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), catchup=False,
    max_active_runs=1, tags=["biocloud"],
    params={{"delivery": Param("", type="string"), "git_branch": Param("main", type="string")}},
) as dag:
    for name, task in TASKS.items():
        DatabricksSubmitRunOperator(
            task_id=name, json=task["json"], retries=task["retries"], retry_delay=timedelta(seconds=5),
            inlets=[Asset(uri) for uri in task["inlets"]], outlets=[Asset(uri) for uri in task["outlets"]],
            execution_timeout=timedelta(seconds=4500),
        )
    for upstream, name in {edges!r}:
        dag.get_task(upstream) >> dag.get_task(name)
"""


def dag_factory(cron: str | None, found: dict[str, Any], folder: Path) -> str:
    """A file that loads the same tasks from YAML by dag-factory."""
    operator = "airflow.providers.databricks.operators.databricks.DatabricksSubmitRunOperator"
    content = {
        "by_dag_factory": {
            "default_args": {"owner": "biocloud", "start_date": "2026-01-01"},
            "schedule": cron,
            "catchup": False,
            "tasks": [
                {
                    "task_id": name,
                    "operator": operator,
                    "json": task["json"],
                    "retries": task["retries"],
                    "dependencies": task["upstream"],
                }
                for name, task in found.items()
            ],
        }
    }
    (folder / "dag.yml").write_text(yaml.safe_dump(content))
    return (
        "from airflow.sdk import DAG\nfrom dagfactory import load_yaml_dags\n"
        f"load_yaml_dags(globals_dict=globals(), config_filepath={str(folder / 'dag.yml')!r})\n"
    )


def prepare() -> None:
    """Install the environment of Airflow 3.3."""
    packages = ROOT / "tests/airflow/environments/airflow-3-3.txt"
    subprocess.run(["uv", "venv", "--quiet", "--allow-existing", "--python=3.11", str(_PYTHON.parents[1])], check=True)
    subprocess.run(["uv", "pip", "sync", "--quiet", "--python", str(_PYTHON), str(packages)], check=True)


def inside(*arguments: str) -> Any:
    """Run Python in the environment of Airflow 3.3, and return its answer.

    Raises:
        RuntimeError: it gives none.
    """
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [str(_PYTHON), *arguments],
            env={**os.environ, "AIRFLOW_HOME": home, "PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
            check=False,
        )
    answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    if not answers:
        raise RuntimeError(done.stdout + done.stderr)
    return json.loads(answers[-1].removeprefix("ANSWER "))


def measure(*, rounds: int, say: Say) -> Result:
    """Load the exported files, those by hand and those by dag-factory in turns.

    Args:
        rounds: how often.
        say: reports progress.
    """
    say("installing Airflow 3.3, if it isn't there")
    prepare()
    result, rows, ratios = Result("airflow_parse"), [], [0.0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for exported in sorted((ROOT / "airflow_export/production/dags").glob("*.py")):
            say(f"loading {exported.name}, {rounds} rounds")
            if "DatabricksSubmitRunOperator" not in exported.read_text(encoding="utf-8"):
                (seconds,) = load(rounds, exported).values()
                rows.append([exported.name, "", "exported, no task on Databricks", f"{1000 * seconds:.1f} ms"])
                continue
            answer = read(exported)
            cron, found = answer["cron"], answer["tasks"]
            hand, factory = folder / "by_hand.py", folder / "by_dag_factory.py"
            hand.write_text(by_hand(cron, found), encoding="utf-8")
            factory.write_text(dag_factory(cron, found, folder), encoding="utf-8")
            times = load(rounds, exported, hand, factory)
            base = times[str(hand)]
            ratios.append(times[str(exported)] / base)
            for label, file in (("exported", exported), ("by hand", hand), ("dag-factory", factory)):
                seconds = times[str(file)]
                rows.append([f"{exported.name}, {len(found)} tasks", ratio(seconds / base), label,
                             f"{1000 * seconds:.1f} ms"])  # fmt: skip
    result.figures["worst"] = max(ratios)
    result.tables.append(Table(f"Medians of {rounds} rounds", ["file", "time / by hand", "", "time"], rows))
    return result


def load(rounds: int, *files: Path) -> dict[str, float]:
    """The median time to load each file, seconds."""
    return dict(inside("-c", _MEASURE, str(rounds), *map(str, files)))
