"""Launching a step by Dagster Pipes: a run of `databricks/run_step.py` from the branch, on a cluster of the pool.

What belongs here: one run from submission to its end, and what comes back from it. What doesn't: the step.

Dagster's own client for this (`PipesDatabricksClient`) has no timeout, takes a cancelled run for a success, and leaves
its messages behind; so the run is submitted and watched here, and Pipes carries the context there and the reports back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import dagster as dg
from dagster_aws.pipes import PipesS3MessageReader
from dagster_databricks.pipes import PipesUnityCatalogVolumesMessageReader
from databricks.sdk.errors.base import DatabricksError
from databricks.sdk.service import jobs

from biocloud_assets.environments import Environment
from biocloud_assets.launch import workspace
from biocloud_assets.run_step import SCRIPT, Step, Told, from_message
from biocloud_assets.settings import Settings

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

_WAITING = {
    jobs.RunLifeCycleState.BLOCKED,
    jobs.RunLifeCycleState.PENDING,
    jobs.RunLifeCycleState.QUEUED,
    jobs.RunLifeCycleState.WAITING_FOR_RETRY,
}
_OVER = {
    jobs.RunLifeCycleState.INTERNAL_ERROR,
    jobs.RunLifeCycleState.SKIPPED,
    jobs.RunLifeCycleState.TERMINATED,
}


def resource(settings: Settings) -> dg.ResourceDefinition:
    """The resource `step_launcher` for Pipes."""
    return dg.ResourceDefinition(lambda _: PipesLauncher(settings), description="Submits databricks/run_step.py.")


class PipesLauncher:
    """Launches steps on Databricks by Dagster Pipes.

    Args:
        settings: of an environment on Databricks.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def run(self, context: Any, step: Step) -> Iterator[Told]:
        """Do a step on a cluster.

        Args:
            context: Dagster's, of the step.
            step: what is to be done.

        Yields:
            what it reports, as soon as it is heard.

        Raises:
            SettingsError: a setting is missing.
            dg.Failure: the run failed, was cancelled, took too long, or didn't report all that it should have made. It
                has been cancelled, if it was still there.
        """
        settings, environment = self._settings, self._settings.environment
        client = workspace.client(settings)
        # Pipes doesn't know the context of a check, but that of the op in it.
        op: dg.OpExecutionContext = getattr(context, "op_execution_context", context)
        heard = 0
        run: _Run | None = None
        with dg.open_pipes_session(
            context=op,
            context_injector=dg.PipesEnvContextInjector(),
            message_reader=_messages(environment, client, settings.s3_endpoint),
        ) as session:
            run = _Run(client, environment, op.log, self._submission(op, step, session))
            try:
                for _ in run.watch():
                    reports, heard = _new_reports(session, heard)
                    yield from reports
            except BaseException:
                run.cancel()
                raise
        reports, heard = _new_reports(session, heard)
        yield from reports
        messages = session.get_custom_messages()
        run.raise_unless_successful(refused=any("error" in message for message in messages))
        told = [message.get("Report") or message.get("Sighting") or {} for message in messages]
        missing = set(step.assets) - {report.get("asset") for report in told}
        if missing:
            raise dg.Failure(
                f"Databricks run {run.id} ended well, but didn't report {', '.join(sorted(missing))}",
                metadata=run.metadata(),
            )

    def _submission(self, op: dg.OpExecutionContext, step: Step, session: dg.PipesSession) -> dict[str, Any]:
        settings, environment = self._settings, self._settings.environment
        new_cluster = environment.new_cluster()
        new_cluster["spark_env_vars"] = {
            **environment.cluster.spark_env_vars,
            **session.get_bootstrap_env_vars(),
        }
        where = ["--landing-root", settings.landing, "--lake-root", settings.lake, "--curated-root", settings.curated]
        if environment.catalog is not None:
            where += ["--catalog", environment.catalog]
        who = ["--orchestrator", "dagster", "--run-id", op.run.run_id]
        key = str(op.op_handle)
        task = {
            "task_key": key.replace(".", "__"),
            "new_cluster": new_cluster,
            "libraries": workspace.libraries(environment.libraries),
            "spark_python_task": {
                "python_file": SCRIPT,
                "source": "GIT",
                "parameters": [*step.arguments(), *where, *who],
            },
        }
        return {
            "run_name": f"{op.run.job_name} {key} {step.delivery or step.run_date or ''}".strip(),
            "tasks": [jobs.SubmitTask.from_dict(task)],
            "git_source": jobs.GitSource.from_dict(
                {
                    "git_url": environment.git.url,
                    "git_provider": environment.git.provider,
                    "git_branch": workspace.branch(settings),
                }
            ),
            "timeout_seconds": environment.timeout_seconds,
            "idempotency_token": workspace.idempotency_token(op.run.run_id, key, op.retry_number),
        }


