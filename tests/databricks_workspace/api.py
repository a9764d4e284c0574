"""A request, an answer, an error, and which function answers which path: what the modules of the workspace share."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class ApiError(Exception):
    """An answer other than 200, in Databricks' form `{"error_code": …, "message": …}`."""

    def __init__(self, status: int, error_code: str | int, message: str) -> None:
        super().__init__(message)
        self.status, self.error_code, self.message = status, error_code, message


@dataclass
class Request:
    """A request as it came in; `status` is 0 if the connection was dropped. The token isn't kept."""

    method: str
    path: str
    query: dict[str, str]
    body: Any = None
    status: int = 0
    content: bytes = field(default=b"", repr=False)
    start: int = field(default=0, repr=False)  # of the header Range

    @property
    def arguments(self) -> dict[str, Any]:
        return self.query | (self.body if isinstance(self.body, dict) else {})

    def argument(self, name: str) -> Any:
        if self.arguments.get(name) in (None, ""):
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"Missing required field: {name}")
        return self.arguments[name]

    def flag(self, name: str) -> bool:
        return str(self.arguments.get(name, False)).lower() == "true"


@dataclass
class Response:
    status: int = 200
    body: Any = None
    content: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


routes: list[tuple[str, re.Pattern[str], Callable[..., Any]]] = []


def route(method: str, path: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        routes.append((method, re.compile("/api/" + path), function))
        return function

    return register
