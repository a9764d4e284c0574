"""A finding: one line of `biocloud doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "failed", "not checked"]


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: what was checked, in a few words.
        status: `ok`; `warning`: steps run, but something is worth knowing; `failed`: a step would fail; `not checked`:
            it couldn't be looked at.
        found: what was found.
        hint: what to do; empty if there is nothing to do.
    """

    check: str
    status: Status
    found: str
    hint: str = ""


def brief(error: BaseException) -> str:
    """The message of an error, in one line, without what databricks-sdk adds about its configuration.

    Args:
        error: the error; more than 500 characters of its message are cut off.
    """
    text = " ".join(str(error).split()).partition(" Config: ")[0] or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


_LONGEST = 500


def ok(check: str, found: str) -> Finding:
    """All is as it has to be."""
    return Finding(check, "ok", found)


def warning(check: str, found: str, hint: str) -> Finding:
    """Steps run, but something is worth knowing."""
    return Finding(check, "warning", found, hint)


def failed(check: str, found: str, hint: str) -> Finding:
    """A step would fail."""
    return Finding(check, "failed", found, hint)


def not_checked(check: str, found: str, hint: str = "") -> Finding:
    """It couldn't be looked at."""
    return Finding(check, "not checked", found, hint)
