"""Try to lose data in the long form, and write what came out to docs/reliability.md.

uv run python -m tests.chaos                    run all tests and write the document
uv run python -m tests.chaos --seed 2 -k kill   run some tests with another seed; write what is known of the others
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / ".chaos"
DOCUMENT = ROOT / "docs" / "reliability.md"
PLOT = ROOT / "docs" / "reliability_long_run.svg"
COMMAND = "uv run --extra jvm python -m tests.chaos"

SECTIONS = {
    "test_kill": "Killed processes",
    "test_concurrency": "Many processes at once",
    "test_s3_faults": "An S3 that fails",
    "test_storage": "Disks, roots and clocks",
    "test_malformed": "Malformed deliveries",
    "test_hostile_names": "Hostile names",
    "test_long_run": "A long run",
}
"""The parts of the document, by the module of their tests."""

INTRODUCTION = f"""\
# Reliability

What the software promises about data, how each promise is tried, how often, and what came out. The tests are in
`tests/chaos`. A short form of them is part of every test run (`uv run pytest`); this page holds the results of the long
form, and is written by one command:

```console
$ {COMMAND}
```

Everything that is random (the moments of kills, the faults, the damage) comes from a seed. `--seed` gives another one,
and a failure prints the command that repeats it. The moment at which a signal reaches a process still depends on the
machine.
"""

LIMITS = """\
## What is not promised

- **A delivery that changes while it is ingested again.** If the same files are ingested a second time, the delivery
  stays in the log meanwhile. If its files are replaced at that moment, readers can see rows of both states, until the
  step finds that the files have changed, removes the delivery from the log and fails.
- **Two ingests of one delivery, with a change of its files between them.** The slower one may overwrite rows of the
  faster one. It finds that when it ends, removes the delivery from the log and fails, and its repetition writes the
  present files. If it is killed before that, the log names the present files although some tables hold older rows.
  `biocloud verify` shows it, and one more ingest remedies it. Dagster and the exported DAGs run one step for each
  delivery at a time.
- **A lake that is deleted.** The log is a part of the lake. If it survives and tables don't, deliveries are in the log
  without their rows.
- **Two publications of one day at once.** The manifest that follows may list files of both. The pool `curated_dsi` of
  Dagster and the exported DAG run one at a time.
- **The same time for each delivery.** A table's log names one file for each delivery, and a step reads these logs
  dozens of times. The embedded engine reads one in 1 ms with 6 deliveries and in 8 ms with 540. So the time of a
  delivery rises with their number, as the long run shows.
- **A machine that loses its power.** The tests kill processes. They don't cut the power of the machine, so what the
  operating system hasn't written yet isn't tried.
"""
"""What the tests don't try, or have shown to be possible."""


def machine() -> str:
    """The machine and the versions, in one sentence."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    versions = ", ".join(f"{name} {version(name)}" for name in ("pysail", "deltalake", "pyarrow", "pyspark", "moto"))
    return f"{platform.system()}, {os.cpu_count()} cores ({model}), Python {platform.python_version()}, {versions}"


def read_rows() -> dict[str, list[dict[str, Any]]]:
    """The results, by the module of their test."""
    rows: dict[str, list[dict[str, Any]]] = {module: [] for module in SECTIONS}
    found = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("row_*.json"))]
    for row in sorted(found, key=lambda row: (row["line"], row["test"])):
        rows[Path(row["test"].partition("::")[0]).stem].append(row)
    return rows


def without_result() -> list[str]:
    """The tests of which no result is known."""
    known = {row["test"].partition("[")[0] for section in read_rows().values() for row in section}
    return [
        f"`{node.name}`"
        for module in SECTIONS
        for node in ast.parse((ROOT / "tests" / "chaos" / f"{module}.py").read_text()).body
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("test_")
        and f"tests/chaos/{module}.py::{node.name}" not in known
    ]


def render() -> str:
    """The document."""
    sections = read_rows()
    rows = [row for section in sections.values() for row in section]
    lines = [INTRODUCTION]
    days = sorted({row["finished"][:10] for row in rows})
    seeds = sorted({row["seed"] for row in rows})
    forms = {row["form"] for row in rows}
    lines.append(
        f"Date: {' to '.join(dict.fromkeys((days[0], days[-1])))}. Seed: {', '.join(map(str, seeds))}. Form: "
        f"{', '.join(sorted(forms))}. Machine: {machine()}.\n"
    )
    for module, title in SECTIONS.items():
        if not sections[module]:
            continue
        lines += [f"## {title}\n", f"`{COMMAND} -k {module}`\n"]
        lines += ["| Promise | How it is tried | How often | What came out |", "|---|---|---|---|"]
        for row in sections[module]:
            cells = (
                row[name].replace("|", "\\|").replace("\n", " ") for name in ("promise", "trial", "times", "outcome")
            )
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    run = RESULTS / "long_run.json"
    if run.exists():
        lines += _long_run(json.loads(run.read_text()))
    if missing := without_result():
        lines += ["## Not run for this page\n", *(f"- {name}" for name in missing), ""]
    lines.append(LIMITS)
    return "\n".join(lines).rstrip() + "\n"


def _long_run(run: dict[str, Any]) -> list[str]:
    _plot(run)
    columns = {
        "deliveries": "Deliveries",
        "seconds": "Time of a delivery, median (s)",
        "maintenance": "Time of the maintenance (s)",
        "data files before": "Data files before it",
        "data files": "Data files after it",
        "log files": "Log files",
        "log bytes": "Log (MB)",
    }
    lines = [f"| {' | '.join(columns.values())} |", "|" + "---:|" * len(columns)]
    for row in run["table"]:
        shown = {
            **row,
            "seconds": f"{row['seconds']:.2f}",
            "maintenance": f"{row['maintenance']:.1f}",
            "log bytes": f"{row['log bytes'] / 1e6:.1f}",
        }
        lines.append(f"| {' | '.join(str(shown[name]) for name in columns)} |")
    return [*lines, "", f"![The time of each delivery]({PLOT.name})", ""]


def _plot(run: dict[str, Any]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "biocloud"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
    axes.plot(range(1, len(run["seconds"]) + 1), run["seconds"], ".", markersize=2, label="one delivery")
    axes.plot([row["deliveries"] for row in run["table"]], [row["seconds"] for row in run["table"]], label="median")
    axes.set(xlabel="deliveries in the lake", ylabel="seconds", ylim=(0, None))
    axes.legend()
    figure.savefig(PLOT, metadata={"Date": None})
    plt.close(figure)


def main() -> int:
    """Run the tests, and write the document if all have passed."""
    parser = argparse.ArgumentParser("python -m tests.chaos", description="Try to lose data, and write the document.")
    parser.add_argument("--seed", type=int, default=1, help="the seed of everything that is random")
    parser.add_argument("--only-write", action="store_true", help="run nothing; write what is known")
    parser.add_argument("-k", default="", help="which tests, as in pytest")
    given = parser.parse_args()
    if not given.only_write:
        tests = [sys.executable, "-m", "pytest", "-n", "0", "-m", "", "tests/chaos", "-k", given.k]
        options = ["--chaos=long", f"--chaos-seed={given.seed}", f"--chaos-results={RESULTS}"]
        code = subprocess.run([*tests, *options], cwd=ROOT).returncode
        if code:
            return code
    DOCUMENT.write_text(render())
    print(f"{DOCUMENT.relative_to(ROOT)}: written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
    return 0


if __name__ == "__main__":
    sys.exit(main())
