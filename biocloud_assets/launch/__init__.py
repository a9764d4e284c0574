"""Getting a step to where it runs: Dagster's own process, or Databricks by step launcher or by Pipes."""
