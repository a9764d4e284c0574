"""`kill -9` at random moments: one more run leads to the state of an undisturbed one, and no reader saw a part of it.

The moments are spread evenly over the time that an undisturbed run takes. A reader in another process looks at the
lake all the time.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from biocloud_assets.curated.dsi import results
from biocloud_assets.ingest import delivery_log
from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.ingest.delivery import list_delivery
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.sample import synthetic
from tests.airflow.test_deploy import World
from tests.chaos.conftest import Chaos
from tests.chaos.processes import Process, Processes
from tests.chaos.tasks import digest
from tests.cli.biocloud import Biocloud
from tests.curated.dsi.curated_lake import assert_manifests_match, contents
from tests.curated.dsi.test_publication import DAY, assert_manifest_only_of_whole_publications, old_days
from tests.ingest.deliveries import DELIVERY, record, table, write
from tests.ingest.lakehouse import content, context_at, failed, ingest, written_files

pytestmark = pytest.mark.timeout(3600)


class Killed:
    """Kills processes at random moments of their work, and counts what became of them."""

    def __init__(self, chaos: Chaos, span: float) -> None:
        self._chaos, self.span = chaos, span
        self.killed = self.ended = 0

    def __call__(self, process: Process) -> None:
        """Kill a process that has just been started; it may have ended before."""
        process.wait_until_begun()
        time.sleep(self._chaos.random.uniform(0, self.span))
        process.kill()
        code = process.wait()
        assert code in (0, -9), process.printed()
        self.killed += code == -9
        self.ended += code == 0


def seconds(process: Process) -> float:
    """The time of the work of an undisturbed process."""
    process.wait_until_begun()
    began = time.monotonic()
    process.outcome()
    return time.monotonic() - began


# Ingest.


class Source:
    """A landing zone in which a delivery has one of several states, and what a lake must hold of each.

    Attributes:
        context: the landing zone and the lake.
        name: the delivery.
    """

    def __init__(self, root: Path, context: IngestContext) -> None:
        self.context, self.name = context, DELIVERY
        self.known = root / "expected.json"
        self._digests: dict[str, str] = {}
        self._made = root / "made"

    @property
    def fingerprint(self) -> str:
        return list_delivery(self.context.landing, CONTRACT, self.name).fingerprint

    def change(self, state: int, expected: str) -> None:
        """Deliver another state, whose rows in the tables have a known digest."""
        for file in self.files(state):
            self.context.landing.write(f"dsi/{self.name}/{file.relative_to(self._folder(state))}", file.read_bytes())
        self._digests[self.fingerprint] = expected
        temporary = self.known.with_suffix(".new")
        temporary.write_text(json.dumps(self._digests))
        temporary.replace(self.known)

    def _folder(self, state: int) -> Path:
        return self._made / str(state) / "dsi" / self.name

    def files(self, state: int) -> list[Path]:
        """The files of a state: the same names and numbers of rows in each, with other values."""
        folder = self._folder(state)
        if not folder.exists():
            unknown = table("sensor", [record("sensor", name=f"state {state}"), record("sensor", id="sensor-2")])
            write(
                self._made / str(state),
                self.name,
                algorithm=[record("algorithm", tag=f"state {state}")],
                sensor=unknown.append_column("battery", unknown["name"]),  # so that a normalised copy is staged
                analysis_group_result=[
                    record("analysis_group_result", id=f"r{number}", analysis_group_id=f"state {state}")
                    for number in range(50)
                ],
            )
        return sorted(folder.rglob("*.parquet"))


@contextmanager
def watching(processes: Processes, root: str, known: Path, **options: Any) -> Iterator[dict[str, Any]]:
    """Let a reader look at the lake meanwhile; what it has seen is in the dictionary afterwards."""
    stop = known.with_suffix(".stop")
    stop.unlink(missing_ok=True)
    reader = processes.start("read", root=root, expected=str(known), stop=str(stop), **options)
    reader.wait_until_begun()
    seen: dict[str, Any] = {}
    try:
        yield seen
    finally:
        stop.touch()
        seen.update(reader.outcome())


def test_an_ingest_that_is_killed_is_completed_by_the_next_and_no_reader_sees_a_part(
    where: str, chaos: Chaos, processes: Processes, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root, endpoint, environment = str(tmp_path), None, {}
    if where == "s3":
        root, endpoint = request.getfixturevalue("s3_root"), request.getfixturevalue("s3_server")
        environment = request.getfixturevalue("s3_environment")
    context = context_at(root, endpoint=endpoint)
    source, names = Source(tmp_path, context), list(range(2))
    options = {"root": root, "endpoint": endpoint, "environment": environment}

    # The undisturbed runs, into a lake of their own.
    alone = context_at(tmp_path / "alone")
    undisturbed = Source(tmp_path / "alone", alone)
    digests = []
    for state in names:
        (tmp_path / "alone").mkdir(exist_ok=True)
        undisturbed.change(state, "")
        assert ingest(alone, DELIVERY)
        digests.append(digest(alone, DELIVERY))
    assert len(set(digests)) == len(digests)
    source.change(0, digests[0])
    span = seconds(processes.start("ingest", deliveries=[DELIVERY], **options))
    kill = Killed(chaos, span)
    recovered = looks = 0
    while kill.killed < chaos.times(*((2, 110) if where == "folder" else (1, 30))):
        if kill.killed:  # the first time, there are tables; later the creation of the tables is killed too
            context.lake.delete_folder("raw")
            context.lake.delete_folder("_files/ingested")
        with watching(processes, root, source.known, endpoint=endpoint, environment=environment) as seen:
            for _ in range(chaos.times(1, 5)):
                state = chaos.random.choice(names)
                source.change(state, digests[state])
                for _ in range(chaos.random.randint(1, 3)):
                    kill(processes.start("ingest", deliveries=[DELIVERY], **options))
                recover(context)
                recovered += 1
                assert_undisturbed(context, source, digests[state])
        assert seen["partial"] == []
        looks += seen["looks"]
        assert kill.ended < 1000
    assert looks
    chaos.record(
        f"An ingest that was killed is completed by the next one ({'folder' if where == 'folder' else 'S3'}).",
        "`kill -9` at a random moment of `ingest_step`: into a lake without tables, of the same files again, of files "
        "that have changed; one to three times in a row, then one more run. Another process reads the log and all "
        "tables meanwhile.",
        f"{kill.killed} kills (and {kill.ended} runs that ended before), {recovered} recoveries",
        f"Each recovery gave the rows, the log and the marker of an undisturbed run. Of "
        f"{looks} times that the reader saw the delivery in the log, its rows were complete each time.",
    )


def recover(context: IngestContext) -> None:
    """One more run, which isn't killed. The source warns of an unknown column, and nothing else."""
    assert set(failed(ingest(context, DELIVERY))) == {"landing/dsi/sensor:plausible"}


