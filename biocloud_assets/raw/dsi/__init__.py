"""DSI (digital species identification): sensors, deployments, media, algorithms and recognition results.

`contract` is the data that all else is derived from. `delivery`, `files`, `validation`, `unnest`, `log`, `ingest` and
`current` are the data code; `partitions`, `assets`, `checks`, `sensors` and `jobs` are Dagster's view of it.
"""
