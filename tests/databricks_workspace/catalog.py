"""Unity Catalog: metastore, catalogs, schemas, external locations, volumes, and the grants on them.

Sources: https://docs.databricks.com/api/workspace/ (`metastores`, `catalogs`, `schemas`, `externallocations`,
`volumes`, `grants`) and the dataclasses of databricks-sdk, which have the fields of the answers. A test sets the state
by `execute`, with the SQL of an administrator: `CREATE` of a catalog, schema, external location or volume, `GRANT`,
`REVOKE` and `SHOW GRANTS`, in the forms that the project writes. A statement about an object that doesn't exist is an
error, as there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.databricks_workspace.api import ApiError, Request, route

if TYPE_CHECKING:
    from tests.databricks_workspace.server import Workspace

_OWNER = "metastore_admins"
_ANY_KIND = "(CATALOG|SCHEMA|EXTERNAL LOCATION|VOLUME)"
_KINDS = {"CATALOG": "catalog", "SCHEMA": "schema", "EXTERNAL LOCATION": "external_location", "VOLUME": "volume"}

# https://docs.databricks.com/aws/en/data-governance/unity-catalog/manage-privileges/privileges: what can be granted on
# which object; privileges of a child can be granted on its parents.
_TABLE = {"SELECT", "MODIFY", "REFRESH", "APPLY TAG"}
_VOLUME = {"READ VOLUME", "WRITE VOLUME"}
_ANY = {"ALL PRIVILEGES", "MANAGE", "APPLY TAG"}
_SCHEMA = _TABLE | _VOLUME | {"USE SCHEMA", "CREATE TABLE", "CREATE VOLUME", "EXTERNAL USE SCHEMA", "EXECUTE"}
_GRANTABLE = {
    "catalog": _ANY | _SCHEMA | {"USE CATALOG", "CREATE SCHEMA", "BROWSE"},
    "schema": _ANY | _SCHEMA,
    "external_location": _ANY
    | {"BROWSE", "CREATE EXTERNAL TABLE", "CREATE EXTERNAL VOLUME", "CREATE MANAGED STORAGE"}
    | {"READ FILES", "WRITE FILES"},
    "volume": _ANY | _VOLUME,
}

Key = tuple[str, str]
"""The kind and the full name of an object."""


@dataclass
class UnityCatalog:
    """The state of Unity Catalog.

    Attributes:
        metastore: as `metastore_summary` answers; None if the workspace has none.
        objects: what exists, with its fields, by kind and full name.
        grants: the privileges of principals, by object.
    """

    metastore: dict[str, Any] | None = field(
        default_factory=lambda: {"metastore_id": "m-1", "name": "metastore", "region": "eu-west-1", "cloud": "aws"}
    )
    objects: dict[Key, dict[str, Any]] = field(default_factory=dict)
    grants: dict[Key, dict[str, set[str]]] = field(default_factory=dict)

    def execute(self, sql: str) -> None:
        """Execute statements, each ended by `;` at the end of a line.

        Raises:
            ValueError: a statement has another form than those above, or is about an object that doesn't exist.
        """
        code = "\n".join(line for line in sql.splitlines() if not line.strip().startswith("--"))
        for statement in re.split(r";[ \t]*(?:\n|$)", code):
            if text := " ".join(statement.split()):
                self._execute(text)

    def _execute(self, text: str) -> None:
        if match := re.fullmatch(
            r"CREATE (CATALOG|SCHEMA|EXTERNAL LOCATION|EXTERNAL VOLUME) (?:IF NOT EXISTS )?(\S+)"
            r"(?: (?:MANAGED LOCATION|LOCATION|URL) '([^']+)')?(?: WITH \(STORAGE CREDENTIAL \S+\))?",
            text,
        ):
            kind = {"EXTERNAL VOLUME": "volume"}.get(match[1]) or _KINDS[match[1]]
            self._create(kind, _name(match[2]), match[3])
        elif match := re.fullmatch(rf"GRANT (.+?) ON {_ANY_KIND} (\S+) TO `([^`]+)`", text):
            self.grant(_KINDS[match[2]], _name(match[3]), match[4], *match[1].split(", "))
        elif match := re.fullmatch(r"REVOKE (.+?) ON (CATALOG|SCHEMA) (\S+) FROM `([^`]+)`", text):
            held = self.grants.get(self._existing(_KINDS[match[2]], _name(match[3])), {}).get(match[4], set())
            kept = (
                {"MANAGE", "EXTERNAL USE SCHEMA"} if match[1] == "ALL PRIVILEGES" else held - set(match[1].split(", "))
            )
            held &= kept
        elif match := re.fullmatch(rf"SHOW GRANTS (?:`[^`]+` )?ON {_ANY_KIND} (\S+)", text):
            self._existing(_KINDS[match[1]], _name(match[2]))
        elif not text.startswith("SELECT "):
            raise ValueError(f"the local workspace doesn't know this statement: {text}")

    def _create(self, kind: str, name: str, place: str | None) -> None:
        for number in range(1, name.count(".") + 1):
            parent = name.rsplit(".", name.count(".") + 1 - number)[0]
            self._existing("catalog" if number == 1 else "schema", parent)
        fields: dict[str, Any] = {"name": name.rpartition(".")[2], "full_name": name, "owner": _OWNER}
        if kind == "external_location":
            fields |= {"url": place, "read_only": False, "fallback": False, "credential_name": "storage"}
        elif kind == "volume":
            fields |= {"volume_type": "EXTERNAL" if place else "MANAGED", "storage_location": place}
        elif place is not None:
            fields["storage_root"] = place
        self.objects.setdefault((kind, name), fields)

    def grant(self, kind: str, name: str, principal: str, *privileges: str) -> None:
        """Grant privileges.

        Raises:
            ValueError: the object doesn't exist, or the privilege doesn't apply to it.
        """
        if wrong := set(privileges) - _GRANTABLE[kind]:
            raise ValueError(f"Privilege {', '.join(sorted(wrong))} is not applicable to this entity [{name}/{kind}].")
        self.grants.setdefault(self._existing(kind, name), {}).setdefault(principal, set()).update(privileges)

    def _existing(self, kind: str, name: str) -> Key:
        if (kind, name) not in self.objects:
            raise ValueError(f"[{kind.upper()}_NOT_FOUND] {kind} {name} does not exist")
        return kind, name

    def effective(self, kind: str, name: str) -> dict[str, list[dict[str, str]]]:
        """The privileges of each principal on an object, with those that it inherits from the objects above."""
        found: dict[str, list[dict[str, str]]] = {}
        chain: list[Key] = [(kind, name)]
        if kind in ("schema", "volume"):
            chain += [("schema", name.rpartition(".")[0])] if kind == "volume" else []
            chain.append(("catalog", name.partition(".")[0]))
        for key in chain:
            inherited = (
                {} if key == (kind, name) else {"inherited_from_type": key[0].upper(), "inherited_from_name": key[1]}
            )
            for principal, privileges in self.grants.get(key, {}).items():
                for privilege in sorted(privileges):
                    found.setdefault(principal, []).append({"privilege": privilege.replace(" ", "_"), **inherited})
        return found


def _name(text: str) -> str:
    return text.replace("`", "")


def _get(workspace: Workspace, kind: str, name: str) -> dict[str, Any]:
    """An object that the caller may see: its owner, or with a privilege on it or on one above it."""
    unity = workspace.unity_catalog
    title = kind.replace("_", " ").title()
    if (kind, name) not in unity.objects:
        raise ApiError(404, f"{kind.upper()}_DOES_NOT_EXIST", f"{title} '{name}' does not exist.")
    found = unity.objects[kind, name]
    me = {workspace.setup.me["userName"], "account users"}
    me |= {group["display"] for group in workspace.setup.me.get("groups", [])}
    if found["owner"] not in me and not me & unity.effective(kind, name).keys():
        needed = {"catalog": "USE CATALOG", "schema": "USE SCHEMA", "volume": "READ VOLUME"}[kind]
        raise ApiError(403, "PERMISSION_DENIED", f"User does not have {needed} on {title} '{name}'.")
    return found


@route("GET", r"2\.1/unity-catalog/metastore_summary")
def _metastore(workspace: Workspace, request: Request) -> Any:
    if workspace.unity_catalog.metastore is None:
        raise ApiError(404, "METASTORE_DOES_NOT_EXIST", "No metastore assigned for the current workspace.")
    return workspace.unity_catalog.metastore


@route("GET", r"2\.1/unity-catalog/(catalog|schema|volume)s/([^/]+)")
def _get_object(workspace: Workspace, request: Request, kind: str, name: str) -> Any:
    return _get(workspace, kind, name)


@route("GET", r"2\.1/unity-catalog/schemas")
def _list_schemas(workspace: Workspace, request: Request) -> Any:
    _get(workspace, "catalog", request.argument("catalog_name"))
    inside = f"{request.argument('catalog_name')}."
    objects = workspace.unity_catalog.objects
    return {
        "schemas": [value for (kind, name), value in objects.items() if kind == "schema" and name.startswith(inside)]
    }


@route("GET", r"2\.1/unity-catalog/external-locations")
def _list_locations(workspace: Workspace, request: Request) -> Any:
    found = [value for (kind, _), value in workspace.unity_catalog.objects.items() if kind == "external_location"]
    return {"external_locations": found} if found else {}


@route("GET", r"2\.1/unity-catalog/effective-permissions/([^/]+)/([^/]+)")
def _effective(workspace: Workspace, request: Request, securable_type: str, name: str) -> Any:
    kind = securable_type.lower()  # the versions of the SDK differ in the case
    if (kind, name) not in workspace.unity_catalog.objects:
        raise ApiError(404, f"{kind.upper()}_DOES_NOT_EXIST", f"{kind} '{name}' does not exist.")
    only = request.query.get("principal")
    held = workspace.unity_catalog.effective(kind, name)
    return {
        "privilege_assignments": [
            {"principal": principal, "privileges": privileges}
            for principal, privileges in held.items()
            if only in (None, principal)
        ]
    }
