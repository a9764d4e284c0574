"""An S3 that drops, delays, truncates or refuses requests at random: a step succeeds wholly or fails with a reason."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from biocloud_assets.ingest import delivery_log
from biocloud_assets.ingest.delivery import list_delivery
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.sample import synthetic
from tests.airflow.test_deploy import World
from tests.chaos.conftest import Chaos
from tests.chaos.faulty_s3 import FaultyS3
from tests.chaos.processes import Process, Processes
from tests.chaos.tasks import digest
from tests.chaos.test_kill import watching
from tests.curated.dsi.curated_lake import assert_manifests_match, contents
from tests.curated.dsi.test_publication import old_days
from tests.ingest.lakehouse import context_at, ingest

pytestmark = pytest.mark.timeout(3600)

RATES = (0.02, 0.05, 0.1, 0.3)
"""Which shares of the requests fail."""


def through(proxy: FaultyS3, environment: dict[str, str]) -> dict[str, str]:
    """The variables by which a process finds the S3 behind the proxy."""
    return {**environment, "AWS_ENDPOINT_URL": proxy.url}


class Outcomes:
    """How the processes ended: those that failed must have said why, with an error that a repetition can remedy."""

    def __init__(self) -> None:
        self.succeeded = 0
        self.failed: Counter[str] = Counter()

    def add(self, process: Process) -> bool:
        """Whether it succeeded."""
        if process.wait(timeout=600) == 0:
            self.succeeded += 1
            return True
        named = re.findall(r"^(?:\w+\.)*(\w+(?:Error|Exception))\b", process.printed(), re.MULTILINE)
        assert named, process.printed()
        self.failed[named[-1]] += 1
        # Otherwise neither Dagster nor Airflow would repeat the step.
        assert "transient: True" in process.printed(), process.printed()
        return False

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {name}" for name, count in self.failed.most_common())
        return f"{self.succeeded} succeeded, {self.failed.total()} failed" + (f" ({reasons})" if reasons else "")


@pytest.mark.chaos_long
def test_an_ingest_on_a_failing_s3_is_whole_or_fails_and_the_next_one_completes_it(
    chaos: Chaos,
    processes: Processes,
    tmp_path: Path,
    s3_root: str,
    s3_server: str,
    s3_environment: dict[str, str],
) -> None:
    alone = context_at(f"{s3_root}/alone", endpoint=s3_server)
    (name,) = synthetic.write(alone.landing, results=60, seed=3)
    ingest(alone, name)
    expected = digest(alone, name)
    trials, outcomes, looks = 12, Outcomes(), 0
    with FaultyS3(s3_server, f"{chaos.seed} ingest") as proxy:
        for number in range(trials):
            proxy.rate = RATES[number % len(RATES)]
            root = f"{s3_root}/{number}"
            context = context_at(root, endpoint=s3_server)
            synthetic.write(context.landing, results=60, seed=3)
            known = tmp_path / f"{number}.json"
            known.write_text(json.dumps({list_delivery(context.landing, CONTRACT, name).fingerprint: expected}))
            options = {"root": root, "endpoint": proxy.url, "deliveries": [name]}
            with watching(processes, root, known, endpoint=s3_server, environment=s3_environment) as seen:
                for _ in range(3):
                    process = processes.start("ingest", **options, environment=through(proxy, s3_environment))
                    if outcomes.add(process):
                        assert digest(context, name) == expected
                        assert delivery_log.ingested(context.tables, CONTRACT) == {name}
                        break
                else:
                    ingest(context, name)
            assert seen["partial"] == []
            looks += seen["looks"]
            assert digest(context, name) == expected
            assert delivery_log.ingested(context.tables, CONTRACT) == {name}
    assert proxy.injected
    chaos.record(
        "On an S3 that fails, an ingest is whole or fails with a reason, and a repetition completes it.",
        f"A proxy before the S3 fails at {', '.join(f'{rate:.0%}' for rate in RATES[:trials])} of the requests: "
        f"{', '.join(sorted(proxy.injected))}. Up to three attempts, then one without faults.",
        f"{trials} deliveries, {proxy.requests:,} requests, {proxy.injected.total()} faults",
        f"Of the attempts, {outcomes}. After each delivery the rows and the log were those of an undisturbed run; of "
        f"{looks} times that a reader saw a delivery in the log, its rows were complete each time.",
    )


def test_a_publication_on_a_failing_s3_is_whole_or_fails_and_the_next_one_completes_it(
    chaos: Chaos,
    processes: Processes,
    s3_root: str,
    s3_server: str,
    s3_environment: dict[str, str],
) -> None:
    lake = DataLake.at(s3_root, endpoint=s3_server)
    whole = []
    for salt in ("a", "b"):
        old_days(lake)
        processes.run("publish", curated=s3_root, salt=salt, endpoint=s3_server, environment=s3_environment)
        whole.append(contents(lake))
    trials, outcomes = chaos.times(4, 40), Outcomes()
    with FaultyS3(s3_server, f"{chaos.seed} publish") as proxy:
        for number in range(trials):
            proxy.rate = RATES[number % len(RATES)]
            salt = "ab"[number % 2]
            old_days(lake)
            options = {"curated": s3_root, "salt": salt}
            process = processes.start(
                "publish", **options, endpoint=proxy.url, environment=through(proxy, s3_environment)
            )
            if not outcomes.add(process):
                assert_manifests_match(lake)
                processes.run("publish", **options, endpoint=s3_server, environment=s3_environment)
            assert contents(lake) == whole[number % 2]
    chaos.record(
        "On an S3 that fails, a publication, its manifest and the cleanup are whole or fail with a reason.",
        "The same proxy. After a failure all manifests are compared with their folders, and one run without faults "
        "follows.",
        f"{trials} publications, {proxy.requests:,} requests, {proxy.injected.total()} faults",
        f"{outcomes}. All files equal those of an undisturbed run; no manifest listed anything else than its folder.",
    )


def test_a_deployment_on_a_failing_s3_is_whole_or_fails_and_the_next_one_completes_it(
    chaos: Chaos,
    processes: Processes,
    tmp_path: Path,
    s3_root: str,
    s3_server: str,
    s3_environment: dict[str, str],
) -> None:
    world = World(tmp_path, f"{s3_root}/dags", s3_server)
    states = [{f"dag_{number}": f"state = {state}" for number in range(state, state + 12)} for state in range(3)]
    whole = []
    for world.definitions in states:
        world.deploy()
        whole.append(world.objects())
    trials, outcomes = chaos.times(4, 40), Outcomes()
    with FaultyS3(s3_server, f"{chaos.seed} deploy") as proxy:
        for number in range(trials):
            proxy.rate = RATES[number % len(RATES)]
            state = chaos.random.randrange(len(states))
            options = {"root": str(tmp_path), "prefix": world.prefix, "definitions": states[state]}
            process = processes.start(
                "deploy", **options, endpoint=proxy.url, environment=through(proxy, s3_environment)
            )
            if not outcomes.add(process):
                for path, data in world.objects().items():
                    assert data in [objects.get(path) for objects in whole], "a whole file of some deployment"
                processes.run("deploy", **options, endpoint=s3_server, environment=s3_environment)
            assert world.objects() == whole[state]
    chaos.record(
        "On an S3 that fails, a deployment of the DAGs is whole or fails with a reason.",
        "The same proxy, and one run without faults after a failure.",
        f"{trials} deployments, {proxy.requests:,} requests, {proxy.injected.total()} faults",
        f"{outcomes}. No file was ever half-written; the bucket equals that of an undisturbed deployment.",
    )
