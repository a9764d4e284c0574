"""Op tags that name the script which does the same as the op, for those who run it without Dagster.

An op that materialises or checks assets with `run_step` needs none of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

SCRIPT_TAG = "biocloud/script"
ARGUMENTS_TAG = "biocloud/arguments"
LIBRARIES_TAG = "biocloud/libraries"
SINGLE_NODE_TAG = "biocloud/single-node"

NOT_IN_AIRFLOW = "biocloud/not-in-airflow"
"""A metadata key of a definition: why it has no counterpart in Airflow, in a sentence."""


def script_tags(
    script: str,
    arguments: Sequence[str],
    *,
    libraries: Sequence[str] = (),
    needs_spark: bool = True,
) -> dict[str, str]:
    """Tags for an op: the script of the repository that does the same.

    Args:
        script: its path in the repository.
        arguments: what it is given; `{environment}`, `{landing_root}`, `{lake_root}`, `{curated_root}`, `{catalog}`,
            `{run_id}`, and the job's partition, `{delivery}` or `{run_date}`, stand for their values.
        libraries: what it needs besides the libraries of the environment.
        needs_spark: whether it uses Spark; if not, its cluster has one node, and no libraries but `libraries`.
    """
    return {
        SCRIPT_TAG: script,
        ARGUMENTS_TAG: json.dumps(list(arguments)),
        LIBRARIES_TAG: json.dumps(list(libraries)),
        SINGLE_NODE_TAG: json.dumps(not needs_spark),
    }
