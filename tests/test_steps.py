"""Requests and results cross a process border unchanged."""

from __future__ import annotations

import json
import logging

import pytest
from dagster_pipes import PIPES_METADATA_TYPE_INFER

from biocloud_assets import steps
from biocloud_assets.run_step import _parser, _request
from biocloud_assets.steps import CheckResult, Materialization, Observation, StepRequest, StepResult

ROOTS = ["--landing-root", "in", "--lake-root", "out"]

RESULTS: list[StepResult] = [
    Materialization("raw/dsi/sensor", {"rows": steps.integer(3), "preview": steps.markdown("| a |")}),
    CheckResult("raw/dsi/sensor", "key", False, True, "expected …, found …", {"n": steps.integer(1)}),
    CheckResult("raw/dsi/sensor", "key", passed=True, blocking=False),
    Observation("curated/dsi/observation", "2026-01-31", {"dry_run": steps.boolean(True)}),
]


@pytest.mark.parametrize(
    "request_",
    [
        StepRequest(("raw/dsi/sensor", "raw/dsi/delivery"), ("raw/dsi/sensor:key",), "2026-01-31-06:00:00"),
        StepRequest(("curated/dsi/retention",), run_date="2026-01-31", retention_days=0, dry_run=True),
        StepRequest(checks=("raw/dsi/sensor:key",)),
    ],
)
def test_a_request_is_the_same_after_the_command_line(request_: StepRequest) -> None:
    assert _request(_parser().parse_args([*request_.arguments(), *ROOTS])) == request_


def test_a_check_without_a_name_selects_all_checks_of_an_asset() -> None:
    parsed = _parser().parse_args(["--check", "raw/dsi/sensor_deployment", *ROOTS])
    names = [check.partition(":")[2] for check in _request(parsed).checks]
    assert names == ["row_count", "key", "references"]


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_a_result_is_the_same_after_a_message(result: StepResult) -> None:
    assert steps.from_message(json.loads(json.dumps(steps.to_message(result)))) == result


def test_another_message_holds_no_result() -> None:
    assert steps.from_message({"error": {"message": "…"}}) is None


def test_metadata_has_the_types_of_dagster_pipes() -> None:
    known = {"text", "md", "int", "bool", "table", "table_schema", "table_column_lineage", PIPES_METADATA_TYPE_INFER}
    values = [
        steps.text("a"),
        steps.markdown("a"),
        steps.integer(1),
        steps.boolean(True),
        steps.table([("a", "string")], [{"a": "b"}]),
        steps.column_schema([("a", "string")]),
        steps.column_lineage({"a": [("landing/dsi/sensor", "a")]}),
    ]
    assert all(set(value) == {"type", "raw_value"} and value["type"] in known for value in values)


def test_a_log_has_a_line_for_each_result_at_its_level(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("biocloud.test")
    with caplog.at_level(logging.INFO, "biocloud.test"):
        assert list(steps.log_results(iter(RESULTS), log)) == RESULTS
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "raw/dsi/sensor: rows 3"),
        ("ERROR", "raw/dsi/sensor, check key: failed. expected …, found …"),
        ("INFO", "raw/dsi/sensor, check key: passed. "),
        ("INFO", "curated/dsi/observation: dry_run True"),
    ]


@pytest.mark.parametrize(
    ("passed", "blocking", "level"),
    [(True, True, logging.INFO), (False, True, logging.ERROR), (False, False, logging.WARNING)],
)
def test_a_failed_check_is_logged_by_its_severity(passed: bool, blocking: bool, level: int) -> None:
    assert CheckResult("raw/dsi/sensor", "key", passed, blocking).log_level == level
