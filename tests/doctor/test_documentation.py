"""The way that docs/databricks.md describes: its JSON, its SQL, its commands and its table of privileges are right."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from biocloud_assets.access.grants import step_grants
from biocloud_assets.cli.commands import app
from biocloud_assets.environments import Volumes, load_environment
from tests.databricks_workspace.catalog import UnityCatalog

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/databricks.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """The words of each command of the page."""
    text = "\n".join(blocks("console")).replace("\\\n", " ")
    return [shlex.split(one, comments=True) for one in re.findall(r"^\$ (.*(?:\n    .*)*)", text, flags=re.MULTILINE)]


def test_the_policies_are_json_and_of_the_version_that_aws_knows() -> None:
    documents = [json.loads(block) for block in blocks("json")]
    assert len(documents) == 4
    assert [document.get("Version") for document in documents].count("2012-10-17") == 3
    actions = json.dumps(documents)
    for action in (
        "sts:AssumeRole",
        "s3:ListBucket",
        "s3:GetObject",
        "s3:PutObject",
        "s3:DeleteObject",
        "iam:PassRole",
    ):
        assert action in actions


def test_the_sql_can_be_executed_in_the_order_of_the_page() -> None:
    unity = UnityCatalog()
    for block in blocks("sql"):
        unity.execute(block)
    volumes = {name for kind, name in unity.objects if kind == "volume"}
    assert volumes == {
        f"biocloud_development.{name}"
        for name in ("steps.landing", "steps.files", "steps.messages", "curated_dsi.curated")
    }


def test_the_bodies_of_the_commands_are_json_and_the_commands_of_biocloud_exist() -> None:
    bodies = [json.loads(words[words.index("--json") + 1]) for words in commands() if "--json" in words]
    assert len(bodies) == 5
    ours = {words[words.index("biocloud") + 1] for words in commands() if "uv" in words and "biocloud" in words}
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert ours == {"doctor", "grants", "ingest"} and ours <= known


def test_the_table_of_privileges_has_all_that_are_granted_and_no_other() -> None:
    sample = load_environment(ROOT / "databricks/environments.yml", "development")
    paths = Volumes(**{use: f"/Volumes/c/s/{use}" for use in ("landing", "curated", "files")})
    environments = (
        sample,
        sample.model_copy(update={"catalog": None}),
        sample.model_copy(update={"volumes": paths, "messages": "/Volumes/c/s/messages"}),
    )
    granted = {right for one in environments for grant in step_grants("development", one) for right in grant.privileges}
    table = PAGE[PAGE.index("| privilege | on |") :].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert {name for row in rows for name in re.findall(r"`([A-Z ]+)`", row)} == granted
