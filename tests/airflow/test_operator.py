"""The operator of the exported DAGs without Airflow: which errors are retried, noted, or make a task fail for good."""

from __future__ import annotations

import ast
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

EXPORTED = Path(__file__).parents[2] / "airflow_export/development/dags/dsi_raw.py"
RUN_ID = 7
GIVEN_UP = "API requests to Databricks failed 5 times. Giving up."
FORBIDDEN = "Response: no permission, Status Code: 403"


class AirflowException(Exception):  # noqa: N818
    """The error of the provider, as in Airflow."""


class AirflowFailException(AirflowException):
    """A failure that isn't retried, as in Airflow."""


class AirflowTaskTimeout(BaseException):
    """The task has run for too long, as in Airflow."""


class AirflowTaskTerminated(BaseException):
    """A person or the scheduler has ended the task, as in Airflow."""


class ProviderOperator:
    """The provider's operator: it submits a run, whose polling may end with an error."""

    def __init__(self, databricks: Databricks) -> None:
        self.databricks, self.log = databricks, logging.getLogger("task")
        self.databricks_conn_id, self.databricks_retry_limit, self.databricks_retry_delay = "databricks", 5, 5
        self.run_id: int | None = None
        self.json: dict[str, Any] = {"run_name": "dsi_raw @ main"}

    def execute(self, context: dict[str, Any]) -> None:
        self.run_id = self.databricks.submit_run(self.json)
        if self.databricks.polling_error is not None:
            raise self.databricks.polling_error

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: dict[str, Any]) -> None:
        if next_method == "__fail__":
            raise AirflowException("Trigger failure")
        getattr(self, next_method)(context, **(next_kwargs or {}))

    def execute_complete(self, context: dict[str, Any], event: dict[str, Any]) -> None:
        assert event["run_id"] == RUN_ID


class Databricks:
    """A workspace with one run, and the task instance that follows it.

    Attributes:
        state: the state of the run.
        request_error: the error of every request.
        polling_error: the error with which the provider stops following the run.
        noted: the keys of the XComs that the task pushes.
    """

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.state: dict[str, str] = {"life_cycle_state": "RUNNING"}
        self.request_error: Exception | None = None
        self.polling_error: BaseException | None = None
        self.noted: list[str] = []
        self.submitted: list[str] = []
        self._caplog = caplog
        caplog.set_level(logging.INFO)
        tree = ast.parse(EXPORTED.read_text())
        tree.body = [
            node
            for node in tree.body
            if isinstance(node, (ast.Assign, ast.ClassDef, ast.FunctionDef, ast.Import, ast.ImportFrom))
            and not (isinstance(node, ast.Import) and node.names[0].name == "pendulum")
            and not (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("airflow"))
        ]
        self.names: dict[str, Any] = {
            "AirflowException": AirflowException,
            "AirflowFailException": AirflowFailException,
            "AirflowTaskTimeout": AirflowTaskTimeout,
            "DatabricksHook": lambda *_, **__: self,
            "DatabricksSubmitRunOperator": ProviderOperator,
        }
        exec(compile(tree, EXPORTED.name, "exec"), self.names)

    def submit_run(self, json: dict[str, Any]) -> int:
        self._raise()
        self.submitted.append(json["idempotency_token"])
        return RUN_ID

    def get_run(self, run_id: int) -> dict[str, Any]:
        self._raise()
        assert run_id == RUN_ID
        return {"state": self.state, "tasks": [{"run_id": 8}]}

    def get_run_output(self, run_id: int) -> dict[str, Any]:
        self._raise()
        assert run_id == 8
        return {"logs": "raw/dsi/sensor: 3 rows"}

    def execute(self, try_number: int = 1) -> None:
        self._operator().execute(self._context(try_number))

    def resume(self, method: str, **arguments: Any) -> None:
        self._operator().resume_execution(next_method=method, next_kwargs=arguments, context=self._context(1))

    def log(self, level: int = logging.INFO) -> str:
        return "\n".join(record.getMessage() for record in self._caplog.records if record.levelno == level)

    def _operator(self) -> Any:
        return self.names["DatabricksStepOperator"](self)

    def _context(self, try_number: int) -> dict[str, Any]:
        def pull(task_ids: str, key: str, **_: Any) -> Any:
            return RUN_ID if key == "run_id" else None

        def push(key: str, value: Any) -> None:
            self.noted.append(key)

        names = {"dag_id": "dsi_raw", "run_id": "by-hand", "task_id": "ingest_dsi", "try_number": try_number}
        return {"ti": SimpleNamespace(**names, xcom_pull=pull, xcom_push=push), "params": {}}

    def _raise(self) -> None:
        if self.request_error is not None:
            raise self.request_error


