"""Whether ClickHouse still has what was flushed, and whether it has restarted.

An engine that acknowledged rows may have lost them when it comes back: after a power loss, or as a replica that lags.
So ranges that were flushed shortly before it started, and ranges whose rows don't add up, are done again. What they
were, in case their rows of `flushes` are gone too, is told by the deltas, which lie on Kafka.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import structlog
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka import Consumer, KafkaException, TopicPartition

from metering.domain.errors import ProtocolViolation
from metering.kafka.wire import DELTA_DECODER, Delta
from sink.plan import Answer, Plan
from sink.settings import SinkSettings

log = structlog.get_logger()
WATCH_SECONDS: Final = 1.0
CLOCK_SLACK_SECONDS: Final = 3  # an uptime is in whole seconds, and asking takes time
UNSYNCED_SECONDS: Final = 60  # a page cache is on the disk after half of that
LOOK_BACK_MS: Final = 3_600_000  # how far before the plan's ingest time ranges are checked
KAFKA_SECONDS: Final = 10

_UPTIME: Final = "SELECT uptime()"
_REACHED: Final = "SELECT max(toUnixTimestamp64Milli(ingest_time)) FROM flushes WHERE partition = {partition:UInt32}"
_FLUSHES: Final = """
SELECT a, any(f.end), any(f.counted), any(f.revision), any(ms), any(hex(f.digest)), min(flushed_ms)
FROM (
    SELECT *, toUnixTimestamp64Milli(ingest_time) AS ms, toUnixTimestamp64Milli(flushed_at) AS flushed_ms
    FROM flushes WHERE partition = {partition:UInt32} AND end <= {end:UInt64} AND end > a
    AND ingest_time >= fromUnixTimestamp64Milli({since:Int64}, 'UTC')
) AS f GROUP BY a ORDER BY a"""
_FLOOR: Final = (
    "SELECT max(toUnixTimestamp64Milli(ingest_time)) FROM flushes"
    " WHERE partition = {partition:UInt32} AND end <= {a:UInt64}"
)
_STORED: Final = (
    "SELECT uniqExact(offset) FROM events WHERE partition = {partition:UInt32}"
    " AND offset >= {low:UInt64} AND offset < {high:UInt64}"
    " AND ingest_time >= fromUnixTimestamp64Milli({since:Int64}, 'UTC')"
)


@dataclass(frozen=True, slots=True)
class Flushed:
    """A range as `flushes`, or else its delta, tells of it. Times in ms; `digest` and `counted` are not in deltas."""

    a: int
    end: int
    revision: int
    reached: int
    counted: int | None = None
    digest: bytes = b""
    flushed_at: int = 0


def holes(flushed: Sequence[Flushed], start: int, end: int) -> list[tuple[int, int]]:
    """The offsets in [start, end) that no range covers. Raises ProtocolViolation where ranges overlap."""
    found: list[tuple[int, int]] = []
    at = start
    for each in flushed:
        if each.a < at:
            raise ProtocolViolation(f"the range [{each.a}, {each.end}) overlaps one that ends at {at}")
        if each.a > at:
            found.append((at, each.a))
        at = each.end
    return [*found, (at, end)] if at < end else found


def unsynced(flushed: Sequence[Flushed], started_at: int) -> set[int]:
    """The starts of ranges that may not have been on the disk when ClickHouse started, at `started_at` (ms).

    That is what was flushed in the minute before, and what was at work then: a range flushed after it that follows one
    flushed before.
    """
    slack = UNSYNCED_SECONDS * 1000
    late = [each.a for each in flushed if started_at - slack <= each.flushed_at <= started_at + slack]
    at_work = [
        each.a for before, each in pairwise(flushed) if before.flushed_at <= started_at + slack < each.flushed_at
    ]
    return {*late, *at_work}


def plans(flushed: Sequence[Flushed], wanted: set[int], floor: int) -> tuple[Plan, ...]:
    """The plans of the ranges that start at `wanted`; `floor` is the ingest time reached before the first of all."""
    found: list[Plan] = []
    for each in flushed:
        if each.a in wanted:
            found.append(Plan(0, each.a, each.end, each.revision, floor, each.digest))
        floor = max(floor, each.reached)
    return tuple(found)


class Audit:
    """Finds ranges whose rows are missing. `restarts` counts how often ClickHouse was seen to have restarted."""

    def __init__(self, settings: SinkSettings, client: Client, now_ms: Callable[[], int]) -> None:
        self._settings = settings
        self._client = client
        self._now_ms = now_ms
        self.restarts = 0
        self._started_at: int | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="clickhouse-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(WATCH_SECONDS + 1)

    def look(self) -> int:
        """Ask ClickHouse since when it runs; the number of restarts seen. Raises ClickHouseError or OSError."""
        started_at = self._now_ms() - int(self._client.query(_UPTIME).result_rows[0][0]) * 1000
        with self._lock:
            if self._started_at is not None and started_at > self._started_at + CLOCK_SLACK_SECONDS * 1000:
                self.restarts += 1
                log.warning("ClickHouse has restarted")
            if self._started_at is None or started_at > self._started_at + CLOCK_SLACK_SECONDS * 1000:
                self._started_at = started_at
            return self.restarts

    def missing(self, partition: int, end: int) -> tuple[Plan, ...] | Answer:
        """The plans of ranges below `end` that lack rows, in order. Raises ProtocolViolation if none can tell them."""
        if end == 0:
            return ()
        try:
            self.look()
            return self._missing(partition, end)
        except (ClickHouseError, OSError, KafkaException) as error:
            log.warning("audit unclear", error=str(error)[:500])
            return Answer.UNCLEAR

    def _watch(self) -> None:
        while not self._stop.wait(WATCH_SECONDS):
            with suppress(ClickHouseError, OSError):
                self.look()

    def _number(self, query: str, **parameters: int) -> int:
        return int(self._client.query(query, parameters=parameters).result_rows[0][0] or 0)

    def _missing(self, partition: int, end: int) -> tuple[Plan, ...]:
        since = max(0, self._number(_REACHED, partition=partition) - LOOK_BACK_MS)
        rows = self._client.query(_FLUSHES, parameters={"partition": partition, "end": end, "since": since}).result_rows
        flushed = [
            Flushed(a, stop, revision, ms, counted, bytes.fromhex(digest), flushed_at)
            for a, stop, counted, revision, ms, digest, flushed_at in rows
        ]
        start = flushed[0].a if flushed else 0
        floor = self._number(_FLOOR, partition=partition, a=start) if start else 0
        wanted = unsynced(flushed, self._started_at or 0)
        wanted |= {each.a for each in self._short(partition, flushed, since)}
        lost = holes(flushed, start, end)
        if lost:
            told = self._from_deltas(partition, lost, floor)
            wanted |= {each.a for each in told}
            flushed = sorted([*flushed, *told], key=lambda each: each.a)
            if still := holes(flushed, start, end):
                raise ProtocolViolation(f"partition {partition}: no flush and no delta tells of the ranges in {still}")
        if wanted:
            log.warning("ranges are done again", partition=partition, starts=sorted(wanted)[:20], count=len(wanted))
        return plans(flushed, wanted, floor)

    def _short(self, partition: int, flushed: Sequence[Flushed], since: int) -> list[Flushed]:
        """Ranges that counted more events than `events` has, found by halving."""
        if not flushed:
            return []
        low, high = flushed[0].a, flushed[-1].end
        stored = self._number(_STORED, partition=partition, low=low, high=high, since=max(0, since - LOOK_BACK_MS))
        if stored >= sum(each.counted or 0 for each in flushed):
            return []
        if len(flushed) == 1:
            return list(flushed)
        half = len(flushed) // 2
        return [*self._short(partition, flushed[:half], since), *self._short(partition, flushed[half:], since)]

    def _from_deltas(self, partition: int, lost: list[tuple[int, int]], since: int) -> list[Flushed]:
        """The ranges in the holes `lost`, as the deltas of the first balance partition tell."""
        found: dict[int, Flushed] = {}
        for delta in self._deltas(since):
            if delta.partition == partition and any(low <= delta.start < high for low, high in lost):
                found[delta.start] = Flushed(delta.start, delta.end, delta.revision, delta.ingest_time)
        return list(found.values())

    def _deltas(self, since: int) -> Iterator[Delta]:
        settings = self._settings
        consumer = Consumer(
            {"bootstrap.servers": settings.kafka_bootstrap, "group.id": "audit", "enable.auto.commit": False}
        )
        try:
            where = TopicPartition(settings.deltas_topic, 0, max(0, since))
            (where,) = consumer.offsets_for_times([where], timeout=KAFKA_SECONDS)
            low, high = consumer.get_watermark_offsets(where, timeout=KAFKA_SECONDS)
            position = where.offset if where.offset >= 0 else low
            consumer.assign([TopicPartition(settings.deltas_topic, 0, position)])
            deadline = time.monotonic() + KAFKA_SECONDS
            while position < high:
                if time.monotonic() > deadline:
                    raise OSError("the deltas could not be read in time")
                for message in consumer.consume(1000, 0.5):
                    if message.error() is None:
                        position = message.offset() + 1
                        yield DELTA_DECODER.decode(message.value())
                        deadline = time.monotonic() + KAFKA_SECONDS
        finally:
            consumer.close()
