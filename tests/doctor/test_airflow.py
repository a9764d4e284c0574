"""The check of Airflow's connections, against a server that answers as Amazon MWAA does.

https://docs.aws.amazon.com/mwaa/latest/API/API_Operations.html: ListEnvironments, GetEnvironment, InvokeRestApi. moto
has no MWAA.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

from tests.doctor.conftest import REGION, Site


class Mwaa:
    """One environment of MWAA, and the connections of its Airflow."""

    def __init__(self) -> None:
        self.bucket, self.connections = "", {"databricks_default": "databricks", "aws_default": "aws"}
        self.refuse = False

    def __call__(self, environ, start_response):  # type: ignore[no-untyped-def]
        request = Request(environ)
        return self._answer(request)(environ, start_response)

    def _answer(self, request: Request) -> Response:
        if self.refuse:
            return _json(
                {"message": "not authorized to perform: airflow:ListEnvironments"}, 403, "AccessDeniedException"
            )
        if request.path == "/environments":
            return _json({"Environments": ["biocloud"]})
        if request.path == "/environments/biocloud":
            return _json({"Environment": {"SourceBucketArn": f"arn:aws:s3:::{self.bucket}", "DagS3Path": "dags"}})
        connection = json.loads(request.data)["Path"].removeprefix("/connections/")
        if connection in self.connections:
            body = {"connection_id": connection, "conn_type": self.connections[connection]}
            return _json({"RestApiStatusCode": 200, "RestApiResponse": body})
        missing = {"RestApiStatusCode": 404, "RestApiResponse": {"detail": "Connection not found", "status": 404}}
        return _json(missing, 400, "RestApiClientException")


def _json(body: object, status: int = 200, error: str = "") -> Response:
    headers = {"x-amzn-ErrorType": error} if error else {}
    return Response(json.dumps(body), status=status, content_type="application/json", headers=headers)


@pytest.fixture
def mwaa(site: Site) -> Iterator[Mwaa]:
    mwaa = Mwaa()
    mwaa.bucket = site.airflow
    server = make_server("127.0.0.1", 0, mwaa, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    # Without the second, the client puts "api." and "env." before the host.
    site.set(AWS_ENDPOINT_URL_MWAA=f"http://127.0.0.1:{server.server_port}", AWS_DISABLE_HOST_PREFIX_INJECTION="true")
    site.configure(scheduler="airflow", region=REGION)
    yield mwaa
    server.shutdown()
    thread.join()


def test_the_connections_of_the_environment_that_reads_the_dag_folder_are_checked(site: Site, mwaa: Mwaa) -> None:
    found = site.examine()
    assert found["Airflow connection databricks_default"].status == "ok"
    assert found["Airflow connection aws_default"].status == "ok"
    mwaa.connections = {"databricks_default": "http"}
    found = site.examine()
    wrong, missing = found["Airflow connection databricks_default"], found["Airflow connection aws_default"]
    assert (wrong.status, wrong.found) == ("failed", "of the type http")
    assert (missing.status, "its execution role is used" in missing.found) == ("warning", True)
    mwaa.connections = {}
    missing = site.examine()["Airflow connection databricks_default"]
    assert (missing.status, "airflow connections add databricks_default" in missing.hint) == ("failed", True)


def test_where_airflow_can_not_be_reached_the_hint_says_how_to_look(site: Site, mwaa: Mwaa) -> None:
    mwaa.bucket = "other"
    finding = site.examine()["Airflow connections"]
    assert finding.status == "not checked"
    assert f"no MWAA environment reads s3://{site.airflow}/dags" in finding.found
    assert "airflow connections get databricks_default" in finding.hint
    mwaa.refuse = True
    finding = site.examine()["Airflow connections"]
    assert (finding.status, "not authorized" in finding.found) == ("not checked", True)
