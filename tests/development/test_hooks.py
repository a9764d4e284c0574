"""The Git hooks, in a real repository: what can't be committed, and what is said after a checkout and a pull."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(400)


class Repository:
    """A clone with the hooks, which run in the environment of this process."""

    def __init__(self, root: Path, home: Path) -> None:
        self.root = root
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "VIRTUAL_ENV"))},
            "PRE_COMMIT_HOME": str(home),
            "UV_PROJECT_ENVIRONMENT": sys.prefix,
            "UV_OFFLINE": "1",  # no hook needs a network
            "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache"),
        }

    def git(self, *arguments: str, code: int = 0, **variables: str) -> str:
        who = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
        done = subprocess.run(
            ["git", *who, *arguments],
            cwd=self.root,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=170,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def install(self, *types: str) -> None:
        hooks = [argument for name in types for argument in ("--hook-type", name)]
        subprocess.run(
            [sys.executable, "-m", "pre_commit", "install", *hooks],
            cwd=self.root,
            env=self.environment,
            check=True,
            capture_output=True,
        )

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text, encoding="utf-8")

    def replace(self, path: str, old: str, new: str) -> None:
        text = (self.root / path).read_text(encoding="utf-8")
        assert old in text
        self.write(path, text.replace(old, new, 1))


def copy_of_the_project(root: Path) -> None:
    """Copy the files of this checkout as they are on the disk, with those that aren't committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """The project as it is, in a repository without hooks."""
    root = tmp_path_factory.mktemp("origin") / "biocloud"
    root.mkdir()
    copy_of_the_project(root)
    repository = Repository(root, tmp_path_factory.mktemp("home"))
    repository.git("init", "--quiet", "--initial-branch=main")
    repository.git("add", "--all")
    repository.git("commit", "--quiet", "--message=As it is")
    return repository


@pytest.fixture
def clone(origin: Repository, tmp_path: Path) -> Iterator[Repository]:
    repository = Repository(tmp_path / "clone", Path(origin.environment["PRE_COMMIT_HOME"]))
    origin.git("clone", "--quiet", str(origin.root), str(repository.root))
    yield repository


def test_all_hooks_are_local_so_that_they_need_no_network() -> None:
    configuration = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repository["repo"] for repository in configuration["repos"]] == ["local"]
    assert {hook["language"] for hook in configuration["repos"][0]["hooks"]} == {"system"}


def others(hook: str) -> str:
    """All hooks but one, separated by commas."""
    configuration = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    names = [one["id"] for one in configuration["repos"][0]["hooks"]]
    assert hook in names
    return ",".join(name for name in names if name != hook)


CREDENTIAL = "AKIA" + "Z7QX" * 4

REFUSED = {
    "ruff-check": ("tests/wrong.py", "import os\n", "F401"),
    "ruff-format": ("tests/wrong.py", "x = {  'a':1 }\n", "would be reformatted"),
    "mypy": ("biocloud_assets/wrong.py", 'x: int = "one"\n', "Incompatible types"),
    "groups-schema": ("groups/development_group.yml", "biologists: [no-address]\n", "no-address"),
    "gitlab-schema": (".gitlab-ci.yml", "job: {script: 1}\n", "schema"),
    "large-files": ("docs/large.txt", "x" * 600_000, "exceeds 500 KB"),
    "secrets": ("docs/example.md", f"aws = '{CREDENTIAL}'\n", "AWS Access Key"),
}


@pytest.mark.parametrize("hook", REFUSED)
def test_what_a_hook_refuses_is_not_committed(clone: Repository, hook: str) -> None:
    clone.install("pre-commit")
    path, text, reason = REFUSED[hook]
    clone.write(path, text)
    if hook == "mypy":  # the whole package takes a quarter of a minute without a cache
        clone.replace("pyproject.toml", '"3.11"\npackages = ["biocloud_assets"]', f'"3.11"\nfiles = ["{path}"]')
    before = clone.git("rev-parse", "HEAD")
    clone.git("add", "--all")
    printed = clone.git("commit", "--message=Wrong", code=1, SKIP=others(hook))
    assert re.search(rf"Failed\n- hook id: {hook}\n", printed), printed
    assert reason in printed
    assert clone.git("rev-parse", "HEAD") == before


def test_a_dependency_that_is_not_in_the_lock_is_not_committed(clone: Repository) -> None:
    clone.install("pre-commit")
    clone.replace("pyproject.toml", '  "rich>=14",', '  "rich>=99",')
    clone.git("add", "--all")
    printed = clone.git("commit", "--message=Wrong", code=1, SKIP=others("uv-lock"))
    assert "- hook id: uv-lock" in printed


def test_an_export_that_is_not_that_of_the_definitions_is_not_committed(clone: Repository) -> None:
    clone.install("pre-commit")
    clone.replace("databricks/environments.yml", "timeout_seconds: 3600", "timeout_seconds: 1800")
    clone.git("add", "--all")
    printed = clone.git("commit", "--message=Wrong", code=1, SKIP=others("export-drift"))
    assert "- hook id: export-drift" in printed
    assert "timeout_seconds" in printed


