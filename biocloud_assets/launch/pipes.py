"""Launch a step with Dagster Pipes: a Databricks run of `databricks/run_step.py` from the Git repository.

Dagster's own client for this (`PipesDatabricksClient`, 0.29) has no timeout, reports a cancelled run as a success, and
leaves its messages behind. So the run is submitted and followed here, and Pipes transports the context and the results.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import dagster as dg
from dagster_aws.pipes import PipesS3MessageReader
from dagster_databricks.pipes import PipesUnityCatalogVolumesMessageReader
from databricks.sdk.service import jobs

from biocloud_assets.environments import Environment, pinned
from biocloud_assets.launch import launcher, workspace
from biocloud_assets.launch.launcher import FINGERPRINT_TAG, Refusal, refuse
from biocloud_assets.launch.workspace import Cause
from biocloud_assets.settings import Settings
from biocloud_assets.steps import STEP_SCRIPT, Materialization, Observation, StepRequest, StepResult, from_message

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

_WAITING = {
    jobs.RunLifeCycleState.BLOCKED,
    jobs.RunLifeCycleState.PENDING,
    jobs.RunLifeCycleState.QUEUED,
    jobs.RunLifeCycleState.WAITING_FOR_RETRY,
}


def resource(settings: Settings) -> dg.ResourceDefinition:
    """The resource `step_launcher` for Pipes.

    Args:
        settings: of an environment on Databricks.
    """
    return dg.ResourceDefinition(lambda _: PipesLauncher(settings), description="Submits databricks/run_step.py.")


class PipesLauncher:
    """Launches steps on Databricks with Dagster Pipes.

    Args:
        settings: of an environment on Databricks.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def run(self, context: Any, request: StepRequest) -> Iterator[StepResult]:
        """Run a step on a cluster.

        Args:
            context: Dagster's, of the op.
            request: what the step is asked to do.

        Yields:
            its results, each as soon as it is received.

        Raises:
            SettingsError: a setting is missing.
            dg.Failure: the run failed, was cancelled, took too long, or didn't report every asset. It has been
                cancelled, if it was still running.
            dg.RetryRequested: the run failed for a reason that isn't known, and is repeated once.
        """
        settings, environment = self._settings, self._settings.environment
        client = workspace.client(settings)
        # Pipes doesn't know the context of a check, but that of the op in it.
        op: dg.OpExecutionContext = getattr(context, "op_execution_context", context)
        received = 0
        with (
            dg.open_pipes_session(
                context=op,
                context_injector=dg.PipesEnvContextInjector(),
                message_reader=_messages(environment, client, settings.s3_endpoint),
            ) as session,
            workspace.submitted(client, self._submission(op, request, session)) as run_id,
        ):
            run = _Run(client, environment, op.log, run_id)
            try:
                for _ in run.follow():
                    results, received = _new_results(session, received)
                    yield from results
            except BaseException:
                run.cancel()
                raise
        results, received = _new_results(session, received)
        yield from results
        messages = session.get_custom_messages()
        error = next((message["error"] for message in messages if "error" in message), None)
        if error is not None and error.get("refused"):
            refusal = Refusal(**error["refused"])
            if environment.volumes is not None:
                # A volume has no entity tags, so the cluster found another fingerprint than the sensor will find again.
                refusal = replace(refusal, fingerprint=op.run.tags.get(FINGERPRINT_TAG, refusal.fingerprint))
            raise refuse(op, str(error["message"]), refusal)
        if not run.successful:
            cause = workspace.cause(run.state)
            if error is not None and cause is not Cause.INFRASTRUCTURE:
                cause = Cause.INFRASTRUCTURE if error["retryable"] else Cause.PERMANENT
            failure = run.failure(retry=cause is Cause.INFRASTRUCTURE)
            if cause is Cause.UNKNOWN:
                raise launcher.retry(op.retry_number, remote=True, retries=1) from failure
            raise failure
        reported = {
            result.asset
            for message in messages
            if isinstance(result := from_message(message), (Materialization, Observation))
        }
        missing = set(request.assets) - reported
        if missing:
            raise dg.Failure(
                f"Databricks run {run.id} succeeded, but didn't report {', '.join(sorted(missing))}",
                metadata=run.metadata(),
            )

    def _submission(self, op: dg.OpExecutionContext, request: StepRequest, session: dg.PipesSession) -> dict[str, Any]:
        settings, environment = self._settings, self._settings.environment
        reference = workspace.git_reference(settings)
        parameters = [*request.arguments(), *workspace.locations(settings)]
        parameters += ["--orchestrator", "dagster", "--run-id", op.run.run_id]
        if environment.serverless is not None:  # it has no environment variables
            parameters += [part for pair in session.get_bootstrap_cli_arguments().items() for part in pair]
        key = str(op.op_handle)
        what = request.delivery or request.run_date or ""
        body = environment.submission(
            run_name=f"{op.run.job_name} {key} {what}".strip() + f" @ {reference}",
            git_reference=reference.git_source,
            task_key=key.replace(".", "__"),
            script=STEP_SCRIPT,
            parameters=parameters,
            libraries=pinned(environment.libraries, Path("uv.lock")),
        )
        if environment.serverless is None:
            body["tasks"][0]["new_cluster"]["spark_env_vars"] |= session.get_bootstrap_env_vars()
        return {**body, "idempotency_token": workspace.idempotency_token(op.run.run_id, key, op.retry_number)}


