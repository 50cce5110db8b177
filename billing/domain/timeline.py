"""When a subscription is billed, and for what. Pure: phases and dates in, charges out.

A subscription is billed at its boundaries: its start, the boundaries of its billing cadence counted from its anchor,
the starts of its phases, and its end. The invoice of a boundary has what is paid in advance for periods that start
there, and what is paid in arrears for periods that ended since the boundary before.

All instants are cut to the minute, the resolution of usage, so that adjacent periods neither overlap nor leave a gap.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from billing.domain.proration import Period
from billing.domain.rate_card import Phase, PlanBody, RateCard
from metering.domain.period import Interval, boundary, index_at, period_at

MINUTE = timedelta(minutes=1)


def floor_minute(at: datetime) -> datetime:
    return at.replace(second=0, microsecond=0)


def ceil_minute(at: datetime) -> datetime:
    floor = floor_minute(at)
    return floor if floor == at else floor + MINUTE


@dataclass(frozen=True, slots=True)
class PhaseSpan:
    """A phase between its absolute dates; `end` None: it does not end."""

    phase: Phase
    start: datetime
    end: datetime | None


@dataclass(frozen=True, slots=True)
class Charge:
    """A rate card for one period. `served` is the part of `full` in which the card was there."""

    phase: str
    card: RateCard
    served: Period
    full: Period


@dataclass(frozen=True, slots=True)
class Timeline:
    """A subscription to a plan in time. Use `of`, which cuts the instants."""

    plan: PlanBody
    start: datetime
    end: datetime | None
    anchor: datetime
    spans: tuple[PhaseSpan, ...]

    @classmethod
    def of(
        cls,
        plan: PlanBody,
        *,
        active_from: datetime,
        active_to: datetime | None,
        anchor: datetime,
        first_phase: str | None = None,
    ) -> "Timeline":
        """The timeline of a subscription that begins with `first_phase`, or with the plan's first one."""
        start = floor_minute(active_from)
        end = None if active_to is None else floor_minute(active_to)
        phases = plan.phases
        if first_phase is not None:
            phases = phases[[phase.key for phase in phases].index(first_phase) :]
        return cls(plan, start, end, floor_minute(anchor), tuple(_spans(phases, start, end)))

    def boundary_after(self, at: datetime) -> datetime | None:
        """The next instant at which it is billed; None at its end."""
        if self.end is not None and at >= self.end:
            return None
        following = period_at(self.anchor, Interval.parse(self.plan.billing_cadence), at)[1]
        starts = [span.start for span in self.spans if span.start > at]
        return min([following, *starts, *([self.end] if self.end is not None else [])])

    def charges(self, since: datetime | None, at: datetime) -> tuple[Charge, ...]:
        """What the invoice of the boundary `at` charges for, in the plan's order.

        `since` is the boundary before, None at the subscription's start.
        """
        following = self.boundary_after(at)
        found = []
        for span in self.spans:
            for card in span.phase.rate_cards:
                if card.price is None:
                    continue
                if card.in_advance:
                    periods = self._starting(span, card, at, following) if following is not None else iter(())
                else:
                    periods = self._ending(span, card, since, at) if since is not None else iter(())
                found += [Charge(span.phase.key, card, served, full) for served, full in periods]
        return tuple(found)

    def metered_before(self, at: datetime, *, touching: datetime) -> tuple[Charge, ...]:
        """The usage charges of invoices up to the boundary `at` whose periods end after `touching`."""
        return tuple(
            Charge(span.phase.key, card, served, full)
            for span in self.spans
            for card in span.phase.rate_cards
            if card.is_metered
            for served, full in self._ending(span, card, max(touching, self.start), at)
        )

    def _starting(
        self, span: PhaseSpan, card: RateCard, at: datetime, following: datetime
    ) -> Iterator[tuple[Period, Period]]:
        """Periods of the card that start in [at, following)."""
        for served, full in self._periods(span, card, at, following):
            if at <= served[0] < following:
                yield served, full

    def _ending(
        self, span: PhaseSpan, card: RateCard, since: datetime, at: datetime
    ) -> Iterator[tuple[Period, Period]]:
        """Periods of the card that end in (since, at]."""
        for served, full in self._periods(span, card, since, at):
            if since < served[1] <= at:
                yield served, full

    def _periods(
        self, span: PhaseSpan, card: RateCard, low: datetime, high: datetime
    ) -> Iterator[tuple[Period, Period]]:
        """(served, full) of the card's periods that touch [low, high]. A one-time card has one, the phase's."""
        if card.billing_cadence is None:
            whole = (span.start, span.end or datetime.max.replace(tzinfo=span.start.tzinfo))
            yield whole, whole
            return
        interval = Interval.parse(card.billing_cadence)
        n = index_at(self.anchor, interval, max(span.start, low))
        while (start := boundary(self.anchor, interval, n)) <= high and (span.end is None or start < span.end):
            full = (start, boundary(self.anchor, interval, n + 1))
            served = (max(start, span.start), full[1] if span.end is None else min(full[1], span.end))
            if served[0] < served[1]:
                yield served, full
            n += 1


def _spans(phases: tuple[Phase, ...], start: datetime, end: datetime | None) -> Iterator[PhaseSpan]:
    for phase in phases:
        following = None if phase.duration is None else boundary(start, Interval.parse(phase.duration), 1)
        if end is not None and start >= end:
            return
        yield PhaseSpan(phase, start, end if following is None or (end is not None and end < following) else following)
        if following is None:
            return
        start = following
