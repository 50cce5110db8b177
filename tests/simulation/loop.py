"""One partition as one simulated sink runs it: the real protocol, its commands carried out on simulated engines."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from sink.duplicates import Known, Sighting, duplicates, remembered
from sink.plan import (
    Accounting,
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
from tests.simulation.engines import BALANCE_PARTITIONS, MINUTE, ClickHouse, Kafka, Postgres, Record, SentDelta, Store

Outcome = Literal["done", "lost", "applied, unclear", "hung"]
WINDOW = 40  # ticks of the simulated clock
WRITES = (CompareAndSet, SendTick, InsertEvents, InsertUsage, InsertFlush, SendDeltas)


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules of the executor rather than of the protocol. Tests switch them off one by one."""

    window: int = WINDOW
    keyed: bool = True  # rows carry the key of what they count
    compare: bool = True  # the fence is compared, not only set
    smaller_offset: bool = True  # a duplicate needs a smaller offset, in the store below the range's start
    within_window: bool = True
    rejected_are_not_stored: bool = True
    one_write: bool = True  # ids and reach are in one write
    complete_store: bool = True
    find_missing: bool = True
    ingest_never_back: bool = True
    ticks: bool = True


@dataclass(slots=True)
class World:
    """All engines, the clock, and what hangs in the network."""

    partitions: int
    rules: Rules
    protocol: Callable[[], PartitionProtocol]
    clock: int = 100
    skew: list[int] = field(default_factory=list)
    known_revision: list[int] = field(default_factory=lambda: [1, 1])
    stores: dict[str, Store] = field(default_factory=dict)
    hung: list[tuple[str, Callable[[], object]]] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    postgres: Postgres = field(init=False)
    kafka: Kafka = field(init=False)
    clickhouse: ClickHouse = field(init=False)

    def __post_init__(self) -> None:
        self.skew = [0] * self.partitions
        self.postgres = Postgres(self.partitions)
        self.kafka = Kafka(self.partitions)
        self.clickhouse = ClickHouse(keyed=self.rules.keyed)

    def append(self, partition: int, record_key: bytes | None, subject: str = "", *, broken: bool = False) -> None:
        time = self.clock + self.skew[partition]
        self.kafka.logs[partition].append(Record(record_key, time, subject, broken))

    def open_store(self, sink: int, partition: int) -> Store:
        """The first store of this sink and partition that no living loop holds."""
        n = 0
        while self.stores.setdefault(f"S{sink}/p{partition}.{n}", Store(f"S{sink}/p{partition}.{n}")).held:
            n += 1
        store = self.stores[f"S{sink}/p{partition}.{n}"]
        store.held = True
        return store


@dataclass(slots=True)
class _Range:
    plan: Plan
    events: dict[tuple[int, int], tuple[bytes, int, str]]
    usage: dict[tuple[str, str, int, int, int], int]
    cells: list[dict[tuple[str, str], int]]
    ids: list[tuple[bytes, Sighting, Known | None]]


