"""Answers from raw events against plain loops, and the laws of partial states."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.domain.columns import EventColumns
from metering.domain.errors import InvalidInput, ProtocolViolation
from metering.domain.filters import Compare, OneOf, StringFilter
from metering.domain.meter import Aggregation, Meter
from metering.domain.raw import answer_from_events
from metering.domain.usage import GroupKey, PartialState, UsageQuery, UsageRow, answer
from metering.domain.window import WindowSize, parse_zone

BASE = datetime(2031, 3, 29, 20, tzinfo=UTC)  # some hours before Berlin's clock goes forward
METER = Meter("n", "M", 1, "m", "t", Aggregation.SUM, "$.v", (("tier", "$.tier"), ("zone", "$.zone")))
CUSTOMERS = {"X": frozenset({"a", "b"}), "Y": frozenset({"c"})}

EVENTS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["t", "t", "t", "u"]),
        "subject": st.sampled_from("abcd"),
        "second": st.integers(0, 36 * 3600),
        "ingest": st.integers(0, 10),
        "partition": st.integers(0, 1),
        "v": st.sampled_from([1, "2.5", -3, "0.000000000001", "abc", None]),
        "tier": st.sampled_from(["p", "q"]),
        "zone": st.sampled_from(["1", "2"]),
    }
)
BOUNDS = st.none() | st.tuples(st.integers(0, 40 * 3600), st.integers(0, 999_999)).map(
    lambda drawn: BASE + timedelta(seconds=drawn[0], microseconds=drawn[1])
)


@st.composite
def queries(draw: st.DrawFn) -> UsageQuery:
    start, end = draw(BOUNDS), draw(BOUNDS)
    if start is not None and end is not None and start >= end:
        start, end = end, start + timedelta(seconds=1)
    customers = draw(st.sampled_from([None, CUSTOMERS, {"X": CUSTOMERS["X"]}]))
    names = ["tier", "zone", "subject"] + (["customer_id"] if customers else [])
    filters: dict[str, StringFilter] = draw(st.sampled_from([{}, {}, {"tier": Compare("$eq", "p")}, {"tier": OneOf(("p",), negated=True), "zone": Compare("$gte", "2")}]))  # fmt: skip
    event_from = draw(st.sampled_from([None, BASE + timedelta(hours=6)]))
    return UsageQuery(
        meter=replace(METER, aggregation=draw(st.sampled_from(Aggregation)), event_from=event_from),
        start=start,
        end=end,
        window=draw(st.none() | st.sampled_from(WindowSize)),
        zone=parse_zone(draw(st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata"]))),
        subjects=draw(st.none() | st.frozensets(st.sampled_from("abcde"), max_size=3)),
        customers=customers,
        filters=filters,
        group_by=tuple(draw(st.lists(st.sampled_from(names), max_size=4))),
        as_of=draw(st.none() | st.integers(0, 12).map(lambda minute: BASE + timedelta(minutes=minute, seconds=30))),
    )


def columns(drawn: list[dict[str, Any]]) -> EventColumns:
    n = len(drawn)
    us = int(BASE.timestamp()) * 1_000_000
    data = [json.dumps({k: e[k] for k in ("v", "tier", "zone")}).encode() for e in drawn]
    return EventColumns(
        ["n"] * n, ["i"] * n, ["s"] * n, [e["type"] for e in drawn], [e["subject"] for e in drawn],
        [us + e["second"] * 1_000_000 for e in drawn], data, [us + e["ingest"] * 60_000_000 for e in drawn],
        [e["partition"] for e in drawn], [*range(n)],
    )  # fmt: skip


def window_of(at: datetime, query: UsageQuery) -> tuple[datetime, datetime]:
    local = at.astimezone(query.zone)
    if query.window is WindowSize.MINUTE:
        start = at.replace(second=0)
        return start, start + timedelta(minutes=1)
    if query.window is WindowSize.HOUR:
        start = at - timedelta(minutes=local.minute, seconds=local.second)
        return start, start + timedelta(hours=1)
    first = datetime(local.year, local.month, local.day if query.window is WindowSize.DAY else 1, tzinfo=query.zone)
    after = datetime(local.year, local.month, local.day, tzinfo=query.zone) + timedelta(days=1)
    if query.window is WindowSize.MONTH:
        after = datetime(local.year, local.month + 1, 1, tzinfo=query.zone)
    return first.astimezone(UTC), after.astimezone(UTC)


def passes(e: dict[str, Any], query: UsageQuery) -> bool:
    at = BASE + timedelta(seconds=e["second"])
    owner = [c for c, owned in (query.customers or {}).items() if e["subject"] in owned]
    return (
        e["type"] == "t"
        and (query.start is None or at >= query.start.replace(microsecond=0))
        and (query.meter.event_from is None or at >= query.meter.event_from)
        and (query.end is None or at < query.end.replace(microsecond=0))
        and (query.as_of is None or BASE + timedelta(minutes=e["ingest"]) < query.as_of - timedelta(seconds=30))
        and (query.subjects is None or e["subject"] in query.subjects)
        and (query.customers is None or bool(owner))
        and ("tier" not in query.filters or (e["tier"] == "p") == ("zone" not in query.filters))
        and ("zone" not in query.filters or e["zone"] == "2")
    )


def reckon(aggregation: Aggregation, found: list[tuple[Any, ...]]) -> Fraction | None:  # noqa: PLR0911 - one per aggregation
    """`found` are (second, ingest, partition, offset, v)."""
    if aggregation is Aggregation.COUNT:
        return Fraction(len(found))
    if aggregation is Aggregation.UNIQUE_COUNT:
        return Fraction(len({str(f[4]) for f in found if f[4] is not None}))
    values = [(*f[:4], Fraction(f[4])) for f in found if f[4] not in (None, "abc")]
    if not values:
        return None
    numbers = [f[4] for f in values]
    match aggregation:
        case Aggregation.SUM:
            return sum(numbers, Fraction(0))
        case Aggregation.AVG:
            return sum(numbers, Fraction(0)) / len(numbers)
        case Aggregation.MIN:
            return min(numbers)
        case Aggregation.MAX:
            return max(numbers)
        case _:
            return max(values)[4]


def oracle(drawn: list[dict[str, Any]], query: UsageQuery) -> list[tuple[Any, ...]]:
    groups: dict[Any, list[Any]] = {}
    names = list(dict.fromkeys(query.group_by))
    for offset, e in enumerate(drawn):
        if not passes(e, query):
            continue
        at = BASE + timedelta(seconds=e["second"])
        owner = next((c for c, owned in (query.customers or {}).items() if e["subject"] in owned), None)
        key = (
            window_of(at, query) if query.window else None,
            e["subject"] if "subject" in names else None,
            owner if "customer_id" in names else None,
            tuple((name, e[name]) for name in names if name in ("tier", "zone")),
        )
        groups.setdefault(key, []).append((e["second"], e["ingest"], e["partition"], offset, e["v"]))
    counting = query.meter.aggregation in (Aggregation.COUNT, Aggregation.UNIQUE_COUNT)
    plain = not names and not query.window
    if plain and not groups and counting:
        groups[None, None, None, ()] = []
    rows = []
    for (window, subject, customer, values), found in groups.items():
        value = reckon(query.meter.aggregation, found)
        if value is None or (query.meter.aggregation is Aggregation.UNIQUE_COUNT and not value and not plain):
            continue
        minutes = [BASE + timedelta(minutes=f[0] // 60) for f in found] or [datetime(1970, 1, 1, tzinfo=UTC)]
        start, end = window or (query.start or min(minutes), query.end or max(minutes) + timedelta(minutes=1))
        rows.append((start, subject or "", customer or "", values, end, value))
    return sorted(rows)


def flat(row: UsageRow, query: UsageQuery) -> tuple[Any, ...]:
    value = Fraction(row.value)
    if query.meter.aggregation is Aggregation.AVG:
        value = value.limit_denominator(10**15)
    return (
        row.window_start,
        row.subject or "",
        row.customer_id or "",
        tuple(row.group_by.items()),
        row.window_end,
        value,
    )


@given(st.lists(EVENTS, max_size=25), queries())
def test_answers_are_those_of_a_plain_loop(drawn: list[dict[str, Any]], query: UsageQuery):
    expected = [(*row[:5], row[5].limit_denominator(10**15)) for row in oracle(drawn, query)]
    if query.meter.aggregation is not Aggregation.AVG:
        expected = oracle(drawn, query)
    assert [flat(row, query) for row in answer_from_events(query, columns(drawn))] == expected


STATES = st.builds(
    lambda amounts, minute, at, uniques: PartialState(
        events=len(amounts) + 1, count=len(amounts), sum=sum(amounts, Decimal(0)), min=min(amounts, default=None),
        max=max(amounts, default=None), latest=amounts[-1] if amounts else None,
        latest_order=(at, at, 0, at) if amounts else (0, 0, 0, 0), uniques=uniques, first_minute=minute, last_minute=minute + 3,
    ),
    st.lists(st.decimals(-(10**23), 10**23, places=12), max_size=3), st.integers(0, 100), st.integers(1, 10**15), st.frozensets(st.sampled_from("abc")),
)  # fmt: skip


@given(STATES, STATES, STATES)
def test_merging_is_associative_and_commutative_and_nothing_is_neutral(
    a: PartialState, b: PartialState, c: PartialState
):
    assert a.merge(b).merge(c) == a.merge(b.merge(c))
    if a.latest_order != b.latest_order:
        assert a.merge(b) == b.merge(a)
    assert a.merge(PartialState()) == PartialState().merge(a) == a


def test_the_latest_of_one_instant_is_the_one_that_came_last():
    early = PartialState(1, 1, latest=Decimal(5), latest_order=(7, 1, 0, 9), first_minute=0, last_minute=0)
    for order in ((7, 1, 0, 10), (7, 1, 1, 0), (7, 2, 0, 0), (8, 0, 0, 0)):
        late = PartialState(1, 1, latest=Decimal(4), latest_order=order, first_minute=0, last_minute=0)
        assert early.merge(late).latest == late.merge(early).latest == 4


def event(second: int, **changes: Any) -> dict[str, Any]:
    return {
        "type": "t",
        "subject": "a",
        "second": second,
        "ingest": 0,
        "partition": 0,
        "v": 1,
        "tier": "p",
        "zone": "1",
    } | changes


def test_bounds_are_cut_down_to_seconds_and_shown_as_given():
    start, end = BASE + timedelta(seconds=5, microseconds=500_000), BASE + timedelta(seconds=9, microseconds=500_000)
    drawn = [event(second) for second in range(4, 11)]
    assert [
        (row.value, row.window_start, row.window_end)
        for row in answer_from_events(UsageQuery(METER, start, end), columns(drawn))
    ] == [(4, start, end)]


def test_as_of_a_moment_its_own_ingest_minute_does_not_count():
    given_columns = columns([event(1), event(2, ingest=5), event(3, ingest=5)])
    events = replace(
        given_columns, ingest_us=[given_columns.ingest_us[0], *[us + 10_000_000 for us in given_columns.ingest_us[1:]]]
    )
    query = UsageQuery(METER, as_of=BASE + timedelta(minutes=5, seconds=30))
    assert [row.value for row in answer_from_events(query, events)] == [1]
    assert [row.value for row in answer_from_events(replace(query, as_of=BASE + timedelta(minutes=6)), events)] == [3]


def test_rows_stand_by_window_subject_customer_and_groups():
    drawn = [event(s, subject=subject, tier=tier, v=1) for s in (4000, 10) for subject in "cba" for tier in "qp"]
    query = UsageQuery(METER, window=WindowSize.HOUR, customers=CUSTOMERS, group_by=("tier", "subject", "customer_id"))
    rows = answer_from_events(query, columns(drawn))
    order = [(row.window_start, row.subject, row.customer_id, row.group_by["tier"]) for row in rows]
    assert order == sorted(order)
    assert len(rows) == 12


def test_an_average_has_38_digits():
    state = PartialState(events=3, count=3, sum=Decimal(1))
    assert str(state.value(Aggregation.AVG)) == "0." + "3" * 38


def test_values_counted_elsewhere_are_taken_but_not_added():
    state = PartialState(events=5, count=5, distinct=3, first_minute=0, last_minute=0)
    meter = replace(METER, aggregation=Aggregation.UNIQUE_COUNT)
    assert [row.value for row in answer(UsageQuery(meter), [(GroupKey(), state)])] == [3]
    with pytest.raises(ProtocolViolation):
        state.merge(state)


@pytest.mark.parametrize("aggregation", Aggregation)
def test_nothing_counted_is_one_zero_row_only_where_things_are_counted(aggregation: Aggregation):
    query = UsageQuery(replace(METER, aggregation=aggregation))
    rows = answer(query, [])
    if aggregation in (Aggregation.COUNT, Aggregation.UNIQUE_COUNT):
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        assert rows == [UsageRow(Decimal(0), epoch, epoch + timedelta(minutes=1), None, None, {})]
    else:
        assert rows == []
    assert answer(replace(query, window=WindowSize.DAY), []) == []
    assert answer(replace(query, group_by=("tier",)), []) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": BASE, "end": BASE}, "from and to cannot be equal"),
        ({"start": BASE + timedelta(1), "end": BASE}, "from must be before to"),
        ({"group_by": ("nope",)}, "invalid group by: nope"),
        ({"group_by": ("customer_id",)}, "customer filter is required with customer_id group by"),
        ({"filters": {"nope": Compare("$eq", "a")}}, "invalid group by filter: nope"),
    ],
)
def test_senseless_questions_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(InvalidInput, match=f"^{message}$"):
        UsageQuery(METER, **changes)
