"""Dagster's home on this machine: what the command writes into it, Dagster's own storage reads, and the other way."""

from pathlib import Path

import dagster as dg
import pytest

from biocloud_assets.event_log import OpenSqliteEventLogStorage
from biocloud_assets.home import open_instance
from biocloud_assets.settings import Settings


@dg.asset(check_specs=[dg.AssetCheckSpec("plenty", asset="counted")])
def counted(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    context.log.info("counting")
    return dg.MaterializeResult(metadata={"rows": 3}, check_results=[dg.AssetCheckResult(passed=True)])


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("BIOCLOUD_HOME", str(tmp_path))
    return Settings.load()


def told(instance: dg.DagsterInstance) -> list[tuple[str, list[str]]]:
    """The runs, each with all its events."""
    return [
        (run.run_id, [f"{event.dagster_event_type} {event.user_message}" for event in instance.all_logs(run.run_id)])
        for run in instance.get_runs()
    ]


def test_two_runs_are_read_alike_by_dagsters_own_storage_while_open_and_after(settings: Settings) -> None:
    with open_instance(settings) as instance:
        assert isinstance(instance.event_log_storage, OpenSqliteEventLogStorage)
        for _ in range(2):
            assert dg.materialize([counted], instance=instance).success
        ours = told(instance)
        with dg.DagsterInstance.get() as other:
            assert type(other.event_log_storage) is not OpenSqliteEventLogStorage
            assert told(other) == ours
            assert dg.materialize([counted], instance=other).success
            theirs = told(other)
        assert told(instance) == theirs
    assert len(theirs) == 3
    assert all("ASSET_CHECK_EVALUATION" in " ".join(events) for _, events in theirs)
    with dg.DagsterInstance.get() as other:
        assert told(other) == theirs
        latest = other.get_latest_materialization_event(counted.key)
        assert latest is not None and latest.asset_materialization is not None
        assert latest.asset_materialization.metadata["rows"].value == 3


def test_the_databases_are_closed_in_the_end(settings: Settings) -> None:
    with open_instance(settings) as instance:
        dg.materialize([counted], instance=instance)
    assert [path.name for path in settings.dagster.rglob("*.db-wal")] == []


def test_many_runs_do_not_hold_many_databases_open(settings: Settings) -> None:
    with open_instance(settings) as instance:
        for _ in range(3):
            dg.materialize([counted], instance=instance)
        open_now = {Path(entry).resolve().name for entry in Path("/proc/self/fd").iterdir() if entry.exists()}
        runs = {f"{run.run_id}.db" for run in instance.get_runs()}
    assert len(runs) == 3
    assert len(open_now & runs) <= 1


def test_a_storage_that_somebody_has_chosen_is_kept(settings: Settings, tmp_path: Path) -> None:
    settings.dagster.mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    (settings.dagster / "dagster.yaml").write_text(f"storage: {{sqlite: {{base_dir: '{elsewhere}'}}}}\n")
    with open_instance(settings) as instance:
        assert dg.materialize([counted], instance=instance).success
    assert list(elsewhere.rglob("*.db"))
