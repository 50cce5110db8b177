"""The protocol and its executor with one rule of the design switched off. Each must be seen to fail."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from sink.plan import (
    Accounting,
    Answer,
    Batch,
    Command,
    CompareAndSet,
    Fenced,
    Fetch,
    InsertEvents,
    InsertFlush,
    InsertUsage,
    KnownRevision,
    PartitionProtocol,
    Plan,
    PutIds,
    SendDeltas,
    SendTick,
    Steps,
)
from tests.simulation.loop import Rules


class EpochStays(PartitionProtocol):
    """Taking a partition does not raise the epoch."""

    def take(self) -> Steps[Plan]:
        row = yield from self.read()
        yield CompareAndSet(row, row)
        return row


class UnclearTakeBelieved(PartitionProtocol):
    """After an unclear answer to taking, the row having the epoch asked for is taken as proof."""

    def take(self) -> Steps[Plan]:
        while True:
            row = yield from self.read()
            mine = replace(row, epoch=row.epoch + 1)
            if (yield CompareAndSet(row, mine)) is Answer.DONE:
                return mine
            if (yield from self.read()) == mine:
                return mine


class PlannedAnewAfterUnclear(PartitionProtocol):
    """An unclear plan is taken as not written: the sink fetches again, and plans and counts what it has then."""

    def next_range(self, plan: Plan, floor: int) -> Steps[tuple[Plan, int]]:
        while True:
            batch = yield Fetch(plan.end)
            if not isinstance(batch, Batch):
                yield SendTick()
                return plan, floor
            new = self.plan_range(plan, batch, floor, (yield KnownRevision()))
            answer = yield CompareAndSet(plan, new)
            if answer is Answer.REFUSED:
                row = yield from self.read()
                if row.epoch != plan.epoch:
                    raise Fenced
                answer = Answer.DONE  # "my plan, by one of the tries"
            if answer is Answer.DONE:
                yield from self.apply(new, batch)
                return new, batch.reached(floor)


class UnclearPlanTrusted(PartitionProtocol):
    """An unclear plan is taken as written."""

    def swap(self, expected: Plan, new: Plan) -> Steps[None]:
        if (yield CompareAndSet(expected, new)) is Answer.REFUSED:
            raise Fenced


class PlanNotReplayed(PartitionProtocol):
    """The next owner plans [a, ...) anew instead of doing [a, end) again."""

    def take(self) -> Steps[Plan]:
        plan = yield from super().take()
        again = replace(plan, end=plan.a)
        yield from self.swap(plan, again)
        return again


class PlanSkipped(PartitionProtocol):
    """The next owner takes [a, end) as done."""

    def run(self) -> Steps[None]:
        try:
            plan = yield from self.take()
            yield from self.recover(plan, plan.end)
            floor = plan.ingest_floor
            while True:
                plan, floor = yield from self.next_range(plan, floor)
        except Fenced:
            return


class ReplayAtNewestRevision(PartitionProtocol):
    """A range is done again at the newest revision instead of its own."""

    def fetch_again(self, plan: Plan) -> Steps[Batch]:
        self.newest = yield KnownRevision()
        return (yield from super().fetch_again(plan))

    def apply(self, plan: Plan, batch: Batch) -> Steps[None]:
        revision = max(plan.revision, getattr(self, "newest", 0))
        yield from super().apply(replace(plan, revision=revision), batch)


class RevisionGoesBack(PartitionProtocol):
    """A plan takes the revision that its sink knows, though the last plan's was higher."""

    def plan_range(self, last: Plan, batch: Batch, floor: int, known_revision: int) -> Plan:
        return replace(super().plan_range(last, batch, floor, known_revision), revision=known_revision)


class FloorForgotten(PartitionProtocol):
    """Ingest times may go back from one range to the next."""

    def plan_range(self, last: Plan, batch: Batch, floor: int, known_revision: int) -> Plan:
        return super().plan_range(last, batch, 0, known_revision)


