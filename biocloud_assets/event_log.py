"""Dagster's event log on this machine, with its database kept open while a command runs.

What belongs here: one storage class of Dagster's, made fast for a process that writes hundreds of events. What doesn't:
where the log lies (`home`), and what is in it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME, SqliteEventLogStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, QueuePool, create_engine


class OpenSqliteEventLogStorage(SqliteEventLogStorage):
    """Dagster's own, but it connects once to each database, and not several times for each event.

    Dagster 1.13 makes a SQLAlchemy engine for every statement. To open, to close (which moves SQLite's log into its
    database) and to compile the statement anew takes longer than the statement. Files and tables are the same, so the
    UI reads what this one writes, also while it does.
    """

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: dict[str, Engine] = {}
        self._tables: set[str] = set()
        super().__init__(base_dir, inst_data)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> OpenSqliteEventLogStorage:
        """As Dagster makes it from `dagster.yaml`."""
        return cls(inst_data=inst_data, **config_value)

    @contextlib.contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock:  # one thread at a time, so one connection is enough, whichever thread opened it
            engine = self._engines.get(shard)
            if engine is None:
                for other in self._engines.keys() - {INDEX_SHARD_NAME}:  # each run has a database of its own
                    self._engines.pop(other).dispose()
                engine = self._engines[shard] = create_engine(
                    self.conn_string_for_shard(shard),
                    poolclass=QueuePool,
                    pool_size=1,
                    connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS, "check_same_thread": False},
                )
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            with engine.begin() as connection:
                yield connection

    def has_table(self, table_name: str) -> bool:
        """Whether there is a table; one that is there stays."""
        if table_name not in self._tables and super().has_table(table_name):
            self._tables.add(table_name)
        return table_name in self._tables

    def dispose(self) -> None:
        """Close the databases."""
        for engine in self._engines.values():
            engine.dispose()
        super().dispose()
