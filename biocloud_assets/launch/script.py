"""Op tags that name the script which does the same as the op, for those who run it without Dagster.

An op that materialises or checks assets with `run_step` needs none of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

SCRIPT_TAG = "biocloud/script"
ARGUMENTS_TAG = "biocloud/arguments"
LIBRARIES_TAG = "biocloud/libraries"
VARIABLES_TAG = "biocloud/variables"

NOT_IN_AIRFLOW = "biocloud/not-in-airflow"
"""A metadata key of a definition: why it has no counterpart in Airflow, in a sentence."""


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
        libraries: what it needs besides the libraries of the environment.
        variables: for each environment, further environment variables of its cluster; a secret is a
            reference, `{{secrets/<scope>/<key>}}`.
    """
    return {
        SCRIPT_TAG: script,
        ARGUMENTS_TAG: json.dumps(list(arguments)),
        LIBRARIES_TAG: json.dumps(list(libraries)),
        VARIABLES_TAG: json.dumps({name: dict(values) for name, values in (variables or {}).items()}),
    }
