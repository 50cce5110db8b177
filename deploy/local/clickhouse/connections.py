"""Connections to the embedded engine, each kept with the database and settings it was last set to."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from deploy.local.clickhouse.failure import failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deploy.local.clickhouse.request import Request

# The defaults are made for a machine of its own: caches of gigabytes.
_ENGINE_SETTINGS = {
    "mark_cache_size": 128 << 20,
    "primary_index_cache_size": 64 << 20,
    "index_mark_cache_size": 16 << 20,
    "unique_key_index_cache_size_bytes": 16 << 20,
    "vector_similarity_index_cache_size": 1 << 20,
    "text_index_tokens_cache_size": 1 << 20,
    "text_index_header_cache_size": 1 << 20,
    "text_index_postings_cache_size": 1 << 20,
    "iceberg_metadata_files_cache_size": 1 << 20,
    "parquet_metadata_cache_size": 1 << 20,
    "compiled_expression_cache_size": 32 << 20,
    "query_condition_cache_size": 32 << 20,
    "mmap_cache_size": 64,
    "max_thread_pool_size": 400,
    "max_thread_pool_free_size": 16,
    "background_schedule_pool_size": 2,
    "max_io_thread_pool_size": 16,
    "max_active_parts_loading_thread_pool_size": 4,
    "max_outdated_parts_loading_thread_pool_size": 2,
    "max_parts_cleaning_thread_pool_size": 4,
}


class Connection:
    """One connection of the engine: one statement at a time."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self.database = "default"
        self.settings: dict[str, str] = {}
        self.spoilt = False
        """Set when its session is in an unknown state; it is closed then instead of used again."""

    def query(self, sql: str, output: str = "TabSeparated", parameters: dict[str, str] | None = None) -> Any:
        """Raises `QueryFailed`."""
        try:
            return self.raw.query(sql, output, params=parameters or {})
        except RuntimeError as error:
            raise failure(error) from None

    def adapt(self, database: str, settings: dict[str, str]) -> None:
        """Change what differs from the last use."""
        if self.database == database and self.settings == settings:
            return
        self.spoilt = True
        for name in self.settings.keys() - settings.keys():
            self.query(f"SET {name} = DEFAULT")
        for name, value in settings.items():
            if self.settings.get(name) != value:
                self.query(f"SET {name} = {_quoted(value)}")
        if self.database != database:
            self.query(f"USE `{database.replace('`', '``')}`")
        self.database, self.settings, self.spoilt = database, settings, False


class Connections:
    """All connections to one data folder; grows to as many as are used at the same time."""

    def __init__(self, data: str) -> None:
        # Imported here: this loads the engine, 600 MB of code.
        engine: Any = import_module("chdb._chdb")
        options = "&".join(f"{name}={value}" for name, value in _ENGINE_SETTINGS.items())
        self._connect: Callable[[], Any] = lambda: engine.connect(f"{data}?{options}")
        self._lock = threading.Lock()
        self._free: list[Connection] = []
        # The engine ends with its last connection, so that one is held for good.
        self._first = self._connect()

    @contextmanager
    def use(self, request: Request) -> Iterator[Connection]:
        """A connection in the database and with the settings of `request`."""
        connection = self.take(request)
        try:
            yield connection
        finally:
            self.give_back(connection)

    def take(self, request: Request) -> Connection:
        settings = dict(request.settings)
        connection = self._pick(request.database, settings)
        try:
            connection.adapt(request.database, settings)
        except BaseException:
            self.give_back(connection)
            raise
        return connection

    def give_back(self, connection: Connection) -> None:
        if connection.spoilt:
            connection.raw.close()
            return
        with self._lock:
            self._free.append(connection)

    def close(self) -> None:
        """Close all that are free, then the engine."""
        with self._lock:
            free, self._free = self._free, []
        for connection in free:
            connection.raw.close()
        self._first.close()

    def _pick(self, database: str, settings: dict[str, str]) -> Connection:
        with self._lock:
            for position, each in enumerate(self._free):
                if each.database == database and each.settings == settings:
                    return self._free.pop(position)
            if self._free:
                return self._free.pop()
        return Connection(self._connect())


def _quoted(value: str) -> str:
    """A string literal; a setting's value can't be passed in another way."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
