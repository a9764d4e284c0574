"""Every command in README, CONTRIBUTING and the docs pages is executed by a test or by CI, or says why it can't be.

A command is fine if CI runs the same line. Otherwise `EXECUTED` names the test that runs it, or `NOT_HERE` the reason
why nothing here can. Commands of `biocloud` and of databricks/run_step.py are parsed as well, so that a page can't name
an option that doesn't exist.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

from typer.testing import CliRunner

from biocloud_assets import run_step
from biocloud_assets.cli.commands import app
from tests.docs.markdown import ROOT, Command, commands, markdown_files

CI = (".ci/run", ".gitlab-ci.yml", ".gitlab/group-sync.yml", ".gitlab/pages.yml")

EXECUTED = {
    # what a page says: the file that executes it, and the text in it that does
    r"pip install uv": (".gitlab-ci.yml", "pip install --quiet uv"),
    r"uv sync( --extra databricks)?": (".ci/run", "uv sync --locked"),
    r"uv lock( --check)?": (".gitlab-ci.yml", "uv lock --check"),
    r"uv run python -m biocloud_assets\.raw\.docs": ("tests/raw/test_second_source.py", '"biocloud_assets.raw.docs"'),
    r"uv run python -m biocloud_assets\.curated\.dsi\.docs": (".ci/run", "biocloud_assets.curated.dsi.docs --check"),
    r"uv run python -m biocloud_assets\.docs": ("tests/docs/test_generated_pages.py", "main()"),
    r"uv run python -m biocloud_assets\.environments": ("tests/test_environments.py", "schema()"),
    r"uv run pytest -m (databricks|airflow)": (".ci/run", "uv run pytest -m"),
    r"uv run pytest -m postgres": (".ci/run", "uv run pytest -n 0 -m postgres"),
    r"uv run pre-commit install.*": ("tests/development/test_hooks.py", '"install"'),
    r"uv run python tests/test_definitions\.py": ("tests/test_definitions.py", '__name__ == "__main__"'),
    r"uv run --group bench python -m benchmarks( \w+( --.*)?)?": ("tests/benchmarks/test_benchmarks.py", "benchmarks"),
    r"uv run --extra jvm python -m tests\.chaos( -k \w+)?": (".ci/run", "--chaos=long tests/chaos"),
    r"uv run pytest( -m airflow)? tests/airflow": (".ci/run", "uv run pytest"),
    r"\.ci/run( --all)?": (".ci/run", "uv run pytest"),
    r"(uv run )?biocloud --version": ("tests/cli/test_startup.py", '"--version"'),
    r"(uv run )?biocloud ingest( --sample| \d\S+)?": ("tests/cli/test_commands.py", '"ingest"'),
    r"(uv run )?biocloud deliveries": ("tests/cli/test_commands.py", '"deliveries"'),
    r"(uv run )?biocloud verify( \S+)?": ("tests/cli/test_commands.py", '"verify"'),
    r"(uv run )?biocloud sample --results \d+": ("tests/cli/test_dev.py", '"sample"'),
    r"(uv run )?biocloud dev": ("tests/cli/test_dev.py", '"dev"'),
    r"(uv run )?biocloud maintain( --dry-run)?": ("tests/maintenance/test_maintenance_job.py", '"maintain"'),
    r"(uv run )?biocloud doctor( \w+)?( --cluster)?": ("tests/doctor/test_doctor.py", '"doctor"'),
    r"(uv run )?biocloud grants( \w+| <environment>)( --.*)?": ("tests/doctor/test_doctor.py", '"grants"'),
    r"(BIOCLOUD_ENV=development )?uv run biocloud deliveries (--json|--register) .*": (
        "tests/cli/test_deliveries.py",
        "deliveries",
    ),
    r"(uv run )?biocloud curated (publish|manifest|cleanup)( --.*)?": ("tests/cli/test_commands.py", '"curated"'),
    r"(uv run )?biocloud airflow export( --.*)?": ("tests/airflow/test_export.py", '"export"'),
    r"(uv run )?biocloud airflow deploy( \w+)?( --.*)?": (
        ".gitlab-ci.yml",
        'uv run biocloud airflow deploy "$DEPLOY_TO"',
    ),
    r"BIOCLOUD_ENGINE=jvm uv run --extra jvm biocloud ingest --sample": (".ci/run", "uv run --extra jvm pytest -m jvm"),
    r"uv run databricks/run_step\.py .*": ("tests/test_run_step.py", "run_step.py"),
    r"uv run (--only-group group-sync )?databricks/sync_groups\.py( \w+)?( --dry-run)?( …)?": (
        ".gitlab/group-sync.yml",
        "uv run --frozen --only-group group-sync databricks/sync_groups.py",
    ),
    r"uv run --only-group group-sync …": (".gitlab/group-sync.yml", "uv run --frozen --only-group group-sync"),
    r"airflow dags trigger dsi_raw --conf .*": ("tests/airflow/test_crash.py", '"trigger", "dsi_raw"'),
    r"airflow dags trigger dsi_raw --run-id .*": ("tests/airflow/test_run.py", "history__"),
    r"SPARK_REMOTE=\S+ BIOCLOUD_ENGINE=connect uv run biocloud ingest": (
        "tests/ingest/test_connect.py",
        "SPARK_REMOTE",
    ),
    r"uv run --no-sync dagster instance (migrate|concurrency set \w+ 1)": (
        "tests/production/test_postgres.py",
        "instance",
    ),
    r"uv run --no-sync dagster-daemon run -w workspace\.yaml": ("tests/production/test_postgres.py", "daemon"),
    r"apt-get install default-jre-headless": (".ci/run", "install java default-jre-headless"),
}

NOT_HERE = {
    r"uv run --group browser python -m tests\.browser\.screenshots": "replaces images that differ each time",
    r"uv run dagster dev": "serves until it is ended; `biocloud dev`, which is tested, runs it",
    r"databricks (jobs|service-principals|service-principal-secrets-proxy|git-credentials|instance-profiles) .*": (
        "changes a real Databricks workspace"
    ),
    r"databricks (instance-pools|permissions|storage-credentials|external-locations) .*": (
        "changes a real Databricks workspace"
    ),
    r"databricks jobs submit": "sends a run to a real Databricks workspace",
    r"BIOCLOUD_ENV=development uv run biocloud ingest \S+": "needs a real Databricks workspace",
    r"uv run dagster job backfill .*": "queues runs for a daemon; the tests in a browser start the same backfill",
    r"uv run --no-sync dagster-webserver .*": "serves until it is ended; `biocloud dev`, which is tested, runs it",
    r"uv sync --locked --no-dev .*": "changes the environment in which the tests run",
    r"git pull": "a deployment is updated by it",
    r"mvn dependency:get .*": "Maven is for a machine that has no other way to the jars",
    r"uv run --group docs zensical serve .*": "serves until it is ended; CI runs `zensical build` likewise",
    r"uv lock --upgrade-package \S+": "changes the lock to what is newest on that day",
}


def all_commands() -> list[Command]:
    return [command for file in markdown_files() for command in commands(file)]


def in_ci(command: Command) -> bool:
    """Whether CI runs the same line."""
    lines = [line.strip().removeprefix("- ").partition(" #")[0].strip() for file in CI for line in _read(file)]
    return command.text in {part for line in lines for part in line.split(" && ")}


def _read(file: str) -> list[str]:
    return (ROOT / file).read_text().splitlines()


def matching(command: Command, table: dict[str, Any]) -> Iterator[Any]:
    return (value for pattern, value in table.items() if re.fullmatch(pattern, command.text))


def test_every_command_is_executed_by_a_test_or_by_ci_or_says_why_not() -> None:
    unknown = [
        str(command)
        for command in all_commands()
        if not in_ci(command) and not any(matching(command, EXECUTED)) and not any(matching(command, NOT_HERE))
    ]
    assert unknown == [], "add them to EXECUTED or NOT_HERE"


def test_the_tables_name_only_commands_of_the_pages_and_files_that_execute_them() -> None:
    texts = [command.text for command in all_commands() if not in_ci(command)]
    unused = [pattern for pattern in {**EXECUTED, **NOT_HERE} if not any(re.fullmatch(pattern, text) for text in texts)]
    assert unused == [], "no page has such a command"
    missing = [f"{file}: {text}" for file, text in EXECUTED.values() if text not in (ROOT / file).read_text()]
    assert missing == []


def test_the_options_of_biocloud_in_the_pages_exist() -> None:
    found = [command for command in all_commands() if re.search(r"(^|run |jvm )biocloud ", command.text)]
    assert found
    for command in found:
        words = shlex.split(command.text.partition("biocloud ")[2].removesuffix(" …"))
        # `--help` keeps the command from running; an unknown command or option is an error all the same.
        done = CliRunner().invoke(app, [*words, "--help"])
        assert done.exit_code == 0, f"{command}: {done.output}"


def test_the_options_of_run_step_in_the_pages_exist() -> None:
    found = [command for command in all_commands() if "run_step.py " in command.text]
    assert found
    options = {option for action in run_step._parser()._actions for option in action.option_strings}
    for command in found:
        assert set(re.findall(r"--[\w-]+", command.text)) <= options, str(command)
