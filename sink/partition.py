"""One partition as this process runs it: carries out the protocol's commands on the real engines, in a thread."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, assert_never

import structlog
from clickhouse_connect.driver.exceptions import ClickHouseError

from metering.domain.errors import ProtocolViolation
from metering.domain.registry import Registry
from sink import metrics
from sink.audit import Audit
from sink.decode import Decoded, decode
from sink.deltas import SinkProducer, range_deltas
from sink.duplicates import Known, Sighting, duplicates
from sink.failpoint import Failpoint
from sink.fence import PostgresFence
from sink.plan import (
    Answer,
    Batch,
    Command,
    CompareAndSet,
    CompleteStore,
    Fetch,
    FindMissing,
    InsertEvents,
    InsertFlush,
    InsertUsage,
    KnownRevision,
    PartitionProtocol,
    Plan,
    Prepare,
    PutIds,
    ReadPlan,
    SendDeltas,
    SendTick,
    StoreReach,
)
from sink.registry import RegistryWatch
from sink.rows import RangeRows, count, flush_table
from sink.settings import SinkSettings
from sink.source import POLL_SECONDS, PartitionSource, Stopped
from sink.store import DedupeStore
from sink.writer import ClickHouseWriter

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Engines:
    """What all partitions of a process share."""

    settings: SinkSettings
    fence: PostgresFence
    registry: RegistryWatch
    writer: ClickHouseWriter
    audit: Audit
    producer: SinkProducer
    failpoint: Failpoint
    now_ms: Callable[[], int]


@dataclass(frozen=True, slots=True)
class _Range:
    """A range in the making."""

    plan: Plan
    registry: Registry
    rows: RangeRows
    keys: list[bytes]
    sightings: list[Sighting]
    known: list[Known | None]


class PartitionLoop:
    """Runs the protocol for one partition until it is fenced, stopped, or fails. `start` it; `ended` says why."""

    def __init__(self, engines: Engines, partition: int) -> None:
        self.partition = partition
        self.stop = threading.Event()
        self.failure: BaseException | None = None
        self.ended_at = 0.0
        self.flushed_to = 0  # 0 until the first flush
        self._on = engines
        self._range: _Range | None = None
        self._restarts = engines.audit.restarts
        self._audited_at = engines.audit.restarts
        self._heard_at = time.monotonic()
        self._unclear = 0
        self._thread = threading.Thread(target=self._main, name=f"partition-{partition}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def _main(self) -> None:
        structlog.contextvars.bind_contextvars(partition=self.partition)
        try:
            self._run()
            log.info("fenced" if not self.stop.is_set() else "stopped")
        except Stopped:
            log.info("stopped")
        except BaseException as error:  # noqa: BLE001 - handed to the process, which ends with it
            self.failure = error
        self.ended_at = time.monotonic()

    def _run(self) -> None:
        self._source = PartitionSource(self._on.settings, self.partition, self.stop)
        try:
            self._store = DedupeStore.open(self._on.settings.dedupe_folder, self.partition)
            try:
                self._follow(PartitionProtocol())
            finally:
                self._store.close()
        finally:
            self._source.close()

    def _follow(self, protocol: PartitionProtocol) -> None:
        steps = protocol.run()
        answer: Any = None
        while True:
            try:
                command = steps.send(answer)
            except StopIteration:
                return
            if self.stop.is_set():
                raise Stopped
            step = type(command).__name__
            started, cpu = time.perf_counter(), time.thread_time()
            answer = self._do(command)
            metrics.STEP_CPU_SECONDS.labels(step).inc(time.thread_time() - cpu)
            metrics.STEP_SECONDS.labels(step).observe(time.perf_counter() - started)
            self._back_off(step, answer)

    def _back_off(self, step: str, answer: Any) -> None:
        if answer is not Answer.UNCLEAR:
            if step != "ReadPlan":
                self._unclear = 0
            return
        metrics.UNCLEAR.labels(step).inc()
        self.stop.wait(min(self._on.settings.sink_backoff_seconds_max, 0.05 * 2 ** min(self._unclear, 10)))
        self._unclear += 1

    def _do(self, command: Command) -> Any:  # noqa: C901, PLR0911, PLR0912 - one case a command
        on = self._on
        match command:
            case ReadPlan():
                return on.fence.read(self.partition)
            case CompareAndSet(expected, new):
                return self._compare_and_set(expected, new)
            case Fetch(start, None):
                return self._fetch(start)
            case Fetch(start, end):
                assert end is not None
                return self._source.read(start, end)
            case KnownRevision():
                newest = on.registry.newest()
                return Answer.UNCLEAR if newest is None else newest
            case SendTick():
                self._heard_at = time.monotonic()
                return on.producer.send_tick(self.partition)
            case Prepare(plan, batch):
                return self._prepare(plan, batch)
            case InsertEvents():
                return self._insert_events()
            case InsertUsage():
                return self._passed("after_usage", on.writer.insert("usage", self._made.rows.usage))
            case InsertFlush(plan, accounting, reached):
                table = flush_table(self.partition, plan, accounting, reached, on.now_ms())
                return self._passed("after_flushes", on.writer.insert("flushes", table))
            case SendDeltas(plan, reached):
                return self._send_deltas(plan, reached)
            case PutIds(plan):
                return self._put_ids(plan)
            case StoreReach():
                return self._store.reach()
            case CompleteStore(start, end, floor):
                return self._complete_store(start, end, floor)
            case FindMissing(end):
                self._audited_at = on.audit.restarts
                return on.audit.missing(self.partition, end)
            case _:
                assert_never(command)

    @property
    def _made(self) -> _Range:
        assert self._range is not None
        return self._range

    def _passed(self, name: str, answer: Answer) -> Answer:
        if answer is Answer.DONE:
            self._on.failpoint.passed(name)
        return answer

    def _compare_and_set(self, expected: Plan, new: Plan) -> Answer:
        answer = self._on.fence.compare_and_set(self.partition, expected, new)
        if new.epoch == expected.epoch:
            self._passed("after_plan", answer)
            if expected.a < expected.end:
                self._passed("after_advance", answer)
        elif answer is Answer.DONE:
            log.info("taken", epoch=new.epoch, a=new.a, end=new.end)
        return answer

    def _fetch(self, start: int) -> Batch | Answer:
        settings = self._on.settings
        while True:
            if self.stop.is_set():
                raise Stopped
            if self._restarts != self._on.audit.restarts:
                self._restarts = self._on.audit.restarts
                return Answer.RESTARTED
            first = self._source.wait(start, POLL_SECONDS)
            if first:
                self._heard_at = time.monotonic()
                return self._source.gather(
                    first, count_max=settings.sink_flush_events, seconds=settings.sink_flush_ms / 1000
                )
            if time.monotonic() - self._heard_at > settings.sink_tick_seconds:
                return Answer.QUIET

    def _prepare(self, plan: Plan, batch: Batch) -> Any:
        registry = self._on.registry.at(plan.revision)
        if registry is None:
            return Answer.UNCLEAR
        decoded = decode(batch, registry.namespaces.__contains__)
        times = batch.ingest_times(plan.ingest_floor)
        offsets = [batch.start + index for index in decoded.indexes]
        ingest = [times[index] for index in decoded.indexes]
        known = self._store.lookup(decoded.keys)
        skip = self._duplicates(decoded, offsets, ingest, known, plan)
        rows = count(self.partition, plan, batch, decoded, skip=skip, registry=registry, stored_at=self._on.now_ms())
        keys = decoded.keys
        if skip:
            keep = [i for i in range(len(keys)) if i not in skip]
            keys, known = [keys[i] for i in keep], [known[i] for i in keep]
            offsets, ingest = [offsets[i] for i in keep], [ingest[i] for i in keep]
        self._range = _Range(plan, registry, rows, keys, list(map(Sighting, offsets, ingest)), known)
        return rows.accounting

    def _duplicates(
        self, decoded: Decoded, offsets: list[int], ingest: list[int], known: list[Known | None], plan: Plan
    ) -> set[int]:
        if len(set(decoded.keys)) == len(decoded.keys) and not any(known):
            return set()
        window = self._on.settings.dedupe_window_ms
        return duplicates(decoded.keys, offsets, ingest, known, start=plan.a, window_ms=window)

    def _insert_events(self) -> Answer:
        rows = self._made.rows
        if self._on.writer.insert("dead_letters", rows.dead_letters) is not Answer.DONE:
            return Answer.UNCLEAR
        return self._passed("after_events", self._on.writer.insert("events", rows.events))

    def _send_deltas(self, plan: Plan, reached: int) -> Answer:
        made = self._made
        deltas = range_deltas(
            self.partition,
            plan=plan,
            reached=reached,
            measured=made.rows.measured,
            registry=made.registry,
            balance_partitions=self._on.settings.balance_partitions,
        )
        answer = self._passed("after_deltas", self._on.producer.send_deltas(deltas))
        if answer is Answer.DONE:
            metrics.INGEST_TIME.labels(str(self.partition)).set(reached / 1000)
        return answer

    def _put_ids(self, plan: Plan) -> Answer:
        made = self._made
        self._store.put(made.keys, made.sightings, made.known, start=plan.a, end=plan.end)
        self._store.expire(plan.ingest_floor - self._on.settings.dedupe_window_ms)
        self._on.failpoint.passed("after_dedupe")
        accounting = made.rows.accounting
        for outcome in ("counted", "duplicate", "rejected", "ticks"):
            metrics.RECORDS.labels(outcome).inc(getattr(accounting, outcome))
        metrics.RANGES.labels(str(self.partition)).inc()
        self.flushed_to = plan.end
        metrics.POSITION.labels(str(self.partition)).set(plan.end)
        self._range = None
        return Answer.DONE

    def _complete_store(self, start: int, end: int, floor: int) -> Answer:
        since = floor - self._on.settings.dedupe_window_ms
        log.info("completing the dedupe store", start=start, end=end)
        try:
            for reached, keys, sightings in self._on.writer.ids(self.partition, start, end, since):
                if self.stop.is_set():
                    raise Stopped
                if self._on.audit.look() != self._audited_at:
                    return Answer.RESTARTED
                self._store.put(keys, sightings, [None] * len(keys), start=reached, end=reached)
        except (ClickHouseError, OSError) as error:
            log.warning("dedupe store not completed", error=str(error)[:500])
            return Answer.UNCLEAR
        return Answer.DONE


def is_violation(loop: PartitionLoop) -> bool:
    """Whether the loop ended because an invariant does not hold."""
    return isinstance(loop.failure, ProtocolViolation)
