"""The group sync as Dagster sees it: an op, the job `group_sync` and its schedule.

What belongs here: configuration, and the plan and the result as metadata. What doesn't: the sync itself. `job` and
`schedule` are for `biocloud_assets.definitions`: `jobs=[access.jobs.job], schedules=[access.jobs.schedule]`.
"""

# No `from __future__ import annotations`: Dagster reads the annotation of an op's config as it stands.
from collections.abc import Sequence

import dagster as dg
from pydantic import Field

from biocloud_assets.access.plan import GroupResult, Limits, Plan
from biocloud_assets.access.report import changes
from biocloud_assets.access.scim import Workspace
from biocloud_assets.access.sync_groups import apply_plan, checked_environment, load_groups, make_plan
from biocloud_assets.launch.script import script_tags
from biocloud_assets.settings import Settings, WorkspaceSettings


class GroupSyncConfig(dg.Config):
    """What one run of the job does. By default it only plans."""

    environment: str = Field(default="development", description="development or production")
    dry_run: bool = Field(default=True, description="send only GET requests, and show the plan")
    allow_removals: list[str] = Field(
        default=[], description="groups that may lose more than a quarter of their members in this run"
    )
    allow_empty: bool = Field(default=False, description="let a list in the file be an explicit []")
    protected: list[str] = Field(default=[], description="groups never to touch, beside admins and users")


def _workspace(suffix: str) -> dict[str, str]:
    """The environment variables with which the script finds its workspace, on a cluster."""
    return {
        "BIOCLOUD_GROUPS": "../groups",  # seen from the script's folder, which is where a cluster runs it
        f"DATABRICKS_HOST_{suffix}": "{{secrets/biocloud/group-sync-host}}",
        f"DATABRICKS_TOKEN_{suffix}": "{{secrets/biocloud/group-sync-token}}",
    }


@dg.op(
    tags=script_tags(
        "databricks/sync_groups.py",
        ["{environment}"],
        libraries=["pyyaml", "requests", "rich"],
        variables={"development": _workspace("TEST"), "production": _workspace("PROD")},
    )
)
def sync_groups(context: dg.OpExecutionContext, config: GroupSyncConfig) -> None:
    """Make the members of the workspace's groups those of `groups/<environment>_group.yml`.

    Raises:
        dg.Failure: a group failed or was over its limit; the others are in step.
        BiocloudError: wrong configuration, a refused file, or a workspace that can't be read.
    """
    environment = checked_environment(config.environment)
    settings = WorkspaceSettings()
    file = load_groups(environment, settings, allow_empty=config.allow_empty)
    limits = Limits(
        allow_removals=frozenset(config.allow_removals),
        allow_empty=config.allow_empty,
        required=frozenset(file.required),
    )
    address = settings.workspace(environment)
    with Workspace.at(str(address["host"]), address["token"]) as workspace:
        plan = make_plan(workspace, environment, file.groups, limits=limits, protected=config.protected)
        metadata: dict[str, dg.MetadataValue] = {"plan": _plan_metadata(plan)}
        results = () if config.dry_run else apply_plan(workspace, plan)
        if not config.dry_run:
            metadata["result"] = _result_metadata(results)
    wrong = [group.group for group in plan.groups if group.refused] + [
        result.group for result in results if result.outcome == "failed"
    ]
    if wrong:
        # The metadata goes with the failure, as a failed op has no output to carry it.
        raise dg.Failure(f"not in step: {', '.join(wrong)}; see the tables", metadata=metadata, allow_retries=False)
    context.add_output_metadata(metadata)


@dg.job(name="group_sync")
def job() -> None:
    """Keep the members of the Databricks groups in step with the files in `groups/`."""
    sync_groups()


@dg.schedule(
    job=job,
    name="group_sync_daily",
    cron_schedule="15 5 * * *",
    execution_timezone="UTC",
    # Switched on by hand where it is wanted: a code location that is merely loaded changes nobody's access.
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
def schedule() -> dg.RunRequest | dg.SkipReason:
    """Sync the groups of the environment that Dagster runs in, once a day."""
    environment = Settings.load().env
    if environment == "local":
        return dg.SkipReason("BIOCLOUD_ENV is local, which has no workspace")
    config = GroupSyncConfig(environment=environment, dry_run=False)
    return dg.RunRequest(run_config=dg.RunConfig(ops={"sync_groups": config}))


def _plan_metadata(plan: Plan) -> dg.MetadataValue:
    """Return the plan as a table: one row for each change."""
    words = {"+": "add", "-": "remove", "=": "keep", "!": "refuse", "": ""}
    return dg.MetadataValue.table(
        [
            dg.TableRecord({"group": group.group, "members": group.members, "change": words[sign], "what": text})
            for group in plan.groups
            for sign, text in changes(group)
        ],
        schema=_columns("group", "members", "change", "what"),
    )


def _result_metadata(results: Sequence[GroupResult]) -> dg.MetadataValue:
    """Return the results as a table: one row for each group."""
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "group": one.group,
                    "result": one.outcome,
                    "added": len(one.added),
                    "removed": len(one.removed),
                    "created": len(one.created),
                    "message": one.message,
                }
            )
            for one in results
        ],
        schema=_columns("group", "result", "added", "removed", "created", "message"),
    )


def _columns(*names: str) -> dg.TableSchema:
    """Return a table's columns; counts are numbers. Given, as Dagster can't tell them from a table without rows."""
    counts = {"members", "added", "removed", "created"}
    return dg.TableSchema([dg.TableColumn(name, "int" if name in counts else "string") for name in names])