def assert_undisturbed(context: IngestContext, source: Source, expected: str) -> None:
    """The lake must hold the rows, the log and the marker that an undisturbed ingest of the present files leaves."""
    assert digest(context, DELIVERY) == expected
    logged = delivery_log.read(context.tables, CONTRACT, DELIVERY)
    assert logged is not None
    assert logged["source_fingerprint"] == source.fingerprint
    markers = [path for path in written_files(context) if path.startswith("_files/ingested")]
    assert markers == [f"_files/ingested/dsi/{DELIVERY}"]


# The curated layer.


@pytest.mark.chaos_long
def test_a_publication_that_is_killed_is_completed_by_the_next_and_a_manifest_always_matches(
    chaos: Chaos, processes: Processes, tmp_path: Path
) -> None:
    """From the raw tables, by the engine: publish, write the manifest, delete older days."""
    context = context_at(tmp_path / "lake")
    names = synthetic.write(context.landing, results=60, seed=5, deliveries=2)
    curated = DataLake.at(str(tmp_path / "curated"))
    options = {"lake": context.lake.root, "curated": curated.root, "run_date": "2026-01-31"}
    assets = [results.OBSERVATION, results.MANIFEST, results.RETENTION]
    earlier = tmp_path / "earlier"
    for name in names:  # the earlier state of the day is the one before the second delivery
        ingest(context, name)
        span = seconds(processes.start("curate", assets=assets, **options))
        if not earlier.exists():
            shutil.copytree(curated.root, earlier)
    undisturbed = contents(curated)
    kill = Killed(chaos, span)
    while kill.killed < 40:
        shutil.rmtree(curated.root)
        shutil.copytree(earlier, curated.root)
        old_days(curated)
        for _ in range(chaos.random.randint(1, 2)):
            kill(processes.start("curate", assets=assets, **options))
            assert_manifests_match(curated)
        processes.run("curate", assets=assets, **options)
        assert contents(curated) == undisturbed
    chaos.record(
        "A publication that was killed is completed by the next one; a manifest always matches its folder.",
        "`kill -9` at a random moment of the curated step: publishing from the raw tables, writing the manifest, "
        "deleting older days; then one more run.",
        f"{kill.killed} kills (and {kill.ended} runs that ended before)",
        "All files equal those of an undisturbed run, byte for byte. After each kill, each manifest that was there "
        "listed exactly the files of its folder.",
    )