def test_a_key_that_environments_yml_does_not_have_is_not_committed(clone: Repository) -> None:
    clone.install("pre-commit")
    clone.replace("databricks/environments.yml", "  region: eu-west-1", "  regoin: eu-west-1")
    clone.git("add", "--all")
    printed = clone.git("commit", "--message=Wrong", code=1, SKIP=others("environments-schema"))
    assert "- hook id: environments-schema" in printed
    assert "regoin" in printed


def test_what_is_right_is_committed(clone: Repository) -> None:
    clone.install("pre-commit")
    clone.write("tests/right.py", '"""Right."""\n')
    clone.replace("databricks/environments.yml", "# There are no secrets here", "# No secrets are here")
    clone.replace("groups/development_group.yml", "# The users", "# Users")
    clone.replace(".gitlab-ci.yml", "# The pipeline", "# Pipeline")
    clone.git("add", "--all")
    printed = clone.git("commit", "--message=Right", SKIP="mypy")
    assert "Failed" not in printed
    assert printed.count("Passed") == 8, printed


@pytest.fixture
def with_newer_lock(origin: Repository, clone: Repository) -> Iterator[Repository]:
    """A clone with the hooks about the environment, and a branch whose lock has another version of ruff."""
    clone.install("post-checkout", "post-merge")
    # The lock's version of ruff differs from that in the names of its files, which uv would refuse otherwise.
    clone.environment["UV_SKIP_WHEEL_FILENAME_CHECK"] = "1"
    lock = re.sub(r'(name = "ruff"\nversion = )"[^"]+"', r'\1"99.0.0"', (clone.root / "uv.lock").read_text())
    origin.git("checkout", "--quiet", "-b", "newer")
    origin.write("uv.lock", lock)
    origin.git("commit", "--quiet", "--all", "--message=Newer")
    origin.git("checkout", "--quiet", "main")
    clone.git("fetch", "--quiet")
    yield clone
    origin.git("branch", "--quiet", "-D", "newer")


def said(printed: str) -> list[str]:
    """The lines about the environment."""
    return [line for line in printed.splitlines() if line.startswith("The environment")]


def test_after_a_checkout_and_a_pull_one_line_says_which_packages_differ(with_newer_lock: Repository) -> None:
    clone = with_newer_lock
    packages = sorted(path.name for path in Path(sys.prefix).glob("lib/python*/site-packages/*"))
    (line,) = said(clone.git("checkout", "newer"))
    assert re.match(r"The environment differs from uv.lock: ruff \d\S+ instead of 99\.0\.0\. Run `uv sync`", line)
    assert said(clone.git("checkout", "main")) == ["The environment matches uv.lock."]
    (line,) = said(clone.git("pull", "--quiet", "origin", "newer"))
    assert "ruff" in line
    assert said(clone.git("checkout", "newer", "--", "README.md")) == [], "no branch was checked out"
    assert sorted(path.name for path in Path(sys.prefix).glob("lib/python*/site-packages/*")) == packages


def test_missing_packages_are_named_and_counted(clone: Repository, tmp_path: Path) -> None:
    clone.install("post-checkout")
    subprocess.run(["uv", "venv", "--quiet", "--offline", str(tmp_path / "empty")], check=True, capture_output=True)
    clone.environment["UV_PROJECT_ENVIRONMENT"] = str(tmp_path / "empty")
    (line,) = said(clone.git("checkout", "-b", "other"))
    assert re.search(r"lock: aiohappyeyeballs \S+ missing, .* and \d+ more\. Run", line), line
    assert not [path.name for path in (tmp_path / "empty").glob("lib/python*/site-packages/dagster*")]


def test_packages_that_were_installed_on_purpose_are_no_difference(clone: Repository, tmp_path: Path) -> None:
    """An extra is installed, in its locked version; and a package that the lock doesn't name."""
    clone.install("post-checkout")
    site = next((Path(sys.prefix) / "lib").glob("python*")) / "site-packages"
    other = tmp_path / "environment"
    subprocess.run(["uv", "venv", "--quiet", "--offline", str(other)], check=True, capture_output=True)
    target = next((other / "lib").glob("python*")) / "site-packages"
    for metadata in site.glob("*.dist-info"):
        shutil.copytree(metadata, target / metadata.name)
    locked = re.search(r'name = "delta-spark"\nversion = "([^"]+)"', (clone.root / "uv.lock").read_text())
    assert locked
    clone.environment["UV_PROJECT_ENVIRONMENT"] = str(other)
    for name, version in (("delta_spark", locked.group(1)), ("mine", "1.0")):
        _add(target, name, version)
    assert said(clone.git("checkout", "-b", "one")) == ["The environment matches uv.lock."]
    shutil.rmtree(target / f"delta_spark-{locked.group(1)}.dist-info", ignore_errors=True)
    _add(target, "delta_spark", "3.0.0")
    (line,) = said(clone.git("checkout", "-b", "two"))
    assert f"delta-spark 3.0.0 instead of {locked.group(1)}." in line


def _add(target: Path, name: str, version: str) -> None:
    folder = target / f"{name}-{version}.dist-info"
    if folder.exists():
        return
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (folder / "RECORD").write_text("")
