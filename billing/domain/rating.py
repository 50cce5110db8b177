"""Rating: (price, quantity) -> what to pay, line by line. Pure; the same inputs give the same lines for ever.

Every detail's amount is quantity times amount per unit, rounded once. A line is the sum of its details.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Final, Literal, assert_never

from billing.domain.money import EXACT, Currency, Money, rounded
from billing.domain.price import FlatPrice, Price, TieredPrice, UnitPrice

ZERO: Final = Decimal(0)
ONE: Final = Decimal(1)

Part = Literal["flat", "usage"]


@dataclass(frozen=True, slots=True)
class Detail:
    """One product in a line: `quantity` x `per_unit` = `amount`, rounded. `tier` counts from 1; None without tiers."""

    name: str
    part: Part
    tier: int | None
    quantity: Decimal
    per_unit: Decimal
    amount: Money


def rate(price: Price, quantity: Decimal, *, name: str, currency: Currency) -> tuple[Detail, ...]:
    """The details of a line called `name`. A flat price asks for no quantity; below zero counts as none.

    Nothing is charged for no usage but flat parts: a flat price, and the flat part of the first tier.
    """
    used = max(quantity, ZERO)
    match price:
        case FlatPrice(amount=amount):
            return (_detail(name, "flat", ONE, amount, currency),)
        case UnitPrice(amount=amount):
            return (_detail(f"{name}: usage in period", "usage", used, amount, currency),) if used else ()
        case TieredPrice(mode="graduated"):
            return tuple(_graduated(price, used, name, currency))
        case TieredPrice(mode="volume"):
            return tuple(_volume(price, used, name, currency))
        case TieredPrice():  # pragma: no cover - the decoder lets no other mode in
            raise ValueError(f"unknown mode {price.mode}")
        case _:
            assert_never(price)


def _graduated(price: TieredPrice, used: Decimal, name: str, currency: Currency) -> Iterator[Detail]:
    lower = ZERO
    for number, tier in enumerate(price.in_order(), start=1):
        if number > 1 and used <= lower:
            return
        upper = used if tier.up_to is None else min(used, tier.up_to)
        inside = EXACT.subtract(upper, lower)
        if inside and tier.unit is not None:
            yield _detail(f"{name}: usage price for tier {number}", "usage", inside, tier.unit, currency, tier=number)
        if tier.flat is not None:
            yield _detail(f"{name}: flat price for tier {number}", "flat", ONE, tier.flat, currency, tier=number)
        lower = upper if tier.up_to is None else tier.up_to


def _volume(price: TieredPrice, used: Decimal, name: str, currency: Currency) -> Iterator[Detail]:
    for number, tier in enumerate(price.in_order(), start=1):
        if tier.up_to is None or used <= tier.up_to:
            if tier.flat is not None:
                yield _detail(f"{name}: flat price for tier {number}", "flat", ONE, tier.flat, currency, tier=number)
            if used and tier.unit is not None:
                yield _detail(f"{name}: unit price for tier {number}", "usage", used, tier.unit, currency, tier=number)
            return


def _detail(
    name: str, part: Part, quantity: Decimal, per_unit: Decimal, currency: Currency, *, tier: int | None = None
) -> Detail:
    exact = Fraction(quantity) * Fraction(per_unit)
    return Detail(name, part, tier, quantity, per_unit, rounded(exact, currency))


def difference(before: Sequence[Detail], after: Sequence[Detail]) -> tuple[Detail, ...]:
    """What `after` charges beyond `before`, detail by detail; parts that only `before` has come with a minus.

    An amount is the difference of two rounded amounts, so that what was billed and the difference add up to exactly
    `after`; it may be a minor unit away from quantity x price.
    """
    was = {(detail.tier, detail.part): detail for detail in before}
    now = {(detail.tier, detail.part): detail for detail in after}
    changed = []
    for key in sorted(was.keys() | now.keys(), key=lambda key: (key[0] or 0, key[1])):
        shape = now.get(key) or was[key]
        quantity, amount = ZERO, rounded(ZERO, shape.amount.currency)
        if key in now:
            quantity, amount = now[key].quantity, amount + now[key].amount
        if key in was:
            quantity, amount = EXACT.subtract(quantity, was[key].quantity), amount - was[key].amount
        if quantity or amount.amount:
            changed.append(Detail(shape.name, shape.part, shape.tier, quantity, shape.per_unit, amount))
    return tuple(changed)
