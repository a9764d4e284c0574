"""The privileges in Unity Catalog that an environment needs, as data and as SQL.

    biocloud grants development        prints the statements of an environment
    biocloud doctor development        compares them with what is granted

Sources: https://docs.databricks.com/aws/en/data-governance/unity-catalog/manage-privileges/privileges for the
privileges, https://docs.databricks.com/aws/en/tables/external for those of an external table, and
https://docs.databricks.com/aws/en/data-governance/table-acls/object-privileges for those of the Hive metastore.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from biocloud_assets.environments import Environment
from biocloud_assets.raw import contracts
from biocloud_assets.schema import Contract
from biocloud_assets.settings import WorkspaceEnvironment

Securable = Literal["CATALOG", "SCHEMA", "EXTERNAL LOCATION", "VOLUME"]

UNKNOWN_PRINCIPAL = "${principal}"
"""Stands for the principal that runs the steps, if neither the environment nor the caller names one."""


@dataclass(frozen=True)
class Grant:
    """Privileges on one securable object.

    Attributes:
        privileges: as SQL has them, `USE CATALOG`.
        securable: the kind of the object.
        name: its full name, with dots.
        purpose: what needs them.
        url: of an external location, the address that it covers.
    """

    privileges: tuple[str, ...]
    securable: Securable
    name: str
    purpose: str
    url: str = ""

    def sql(self, principal: str) -> str:
        """The statement that grants them.

        Args:
            principal: a user, a group, or the application ID of a service principal.
        """
        return f"GRANT {', '.join(self.privileges)} ON {self.securable} {quoted(self.name)} TO `{principal}`;"


def quoted(name: str) -> str:
    """A full name in SQL: each of its parts between backticks.

    Args:
        name: the parts, with dots between them, `catalog.schema.table`; none has a backtick.
    """
    return ".".join(f"`{part}`" for part in name.split("."))


def volumes(environment: Environment) -> dict[str, str]:
    """The volumes by which steps on a cluster reach files, `/Volumes/<catalog>/<schema>/<volume>/…`.

    Args:
        environment: with its `volumes` and `messages`.

    Returns:
        the paths by their uses: `landing`, `curated`, `files` (of the lake) and `messages` (of Dagster Pipes). A use
        without a volume is left out.
    """
    found: dict[str, str] = {} if environment.volumes is None else environment.volumes.model_dump()
    if environment.messages.startswith("/Volumes/"):
        found["messages"] = environment.messages
    return found


def volume_name(path: str) -> str:
    """The full name of the volume of a path: of `/Volumes/a/b/c/d`, `a.b.c`.

    Args:
        path: `/Volumes/<catalog>/<schema>/<volume>`, or a folder in it.
    """
    return ".".join(path.split("/")[2:5])


def raw_schema(contract: Contract) -> str:
    """The name of the schema that holds the tables of a source."""
    return f"raw_{contract.source}"


def curated_schema(contract: Contract) -> str:
    """The name of the schema for the curated layer of a source."""
    return f"curated_{contract.source}"


def external_locations(environment_name: WorkspaceEnvironment, environment: Environment) -> dict[str, str]:
    """The external locations that cover the roots of an environment.

    A root inside of another one has no location of its own: locations can't be nested
    (https://docs.databricks.com/aws/en/sql/language-manual/sql-ref-external-locations).

    Args:
        environment_name: the name of the environment, which the names of the locations contain.
        environment: the environment.

    Returns:
        the addresses by the names of the locations, `biocloud_development_lake`.
    """
    found: dict[str, str] = {}
    for use in ("lake", "landing", "curated"):
        root = str(getattr(environment, f"{use}_root")).rstrip("/")
        if root.startswith("s3://") and not any(covers(url, root) for url in found.values()):
            found = {name: url for name, url in found.items() if not covers(root, url)}
            found[f"biocloud_{environment_name}_{use}"] = root
    return found


def covers(url: str, address: str) -> bool:
    """Whether an address is `url`, or lies below it.

    Args:
        url: the address of an external location or of a root.
        address: the address of what may lie in it.
    """
    return f"{address.rstrip('/')}/".startswith(f"{url.rstrip('/')}/")


def step_grants(name: WorkspaceEnvironment, environment: Environment) -> list[Grant]:
    """What the principal needs that runs the steps, and no more.

    Args:
        name: the name of the environment.
        environment: the environment.
    """
    catalog, found = environment.catalog, []
    paths = volumes(environment)
    if catalog is not None:
        found.append(Grant(("USE CATALOG",), "CATALOG", catalog, "to reach anything in the catalog"))
        found.append(Grant(("CREATE SCHEMA",), "CATALOG", catalog, "CREATE SCHEMA IF NOT EXISTS, before each table"))
        for contract in contracts():
            schema = f"{catalog}.{raw_schema(contract)}"
            privileges = ("USE SCHEMA", "CREATE TABLE", "SELECT", "MODIFY")
            found.append(Grant(privileges, "SCHEMA", schema, "to create, read and write the tables by their names"))
    found += _on_locations(name, environment, paths)
    for schema in dict.fromkeys(volume_name(path).rpartition(".")[0] for path in paths.values()):
        if schema not in {grant.name for grant in found}:
            found.append(Grant(("USE SCHEMA",), "SCHEMA", schema, "to reach its volumes"))
    for use, path in paths.items():
        rights = ("READ VOLUME",) if use == "landing" else ("READ VOLUME", "WRITE VOLUME")
        found.append(Grant(rights, "VOLUME", volume_name(path), _VOLUME_PURPOSES.get(use, f"the files of {use}")))
    return found


_VOLUME_PURPOSES = {
    "landing": "to list and read the deliveries",
    "curated": "to write the curated folders, and to delete old ones",
    "files": "the normalised copies of a delivery's files, and the markers of ingested deliveries",
    "messages": "the messages of Dagster Pipes",
}


def _on_locations(name: WorkspaceEnvironment, environment: Environment, paths: Mapping[str, str]) -> Iterator[Grant]:
    """The privileges on external locations: where there is a volume, files need none."""
    wanted: dict[str, dict[str, list[str]]] = {}

    def want(root: str, privilege: str, purpose: str) -> None:
        for location, url in external_locations(name, environment).items():
            if covers(url, root):
                wanted.setdefault(location, {}).setdefault(privilege, []).append(purpose)

    lake, landing = environment.lake_root, environment.landing_root
    if environment.catalog is not None:
        want(lake, "CREATE EXTERNAL TABLE", "CREATE TABLE … LOCATION, below the lake's root")
    else:
        want(lake, "READ FILES", "to read the tables by their paths")
        want(lake, "WRITE FILES", "to write the tables by their paths")
    if "files" not in paths:
        want(lake, "READ FILES", "to read the normalised copies of a delivery's files")
    if "landing" not in paths:
        want(landing, "READ FILES", "to read the deliveries")
    for location, rights in wanted.items():
        purpose = "; ".join(dict.fromkeys(text for texts in rights.values() for text in texts))
        url = external_locations(name, environment)[location]
        yield Grant(tuple(rights), "EXTERNAL LOCATION", location, purpose, url)


def reader_grants(environment: Environment) -> list[Grant]:
    """What the group of the readers needs: it reads the raw and curated tables and volumes, and writes none.

    Args:
        environment: the environment; without a catalog there is nothing to grant.
    """
    catalog = environment.catalog
    if catalog is None:
        return []
    schemas = [f"{catalog}.{schema(contract)}" for contract in contracts() for schema in (raw_schema, curated_schema)]
    found = [Grant(("USE CATALOG",), "CATALOG", catalog, "without it, none of the others has an effect")]
    found += [Grant(("USE SCHEMA",), "SCHEMA", schema, "likewise") for schema in schemas]
    found += [Grant(("SELECT", "READ VOLUME"), "SCHEMA", schema, "its tables and volumes") for schema in schemas]
    path = volumes(environment).get("curated")
    if path is not None and (schema := volume_name(path).rpartition(".")[0]) not in schemas:
        found.append(Grant(("USE SCHEMA",), "SCHEMA", schema, "to reach the volume of the curated layer"))
        found.append(Grant(("READ VOLUME",), "VOLUME", volume_name(path), "the curated layer"))
    return found


def readers(name: WorkspaceEnvironment) -> str:
    """The group of an environment's readers, as `groups/<environment>_group.yml` has it."""
    return f"biocloud_users_{name}"


def render(name: WorkspaceEnvironment, environment: Environment, principal: str | None = None) -> str:
    """The SQL statements for an environment.

    Args:
        name: the name of the environment.
        environment: the environment.
        principal: the principal that runs the steps; by default `run_as`, or else the parameter `${principal}`.
    """
    run_as = environment.run_as
    named = run_as and (run_as.service_principal_name or run_as.user_name)
    lines = [*_head(name), *_steps(name, environment, principal or named or UNKNOWN_PRINCIPAL)]
    lines += _readers(environment, readers(name)) if environment.catalog is not None else []
    return "\n".join([*lines, *_hive(readers(name))]) + "\n"


_RULE = "-- " + "-" * 117
_DEFAULT_GROUP = "account users"
"""The group of everybody in Unity Catalog."""


def _head(name: str) -> Iterator[str]:
    yield f"""\
-- The privileges of the environment {name}: of the principal that runs the steps (part 1), of the group of readers
-- (part 2), and of the readers in a workspace whose tables are in the Hive metastore (part 3).
--
-- Generated from databricks/environments.yml. Regenerate it, here for another environment:
--   uv run biocloud grants {name} --output databricks/Privileges_sample.sql
--   uv run biocloud grants production --principal <application ID> --output privileges.sql
--
-- Parts 1 and 2 are for Unity Catalog, part 3 is for the Hive metastore. The two have different privileges: run either
-- parts 1 and 2, or part 3.
--
-- Parameters that are left, replaced as text, as not every runtime accepts parameter markers in GRANT:
--   ${{principal}}          the principal that runs the steps: the application ID of the service principal
--   ${{workspace_catalog}}  the workspace catalog, if the workspace was enabled for Unity Catalog automatically
--   ${{workspace_users}}    the group of all users of the workspace, as section 2.4 shows it
--
-- How to apply it, as the owner of the catalog or as a metastore administrator (part 3: as a workspace administrator):
--   export principal=… workspace_catalog=… workspace_users=…
--   envsubst < databricks/Privileges_sample.sql > privileges.sql
-- Read privileges.sql, and run the statements from top to bottom in the SQL editor. A second run changes nothing.
--
-- If a GRANT can't find the group, the group is local to the workspace, and Unity Catalog grants only to account
-- groups: see docs/access.md. How the external locations and volumes are created: docs/databricks.md."""


def _part(number: int, title: str) -> Iterator[str]:
    yield f"\n{_RULE}\n-- Part {number}: {title}\n{_RULE}"


def _steps(name: WorkspaceEnvironment, environment: Environment, principal: str) -> Iterator[str]:
    grants = step_grants(name, environment)
    yield from _part(1, "Unity Catalog, the principal that runs the steps")
    if environment.catalog is not None:
        schemas = {f"{environment.catalog}.{schema}": None for schema in _own_schemas()}
        yield "\n-- 1.1 The schemas. They exist before the first step, so that privileges can be granted on them."
        yield from (f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)};" for schema in schemas)
    yield "\n-- 1.2 The grants. Each is preceded by what needs it; for an external location, also by its address."
    for grant in grants:
        yield from (f"--     {text}" for text in (grant.purpose, grant.url) if text)
        yield grant.sql(principal)
    yield "\n-- 1.3 Verify."
    yield from _show(grants)


