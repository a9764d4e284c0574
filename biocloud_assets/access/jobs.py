"""The group sync in Dagster: an op, the job `group_sync` and its schedule."""

# No `from __future__ import annotations`: Dagster reads the annotation of an op's config as it stands.
from typing import get_args

import dagster as dg
from pydantic import Field

from biocloud_assets.launch.script import script_tags
from biocloud_assets.settings import Settings, WorkspaceEnvironment

_ENVIRONMENTS: tuple[str, ...] = get_args(WorkspaceEnvironment)


class GroupSyncConfig(dg.Config):
    """What one run of the job does. By default it only plans."""

    environment: str = Field(default=_ENVIRONMENTS[0], description=" or ".join(_ENVIRONMENTS))
    dry_run: bool = Field(default=True, description="send only GET requests, and show the plan")
    allow_removals: list[str] = Field(default=[], description="groups that may lose any number of members")


@dg.op(
    tags=script_tags(
        "databricks/sync_groups.py",
        # The folder is relative to that of the script, in which Databricks runs it.
        ["{environment}", "--groups", "../groups", "--secret-scope", "biocloud"],
        libraries=["pydantic-settings", "pyyaml", "requests", "urllib3"],
        needs_spark=False,
    )
)
def sync_groups(context: dg.OpExecutionContext, config: GroupSyncConfig) -> None:
    """Synchronise the members of Databricks groups with `groups/<environment>_group.yml`.

    Raises:
        dg.Failure: some groups are not as in the file; the others are.
        BiocloudError: wrong configuration, a refused file, or a server that can't be read.
    """
    # Imported here, because it imports requests, which no other definition needs.
    from biocloud_assets.access.plan import escape_markdown, render
    from biocloud_assets.access.sync_groups import sync_environment

    report = sync_environment(config.environment, config.dry_run, config.allow_removals)
    metadata = {"report": dg.MetadataValue.md(render(report, escape_markdown))}
    if report.failures:
        # A failed op has no output to carry the metadata.
        raise dg.Failure(f"not as in the file: {', '.join(report.failures)}", metadata=metadata, allow_retries=False)
    context.add_output_metadata(metadata)


@dg.job(name="group_sync")
def job() -> None:
    """Synchronise the members of Databricks groups with the files in `groups/`."""
    sync_groups()


@dg.schedule(
    job=job,
    name="group_sync_daily",
    cron_schedule="15 5 * * *",
    execution_timezone="UTC",
    # Turned on by hand: loading a code location must not change anybody's access.
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
def schedule() -> dg.RunRequest | dg.SkipReason:
    """Synchronise the groups of the environment that Dagster runs in, once a day."""
    environment = Settings.load().env
    if environment == "local":
        return dg.SkipReason("BIOCLOUD_ENV is local, which has no workspace")
    config = GroupSyncConfig(environment=environment, dry_run=False)
    return dg.RunRequest(run_config=dg.RunConfig(ops={"sync_groups": config}))
