"""An S3 of one AWS region: requests that are signed for another region are answered as Amazon does, by a redirect.

moto's server ignores the region. Source: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html,
PermanentRedirect.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

_SIGNED_FOR = re.compile(r"Credential=[^/]+/\d{8}/([^/]+)/s3/")


@contextmanager
def serve(region: str) -> Iterator[str]:
    """Serve an S3 of a region on loopback.

    Args:
        region: for instance `eu-west-1`.

    Yields:
        its URL.
    """
    moto = DomainDispatcherApplication(create_backend_app)

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        signed = _SIGNED_FOR.search(environ.get("HTTP_AUTHORIZATION", ""))
        if signed is None or signed[1] == region:
            return moto(environ, start_response)
        body = (
            b"<?xml version='1.0'?><Error><Code>PermanentRedirect</Code><Message>The bucket you are attempting to "
            b"access must be addressed using the specified endpoint.</Message></Error>"
        )
        headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
        start_response("301 Moved Permanently", [*headers, ("x-amz-bucket-region", region)])
        return [body]

    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
