"""How long the commands take to start, and what an empty Python and the large imports take."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from benchmarks.measure import Run, Say, biocloud, environment, median, megabytes, ratio, run, seconds
from benchmarks.results import Plot, Result, Table

_COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "biocloud --help": biocloud("--help"),
    "biocloud deliveries": biocloud("deliveries"),
    "import dagster": ["-c", "import dagster"],
    "the definitions": ["-c", "import biocloud_assets.definitions"],
    "biocloud ingest --sample": biocloud("ingest", "--sample"),
    "biocloud ingest, nothing new": biocloud("ingest"),
}


def measure(*, runs: int, say: Say) -> Result:
    """Start each command in turns.

    Args:
        runs: how often.
        say: reports progress.
    """
    found: dict[str, list[Run]] = {name: [] for name in _COMMANDS}
    for number in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            variables = environment(BIOCLOUD_HOME=folder)
            (Path(folder) / "landing").mkdir()
            for name, arguments in _COMMANDS.items():
                say(f"{name}, run {number + 1} of {runs}")
                found[name].append(run(arguments, variables))
                if name == "the definitions":
                    shutil.rmtree(Path(folder) / "dagster", ignore_errors=True)
    walls = {name: median(one.wall for one in all_) for name, all_ in found.items()}
    rows = [
        [
            name,
            ratio(walls[name] / walls["import dagster"]),
            seconds(walls[name]),
            seconds(median(one.cpu for one in found[name])),
            megabytes(median(one.memory for one in found[name])),
        ]
        for name in _COMMANDS
    ]
    result = Result("start", figures={f"{name}.wall": value for name, value in walls.items()})
    result.figures.update({f"{name}.cpu": median(one.cpu for one in all_) for name, all_ in found.items()})
    title = "Commands"
    result.tables.append(Table(title, ["", "time / import dagster", "time", "CPU", "memory"], rows))
    result.plots.append(Plot("start", f"{title}: seconds, whole process", bars=walls))
    result.notes.append("`biocloud ingest --sample` begins without a home, and ingests four deliveries.")
    return result
