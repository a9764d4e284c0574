#!/usr/bin/env python
"""Keep the Databricks groups in step with `groups/`: `uv run databricks/sync_groups.py development --dry-run`.

A door and nothing else: the code is in `biocloud_assets.access.sync_groups`. A cluster that checks the repository out
doesn't install it, and runs this without `__file__`: so where the code lies is asked of the code object itself.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(sys._getframe().f_code.co_filename).resolve().parents[1]))

from biocloud_assets.access.sync_groups import (
    create_group,
    create_user,
    fetch_all_users,
    get_group_id,
    get_group_members,
    main,
    sync_all_groups_for_env,
    sync_group,
)

__all__ = [
    "create_group",
    "create_user",
    "fetch_all_users",
    "get_group_id",
    "get_group_members",
    "main",
    "sync_all_groups_for_env",
    "sync_group",
]

if __name__ == "__main__":
    main()
