"""Carries the outbox from Postgres to Kafka, in the order of its sequences.

One process at a time does it: the one that holds an advisory lock. Its end, however sudden, frees the lock, and the
next one goes on at the first unsent row. A row may be sent twice, never not at all; receivers keep the highest
sequence.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

import psycopg
import structlog
from prometheus_client import Counter, Gauge
from psycopg import AsyncConnection

from metering.domain.errors import Unavailable
from metering.kafka.producer import AckedProducer, Records
from metering.postgres.outbox import CHANNEL

_log: Final = structlog.get_logger()

SENT: Final = Counter("weighbridge_outbox_sent_total", "Outbox rows that Kafka has acknowledged.")
IS_RELAY: Final = Gauge("weighbridge_outbox_relay", "1 in the process that carries the outbox to Kafka.")

BATCH_ROWS: Final = 500
IDLE_POLL_SECONDS: Final = 1.0
LOCK_POLL_SECONDS: Final = 0.5
RETRY_SECONDS: Final = 0.5
KEEP_SENT: Final = "1 day"
DELETE_ROWS: Final = 5_000
DELETE_EVERY_SECONDS: Final = 60.0

_TRY_LOCK: Final = "SELECT pg_try_advisory_lock(hashtextextended('weighbridge.outbox', 0))"
_UNSENT: Final = """
    SELECT sequence, topic, partition, key, payload FROM outbox WHERE sent_at IS NULL ORDER BY sequence LIMIT %s
"""
_MARK: Final = "UPDATE outbox SET sent_at = now() WHERE sequence = ANY(%s)"
_DELETE: Final = """
    DELETE FROM outbox WHERE sequence IN (
        SELECT sequence FROM outbox WHERE sent_at < now() - %s::interval ORDER BY sent_at LIMIT %s)
"""


class OutboxRelay:
    """Run one in every API process."""

    def __init__(self, postgres_url: str, producer: AckedProducer) -> None:
        self._url = postgres_url
        self._producer = producer

    async def run(self) -> None:
        """Until cancelled. An engine that is away delays the outbox and nothing else."""
        while True:
            try:
                await self._serve()
            except (psycopg.Error, OSError, Unavailable) as error:
                _log.warning("outbox_waits", detail=str(error).strip())
            finally:
                IS_RELAY.set(0)
            await asyncio.sleep(RETRY_SECONDS)

    async def _serve(self) -> None:
        connect = AsyncConnection.connect(
            self._url, autocommit=True, connect_timeout=5, application_name="weighbridge-outbox"
        )
        async with await connect as connection:
            while not await _scalar(connection, _TRY_LOCK):  # noqa: ASYNC110 - nobody in this process can tell us
                await asyncio.sleep(LOCK_POLL_SECONDS)
            IS_RELAY.set(1)
            await connection.execute(f"LISTEN {CHANNEL}")
            loop = asyncio.get_running_loop()
            delete_at = loop.time()
            while True:
                while await self._carry(connection):
                    pass
                if loop.time() >= delete_at:
                    await connection.execute(_DELETE, (KEEP_SENT, DELETE_ROWS))
                    delete_at = loop.time() + DELETE_EVERY_SECONDS
                async for _ in connection.notifies(timeout=IDLE_POLL_SECONDS, stop_after=1):
                    pass

    async def _carry(self, connection: AsyncConnection[Any]) -> int:
        """Send the next rows; returns how many there were."""
        rows = await (await connection.execute(_UNSENT, (BATCH_ROWS,))).fetchall()
        if not rows:
            return 0
        await asyncio.gather(*(self._producer.send(topic, records) for topic, records in _by_topic(rows)))
        await connection.execute(_MARK, ([row[0] for row in rows],))
        SENT.inc(len(rows))
        return len(rows)


def _by_topic(rows: Sequence[tuple[Any, ...]]) -> list[tuple[str, Records]]:
    topics: dict[str, dict[int, list[dict[str, bytes]]]] = defaultdict(lambda: defaultdict(list))
    for _, topic, partition, key, payload in rows:
        topics[topic][partition].append({"key": bytes(key), "value": bytes(payload)})
    return [
        (
            topic,
            Records(
                partitions,
                sum(len(batch) for batch in partitions.values()),
                sum(len(each["key"]) + len(each["value"]) for batch in partitions.values() for each in batch),
            ),
        )
        for topic, partitions in topics.items()
    ]


async def _scalar(connection: AsyncConnection[Any], query: str) -> Any:
    row = await (await connection.execute(query.encode())).fetchone()
    return row[0] if row else None
