"""The grants of an environment: exactly what is needed; and the SQL: its syntax, its privileges and its order."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlglot
from sqlglot import exp

from biocloud_assets.access.grants import external_locations, reader_grants, render, step_grants
from biocloud_assets.environments import Environment, Volumes, load_environment

ROOT = Path(__file__).parents[2]
FILE = ROOT / "databricks" / "Privileges_sample.sql"
TEXT = FILE.read_text()
_, STEPS, READERS, HIVE = re.split(r"^-- Part \d: .*$", TEXT, flags=re.MULTILINE)

# https://docs.databricks.com/aws/en/data-governance/unity-catalog/manage-privileges/privileges and
# https://docs.databricks.com/aws/en/data-governance/table-acls/object-privileges
STEP_PRIVILEGES = {"CREATE EXTERNAL TABLE", "CREATE SCHEMA", "CREATE TABLE", "MODIFY", "READ FILES", "SELECT"} | {
    "USE CATALOG",
    "USE SCHEMA",
}
READER_PRIVILEGES = {"ALL PRIVILEGES", "BROWSE", "EXTERNAL USE SCHEMA", "MANAGE", "READ VOLUME", "SELECT"} | {
    "USE CATALOG",
    "USE SCHEMA",
}
HIVE_PRIVILEGES = {"ALL PRIVILEGES", "READ_METADATA", "SELECT", "USAGE"}


def development(**changes: Any) -> Environment:
    environment = load_environment(ROOT / "databricks/environments.yml", "development")
    return environment.model_copy(update=changes)


def statements(text: str) -> list[str]:
    code = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
    return [" ".join(one.split()) for one in code.split(";\n") if re.match(r"\s*[A-Z]", one)]


def parse(statement: str) -> exp.Expression:
    """Parse a statement; a schema takes the place of the objects that sqlglot doesn't know."""
    known = re.sub(r" ON (CATALOG|EXTERNAL LOCATION|VOLUME) ", " ON SCHEMA ", statement)
    return sqlglot.parse_one(known, dialect="databricks")


def privileges(text: str) -> set[str]:
    found = set()
    for statement in statements(text):
        if match := re.match(r"(?:GRANT|REVOKE) (.+?) ON ", statement):
            found |= set(match[1].split(", "))
    return found


def granted(environment: Environment) -> dict[str, set[str]]:
    """What the principal of the steps is granted on each object."""
    found: dict[str, set[str]] = {}
    for grant in step_grants("development", environment):
        found.setdefault(f"{grant.securable} {grant.name}", set()).update(grant.privileges)
    return found


