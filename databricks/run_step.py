#!/usr/bin/env python
"""Run a step: what a Databricks cluster runs, for Dagster Pipes, for Airflow or for a person.

    databricks/run_step.py --asset raw/dsi/sensor --delivery 2026-01-31-06:00:00 --landing-root … --lake-root …

Entry point; the implementation is in `biocloud_assets.run_step`. A cluster that checks the repository out doesn't
install it, and runs this file without `__file__`, so the path of the checkout is taken from the code object.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(sys._getframe().f_code.co_filename).resolve().parents[1]))

from biocloud_assets.run_step import main

if __name__ == "__main__":
    main(sys.argv[1:])
