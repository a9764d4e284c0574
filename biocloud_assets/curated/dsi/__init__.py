"""What is delivered back to DSI: one folder a day, with the observations in Darwin Core terms and a manifest.

Data code: `paths`, `observation`, `publication`, `manifest`, `cleanup`, `plot`, `results`, and `step`, which
orchestrators run. Dagster's view: `assets`, `jobs`, `partitions`, `sensors`. Documentation:
docs/data-architecture/curated/dsi.md.
"""
