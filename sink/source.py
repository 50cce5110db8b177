"""Reading one partition of `events`, from any offset, in batches."""

import threading
import time
from typing import Final

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from metering.domain.errors import ProtocolViolation
from sink.plan import Batch
from sink.settings import SinkSettings

log = structlog.get_logger()
POLL_SECONDS: Final = 0.1
LOST_SECONDS: Final = 30
WATERMARK_SECONDS: Final = 5


class Stopped(Exception):
    """The loop was asked to end."""


class PartitionSource:
    """A consumer that reads one partition where it is told to. It is in no group and commits nothing."""

    def __init__(self, settings: SinkSettings, partition: int, stop: threading.Event) -> None:
        self._topic = settings.events_topic
        self._partition = partition
        self._settings = settings
        self._stop = stop
        self._position = -1
        self._consumer = Consumer(
            {
                "bootstrap.servers": settings.kafka_bootstrap,
                "group.id": f"{settings.topic_prefix}{settings.sink_group}-read",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_uncommitted",
                "queued.max.messages.kbytes": settings.sink_prefetch_kilobytes,
                "fetch.wait.max.ms": 100,
                "fetch.message.max.bytes": 4 * 1024 * 1024,
            }
        )

    def wait(self, start: int, seconds: float) -> list[Message]:
        """What comes next from `start` on: at once when something is there, else within `seconds`. May be empty."""
        self._seek(start)
        return self._consume(1, seconds)

    def gather(self, first: list[Message], *, count_max: int, seconds: float) -> Batch:
        """`first` and what follows it, until `count_max` records or `seconds` from now."""
        messages = first
        deadline = time.monotonic() + seconds
        while len(messages) < count_max and (left := deadline - time.monotonic()) > 0:
            messages += self._consume(count_max - len(messages), left)
        return self._batch(messages)

    def read(self, start: int, end: int) -> Batch:
        """All of [start, end). Waits for Kafka for as long as it must; raises ProtocolViolation if they are gone."""
        self._seek(start)
        messages: list[Message] = []
        silent_since = time.monotonic()
        while len(messages) < end - start:
            if self._stop.is_set():
                raise Stopped
            more = self._consume(end - start - len(messages), POLL_SECONDS)
            messages += more
            if more:
                silent_since = time.monotonic()
            elif time.monotonic() - silent_since > LOST_SECONDS:
                self._check_end(end)
                silent_since = time.monotonic()
        return self._batch(messages)

    def close(self) -> None:
        self._consumer.close()

    def _seek(self, start: int) -> None:
        if start != self._position:
            self._consumer.assign([TopicPartition(self._topic, self._partition, start)])
            self._position = start

    def _consume(self, count: int, seconds: float) -> list[Message]:
        found = []
        for message in self._consumer.consume(count, seconds):
            error = message.error()
            if error is None:
                found.append(message)
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001 - librdkafka's own codes are named so
                raise ProtocolViolation(f"{self._topic}/{self._partition}: {error.str()}")
            else:
                log.warning("fetch", partition=self._partition, error=error.str())
        if found:
            self._position = found[-1].offset() + 1
        return found

    def _batch(self, messages: list[Message]) -> Batch:
        first, last = messages[0].offset(), messages[-1].offset()
        if last - first != len(messages) - 1:
            raise ProtocolViolation(f"{self._topic}/{self._partition}: offsets {first} to {last} have holes")
        return Batch(
            first,
            [message.key() for message in messages],
            [message.timestamp()[1] for message in messages],
            [message.value() or b"" for message in messages],
        )

    def _check_end(self, end: int) -> None:
        try:
            _, high = self._consumer.get_watermark_offsets(
                TopicPartition(self._topic, self._partition), timeout=WATERMARK_SECONDS
            )
        except KafkaException:
            return
        if high < end:
            raise ProtocolViolation(f"{self._topic}/{self._partition} ends at {high}, but was planned up to {end}")
