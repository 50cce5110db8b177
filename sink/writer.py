"""What the sink writes to ClickHouse and reads back from it."""

from collections.abc import Iterator
from typing import Final

import pyarrow as pa
import structlog
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from metering.clickhouse.client import INSERT_SETTINGS
from sink.duplicates import Sighting
from sink.plan import Answer

log = structlog.get_logger()
IDS_CHUNK_OFFSETS: Final = 500_000


class ClickHouseWriter:
    """Inserts of whole ranges. Safe for threads. Any failure is an unclear answer: the rows may be there, or come."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def insert(self, table: str, rows: pa.Table | None) -> Answer:
        """One insert of one block; done when the engine has it on its disk."""
        if rows is None:
            return Answer.DONE
        try:
            self._client.insert_arrow(table, rows, settings=INSERT_SETTINGS)
        except (ClickHouseError, OSError) as error:
            log.warning("insert unclear", table=table, rows=len(rows), error=str(error)[:500])
            return Answer.UNCLEAR
        return Answer.DONE

    def ids(
        self, partition: int, start: int, end: int, since_ms: int
    ) -> Iterator[tuple[int, list[bytes], list[Sighting]]]:
        """The ids counted at offsets [start, end) with ingest times from `since_ms` on, in chunks by offset.

        Yields (end of chunk, keys, sightings). Raises ClickHouseError or OSError.
        """
        for low in range(start, end, IDS_CHUNK_OFFSETS):
            high = min(end, low + IDS_CHUNK_OFFSETS)
            table = self._client.query_arrow(
                "SELECT key, offset, toUnixTimestamp64Milli(ingest_time) AS ms FROM events WHERE partition = {p:UInt32}"
                " AND offset >= {low:UInt64} AND offset < {high:UInt64}"
                " AND ingest_time >= fromUnixTimestamp64Milli({since:Int64}, 'UTC') ORDER BY offset",
                parameters={"p": partition, "low": low, "high": high, "since": since_ms},
            )
            offsets = table["offset"].to_pylist()
            times = table["ms"].to_pylist()
            yield high, table["key"].to_pylist(), list(map(Sighting, offsets, times))
