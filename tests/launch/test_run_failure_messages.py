"""The message that Dagster posts about a failed run, to a real HTTP server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Literal

import dagster as dg
import pytest
from pydantic import SecretStr

from biocloud_assets.errors import SettingsError
from biocloud_assets.launch import failure_messages
from biocloud_assets.launch.failure_messages import build_failure_sensor
from biocloud_assets.launch.launcher import INFRASTRUCTURE, PARTITION_TAG, failure_tags
from biocloud_assets.settings import Settings
from tests.webhook import SECRET, Webhook, webhook  # noqa: F401


@dg.op
def fail() -> None:
    raise ValueError("expected <this> & found that")


@dg.job
def failing() -> None:
    fail()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def evaluate(instance: dg.DagsterInstance, url: str | None, **tags: str) -> tuple[dg.ExecuteInProcessResult, Any]:
    """A run that fails, and what the sensor makes of it."""
    sensor: Any = build_failure_sensor(Settings(webhook_url=None if url is None else SecretStr(url)))
    result = failing.execute_in_process(instance=instance, raise_on_error=False, tags=tags)
    context = dg.build_run_status_sensor_context(
        sensor_name=sensor.name,
        dagster_event=result.get_run_failure_event(),
        dagster_instance=instance,
        dagster_run=result.dagster_run,
    ).for_run_failure()
    return result, list(sensor(context))


def test_a_failed_run_posts_one_message_with_what_failed_and_why(
    instance: dg.DagsterInstance,
    webhook: Webhook,  # noqa: F811
) -> None:
    tags = {PARTITION_TAG: "2026-01-31-06:00:00", **failure_tags(INFRASTRUCTURE, "<no capacity> & so on\nmore")}
    result, _ = evaluate(instance, webhook.url, **tags)
    ((path, message),) = webhook.messages
    assert path == f"/services/{SECRET}"
    assert message == {
        "text": f"local: failing 2026-01-31-06:00:00 failed, run {result.run_id}\n&lt;no capacity&gt; &amp; so on"
    }


def test_without_an_outcome_the_message_has_the_error_of_the_run(
    instance: dg.DagsterInstance,
    webhook: Webhook,  # noqa: F811
) -> None:
    evaluate(instance, webhook.url)
    (text,) = webhook.texts
    assert "Steps failed: ['fail']" in text


@pytest.mark.parametrize("answer", [500, 404, "hang"])
def test_whatever_the_server_answers_the_sensor_goes_on_soon_and_shows_no_address(
    instance: dg.DagsterInstance,
    webhook: Webhook,  # noqa: F811
    answer: int | Literal["hang"],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(failure_messages, "POST_SECONDS", 1)
    webhook.answer = answer
    began = time.monotonic()
    result, _ = evaluate(instance, webhook.url)
    assert time.monotonic() - began < 60
    assert len(webhook.messages) == 1
    assert instance.get_run_by_id(result.run_id).status is dg.DagsterRunStatus.FAILURE  # type: ignore[union-attr]
    shown = "".join(capfd.readouterr())
    assert SECRET not in shown
    assert f"The message about run {result.run_id}: {'' if answer == 'hang' else answer}" in shown


def test_a_server_that_is_not_there_changes_nothing(instance: dg.DagsterInstance) -> None:
    evaluate(instance, f"http://127.0.0.1:9/services/{SECRET}")


def test_without_an_address_no_message_is_posted_and_the_sensor_is_stopped(
    instance: dg.DagsterInstance,
    webhook: Webhook,  # noqa: F811
) -> None:
    assert build_failure_sensor(Settings()).default_status is dg.DefaultSensorStatus.STOPPED
    address = SecretStr(webhook.url)
    assert build_failure_sensor(Settings(webhook_url=address)).default_status is dg.DefaultSensorStatus.RUNNING
    _, skipped = evaluate(instance, None)
    assert [one.skip_message for one in skipped] == ["BIOCLOUD_WEBHOOK_URL isn't set"]
    assert webhook.messages == []


def test_a_wrong_address_is_named_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOCLOUD_WEBHOOK_URL", f"hooks.example.org/{SECRET}")
    with pytest.raises(SettingsError, match="BIOCLOUD_WEBHOOK_URL: expected an http:// or https:// address") as raised:
        Settings.load()
    assert SECRET not in str(raised.value)
    monkeypatch.setenv("BIOCLOUD_WEBHOOK_URL", f"https://hooks.example.org/{SECRET}")
    assert SECRET not in repr(Settings.load())
