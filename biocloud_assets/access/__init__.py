"""Who may reach the lake: the Databricks workspace groups, kept in step with `groups/*_group.yml`.

`sync_groups.py` is the way in; only `jobs.py` knows Dagster. The grants that a group has are SQL, in
`databricks/Privileges_sample.sql`.
"""
