"""The maintenance on Databricks, by each launcher: one cluster for all tables, and their outcome in Dagster."""

from __future__ import annotations

import dagster as dg
import pytest

from biocloud_assets.launch.results import asset_key
from biocloud_assets.raw.dsi.contract import CONTRACT
from tests.ingest.deliveries import DELIVERY
from tests.ingest.lakehouse import context_at, ingest
from tests.launch.conftest import LAUNCHERS, Site


@pytest.mark.databricks
@pytest.mark.timeout(600)
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_all_tables_are_maintained_on_one_cluster(site: Site, instance: dg.DagsterInstance, launcher: str) -> None:
    site.land(DELIVERY)
    ingest(context_at(site.root), DELIVERY)
    result = site.run(instance, "", launcher, job="table_maintenance")
    assert result.success, result.errors
    assert len(site.workspace.clusters) == 1
    observed = [event.asset_key for event in result.events if event.is_asset_observation]
    assert observed == [asset_key(CONTRACT.address(table)) for table in (*CONTRACT.tables, CONTRACT.log)]
    assert site.workspace.staged_files() == []
