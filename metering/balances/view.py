"""All balances in memory, for a process that answers checks: reads the whole balances topic and follows it.

A thread of its own reads; whoever asks only looks into dictionaries. Records are decoded when they are first asked for,
and a value is kept for as long as the record and the minute stay the same.
"""

import threading
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic
from typing import Final

import structlog
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from prometheus_client import Counter, Gauge

from metering.balances.codec import decode
from metering.balances.replay import consumer_config, fetch, take
from metering.domain.balance import Record, Vector, joined, value
from metering.domain.balance_book import Key
from metering.domain.balance_log import BalanceLog
from metering.domain.burndown import Balance, next_boundary
from metering.domain.consumption import instant_of, minute_ceiling
from metering.kafka.wire import BalanceRecord, balance_partition
from metering.settings import EngineSettings

log: Final = structlog.get_logger()

READ: Final = Counter("weighbridge_balance_view_records_total", "Records of the balances topic read.")
BALANCES: Final = Gauge("weighbridge_balance_view_balances", "Balances in memory.")

_POLL_SECONDS: Final = 0.05
_RETRY_SECONDS: Final = 1.0
_JOIN_SECONDS: Final = 10.0


@dataclass(slots=True)
class _Entry:
    """A balance as last asked for."""

    wire: BalanceRecord
    record: Record
    minute: int = -1
    until: datetime | None = None
    """The value holds in `minute` and before this boundary."""
    balance: Balance | None = None


@dataclass(slots=True)
class BalanceView:
    """The newest valid record of each balance. `start` it, wait for `is_ready`, and `close` it."""

    settings: EngineSettings
    _logs: list[BalanceLog[Key, BalanceRecord]] = field(init=False)
    _entries: dict[Key, _Entry] = field(default_factory=dict)
    _ready: threading.Event = field(default_factory=threading.Event)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __post_init__(self) -> None:
        self._logs = [BalanceLog() for _ in range(self.settings.balance_partitions)]

    @property
    def is_ready(self) -> bool:
        """Whether everything that was in the topic at the start has been read."""
        return self._ready.is_set()

    def wait_ready(self, timeout_seconds: float) -> bool:
        """Wait until it is ready; False if that takes too long. For threads, not for a loop."""
        return self._ready.wait(timeout_seconds)

    def start(self) -> None:
        """Read from now on, in the background, until `close`."""
        self._thread = threading.Thread(target=self._read, name="balance view", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_JOIN_SECONDS)

    def get(self, namespace: str, customer: str, feature: str) -> Record | None:
        """The balance's record with its vector brought up, or None where there is none.

        A record whose `entitlement` is None says that it ended.
        """
        key = Key(namespace, customer, feature)
        entry = self._entry(key)
        if entry is None:
            return None
        vector = joined(entry.record.vector, self._log(key).passed)
        if vector != entry.record.vector:
            record = entry.record
            return Record(record.sequence, record.entitlement, record.snapshot, record.usage, record.through, vector)
        return entry.record

    def value(self, namespace: str, customer: str, feature: str, now: datetime) -> Balance | None:
        """The balance now, or None if there is no entitlement. Asks nobody; takes microseconds."""
        entry = self._entry(Key(namespace, customer, feature))
        if entry is None or entry.record.entitlement is None:
            return None
        minute = minute_ceiling(now)
        if entry.balance is None or minute != entry.minute or (entry.until is not None and now >= entry.until):
            entry.balance, entry.minute = value(entry.record, now), minute
            begins = entry.record.entitlement.measure_usage_from
            boundary = begins if now < begins else next_boundary(entry.record.entitlement, now)
            entry.until = boundary if boundary < instant_of(minute + 1) else None
        return entry.balance

    def vector(self, namespace: str, customer: str) -> Vector:
        """How far all balances of this customer have come: for each source partition the end of the last range."""
        return self._log(Key(namespace, customer, "")).passed

    def _log(self, key: Key) -> BalanceLog[Key, BalanceRecord]:
        return self._logs[balance_partition(key.namespace, key.customer, len(self._logs))]

    def _entry(self, key: Key) -> _Entry | None:
        wire = self._log(key).records.get(key)
        if wire is None:
            return None
        entry = self._entries.get(key)
        if entry is None or entry.wire is not wire:
            entry = self._entries[key] = _Entry(wire, decode(wire))
        return entry

    def _read(self) -> None:
        consumer = Consumer(consumer_config(self.settings.kafka_bootstrap))
        try:
            self._follow(consumer, self._ends(consumer))
        finally:
            consumer.close()

    def _ends(self, consumer: Consumer) -> dict[int, tuple[int, int]]:
        """Where each partition begins and ends now, as soon as Kafka says so."""
        topic = self.settings.balances_topic
        places = [TopicPartition(topic, partition) for partition in range(len(self._logs))]
        while not self._stop.is_set():
            try:
                return {place.partition: consumer.get_watermark_offsets(place, timeout=10) for place in places}
            except KafkaException as error:
                log.warning("balance_view_waits", detail=error.args[0].str())
                self._stop.wait(_RETRY_SECONDS)
        return {}

    def _follow(self, consumer: Consumer, ends: dict[int, tuple[int, int]]) -> None:
        """Read on and on. When Kafka goes away and comes back, the client goes on by itself where it was."""
        topic, began = self.settings.balances_topic, monotonic()
        places = [TopicPartition(topic, partition, low) for partition, (low, _) in ends.items()]
        consumer.assign(places)
        while not self._stop.is_set():
            messages = fetch(consumer, _POLL_SECONDS)
            for message in messages:
                self._take(message)
            READ.inc(len(messages))
            if not self.is_ready:
                reached = {p.partition: p.offset for p in consumer.position(places)}
                if all(low == end or reached[partition] >= end for partition, (low, end) in ends.items()):
                    log.info("balance_view_ready", seconds=round(monotonic() - began, 3))
                    self._ready.set()
            BALANCES.set(sum(len(each.records) for each in self._logs))

    def _take(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            log.warning("balance_view_interrupted", detail=error.str())
            return
        take(self._logs[message.partition()], message.key() or b"", message.value())
