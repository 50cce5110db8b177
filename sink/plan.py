"""The protocol "plan, insert, advance", free of I/O and of the clock.

`PartitionProtocol.run` is a generator: it yields commands and is sent their answers. The real sink (`sink.partition`)
and the simulator (`tests.simulation`) run this very code. A step whose answer is `UNCLEAR` may have happened, may
happen later, or never: the protocol then reads the fence row again before anything else.

The fence is a row for each (topic, partition), changed only by compare-and-set on (epoch, a, end). Whoever takes the
partition raises the epoch. A row with a < end is a promise: [a, end) is counted as one range, at that revision, from
that ingest time on, whoever does it and however often.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from hashlib import blake2b
from itertools import accumulate
from typing import Any, Final, TypeVar

from metering.domain.errors import ProtocolViolation

T = TypeVar("T")
DIGEST_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """The fence row. `ingest_floor` (ms) is what ingest times of [a, end) are not below; `digest` is of its ids."""

    epoch: int
    a: int
    end: int
    revision: int
    ingest_floor: int
    digest: bytes

    @property
    def fence(self) -> tuple[int, int, int]:
        return self.epoch, self.a, self.end


NO_PLAN: Final = Plan(0, 0, 0, 0, 0, b"")  # stands for a row that is not there


@dataclass(frozen=True, slots=True)
class Batch:
    """The records [start, end) of a partition, in columns. A tick has no key and no value.

    `append_times` are the broker's (ms); they go back when the leader changes.
    """

    start: int
    keys: Sequence[bytes | None]
    append_times: Sequence[int]
    values: Sequence[bytes]

    @property
    def end(self) -> int:
        return self.start + len(self.keys)

    def digest(self) -> bytes:
        """Of the ids, in order."""
        hashed = blake2b(digest_size=DIGEST_BYTES)
        hashed.update(b"".join(b"-" if key is None else b"%d:%b" % (len(key), key) for key in self.keys))
        return hashed.digest()

    def ingest_times(self, floor: int) -> list[int]:
        """The ingest times (ms): the broker's, but never going back within the partition."""
        return list(accumulate(self.append_times, max, initial=floor))[1:]

    def reached(self, floor: int) -> int:
        """The ingest time (ms) that this range reaches."""
        newest = max(self.append_times)
        return max(floor, newest)


@dataclass(frozen=True, slots=True)
class Accounting:
    """What became of each record of a range."""

    counted: int
    duplicate: int
    rejected: int
    ticks: int

    @property
    def total(self) -> int:
        return self.counted + self.duplicate + self.rejected + self.ticks


class Answer(Enum):
    """Answers without a value of their own."""

    DONE = "done"
    REFUSED = "refused"  # compare-and-set: the row was another
    UNCLEAR = "unclear"  # it may have happened, or may happen later
    QUIET = "quiet"  # no record came for some seconds
    RESTARTED = "restarted"  # ClickHouse has restarted and may have lost what was not on its disk


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """Answer: Plan (NO_PLAN if there is no row) | UNCLEAR."""


@dataclass(frozen=True, slots=True)
class CompareAndSet:
    """Write `new` if the row's fence is that of `expected`. Answer: DONE | REFUSED | UNCLEAR."""

    expected: Plan
    new: Plan


@dataclass(frozen=True, slots=True)
class FindMissing:
    """Which ranges below `end` may lack rows. Answer: their plans, in order of offsets | UNCLEAR."""

    end: int


@dataclass(frozen=True, slots=True)
class StoreReach:
    """Up to which offset the dedupe store is complete. Answer: int, 0 for a new or lost store."""


