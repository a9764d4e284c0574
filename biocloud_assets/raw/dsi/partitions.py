"""The partitions of the DSI assets: one for each delivery, added when it is found."""

from __future__ import annotations

import dagster as dg

deliveries = dg.DynamicPartitionsDefinition(name="dsi_delivery")
"""The key is the delivery's name, `yyyy-mm-dd-HH:MM:SS`."""
