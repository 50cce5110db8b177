"""The outbox on the real Postgres and Kafka: in order, at least once, whichever process carries it."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer, TopicPartition
from pydantic import SecretStr
from sqlalchemy import func, select

from metering.kafka.producer import AckedProducer
from metering.kafka.relay import OutboxRelay
from metering.kafka.topics import ensure_topics
from metering.postgres.engine import async_engine
from metering.postgres.migrate import migration_lock, upgrade
from metering.postgres.outbox import append
from metering.postgres.tables import outbox
from metering.settings import EngineSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

DEADLINE_SECONDS = 30


@pytest.fixture
def settings(postgres_url: str, kafka_bootstrap: str, topic_prefix: str) -> EngineSettings:
    settings = EngineSettings(
        postgres_url=SecretStr(postgres_url),
        kafka_bootstrap=kafka_bootstrap,
        topic_prefix=topic_prefix,
        event_partitions=1,
        balance_partitions=2,
    )
    with migration_lock(settings):
        upgrade(settings)
    ensure_topics(settings)
    return settings


@asynccontextmanager
async def relays(settings: EngineSettings, count: int) -> AsyncIterator[list[asyncio.Task[None]]]:
    producer = AckedProducer(settings.kafka_bootstrap)
    await producer.start()
    url = settings.postgres_url.get_secret_value()
    tasks = [asyncio.create_task(OutboxRelay(url, producer).run()) for _ in range(count)]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await producer.close()


async def write(engine: AsyncEngine, topic: str, partition: int, *texts: str) -> None:
    async with engine.begin() as connection:
        for text in texts:
            payload: Callable[[int], bytes] = lambda sequence, text=text: f"{sequence}:{text}".encode()  # noqa: E731
            await append(connection, topic=topic, partition=partition, key=b"k", payload=payload)


async def all_sent(engine: AsyncEngine) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        async with engine.connect() as connection:
            left = (await connection.execute(select(func.count()).where(outbox.c.sent_at.is_(None)))).scalar_one()
        if left == 0:
            return
        assert time.monotonic() < deadline, f"{left} rows are not sent"
        await asyncio.sleep(0.02)


def read(settings: EngineSettings, partition: int) -> list[str]:
    place = TopicPartition(settings.entitlements_topic, partition, 0)
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap, "group.id": "test"})
    try:
        _, end = consumer.get_watermark_offsets(place, timeout=10)
        consumer.assign([place])
        found: list[str] = []
        deadline = time.monotonic() + DEADLINE_SECONDS
        while len(found) < end:
            assert time.monotonic() < deadline
            found += [message.value().decode() for message in consumer.consume(1000, 0.1)]
        return found
    finally:
        consumer.close()


async def test_rows_arrive_in_their_partition_in_the_order_of_their_sequence(settings: EngineSettings) -> None:
    engine = async_engine(settings, application="test")
    topic = settings.entitlements_topic
    await write(engine, topic, 0, *(f"before {n}" for n in range(1200)))
    async with relays(settings, 2):
        await all_sent(engine)
        for n in range(20):
            await write(engine, topic, n % 2, f"after {n}")
        await all_sent(engine)
    zero, one = await asyncio.to_thread(read, settings, 0), await asyncio.to_thread(read, settings, 1)
    sequences = [int(each.partition(":")[0]) for each in zero]
    assert sequences == sorted(sequences)
    assert [each.partition(":")[2] for each in zero] == [
        *(f"before {n}" for n in range(1200)),
        *(f"after {n}" for n in range(0, 20, 2)),
    ]
    assert [each.partition(":")[2] for each in one] == [f"after {n}" for n in range(1, 20, 2)]
    await engine.dispose()


async def test_what_is_rolled_back_is_not_sent(settings: EngineSettings) -> None:
    engine = async_engine(settings, application="test")
    topic = settings.entitlements_topic
    async with relays(settings, 1):
        async with engine.connect() as connection:
            await append(connection, topic=topic, partition=0, key=b"k", payload=lambda _: b"0:never")
            await connection.rollback()
        await write(engine, topic, 0, "kept")
        await all_sent(engine)
    assert [each.partition(":")[2] for each in await asyncio.to_thread(read, settings, 0)] == ["kept"]
    await engine.dispose()


async def test_next_process_carries_on_when_the_first_is_gone(settings: EngineSettings) -> None:
    engine = async_engine(settings, application="test")
    topic = settings.entitlements_topic
    async with relays(settings, 3) as tasks:
        for round_, task in enumerate(tasks):
            await write(engine, topic, 0, f"{round_}")
            await all_sent(engine)
            if round_ < 2:
                async with engine.begin() as connection:  # ends the holder of the lock, and whoever waits for it
                    await connection.exec_driver_sql(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE application_name = 'weighbridge-outbox' AND datname = current_database()"
                    )
            assert not task.done()
    texts = [each.partition(":")[2] for each in await asyncio.to_thread(read, settings, 0)]
    assert sorted(set(texts)) == ["0", "1", "2"]
    await engine.dispose()
