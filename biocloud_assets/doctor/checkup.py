"""All checks of an environment, and how they are run: each on its own, so that everything missing is found at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from biocloud_assets.doctor import airflow, catalog, cluster, configuration, storage, workspace
from biocloud_assets.doctor.context import DoctorContext
from biocloud_assets.doctor.findings import Finding, brief, failed, not_checked
from biocloud_assets.errors import BiocloudError
from biocloud_assets.settings import Settings, WorkspaceEnvironment

WORKSPACE, AWS, METASTORE = "Databricks host and token", "AWS credentials", "metastore"


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: what it is about; its findings may have longer names.
        run: yields its findings.
        needs: the name of another check; if that one has failed, this one isn't run.
    """

    name: str
    run: Callable[[DoctorContext], Iterator[Finding]]
    needs: str | None = None


CHECKS = (
    Check("placeholders in environments.yml", configuration.placeholders),
    Check("library versions", configuration.libraries),
    Check("Git reference", configuration.git_reference),
    Check("access to files", configuration.file_access),
    Check(WORKSPACE, workspace.connection),
    Check("instance pool", workspace.pools, WORKSPACE),
    Check("runtime", workspace.runtime, WORKSPACE),
    Check("cluster policy", workspace.policy, WORKSPACE),
    Check("instance profile", workspace.instance_profile, WORKSPACE),
    Check("Git credential", workspace.git_credential, WORKSPACE),
    Check("secrets", workspace.secrets, WORKSPACE),
    Check("legacy settings", workspace.legacy_settings, WORKSPACE),
    Check(METASTORE, catalog.metastore, WORKSPACE),
    Check("external locations", catalog.locations, METASTORE),
    Check("catalog", catalog.catalog, METASTORE),
    Check("schemas", catalog.schemas, METASTORE),
    Check("managed storage", catalog.managed_storage, METASTORE),
    Check("volumes", catalog.volumes, METASTORE),
    Check(AWS, storage.credentials),
    Check("buckets", storage.buckets, AWS),
    Check("Airflow connections", airflow.connections),
)

CLUSTER_CHECKS = (
    Check("probe of the message place", storage.message_probe, WORKSPACE),
    Check("cluster", cluster.run, WORKSPACE),
)
"""The checks that write: `--cluster`."""


def examine(name: WorkspaceEnvironment, *, on_cluster: bool) -> Iterator[Finding]:
    """Check an environment.

    Args:
        name: `development` or `production`.
        on_cluster: also write probes, and start one cluster.

    Yields:
        the findings, each as soon as it is known.
    """
    try:
        settings = Settings.load(name)
        context = DoctorContext(name, settings, settings.environment)
    except BiocloudError as error:
        yield failed(error.thing, f"expected {error.expected}, found {error.found}", error.hint)
        return
    yield from run_checks(CHECKS + (CLUSTER_CHECKS if on_cluster else ()), context)


def run_checks(checks: tuple[Check, ...], context: DoctorContext) -> Iterator[Finding]:
    """Run checks in order; one that fails, or can't be made, stops only those that need it.

    Args:
        checks: the checks; one comes after those that it needs.
        context: what they work with.

    Yields:
        the findings, each as soon as it is known.
    """
    unusable: set[str] = set()
    for check in checks:
        if check.needs in unusable:
            unusable.add(check.name)
            yield not_checked(check.name, f"needs: {check.needs}")
            continue
        try:
            for finding in check.run(context):
                if finding.check == check.name and finding.status in ("failed", "not checked"):
                    unusable.add(check.name)
                yield finding
        except Exception as error:
            unusable.add(check.name)
            yield _cannot_check(check.name, error)


def _cannot_check(name: str, error: Exception) -> Finding:
    """The finding of a check that was stopped by an error: what it was looking at isn't known to be wrong."""
    if isinstance(error, BiocloudError):
        return failed(name, f"{error.thing}: expected {error.expected}, found {error.found}", error.hint)
    from databricks.sdk.errors.platform import PermissionDenied, Unauthenticated

    text = brief(error)
    if isinstance(error, (PermissionDenied, Unauthenticated)):
        return not_checked(name, f"no permission to look: {text}", "Run it as a principal that may read this.")
    return not_checked(name, f"{type(error).__name__}: {text}", "Run it again; if it stays, look at this by hand.")
