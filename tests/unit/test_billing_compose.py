"""Whole invoices out of events in memory: whatever comes late, what is billed adds up to what was used."""

import asyncio
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from billing.domain.evidence import Scope
from billing.domain.invoice import Basis, Measure
from billing.domain.price import FlatPrice, Price, Tier, TieredPrice, UnitPrice
from billing.domain.rate_card import Phase, PlanBody, RateCard
from billing.domain.timeline import Timeline
from billing.invoicing.compose import compose
from billing.invoicing.memory import MemoryReadings
from metering.domain.columns import EventColumns
from metering.domain.errors import ProtocolViolation
from metering.domain.meter import Aggregation, Meter

D = Decimal
START = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
GRACE = 60 * MINUTE
PERIODS = 4
METER = Meter("default", "M", 1, "miles", "flight", Aggregation.SUM, "$.v", (("tier", "$.tier"),))
TIERS = (Tier(D(10), D("0.333"), D(2)), Tier(D(40), D("0.2")), Tier(None, D("0.07"), D(1)))
PRICES = (UnitPrice(D("0.155")), TieredPrice("graduated", TIERS), TieredPrice("volume", TIERS))


@dataclass(frozen=True)
class Sent:
    """An event: minutes since START, minutes until it was taken in, value, whether the filter lets it through."""

    time: int
    delay: int
    value: int
    passes: bool
    subject: str


DAYS = 28  # weeks of four, so that periods are equally long
LENGTH = DAYS * 24 * 60

sendings = st.lists(
    st.builds(
        Sent,
        time=st.integers(0, PERIODS * LENGTH - 1),
        delay=st.one_of(st.integers(0, 120), st.integers(0, 3 * LENGTH)),
        value=st.integers(0, 30),
        passes=st.booleans(),
        subject=st.sampled_from(["a", "b", "other"]),
    ),
    max_size=25,
)


def columns(sent: list[Sent]) -> EventColumns:
    base = int(START.timestamp()) * 10**6
    ordered = sorted(sent, key=lambda each: each.time + each.delay)
    n = range(len(ordered))
    return EventColumns(
        namespace=["default"] * len(ordered),
        id=[f"e{i}" for i in n],
        source=["s"] * len(ordered),
        type=["flight"] * len(ordered),
        subject=[each.subject for each in ordered],
        time_us=[base + each.time * 60_000_000 for each in ordered],
        data=[msgspec.json.encode({"v": e.value, "tier": "x" if e.passes else "y"}) for e in ordered],
        ingest_us=[base + (each.time + each.delay) * 60_000_000 for each in ordered],
        partition=[0] * len(ordered),
        offset=list(n),
    )


def basis(price: Price, n: int, *, fee: Price | None = None) -> Basis:
    """Of the invoice for the nth period."""
    card = RateCard("usage_based", "miles", "Miles", "P4W", price, feature_key="miles")
    extra = (RateCard("flat_fee", "fee", "Fee", "P4W", fee),) if fee else ()
    plan = PlanBody("USD", "P4W", (Phase("main", "Main", (card, *extra)),))
    at = START + (n + 1) * timedelta(days=DAYS)
    return Basis(
        subscription_id="S",
        customer_id="C",
        plan_id="P",
        plan_key="plan",
        plan_version=1,
        timeline=Timeline.of(plan, active_from=START, active_to=None, anchor=START),
        first_phase=None,
        since=at - timedelta(days=DAYS),
        at=at,
        cut=at + GRACE,
        previous_cut=at - timedelta(days=DAYS) + GRACE if n else None,
        revision=1,
        subjects=("a", "b"),
        measures={"miles": Measure("F", METER, {"tier": {"$eq": "x"}})},
        offsets={0: 1},
        code_version="1",
    )


def invoice(price: Price, n: int, events: EventColumns, **more: Any) -> Any:
    readings = MemoryReadings(events)
    return json.loads(asyncio.run(compose(basis(price, n, **more), readings, compare=True)))


