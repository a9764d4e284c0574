"""Members of the Databricks groups, synchronised with `groups/*_group.yml`.

The entry point is `sync_groups.py`; only `jobs.py` imports Dagster. What a group may do is SQL, in
`databricks/Privileges_sample.sql`.
"""