@dataclass(frozen=True, slots=True)
class CompleteStore:
    """Put the ids that `events` has in [start, end), and the reach `end`, into the store.

    Answer: DONE | UNCLEAR | RESTARTED, if ClickHouse has restarted since `FindMissing`, so that ids may be missing.
    """

    start: int
    end: int
    ingest_floor: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Read from `start`: all of [start, end), or what there is if `end` is None. Answer: Batch | QUIET | RESTARTED."""

    start: int
    end: int | None = None


@dataclass(frozen=True, slots=True)
class SendTick:
    """Append a tick to the partition. Answer: DONE | UNCLEAR, which makes no difference."""


@dataclass(frozen=True, slots=True)
class KnownRevision:
    """The newest revision of the registry, asked for after the records were fetched: what they rely on, such as their
    namespace, was committed before they were accepted. Answer: int | UNCLEAR."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Decode, look up, count: make the rows of the range. Answer: Accounting | UNCLEAR."""

    plan: Plan
    batch: Batch


@dataclass(frozen=True, slots=True)
class InsertEvents:
    """Answer: DONE | UNCLEAR, as of all that follow."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class InsertUsage:
    plan: Plan


@dataclass(frozen=True, slots=True)
class InsertFlush:
    plan: Plan
    accounting: Accounting
    reached: int


@dataclass(frozen=True, slots=True)
class SendDeltas:
    """One to each balance partition, empty or not. DONE means all are acknowledged."""

    plan: Plan
    reached: int


@dataclass(frozen=True, slots=True)
class PutIds:
    """Put the range's ids into the store, and its reach with them in the same write."""

    plan: Plan


Command = (
    ReadPlan
    | CompareAndSet
    | FindMissing
    | StoreReach
    | CompleteStore
    | Fetch
    | SendTick
    | KnownRevision
    | Prepare
    | InsertEvents
    | InsertUsage
    | InsertFlush
    | SendDeltas
    | PutIds
)
Steps = Generator[Command, Any, T]


class Fenced(Exception):
    """Another owner has taken the partition."""


