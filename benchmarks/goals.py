"""The goals, as data: a figure of a benchmark, and what it may be at most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """A goal.

    Attributes:
        benchmark, figure: where the measured value is found.
        text: the goal in words.
        at_most: the largest value that meets it.
        unit: behind the number.
        reason: why it isn't met, where that is known.
    """

    benchmark: str
    figure: str
    text: str
    at_most: float
    unit: str = ""
    reason: str = ""

    def shown(self, value: float) -> str:
        """A value for a table."""
        number = f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"
        return f"{number} {self.unit}".strip()


GOALS = (
    Goal(
        "unnest",
        "1000000.local.biocloud/duckdb_checked",
        "1,000,000 results: `biocloud ingest` / DuckDB with the same guarantees",
        0.85,
        reason="Both take the same CPU time, but 4.5 seconds of it are Dagster's, on one core.",
    ),
    Goal(
        "unnest",
        "1000000.local.biocloud/polars",
        "1,000,000 results: `biocloud ingest` / plain Polars",
        1.0,
        reason="Plain Polars neither validates nor reads the tables back. With the same guarantees it takes about as "
        "long as `biocloud ingest`.",
    ),
    Goal(
        "unnest",
        "200000.local.biocloud/duckdb_checked",
        "200,000 results: `biocloud ingest` / DuckDB with the same guarantees",
        1.1,
        reason="About 4.5 CPU seconds of the process are Dagster's: its import, the definitions, a new home, the run's "
        "156 events.",
    ),
    Goal(
        "unnest",
        "200000.local.sail/floor",
        "200,000 results: Spark code alone / floor, without the start",
        1.5,
        reason="Creating nine tables takes as long for few rows as for many.",
    ),
    Goal("unnest", "1000000.local.sail/floor", "1,000,000 results: Spark code alone / floor, without the start", 1.5),
    Goal("unnest", "growth.10.wall", "10 times the data: times the time of `biocloud ingest`", 10.5),
    Goal(
        "unnest",
        "growth.10.memory",
        "10 times the data: times its memory",
        2.0,
        reason="The checks hold a digest of each key and the values of the references; the rest is bounded.",
    ),
    Goal(
        "deliveries",
        "further_cpu",
        "Each further delivery of 100 results, through Dagster",
        0.7,
        "CPU s",
        "The step itself takes 0.6. Dagster stores 156 events in SQLite by about 740 statements, for each of which it "
        "makes a new SQLAlchemy engine that compiles the statement again; no setting of Dagster batches them.",
    ),
    Goal(
        "deliveries",
        "flat",
        "Many deliveries of 100 results: time of the last tenth / of the first tenth",
        1.5,
        reason="A step reads the logs of the tables dozens of times, and these name one file for each delivery. "
        "reliability.md has 1,000 deliveries, with maintenance.",
    ),
    Goal("discovery", "requests_0", "10,000 deliveries, a sensor tick with none new: requests to S3", 2),
    Goal("discovery", "requests_100", "10,000 deliveries, a sensor tick with 100 new ones: requests to S3", 62),
    Goal(
        "airflow_parse",
        "worst",
        "The exported DAG file: time to load / the same by hand",
        1.5,
        reason="The file by hand has no results, links, messages and retries by kind of error. Each exported file "
        "loads in less than 4 ms.",
    ),
    Goal("group_sync", "requests", "Group sync, 2,000 users, 20 groups, 10 of them changed: requests", 57),
    Goal("curated", "manifest_requests_per_1000", "Manifest of 100,000 files: list requests per 1,000 files", 1.0),
    Goal("curated", "cleanup_requests_per_1000", "Cleanup of 100,000 files: delete requests per 1,000 files", 1.0),
    Goal("corpus", "failures", "Damaged files on which the reader crashes, raises or takes 5 seconds", 0),
)
"""All goals."""