@pytest.fixture
def databricks(caplog: pytest.LogCaptureFixture) -> Databricks:
    return Databricks(caplog)


@pytest.mark.parametrize("try_number", [1, 2, 6])
def test_every_try_that_cannot_reach_databricks_notes_its_failure_and_is_retried(
    databricks: Databricks, try_number: int
) -> None:
    databricks.request_error = AirflowException(GIVEN_UP)
    with pytest.raises(AirflowException, match="Giving up") as caught:
        databricks.execute(try_number)
    assert caught.type is AirflowException
    assert databricks.noted == ["failures_by-hand"]


@pytest.mark.parametrize("try_number", [1, 2])
def test_a_request_that_databricks_refuses_fails_every_try_for_good(databricks: Databricks, try_number: int) -> None:
    databricks.request_error = AirflowException(FORBIDDEN)
    with pytest.raises(AirflowFailException, match="403"):
        databricks.execute(try_number)
    assert databricks.noted == []


def test_a_try_follows_the_active_run_of_an_earlier_one(databricks: Databricks) -> None:
    databricks.execute(1)
    (token,) = databricks.submitted
    databricks.execute(2)
    assert set(databricks.submitted) == {token}


def test_a_trigger_that_fails_is_retried_and_noted_while_the_run_is_active(databricks: Databricks) -> None:
    with pytest.raises(AirflowException, match="Trigger failure") as caught:
        databricks.resume("__fail__", error="Trigger failure", traceback=["Traceback"])
    assert caught.type is AirflowException
    assert databricks.noted == ["failures_by-hand"]


def test_a_trigger_that_fails_makes_the_task_fail_for_good_if_a_person_has_cancelled_the_run(
    databricks: Databricks,
) -> None:
    databricks.state = {"life_cycle_state": "TERMINATED", "result_state": "CANCELED"}
    with pytest.raises(AirflowFailException, match="Trigger failure"):
        databricks.resume("__fail__", error="Trigger failure")
    assert databricks.noted == []


def test_a_deferred_run_that_ends_well_is_a_success_with_its_output_in_the_log(databricks: Databricks) -> None:
    databricks.state = {"life_cycle_state": "TERMINATED", "result_state": "SUCCESS"}
    databricks.resume("execute_complete", event={"run_id": RUN_ID})
    assert "raw/dsi/sensor: 3 rows" in databricks.log()


@pytest.mark.parametrize("error", [AirflowException(GIVEN_UP), AirflowTaskTimeout("Timeout"), ConnectionError("lost")])
def test_a_run_that_ends_well_is_a_success_though_airflow_has_stopped_following_it(
    databricks: Databricks, error: BaseException
) -> None:
    databricks.polling_error = error
    databricks.state = {"life_cycle_state": "TERMINATED", "result_state": "SUCCESS"}
    databricks.execute()
    assert str(error) in databricks.log(logging.WARNING)
    assert databricks.noted == []


def test_a_run_that_ends_well_is_a_success_though_its_trigger_has_failed(databricks: Databricks) -> None:
    databricks.state = {"life_cycle_state": "TERMINATED", "result_state": "SUCCESS"}
    databricks.resume("__fail__", error="Trigger failure")
    assert "Trigger failure" in databricks.log(logging.WARNING)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), AirflowTaskTerminated("SIGTERM")])
def test_a_task_that_is_terminated_never_succeeds(databricks: Databricks, error: BaseException) -> None:
    databricks.polling_error = error
    databricks.state = {"life_cycle_state": "TERMINATED", "result_state": "SUCCESS"}
    with pytest.raises(type(error)):
        databricks.execute()


def test_a_task_that_times_out_while_its_run_is_active_fails(databricks: Databricks) -> None:
    databricks.polling_error = AirflowTaskTimeout("Timeout")
    with pytest.raises(AirflowTaskTimeout):
        databricks.execute()
    assert databricks.noted == ["failures_by-hand"]
