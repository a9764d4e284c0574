"""The command that measures: it runs at a tiny size, compares tables, and writes its document."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import document
from benchmarks.document import render
from benchmarks.goals import Goal
from benchmarks.results import Plot, Result, Table, load, save

ROOT = Path(__file__).parents[2]


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments, "--docs", folder, "--stored", folder / "results.json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_one_benchmark_runs_by_its_name_and_renews_its_part_of_the_document(tmp_path: Path) -> None:
    assert "files" in run(tmp_path, "corpus", "--count", "10", "--write")
    found = load(tmp_path / "results.json")["corpus"]
    assert found.figures["failures"] == 0
    text = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    assert text.count("\n## ") == 3, text  # goals, this benchmark, machine


def test_a_benchmark_without_write_leaves_the_document_as_it_is(tmp_path: Path) -> None:
    run(tmp_path, "corpus", "--count", "10")
    assert not list(tmp_path.iterdir())


@pytest.mark.large
def test_the_benchmark_of_writers_measures_each_of_them(tmp_path: Path) -> None:
    options = ["--results", "20", "--runs", "1", "--where", "local", "--contenders", "sail"]
    printed = run(tmp_path, "unnest", *options, "--write")
    assert "20 results, local disk" in printed
    found = load(tmp_path / "results.json")["unnest"]
    contenders = {name.split(".")[2] for name in found.figures if name.endswith(".work")}
    assert contenders == {"sail", "floor"}
    assert found.figures["20.local.biocloud.wall"] > found.figures["20.local.sail.wall"]
    assert found.figures["20.local.biocloud.written"] > 0
    assert (tmp_path / "images" / "benchmarks-unnest-20-local.svg").exists()


def test_the_document_shows_each_goal_with_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goals = (
        Goal("start", "quick", "it starts quickly", 2.0, "s"),
        Goal("start", "small", "it is small", 10.0, reason="It is large."),
        Goal("discovery", "requests", "it asks little", 1.0),
    )
    monkeypatch.setattr(document, "GOALS", goals)
    table = Table("Commands", ["", "time"], [["one", "1.50 s"]])
    plot = Plot("start", "Commands: seconds", bars={"one": 1.5, "two": 3.0})
    result = Result("start", "2026-01-31", 1.0, "2 cores", [table], {"quick": 1.5, "small": 11.0}, [plot], ["A note."])
    save(tmp_path / "results.json", {"start": result})
    text = render(load(tmp_path / "results.json"), tmp_path).read_text(encoding="utf-8")
    assert "| it starts quickly | 2 s | 1.50 s | met |" in text
    assert "| it is small | 10 | 11 | **not met** | It is large. |" in text
    assert "| it asks little | 1 |  | not measured |" in text
    assert "| one | 1.50 s |" in text
    assert "![Commands: seconds](images/benchmarks-start.svg)" in text
    assert "Measured on 2026-01-31 in 1 s." in text
    assert "## Machine\n\n2 cores.\n" in text
    image = (tmp_path / "images" / "benchmarks-start.svg").read_text(encoding="utf-8")
    render(load(tmp_path / "results.json"), tmp_path)
    assert (tmp_path / "images" / "benchmarks-start.svg").read_text(encoding="utf-8") == image


def test_the_committed_document_is_the_one_of_the_committed_results(tmp_path: Path) -> None:
    results = load(ROOT / "benchmarks" / "results.json")
    render(results, tmp_path)
    committed = ROOT / "docs" / "benchmarks.md"
    assert (tmp_path / "benchmarks.md").read_text(encoding="utf-8") == committed.read_text(encoding="utf-8")
    json.dumps({name: result.figures for name, result in results.items()}, allow_nan=False)
