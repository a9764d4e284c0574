"""The sensor that posts a message about each failed run to a webhook, such as one of Slack."""

# No `from __future__ import annotations`: Dagster reads the annotations of a sensor as they stand.
import html
import logging
import threading
from collections.abc import Iterator

import dagster as dg

from biocloud_assets.launch.launcher import NO_OUTCOME, PARTITION_TAG, REASON_TAG
from biocloud_assets.launch.script import NOT_IN_AIRFLOW
from biocloud_assets.settings import Settings

POST_SECONDS = 10
"""For how long a tick waits for the answer to a message; then it goes on."""

_TEXT_LIMIT = 1_000


def build_failure_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor that posts a message about each failed run, once; running by default if the webhook is set.

    Args:
        settings: `webhook_url` is the address; without it, no message is posted.
    """
    url = settings.webhook_url

    @dg.run_failure_sensor(
        name="run_failure_messages",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.STOPPED if url is None else dg.DefaultSensorStatus.RUNNING,
        description="Posts a message about each failed run to the webhook of BIOCLOUD_WEBHOOK_URL.",
        metadata={NOT_IN_AIRFLOW: "The tasks of the exported DAGs post their own messages, by `on_failure_callback`."},
    )
    def run_failure_messages(context: dg.RunFailureSensorContext) -> Iterator[dg.SkipReason]:
        if url is None:
            yield dg.SkipReason("BIOCLOUD_WEBHOOK_URL isn't set")
            return
        run = context.dagster_run
        reason = run.tags.get(REASON_TAG, NO_OUTCOME)
        if reason == NO_OUTCOME:
            reason = context.failure_event.message or ""
        what = " ".join(filter(None, (run.job_name, run.tags.get(PARTITION_TAG))))
        answer = post(url.get_secret_value(), f"{settings.env}: {what} failed, run {run.run_id}\n{reason}")
        context.log.log(
            logging.INFO if answer == "200" else logging.WARNING, f"The message about run {run.run_id}: {answer}"
        )

    return run_failure_messages


def post(url: str, text: str) -> str:
    """Post a message in the format of Slack's incoming webhooks. It takes at most `POST_SECONDS`, and never raises.

    Args:
        url: the address, which is secret.
        text: the message; the rest of a long one is cut off.

    Returns:
        the HTTP status, or the class of the error; not its text, which may hold the address.
    """
    import requests  # no other definition needs it

    answer = ["no answer"]

    def send() -> None:
        try:
            body = {"text": html.escape(text[:_TEXT_LIMIT], quote=False)}
            answer[0] = str(requests.post(url, json=body, timeout=POST_SECONDS).status_code)
        except Exception as error:
            answer[0] = type(error).__name__

    # The timeout of requests is for each read, so a server that answers byte by byte would hold the tick for longer.
    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    thread.join(POST_SECONDS)
    return answer[0]
