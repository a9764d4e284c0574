#!/usr/bin/env python
"""Synchronise the members of Databricks groups with `groups/`.

    uv run databricks/sync_groups.py development --dry-run

Entry point; the implementation is in `biocloud_assets.access`. It needs only the packages of the dependency group
`group-sync`. A cluster that checks the repository out doesn't install it and sets no `__file__`: the path to the
package comes from the code object.
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
