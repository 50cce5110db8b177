"""The balance of a metered entitlement, as a pure fold: (snapshot, entitlement, usage by minute) -> snapshot.

Time is cut into phases at every boundary: a grant starts, recurs, expires or is voided, a usage period ends, the
entitlement is reset. Within a phase only the sum of the usage matters. At a boundary, in this order: what ends is gone;
at a reset or the end of a period each active grant is rolled over; what starts or recurs has its full amount; overage
that a reset keeps is paid. Usage that no grant covers is debt; later phases of the same period pay it first.

Usage may be negative (a correction): it lowers the debt, then is given back to the grants in reverse burn order, up to
what the period has burnt; the rest stays as negative debt, which the period's next usage uses up.

Usage of a LATEST meter is a gauge: grants are limits and keep their capacity, and the balance is their sum less the
period's latest value. A boundary happens at its instant; usage up to an instant is that of the minutes begun before it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Final

from metering.domain.consumption import EXACT, Latest, Point, Usage, minute_ceiling, minute_of
from metering.domain.entitlement import Entitlement, Grant, Reset
from metering.domain.errors import InvalidInput
from metering.domain.grant import NEVER, in_burn_order, is_active, next_change, recurs_at, rolled_over
from metering.domain.meter import Aggregation
from metering.domain.period import boundary, index_at

#: A fold crosses at most so many boundaries: an hourly recurrence over ten years.
BOUNDARIES_MAX: Final = 100_000
ZERO: Final = Decimal(0)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state right after the boundary at `at`, before the usage of the phase that starts there.

    `balances` holds the active grants. `debt` is the overage, or if negative what is yet to be given back. `usage` and
    `covered` (what grants paid) are those of the usage period since `period_start`; so are `seen` and `latest`.
    """

    at: datetime
    period_start: datetime
    balances: Mapping[str, Decimal]
    debt: Decimal = ZERO
    covered: Decimal = ZERO
    usage: Decimal = ZERO
    seen: frozenset[bytes] = frozenset()
    latest: Latest | None = None


@dataclass(frozen=True, slots=True)
class Balance:
    """What is left at an instant, as the value endpoint says it. Amounts in the meter's unit."""

    has_access: bool
    balance: Decimal
    usage: Decimal
    overage: Decimal
    total_available: Decimal
    grant_balances: Mapping[str, Decimal]


@dataclass(frozen=True, slots=True)
class Crossing:
    """What a boundary did, for the books: granted + overage = used + left + expired + voided + forfeited.

    `forgiven` is debt dropped by a reset, `forfeited` what a rollover or a recurrence took away.
    """

    at: datetime
    is_reset: bool
    granted: Decimal = ZERO
    expired: Decimal = ZERO
    voided: Decimal = ZERO
    forfeited: Decimal = ZERO
    forgiven: Decimal = ZERO
    balances: Mapping[str, Decimal] = field(default_factory=dict)
    """The active grants' balances after all this, before kept overage is paid."""


def period_of(entitlement: Entitlement, at: datetime) -> tuple[datetime, datetime]:
    """The usage period [start, end) that holds `at`; before measurement starts, the first one."""
    at = max(at, entitlement.measure_usage_from)
    last = _last_reset(entitlement, at)
    start, anchor = (last.effective_at, last.anchor) if last else (entitlement.measure_usage_from, entitlement.anchor)
    start = max(start, boundary(anchor, entitlement.interval, index_at(anchor, entitlement.interval, at)))
    return start, _next_reset(entitlement, at)[0]


def next_boundary(entitlement: Entitlement, after: datetime) -> datetime:
    """The next instant later than `after` at which a phase ends. There always is one."""
    changes = (next_change(grant, after) for grant in entitlement.grants)
    return min(_next_reset(entitlement, after)[0], *changes, NEVER)


def opening(entitlement: Entitlement) -> Snapshot:
    """The state when the measurement of usage starts: every grant active then is full."""
    at = entitlement.measure_usage_from
    return Snapshot(at, at, {grant.id: grant.amount for grant in entitlement.grants if is_active(grant, at)})


def advance(snapshot: Snapshot, entitlement: Entitlement, usage: Usage, to: datetime) -> Snapshot:
    """The state after the last boundary at or before `to`; `usage` before it is in the result and needed no more.

    Raises InvalidInput if more than BOUNDARIES_MAX boundaries lie in between.
    """
    fold = Fold(entitlement, usage, snapshot)
    for _ in fold.cross_until(to):
        pass
    return fold.snapshot()


