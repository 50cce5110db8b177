"""Connections to ClickHouse over HTTP, by plain clickhouse-connect. The same code runs against the local engine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import clickhouse_connect
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.client import Client

from metering.settings import EngineSettings

CONNECT_TIMEOUT_SECONDS: Final = 5
QUERY_TIMEOUT_SECONDS: Final = 120
POOL_CONNECTIONS: Final = 32

# One insert is one block, so that it is stored whole in each partition that it touches, in the order given.
INSERT_SETTINGS: Final[dict[str, Any]] = {
    "async_insert": 0,
    "insert_deduplicate": 0,
    "max_insert_threads": 1,
    "input_format_parallel_parsing": 0,
    "max_insert_block_size": 100_000_000,
    "min_insert_block_size_rows": 100_000_000,
    "min_insert_block_size_bytes": 4_000_000_000,
}

QUERY_SETTINGS: Final[dict[str, Any]] = {
    "async_insert": 0,
    # Instants before 1970 and after 2106 stay what they are in toStartOf... functions.
    "enable_extended_results_for_datetime_functions": 1,
    # Equal keys have equal ingest times, so they never lie in different partitions.
    "do_not_merge_across_partitions_select_final": 1,
}


def connect(settings: EngineSettings) -> Client:
    """A connection for synchronous code, safe for several threads. Close it."""
    return _client(settings, settings.clickhouse_database)


@contextmanager
def connect_server(settings: EngineSettings) -> Iterator[Client]:
    """A connection that does not need the database to exist, for making and dropping it."""
    client = _client(settings, None)
    try:
        yield client
    finally:
        client.close()


def _client(settings: EngineSettings, database: str | None) -> Client:
    return clickhouse_connect.get_client(
        dsn=settings.clickhouse_url.get_secret_value(),
        database=database,
        compress="lz4",
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        send_receive_timeout=QUERY_TIMEOUT_SECONDS,
        autogenerate_session_id=False,  # sessions would make parallel queries wait for each other
        settings=QUERY_SETTINGS,
        dedicated_pool=True,
        tz_mode="aware",
    )


async def connect_async(settings: EngineSettings) -> AsyncClient:
    """A connection with a pool for asynchronous code. Close it with `await client.close()`."""
    return await clickhouse_connect.get_async_client(
        dsn=settings.clickhouse_url.get_secret_value(),
        database=settings.clickhouse_database,
        compress="lz4",
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        send_receive_timeout=QUERY_TIMEOUT_SECONDS,
        autogenerate_session_id=False,
        settings=QUERY_SETTINGS,
        connector_limit=POOL_CONNECTIONS,
        connector_limit_per_host=POOL_CONNECTIONS,
        tz_mode="aware",
    )
