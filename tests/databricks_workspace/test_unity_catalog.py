"""Unity Catalog of the local workspace answers the real SDK, and refuses what the real one refuses."""

from __future__ import annotations

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import NotFound, PermissionDenied
from databricks.sdk.service.catalog import Privilege, SecurableType

from tests.databricks_workspace.server import Workspace
from tests.databricks_workspace.settings import PRINCIPAL


@pytest.fixture
def client(databricks_workspace: Workspace) -> WorkspaceClient:
    return WorkspaceClient(host=databricks_workspace.url, token=databricks_workspace.token)


def test_an_object_is_seen_by_its_owner_and_by_whoever_has_a_privilege(
    databricks_workspace: Workspace, client: WorkspaceClient
) -> None:
    unity = databricks_workspace.unity_catalog
    with pytest.raises(NotFound, match="Catalog 'main' does not exist"):
        client.catalogs.get("main")
    unity.execute("CREATE CATALOG `main` MANAGED LOCATION 's3://managed';\nCREATE SCHEMA IF NOT EXISTS `main`.`raw`;")
    with pytest.raises(PermissionDenied, match="User does not have USE CATALOG on Catalog 'main'"):
        client.catalogs.get("main")
    unity.execute(f"GRANT USE CATALOG ON CATALOG `main` TO `{PRINCIPAL}`;")
    assert client.catalogs.get("main").storage_root == "s3://managed"
    assert [schema.full_name for schema in client.schemas.list("main")] == ["main.raw"]


def test_privileges_are_inherited_and_say_from_where(databricks_workspace: Workspace, client: WorkspaceClient) -> None:
    unity = databricks_workspace.unity_catalog
    unity.execute(
        "CREATE CATALOG main;\nCREATE SCHEMA main.raw;\nCREATE EXTERNAL VOLUME main.raw.in LOCATION 's3://a';"
    )
    unity.execute("GRANT READ VOLUME ON CATALOG main TO `a`;\nGRANT READ VOLUME ON VOLUME main.raw.in TO `b`;")
    effective = client.grants.get_effective(SecurableType.VOLUME.value, "main.raw.in").privilege_assignments
    (inherited,), (own,) = (one.privileges for one in sorted(effective, key=lambda one: one.principal))
    assert (inherited.privilege, inherited.inherited_from_name) == (Privilege.READ_VOLUME, "main")
    assert (own.privilege, own.inherited_from_name) == (Privilege.READ_VOLUME, None)
    only = client.grants.get_effective("VOLUME", "main.raw.in", principal="b").privilege_assignments
    assert [one.principal for one in only] == ["b"]
    unity.execute("REVOKE ALL PRIVILEGES ON CATALOG main FROM `a`;")
    assert [one.principal for one in client.grants.get_effective("VOLUME", "main.raw.in").privilege_assignments] == [
        "b"
    ]


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("GRANT USE CATALOG ON CATALOG other TO `a`", "CATALOG_NOT_FOUND"),
        ("GRANT SELECT ON EXTERNAL LOCATION lake TO `a`", "Privilege SELECT is not applicable"),
        ("GRANT READ FILES ON SCHEMA main.raw TO `a`", "Privilege READ FILES is not applicable"),
        ("CREATE SCHEMA other.raw", "CATALOG_NOT_FOUND"),
        ("SHOW GRANTS ON VOLUME main.raw.none", "VOLUME_NOT_FOUND"),
        ("DROP CATALOG main", "doesn't know this statement"),
    ],
)
def test_a_statement_that_databricks_would_refuse_is_an_error(
    databricks_workspace: Workspace, statement: str, message: str
) -> None:
    unity = databricks_workspace.unity_catalog
    unity.execute("CREATE CATALOG main;\nCREATE SCHEMA main.raw;")
    unity.execute("CREATE EXTERNAL LOCATION lake URL 's3://lake' WITH (STORAGE CREDENTIAL `c`);")
    with pytest.raises(ValueError, match=message):
        unity.execute(f"{statement};")
