"""Biocloud: DSI deliveries to Delta tables, as a Dagster asset graph.

The folders mirror the data architecture: the table `raw/dsi/sensor` is made by the code in `raw/dsi/`. Data code knows
no orchestrator; only `assets.py`, `checks.py`, `sensors.py`, `jobs.py`, `partitions.py`, `resources.py` and
`definitions.py` import Dagster.
"""
