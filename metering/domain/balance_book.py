"""All balances of one balance partition and the rules by which they change; without I/O, so the simulator runs it too.

- `passed` is the vector of the partition: a record that is neither stale nor held is at the join of its own vector and
  this one. A delta at or below that is skipped; one that starts above it is a gap, and the record becomes stale.
- A stale record, or one whose entitlement changed, is computed anew: it is *held* first, then the source is asked for W
  and the usage below it, then it is installed. While it is held its deltas wait; it is installed only if W is at or
  above what it had passed when it was held, and then takes the waiting deltas that W does not cover.
- While any record is stale or held, `passed` is not published and the input is not committed (`is_whole`).
- A change of attribution holds from a registry revision on: nothing is computed for it before every source partition
  has reached that revision.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import NamedTuple, Protocol, assert_never

from metering.domain.balance import (
    BALANCED,
    Cell,
    Late,
    Record,
    Vector,
    computed,
    covers,
    gone,
    joined,
    merged,
    settled,
    tidied,
    usage_of,
)
from metering.domain.consumption import Usage
from metering.domain.entitlement import Entitlement


class Key(NamedTuple):
    """What a balance is of."""

    namespace: str
    customer: str
    feature: str


class Delta(Protocol):
    """What a range [start, end) of a source partition adds (`metering.kafka.wire.Delta`)."""

    @property
    def partition(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def revision(self) -> int: ...
    @property
    def cells(self) -> Sequence[Cell]: ...


@dataclass(frozen=True, slots=True)
class Change:
    """The newest state of an entitlement; None: there is none any more."""

    sequence: int
    key: Key
    entitlement: Entitlement | None


@dataclass(frozen=True, slots=True)
class Task:
    """A record to compute: usage of `entitlement` below a W that is at or above `floor` everywhere."""

    key: Key
    sequence: int
    entitlement: Entitlement
    floor: Vector


@dataclass(slots=True)
class _Hold:
    task: Task
    waiting: list[tuple[int, int, int, Usage]] = field(default_factory=list)
    """(partition, start, end, what it adds) of each delta since that adds something."""


@dataclass(slots=True)
class Book:
    """The records of one balance partition, fed with deltas and changes in the order of their topics."""

    sources: int
    records: dict[Key, Record] = field(default_factory=dict)
    passed: Vector = ()
    waiting_minutes: int = 0
    """How much usage waits for held records, to bound it."""
    _revisions: list[int] = field(default_factory=list)
    _reached: Vector = ()
    _by_customer: dict[tuple[str, str], dict[Key, None]] = field(default_factory=dict)
    _wanted: dict[Key, Change] = field(default_factory=dict)
    _stale: dict[Key, None] = field(default_factory=dict)
    _held: dict[Key, _Hold] = field(default_factory=dict)
    _dirty: dict[Key, None] = field(default_factory=dict)
    # Dictionaries stand for sets: their order is that of what happened, so a simulated schedule repeats.

    def __post_init__(self) -> None:
        self.passed = joined(self.passed, (0,) * self.sources)
        self._revisions = [0] * self.sources
        for key in self.records:
            self._index(key)

    @property
    def is_whole(self) -> bool:
        """Whether every record is at `passed` at least."""
        return not self._held and not self._stale

    @property
    def has_work(self) -> bool:
        """Whether a record could be held and computed now."""
        return next(self._computable(), None) is not None

    def take_delta(self, delta: Delta) -> None:
        """Apply what a range adds to the records that have not passed it."""
        q, at = delta.partition, self.passed[delta.partition]
        self._revisions[q] = max(self._revisions[q], delta.revision)
        if delta.end <= at:
            return
        if delta.start != at:
            self._meet_gap(delta)
        by_customer: dict[tuple[str, str], list[Cell]] = {}
        for cell in delta.cells:
            customer = cell.namespace, cell.customer
            if customer in self._by_customer:
                by_customer.setdefault(customer, []).append(cell)
        for customer, cells in by_customer.items():
            for key in self._by_customer[customer]:
                self._add(key, delta, cells)
        self.passed = joined(self.passed, _unit(q, delta.end))

    def take_change(self, change: Change) -> None:
        """Note what an entitlement has become. What is older than what is known is ignored.

        On a meter whose values do not add up to a balance (features refuse those) there is none.
        """
        key = change.key
        record, wanted = self.records.get(key), self._wanted.get(key)
        if record is not None and change.sequence <= record.sequence:
            return
        if wanted is not None and change.sequence <= wanted.sequence:
            return
        if change.entitlement is not None and change.entitlement.aggregation in BALANCED:
            self._wanted[key] = change
            return
        self._wanted.pop(key, None)
        self._release(key)
        self._stale.pop(key, None)
        self._put(key, gone(change.sequence, self.passed))

    def reached(self, w: Vector, revisions: Sequence[int]) -> None:
        """The source partitions have flushed up to `w`, the last range of each at this revision of the registry.

        A later answer may know less, from a replica that lags; nothing is computed from less than was seen once.
        """
        self._reached = joined(self._reached, w)
        self._revisions = [max(one, other) for one, other in zip(self._revisions, revisions, strict=True)]

    def hold(self, limit: int) -> list[Task]:
        """Hold up to `limit` records that are to be computed, and say what that takes. The source is asked after it."""
        tasks = []
        for key in islice(self._computable(), limit):
            change, record = self._wanted.get(key), self.records.get(key)
            if change is not None and change.entitlement is not None and self._is_current(change):
                sequence, entitlement = change.sequence, change.entitlement
            else:
                assert record is not None
                assert record.entitlement is not None
                sequence, entitlement = record.sequence, record.entitlement
            floor = joined(self._reached, self.passed)
            floor = joined(floor, record.vector) if record else floor
            tasks.append(Task(key, sequence, entitlement, floor))
        for task in tasks:
            self._held[task.key] = _Hold(task)
            self._stale.pop(task.key, None)
            self._index(task.key)
        return tasks

    def held(self) -> list[Task]:
        """The records that are held, with what they take now."""
        return [hold.task for hold in self._held.values()]

    def install(self, task: Task, w: Vector, usage: Usage, now: datetime) -> bool:
        """Put the record computed from `usage`, all of it below `w`, in place.

        False: `w` was too old; the record stays held, and `held` says what it takes now.
        """
        hold = self._held.get(task.key)
        if hold is None or hold.task.sequence != task.sequence:
            return True  # the entitlement ended meanwhile
        if not covers(w, hold.task.floor):
            return False
        record = computed(task.sequence, task.entitlement, usage, w)
        for q, start, end, extra in hold.waiting:
            if end <= w[q]:
                continue
            if start < w[q]:  # only half of the range is below w: wait for the other
                self._raise_floor(hold, q, end)
                return False
            after = merged(record, extra)
            assert isinstance(after, Record)  # nothing is older than the start of measurement
            record = after
        self._release(task.key)
        self._put(task.key, settled(replace(record, vector=joined(w, self.passed)), now))
        wanted = self._wanted.get(task.key)
        if wanted is not None and wanted.sequence <= task.sequence:
            del self._wanted[task.key]
        return True

    def rewrite(self, keys: Iterable[Key]) -> None:
        """Have these records written again as they are."""
        self._dirty.update((key, None) for key in sorted(keys) if key in self.records)

    def unwritten(self, now: datetime) -> list[tuple[Key, Record]]:
        """The records changed since the last call, but for stale and held ones; their vectors are brought up."""
        ready = [key for key in self._dirty if key not in self._held and key not in self._stale]
        changed = []
        for key in ready:
            del self._dirty[key]
            record = self.records[key]
            record = self.records[key] = tidied(replace(record, vector=joined(record.vector, self.passed)), now)
            changed.append((key, record))
        return changed

    def _meet_gap(self, delta: Delta) -> None:
        """A range that does not start where the last one ended can't be merged into any record that it is news to."""
        q = delta.partition
        for key, record in self.records.items():
            at = max(record.vector[q], self.passed[q])
            if record.entitlement is not None and delta.end > at != delta.start and key not in self._held:
                self._stale[key] = None
        for hold in self._held.values():  # what lies between can only come from the source
            self._raise_floor(hold, q, delta.start if delta.start > self.passed[q] else delta.end)

    def _add(self, key: Key, delta: Delta, cells: Sequence[Cell]) -> None:
        q = delta.partition
        if (hold := self._held.get(key)) is not None:
            extra = usage_of(hold.task.entitlement, cells, q)
            if extra:
                hold.waiting.append((q, delta.start, delta.end, extra))
                self.waiting_minutes += len(extra)
            return
        record = self.records[key]
        if key in self._stale or record.entitlement is None or record.vector[q] >= delta.end:
            return
        extra = usage_of(record.entitlement, cells, q)
        if not extra:
            return
        after = Late(min(extra)) if record.vector[q] > delta.start else merged(record, extra)
        match after:
            case Late():
                self._stale[key] = None
            case Record():
                self.records[key] = after
                self._dirty[key] = None
            case _:
                assert_never(after)

    def _computable(self) -> Iterator[Key]:
        for key in self._stale:
            yield key
        for key, change in self._wanted.items():
            if key not in self._held and key not in self._stale and self._is_current(change):
                yield key

    def _is_current(self, change: Change) -> bool:
        return change.entitlement is not None and change.entitlement.revision <= min(self._revisions)

    def _raise_floor(self, hold: _Hold, q: int, offset: int) -> None:
        hold.task = replace(hold.task, floor=joined(hold.task.floor, _unit(q, offset)))

    def _put(self, key: Key, record: Record) -> None:
        self.records[key] = record
        self._dirty[key] = None
        self._index(key)

    def _index(self, key: Key) -> None:
        self._by_customer.setdefault((key.namespace, key.customer), {})[key] = None

    def _release(self, key: Key) -> None:
        hold = self._held.pop(key, None)
        if hold is not None:
            self.waiting_minutes -= sum(len(extra) for *_, extra in hold.waiting)


def _unit(q: int, offset: int) -> Vector:
    """A vector with only one component."""
    return (*(0,) * q, offset)
