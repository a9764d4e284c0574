"""The sample of grants: its syntax, its privileges and its order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sqlglot
from sqlglot import exp

TEXT = (Path(__file__).parents[2] / "databricks" / "Privileges_sample.sql").read_text()
UNITY, HIVE = TEXT.split("-- Part 2: Hive metastore")

# https://docs.databricks.com/aws/en/data-governance/unity-catalog/manage-privileges/privileges and
# https://docs.databricks.com/aws/en/data-governance/table-acls/object-privileges
UNITY_PRIVILEGES = {"ALL PRIVILEGES", "BROWSE", "EXTERNAL USE SCHEMA", "MANAGE", "READ VOLUME", "SELECT"} | {
    "USE CATALOG",
    "USE SCHEMA",
}
HIVE_PRIVILEGES = {"ALL PRIVILEGES", "READ_METADATA", "SELECT", "USAGE"}


def statements(text: str) -> list[str]:
    code = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
    return [" ".join(one.split()) for one in code.split(";\n") if one.strip()]


def parse(statement: str) -> exp.Expression:
    """Parse a statement; a schema takes the place of catalogs and volumes, which sqlglot doesn't know as objects."""
    known = re.sub(r" ON (CATALOG|VOLUME) ", " ON SCHEMA ", statement)
    return sqlglot.parse_one(known, dialect="databricks")


def privileges(text: str) -> set[str]:
    found = set()
    for statement in statements(text):
        if match := re.match(r"(?:GRANT|REVOKE) (.+?) ON ", statement):
            found |= set(match[1].split(", "))
    return found


def test_every_statement_is_databricks_sql() -> None:
    kinds = {"GRANT": exp.Grant, "REVOKE": exp.Revoke, "SELECT": exp.Select, "SHOW": exp.Command}
    for statement in statements(TEXT):
        assert isinstance(parse(statement), kinds[statement.split()[0]]), statement


@pytest.mark.parametrize("table", ["table_privileges", "volume_privileges"])
def test_the_queries_write_statements_that_revoke_single_grants(table: str) -> None:
    (query,) = [one for one in statements(UNITY) if one.endswith("'NONE'") and f".{table} " in one]
    parts = re.findall(r"'([^']*)'|(\w+)", query[query.index("concat(") + 7 : query.index(") AS statement")])
    values = {"replace": "", "privilege_type": "SELECT", "grantee": "account users"}
    written = "".join(text or values.get(name, "x") for text, name in parts if text not in {"_", " "})
    assert isinstance(parse(written.rstrip(";").replace(" ON VOLUME ", " ON TABLE ")), exp.Revoke), written


def test_unity_catalog_and_hive_have_their_own_privileges_and_objects() -> None:
    assert privileges(UNITY) == UNITY_PRIVILEGES
    assert privileges(HIVE) == HIVE_PRIVILEGES
    assert all("hive_metastore" in statement for statement in statements(HIVE))
    assert not any("hive_metastore" in statement for statement in statements(UNITY))
    assert not any("VOLUME" in statement for statement in statements(HIVE))


@pytest.mark.parametrize("part", [UNITY, HIVE], ids=["Unity Catalog", "Hive"])
def test_the_new_group_has_its_access_before_the_default_group_loses_any_and_nobody_may_write(part: str) -> None:
    verbs = [(one.split()[0], "{default_group}" in one or "{workspace_users}" in one) for one in statements(part)]
    assert verbs.index(("REVOKE", True)) > max(n for n, verb in enumerate(verbs) if verb == ("GRANT", False))
    granted = [statement for statement in statements(part) if statement.startswith("GRANT")]
    assert not any(re.search(r"\b(ALL|MODIFY|WRITE|CREATE|MANAGE)\b", statement) for statement in granted)
    assert not any(statement.startswith("REVOKE") and "{group}" in statement for statement in statements(part))


def test_what_all_privileges_leaves_is_revoked_too() -> None:
    """MANAGE and EXTERNAL USE SCHEMA are not part of ALL PRIVILEGES."""
    for thing in ("CATALOG `${catalog}`", "SCHEMA `${catalog}`.`${raw_schema}`"):
        assert f"REVOKE ALL PRIVILEGES ON {thing} FROM `${{default_group}}`" in statements(UNITY)
        assert f"REVOKE MANAGE, EXTERNAL USE SCHEMA ON {thing} FROM `${{default_group}}`" in statements(UNITY)


@pytest.mark.parametrize("part", [UNITY, HIVE], ids=["Unity Catalog", "Hive"])
def test_each_part_ends_with_show_grants_on_every_object(part: str) -> None:
    changed = {
        match[1] for one in statements(part) if (match := re.match(r"(?:GRANT|REVOKE) .+? ON (.+) (?:TO|FROM) ", one))
    }
    assert {f"SHOW GRANTS ON {thing}" for thing in changed} <= set(statements(part))
    assert statements(part)[-1].startswith("SHOW GRANTS")


def test_every_parameter_is_explained() -> None:
    comments = "\n".join(line for line in TEXT.splitlines() if line.startswith("--   ${"))
    used, explained = (set(re.findall(r"\$\{(\w+)\}", text)) for text in ("\n".join(statements(TEXT)), comments))
    assert used == explained