def test_the_committed_file_is_that_of_the_environment(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "biocloud_assets.cli", "grants", "development", "--output"]
    done = subprocess.run([*command, str(FILE), "--check"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    stale = tmp_path / "stale.sql"
    stale.write_text(TEXT.replace("GRANT SELECT", "GRANT MODIFY"))
    done = subprocess.run([*command, str(stale), "--check"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "-GRANT MODIFY, READ VOLUME" in done.stdout and "+GRANT SELECT, READ VOLUME" in done.stdout
    assert "GRANT MODIFY" in stale.read_text(), "it is only compared"


def test_every_statement_is_databricks_sql() -> None:
    kinds = {"CREATE": exp.Create, "GRANT": exp.Grant, "REVOKE": exp.Revoke, "SELECT": exp.Select, "SHOW": exp.Command}
    for text in (TEXT, render("production", development(messages="/Volumes/biocloud_development/steps/messages"))):
        assert len(statements(text)) > 40
        for statement in statements(text):
            assert isinstance(parse(statement), kinds[statement.split()[0]]), statement


@pytest.mark.parametrize("table", ["table_privileges", "volume_privileges"])
def test_the_queries_write_statements_that_revoke_single_grants(table: str) -> None:
    (query,) = [one for one in statements(READERS) if one.endswith("'NONE'") and f".{table} " in one]
    parts = re.findall(r"'([^']*)'|(\w+)", query[query.index("concat(") + 7 : query.index(") AS statement")])
    values = {"replace": "", "privilege_type": "SELECT", "grantee": "account users"}
    written = "".join(text or values.get(name, "x") for text, name in parts if text not in {"_", " "})
    assert isinstance(parse(written.rstrip(";").replace(" ON VOLUME ", " ON TABLE ")), exp.Revoke), written


def test_each_part_has_its_own_privileges_and_objects() -> None:
    assert privileges(STEPS) == STEP_PRIVILEGES
    assert privileges(READERS) == READER_PRIVILEGES
    assert privileges(HIVE) == HIVE_PRIVILEGES
    assert all("hive_metastore" in statement for statement in statements(HIVE))
    assert not any("hive_metastore" in statement for statement in statements(STEPS + READERS))
    assert not any("VOLUME" in statement for statement in statements(HIVE))


def test_steps_write_tables_by_name_and_need_no_right_to_write_files() -> None:
    assert granted(development()) == {
        "CATALOG biocloud_development": {"USE CATALOG", "CREATE SCHEMA"},
        "SCHEMA biocloud_development.raw_dsi": {"USE SCHEMA", "CREATE TABLE", "SELECT", "MODIFY"},
        "EXTERNAL LOCATION biocloud_development_lake": {"CREATE EXTERNAL TABLE", "READ FILES"},
        "EXTERNAL LOCATION biocloud_development_landing": {"READ FILES"},
    }


def test_without_a_catalog_tables_are_written_by_path() -> None:
    assert granted(development(catalog=None)) == {
        "EXTERNAL LOCATION biocloud_development_lake": {"READ FILES", "WRITE FILES"},
        "EXTERNAL LOCATION biocloud_development_landing": {"READ FILES"},
    }
    text = render("development", development(catalog=None))
    assert "biocloud_development`.`raw_dsi" not in text


def test_with_volumes_files_need_no_right_on_an_external_location() -> None:
    paths = {use: f"/Volumes/biocloud_development/steps/{use}" for use in ("landing", "files")}
    paths["curated"] = "/Volumes/biocloud_development/curated_dsi/curated/below"
    environment = development(volumes=Volumes(**paths), messages="/Volumes/biocloud_development/steps/messages/pipes")
    found = granted(environment)
    assert found["EXTERNAL LOCATION biocloud_development_lake"] == {"CREATE EXTERNAL TABLE"}
    assert "EXTERNAL LOCATION biocloud_development_landing" not in found
    assert found["SCHEMA biocloud_development.steps"] == {"USE SCHEMA"}
    assert found["VOLUME biocloud_development.steps.landing"] == {"READ VOLUME"}
    for volume in ("steps.files", "steps.messages", "curated_dsi.curated"):
        assert found[f"VOLUME biocloud_development.{volume}"] == {"READ VOLUME", "WRITE VOLUME"}
    assert not any("steps" in grant.name for grant in reader_grants(environment)), "readers see no deliveries"


def test_an_external_location_is_never_inside_of_another_one() -> None:
    """The curated root of the sample is a folder of the lake's."""
    assert set(external_locations("development", development())) == {
        "biocloud_development_lake",
        "biocloud_development_landing",
    }
    one = development(landing_root="s3://one/a", lake_root="s3://one/ab", curated_root="s3://one/a/b")
    assert external_locations("development", one) == {
        "biocloud_development_landing": "s3://one/a",
        "biocloud_development_lake": "s3://one/ab",
    }
    same = development(landing_root="s3://one", lake_root="s3://one", curated_root="s3://one/")
    assert list(external_locations("development", same).values()) == ["s3://one"]


def test_the_principal_is_run_as_unless_one_is_given() -> None:
    run_as = {"service_principal_name": "00000000-1111-2222-3333-444444444444"}
    loaded = Environment.model_validate(development().model_dump() | {"run_as": run_as})
    assert "TO `00000000-1111-2222-3333-444444444444`;" in render("development", loaded)
    assert "${principal}`" not in render("development", loaded)
    assert "TO `ada@example.org`;" in render("development", loaded, "ada@example.org")


@pytest.mark.parametrize("part", [READERS, HIVE], ids=["Unity Catalog", "Hive"])
def test_the_readers_have_their_access_before_the_default_group_loses_any_and_may_not_write(part: str) -> None:
    default = ("`account users`", "`users`", "{workspace_users}")
    verbs = [(one.split()[0], any(name in one for name in default)) for one in statements(part)]
    assert verbs.index(("REVOKE", True)) > max(n for n, verb in enumerate(verbs) if verb == ("GRANT", False))
    given = [statement for statement in statements(part) if statement.startswith("GRANT")]
    assert given
    assert not any(re.search(r"\b(ALL|MODIFY|WRITE|CREATE|MANAGE)\b", statement) for statement in given)
    taken = [statement for statement in statements(part) if statement.startswith("REVOKE")]
    assert not any("`biocloud_users_development`" in statement for statement in taken)


def test_what_all_privileges_leaves_is_revoked_too() -> None:
    """MANAGE and EXTERNAL USE SCHEMA are not part of ALL PRIVILEGES."""
    for thing in ("CATALOG `biocloud_development`", "SCHEMA `biocloud_development`.`raw_dsi`"):
        assert f"REVOKE ALL PRIVILEGES ON {thing} FROM `account users`" in statements(READERS)
        assert f"REVOKE MANAGE, EXTERNAL USE SCHEMA ON {thing} FROM `account users`" in statements(READERS)


@pytest.mark.parametrize("part", [STEPS, READERS, HIVE], ids=["steps", "readers", "Hive"])
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
