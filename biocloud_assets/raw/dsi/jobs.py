"""The jobs of the DSI assets."""

import dagster as dg

from biocloud_assets.raw.dsi.assets import assets
from biocloud_assets.raw.dsi.checks import check_tables

dsi_raw = dg.define_asset_job(
    "dsi_raw",
    selection=dg.AssetSelection.assets(*assets) | dg.AssetSelection.checks(check_tables),
    description="Bring one delivery into the lake: inspect it, write its nine tables, check them, and log it.",
    tags={"domain": "dsi"},
)