@pytest.mark.chaos_long
def test_a_day_of_many_files_that_is_killed_is_completed_by_the_next(
    where: str, chaos: Chaos, processes: Processes, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root, endpoint, environment = str(tmp_path / "curated"), None, {}
    if where == "s3":
        root, endpoint = request.getfixturevalue("s3_root"), request.getfixturevalue("s3_server")
        environment = request.getfixturevalue("s3_environment")
    lake = DataLake.at(root, endpoint=endpoint)
    options = {"curated": root, "endpoint": endpoint, "environment": environment}
    undisturbed = []
    for salt in ("a", "b"):
        old_days(lake)
        span = seconds(processes.start("publish", salt=salt, **options))
        undisturbed.append(contents(lake))
    kill = Killed(chaos, span)
    while kill.killed < 30:
        salt = chaos.random.choice("ab")
        old_days(lake)
        for _ in range(chaos.random.randint(1, 2)):
            kill(processes.start("publish", salt=salt, **options))
            assert_manifests_match(lake)
            assert_manifest_only_of_whole_publications(lake)
        processes.run("publish", salt=salt, **options)
        assert contents(lake) == undisturbed["ab".index(salt)]
    assert assert_manifests_match(lake) == [str(DAY)]
    chaos.record(
        f"The same for a day of many files ({'folder' if where == 'folder' else 'S3'}).",
        "`kill -9` at a random moment of writing ten files, the manifest, and deleting two older days; then one more "
        "run.",
        f"{kill.killed} kills (and {kill.ended} runs that ended before)",
        "As above. Writing the manifest after a kill was refused, except where all files were of one publication.",
    )


# Deployment.


def test_a_deployment_that_is_killed_is_completed_by_the_next_and_no_file_is_half_written(
    chaos: Chaos, processes: Processes, tmp_path: Path, s3_root: str, s3_server: str, s3_environment: dict[str, str]
) -> None:
    world = World(tmp_path, f"{s3_root}/dags", s3_server)
    states = [{f"dag_{number}": f"state = {state}" for number in range(state, state + 12)} for state in range(3)]
    options = {
        "root": str(tmp_path),
        "prefix": world.prefix,
        "endpoint": s3_server,
        "environment": s3_environment,
    }
    world.put(f"{world.folder}/unmanaged.py")
    whole: list[dict[str, bytes]] = []
    for world.definitions in states:
        span = seconds(processes.start("deploy", definitions=world.definitions, **options))
        whole.append(world.objects())
    kill = Killed(chaos, span)
    valid = {(path, data) for objects in whole for path, data in objects.items()}
    while kill.killed < chaos.times(2, 40):
        state = chaos.random.randrange(len(states))
        for _ in range(chaos.random.randint(1, 2)):
            kill(processes.start("deploy", definitions=states[state], **options))
            assert set(world.objects().items()) <= valid
        processes.run("deploy", definitions=states[state], **options)
        assert world.objects() == whole[state]
    chaos.record(
        "A deployment of the DAGs that was killed is completed by the next one; no file is ever half-written.",
        "`kill -9` at a random moment of a deployment that uploads, replaces and removes DAGs; then one more run.",
        f"{kill.killed} kills (and {kill.ended} runs that ended before)",
        "The bucket equals that of an undisturbed deployment; a file that belongs to others stayed. After each kill, "
        "each file was a whole one of some deployment.",
    )


# Whole commands.


def run_command(biocloud: Biocloud, delivery: str) -> float:
    """Ingest a delivery by the command; returns the seconds that it took."""
    began = time.monotonic()
    process = biocloud.start("ingest", delivery)
    printed = process.communicate(timeout=900)
    assert process.returncode == 0, printed
    return time.monotonic() - began


@pytest.mark.chaos_long
def test_a_command_that_is_killed_is_completed_by_the_next(chaos: Chaos, tmp_path: Path) -> None:
    """`biocloud ingest`, with Dagster around the step: a run that was killed is not taken for a running one."""
    biocloud = Biocloud(tmp_path)
    (name,) = synthetic.write(DataLake.at(str(biocloud.landing)), results=60, seed=5)
    span = run_command(biocloud, name)
    (tmp_path / "in").symlink_to(biocloud.landing)
    (tmp_path / "out").symlink_to(biocloud.lake)
    context = context_at(tmp_path)
    expected, killed = content(context), 0
    while killed < 5:
        for file in (biocloud.landing / "dsi" / name).rglob("*.parquet"):
            file.write_bytes(file.read_bytes())  # counts as changed, so that it is ingested anew
        process = biocloud.start("ingest", name)
        time.sleep(chaos.random.uniform(0, span))
        process.kill()
        process.communicate(timeout=60)
        killed += process.returncode == -9
        run_command(biocloud, name)
        assert content(context) == expected
        assert delivery_log.ingested(context.tables, CONTRACT) == {name}
        # A run is recorded as failed when the next command finds that its process is gone.
        assert {run.status.value for run in biocloud.runs()} <= {"SUCCESS", "FAILURE", "CANCELED"}
    chaos.record(
        "A `biocloud ingest` that was killed is completed by the next one.",
        "`kill -9` at a random moment of the whole command, with Dagster; then the command again.",
        f"{killed} kills",
        "The tables and the log equal those of an undisturbed command, and no run keeps the status STARTED.",
    )
