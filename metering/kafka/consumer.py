"""Read a topic as it is now, once, from its beginning to its end: for checks and measurements."""

from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from metering.domain.errors import NotFound, Unavailable

_POLL_SECONDS: Final = 0.2
_BATCH_RECORDS: Final = 1000


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record as the broker keeps it. `timestamp_ms` is the broker's time for topics with LogAppendTime."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int


def reader_config(bootstrap: str) -> dict[str, Any]:
    """A consumer that is given its partitions and commits nothing."""
    return {
        "bootstrap.servers": bootstrap,
        "group.id": "weighbridge-reader",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "fetch.wait.max.ms": 50,
        "log_level": 3,
    }


def read_to_end(bootstrap: str, topic: str, *, timeout_seconds: float = 30.0) -> Iterator[StoredRecord]:
    """Every record up to where each partition ends when the reader gets there; in order within a partition.

    Raises NotFound if there is no such topic, and Unavailable if it takes longer than `timeout_seconds`.
    """
    deadline = monotonic() + timeout_seconds
    consumer = Consumer(reader_config(bootstrap))
    try:
        partitions = _partitions(consumer, topic, timeout_seconds)
        consumer.assign([TopicPartition(topic, each, OFFSET_BEGINNING) for each in partitions])
        left = set(partitions)
        while left:
            if monotonic() > deadline:
                raise Unavailable(f"the topic {topic} was not read to its end in {timeout_seconds:g} s")
            for message in consumer.consume(_BATCH_RECORDS, _POLL_SECONDS):
                error = message.error()
                if error is None:
                    _, timestamp = message.timestamp()
                    yield StoredRecord(message.partition(), message.offset(), message.key(), message.value(), timestamp)
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                    left.discard(message.partition())
                elif not error.retriable():
                    raise KafkaException(error)
    finally:
        consumer.close()


def _partitions(consumer: Consumer, topic: str, timeout_seconds: float) -> list[int]:
    try:
        found = consumer.list_topics(topic, timeout=timeout_seconds).topics[topic]
    except KafkaException as error:
        raise Unavailable(f"Kafka does not answer: {error}") from error
    if found.error is not None:
        raise NotFound(f"there is no topic {topic}")
    return sorted(found.partitions)
