"""A world in which the rules of balances run: sinks, topics, Postgres and ClickHouse as plain lists, and a seeded
scheduler that crashes, pauses, repeats, loses and lags. The book, the log and the records are the real ones.

Every `yield` is a moment at which anything else may happen. `off` names the rule that is switched off.
"""

import random
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from metering.domain.balance import Record, Vector, joined, value
from metering.domain.balance_book import Book, Change, Key, Task
from metering.domain.balance_log import BalanceLog
from metering.domain.burndown import Balance, value_at
from metering.domain.consumption import Point, add, minute_of
from metering.domain.entitlement import Entitlement, Grant
from metering.domain.meter import Aggregation
from metering.domain.period import Interval
from metering.kafka.wire import Cell, Delta

START = datetime(2031, 2, 1, tzinfo=UTC)
SOURCES = 2
RANGES = 6
SUBJECTS = ("s1", "s2", "shared")
RULES = ("skip", "gap", "floor", "waiting", "whole", "acked", "order", "epoch", "mark", "revision", "late", "other")


@dataclass(frozen=True)
class Event:
    subject: str
    minute: int
    amount: int


@dataclass(frozen=True)
class Range:
    partition: int
    start: int
    end: int
    revision: int
    events: tuple[Event, ...]


@dataclass(frozen=True)
class Written:
    """A record of the balances topic: `key` None is a mark of the epoch, or of what was passed if it has a vector."""

    epoch: int
    key: Key | None
    record: Record | None = None
    passed: Vector | None = None


class Broken(AssertionError):
    """What must not be."""


class LooseLog(BalanceLog):  # type: ignore[type-arg]
    """Without the rule of epochs."""

    def admits(self, epoch: int) -> bool:
        self.epoch = max(self.epoch, epoch)
        return True


class LooseBook(Book):
    """The book with one rule switched off."""

    off = ""

    @property
    def is_whole(self) -> bool:
        return self.off == "whole" or super().is_whole

    def take_delta(self, delta) -> None:
        q = delta.partition
        if self.off == "skip" and delta.end <= self.passed[q]:
            self.passed = (*self.passed[:q], delta.start, *self.passed[q + 1 :])
            for key, record in self.records.items():
                if record.vector[q] > delta.start:
                    vector = (*record.vector[:q], delta.start, *record.vector[q + 1 :])
                    self.records[key] = replace(record, vector=vector)
        super().take_delta(delta)
        if self.off == "late":
            self._stale.clear()

    def _meet_gap(self, delta) -> None:
        if self.off != "gap":
            super()._meet_gap(delta)

    def _add(self, key, delta, cells) -> None:
        if self.off == "waiting" and key in self._held:
            return
        super()._add(key, delta, cells)

    def hold(self, limit):
        tasks = super().hold(limit)
        if self.off == "floor":
            for task in tasks:
                self._held[task.key].task = replace(task, floor=(0,) * SOURCES)
        return tasks

    def _is_current(self, change) -> bool:
        return self.off == "revision" or super()._is_current(change)


def an_entitlement(customer: str, subjects: tuple[str, ...], revision: int) -> Entitlement:
    return Entitlement(
        id=customer, namespace="n", customer_id=customer, feature_key="f", meter_key="M.1", aggregation=Aggregation.SUM,
        dimensions=(), filters=(), subjects=subjects, revision=revision, measure_usage_from=START,
        interval=Interval.parse("DAY"), anchor=START, active_from=START, preserve_overage_at_reset=True,
        grants=(Grant("g", Decimal(50), START, START, max_rollover=Decimal(50)),),
    )  # fmt: skip


KEYS = {customer: Key("n", customer, "f") for customer in ("C1", "C2")}


