"""A second source is one package with a contract; everything else follows, with no other edit."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from biocloud_assets.raw import docs
from biocloud_assets.raw.dsi.contract import CONTRACT as DSI

ROOT = Path(__file__).parents[2]
BIRDS = {
    *("landing/birds/station", "landing/birds/visit", "raw/birds/delivery"),
    *("raw/birds/station", "raw/birds/visit", "raw/birds/visit_sighting"),
}

_CONTRACT = '''
"""What volunteers who count birds deliver."""

from biocloud_assets.schema import (
    DELIVERY, RESCUED, Column, Contract, Field, Folder, ListOf, Presence, Struct, Table, copied
)

_STATION = Folder(
    "station",
    "Places where birds are counted.",
    (
        Field("code", "string", "Code of the station", Presence.KEY),
        Field(
            "position",
            Struct((Field("lat", "double", "Latitude, degrees"), Field("lon", "double", "Longitude, degrees"))),
            "Where it is",
        ),
    ),
)
_SIGHTING = Struct(
    (
        Field("species", "string", "Scientific name"),
        Field("count", "int", "Individuals", range=(0, 100_000)),
        Field("seen_from", "string", "The station that it was seen from", references="station"),
    )
)
_VISIT = Folder(
    "visit",
    "Visits to a station.",
    (
        Field("number", "long", "Number of the visit", Presence.KEY),
        Field("station_code", "string", "The station", Presence.REQUIRED, references="station"),
        Field("began_at", "timestamp", "Start, UTC"),
        Field("sightings", ListOf(_SIGHTING), "The birds that were seen"),
    ),
)

CONTRACT = Contract(
    source="birds",
    owner="team:birds",
    description="Counts of birds by volunteers.",
    version=3,
    folders=(_STATION, _VISIT),
    tables=(
        copied(_STATION),
        Table(
            "visit",
            "visit",
            "one visit",
            (
                Column("number", "long", "Number of the visit", "number"),
                Column("station_code", "string", "The station", "station_code"),
                Column("began_at", "timestamp", "Start, UTC", "began_at"),
                Column("sighting_count", "int", "Number of sightings", "sightings", "size"),
                RESCUED,
                DELIVERY,
            ),
            ("number",),
        ),
        Table(
            "visit_sighting",
            "visit",
            "one sighting of a visit",
            (
                Column("visit_number", "long", "The visit", "number"),
                Column("sighting_index", "int", "Index of the sighting, from 0", "sightings[]", "index"),
                Column("species", "string", "Scientific name", "sightings[].species"),
                Column("count", "int", "Individuals", "sightings[].count"),
                Column("seen_from", "string", "The station", "sightings[].seen_from"),
                RESCUED,
                DELIVERY,
            ),
            ("visit_number", "sighting_index"),
            ("sightings[]",),
        ),
    ),
)
'''

_PROGRAM = """
import json, sys
from datetime import UTC, datetime
from pathlib import Path
import dagster as dg
import pyarrow as pa, pyarrow.parquet as pq
from biocloud_assets.definitions import build_definitions, defs
from biocloud_assets.ingest import delivery_log
from biocloud_assets.ingest.context import open_context
from biocloud_assets.ingest.verify import verify
from biocloud_assets.raw.birds.contract import CONTRACT
from biocloud_assets.schema import arrow_schema
from biocloud_assets.settings import Settings
settings = Settings.load()

def defined():
    repository = defs.get_repository_def()
    graph = repository.asset_graph
    return {
        "assets": {
            key.to_user_string(): {
                "group": graph.get(key).group_name,
                "owners": list(graph.get(key).owners),
                "parents": sorted(parent.to_user_string() for parent in graph.get(key).parent_keys),
                "partitions": getattr(graph.get(key).partitions_def, "name", None),
                "pools": sorted(graph.get(key).pools or ()),
            }
            for key in graph.get_all_asset_keys()
        },
        "checks": sorted(f"{check.asset_key.to_user_string()}:{check.name}" for check in graph.asset_check_keys),
        "jobs": [job.name for job in repository.get_all_jobs()],
        "sensors": [sensor.name for sensor in repository.sensor_defs],
    }

def deliver(delivery, station):
    began = datetime(2026, 5, 1, 6, tzinfo=UTC)
    owl = {"species": "Bubo bubo", "count": 2, "seen_from": "S1"}
    records = {
        "station": [{"code": "S1", "position": {"lat": 52.1, "lon": 4.5}}, {"code": "S2", "position": None}],
        "visit": [
            {"number": 1, "station_code": "S1", "began_at": began, "sightings": [owl, owl]},
            {"number": 2, "station_code": "S2", "began_at": None, "sightings": []},
            {"number": 3, "station_code": station, "began_at": None, "sightings": None},
        ],
    }
    for name, rows in records.items():
        folder = Path(settings.landing, "birds", delivery, name)
        folder.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, arrow_schema(CONTRACT.folder(name))), folder / "part-0.parquet")