def value_at(entitlement: Entitlement, usage: Usage, at: datetime, snapshot: Snapshot | None = None) -> Balance:
    """The balance at `at`. `usage` holds every minute since the snapshot, without one since measurement starts.

    The minute that holds `at` counts. Before measurement starts nothing is granted. Whether the entitlement is active
    at `at` is the caller's question. Raises InvalidInput if `at` lies before the snapshot or too far ahead.
    """
    if at < entitlement.measure_usage_from:
        return Balance(entitlement.is_soft_limit, ZERO, ZERO, ZERO, ZERO, {})
    fold = Fold(entitlement, usage, snapshot)
    for _ in fold.cross_until(at):
        pass
    fold.consume(minute_ceiling(at))
    return fold.balance()


@dataclass(slots=True)
class Fold:
    """The fold while it runs. `advance`, `value_at` and the history are walks over it."""

    entitlement: Entitlement
    usage: Usage
    start: Snapshot | None = None
    at: datetime = field(init=False)
    spent: dict[str, Decimal] = field(init=False, default_factory=dict)
    """What each grant has paid since this was last emptied, for the history."""
    _state: Snapshot = field(init=False)
    _balances: dict[str, Decimal] = field(init=False)
    _debt: Decimal = field(init=False)
    _covered: Decimal = field(init=False)
    _used: Decimal = field(init=False)
    _seen: frozenset[bytes] = field(init=False)
    _latest: Latest | None = field(init=False)
    _period_start: datetime = field(init=False)
    _order: tuple[Grant, ...] = field(init=False)
    _minutes: list[int] = field(init=False)
    _next: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        start = self.start or opening(self.entitlement)
        self.at, self._period_start = start.at, start.period_start
        self._balances, self._debt, self._covered = dict(start.balances), start.debt, start.covered
        self._used, self._seen, self._latest = start.usage, start.seen, start.latest
        self._order = in_burn_order(self.entitlement.grants)
        first = minute_of(start.at)
        self._minutes = sorted(minute for minute in self.usage if minute >= first)

    @property
    def is_gauge(self) -> bool:
        return self.entitlement.aggregation is Aggregation.LATEST

    def cross_until(self, to: datetime) -> Iterator[Crossing]:
        """Burn up to each boundary in (at, to] and cross it, one at a time."""
        if to < self.at:
            raise InvalidInput(
                f"the balance at {to.isoformat()} can't be told from a snapshot at {self.at.isoformat()}"
            )
        for _ in range(BOUNDARIES_MAX):
            at = next_boundary(self.entitlement, self.at)
            if at > to:
                return
            self.consume(minute_of(at))
            yield self.cross(at)
        raise InvalidInput(f"{to.isoformat()} is more than {BOUNDARIES_MAX} grant or period boundaries away")

    def consume(self, before_minute: int) -> Decimal:
        """Burn the usage of the minutes before `before_minute` not burnt yet, as one sum; returns that sum."""
        begin = self._next
        while self._next < len(self._minutes) and self._minutes[self._next] < before_minute:
            self._next += 1
        amount = self._measure(self.usage[minute] for minute in self._minutes[begin : self._next])
        self._used = EXACT.add(self._used, amount)
        self._burn(amount)
        return amount

    def snapshot(self) -> Snapshot:
        """The state now. Only right after a boundary is it one that the fold can go on from in the same way."""
        return Snapshot(
            self.at, self._period_start, self._balances, self._debt, self._covered, self._used, self._seen, self._latest
        )

    def balance(self) -> Balance:
        """What is left now."""
        if self.is_gauge:
            return self._gauge()
        left = EXACT.create_decimal(0)
        for amount in self._balances.values():
            left = EXACT.add(left, amount)
        return Balance(
            has_access=self.entitlement.is_soft_limit or left > 0,
            balance=left,
            usage=self._used,
            overage=max(self._debt, ZERO),
            total_available=EXACT.add(left, self._covered),
            grant_balances=dict(self._balances),
        )

    def _gauge(self) -> Balance:
        reading = self._latest.value if self._latest else ZERO
        owed, left, available = max(reading, ZERO), dict(self._balances), ZERO
        for grant in self._order:
            if grant.id in left:
                paid = min(owed, left[grant.id])
                available = EXACT.add(available, left[grant.id])
                left[grant.id], owed = EXACT.subtract(left[grant.id], paid), EXACT.subtract(owed, paid)
        balance = EXACT.subtract(available, EXACT.subtract(max(reading, ZERO), owed))
        access = self.entitlement.is_soft_limit or balance > 0
        return Balance(access, balance, reading, owed, available, left)

    def _measure(self, points: Iterable[Point]) -> Decimal:
        amount = ZERO
        for point in points:
            if isinstance(point, Latest):
                self._latest = max(self._latest, point) if self._latest else point
            elif isinstance(point, frozenset):
                fresh = point - self._seen
                self._seen |= fresh
                amount = EXACT.add(amount, Decimal(len(fresh)))
            else:
                amount = EXACT.add(amount, point)
        return amount

    def _burn(self, amount: Decimal) -> None:
        """Let the active grants pay `amount` and the debt, or take back what is negative."""
        owed = EXACT.add(self._debt, amount)
        giving_back = owed < 0
        for grant in reversed(self._order) if giving_back else self._order:
            if owed == 0:
                break
            left = self._balances.get(grant.id)
            if left is None:
                continue
            if giving_back:
                paid = -min(-owed, EXACT.subtract(grant.amount, left), self._covered)
                paid = min(paid, ZERO)
            else:
                paid = min(owed, left)
            if paid:
                self._balances[grant.id] = EXACT.subtract(left, paid)
                self._covered = EXACT.add(self._covered, paid)
                self.spent[grant.id] = EXACT.add(self.spent.get(grant.id, ZERO), paid)
                owed = EXACT.subtract(owed, paid)
        self._debt = owed

    def cross(self, at: datetime) -> Crossing:
        """Do what happens at the boundary `at`, which is the next one; the phase before it is burnt already."""
        reset_at, keep = _next_reset(self.entitlement, self.at)
        is_reset = reset_at == at
        granted = expired = voided = forfeited = forgiven = ZERO
        for grant in self._order:
            before = self._balances.pop(grant.id, ZERO)
            if not is_active(grant, at):
                if grant.voided_at is not None and grant.voided_at <= at:
                    voided = EXACT.add(voided, before)
                else:
                    expired = EXACT.add(expired, before)
            elif grant.effective_at == at or recurs_at(grant, at):
                self._balances[grant.id] = grant.amount
                granted, forfeited = EXACT.add(granted, grant.amount), EXACT.add(forfeited, before)
            else:
                after = self._balances[grant.id] = rolled_over(grant, before) if is_reset else before
                granted = EXACT.add(granted, max(EXACT.subtract(after, before), ZERO))
                forfeited = EXACT.add(forfeited, max(EXACT.subtract(before, after), ZERO))
        self.at, balances = at, dict(self._balances)
        if is_reset:
            if self._debt < 0 or not keep:
                forgiven, self._debt = self._debt, ZERO
            self._used = self._covered = ZERO
            self._seen, self._latest, self._period_start = frozenset(), None, at
            self._burn(ZERO)
        return Crossing(at, is_reset, granted, expired, voided, forfeited, forgiven, balances)


def _last_reset(entitlement: Entitlement, at: datetime) -> Reset | None:
    """The last explicit reset at or before `at`, if any. One at or before the start of measurement changes nothing."""
    past = (r for r in entitlement.resets if entitlement.measure_usage_from < r.effective_at <= at)
    return max(past, key=lambda reset: reset.effective_at, default=None)


def _next_reset(entitlement: Entitlement, after: datetime) -> tuple[datetime, bool]:
    """The end of the usage period that holds `after`, explicit or not, and whether it keeps overage."""
    last = _last_reset(entitlement, after)
    anchor = last.anchor if last else entitlement.anchor
    end = boundary(anchor, entitlement.interval, index_at(anchor, entitlement.interval, after) + 1)
    explicit = [r for r in entitlement.resets if max(after, entitlement.measure_usage_from) < r.effective_at <= end]
    if explicit:
        first = min(explicit, key=lambda reset: reset.effective_at)
        return first.effective_at, first.preserve_overage
    return end, entitlement.preserve_overage_at_reset
