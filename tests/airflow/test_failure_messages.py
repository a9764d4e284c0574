"""The message that an exported DAG posts about a failed task, to a real HTTP server."""

from __future__ import annotations

import json
import time
from typing import Literal

import pytest

from tests.airflow.conftest import OLDEST_AND_NEWEST, REFUSED, Deployed
from tests.webhook import SECRET, Webhook, webhook  # noqa: F401

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.timeout(1800),
    pytest.mark.parametrize("version", OLDEST_AND_NEWEST, indirect=True),
]


def connect(quick: Deployed, webhook: Webhook) -> None:  # noqa: F811
    """Create the connection, as for Slack: the host is public, and the password is the secret part of the address."""
    connection = {"conn_type": "slackwebhook", "host": f"http://127.0.0.1:{webhook.port}/services", "password": SECRET}
    quick.airflow.settings["AIRFLOW_CONN_BIOCLOUD_WEBHOOK"] = json.dumps(connection)


@pytest.mark.parametrize("answer", [200, 500, "hang"])
def test_a_failed_task_posts_one_message_and_fails_whatever_the_server_answers(
    quick: Deployed,
    webhook: Webhook,  # noqa: F811
    answer: int | Literal["hang"],
) -> None:
    connect(quick, webhook)
    webhook.answer = answer
    quick.airflow.migrate()
    began = time.monotonic()
    run = quick.test("dsi_raw", delivery=REFUSED)
    assert time.monotonic() - began < 300
    assert (run["state"], run["tasks"]["ingest_dsi"]["try"]) == ("failed", 1)
    ((path, message),) = webhook.messages
    assert path == f"/services/{SECRET}"
    assert set(message) == {"text"}
    first, second, *_ = message["text"].splitlines()
    assert first == f"development: task ingest_dsi of DAG dsi_raw failed, run {run['run_id']}"
    assert "the delivery is refused" in second
    assert SECRET not in run["log"]
    assert f"The message to the connection biocloud_webhook: {'no answer' if answer == 'hang' else answer}" in (
        run["log"].replace("TimeoutError", "no answer")
    )


def test_a_task_that_succeeds_on_a_retry_posts_none_and_without_the_connection_none_is_posted(
    quick: Deployed,
    webhook: Webhook,  # noqa: F811
) -> None:
    quick.airflow.migrate()
    failed = quick.test("dsi_raw", delivery=REFUSED)
    assert failed["state"] == "failed"
    connect(quick, webhook)
    quick.workspace.plan_run("no cluster")
    assert quick.test("dsi_raw", delivery="2026-01-31-06:00:00")["state"] == "success"
    assert webhook.messages == []


def test_a_dispatcher_that_cannot_list_the_landing_zone_posts_a_message(
    quick: Deployed,
    webhook: Webhook,  # noqa: F811
) -> None:
    connect(quick, webhook)
    file = quick.site.dags / "dsi_deliveries.py"
    source = file.read_text()
    file.write_text(
        source.replace('"retries": 2', '"retries": 0').replace('LANDING_BUCKET = "', 'LANDING_BUCKET = "no-')
    )
    assert file.read_text() != source
    quick.prepare()
    assert quick.test("dsi_deliveries")["state"] == "failed"
    (text,) = webhook.texts
    assert "task find_new of DAG dsi_deliveries failed" in text
    assert "NoSuchBucket" in text
