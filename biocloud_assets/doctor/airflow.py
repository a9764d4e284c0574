"""The check of Airflow's connections, where Airflow can be reached: on Amazon MWAA, with this process's credentials.

https://docs.aws.amazon.com/mwaa/latest/userguide/access-mwaa-apache-airflow-rest-api.html
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from biocloud_assets.doctor.context import DoctorContext, aws_client
from biocloud_assets.doctor.findings import Finding, brief, failed, not_checked, ok, warning

CONNECTIONS = {"databricks_default": "databricks", "aws_default": "aws"}
"""The connections that the exported DAGs use, and their types."""

_BY_HAND = "Look where Airflow runs: `airflow connections get databricks_default` and `… aws_default`."


def connections(context: DoctorContext) -> Iterator[Finding]:
    """The connections exist that the exported DAGs use, in the MWAA environment that reads the DAG folder."""
    from botocore.exceptions import BotoCoreError, ClientError

    name = "Airflow connections"
    if context.environment.scheduler != "airflow":
        yield ok(name, f"none needed: the scheduler is {context.environment.scheduler}")
        return
    mwaa = aws_client("mwaa", context.environment.region)
    try:
        found = _environment(mwaa, context.environment.dags)
        if found is None:
            yield not_checked(name, f"no MWAA environment reads {context.environment.dags}", _BY_HAND)
            return
        for connection, kind in CONNECTIONS.items():
            yield _connection(mwaa, found, connection, kind)
    except (BotoCoreError, ClientError) as error:
        yield not_checked(name, brief(error), _BY_HAND)


def _environment(mwaa: Any, dags: str) -> str | None:
    """The name of the MWAA environment that reads a folder of DAGs."""
    for page in mwaa.get_paginator("list_environments").paginate():
        for name in page["Environments"]:
            one = mwaa.get_environment(Name=name)["Environment"]
            bucket = one.get("SourceBucketArn", "").rpartition(":")[2]
            if f"s3://{bucket}/{one.get('DagS3Path', '').strip('/')}" == dags.rstrip("/"):
                return str(name)
    return None


def _connection(mwaa: Any, environment: str, connection: str, kind: str) -> Finding:
    from botocore.exceptions import ClientError

    name = f"Airflow connection {connection}"
    try:
        answer = mwaa.invoke_rest_api(Name=environment, Path=f"/connections/{connection}", Method="GET")
    except ClientError as error:
        if error.response.get("RestApiStatusCode") == 404:
            advice = f"`airflow connections add {connection} --conn-type {kind} …` in {environment}: docs/airflow.md."
            if kind == "aws":
                # https://airflow.apache.org/docs/apache-airflow-providers-amazon/stable/connections/aws.html
                return warning(name, f"none in {environment}: its execution role is used", advice)
            return failed(name, f"none in {environment}", advice)
        raise
    found = answer["RestApiResponse"].get("conn_type")
    if found != kind:
        return failed(name, f"of the type {found}", f"Its type has to be {kind}.")
    return ok(name, f"in {environment}")