class PartitionProtocol:
    """One partition as one owner runs it. Tests override single rules to see that each is needed."""

    def run(self) -> Steps[None]:
        """Take the partition and work on it for good. Ends when fenced; raises ProtocolViolation."""
        try:
            plan = yield from self.take()
            yield from self.recover(plan, plan.a)
            floor = plan.ingest_floor
            if plan.a < plan.end:
                batch = yield from self.fetch_again(plan)
                yield from self.apply(plan, batch)
                floor = batch.reached(floor)
            while True:
                plan, floor = yield from self.next_range(plan, floor)
        except Fenced:
            return

    def next_range(self, plan: Plan, floor: int) -> Steps[tuple[Plan, int]]:
        """One turn after [plan.a, plan.end) is done and reached `floor`: fetch, plan (which advances), insert."""
        batch = yield Fetch(plan.end)
        if batch is Answer.QUIET:
            yield SendTick()
        elif batch is Answer.RESTARTED:
            yield from self.confirm(plan)
            yield from self.recover(plan, plan.end)
        else:
            if batch.start != plan.end:
                raise ProtocolViolation(f"offsets {plan.end} to {batch.start} are gone from Kafka and were not counted")
            known: int = yield from self.until_clear(KnownRevision(), plan)
            new = self.plan_range(plan, batch, floor, known)
            yield from self.swap(plan, new)
            yield from self.apply(new, batch)
            return new, batch.reached(floor)
        return plan, floor

    def plan_range(self, last: Plan, batch: Batch, floor: int, known_revision: int) -> Plan:
        """The plan for `batch`, which follows the range of `last`."""
        revision = max(last.revision, known_revision)
        return Plan(last.epoch, batch.start, batch.end, revision, floor, batch.digest())

    def take(self) -> Steps[Plan]:
        """Raise the epoch. Only a clear answer will do: after an unclear one another sink may have the same epoch."""
        while True:
            row = yield from self.read()
            mine = replace(row, epoch=row.epoch + 1)
            if (yield CompareAndSet(row, mine)) is Answer.DONE:
                return mine

    def recover(self, plan: Plan, end: int) -> Steps[None]:
        """Do ranges below `end` again that ClickHouse has lost, and complete the store up to there."""
        reach: int = yield StoreReach()
        if reach > plan.end:
            raise ProtocolViolation(f"the dedupe store is complete to {reach}, the plan ends at {plan.end}")
        while True:
            missing = yield from self.until_clear(FindMissing(end), plan)
            for lost in missing:
                if (yield from self.complete_store(lost.a, lost.ingest_floor, plan)):
                    yield from self.redo(lost, plan)
                else:
                    break
            else:
                if (yield from self.complete_store(end, plan.ingest_floor, plan)):
                    return

    def redo(self, lost: Plan, plan: Plan) -> Steps[None]:
        """Insert the rows of a range below the plan's again. Its deltas were acknowledged."""
        batch = yield from self.fetch_again(lost)
        lost = replace(lost, digest=batch.digest())
        accounting = yield from self.prepare(lost, batch, plan)
        yield from self.insert(lost, batch, accounting, plan)
        if (yield StoreReach()) < lost.end:
            yield from self.until_clear(PutIds(lost), plan)

    def complete_store(self, end: int, ingest_floor: int, plan: Plan) -> Steps[bool]:
        """Have all ids below `end` in the store that matter from `ingest_floor` on. False if ClickHouse restarted."""
        reach: int = yield StoreReach()
        if reach >= end:
            return True
        answer = yield from self.until_clear(CompleteStore(reach, end, ingest_floor), plan)
        return answer is not Answer.RESTARTED

    def fetch_again(self, plan: Plan) -> Steps[Batch]:
        """The records of a range that was planned before. They must be the same, as far as their digest is known."""
        batch: Batch = yield Fetch(plan.a, plan.end)
        if (batch.start, batch.end) != (plan.a, plan.end) or plan.digest not in {b"", batch.digest()}:
            raise ProtocolViolation(f"the records of [{plan.a}, {plan.end}) are not those that were planned")
        return batch

    def apply(self, plan: Plan, batch: Batch) -> Steps[None]:
        """All that a planned range does, in the order that lets it be done again after any crash."""
        accounting = yield from self.prepare(plan, batch, plan)
        yield from self.insert(plan, batch, accounting, plan)
        yield from self.until_clear(SendDeltas(plan, batch.reached(plan.ingest_floor)), plan)
        yield from self.until_clear(PutIds(plan), plan)

    def prepare(self, plan: Plan, batch: Batch, fence: Plan) -> Steps[Accounting]:
        accounting: Accounting = yield from self.until_clear(Prepare(plan, batch), fence)
        if accounting.total != plan.end - plan.a:
            raise ProtocolViolation(f"[{plan.a}, {plan.end}) has records that are not accounted for: {accounting}")
        return accounting

    def insert(self, plan: Plan, batch: Batch, accounting: Accounting, fence: Plan) -> Steps[None]:
        yield from self.until_clear(InsertEvents(plan), fence)
        yield from self.until_clear(InsertUsage(plan), fence)
        yield from self.until_clear(InsertFlush(plan, accounting, batch.reached(plan.ingest_floor)), fence)

    def until_clear(self, command: Command, fence: Plan) -> Steps[Any]:
        """Repeat `command`, which may be done any number of times, for as long as the partition is ours."""
        while (answer := (yield command)) is Answer.UNCLEAR:
            yield from self.confirm(fence)
        return answer

    def confirm(self, plan: Plan) -> Steps[None]:
        """Raise Fenced if the partition has another owner."""
        self.check_owner((yield from self.read()), plan)

    def swap(self, expected: Plan, new: Plan) -> Steps[None]:
        """Write `new` over `expected`. An unclear write is repeated as it was, until the row tells."""
        while (yield CompareAndSet(expected, new)) is not Answer.DONE:
            row = yield from self.read()
            if row == new:
                return
            self.check_owner(row, expected)

    def check_owner(self, row: Plan, plan: Plan) -> None:
        if row.epoch > plan.epoch:
            raise Fenced
        if row.fence != plan.fence:
            raise ProtocolViolation(f"the fence row went from {plan} to {row}")

    def read(self) -> Steps[Plan]:
        while (row := (yield ReadPlan())) is Answer.UNCLEAR:
            pass
        assert isinstance(row, Plan)
        return row
