"""A proxy before the S3 server that fails at random requests, from a seed."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ("drop before", "drop after", "delay", "500", "503 SlowDown", "truncate")
"""What can happen to a request: the connection is closed before it reaches the server, or after, without an answer; the
answer comes late; an error; half of the answer's body."""

_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "expect"}
"""Headers that concern one connection."""

_ERRORS = {"500": ("InternalError", 500), "503 SlowDown": ("SlowDown", 503)}


class FaultyS3:
    """The proxy. Use it by `with`.

    Attributes:
        url: its address.
        rate: which share of the requests fails.
        injected: how often each fault was injected.
        requests: how many requests it has received.
    """

    def __init__(self, upstream: str, seed: str) -> None:
        self._upstream = urlsplit(upstream)
        self._seed = seed
        self._lock = threading.Lock()
        self.rate = 0.0
        self.requests = 0
        self.injected: Counter[str] = Counter()

    def __enter__(self) -> FaultyS3:
        proxy = self

        class Handler(_Handler):
            def fault(self) -> str | None:
                return proxy._fault()

            def upstream(self) -> http.client.HTTPConnection:
                return http.client.HTTPConnection(proxy._upstream.hostname or "", proxy._upstream.port, timeout=60)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _fault(self) -> str | None:
        with self._lock:
            chance = random.Random(f"{self._seed} {self.requests}")
            self.requests += 1
            if chance.random() >= self.rate:
                return None
            fault = chance.choice(FAULTS)
            self.injected[fault] += 1
            return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a kept connection waits 40 ms between head and body

    def fault(self) -> str | None:
        raise NotImplementedError

    def upstream(self) -> http.client.HTTPConnection:
        raise NotImplementedError

    def log_message(self, *_: object) -> None:
        """No line for each request."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return body

    def _serve(self) -> None:
        body, fault = self._body(), self.fault()
        if fault == "drop before":
            self.close_connection = True
            return
        if fault in _ERRORS:
            code, status = _ERRORS[fault]
            self._answer(status, [("Content-Type", "application/xml")], f"<Error><Code>{code}</Code></Error>".encode())
            return
        if fault == "delay":
            time.sleep(0.5)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        headers["Content-Length"] = str(len(body))
        connection = self.upstream()
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        given = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP]
        connection.close()
        if fault == "drop after" or (fault == "truncate" and not data):
            self.close_connection = True
            return
        self._answer(answer.status, given, data, cut=fault == "truncate")

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, *, cut: bool = False) -> None:
        self.send_response_only(status)
        lengths = [value for name, value in headers if name.lower() == "content-length"]
        for name, value in headers:
            if name.lower() != "content-length":
                self.send_header(name, value)
        # The answer to HEAD tells the length of a body that isn't sent.
        length = lengths[0] if self.command == "HEAD" and lengths else str(len(data))
        if status != 204:
            self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815
