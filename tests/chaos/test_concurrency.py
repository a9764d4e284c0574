"""Many processes at once: the lake holds what they would have written one after the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from biocloud_assets.curated.dsi import results
from biocloud_assets.ingest import delivery_log
from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.ingest.delivery import list_delivery
from biocloud_assets.ingest.step import all_checks
from biocloud_assets.ingest.verify import verify
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.sample import synthetic
from biocloud_assets.steps import StepRequest
from tests.chaos.conftest import Chaos
from tests.chaos.processes import ROOT, Processes
from tests.chaos.tasks import digest
from tests.chaos.test_kill import Source, seconds, watching
from tests.cli.biocloud import Biocloud
from tests.curated.dsi.curated_lake import assert_manifests_match, contents
from tests.curated.dsi.test_publication import old_days
from tests.ingest.deliveries import DELIVERY
from tests.ingest.lakehouse import content, context_at, ingest
from tests.ingest.test_engines import Engine, engines  # noqa: F401

pytestmark = pytest.mark.timeout(3600)

RESULTS = 60


def landed(root: Path, deliveries: int) -> tuple[IngestContext, list[str]]:
    """A landing zone with deliveries, and an empty lake."""
    context = context_at(root)
    return context, synthetic.write(context.landing, results=RESULTS, seed=7, deliveries=deliveries)


def lake_with_the_same_deliveries(root: Path, other: Path) -> IngestContext:
    """An empty lake at another root."""
    other.mkdir()
    (other / "in").symlink_to(root / "in")
    return context_at(other)


def write_expected(context: IngestContext, known: Path, names: list[str]) -> None:
    """What a reader must find of each delivery, from a lake that was written undisturbed."""
    digests = {list_delivery(context.landing, CONTRACT, name).fingerprint: digest(context, name) for name in names}
    known.write_text(json.dumps(digests))


def test_processes_that_ingest_different_deliveries_write_what_one_would(
    chaos: Chaos, processes: Processes, tmp_path: Path
) -> None:
    count, rounds = chaos.times(3, 8), chaos.times(1, 4)
    alone, names = landed(tmp_path, count)
    ingest(alone, *names)
    expected, known, looks = content(alone), tmp_path / "expected.json", 0
    write_expected(alone, known, names)
    for number in range(rounds):
        together = lake_with_the_same_deliveries(tmp_path, tmp_path / f"together-{number}")
        with watching(processes, str(tmp_path / f"together-{number}"), known) as seen:
            order = chaos.random.sample(names, len(names))
            started = [
                processes.start("ingest", root=str(tmp_path / f"together-{number}"), deliveries=[name])
                for name in order
            ]
            for process in started:
                process.outcome()
        assert seen["partial"] == []
        looks += seen["looks"]
        assert content(together) == expected
        assert delivery_log.ingested(together.tables, CONTRACT) == set(names)
    chaos.record(
        f"{count} processes can ingest different deliveries into one lake at once.",
        f"{count} processes begin together, into a lake without tables; another one reads it meanwhile.",
        f"{rounds} times",
        f"The tables and the log equal those that one process writes; of {looks} times that the reader saw a delivery "
        "in the log, its rows were complete each time.",
    )


@pytest.mark.chaos_long
def test_processes_that_ingest_the_same_delivery_write_it_once(
    chaos: Chaos, processes: Processes, tmp_path: Path
) -> None:
    count, rounds = 8, 4
    alone, names = landed(tmp_path, 1)
    ingest(alone, *names)
    expected, known, looks = content(alone), tmp_path / "expected.json", 0
    write_expected(alone, known, names)
    for number in range(rounds):
        root = tmp_path / f"together-{number}"
        together = lake_with_the_same_deliveries(tmp_path, root)
        with watching(processes, str(root), known) as seen:
            started = [processes.start("ingest", root=str(root), deliveries=names) for _ in range(count)]
            for process in started:
                process.outcome()
        assert seen["partial"] == []
        looks += seen["looks"]
        assert content(together) == expected
        assert [found for found in verify(together, names[0]) if not found.equal] == []
    chaos.record(
        f"{count} processes can ingest the same delivery at once.",
        f"{count} processes begin together, into a lake without tables; another one reads it meanwhile.",
        f"{rounds} times",
        f"Each row is there once; all processes succeeded; {looks} looks, each complete.",
    )


def test_a_delivery_that_is_delivered_again_meanwhile_is_never_logged_with_rows_of_both(
    chaos: Chaos, processes: Processes, tmp_path: Path
) -> None:
    """Its files have the same names and numbers of rows, and other values; they are replaced one by one."""
    alone = Source(tmp_path / "alone", context_at(tmp_path / "alone"))
    digests = []
    for state in range(2):
        (tmp_path / "alone").mkdir(exist_ok=True)
        alone.change(state, "")
        ingest(alone.context, DELIVERY)
        digests.append(digest(alone.context, DELIVERY))
    context = context_at(tmp_path)
    source = Source(tmp_path, context)
    trials, refused, complete = chaos.times(2, 60), 0, 0
    source.change(0, digests[0])
    span = seconds(processes.start("ingest", root=str(tmp_path), deliveries=[DELIVERY]))
    known = {}
    for _ in range(trials):
        source.change(0, digests[0])
        known[source.fingerprint] = digests[0]
        process = processes.start("ingest", root=str(tmp_path), deliveries=[DELIVERY])
        process.wait_until_begun()
        time.sleep(chaos.random.uniform(0, span))
        source.change(1, digests[1])
        known[source.fingerprint] = digests[1]
        if process.wait():
            refused += 1
            assert "transient: True" in process.printed(), process.printed()
        logged = delivery_log.read(context.tables, CONTRACT, DELIVERY)
        if logged is not None:
            complete += 1
            assert digest(context, DELIVERY) == known[logged["source_fingerprint"]]
        ingest(context, DELIVERY)
        assert digest(context, DELIVERY) == digests[1]
    chaos.record(
        "A delivery that is delivered again during its ingest is never in the log with rows of both.",
        "All files are replaced by others with as many rows, one by one, at a random moment of an ingest; then one "
        "more run.",
        f"{trials} times",
        f"{complete} ingests had ended before, with the rows of the files that the log names; {refused} failed, with "
        "an error that a repetition remedies. The next run wrote the new rows.",
    )


@pytest.mark.chaos_long
def test_ingests_publications_and_cleanups_at_once_do_not_disturb_each_other(
    chaos: Chaos, processes: Processes, tmp_path: Path
) -> None:
    """Half of the processes ingest; the others publish a day, write its manifest and delete older days."""
    count, rounds = 4, 3
    context, names = landed(tmp_path, count * rounds + 1)
    ingest(context, names[0])
    curated = DataLake.at(str(tmp_path / "curated"))
    assets = [results.OBSERVATION, results.MANIFEST, results.RETENTION]
    for number in range(rounds):
        old_days(curated)
        new = names[1 + number * count : 1 + (number + 1) * count]
        # Each publishes a day of its own, and deletes all days before it: those of the others too.
        days = [f"2026-0{2 + number}-{day:02}" for day in range(1, count + 1)]
        started = [processes.start("ingest", root=str(tmp_path), deliveries=[name]) for name in new]
        publications = [
            processes.start("curate", lake=context.lake.root, curated=curated.root, run_date=day, assets=assets)
            for day in days
        ]
        for process in started:
            process.outcome()
        for process in publications:
            process.wait()  # a day that another one deletes meanwhile may fail
        assert_manifests_match(curated)
    last = {"curated": curated.root, "run_date": "2026-12-31", "assets": assets}
    processes.run("curate", lake=context.lake.root, **last)
    assert curated.list("dsi").folders == ("2026-12-31",)
    apart = lake_with_the_same_deliveries(tmp_path, tmp_path / "apart")
    ingest(apart, *names)
    assert content(context) == content(apart)
    alone = DataLake.at(str(tmp_path / "curated alone"))
    processes.run("curate", lake=apart.lake.root, **{**last, "curated": alone.root})
    assert contents(curated) == contents(alone)
    chaos.record(
        "Ingests, publications and cleanups can run at the same time.",
        f"{count} processes ingest, while {count} others publish a day each, write its manifest and delete older days.",
        f"{rounds} times",
        "After each time all manifests matched; in the end the tables and the published day equal those of processes "
        "that ran one after the other.",
    )


@pytest.mark.chaos_long
def test_two_orchestrators_can_ingest_the_same_delivery(chaos: Chaos, tmp_path: Path) -> None:
    """Dagster by `biocloud ingest`, and what Airflow runs on a cluster, `databricks/run_step.py`."""
    rounds = 3
    for number in range(rounds):
        biocloud = Biocloud(tmp_path / str(number))
        (name,) = synthetic.write(DataLake.at(str(biocloud.landing)), results=RESULTS, seed=number)
        request = StepRequest(CONTRACT.addresses, all_checks(CONTRACT), name)
        roots = ["--landing-root", str(biocloud.landing), "--lake-root", str(biocloud.lake), "--engine", "sail"]
        command = [sys.executable, str(ROOT / "databricks/run_step.py"), *request.arguments(), *roots]
        dagster = biocloud.start("ingest", name)
        # Dagster needs longer to begin, by about so much.
        time.sleep(chaos.random.uniform(0, 3))
        script = subprocess.Popen(
            [*command, "--orchestrator", "airflow", "--run-id", "1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **biocloud.environment},
        )
        printed = [process.communicate(timeout=900) for process in (dagster, script)]
        assert (dagster.returncode, script.returncode) == (0, 0), printed
        context = open_lake(biocloud)
        assert all(found.equal for found in verify(context, name))
        assert delivery_log.ingested(context.tables, CONTRACT) == {name}
    chaos.record(
        "Two orchestrators can ingest the same delivery at once.",
        "`biocloud ingest` (Dagster) and `databricks/run_step.py` (as Airflow runs it), begun within 3 seconds.",
        f"{rounds} times",
        "Both succeeded; the tables give the source's records again, and the log has one row.",
    )


def open_lake(biocloud: Biocloud) -> IngestContext:
    """The landing zone and the lake of a home, which need not be at `in` and `out`."""
    root = biocloud.home
    for name, folder in (("in", biocloud.landing), ("out", biocloud.lake)):
        if not (root / name).exists():
            (root / name).symlink_to(folder)
    return context_at(root)


@pytest.mark.jvm
@pytest.mark.chaos_long
def test_sail_and_a_jvm_can_ingest_the_same_delivery(
    chaos: Chaos,
    engines: tuple[Engine, Engine],  # noqa: F811
    tmp_path: Path,
) -> None:
    rounds = 3
    alone, names = landed(tmp_path, rounds)
    ingest(alone, *names)
    together = DataLake.at(str(tmp_path / "together"))
    for name in names:
        for engine in engines:
            engine.send(alone.landing, together, name, "ingest", "verify")
        for engine in engines:
            answer = engine.answer()
            assert answer["failed"] == {}
            assert answer["differing"] == []
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "out").symlink_to(tmp_path / "together")
    assert content(context_at(tmp_path / "both")) == content(alone)
    chaos.record(
        "Sail and Spark on a JVM can write into one lake at once.",
        "Both ingest the same deliveries at the same time, the first into a lake without tables.",
        f"{rounds} deliveries",
        "Each row is there once, equal to what Sail alone writes.",
    )
