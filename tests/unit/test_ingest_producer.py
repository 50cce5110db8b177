"""The producer against librdkafka's mock cluster: what is bounded, and what happens when Kafka doesn't answer."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from confluent_kafka import KafkaError

from metering.domain.errors import Unavailable
from metering.kafka.producer import AckedProducer, ProducerLimits, Records

TOPIC = "events"
KEY = b"k" * 16
QUIET = {"log_level": 0}
MOCK = {**QUIET, "test.mock.num.brokers": 1}


def records(count: int, partition: int = 0, size: int = 1) -> Records:
    each = [{"key": KEY, "value": b"v" * size} for _ in range(count)]
    return Records({partition: each}, count, count * (size + 16))


@pytest.fixture
async def producer(request: pytest.FixtureRequest) -> AsyncIterator[AckedProducer]:
    """With the limits and librdkafka settings of the test's marker, on a cluster of its own."""
    limits, overrides = getattr(request, "param", (ProducerLimits(), {}))
    made = AckedProducer("", limits, {**MOCK, **overrides})
    await made.start()
    yield made
    await made.close()


def limits(**values: Any) -> ProducerLimits:
    return ProducerLimits(**values)


async def test_resolves_when_all_records_are_acknowledged(producer: AckedProducer) -> None:
    for count in (1, 7, 8, 500):
        await producer.send(TOPIC, records(count, partition=count % 4))
    assert (producer.in_flight_records, producer.in_flight_bytes) == (0, 0)
    assert await producer.reachable()


async def test_nothing_to_send_is_safe_at_once(producer: AckedProducer) -> None:
    await producer.send(TOPIC, Records({}, 0, 0))


SLOW = {"test.mock.broker.rtt": 60_000}


@pytest.mark.parametrize("producer", [(limits(in_flight_records_max=10, ack_timeout_seconds=0.5), SLOW)], indirect=True)
async def test_beyond_the_limit_it_refuses_at_once(producer: AckedProducer) -> None:
    waiting = producer.send(TOPIC, records(10))
    with pytest.raises(Unavailable):
        producer.send(TOPIC, records(1))
    with pytest.raises(Unavailable):
        await waiting
    # What was given up still takes memory until librdkafka reports on it.
    assert producer.in_flight_records == 10
    with pytest.raises(Unavailable):
        producer.send(TOPIC, records(1))


@pytest.mark.parametrize("producer", [(limits(in_flight_bytes_max=1000, ack_timeout_seconds=0.5), SLOW)], indirect=True)
async def test_bytes_are_bounded_too(producer: AckedProducer) -> None:
    with pytest.raises(Unavailable):
        producer.send(TOPIC, records(1, size=1000))


async def test_when_the_broker_is_away_it_gives_up_in_time_and_frees_its_memory() -> None:
    made = AckedProducer("127.0.0.1:1", limits(ack_timeout_seconds=0.3, delivery_timeout_seconds=0.6), QUIET)
    await made.start()
    waiting = [made.send(TOPIC, records(5)) for _ in range(3)]
    for each in waiting:
        with pytest.raises(Unavailable):
            await asyncio.wait_for(each, 5)
    assert not await made.reachable(0.1)
    async with asyncio.timeout(20):
        while made.in_flight_records:  # noqa: ASYNC110 - librdkafka's thread is what we wait for
            await asyncio.sleep(0.05)
    await made.close()


@pytest.mark.parametrize("count", [1, 20])
async def test_a_record_that_the_producer_refuses_fails_its_send_only(producer: AckedProducer, count: int) -> None:
    mixed = Records(
        {0: [{"key": KEY, "value": b"v"}] * count, 99: [{"key": KEY, "value": b"v"}] * count}, 2 * count, 34 * count
    )
    await producer.send(TOPIC, records(1))  # so that it knows how many partitions there are
    with pytest.raises(Unavailable):
        await asyncio.wait_for(producer.send(TOPIC, mixed), 10)
    await producer.send(TOPIC, records(1))
    assert producer.in_flight_records == 0


@pytest.mark.parametrize("producer", [(limits(linger_milliseconds=500), {})], indirect=True)
async def test_after_a_fatal_error_a_new_producer_takes_over(producer: AckedProducer) -> None:
    first = producer._generation
    assert first is not None
    lost = producer.send(TOPIC, records(1))
    first._on_error(KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "made up", True))
    await producer.send(TOPIC, records(1))
    assert producer._generation is not first
    with pytest.raises(Unavailable):
        await lost
    assert producer.in_flight_records == 0


async def test_what_is_in_flight_when_it_closes_is_still_sent() -> None:
    made = AckedProducer("", limits(linger_milliseconds=300), MOCK)
    await made.start()
    waiting = made.send(TOPIC, records(20))
    await made.close()
    await asyncio.wait_for(waiting, 1)
    with pytest.raises(Unavailable):
        made.send(TOPIC, records(1))


async def test_a_caller_that_went_away_harms_nobody(producer: AckedProducer) -> None:
    gone = producer.send(TOPIC, records(3))
    gone.cancel()
    await producer.send(TOPIC, records(3))
    assert producer.in_flight_records == 0
