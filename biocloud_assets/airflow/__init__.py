"""Airflow keeps running: its DAGs, generated from the Dagster definitions. Nothing here imports Airflow."""
