"""The partitions of the curated layer: one for each day."""

from __future__ import annotations

import dagster as dg

run_dates = dg.DailyPartitionsDefinition(start_date="2020-01-01", timezone="UTC", end_offset=1)
"""The key is the run date, `yyyy-mm-dd`. Today is a partition, so that deliveries are published on the same day."""
