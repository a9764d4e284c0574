"""Files below a root that is a folder or an `s3://` address. Every path is joined and checked here.

All file access outside a Spark engine goes through `DataLake`.
"""

from biocloud_assets.lake.base import DataLake, Deletion, FileInfo, Listing

__all__ = ["DataLake", "Deletion", "FileInfo", "Listing"]
