"""Rating against oracles that count unit by unit and know nothing of its code."""

from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, localcontext
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.domain.money import Currency, Money, plain, rounded, total
from billing.domain.price import FlatPrice, Price, Tier, TieredPrice, UnitPrice, price_findings
from billing.domain.proration import prorated
from billing.domain.rating import Detail, difference, rate
from metering.domain.errors import InvalidInput

USD, JPY, KWD = Currency("USD"), Currency("JPY"), Currency("KWD")
prices = st.decimals(0, 1000, places=6).map(Decimal)
whole = st.integers(0, 300).map(Decimal)


D = Decimal


def tiers(*rows: tuple[str | None, str | None, str | None]) -> tuple[Tier, ...]:
    return tuple(Tier(*(None if x is None else D(x) for x in row)) for row in rows)


T = tiers(("100", "0.10", "5"), ("500", "0.05", None), (None, "0.02", "20"))


def charged(price: Price, quantity: str, currency: Currency = USD) -> list[tuple[str, str, str]]:
    details = rate(price, D(quantity), name="N", currency=currency)
    return [(plain(d.quantity), plain(d.per_unit), plain(d.amount.amount)) for d in details]


def amount_of(details: tuple[Detail, ...], currency: Currency = USD) -> Decimal:
    return total((d.amount for d in details), currency).amount


@pytest.mark.parametrize(
    ("price", "quantity", "expected"),
    [
        (UnitPrice(D("0.07")), "123.5", [("123.5", "0.07", "8.65")]),
        (UnitPrice(D("0.07")), "0", []),
        (FlatPrice(D("49")), "0", [("1", "49", "49")]),
        (
            TieredPrice("graduated", T),
            "650",
            [("100", "0.1", "10"), ("1", "5", "5"), ("400", "0.05", "20"), ("150", "0.02", "3"), ("1", "20", "20")],
        ),
        (TieredPrice("graduated", T), "100", [("100", "0.1", "10"), ("1", "5", "5")]),
        (
            TieredPrice("graduated", T),
            "500",  # the third tier is not reached, so its flat price is not due
            [("100", "0.1", "10"), ("1", "5", "5"), ("400", "0.05", "20")],
        ),
        (TieredPrice("graduated", T), "0", [("1", "5", "5")]),
        (TieredPrice("graduated", T), "-3", [("1", "5", "5")]),
        (TieredPrice("volume", T), "650", [("1", "20", "20"), ("650", "0.02", "13")]),
        (TieredPrice("volume", T), "100", [("1", "5", "5"), ("100", "0.1", "10")]),
        (TieredPrice("volume", T), "0", [("1", "5", "5")]),
        (TieredPrice("volume", T[::-1]), "0", [("1", "5", "5")]),
    ],
)
def test_worked_examples_of_the_wire_format(price: Price, quantity: str, expected: list[tuple[str, str, str]]) -> None:
    assert charged(price, quantity) == expected


def test_rounding_is_half_away_from_zero_at_the_minor_unit() -> None:
    assert charged(UnitPrice(D("0.5")), "5", JPY) == [("5", "0.5", "3")]
    assert rounded(D("-2.5"), JPY).amount == -3
    assert rounded(D("1.0005"), KWD).amount == D("1.001")


def test_details_are_named_after_the_line_and_the_tier() -> None:
    names = [d.name for d in rate(TieredPrice("graduated", T), D(101), name="Miles", currency=USD)]
    assert names == [
        "Miles: usage price for tier 1",
        "Miles: flat price for tier 1",
        "Miles: usage price for tier 2",
    ]


@st.composite
def tier_tables(draw: st.DrawFn) -> tuple[Tier, ...]:
    bounds = sorted(draw(st.sets(st.integers(1, 250), max_size=4)))
    rows = [Tier(Decimal(bound), draw(prices), draw(st.none() | prices)) for bound in bounds]
    return tuple(draw(st.permutations([*rows, Tier(None, draw(prices), draw(st.none() | prices))])))


def money(exact: Fraction) -> Decimal:
    """Independent rounding: by the decimal module."""
    with localcontext() as context:
        context.prec = 100
        return (Decimal(exact.numerator) / Decimal(exact.denominator)).quantize(D("0.01"), ROUND_HALF_UP)


def tier_of(table: tuple[Tier, ...], unit: int) -> Tier:
    """The tier that holds the unit-th unit, found by looking at all."""
    holding = [t for t in table if t.up_to is not None and unit <= t.up_to]
    return min(holding, key=lambda t: t.up_to or 0) if holding else next(t for t in table if t.up_to is None)


