"""The fold against an oracle that walks minute by minute and burns unit by unit, and against itself in pieces."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.domain.burndown import Balance, Fold, advance, next_boundary, opening, period_of, value_at
from metering.domain.burndown_history import segments, windows
from metering.domain.consumption import Latest, digest, minute_of
from metering.domain.entitlement import Entitlement, Grant, Recurrence, Reset
from metering.domain.errors import InvalidInput
from metering.domain.meter import Aggregation
from metering.domain.period import Interval

START = datetime(2031, 2, 1, tzinfo=UTC)
BASE = minute_of(START)
MINUTES = 400


def at(minute: int) -> datetime:
    return START + timedelta(minutes=minute)


def hours(n: int) -> Interval:
    return Interval(0, timedelta(hours=n))


def an_entitlement(**changes: object) -> Entitlement:
    plain = Entitlement(
        id="E", namespace="default", customer_id="C", feature_key="gpu", meter_key="M.1", aggregation=Aggregation.SUM,
        dimensions=(), filters=(), subjects=("acme",), revision=1, measure_usage_from=START, interval=hours(2),
        anchor=START, active_from=START,
    )  # fmt: skip
    return replace(plain, **changes)


def a_grant(name: str, amount: int, start: int = 0, **changes: object) -> Grant:
    return replace(Grant(id=name, amount=Decimal(amount), effective_at=at(start), created_at=START), **changes)


# --- the oracle ---------------------------------------------------------------------------------------------------


@dataclass
class Naive:
    left: dict[str, int]
    debt: int = 0
    used: int = 0
    paid: int = 0


def naive(e: Entitlement, usage: Mapping[int, int], until: int) -> Naive:  # noqa: C901, PLR0912 - one plain walk
    """The state at minute `until`: whole units, one minute at a time, with nothing shared with the fold."""
    period = int(e.interval.exact.total_seconds() // 60)
    anchor = int((e.anchor - START).total_seconds() // 60)
    order = sorted(
        e.grants, key=lambda g: (g.priority, (g.expires_at or datetime.max.replace(tzinfo=UTC)), g.created_at, g.id)
    )

    def minute(t: datetime | None) -> int | None:
        return None if t is None else int((t - START).total_seconds() // 60)

    def alive(g: Grant, m: int) -> bool:
        return minute(g.effective_at) <= m and all(
            end is None or m < end for end in (minute(g.expires_at), minute(g.voided_at))
        )

    def pay(state: Naive) -> None:
        while state.debt:
            holder = next((g.id for g in order if state.left.get(g.id, 0) > 0), None)
            if holder is None:
                return
            state.left[holder] -= 1
            state.paid += 1
            state.debt -= 1

    state = Naive({g.id: int(g.amount) for g in e.grants if alive(g, 0)})
    for m in range(until + 1):
        if m > 0:
            reset = next((r for r in e.resets if minute(r.effective_at) == m), None)
            is_end = (m - anchor) % period == 0
            state.left = {
                name: n for name, n in state.left.items() if alive(next(g for g in e.grants if g.id == name), m)
            }
            if reset or is_end:
                keep = reset.preserve_overage if reset else e.preserve_overage_at_reset
                for g in e.grants:
                    if g.id in state.left:
                        state.left[g.id] = int(min(g.max_rollover, max(g.min_rollover, state.left[g.id])))
            for g in e.grants:
                if alive(g, m) and minute(g.effective_at) == m:
                    state.left[g.id] = int(g.amount)
                if alive(g, m) and g.recurrence and minute(g.effective_at) < m:
                    step = int(g.recurrence.interval.exact.total_seconds() // 60)
                    if (m - minute(g.recurrence.anchor)) % step == 0:
                        state.left[g.id] = int(g.amount)
            if reset or is_end:
                state.used = state.paid = 0
                state.debt = state.debt if keep else 0
            pay(state)
            if reset:
                anchor = minute(reset.anchor)
        if m == until:
            break
        for _ in range(usage.get(m, 0)):
            state.used += 1
            state.debt += 1
            pay(state)
    pay(state)
    return state


# --- inputs -------------------------------------------------------------------------------------------------------

moments = st.integers(0, MINUTES)


@st.composite
def grants(draw: st.DrawFn, name: str) -> Grant:
    start = draw(st.sampled_from([0, 0, 60, 90, 120, 240]) | moments)
    amount = draw(st.integers(1, 12))
    ends = st.none() | st.integers(start + 1, MINUTES + 50)
    recurs = draw(st.none() | st.sampled_from([1, 2, 3]))
    return Grant(
        id=name, amount=Decimal(amount), effective_at=at(start), created_at=at(draw(st.integers(0, 2))),
        priority=draw(st.integers(0, 2)),
        expires_at=None if (end := draw(ends)) is None else at(end),
        voided_at=None if (end := draw(st.none() | ends)) is None else at(end),
        min_rollover=Decimal(draw(st.integers(0, 12))), max_rollover=Decimal(draw(st.integers(0, 12))),
        recurrence=recurs and Recurrence(hours(recurs), at(draw(st.sampled_from([start, 0, 30])))),
    )  # fmt: skip


@st.composite
def entitlements(draw: st.DrawFn) -> Entitlement:
    held = [draw(grants(name)) for name in "abc"[: draw(st.integers(0, 3))]]
    resets = [
        Reset(at(m), at(m) if draw(st.booleans()) else START, draw(st.booleans()))
        for m in draw(st.sets(st.integers(1, MINUTES), max_size=2))
    ]
    return an_entitlement(
        grants=tuple(held), resets=tuple(sorted(resets, key=lambda r: r.effective_at)), interval=hours(draw(st.sampled_from([1, 2, 3]))),
        preserve_overage_at_reset=draw(st.booleans()), is_soft_limit=draw(st.booleans()),
    )  # fmt: skip


usages = st.dictionaries(moments, st.integers(0, 8), max_size=12)


def sums(usage: Mapping[int, int]) -> dict[int, Decimal]:
    return {BASE + minute: Decimal(amount) for minute, amount in usage.items()}


# --- properties ---------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(entitlements(), usages, moments)
def test_value_is_what_burning_unit_by_unit_leaves(e: Entitlement, usage: dict[int, int], until: int) -> None:
    expected, found = naive(e, usage, until), value_at(e, sums(usage), at(until))
    left = sum(expected.left.values())
    assert found == Balance(
        has_access=e.is_soft_limit or left > 0, balance=Decimal(left), usage=Decimal(expected.used),
        overage=Decimal(expected.debt), total_available=Decimal(left + expected.paid),
        grant_balances={name: Decimal(n) for name, n in expected.left.items()},
    )  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    entitlements(),
    st.dictionaries(moments, st.integers(-6, 8), max_size=12),
    st.lists(moments, min_size=1, max_size=6).map(sorted),
)
def test_in_pieces_it_is_the_same_as_at_once(e: Entitlement, usage: dict[int, int], stops: list[int]) -> None:
    snapshot = opening(e)
    for stop in stops:
        snapshot = advance(snapshot, e, {m: v for m, v in sums(usage).items() if m >= minute_of(snapshot.at)}, at(stop))
    rest = {m: v for m, v in sums(usage).items() if m >= minute_of(snapshot.at)}
    assert value_at(e, rest, at(stops[-1]), snapshot) == value_at(e, sums(usage), at(stops[-1]))


@settings(max_examples=150, deadline=None)
@given(
    entitlements(),
    st.dictionaries(moments, st.frozensets(st.integers(0, 9), max_size=4), max_size=10),
    st.lists(moments, min_size=1, max_size=4).map(sorted),
)
def test_a_unique_value_counts_once_in_each_usage_period(
    e: Entitlement, values: dict[int, frozenset[int]], stops: list[int]
) -> None:
    e = replace(e, aggregation=Aggregation.UNIQUE_COUNT)
    usage = {BASE + m: frozenset(digest(str(v)) for v in some) for m, some in values.items()}
    until = at(stops[-1])
    start, _ = period_of(e, until)
    distinct = {v for m, some in values.items() if start <= at(m) < until for v in some}
    whole = value_at(e, usage, until)
    assert whole.usage == len(distinct)
    snapshot = opening(e)
    for stop in stops:
        snapshot = advance(snapshot, e, {m: v for m, v in usage.items() if m >= minute_of(snapshot.at)}, at(stop))
    assert value_at(e, {m: v for m, v in usage.items() if m >= minute_of(snapshot.at)}, until, snapshot) == whole


@settings(max_examples=200, deadline=None)
@given(entitlements(), st.dictionaries(moments, st.integers(-6, 8), max_size=12), moments)
def test_nothing_appears_or_vanishes(e: Entitlement, usage: dict[int, int], until: int) -> None:
    fold = Fold(e, sums(usage))
    granted = sum(opening(e).balances.values())
    expired = voided = forfeited = forgiven = Decimal(0)
    for crossing in fold.cross_until(at(until)):
        granted += crossing.granted
        expired += crossing.expired
        voided += crossing.voided
        forfeited += crossing.forfeited
        forgiven += crossing.forgiven
    fold.consume(BASE + until)
    debt = fold.snapshot().debt
    used = sum(amount for minute, amount in usage.items() if minute < until)
    assert granted + forgiven + debt == used + fold.balance().balance + expired + voided + forfeited
    assert all(amount >= 0 for amount in fold.balance().grant_balances.values())


@settings(max_examples=150, deadline=None)
@given(entitlements(), usages, moments, moments)
def test_the_history_joins_and_ends_at_the_value(e: Entitlement, usage: dict[int, int], one: int, other: int) -> None:
    start, end = sorted((one, other))
    found = segments(e, sums(usage), at(start), at(end))
    assert (found[0].start, found[-1].end) == (at(start), at(end))
    assert all(a.end == b.start for a, b in pairwise(found))
    assert sum(s.usage for s in found) == sum(n for m, n in usage.items() if start <= m < end)
    value = value_at(e, sums(usage), at(end))
    assert found[-1].balances_at_end == value.grant_balances
    assert found[-1].overage == value.overage
    for s in found:
        spent = sum(s.balances_at_start.values()) - sum(s.balances_at_end.values())
        assert spent == sum(s.grant_usages.values())
    for w in windows(e, sums(usage), [at(m) for m in range(start, end, 37)]):
        assert w.usage == sum(n for m, n in usage.items() if w.start <= at(m) < w.end)
        assert w.balance_at_start == value_at(e, sums(usage), w.start).balance


@given(entitlements(), moments)
def test_boundaries_only_go_forward(e: Entitlement, after: int) -> None:
    assert next_boundary(e, at(after)) > at(after)
    start, end = period_of(e, at(after))
    assert start <= at(after) < end


# --- examples -----------------------------------------------------------------------------------------------------


def test_overage_is_paid_by_a_grant_that_starts_later() -> None:
    e = an_entitlement(
        interval=hours(24), grants=(a_grant("A", 100, priority=1), a_grant("B", 50, start=60, priority=2))
    )
    usage = sums({10: 120, 90: 10})
    assert value_at(e, usage, at(59)).overage == 20
    assert value_at(e, usage, at(60)).grant_balances == {"A": 0, "B": 30}
    last = value_at(e, usage, at(100))
    assert (last.grant_balances, last.overage, last.usage, last.total_available) == ({"A": 0, "B": 20}, 0, 130, 150)
    first, second = segments(e, usage, START, at(100))
    assert (first.usage, first.overage, first.grant_usages) == (120, 20, {"A": 100})
    assert (second.usage, second.overage, second.grant_usages) == (10, 0, {"B": 30})


def test_a_reset_keeps_what_rolls_over_and_shows_as_a_moment() -> None:
    e = an_entitlement(
        interval=hours(24),
        grants=(a_grant("A", 100, min_rollover=Decimal(100), max_rollover=Decimal(100)),),
        resets=(Reset(at(30), at(30), preserve_overage=True),),
    )
    before, moment, after = segments(e, sums({5: 130}), START, at(40))
    assert (before.usage, before.overage) == (130, 30)
    assert (moment.start, moment.end, moment.usage) == (at(30), at(30), 0)
    assert (moment.balances_at_start, moment.balances_at_end, moment.grant_usages) == ({"A": 100}, {"A": 70}, {"A": 30})
    assert after.usage == 0
    assert value_at(e, sums({5: 130}), at(40)).total_available == 100


def test_a_gauge_compares_the_latest_value_with_the_limit() -> None:
    e = an_entitlement(aggregation=Aggregation.LATEST, interval=hours(24), grants=(a_grant("A", 100),))
    usage = {BASE + n: Latest(n, 0, 0, n, Decimal(v)) for n, v in enumerate([30, 50, 20, 50])}
    found = value_at(e, usage, at(10))
    assert (found.balance, found.usage, found.overage, found.total_available) == (50, 50, 0, 100)
    assert value_at(e, usage, at(3)).balance == 80
    over = value_at(e, {BASE: Latest(0, 0, 0, 0, Decimal(130))}, at(3))
    assert (over.balance, over.overage, over.has_access) == (0, 30, False)


def test_the_running_minute_counts_but_its_boundary_does_not_come_early() -> None:
    e = an_entitlement(interval=hours(1), grants=(a_grant("A", 10, max_rollover=Decimal(10)),))
    late = at(59) + timedelta(seconds=30)
    assert value_at(e, sums({59: 4}), late).usage == 4
    assert value_at(e, sums({59: 4}), at(60)).usage == 0


def test_amounts_of_any_size_stay_exact() -> None:
    big, small = Decimal(10) ** 30, Decimal("0.000000000001")
    e = an_entitlement(interval=hours(24), grants=(replace(a_grant("A", 1), amount=big),))
    assert value_at(e, {BASE: small}, at(5)).balance == Decimal("999999999999999999999999999999.999999999999")


def test_before_measurement_nothing_is_granted() -> None:
    e = an_entitlement(grants=(a_grant("A", 10),))
    assert value_at(e, {}, START - timedelta(minutes=1)).balance == 0


def test_what_lies_before_the_snapshot_or_too_far_ahead_is_refused() -> None:
    e = an_entitlement(interval=hours(1), grants=(a_grant("A", 10),))
    later = advance(opening(e), e, {}, at(120))
    with pytest.raises(InvalidInput, match="can't be told"):
        value_at(e, {}, at(60), later)
    with pytest.raises(InvalidInput, match="boundaries away"):
        value_at(e, {}, START + timedelta(days=365 * 20))
