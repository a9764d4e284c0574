"""Checks of Unity Catalog: metastore, catalog, schemas, external locations, volumes, and what is granted on them.

Sources: the docstrings of databricks-sdk; https://docs.databricks.com/aws/en/connect/unity-catalog/cloud-storage/
(`external-locations`, `managed-storage`); the privileges are those of `access.grants`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from biocloud_assets.access import grants
from biocloud_assets.access.grants import Grant, covers
from biocloud_assets.doctor.context import DoctorContext
from biocloud_assets.doctor.findings import Finding, brief, failed, not_checked, ok, warning

if TYPE_CHECKING:
    from databricks.sdk.service.catalog import ExternalLocationInfo


def metastore(context: DoctorContext) -> Iterator[Finding]:
    """The workspace has a metastore, in the region of the buckets."""
    from databricks.sdk.errors.platform import NotFound

    name = "metastore"
    try:
        found = context.client.metastores.summary()
    except NotFound:
        if context.environment.catalog is None and not grants.volumes(context.environment):
            yield not_checked(name, "the workspace has none, and the environment has no catalog")
        else:
            yield failed(name, "the workspace has none", "An account administrator assigns one in the account console.")
        return
    region = context.environment.region
    if found.region is not None and found.region != region:
        yield warning(
            name, f"{found.name} in {found.region}", f"The buckets are in {region}: traffic costs, and is slow."
        )
    else:
        yield ok(name, f"{found.name} in {found.region}")


def catalog(context: DoctorContext) -> Iterator[Finding]:
    """The catalog exists, and the principal may use it and create schemas in it."""
    from databricks.sdk.errors.platform import NotFound, PermissionDenied

    name, wanted = "catalog", context.environment.catalog
    if wanted is None:
        yield ok(name, "none set: tables are written by path, and not registered")
        return
    try:
        found = context.client.catalogs.get(wanted)
    except PermissionDenied as error:
        yield _hidden(context, name, "CATALOG", wanted, error)
        return
    except NotFound:
        advice = f"CREATE CATALOG {grants.quoted(wanted)} MANAGED LOCATION 's3://…'; outside of the lake's root."
        yield failed(name, f"no catalog {wanted}", advice)
        return
    yield ok(name, f"{wanted}, owned by {found.owner}")
    yield from _granted(context, "CATALOG", wanted, found.owner)


def schemas(context: DoctorContext) -> Iterator[Finding]:
    """The schemas exist with the privileges; or they will, because the principal may create them."""
    from databricks.sdk.errors.platform import NotFound, PermissionDenied

    wanted = [grant.name for grant in _wanted(context) if grant.securable == "SCHEMA"]
    for schema in dict.fromkeys(wanted):
        try:
            found = context.client.schemas.get(schema)
        except PermissionDenied as error:
            yield _hidden(context, f"schema {schema}", "SCHEMA", schema, error)
            continue
        except NotFound:
            advice = "Run the SQL of `biocloud grants`, which creates it; or the first step does."
            yield warning(f"schema {schema}", "none yet, or no privilege on it", advice)
            continue
        yield from _granted(context, "SCHEMA", schema, found.owner)


def locations(context: DoctorContext) -> Iterator[Finding]:
    """An external location covers each root that Spark reads or writes, with the privileges."""
    found = list(context.client.external_locations.list(include_browse=True))
    environment = context.environment
    for grant in _wanted(context):
        if grant.securable != "EXTERNAL LOCATION":
            continue
        covering = next((one for one in found if covers(one.url or "", grant.url)), None)
        name = f"external location of {grant.url}"
        if covering is None:
            sql = f"CREATE EXTERNAL LOCATION `{grant.name}` URL '{grant.url}' WITH (STORAGE CREDENTIAL `<name>`);"
            profile = environment.cluster is not None and environment.cluster.instance_profile_arn is not None
            if environment.catalog is None and profile:
                yield warning(name, "none", f"The instance profile has to reach it. With Unity Catalog: {sql}")
            else:
                yield failed(name, "none covers it", sql)
            continue
        yield from _location(context, name, covering, grant)


def _location(context: DoctorContext, name: str, found: ExternalLocationInfo, grant: Grant) -> Iterator[Finding]:
    if found.read_only and {"WRITE FILES", "CREATE EXTERNAL TABLE"} & set(grant.privileges):
        yield failed(
            name, f"{found.name} is read-only", f"databricks external-locations update {found.name} --read-only=false"
        )
    else:
        yield ok(name, f"{found.name}, {found.url}")
    if found.fallback:
        advice = "Fallback mode lets clusters reach it with other credentials, as an instance profile. Switch it off."
        yield warning(f"{name}: fallback", "switched on", advice)
    renamed = Grant(grant.privileges, grant.securable, found.name or grant.name, grant.purpose, grant.url)
    yield _privileges(context, renamed, found.owner)


def managed_storage(context: DoctorContext) -> Iterator[Finding]:
    """No root lies in managed storage, or contains it: external tables and volumes may not overlap with it."""
    from databricks.sdk.errors.base import DatabricksError

    environment, name = context.environment, "managed storage"
    managed: dict[str, str] = {}
    summary = context.client.metastores.summary()
    if summary.storage_root:
        managed[f"the metastore {summary.name}"] = summary.storage_root
    if environment.catalog is not None:
        try:
            root = context.client.catalogs.get(environment.catalog).storage_root
            if root:
                managed[f"the catalog {environment.catalog}"] = root
            for schema in context.client.schemas.list(environment.catalog):
                if schema.storage_root:
                    managed[f"the schema {schema.full_name}"] = schema.storage_root
        except DatabricksError as error:
            yield not_checked(f"{name} of the catalog", brief(error), "See the check of the catalog.")
    overlaps = [
        (key, str(root), owner, place)
        for key in ("landing_root", "lake_root", "curated_root")
        for owner, place in managed.items()
        if covers(root := str(getattr(environment, key)), place) or covers(place, root)
    ]
    for key, root, owner, place in overlaps:
        advice = "External tables and volumes can't overlap with it: use another bucket or prefix for one of them."
        yield failed(f"{name}: {key}", f"{root} overlaps with that of {owner}, {place}", advice)
    if not overlaps:
        yield ok(name, f"apart from the roots: {', '.join(managed.values()) or 'none known'}")


def volumes(context: DoctorContext) -> Iterator[Finding]:
    """The volumes exist, with the privileges."""
    from databricks.sdk.errors.platform import NotFound, PermissionDenied

    paths = grants.volumes(context.environment)
    if not paths:
        yield ok("volumes", "none set")
    for use, path in paths.items():
        volume, name = grants.volume_name(path), f"volume for {use}"
        try:
            found = context.client.volumes.read(volume)
        except PermissionDenied as error:
            yield _hidden(context, name, "VOLUME", volume, error)
            continue
        except NotFound:
            sql = f"CREATE EXTERNAL VOLUME {grants.quoted(volume)} LOCATION 's3://…';"
            yield failed(name, f"no volume {volume}, or no privilege on it", sql)
            continue
        kind = found.volume_type.value.lower() if found.volume_type else "volume"
        yield ok(name, f"{volume}, {kind}")
        yield from _granted(context, "VOLUME", volume, found.owner)


def _hidden(context: DoctorContext, check: str, securable: str, name: str, error: Exception) -> Finding:
    """The finding about an object that the caller may not see; if steps run as the caller, they may not either."""
    text = brief(error)
    if not context.submits_as_itself:
        return not_checked(check, f"no permission to look: {text}", f"Run this as {context.principal}.")
    wanted = [grant for grant in _wanted(context) if (grant.securable, grant.name) == (securable, name)]
    return failed(check, text, " ".join(grant.sql(context.principal) for grant in wanted))


def _wanted(context: DoctorContext) -> list[Grant]:
    return grants.step_grants(context.name, context.environment)


def _granted(context: DoctorContext, securable: str, name: str, owner: str | None) -> Iterator[Finding]:
    """The findings about all privileges that are needed on one object."""
    wanted = [grant for grant in _wanted(context) if (grant.securable, grant.name) == (securable, name)]
    if wanted:
        rights = tuple(dict.fromkeys(right for grant in wanted for right in grant.privileges))
        yield _privileges(context, Grant(rights, wanted[0].securable, name, ""), owner)


def _privileges(context: DoctorContext, grant: Grant, owner: str | None) -> Finding:
    """Whether the principal has the privileges, itself or through a group, on the object or on one above it."""
    from databricks.sdk.errors.platform import PermissionDenied
    from databricks.sdk.service.catalog import SecurableType

    name = f"privileges on {grant.securable.lower()} {grant.name}"
    if context.is_principal(owner):
        return ok(name, f"owned by {owner}")
    kind, api = SecurableType[grant.securable.replace(" ", "_")].value, context.client.grants
    try:
        assignments = api.get_effective(kind, grant.name).privilege_assignments
    except PermissionDenied:  # who may not see the grants of all may see its own
        assignments = api.get_effective(kind, grant.name, principal=context.principal).privilege_assignments
    held = {
        privilege.privilege.value.replace("_", " ")
        for assignment in assignments or ()
        if context.is_principal(assignment.principal)
        for privilege in assignment.privileges or ()
        if privilege.privilege is not None
    }
    missing = () if "ALL PRIVILEGES" in held else tuple(right for right in grant.privileges if right not in held)
    if not missing:
        return ok(name, ", ".join(grant.privileges))
    sql = Grant(missing, grant.securable, grant.name, "").sql(context.principal)
    return failed(name, f"missing for {context.principal}: {', '.join(missing)}", sql)
