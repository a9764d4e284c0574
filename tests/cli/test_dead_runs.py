"""Runs whose command was killed before they started: no event of the run names its process."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg

from biocloud_assets.cli.runs import close_dead_runs, create_run


@dg.job
def job() -> None:
    """Do nothing."""


def test_a_run_that_was_created_and_never_started_has_failed_if_its_command_is_gone(tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        child = os.fork()
        if child == 0:
            try:
                create_run(instance, job, {})
            finally:
                os._exit(0)  # whatever happens, the child must not go on with the tests
        os.waitpid(child, 0)
        (killed,) = instance.get_runs()
        going_on = create_run(instance, job, {})
        from_the_ui = instance.create_run_for_job(
            job, tags=killed.tags, parent_run_id=killed.run_id, root_run_id=killed.run_id
        )
        assert close_dead_runs(instance) == [killed.run_id]
        statuses = {run.run_id: run.status for run in instance.get_runs()}
    assert statuses == {
        killed.run_id: dg.DagsterRunStatus.FAILURE,
        going_on.run_id: dg.DagsterRunStatus.NOT_STARTED,
        from_the_ui.run_id: dg.DagsterRunStatus.NOT_STARTED,
    }