def cents(price: Price, used: int) -> Decimal:
    """Naive, for whole quantities: unit by unit, each part rounded half up to a cent."""
    parts: dict[object, Decimal] = {}
    if isinstance(price, UnitPrice):
        parts[0] = used * price.amount
    elif isinstance(price, TieredPrice):
        units = range(1, used + 1) if price.mode == "graduated" else [max(used, 1)]
        for unit in units if used else [1]:
            n, tier = next((n, t) for n, t in enumerate(TIERS) if t.up_to is None or unit <= t.up_to)
            parts["flat", n] = tier.flat or D(0)
            times = 0 if not used else 1 if price.mode == "graduated" else used
            parts[n] = parts.get(n, D(0)) + times * (tier.unit or D(0))
    return sum((part.quantize(D("0.01"), "ROUND_HALF_UP") for part in parts.values()), D(0))


@pytest.mark.parametrize("price", PRICES, ids=["unit", "graduated", "volume"])
@given(sent=sendings)
def test_invoices_add_up_to_rating_all_that_came_before_the_last_cut(price: Price, sent: list[Sent]) -> None:
    events = columns(sent)
    billed = dict.fromkeys(range(PERIODS), D(0))
    for n in range(PERIODS):
        document = invoice(price, n, events)
        assert D(document["totals"]["total"]) == sum(D(line["amount"]) for line in document["lines"])
        for line in document["lines"]:
            start = datetime.fromisoformat(line["period"]["from"])
            billed[(start - START) // timedelta(days=DAYS)] += D(line["amount"])
            assert line["kind"] == (
                "charge" if line["period"]["to"] == document["evidence"]["period"]["to"] else "late"
            )
    last_cut = PERIODS * LENGTH + 60
    for n in range(PERIODS):
        used = sum(
            each.value
            for each in sent
            if each.passes
            and each.subject != "other"
            and each.time // LENGTH == n
            and each.time + each.delay < last_cut
        )
        assert billed[n] == cents(price, used)


@given(sent=sendings, later=sendings)
@example(sent=[], later=[Sent(0, 0, 3, passes=True, subject="a")])  # at the very cut
def test_what_comes_after_the_cut_never_changes_a_byte(sent: list[Sent], later: list[Sent]) -> None:
    cut = LENGTH + 60
    early = [each for each in sent if each.time + each.delay < cut]
    late = [replace(each, delay=each.delay + cut) for each in later]
    readings = [MemoryReadings(columns(early)), MemoryReadings(columns(early + late))]
    one, two = (asyncio.run(compose(basis(PRICES[1], 0), each, compare=True)) for each in readings)
    assert one == two


def test_a_late_event_that_changes_no_amount_is_shown_all_the_same() -> None:
    free = TieredPrice("graduated", (Tier(None, D(0)),))
    events = columns([Sent(5, LENGTH + 500, 3, passes=True, subject="a")])
    (charge, late) = invoice(free, 1, events)["lines"]
    assert (charge["kind"], late["kind"], late["amount"]) == ("charge", "late", "0")
    assert (late["quantityBefore"], late["quantity"], late["evidence"]["events"]) == ("0", "3", 1)
    assert len(invoice(free, 2, events)["lines"]) == 1


def test_a_fee_of_nothing_is_no_line() -> None:
    assert [line["key"] for line in invoice(PRICES[0], 0, columns([]), fee=FlatPrice(D(0)))["lines"]] == ["miles"]


def test_numbers_that_disagree_are_not_billed() -> None:
    class Wrong(MemoryReadings):
        async def shown(self, scope: Scope) -> tuple[Decimal, int]:
            return D(1), 1

    with pytest.raises(ProtocolViolation, match="miles shows 1 of 1 events, but raw events prove 0 of 0"):
        asyncio.run(compose(basis(PRICES[0], 0), Wrong(columns([])), compare=True))
    asyncio.run(compose(basis(PRICES[0], 0), Wrong(columns([])), compare=False))
