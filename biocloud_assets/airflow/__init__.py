"""Export of the Dagster definitions to Airflow: generated DAG files, and their deployment."""
