"""What the commands share in printing: consoles, styles and exit codes."""

from __future__ import annotations

from rich.console import Console

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

STATE_STYLE = {"ingested": "green", "complete": "cyan", "arriving": "yellow", "late": "yellow"}
"""The style of a delivery's state; other states are red."""

FAILED, WRONG_USE = 1, 2
"""Exit codes: a delivery was refused or failed (the others are done); wrong use."""


def styled(state: str) -> str:
    """A state in its colour."""
    return f"[{STATE_STYLE.get(state, 'red')}]{state}[/]"
