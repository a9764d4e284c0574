"""Sample deliveries: real ones that come with the project, and synthetic ones of any size. Production doesn't use them.

`deliveries/` holds the bundled deliveries, `camtrap` is the script that created them, `synthetic` generates others.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi.contract import CONTRACT

if TYPE_CHECKING:
    import pyarrow as pa

BUNDLED: tuple[str, ...] = (
    "2020-07-10-06:00:00",
    "2020-08-19-06:00:00",
    "2021-10-11-06:00:00",
    "2023-02-07-06:00:00",
)
"""The bundled deliveries, oldest first; each is later than all dates in it."""

BUNDLED_FOLDER = Path(__file__).parent / "deliveries"
"""The folder of the bundled deliveries, whose folders `folder_name` names."""


def folder_name(delivery: str) -> str:
    """A delivery's name without colons, which Git can't check out on Windows."""
    return delivery.replace(":", ".")


def landing_path(delivery: str, folder: str, part: int = 0) -> str:
    """Where a file of a delivery lands.

    Args:
        delivery: the delivery's datetime, `yyyy-mm-dd-HH:MM:SS`, UTC.
        folder: the folder, as in the contract.
        part: the number of the file in that folder, from 0.
    """
    return f"dsi/{delivery}/{folder}/part-{part}.parquet"


def parquet(table: pa.Table) -> bytes:
    """A table as a Parquet file (zstd): the same bytes for the same table and the same version of Arrow."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    # Without Arrow's own copy of the schema, as files of DSI have none, and small files stay small.
    pq.write_table(table, sink, compression="zstd", store_schema=False)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def land_bundled(landing: DataLake) -> list[str]:
    """Land the bundled deliveries, oldest first; a file that is there with the same size is left alone.

    The results of a delivery are written last, so that a delivery which is still landing is seen to be incomplete.

    Args:
        landing: the lake that holds `dsi/<delivery>/`.

    Returns:
        The deliveries' names, in order.

    Raises:
        LakeError: the landing lake can't be listed or written.
    """
    for delivery in BUNDLED:
        landed = {file.path: file.size for file in landing.walk(f"dsi/{delivery}")}
        for folder in CONTRACT.folders:  # the results are the last of them
            path = landing_path(delivery, folder.name)
            data = (BUNDLED_FOLDER / folder_name(delivery) / folder.name / "part-0.parquet").read_bytes()
            if landed.get(path) != len(data):
                landing.write(path, data)
    return list(BUNDLED)
