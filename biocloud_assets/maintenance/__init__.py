"""Maintenance of the lake's Delta tables: compaction, vacuum, and the deletion of old log files."""