def _own_schemas() -> Iterator[str]:
    for contract in contracts():
        yield raw_schema(contract)
        yield curated_schema(contract)


def _show(grants: Iterable[Grant]) -> Iterator[str]:
    for securable, name in dict.fromkeys((grant.securable, grant.name) for grant in grants):
        yield f"SHOW GRANTS ON {securable} {quoted(name)};"


def _readers(environment: Environment, group: str) -> Iterator[str]:
    grants = reader_grants(environment)
    catalog = quoted(environment.catalog or "")
    schemas = [quoted(f"{environment.catalog}.{schema}") for schema in _own_schemas()]
    everybody = f"`{_DEFAULT_GROUP}`"
    yield from _part(2, "Unity Catalog, the group of readers")
    yield "\n-- 2.1 The catalog and the schemas. Without these privileges, none of the others has an effect."
    yield from (grant.sql(group) for grant in grants if grant.privileges[0].startswith("USE"))
    yield "\n-- 2.2 Tables and volumes. A grant on a schema applies to its present and future tables and volumes."
    yield from (grant.sql(group) for grant in grants if not grant.privileges[0].startswith("USE"))
    yield """
-- 2.3 The default group keeps BROWSE: it sees that the catalog exists, and no data. This comes after the grants above,
--     so that nobody is without access in between.
--     REVOKE ALL PRIVILEGES leaves MANAGE and EXTERNAL USE SCHEMA (and, on external locations, EXTERNAL USE LOCATION),
--     which are not part of it. It also leaves every grant on an object below: grants on the catalog, on each schema,
--     on each table and on each volume are revoked one by one."""
    for thing in (*(f"SCHEMA {schema}" for schema in schemas), f"CATALOG {catalog}"):
        yield f"REVOKE ALL PRIVILEGES ON {thing} FROM {everybody};"
        yield f"REVOKE MANAGE, EXTERNAL USE SCHEMA ON {thing} FROM {everybody};"
    yield f"GRANT BROWSE ON CATALOG {catalog} TO {everybody};"
    yield """
--     The next two queries write the statements that revoke what is granted on single tables and volumes. Run what they
--     return."""
    for kind in ("table", "volume"):
        yield f"""\
SELECT
  concat(
    'REVOKE ', replace(privilege_type, '_', ' '), ' ON {kind.upper()} `', {kind}_catalog, '`.`', {kind}_schema, '`.`',
    {kind}_name, '` FROM `', grantee, '`;'
  ) AS statement
FROM {catalog}.information_schema.{kind}_privileges
WHERE grantee = '{_DEFAULT_GROUP}' AND coalesce(inherited_from, 'NONE') = 'NONE';"""
    yield """
-- 2.4 The workspace catalog. In a workspace that was enabled for Unity Catalog automatically, every user of it has USE
--     CATALOG on this catalog, and USE SCHEMA, CREATE TABLE, CREATE VOLUME, CREATE MODEL, CREATE FUNCTION and CREATE
--     MATERIALIZED VIEW on its schema `default`; in other workspaces `account users` may have USE CATALOG on `main`.
--     SHOW GRANTS names the group. These grants too are revoked one by one.
SHOW GRANTS ON CATALOG `${workspace_catalog}`;
SHOW GRANTS ON SCHEMA `${workspace_catalog}`.`default`;
REVOKE ALL PRIVILEGES ON SCHEMA `${workspace_catalog}`.`default` FROM `${workspace_users}`;
REVOKE ALL PRIVILEGES ON CATALOG `${workspace_catalog}` FROM `${workspace_users}`;

-- 2.5 Verify. The group of readers has the privileges of 2.1 and 2.2, the default group has BROWSE on the catalog and
--     nothing on the schemas, and no other group is there that shouldn't be."""
    yield from _show(grants)
    yield from (f"SHOW GRANTS {everybody} ON SCHEMA {schema};" for schema in schemas)


def _hive(group: str) -> Iterator[str]:
    schemas = [quoted(f"hive_metastore.{schema}") for schema in _own_schemas()]
    yield from _part(3, "Hive metastore (legacy), the group of readers")
    yield """\
-- It has neither USE CATALOG, USE SCHEMA nor BROWSE, and no volumes. USAGE takes the place of USE SCHEMA. The group may
-- be local to the workspace; the default group is `users`. The privileges apply on SQL warehouses, and on clusters
-- with table access control.

-- 3.1 The schemas and their tables."""
    yield from (f"GRANT USAGE, SELECT, READ_METADATA ON SCHEMA {schema} TO `{group}`;" for schema in schemas)
    yield """
-- 3.2 The default group has nothing on the schemas. Grants on single tables and views stay, and are revoked one by one.
--     So do grants on the catalog, which apply to every schema: see the last statement of 3.3."""
    yield from (f"REVOKE ALL PRIVILEGES ON SCHEMA {schema} FROM `users`;" for schema in schemas)
    yield "\n-- 3.3 Verify."
    yield from (f"SHOW GRANTS ON SCHEMA {schema};" for schema in schemas)
    yield "SHOW GRANTS ON CATALOG `hive_metastore`;"