class _Run:
    """One run on Databricks: submitted when it is made, and watched to its end."""

    def __init__(
        self, client: WorkspaceClient, environment: Environment, log: logging.Logger, submission: dict[str, Any]
    ) -> None:
        self._client, self._environment, self._log = client, environment, log
        self.id = int(client.jobs.submit(**submission).bind()["run_id"])
        self._run = jobs.Run()

    def watch(self) -> Iterator[None]:
        """Look at the run, again and again, until it is over.

        Raises:
            dg.Failure: it waited for its cluster, or ran, longer than it may.
        """
        began = ran = time.monotonic()
        seen = None
        while True:
            self._run = self._client.jobs.get_run(self.id)
            state = self._state.life_cycle_state
            if state != seen:
                self._log.info(f"Databricks run {self.id} is {state and state.value}: {self._run.run_page_url}")
                seen = state
            yield
            if state in _OVER:
                return
            now = time.monotonic()
            if state in _WAITING:
                ran = now
                if now - began > self._environment.start_timeout_seconds:
                    limit = f"start_timeout_seconds, {self._environment.start_timeout_seconds}"
                    raise self._failure(f"waits for its cluster for longer than {limit}")
            # Databricks keeps the limit itself, from when the cluster is there; this is for when it doesn't.
            elif now - ran > self._environment.timeout_seconds + self._environment.start_timeout_seconds:
                raise self._failure(f"runs for longer than timeout_seconds, {self._environment.timeout_seconds}")
            time.sleep(self._environment.poll_seconds)

    def cancel(self) -> None:
        """Cancel the run if it isn't over, for nobody waits for it any more."""
        try:
            self._client.jobs.cancel_run(self.id)
            self._log.info(f"Databricks run {self.id} was cancelled")
        except DatabricksError as error:  # what made it necessary is what is told, and this beside it
            self._log.error(f"Databricks run {self.id} could not be cancelled, and may still be running: {error}")

    def raise_unless_successful(self, *, refused: bool) -> None:
        """Raise the failure of a run that is over, with its reason.

        Args:
            refused: whether the step said that another try won't mend it.
        """
        if self._state.result_state == jobs.RunResultState.SUCCESS:
            return
        state = self._state.result_state or self._state.life_cycle_state
        # Whoever cancels a run on Databricks doesn't want the next one to start a few seconds later.
        retries = not refused and state is not jobs.RunResultState.CANCELED
        reason = workspace.reason(self._client, self._run)
        raise self._failure(f"ended as {state and state.value}: {reason}", allow_retries=retries)

    def metadata(self) -> dict[str, Any]:
        """Where to look at the run."""
        url = self._run.run_page_url
        return {"databricks_run_id": self.id, **({"databricks_run": dg.MetadataValue.url(url)} if url else {})}

    @property
    def _state(self) -> jobs.RunState:
        return self._run.state or jobs.RunState()

    def _failure(self, text: str, *, allow_retries: bool = True) -> dg.Failure:
        return dg.Failure(f"Databricks run {self.id} {text}", metadata=self.metadata(), allow_retries=allow_retries)


def _new_reports(session: dg.PipesSession, heard: int) -> tuple[list[Told], int]:
    """What has been reported since, and how many messages there are now."""
    messages = session.get_custom_messages()
    reports = [from_message(message) for message in messages[heard:]]
    return [report for report in reports if report is not None], len(messages)


def _messages(environment: Environment, client: WorkspaceClient, s3_endpoint: str | None) -> dg.PipesMessageReader:
    """What reads the messages of a run, in S3 or in a volume, and clears them away."""
    interval = min(1.0, environment.poll_seconds)
    if environment.messages.startswith("/Volumes/"):
        return PipesUnityCatalogVolumesMessageReader(
            client=client, volume_path=environment.messages, interval=interval, include_stdio_in_messages=False
        )
    return _S3Messages(environment.messages, s3_endpoint, interval)


class _S3Messages(PipesS3MessageReader):
    """Dagster's reader of messages in S3, below a prefix of ours, which it leaves empty."""

    def __init__(self, root: str, endpoint: str | None, interval: float) -> None:
        import boto3

        address = urlsplit(root)
        self._prefix = address.path.strip("/")
        super().__init__(bucket=address.netloc, client=boto3.client("s3", endpoint_url=endpoint), interval=interval)

    @contextmanager
    def get_params(self) -> Iterator[dict[str, Any]]:
        with super().get_params() as parameters:
            prefix = f"{self._prefix}/{parameters['key_prefix']}"
            try:
                yield {**parameters, "key_prefix": prefix}
            finally:
                pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{prefix}/")
                for page in pages:
                    keys = [{"Key": item["Key"]} for item in page.get("Contents", ())]
                    if keys:
                        self.client.delete_objects(Bucket=self.bucket, Delete={"Objects": keys, "Quiet": True})
