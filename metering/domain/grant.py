"""The rules of one grant: when it is active, when it recurs, and which one burns first."""

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from metering.domain.entitlement import Grant
from metering.domain.period import boundary, index_at

NEVER: Final = datetime.max.replace(tzinfo=UTC)


def ends_at(grant: Grant) -> datetime:
    """The instant from which the grant counts no more: its expiry or its void, whichever comes first."""
    return min(grant.expires_at or NEVER, grant.voided_at or NEVER)


def is_active(grant: Grant, at: datetime) -> bool:
    """Whether usage at `at` may burn it. Both expiry and void are exclusive ends."""
    return grant.effective_at <= at < ends_at(grant)


def next_recurrence(grant: Grant, after: datetime) -> datetime:
    """Its first recurrence later than `after` and than its start, while it is active; else NEVER."""
    if grant.recurrence is None:
        return NEVER
    anchor, interval = grant.recurrence.anchor, grant.recurrence.interval
    at = boundary(anchor, interval, index_at(anchor, interval, max(after, grant.effective_at)) + 1)
    return at if at < ends_at(grant) else NEVER


def recurs_at(grant: Grant, at: datetime) -> bool:
    """Whether `at` is one of its recurrences."""
    if grant.recurrence is None or not grant.effective_at < at < ends_at(grant):
        return False
    anchor, interval = grant.recurrence.anchor, grant.recurrence.interval
    return boundary(anchor, interval, index_at(anchor, interval, at)) == at


def next_change(grant: Grant, after: datetime) -> datetime:
    """The next instant later than `after` at which it starts, recurs or ends; else NEVER."""
    end = ends_at(grant)
    if end <= after or end <= grant.effective_at:
        return NEVER
    if grant.effective_at > after:
        return grant.effective_at
    return min(end, next_recurrence(grant, after))


def rolled_over(grant: Grant, balance: Decimal) -> Decimal:
    """What a reset leaves of a balance. Where min and max contradict each other, the max wins."""
    return min(grant.max_rollover, max(grant.min_rollover, balance))


def in_burn_order(grants: Iterable[Grant]) -> tuple[Grant, ...]:
    """Priority ascending; earlier expiry, never last; created earlier; smaller id."""
    return tuple(sorted(grants, key=lambda g: (g.priority, g.expires_at or NEVER, g.created_at, g.id)))
