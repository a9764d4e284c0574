"""The partitions of what is delivered back to DSI: one for each day."""

from __future__ import annotations

import dagster as dg

run_dates = dg.DailyPartitionsDefinition(start_date="2020-01-01", timezone="UTC", end_offset=1)
"""The key is the run date, `yyyy-mm-dd`. Today is one of them, for what is delivered today is published today."""
