"""A webhook on loopback: it keeps the messages that it gets, and answers as a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import pytest

SECRET = "T000/B000/XXXXsecretXXXX"


class Webhook:
    """The messages by the paths that they were posted to."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self.answer: int | Literal["hang"] = 200
        self.stopped = threading.Event()
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                webhook.messages.append((self.path, json.loads(body)))
                if webhook.answer == "hang":
                    webhook.stopped.wait()
                    return
                self.send_response(webhook.answer)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/services/{SECRET}"

    @property
    def texts(self) -> list[str]:
        return [message["text"] for _, message in self.messages]


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = Webhook()
    thread = threading.Thread(target=found.server.serve_forever, daemon=True)
    thread.start()
    yield found
    found.stopped.set()
    found.server.shutdown()
    found.server.server_close()