class OnceIsEnough(PartitionProtocol):
    """What was unclear is not repeated."""

    once: tuple[type[Command], ...] = ()

    def until_clear(self, command: Command, fence: Plan) -> Steps[object]:
        if isinstance(command, self.once):
            return (yield command)
        return (yield from super().until_clear(command, fence))


class EventsOnce(OnceIsEnough):
    once = (InsertEvents,)


class UsageOnce(OnceIsEnough):
    once = (InsertUsage,)


class FlushOnce(OnceIsEnough):
    once = (InsertFlush,)


class DeltasOnce(OnceIsEnough):
    once = (SendDeltas,)


class AdvanceBeforeDeltas(PartitionProtocol):
    """The next range is planned before the deltas of this one are acknowledged."""

    late: SendDeltas | None = None

    def apply(self, plan: Plan, batch: Batch) -> Steps[None]:
        accounting = yield from self.prepare(plan, batch, plan)
        yield from self.insert(plan, batch, accounting, plan)
        yield from self.until_clear(PutIds(plan), plan)
        self.late = SendDeltas(plan, batch.reached(plan.ingest_floor))

    def swap(self, expected: Plan, new: Plan) -> Steps[None]:
        yield from super().swap(expected, new)
        if self.late is not None:
            yield from self.until_clear(self.late, new)


class FlushBeforeUsage(PartitionProtocol):
    """A range is in `flushes`, where bills look whether it is there, before its rows are in `usage`."""

    def insert(self, plan: Plan, batch: Batch, accounting: Accounting, fence: Plan) -> Steps[None]:
        yield from self.until_clear(InsertEvents(plan), fence)
        yield from self.until_clear(InsertFlush(plan, accounting, batch.reached(plan.ingest_floor)), fence)
        yield from self.until_clear(InsertUsage(plan), fence)


class InsertBeforePlan(PartitionProtocol):
    """Rows are inserted before the range is planned."""

    def next_range(self, plan: Plan, floor: int) -> Steps[tuple[Plan, int]]:
        batch = yield Fetch(plan.end)
        if not isinstance(batch, Batch):
            yield SendTick()
            return plan, floor
        new = self.plan_range(plan, batch, floor, (yield KnownRevision()))
        accounting = yield from self.prepare(new, batch, plan)
        yield from self.insert(new, batch, accounting, plan)
        yield from self.swap(plan, new)
        yield from self.until_clear(SendDeltas(new, batch.reached(floor)), new)
        yield from self.until_clear(PutIds(new), new)
        return new, batch.reached(floor)


class IdsNeverPut(PartitionProtocol):
    """The store's reach moves on without the ids."""

    def apply(self, plan: Plan, batch: Batch) -> Steps[None]:
        accounting = yield from self.prepare(plan, batch, plan)
        yield from self.insert(plan, batch, accounting, plan)
        yield from self.until_clear(SendDeltas(plan, batch.reached(plan.ingest_floor)), plan)


@dataclass(frozen=True, slots=True)
class Variant:
    rules: Rules = field(default_factory=Rules)
    protocol: Callable[[], PartitionProtocol] = PartitionProtocol


VARIANTS = {
    protocol.__name__: Variant(protocol=protocol)
    for protocol in (
        EpochStays,
        UnclearTakeBelieved,
        PlannedAnewAfterUnclear,
        UnclearPlanTrusted,
        PlanNotReplayed,
        PlanSkipped,
        ReplayAtNewestRevision,
        RevisionGoesBack,
        FloorForgotten,
        EventsOnce,
        UsageOnce,
        FlushOnce,
        DeltasOnce,
        AdvanceBeforeDeltas,
        FlushBeforeUsage,
        InsertBeforePlan,
        IdsNeverPut,
    )
} | {
    f"without {rule}": Variant(rules=replace(Rules(), **{rule: False}))
    for rule in (
        "keyed",
        "compare",
        "smaller_offset",
        "within_window",
        "rejected_are_not_stored",
        "one_write",
        "complete_store",
        "find_missing",
        "ingest_never_back",
        "ticks",
    )
}
