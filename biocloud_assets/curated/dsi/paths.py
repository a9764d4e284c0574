"""Run dates, and the paths of a day's files below the curated root.

The files:

    dsi/<yyyy-mm-dd>/observation/part-00000.parquet, part-00001.parquet, …
    dsi/<yyyy-mm-dd>/manifest.json
    dsi/<yyyy-mm-dd>/_publishing      while the day is published, and after an interrupted publication
"""

from __future__ import annotations

import re
from datetime import date, datetime

from biocloud_assets.errors import RunDateError

ROOT = "dsi"
"""The folder for DSI below the curated root."""

MANIFEST = "manifest.json"
"""The name of the manifest, directly in the folder that it describes."""

PUBLISHING = "_publishing"
"""The name of the empty file that marks a publication that was begun and not completed, beside the manifest.

No manifest lists it. It is in the day's folder so that the cleanup deletes it too; Spark and Arrow ignore names that
begin with `_`.
"""

_SHAPE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def is_date(name: str) -> bool:
    """Whether a name is a real date as `yyyy-mm-dd`, and nothing else.

    Args:
        name: any text.
    """
    try:
        # The shape first, for fromisoformat takes 20260131 and 2026-W05-6 as well.
        return bool(_SHAPE.fullmatch(name) and date.fromisoformat(name))
    except ValueError:
        return False


def parse_run_date(value: date | str) -> date:
    """The run date: the day that is published, or as of which something is done.

    Args:
        value: a date, or a real one as `yyyy-mm-dd`. A `datetime` is refused, for its day depends on its zone.

    Raises:
        RunDateError: it is anything else.
    """
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    if isinstance(value, str) and is_date(value):
        return date.fromisoformat(value)
    raise RunDateError(
        "the run date",
        expected="a date, or a real one as yyyy-mm-dd, for instance 2026-01-31",
        found=repr(value),
        hint="Give the day, in UTC.",
    )


def day(run_date: date | str) -> str:
    """The folder of a day, relative to the curated root; it holds the manifest.

    Args:
        run_date: the day, as `parse_run_date` takes it.

    Raises:
        RunDateError: it is no date.
    """
    return f"{ROOT}/{parse_run_date(run_date).isoformat()}"


def observation(run_date: date | str) -> str:
    """The folder of a day's observations, relative to the curated root.

    Args:
        run_date: the day, as `parse_run_date` takes it.

    Raises:
        RunDateError: it is no date.
    """
    return f"{day(run_date)}/observation"
