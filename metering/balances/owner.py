"""The owner of one balance partition: takes it, feeds its book, writes what changed, and only then lets input go.

Taking over: raise the epoch in Postgres, write it to the topic, then read the topic up to there. From then on, for each
batch of input: feed the book; write the records that changed, then, if the book is whole, the vector that all have
passed; wait until Kafka has acknowledged them; then acknowledge the input. Whatever goes wrong ends the process: the
next one begins from what is in the topic.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Final, Protocol

import structlog
from clickhouse_connect.driver.exceptions import Error as ClickHouseError
from prometheus_client import Counter, Gauge, Histogram

from metering.balances.codec import RecordEncoder
from metering.balances.source import vector_of
from metering.clickhouse.flushes import Coverage
from metering.domain.balance import Record, Vector
from metering.domain.balance_book import Book, Change, Key, Task
from metering.domain.balance_log import BalanceLog
from metering.domain.consumption import Usage
from metering.domain.errors import ProtocolViolation, Unavailable
from metering.kafka.wire import ENCODER, EPOCH_KEY, PASSED_KEY, Delta, Passed

log: Final = structlog.get_logger()

DELTAS: Final = Counter("weighbridge_balance_deltas_total", "Deltas read.")
RECORDS: Final = Counter("weighbridge_balance_records_total", "Balance records written.")
RECOMPUTED: Final = Counter("weighbridge_balance_recomputed_total", "Balances computed anew from usage rows.")
REFUSED: Final = Counter("weighbridge_balance_recompute_refused_total", "Computed balances older than what was known.")
WRITE_SECONDS: Final = Histogram("weighbridge_balance_write_seconds", "Writing a batch until it was acknowledged.")
WAITING: Final = Gauge(
    "weighbridge_balance_waiting_minutes", "Usage that waits for balances being computed.", ["partition"]
)

INPUT_MAX: Final = 1000
BATCH_MAX: Final = 500
HOLD_MAX: Final = 200
WAITING_MINUTES_MAX: Final = 500_000
_RETRY_SECONDS: Final = 0.2
_RETRY_SECONDS_MAX: Final = 2.0
_LOOK_SECONDS: Final = 0.05

Ack = Callable[[], object]


class Source(Protocol):
    """Where balances are computed from."""

    async def coverage(self) -> Coverage: ...
    async def usage(self, tasks: list[Task], w: Vector) -> dict[Key, Usage]: ...


class Topic(Protocol):
    """The balances topic."""

    async def send(self, partition: int, records: list[tuple[bytes, bytes]]) -> list[int]: ...


class Takeover(Protocol):
    """How a partition is taken, and what was in it."""

    async def raise_epoch(self, partition: int) -> int: ...
    async def replay_balances(self, partition: int) -> BalanceLog[Key, Record]: ...
    async def replay_changes(self, partition: int) -> list[Change]: ...


@dataclass(slots=True)
class Owner:
    """One partition, from taking it until `close`. `run` is its life."""

    partition: int
    sources: int
    topic: Topic
    source: Source
    takeover: Takeover
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    _input: asyncio.Queue[tuple[Delta | Change, Ack]] = field(default_factory=lambda: asyncio.Queue(INPUT_MAX))
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _work: asyncio.Event = field(default_factory=asyncio.Event)
    _acks: list[Ack] = field(default_factory=list)
    _published: Vector = ()
    _last: int = -1
    """The offset of the last record that this owner wrote."""
    _book: Book = field(init=False)
    _encoder: RecordEncoder = field(init=False)

    async def put(self, item: Delta | Change, ack: Ack) -> None:
        """Hand over input; `ack` is called when it is safe to forget it. Waits while the owner has enough to do."""
        await self._input.put((item, ack))
        self._wake.set()

    async def run(self) -> None:
        """Take the partition and serve it until cancelled. Raises what went wrong."""
        await self._take()
        self.ready.set()
        computing = asyncio.create_task(self._compute())
        serving = asyncio.create_task(self._serve())
        try:
            await asyncio.wait((computing, serving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (computing, serving):
                task.cancel()
            results = await asyncio.gather(computing, serving, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _take(self) -> None:
        began = monotonic()
        changes = asyncio.create_task(self.takeover.replay_changes(self.partition))
        epoch = await self._epoch()
        self._encoder = RecordEncoder(epoch)
        (self._last,) = await self.topic.send(self.partition, [(EPOCH_KEY, ENCODER.encode(Passed(epoch)))])
        found = await self.takeover.replay_balances(self.partition)
        if found.epoch > epoch:
            raise ProtocolViolation(f"balance partition {self.partition} has epoch {found.epoch}, not {epoch}")
        self._book = Book(self.sources, found.records, found.passed)
        self._published = self._book.passed
        self._book.rewrite(found.displaced)
        for change in await changes:
            self._book.take_change(change)
        log.info(
            "balance_partition_taken",
            partition=self.partition,
            epoch=epoch,
            records=len(found.records),
            displaced=len(found.displaced),
            seconds=round(monotonic() - began, 3),
        )
        self._work.set()
        self._wake.set()

    async def _epoch(self) -> int:
        """Without Postgres there is no taking over; it may be starting too."""
        while True:
            try:
                return await self.takeover.raise_epoch(self.partition)
            except (OSError, Unavailable) as error:
                log.warning("epoch_not_raised", partition=self.partition, detail=str(error)[:300])
                await asyncio.sleep(_RETRY_SECONDS)

    async def _serve(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            is_full = self._book.waiting_minutes > WAITING_MINUTES_MAX  # then computing comes first, and wakes us
            for _ in range(0 if is_full else min(self._input.qsize(), BATCH_MAX)):
                item, ack = self._input.get_nowait()
                self._acks.append(ack)
                if isinstance(item, Change):
                    self._book.take_change(item)
                else:
                    self._book.take_delta(item)
                    DELTAS.inc()
            if not is_full and not self._input.empty():
                self._wake.set()
            if self._book.has_work:
                self._work.set()
            await self._write()
            WAITING.labels(self.partition).set(self._book.waiting_minutes)

    async def _write(self) -> None:
        changed = self._book.unwritten(self.now())
        records = [self._encoder.encode(key, record) for key, record in changed]
        is_whole, passed, acks = self._book.is_whole, self._book.passed, self._acks
        if is_whole and passed != self._published:
            records.append((PASSED_KEY, ENCODER.encode(Passed(self._encoder.epoch, passed))))
        if records:
            with WRITE_SECONDS.time():
                offsets = await self.topic.send(self.partition, records)
            RECORDS.inc(len(changed))
            if offsets[-1] != self._last + len(records):
                await self._meet_other()
            self._last = offsets[-1]
        if is_whole:
            self._published, self._acks = passed, []
            for ack in acks:
                ack()

    async def _meet_other(self) -> None:
        """Somebody else has written here: one that has lost the partition, or that has taken it from us."""
        found = await self.takeover.replay_balances(self.partition)
        log.warning(
            "other_owner_wrote", partition=self.partition, its_epoch=found.epoch, displaced=len(found.displaced)
        )
        if found.epoch > self._encoder.epoch:
            raise ProtocolViolation(f"balance partition {self.partition} was taken by epoch {found.epoch}")
        self._book.rewrite(found.displaced)
        self._wake.set()

    async def _compute(self) -> None:
        """Compute what is stale or changed, a batch at a time, and try again until it is done."""
        pause = _RETRY_SECONDS
        self._reach(await self._coverage())
        while True:
            await self._work.wait()
            self._work.clear()
            tasks = self._book.held() or self._book.hold(HOLD_MAX)
            if not tasks:
                continue
            try:
                await self._install(tasks)
                pause = _RETRY_SECONDS
            except (ClickHouseError, OSError) as error:
                log.warning(
                    "balances_not_computed", partition=self.partition, count=len(tasks), detail=str(error)[:300]
                )
                await asyncio.sleep(pause)
                pause = min(2 * pause, _RETRY_SECONDS_MAX)
            if self._book.held() or self._book.has_work:
                self._work.set()
            self._wake.set()

    def _reach(self, found: Coverage) -> Vector:
        w = vector_of(found)
        self._book.reached(w, [each.revision for each in found.partitions])
        return w

    async def _coverage(self) -> Coverage:
        while True:
            try:
                return await self.source.coverage()
            except (ClickHouseError, OSError) as error:
                log.warning("coverage_unknown", partition=self.partition, detail=str(error)[:300])
                await asyncio.sleep(_RETRY_SECONDS_MAX)

    async def _install(self, tasks: list[Task]) -> None:
        found = await self.source.coverage()
        w = self._reach(found)
        usage = await self.source.usage(tasks, w)
        for task in tasks:
            if self._book.install(task, w, usage[task.key], self.now()):
                RECOMPUTED.inc()
            else:
                REFUSED.inc()
                await asyncio.sleep(_LOOK_SECONDS)