class Loop:
    """`command` is what it waits for; `step` carries it out. `ended` when fenced; `store` is given back by `kill`."""

    def __init__(self, world: World, sink: int, partition: int) -> None:
        self.world, self.sink, self.partition = world, sink, partition
        self.store = world.open_store(sink, partition)
        self.ended = False
        self._restarts = world.clickhouse.restarts
        self._steps = world.protocol().run()
        self._audited_at = 0
        self._range: _Range | None = None
        self.command: Command | None = None
        self._resume(None)

    @property
    def name(self) -> str:
        return f"S{self.sink}/p{self.partition}"

    def kill(self) -> None:
        self._steps.close()
        self._end()

    def ready(self) -> bool:
        """Whether the command has an answer: a range that is read again may not be on the log."""
        match self.command:
            case Fetch(_, end) if end is not None:
                return end <= len(self.world.kafka.logs[self.partition])
        return not self.ended

    def step(self, outcome: Outcome = "done", *, most: int = 3) -> None:
        command = self.command
        assert command is not None
        self.world.trace.append(f"{self.name} {_say(command)}{'' if outcome == 'done' else f' -> {outcome}'}")
        if isinstance(command, WRITES) and outcome != "done":
            if outcome == "applied, unclear":
                self._do(command, most)
            elif outcome == "hung":
                write = self._bound(command)
                self.world.hung.append((f"{self.name} {_say(command)}", write))
            self._resume(Answer.UNCLEAR)
        elif outcome == "lost" and isinstance(command, (ReadPlan, CompleteStore, FindMissing, Prepare)):
            self._resume(Answer.UNCLEAR)
        else:
            self._resume(self._do(command, most))

    def _resume(self, answer: Any) -> None:
        try:
            self.command = self._steps.send(answer)
        except StopIteration:
            self.world.trace.append(f"{self.name} is fenced")
            self._end()

    def _end(self) -> None:
        self.ended = True
        self.command = None
        self.store.held = False

    def _bound(self, command: Command) -> Callable[[], object]:
        """The write as it is now, whatever becomes of this loop until it happens."""
        made = self._range
        return lambda: self._write(command, made)

    def _do(self, command: Command, most: int) -> Any:  # noqa: PLR0911 - one return a command
        world = self.world
        match command:
            case ReadPlan():
                return world.postgres.plans[self.partition]
            case Fetch():
                return self._fetch(command, most)
            case KnownRevision():
                return world.known_revision[self.sink]
            case Prepare(plan, batch):
                return self._prepare(plan, batch)
            case StoreReach():
                return self.store.reach
            case CompleteStore(start, end, floor):
                return self._complete(start, end, floor)
            case FindMissing(end):
                return self._missing(end) if world.rules.find_missing else ()
            case PutIds(plan):
                return self._put_ids(plan)
        return self._write(command, self._range)

    def _write(self, command: Command, made: _Range | None) -> Answer:
        world = self.world
        match command:
            case CompareAndSet(expected, new):
                done = world.postgres.compare_and_set(
                    self.partition, expected, new, blind=not world.rules.compare and new.epoch == expected.epoch
                )
                return Answer.DONE if done else Answer.REFUSED
            case SendTick():
                if world.rules.ticks:
                    world.append(self.partition, None)
            case InsertEvents():
                assert made is not None
                world.clickhouse.insert("events", made.events)
            case InsertUsage():
                assert made is not None
                world.clickhouse.insert("usage", made.usage)
            case InsertFlush(plan, accounting, reached):
                row = {"end": plan.end, "revision": plan.revision, "reached": reached, "accounting": accounting}
                row |= {"digest": plan.digest, "floor": plan.ingest_floor}
                world.clickhouse.insert("flushes", {(self.partition, plan.a): row})
            case SendDeltas(plan, _):
                assert made is not None
                for place in range(BALANCE_PARTITIONS):
                    head = (self.partition, plan.a, plan.end, plan.revision, plan.ingest_floor, plan.digest)
                    world.kafka.send_delta(place, SentDelta(*head, made.cells[place]))
        return Answer.DONE

    def _fetch(self, command: Fetch, most: int) -> Batch | Answer:
        world = self.world
        log = world.kafka.logs[self.partition]
        end = command.end
        if end is None:
            if self._restarts != world.clickhouse.restarts:
                self._restarts = world.clickhouse.restarts
                return Answer.RESTARTED
            end = min(len(log), command.start + most)
            if end <= command.start:
                return Answer.QUIET
        records = log[command.start : end]
        return Batch(
            command.start, [r.key for r in records], [r.append_time for r in records], [r.value for r in records]
        )

    def _prepare(self, plan: Plan, batch: Batch) -> Accounting:
        world, rules = self.world, self.world.rules
        registry = world.postgres.at(plan.revision)
        times = batch.ingest_times(plan.ingest_floor) if rules.ingest_never_back else list(batch.append_times)
        ticks = sum(key is None for key in batch.keys)
        places = [i for i, key in enumerate(batch.keys) if key is not None and batch.values[i] != b"broken"]
        keys = [key for i in places if (key := batch.keys[i]) is not None]
        known = [self.store.ids.get(key) for key in keys]
        skip = duplicates(
            keys,
            [batch.start + i for i in places],
            [times[i] for i in places],
            known,
            start=plan.a if rules.smaller_offset else 10**9,
            window_ms=rules.window if rules.within_window else 10**9,
        )
        made = _Range(plan, {}, defaultdict(int), [defaultdict(int) for _ in range(BALANCE_PARTITIONS)], [])
        for n, i in enumerate(places):
            if n in skip:
                continue
            offset, subject = batch.start + i, batch.values[i].decode()
            made.events[self.partition, offset] = (keys[n], times[i], subject)
            made.ids.append((keys[n], Sighting(offset, times[i]), known[n]))
            customer = registry.customer_of.get(subject)
            for meter in registry.meters:
                made.usage[meter, subject, times[i] // MINUTE, self.partition, plan.a] += 1
                if customer is not None:
                    made.cells[int(customer[1:]) % BALANCE_PARTITIONS][customer, meter] += 1
        if not rules.rejected_are_not_stored:
            for i, key in enumerate(batch.keys):
                if key is not None and batch.values[i] == b"broken":
                    made.ids.append((key, Sighting(batch.start + i, times[i]), self.store.ids.get(key)))
        self._range = made
        rejected = len(batch.keys) - ticks - len(places)
        return Accounting(len(made.events), len(skip), rejected, ticks)

    def _put_ids(self, plan: Plan) -> Answer:
        assert self._range is not None
        if not self.world.rules.one_write and self.store.reach < plan.end:
            self.store.reach = plan.end  # the process may die before it comes back for the ids
            return Answer.UNCLEAR
        for key, sighting, was in self._range.ids:
            self.store.ids[key] = remembered(was, sighting, plan.a)
        self.store.reach = plan.end
        return Answer.DONE

    def _complete(self, start: int, end: int, floor: int) -> Answer:
        if self._audited_at != self.world.clickhouse.restarts:
            return Answer.RESTARTED
        since = floor - self.world.rules.window
        events = self.world.clickhouse.rows("events") if self.world.rules.complete_store else {}
        for (partition, offset), (key, time, _) in sorted(events.items()):
            if partition == self.partition and start <= offset < end and time >= since:
                self.store.ids[key] = Known(Sighting(offset, time))
        self.store.reach = end
        return Answer.DONE

    def _missing(self, end: int) -> tuple[Plan, ...]:
        """Ranges below `end` that were flushed shortly before ClickHouse restarted, as the deltas tell of them."""
        self._audited_at = self.world.clickhouse.restarts
        found = {
            delta.start: Plan(0, delta.start, delta.end, delta.revision, delta.floor, delta.digest)
            for delta in self.world.kafka.deltas[0]
            if delta.partition == self.partition
            and delta.end <= end
            and (self.partition, delta.start) in self.world.clickhouse.suspects
        }
        return tuple(found[a] for a in sorted(found))


def _say(command: Command) -> str:
    match command:
        case CompareAndSet(expected, new):
            return f"compares {expected.fence}, sets {new.fence} r{new.revision}"
        case Fetch(start, end):
            return f"fetches [{start}, {'...' if end is None else end})"
        case Prepare(plan, _) | InsertFlush(plan) | SendDeltas(plan) | InsertEvents(plan) | InsertUsage(plan):
            return f"{type(command).__name__} [{plan.a}, {plan.end}) r{plan.revision}"
        case PutIds(plan):
            return f"PutIds [{plan.a}, {plan.end})"
        case CompleteStore(start, end):
            return f"completes its store from [{start}, {end})"
    return type(command).__name__