class _Run:
    """One run on Databricks, which is followed to its end."""

    def __init__(self, client: WorkspaceClient, environment: Environment, log: logging.Logger, run_id: int) -> None:
        self._client, self._environment, self._log = client, environment, log
        self.id = run_id
        self.state = jobs.Run()

    def follow(self) -> Iterator[None]:
        """Ask for the state of the run until it has ended.

        Raises:
            dg.Failure: it waited for its cluster, or ran, longer than it may.
        """
        began = ran = time.monotonic()
        seen = None
        while True:
            self.state = self._client.jobs.get_run(self.id)
            state = self._life_cycle
            if state != seen:
                self._log.info(f"Databricks run {self.id} is {state and state.value}: {self.state.run_page_url}")
                seen = state
            yield
            if workspace.has_ended(self.state):
                self._log_commit()
                return
            now = time.monotonic()
            if state in _WAITING:
                ran = now
                if now - began > self._environment.start_timeout_seconds:
                    limit = f"start_timeout_seconds, {self._environment.start_timeout_seconds}"
                    raise self._failure(f"waits for its cluster for longer than {limit}")
            # Databricks enforces the limit itself once the cluster has started; this is the backstop.
            elif now - ran > self._environment.timeout_seconds + self._environment.start_timeout_seconds:
                raise self._failure(f"runs for longer than timeout_seconds, {self._environment.timeout_seconds}")
            time.sleep(self._environment.poll_seconds)

    def cancel(self) -> None:
        """Cancel the run if it hasn't ended; log an error if that fails."""
        try:
            self._client.jobs.cancel_run(self.id)
            self._log.info(f"Databricks run {self.id} was cancelled")
        except Exception as error:  # of any kind: the error because of which the run is cancelled is raised instead
            self._log.error(f"Databricks run {self.id} could not be cancelled, and may still be running: {error}")

    @property
    def successful(self) -> bool:
        """Whether the run has ended, and well."""
        return self._result is jobs.RunResultState.SUCCESS

    def failure(self, *, retry: bool) -> dg.Failure:
        """The failure of a run that has ended, with its reason.

        Args:
            retry: whether a repetition can help.
        """
        state = self._result or self._life_cycle
        reason = workspace.reason(self._client, self.state)
        return self._failure(f"ended as {state and state.value}: {reason}", allow_retries=retry)

    def metadata(self) -> dict[str, Any]:
        """The identifier and the page of the run."""
        url = self.state.run_page_url
        return {"databricks_run_id": self.id, **({"databricks_run": dg.MetadataValue.url(url)} if url else {})}

    @property
    def _life_cycle(self) -> jobs.RunLifeCycleState | None:
        return None if self.state.state is None else self.state.state.life_cycle_state

    @property
    def _result(self) -> jobs.RunResultState | None:
        return None if self.state.state is None else self.state.state.result_state

    def _log_commit(self) -> None:
        """Log which commit a branch or a tag was when the run checked it out."""
        source = self.state.git_source
        if source is not None and source.git_snapshot is not None and source.git_snapshot.used_commit:
            self._log.info(f"Databricks run {self.id} ran the commit {source.git_snapshot.used_commit}")

    def _failure(self, text: str, *, allow_retries: bool = True) -> dg.Failure:
        return dg.Failure(f"Databricks run {self.id} {text}", metadata=self.metadata(), allow_retries=allow_retries)


def _new_results(session: dg.PipesSession, received: int) -> tuple[list[StepResult], int]:
    """The results that have arrived since, and the number of messages so far."""
    messages = session.get_custom_messages()
    results = [from_message(message) for message in messages[received:]]
    return [result for result in results if result is not None], len(messages)


def _messages(environment: Environment, client: WorkspaceClient, s3_endpoint: str | None) -> dg.PipesMessageReader:
    """Reads the messages of a run, in S3 or in a volume, and deletes them."""
    interval = min(1.0, environment.poll_seconds)
    if environment.messages.startswith("/Volumes/"):
        return PipesUnityCatalogVolumesMessageReader(
            client=client, volume_path=environment.messages, interval=interval, include_stdio_in_messages=False
        )
    return _S3Messages(environment.messages, s3_endpoint, interval)


class _S3Messages(PipesS3MessageReader):
    """Dagster's reader of messages in S3, below a given prefix, which it leaves empty."""

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
