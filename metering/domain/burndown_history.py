"""How a balance came to be: its phases, and the usage and balance of given windows. Walks over the same fold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from itertools import pairwise

from metering.domain.burndown import ZERO, Balance, Fold, Snapshot, next_boundary
from metering.domain.consumption import EXACT, Usage, minute_ceiling, minute_of
from metering.domain.entitlement import Entitlement
from metering.domain.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Segment:
    """A phase [start, end), or, with start = end, a reset: balances after rollover, and what kept overage took of them.

    `grant_usages` also holds what a grant paid of an earlier phase's overage, which is not in `usage`.
    """

    start: datetime
    end: datetime
    usage: Decimal
    overage: Decimal
    balances_at_start: Mapping[str, Decimal]
    balances_at_end: Mapping[str, Decimal]
    grant_usages: Mapping[str, Decimal]


@dataclass(frozen=True, slots=True)
class WindowBalance:
    """The usage in [start, end) and what was left at its start."""

    start: datetime
    end: datetime
    usage: Decimal
    balance_at_start: Decimal


def segments(
    entitlement: Entitlement, usage: Usage, start: datetime, end: datetime, snapshot: Snapshot | None = None
) -> list[Segment]:
    """The phases from `start` to `end`, without gap, ascending. `usage` holds every minute since the snapshot.

    Raises InvalidInput if `start` is later than `end` or before measurement starts.
    """
    fold = _at(entitlement, usage, start, end, snapshot)
    found: list[Segment] = []
    begin, before = start, fold.balance()
    is_open = True  # whether a segment is begun, even one without length
    while (at := next_boundary(entitlement, fold.at)) <= end:
        fold.spent = {}
        used = fold.consume(minute_of(at))
        found.append(_segment(fold, begin, at, used, before))
        fold.spent = {}
        crossing = fold.cross(at)
        if crossing.is_reset:
            rolled = replace(fold.balance(), grant_balances=crossing.balances)
            found.append(_segment(fold, at, at, ZERO, rolled))
        begin, before, is_open = at, fold.balance(), not crossing.is_reset
    if begin < end or is_open:
        fold.spent = {}
        used = fold.consume(minute_ceiling(end))
        found.append(_segment(fold, begin, end, used, before))
    return found


def windows(
    entitlement: Entitlement, usage: Usage, edges: Sequence[datetime], snapshot: Snapshot | None = None
) -> list[WindowBalance]:
    """Usage and starting balance of each window between two neighbours of `edges`, which are ascending.

    Windows that start before measurement are left out. `usage` holds every minute since the snapshot.
    """
    edges = [edge for edge in edges if edge >= entitlement.measure_usage_from]
    if len(edges) < 2:  # noqa: PLR2004 - a window has two edges
        return []
    fold = _at(entitlement, usage, edges[0], edges[-1], snapshot)
    found: list[WindowBalance] = []
    for start, end in pairwise(edges):
        left, used = fold.balance().balance, ZERO
        while (at := next_boundary(entitlement, fold.at)) <= end:
            used = EXACT.add(used, fold.consume(minute_of(at)))
            fold.cross(at)
        used = EXACT.add(used, fold.consume(minute_ceiling(end)))
        found.append(WindowBalance(start, end, fold.balance().usage if fold.is_gauge else used, left))
    return found


def _segment(fold: Fold, start: datetime, end: datetime, used: Decimal, before: Balance) -> Segment:
    after = fold.balance()
    return Segment(
        start=start,
        end=end,
        usage=after.usage if fold.is_gauge else used,
        overage=after.overage,
        balances_at_start=before.grant_balances,
        balances_at_end=after.grant_balances,
        grant_usages=dict(fold.spent),
    )


def _at(entitlement: Entitlement, usage: Usage, start: datetime, end: datetime, snapshot: Snapshot | None) -> Fold:
    if start > end:
        raise InvalidInput(f"from {start.isoformat()} is later than to {end.isoformat()}")
    if start < entitlement.measure_usage_from:
        raise InvalidInput(f"from {start.isoformat()} cannot be before {entitlement.measure_usage_from.isoformat()}")
    fold = Fold(entitlement, usage, snapshot)
    for _ in fold.cross_until(start):
        pass
    fold.consume(minute_ceiling(start))
    return fold
