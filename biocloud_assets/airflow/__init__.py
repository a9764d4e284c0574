"""Airflow: its DAGs are made from the Dagster definitions, and put where Airflow finds them."""
