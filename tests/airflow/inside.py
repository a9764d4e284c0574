"""Commands that the tests run in the environment of an Airflow, of any version and without this package.

python -P inside.py parse            every DAG of the DAG folder as JSON, with errors and warnings
python -P inside.py test DAG CONF ID a run of one DAG, without a scheduler; each task's state; the ID may be empty
python -P inside.py runs DAG         the runs of a DAG, with each task's state
python -P inside.py round_trip DAG   the edges of the DAG, after dagster-airflow has made a Dagster job of it
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any


def _bag() -> Any:
    from airflow.configuration import conf

    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:
        from airflow.models import DagBag
    folder = conf.get("core", "dags_folder")
    try:
        return DagBag(dag_folder=folder, include_examples=False)
    except TypeError:  # examples are a matter of bundles, since 3.2
        return DagBag(dag_folder=folder)


def parse() -> dict[str, Any]:
    # Warnings of libraries at their import are not warnings about the DAGs.
    import airflow.providers.amazon.aws.hooks.s3
    import airflow.providers.databricks.operators.databricks

    try:
        import airflow.providers.standard.operators.trigger_dagrun
    except ImportError:
        import airflow.operators.trigger_dagrun  # noqa: F401
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bag = _bag()
    found = [str(warning.message) for warning in caught if warning.category is not ResourceWarning]
    found += [str(one) for captured in getattr(bag, "captured_warnings", {}).values() for one in captured]
    return {
        "errors": bag.import_errors,
        "warnings": found,
        "dags": {name: _dag(dag) for name, dag in bag.dags.items()},
    }


def _dag(dag: Any) -> dict[str, Any]:
    timetable = dag.timetable
    expression = getattr(timetable, "_expression", None) or getattr(timetable, "expression", None)
    zone = getattr(timetable, "_timezone", None) or getattr(timetable, "timezone", None)
    return {
        "cron": expression,
        "timezone": str(getattr(zone, "name", zone)) if expression else None,
        "catchup": dag.catchup,
        "max_active_runs": dag.max_active_runs,
        "paused": dag.is_paused_upon_creation,
        "start_date": str(dag.start_date),
        "doc": dag.doc_md,
        "tags": sorted(dag.tags),
        "params": {
            name: {"schema": param.schema, "default": param.value if isinstance(param.value, str) else None}
            for name, param in ((name, dag.params.get_param(name)) for name in dag.params)
        },
        "tasks": {task.task_id: _task(task) for task in dag.tasks},
    }


def _task(task: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": task.operator_name if hasattr(task, "operator_name") else type(task).__name__,
        "upstream": sorted(task.upstream_task_ids),
    }
    if getattr(task, "json", None):
        found |= {
            "json": task.json,
            "retries": task.retries,
            "retry_delay": task.retry_delay.total_seconds(),
            "exponential": bool(task.retry_exponential_backoff),
            "timeout": task.execution_timeout.total_seconds(),
            "one_at_a_time": task.max_active_tis_per_dag == 1,
            "outlets": sorted(asset.uri for asset in task.outlets),
            "inlets": sorted(asset.uri for asset in task.inlets),
            "deferrable": task.deferrable,
        }
    return found


def test(name: str, conf: str, run_id: str) -> dict[str, Any]:
    if run_id:
        from airflow.models import DagRun
        from airflow.utils.session import create_session

        with create_session() as session:  # a run that waits for a scheduler
            session.query(DagRun).filter(DagRun.dag_id == name, DagRun.run_id == run_id).delete()
        DagRun.generate_run_id = staticmethod(lambda *_, **__: run_id)  # `dag.test` takes none
    run = _bag().dags[name].test(run_conf=json.loads(conf) or None)
    return {"run_id": run.run_id, **runs(name)["runs"][run.run_id]}


def runs(name: str) -> dict[str, Any]:
    from airflow.models import DagRun, TaskInstance
    from airflow.utils.session import create_session

    with create_session() as session:
        found = {
            run.run_id: {"state": str(run.state), "conf": run.conf, "tasks": {}}
            for run in session.query(DagRun).filter(DagRun.dag_id == name)
        }
        for one in session.query(TaskInstance).filter(TaskInstance.dag_id == name):
            task = f"{one.task_id}{f'[{one.map_index}]' if one.map_index >= 0 else ''}"
            found[one.run_id]["tasks"][task] = {"state": str(one.state), "try": one.try_number}
    return {"runs": found}


def round_trip(name: str) -> dict[str, Any]:
    from dagster_airflow import make_dagster_job_from_airflow_dag

    dag = _bag().dags[name]
    job = make_dagster_job_from_airflow_dag(dag)
    return {
        "edges": sorted(
            (upstream.node, invocation.alias or invocation.name)
            for invocation, inputs in job.dependencies.items()
            for dependency in inputs.values()
            for upstream in dependency.get_node_dependencies()
        ),
        "ops": sorted(node.name for node in job.nodes),
    }


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    answer = {"parse": parse, "test": test, "runs": runs, "round_trip": round_trip}[command](*arguments)
    print("\nANSWER " + json.dumps(answer))
