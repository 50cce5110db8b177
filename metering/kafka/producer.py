"""Send records to Kafka and know when they are safe: acks=all, idempotent, bounded in memory and in time.

A record is safe when its delivery report says so, and only then. What was given up here may still arrive later; whoever
repeats it is saved by dedupe.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer
from prometheus_client import Counter, Gauge, Histogram

from metering.domain.errors import Unavailable

_log: Final = structlog.get_logger()
_librdkafka_log: Final = logging.getLogger("librdkafka")

ACK_SECONDS: Final = Histogram(
    "weighbridge_kafka_ack_seconds",
    "From handing records to the producer until Kafka acknowledged all of them.",
    buckets=(0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.125, 0.25, 0.5, 1, 2, 4, 8, 16),
)
IN_FLIGHT_RECORDS: Final = Gauge("weighbridge_kafka_in_flight_records", "Records handed over and not yet reported on.")
IN_FLIGHT_BYTES: Final = Gauge("weighbridge_kafka_in_flight_bytes", "Their keys and values.")
NOT_ACKNOWLEDGED: Final = Counter(
    "weighbridge_kafka_not_acknowledged_total", "Sends given up, by cause.", labelnames=("cause",)
)
RECREATED: Final = Counter("weighbridge_kafka_producer_recreated_total", "Fatal errors of the idempotent producer.")

_POLL_SECONDS: Final = 0.1
_SWEEP_SECONDS: Final = 0.1
_KEY_BYTES: Final = 16
_BATCH_RECORDS: Final = 8  # from here on produce_batch is cheaper than a call for each record


@dataclass(frozen=True, slots=True)
class ProducerLimits:
    """How much may wait for Kafka, and how long. Beyond either, `send` fails with Unavailable."""

    in_flight_records_max: int = 200_000
    in_flight_bytes_max: int = 128 * 1024 * 1024
    ack_timeout_seconds: float = 8.0
    delivery_timeout_seconds: float = 10.0
    linger_milliseconds: float = 1.0
    compression: str = "lz4"


def producer_config(bootstrap: str, limits: ProducerLimits) -> dict[str, Any]:
    """The librdkafka configuration of an idempotent producer under these limits."""
    delivery_milliseconds = int(limits.delivery_timeout_seconds * 1000)
    return {
        "bootstrap.servers": bootstrap,
        "enable.idempotence": True,
        "acks": "all",
        "compression.type": limits.compression,
        "linger.ms": limits.linger_milliseconds,
        "delivery.timeout.ms": delivery_milliseconds,
        "request.timeout.ms": delivery_milliseconds,
        # A broker that says nothing for as long as a record may wait is taken for dead.
        "socket.timeout.ms": delivery_milliseconds,
        "socket.keepalive.enable": True,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1000,
        # Our own limits answer first; these are the second fence.
        "queue.buffering.max.messages": 2 * limits.in_flight_records_max,
        "queue.buffering.max.kbytes": max(2 * limits.in_flight_bytes_max // 1024, 1024),
    }


@dataclass(frozen=True, slots=True)
class Records:
    """Records of one topic, by partition: each a dict with bytes `key` and `value`, as produce_batch takes them.

    `count` and `bytes` are over all partitions; `bytes` counts keys and values.
    """

    partitions: Mapping[int, Sequence[dict[str, bytes]]]
    count: int
    bytes: int


class _Send:
    """What one caller waits for: all its records, or an error.

    `remaining` is written by the polling thread only, `refused` (records that the producer didn't take) by the loop
    only. Either may be the last to complete it, or both: finishing twice is harmless.
    """

    __slots__ = ("began", "bytes", "complete", "count", "error", "finished", "future", "refused", "remaining")

    def __init__(
        self, records: Records, future: asyncio.Future[None], began: float, complete: Callable[["_Send"], None]
    ) -> None:
        self.count = self.remaining = records.count
        self.bytes = records.bytes
        self.future = future
        self.began = began
        self.complete = complete
        self.error: KafkaError | None = None
        self.refused = 0
        self.finished = False

    def delivered(self, error: KafkaError | None, _message: Any) -> None:
        """The delivery report of one record; called by the polling thread."""
        if error is not None:
            self.error = error
        self.remaining -= 1
        if self.remaining == self.refused:
            self.complete(self)


class _Generation:
    """One librdkafka producer with the thread that polls it. A fatal error ends it; the next one takes over."""

    def __init__(
        self, config: Mapping[str, Any], loop: asyncio.AbstractEventLoop, finish: Callable[[list[_Send]], None]
    ) -> None:
        self.fatal: KafkaError | None = None
        self._complete: deque[_Send] = deque()
        self.producer = Producer({**config, "error_cb": self._on_error, "logger": _librdkafka_log})
        self._loop, self._finish = loop, finish
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="kafka-acks", daemon=True)
        self._thread.start()

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self.fatal = error
        _log.warning("kafka_error", code=error.name(), detail=error.str(), fatal=error.fatal())

    def _poll(self) -> None:
        while len(self.producer) or not self._closing.is_set():
            try:
                self.producer.poll(_POLL_SECONDS)
            except KafkaException as error:  # this thread must go on, or nothing is acknowledged ever again
                _log.warning("kafka_poll_failed", detail=str(error))
            # One wake-up of the loop for all that was reported on, however many.
            if self._complete:
                sends = [self._complete.popleft() for _ in range(len(self._complete))]
                try:
                    self._loop.call_soon_threadsafe(self._finish, sends)
                except RuntimeError:  # the loop is closed: nobody waits any more
                    return

    def hand_over(self, topic: str, records: Records, future: asyncio.Future[None], began: float) -> _Send:
        """Queue the records. What the producer doesn't take fails the whole send, once the rest is reported on."""
        send = _Send(records, future, began, self._complete.append)
        queued = 0
        try:
            for partition, batch in records.partitions.items():
                if len(batch) < _BATCH_RECORDS:
                    for record in batch:
                        self.producer.produce(topic, record["value"], record["key"], partition, send.delivered)
                        queued += 1
                else:
                    queued += self.producer.produce_batch(topic, batch, partition, on_delivery=send.delivered)
        except (BufferError, KafkaException) as error:
            _log.warning("kafka_refused", topic=topic, detail=str(error))
        if queued < send.count:
            send.refused = send.count - queued
            if send.remaining == send.refused:
                self._loop.call_soon(self._finish, [send])
        return send

    def abandon(self) -> None:
        """Fail what waits, and end the thread once that is reported."""
        self.producer.purge(in_queue=True, in_flight=True, blocking=False)
        self._closing.set()

    def close(self, timeout_seconds: float) -> None:
        """Wait for what is in flight, at most this long, then give it up."""
        self._closing.set()
        self._thread.join(timeout_seconds)
        self.abandon()
        self._thread.join(timeout_seconds)


class AckedProducer:
    """Sends records to Kafka and resolves when they are safe. Belongs to the event loop that called `start`.

    `send` raises Unavailable at once when too much is in flight, and its future does when Kafka refuses or doesn't
    answer in time. After an outage it goes on by itself.
    """

    def __init__(
        self, bootstrap: str, limits: ProducerLimits | None = None, overrides: Mapping[str, Any] | None = None
    ) -> None:
        """`overrides` are librdkafka settings that win over ours."""
        limits = limits or ProducerLimits()
        self.limits = limits
        self._config = producer_config(bootstrap, limits) | dict(overrides or {})
        self._waiting: deque[_Send] = deque()  # in the order of their deadlines: all wait equally long
        self._sweeping = False
        self._records = self._bytes = 0
        self._generation: _Generation | None = None
        self._loop: asyncio.AbstractEventLoop

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._generation = self._open()

    async def close(self) -> None:
        """Wait for what is in flight, at most as long as an acknowledgement may take, and end."""
        generation, self._generation = self._generation, None
        if generation is not None:
            await asyncio.to_thread(generation.close, self.limits.ack_timeout_seconds)

    async def reachable(self, timeout_seconds: float = 1.0) -> bool:
        """Whether a broker answers now."""
        if (generation := self._generation) is None:
            return False
        try:
            await asyncio.to_thread(generation.producer.list_topics, timeout=timeout_seconds)
        except KafkaException:
            return False
        return True

    @property
    def in_flight_records(self) -> int:
        return self._records

    @property
    def in_flight_bytes(self) -> int:
        return self._bytes

    def send(self, topic: str, records: Records) -> asyncio.Future[None]:
        """Hand the records over; the future resolves when every one is acknowledged.

        Raises Unavailable when the limits are reached. An empty `records` resolves at once. Call it in the loop.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        if not records.count:
            future.set_result(None)
            return future
        if (
            self._records + records.count > self.limits.in_flight_records_max
            or self._bytes + records.bytes > self.limits.in_flight_bytes_max
        ):
            NOT_ACKNOWLEDGED.labels("full").inc()
            raise Unavailable("too many events wait for Kafka")
        send = self._usable().hand_over(topic, records, future, self._loop.time())
        self._records += records.count
        self._bytes += records.bytes
        self._waiting.append(send)
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(_SWEEP_SECONDS, self._sweep)
        return future

    def _open(self) -> _Generation:
        return _Generation(self._config, self._loop, self._finish)

    def _usable(self) -> _Generation:
        """The current producer, or a new one after a fatal error: an idempotent producer doesn't recover from those."""
        if (generation := self._generation) is None:
            raise Unavailable("the producer is closed")
        if generation.fatal is not None:
            _log.error("kafka_producer_recreated", code=generation.fatal.name(), detail=generation.fatal.str())
            RECREATED.inc()
            generation.abandon()
            generation = self._generation = self._open()
        return generation

    def _finish(self, sends: list[_Send]) -> None:
        """All records of these sends are reported on: only now do they no longer take memory."""
        now = self._loop.time()
        for send in sends:
            if send.finished:
                continue
            send.finished = True
            self._records -= send.count
            self._bytes -= send.bytes
            if send.error is None and not send.refused:
                ACK_SECONDS.observe(now - send.began)
                if not send.future.done():
                    send.future.set_result(None)
            else:
                self._give_up(send, "refused" if send.error is None else send.error.name())
        self._show()

    def _sweep(self) -> None:
        """Give up what waits too long. One timer for all sends instead of one each."""
        overdue = self._loop.time() - self.limits.ack_timeout_seconds
        waiting = self._waiting
        while waiting and (waiting[0].future.done() or waiting[0].began <= overdue):
            self._give_up(waiting.popleft(), "timeout")
        self._sweeping = bool(waiting)
        self._show()
        if waiting:
            self._loop.call_later(_SWEEP_SECONDS, self._sweep)

    def _show(self) -> None:
        IN_FLIGHT_RECORDS.set(self._records)
        IN_FLIGHT_BYTES.set(self._bytes)

    def _give_up(self, send: _Send, cause: str) -> None:
        if not send.future.done():
            NOT_ACKNOWLEDGED.labels(cause).inc()
            send.future.set_exception(Unavailable("Kafka did not acknowledge the events"))