@dataclass
class World:
    seed: int
    off: str = ""
    now: datetime = START
    log: list[str] = field(default_factory=list)
    ranges: list[list[Range]] = field(default_factory=lambda: [[] for _ in range(SOURCES)])
    stored: list[int] = field(default_factory=lambda: [0] * SOURCES)  # usage rows written, in ranges
    flushed: list[int] = field(default_factory=lambda: [0] * SOURCES)
    deltas: list[Delta] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    balances: list[Written] = field(default_factory=list)
    epoch: int = 0
    committed: int = 0
    owners: dict[str, list[Iterator[str]]] = field(default_factory=dict)
    attribution: list[dict[str, str]] = field(default_factory=list)  # by revision, from 1 on
    sequence: int = 0
    moved: bool = False
    calm: bool = False
    reader: BalanceLog | None = None
    read: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.attribution = [{}, {"s1": "C1", "shared": "C1", "s2": "C2"}]
        self.entitlements = {"C1": ("s1", "shared"), "C2": ("s2",)}
        self.is_moving = self.rng.random() < 0.5
        self.is_losing = self.rng.random() < 0.3
        for customer in self.entitlements:
            self.announce(customer, 1)

    def say(self, what: str) -> None:
        self.log.append(what)

    # --- registry and sinks ---------------------------------------------------------------------------------------

    def announce(self, customer: str, revision: int) -> None:
        self.sequence += 1
        entitlement = an_entitlement(customer, self.entitlements[customer], revision)
        self.changes.append(Change(self.sequence, KEYS[customer], entitlement))

    def move(self) -> None:
        self.moved = True
        self.attribution.append({"s1": "C1", "shared": "C2", "s2": "C2"})
        self.entitlements = {"C1": ("s1",), "C2": ("s2", "shared")}
        self.say("registry 2: shared moves from C1 to C2")
        for customer in self.entitlements:
            self.announce(customer, 2)

    def sink(self, q: int) -> Iterator[str]:
        amount = q + 1
        while len(self.ranges[q]) < RANGES or (self.calm and self.revision_of(q) < len(self.attribution) - 1):
            events = []
            for _ in range(0 if self.calm else self.rng.randint(0, 2)):
                age = self.rng.choice([0, 0, 0, 5, 60, 1500, 3000])
                minute = max(minute_of(START), minute_of(self.now) - age)
                events.append(Event(self.rng.choice(SUBJECTS), minute, self.rng.randint(1, 9)))
                amount += SOURCES
            start = self.ranges[q][-1].end if self.ranges[q] else 0
            newest = len(self.attribution) - 1
            revision = newest if self.calm else self.rng.randint(max(1, self.revision_of(q)), newest)
            mine = Range(q, start, start + max(1, len(events)), revision, tuple(events))
            self.ranges[q].append(mine)
            yield f"sink {q}: usage [{mine.start},{mine.end}) at revision {revision}: {events}"
            self.stored[q] += 1
            yield f"sink {q}: flushes [{mine.start},{mine.end})"
            self.flushed[q] += 1
            if self.is_losing and not self.calm and self.rng.random() < 0.2:
                yield f"sink {q}: delta [{mine.start},{mine.end}) is lost"
            else:
                yield f"sink {q}: delta [{mine.start},{mine.end})"
                self.deltas.append(self.delta_of(mine))

    def revision_of(self, q: int) -> int:
        return self.ranges[q][-1].revision if self.ranges[q] else 0

    def delta_of(self, r: Range) -> Delta:
        owners = self.attribution[r.revision]
        cells = [
            Cell("n", owners[e.subject], "M.1", (), e.minute, 1, 1, Decimal(e.amount), None, None, None, 0, 0, ())
            for e in r.events
        ]
        return Delta(r.partition, r.start, r.end, 1, r.revision, 0, cells)

    # --- ClickHouse -----------------------------------------------------------------------------------------------

    def coverage(self) -> tuple[Vector, list[int]]:
        """A replica may lag."""
        seen = [n if self.calm or self.rng.random() < 0.7 else self.rng.randint(0, n) for n in self.flushed]
        last = [self.ranges[q][n - 1] if n else None for q, n in enumerate(seen)]
        return tuple(r.end if r else 0 for r in last), [r.revision if r else 0 for r in last]

    def usage(self, subjects: tuple[str, ...], w: Vector) -> dict[int, Point]:
        found: dict[int, Point] = {}
        for q in range(SOURCES):
            for r in self.ranges[q][: self.stored[q]]:
                for e in r.events if r.start < w[q] else ():
                    if e.subject in subjects:
                        add(found, e.minute, Decimal(e.amount))
        return found

    # --- owners ---------------------------------------------------------------------------------------------------

    def replay(self) -> BalanceLog:
        return self.follow((LooseLog if self.off == "epoch" else BalanceLog)(), 0)

    def follow(self, log: BalanceLog, since: int) -> BalanceLog:
        for written in self.balances[since:]:
            if written.record is not None:
                log.take_record(written.epoch, written.key, written.record)
            elif written.passed is not None:
                log.take_passed(written.epoch, written.passed)
            else:
                log.admits(written.epoch)
        return log

    def owner(self, name: str) -> Iterator[str]:
        while True:  # a process that finds that it has lost ends, and is started again
            yield from self.owning(name)
            del self.owners[name][1:]

    def owning(self, name: str) -> Iterator[str]:
        self.epoch += 1
        epoch = self.epoch
        yield f"{name}: takes epoch {epoch}"
        if self.off == "mark":
            log = self.replay()
            yield f"{name}: reads the topic"
        self.balances.append(Written(epoch, None))
        last = len(self.balances) - 1
        yield f"{name}: marks epoch {epoch}"
        if self.off != "mark":
            log = self.replay()
        if log.epoch > epoch:
            yield f"{name}: sees epoch {log.epoch}, ends"
            return
        book = LooseBook(SOURCES, dict(log.records), log.passed)
        book.off = self.off
        book.rewrite(log.displaced)
        position, changes = self.committed, 0
        yield f"{name}: reads {len(log.records)} records, passed {book.passed}, input from {position}"
        self.owners[name].append(self.computing(name, book))
        while True:
            taken = min(self.rng.randint(0, 3), len(self.deltas) - position)
            for delta in self.deltas[position : position + taken]:
                book.take_delta(delta)
            position += taken
            seen = self.rng.randint(changes, len(self.changes))
            for change in self.changes[changes:seen]:
                book.take_change(change)
            changes = seen
            yield f"{name}: takes {taken} deltas up to {position}, changes up to {changes}; passed {book.passed}"
            is_whole, acked = book.is_whole, position
            if self.off == "acked" and is_whole:
                self.committed = acked
                yield f"{name}: commits {acked}"
            last = yield from self.writing(name, epoch, book, last)
            if last < 0:
                yield f"{name}: has lost its partition, ends"
                return
            if is_whole:
                self.committed = acked
                yield f"{name}: commits {acked}"

    def writing(self, name: str, epoch: int, book: Book, last: int) -> Generator[str, None, int]:
        """Returns the offset of the last record of its own, or -1 if somebody has taken the partition from it."""
        records = [Written(epoch, key, record) for key, record in book.unwritten(self.now)]
        if book.is_whole:
            mark = Written(epoch, None, passed=book.passed)
            records = [mark, *records] if self.off == "order" else [*records, mark]
        mine = last
        for written in records:
            self.balances.append(written)
            mine = len(self.balances) - 1
            yield f"{name}: writes {written.key or 'passed'} {written.record.vector if written.record else written.passed}"
        if mine != last + len(records) and self.off != "other":
            log = self.replay()
            if log.epoch > epoch:
                return -1
            book.rewrite(log.displaced)
        return mine

    def computing(self, name: str, book: Book) -> Iterator[str]:
        while True:
            tasks: list[Task] = book.held() or book.hold(2)
            if not tasks:
                yield ""
                continue
            yield f"{name}: holds {[t.key.customer for t in tasks]}, floors {[t.floor for t in tasks]}"
            w, revisions = self.coverage()
            book.reached(w, revisions)
            yield f"{name}: sees W = {w} at revisions {revisions}"
            usages = [self.usage(task.entitlement.subjects, w) for task in tasks]
            yield f"{name}: has read usage below {w}"
            for task, usage in zip(tasks, usages, strict=True):
                done = book.install(task, w, usage, self.now)
                yield f"{name}: {task.key.customer} {'installed' if done else 'refused'}"

    # --- the scheduler --------------------------------------------------------------------------------------------

    def run(self) -> None:
        sinks = {f"sink{q}": self.sink(q) for q in range(SOURCES)}
        crashes, zombies, repeats, idle = 3, 2, 4, 0
        current = self.take_over(1)
        while sinks or idle < 60:
            idle = 0 if sinks else idle + 1
            chance = self.rng.random()
            if chance < 0.4 and sinks:
                self.step_sink(sinks)
            elif chance < 0.43 and crashes:
                crashes -= 1
                self.say(f"{current} crashes")
                del self.owners[current]
                current = self.take_over(self.epoch + 1)
            elif chance < 0.45 and zombies:
                zombies -= 1
                self.say(f"{current} lost its partition and does not know")
                current = self.take_over(self.epoch + 1)
            elif chance < 0.48 and repeats and self.deltas:
                repeats -= 1
                self.deltas.append(self.rng.choice(self.deltas))
                self.say(f"a zombie sink sends {self.deltas[-1].partition}:{self.deltas[-1].start} again")
            elif chance < 0.5 and self.is_moving and not self.moved:
                self.move()
            elif chance < 0.56:
                self.now += timedelta(minutes=self.rng.choice([1, 30, 600]))
                self.say(f"it is {self.now:%d %H:%M}")
            else:
                self.step_owner()
            self.check()
        self.settle(current)

    def settle(self, current: str) -> None:
        """Everything heals: the last owner goes on alone, and all must be right."""
        self.calm = True
        if self.is_moving and not self.moved:
            self.move()
        for q in range(SOURCES):
            for each in self.sink(q):
                self.say(each)
        # A delta that was lost is noticed with the next one.
        for q in range(SOURCES):
            last = self.ranges[q][-1].end
            self.ranges[q].append(Range(q, last, last + 1, self.revision_of(q), ()))
            self.stored[q] += 1
            self.flushed[q] += 1
            self.deltas.append(self.delta_of(self.ranges[q][-1]))
        self.say("calm")
        if self.rng.random() < 0.5:
            del self.owners[current]
            current = self.take_over(self.epoch + 1)
        self.owners = {current: self.owners[current]}
        for _ in range(400):
            self.step_owner()
        self.check()
        self.check_end()

    def take_over(self, number: int) -> str:
        name = f"owner{number}.{len(self.log)}"
        self.owners[name] = []
        self.owners[name].append(self.owner(name))
        return name

    def step_owner(self) -> None:
        name = self.rng.choice(list(self.owners))
        said = next(self.rng.choice(self.owners[name]))
        if said:
            self.say(said)

    def step_sink(self, sinks: dict[str, Iterator[str]]) -> None:
        name = self.rng.choice(list(sinks))
        said = next(sinks[name], None)
        if said is None:
            del sinks[name]
        else:
            self.say(said)

    # --- what must hold -------------------------------------------------------------------------------------------

    def expected(self, subjects: tuple[str, ...], vector: Vector | None, at: datetime) -> Balance:
        usage: dict[int, Point] = {}
        for q in range(SOURCES):
            for r in self.ranges[q]:
                for e in r.events if vector is None or r.end <= vector[q] else ():
                    if e.subject in subjects:
                        add(usage, e.minute, Decimal(e.amount))
        return value_at(an_entitlement("", subjects, 1), usage, at)

    def check(self) -> None:
        """What a reader sees of a balance is exactly the usage below the vector that it sees, always."""
        if self.moved or self.read == len(self.balances):
            return
        log = self.reader = self.follow(self.reader or (LooseLog if self.off == "epoch" else BalanceLog)(), self.read)
        self.read = len(self.balances)
        for key, record in log.records.items():
            vector = joined(record.vector, log.passed)
            found = value(record, self.now)
            if found != (right := self.expected(record.entitlement.subjects, vector, self.now)):
                raise Broken(f"{key.customer} at {vector}: {found}, not {right}")

    def check_end(self) -> None:
        log = self.replay()
        ends = tuple(ranges[-1].end for ranges in self.ranges)
        for customer, subjects in self.entitlements.items():
            record = log.records.get(KEYS[customer])
            if record is None:
                raise Broken(f"{customer} has no balance in the end")
            if joined(record.vector, log.passed) != ends:
                raise Broken(f"{customer} is at {joined(record.vector, log.passed)} in the end, not at {ends}")
            if (found := value(record, self.now)) != (right := self.expected(subjects, None, self.now)):
                raise Broken(f"{customer} in the end: {found}, not {right}")


def simulate(seed: int, off: str = "") -> World:
    """Run one seed; raises Broken with the schedule that led there."""
    world = World(seed, off)
    try:
        world.run()
    except Broken as broken:
        raise Broken("\n".join([f"seed {seed}: {broken}", *world.log])) from None
    return world