@given(tier_tables(), st.integers(0, 300))
def test_graduated_is_what_counting_unit_by_unit_gives(table: tuple[Tier, ...], quantity: int) -> None:
    spent: dict[Tier, Fraction] = {}
    for unit in range(1, quantity + 1):
        tier = tier_of(table, unit)
        spent[tier] = spent.get(tier, Fraction(0)) + Fraction(tier.unit or 0)
    reached = set(spent) | {tier_of(table, 1)}
    expected = sum((money(exact) for exact in spent.values()), D("0"))
    expected += sum((money(Fraction(t.flat)) for t in reached if t.flat is not None), D("0"))
    assert amount_of(rate(TieredPrice("graduated", table), Decimal(quantity), name="N", currency=USD)) == expected


@given(tier_tables(), st.integers(0, 300))
def test_volume_prices_every_unit_by_the_tier_of_the_last(table: tuple[Tier, ...], quantity: int) -> None:
    tier = tier_of(table, max(quantity, 1))
    expected = money(sum((Fraction(tier.unit or 0) for _ in range(quantity)), Fraction(0)))
    expected += money(Fraction(tier.flat or 0))
    assert amount_of(rate(TieredPrice("volume", table), Decimal(quantity), name="N", currency=USD)) == expected


@given(st.decimals(0, D("1e60"), places=12).map(Decimal), prices)
def test_no_digit_of_a_long_quantity_is_lost(quantity: Decimal, price: Decimal) -> None:
    details = rate(UnitPrice(price), quantity, name="N", currency=USD)
    assert amount_of(details) == money(Fraction(quantity) * Fraction(price))


@given(tier_tables(), whole, whole, st.sampled_from(["graduated", "volume"]))
def test_billed_and_difference_add_up_to_the_whole(
    table: tuple[Tier, ...], before: Decimal, after: Decimal, mode: str
) -> None:
    price = TieredPrice(mode, table)  # type: ignore[arg-type]
    was = rate(price, before, name="N", currency=USD)
    now = rate(price, after, name="N", currency=USD)
    assert amount_of(was) + amount_of(difference(was, now)) == amount_of(now)
    assert difference(now, now) == ()


def at(day: int) -> datetime:
    return datetime(2025, 3, 1, tzinfo=UTC) + timedelta(days=day)


def test_proration_is_by_time() -> None:
    march = (at(0), at(31))
    assert prorated(D(30), (at(0), at(10)), march, USD) == D("9.68")
    assert prorated(D(31), (at(14), at(31)), march, USD) == 17
    assert prorated(D("9.999"), march, march, USD) == D("9.999")


@given(st.decimals(0, 10_000, places=2).map(Decimal), st.integers(0, 31), st.integers(0, 31))
def test_prorated_parts_differ_from_the_whole_by_roundings_only(amount: Decimal, one: int, two: int) -> None:
    cuts = [at(0), at(min(one, two)), at(max(one, two)), at(31)]
    parts = [prorated(amount, (a, b), (at(0), at(31)), USD) for a, b in pairwise(cuts)]
    assert abs(sum(parts) - amount) <= D("0.015")


def test_unlike_currencies_do_not_add() -> None:
    with pytest.raises(ValueError, match="USD and JPY"):
        _ = Money(D(1), USD) + Money(D(1), JPY)
    with pytest.raises(InvalidInput, match="ABC"):
        Currency("ABC")


@pytest.mark.parametrize(
    ("price", "code"),
    [
        (UnitPrice(D("-1")), "price_amount_negative"),
        (TieredPrice("volume", ()), "price_without_tiers"),
        (TieredPrice("volume", tiers(("1", "1", None))), "price_without_open_tier"),
        (TieredPrice("volume", tiers((None, "1", None), (None, "2", None))), "price_with_several_open_tiers"),
        (TieredPrice("volume", tiers(("1", "1", None), ("1", "2", None), (None, "1", None))), "price_tiers_overlap"),
        (TieredPrice("volume", tiers(("0", "1", None), (None, "1", None))), "price_tier_bound_not_positive"),
        (TieredPrice("volume", tiers((None, None, None))), "price_tier_empty"),
        (TieredPrice("volume", tiers((None, "-1", None))), "price_amount_negative"),
    ],
)
def test_bad_prices_are_found(price: Price, code: str) -> None:
    assert code in [finding.code for finding in price_findings(price, "$.price")]


def test_plain_decimals() -> None:
    assert [plain(D(x)) for x in ("10.50", "0", "-0.00", "1E+3", "0.0125", "100")] == [
        "10.5",
        "0",
        "0",
        "1000",
        "0.0125",
        "100",
    ]
