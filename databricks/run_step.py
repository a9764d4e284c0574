#!/usr/bin/env python
"""Do one step of a job: what a Databricks cluster runs, for Dagster, for Airflow or by hand.

    databricks/run_step.py --step raw/dsi/sensor --delivery 2026-01-31-06:00:00 --landing-root … --lake-root …

A door and nothing else: the code is in `biocloud_assets.run_step`. A cluster that checks the repository out doesn't
install it, and runs this without `__file__`: so where the code lies is asked of the code object itself.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(sys._getframe().f_code.co_filename).resolve().parents[1]))

from biocloud_assets.run_step import main

if __name__ == "__main__":
    main(sys.argv[1:])
