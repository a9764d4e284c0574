"""Run a step: in Dagster's own process, or on Databricks by Pipes or the step launcher."""
