"""The settings of a process on a cluster of the step launcher, which the launcher stages there as a pickle.

It stands in for `DatabricksConfig` of dagster-databricks, so that the cluster needs neither that package nor
dagster-pyspark, which would install the PySpark of PyPI over the runtime's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ClusterSetup:
    """What dagster-databricks calls on the cluster before it loads the code.

    Attributes:
        variables: the environment variables of the process; none of them is secret.
    """

    variables: Mapping[str, str]

    def setup(self, dbutils: Any, sc: Any) -> None:
        """Set the variables.

        Args:
            dbutils: of the runtime.
            sc: of the runtime.
        """
        os.environ.update(self.variables)
