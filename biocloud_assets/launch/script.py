"""What a definition tells those who run it without Dagster: the script that does what an op does, or why there is none.

What belongs here: the tags and their form. What doesn't: reading them (`airflow.collect`).

An op that makes or checks assets of a room that `run_step` knows needs none of this.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

SCRIPT_TAG = "biocloud/script"
ARGUMENTS_TAG = "biocloud/arguments"
LIBRARIES_TAG = "biocloud/libraries"
VARIABLES_TAG = "biocloud/variables"

NOT_IN_AIRFLOW = "biocloud/not-in-airflow"
"""A key of a definition's metadata: why it has no counterpart in Airflow, in a sentence."""


def script_tags(
    script: str,
    arguments: Sequence[str],
    *,
    libraries: Sequence[str] = (),
    variables: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, str]:
    """Tags for an op: the script of the repository that does the same.

    Args:
        script: its path in the repository.
        arguments: what it is given; `{environment}`, `{landing_root}`, `{lake_root}`, `{curated_root}`, `{catalog}`,
            `{run_id}`, and the job's partition, `{delivery}` or `{run_date}`, stand for their values.
        libraries: what it needs beside the libraries of the environment.
        variables: for each environment, the environment variables that its cluster gets besides; a secret is a
            reference, `{{secrets/<scope>/<key>}}`.
    """
    return {
        SCRIPT_TAG: script,
        ARGUMENTS_TAG: json.dumps(list(arguments)),
        LIBRARIES_TAG: json.dumps(list(libraries)),
        VARIABLES_TAG: json.dumps({name: dict(values) for name, values in (variables or {}).items()}),
    }
