"""Spark, whatever runs it: a session on Sail, on a local JVM or on Databricks, and safe writes to Delta tables."""
