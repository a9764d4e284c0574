"""The committed settings of VS Code and PyCharm: they run the lock check when pyproject.toml is saved.

Each editor's command is read from its file and run as the editor runs it, in a project whose lock is up to date or not.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]

PROJECT = """\
[project]
name = "example"
version = "1.0"
requires-python = ">=3.11"
"""


def vs_code(file: str) -> Any:
    """A settings file of VS Code, without its comments."""
    text = (ROOT / ".vscode" / file).read_text(encoding="utf-8")
    return json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))


def pycharm() -> dict[str, str | None]:
    """The options of PyCharm's file watcher."""
    (watcher,) = ElementTree.parse(ROOT / ".idea/watcherTasks.xml").iter("TaskOptions")
    assert watcher.get("isEnabled") == "true"
    return {str(option.get("name")): option.get("value") for option in watcher.iter("option")}


def save(editor: str, project: Path) -> subprocess.CompletedProcess[str]:
    """Run what an editor runs when pyproject.toml of a project is saved."""
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    run: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 60, "env": environment}
    if editor == "PyCharm":
        watcher = pycharm()
        folder = str(watcher["workingDir"]).replace("$ProjectFileDir$", str(project))
        return subprocess.run([str(watcher["program"]), *shlex.split(str(watcher["arguments"]))], cwd=folder, **run)
    if editor == "VS Code":
        (command,) = vs_code("settings.json")["emeraldwalk.runonsave"]["commands"]
        # The extension gives the text to a shell, in the folder of the workspace.
        return subprocess.run(command["cmd"], shell=True, cwd=project, **run)
    (task,) = vs_code("tasks.json")["tasks"]
    assert task["type"] == "process"
    return subprocess.run([task["command"], *task["args"]], cwd=project, **run)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with an up-to-date lock. It has no dependency, so that uv needs no network."""
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    subprocess.run(["uv", "lock", "--quiet"], cwd=tmp_path, check=True, timeout=60)
    return tmp_path


@pytest.mark.parametrize("editor", ["PyCharm", "VS Code", "task of VS Code"])
def test_saving_pyproject_toml_says_whether_the_lock_is_up_to_date(editor: str, project: Path) -> None:
    lock = (project / "uv.lock").read_text()
    assert save(editor, project).returncode == 0
    (project / "pyproject.toml").write_text(PROJECT.replace(">=3.11", ">=3.11,<4"))
    done = save(editor, project)
    assert done.returncode == 1, "the editor opens the output of a command that fails"
    assert "needs to be updated" in done.stderr
    assert (project / "uv.lock").read_text() == lock, "the check changes nothing"


def test_the_editors_run_the_check_for_pyproject_toml_alone() -> None:
    (command,) = vs_code("settings.json")["emeraldwalk.runonsave"]["commands"]
    for path in ("/home/me/biocloud/pyproject.toml", r"C:\biocloud\pyproject.toml"):
        assert re.search(command["match"], path)
    for path in ("/home/me/biocloud/uv.lock", "/home/me/biocloud/other-pyproject.toml"):
        assert not re.search(command["match"], path)
    watcher = pycharm()
    scope = ElementTree.parse(ROOT / ".idea/scopes/pyproject_toml.xml").find("scope")
    assert scope is not None
    assert (scope.get("name"), scope.get("pattern")) == (watcher["scopeName"], "file:pyproject.toml")
    assert watcher["fileExtension"] == "toml"


def test_the_editors_show_a_failed_check_and_ask_for_the_plugin_that_they_need() -> None:
    (command,) = vs_code("settings.json")["emeraldwalk.runonsave"]["commands"]
    assert command["autoShowOutputPanel"] == "error"
    assert "emeraldwalk.runonsave" in vs_code("extensions.json")["recommendations"]
    assert pycharm()["exitCodeBehavior"] == "ERROR"
    plugins = ElementTree.parse(ROOT / ".idea/externalDependencies.xml").iter("plugin")
    assert [plugin.get("id") for plugin in plugins] == ["com.intellij.plugins.watcher"]
