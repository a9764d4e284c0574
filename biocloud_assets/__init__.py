"""Biocloud: deliveries of nested Parquet to Delta tables, as a Dagster asset graph.

The folders mirror the data architecture: the contract of the tables `raw/dsi/…` is in `raw/dsi/`.
"""

__version__ = "0.2.0"