def ingest(delivery):
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("birds_delivery", [delivery])
        result = build_definitions(settings).resolve_job_def("birds_raw").execute_in_process(
            instance=instance, partition_key=delivery, raise_on_error=False,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
        materialized = [e.asset_key.to_user_string() for e in result.get_asset_materialization_events()]
        checks = [check for check in result.get_asset_check_evaluations() if not check.passed]
        failed = [f"{check.asset_key.to_user_string()}:{check.check_name}" for check in checks]
    context = open_context(
        CONTRACT, landing_root=settings.landing, lake_root=settings.lake, engine="sail", s3_endpoint=None, catalog=None
    )
    logged = delivery_log.read(context.tables, CONTRACT, delivery)
    return {
        "success": result.success,
        "materialized": sorted(materialized),
        "failed": failed,
        "rows": logged["rows"],
        "version": logged["contract_version"],
        "equal": [comparison.equal for comparison in verify(context, delivery)],
    }

found = {"defined": defined()}
for key, delivery, station in (("valid", "2026-05-02-06:00:00", "S2"), ("dangling", "2026-05-03-06:00:00", "S9")):
    deliver(delivery, station)
    found[key] = ingest(delivery)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the contract of a second source."""
    root = tmp_path_factory.mktemp("copy")
    for name in ("biocloud_assets", "databricks", "docs", "groups"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.parquet"))
    shutil.copy(ROOT / "uv.lock", root)
    package = root / "biocloud_assets" / "raw" / "birds"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "contract.py").write_text(_CONTRACT)
    return root


def run(copy: Path, *arguments: str) -> str:
    """Run Python in the copy, whose package comes before the installed one."""
    environment = os.environ | {
        "BIOCLOUD_HOME": str(copy / "home"),
        "BIOCLOUD_LANDING_ROOT": str(copy / "in"),
        "BIOCLOUD_LAKE_ROOT": str(copy / "out"),
        "PYTHONPATH": str(copy),
    }
    done = subprocess.run(
        [sys.executable, *arguments], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def found(copy: Path) -> dict[str, Any]:
    """What is defined in the copy, and what came of a valid delivery and of one with a dangling reference."""
    document: dict[str, Any] = json.loads(run(copy, "-c", _PROGRAM).splitlines()[-1])
    return document


def test_its_assets_checks_job_and_sensors_are_defined(found: dict[str, Any]) -> None:
    found = found["defined"]
    assets = found["assets"]
    assert {name for name in assets if "/birds/" in name} == BIRDS
    assert assets["raw/birds/visit_sighting"] == {
        "group": "raw_birds",
        "owners": ["team:biocloud"],
        "parents": ["landing/birds/visit"],
        "partitions": "birds_delivery",
        "pools": ["birds_ingest"],
    }
    assert assets["landing/birds/visit"]["owners"] == ["team:birds"]
    assert {check for check in found["checks"] if "/birds/" in check} == {
        *(f"landing/birds/{folder}:{name}" for folder in ("station", "visit") for name in ("contract", "plausible")),
        *(
            f"raw/birds/{table}:{name}"
            for table in ("station", "visit", "visit_sighting")
            for name in ("key", "row_count")
        ),
        "raw/birds/visit:references",
        "raw/birds/visit_sighting:ranges",
        "raw/birds/visit_sighting:references",
    }
    assert "birds_raw" in found["jobs"]
    assert {"birds_deliveries", "birds_external_ingests"} <= set(found["sensors"])
    assert {"raw/dsi/sensor", "landing/dsi/sensor"} <= set(assets), "the first one is as before"


def test_it_gets_a_docs_page(copy: Path) -> None:
    run(copy, "-m", "biocloud_assets.raw.docs")
    page = (copy / "docs/data-architecture/raw/birds.md").read_text()
    assert "# raw/birds: the delivery contract, version 3" in page
    assert "| `sightings[].count` | int | 0 to 100000 | Individuals |" in page
    assert "### raw/birds/visit_sighting" in page
    assert (copy / "docs/data-architecture/raw/dsi.md").read_text() == docs.page(DSI), "that of the first is as before"


@pytest.fixture(scope="module")
def exported(copy: Path) -> None:
    run(copy, "-m", "biocloud_assets.cli", "airflow", "export")


@pytest.mark.usefixtures("exported")
@pytest.mark.parametrize("environment", ["development", "production"])
def test_its_dags_are_exported(copy: Path, environment: str) -> None:
    folder = copy / "airflow_export" / environment / "dags"
    for name in ("birds_raw", "birds_deliveries"):
        compile((folder / f"{name}.py").read_text(), f"{name}.py", "exec")
    dag = (folder / "birds_raw.py").read_text()
    assert 'dag_id="birds_raw"' in dag
    for address in BIRDS:
        assert re.search(rf'Asset\("s3://[^"]*/{address.split("/", 1)[1]}"\)', dag), address
    assert "/dsi/" not in dag
    for path in sorted((ROOT / "airflow_export" / environment / "dags").iterdir()):
        assert (folder / path.name).read_text() == path.read_text(), "those of the first are as before"


def test_a_delivery_of_it_is_ingested_by_its_job_and_equal_to_its_tables(found: dict[str, Any]) -> None:
    assert found["valid"] == {
        "success": True,
        "materialized": sorted(BIRDS),
        "failed": [],
        "rows": {"station": 2, "visit": 3, "visit_sighting": 2},
        "version": 3,
        "equal": [True, True],
    }


def test_its_references_are_checked(found: dict[str, Any]) -> None:
    assert found["dangling"]["success"]
    assert sorted(found["dangling"]["failed"]) == ["landing/birds/visit:plausible", "raw/birds/visit:references"]
