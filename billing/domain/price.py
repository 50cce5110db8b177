"""Prices, in the shapes of the wire format: flat, per unit, and tiers that are graduated or by volume.

A tier holds the quantities in (bound of the tier before, `up_to`]; the open one has no bound. Tiers may come in any
order, so `in_order` is what rating uses.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import Literal

import msgspec

from metering.domain.errors import Finding

PaymentTerm = Literal["in_advance", "in_arrears"]


class FlatPrice(msgspec.Struct, frozen=True, tag="flat"):
    """The same amount for every period."""

    amount: Decimal
    payment_term: PaymentTerm = "in_advance"


class UnitPrice(msgspec.Struct, frozen=True, tag="unit"):
    """`amount` for each unit; not rounded."""

    amount: Decimal


class Tier(msgspec.Struct, frozen=True):
    """`unit` for each unit in the tier and `flat` once when it is reached; at least one of them is there."""

    up_to: Decimal | None = None
    unit: Decimal | None = None
    flat: Decimal | None = None


class TieredPrice(msgspec.Struct, frozen=True, tag="tiered"):
    """Graduated: each unit costs what its own tier says. Volume: all cost what the tier of the whole quantity says."""

    mode: Literal["graduated", "volume"]
    tiers: tuple[Tier, ...]

    def in_order(self) -> tuple[Tier, ...]:
        """The tiers with ascending bounds, the open one last. Only the first open one counts."""
        bounded = sorted((t for t in self.tiers if t.up_to is not None), key=lambda t: t.up_to or Decimal(0))
        return (*bounded, *[t for t in self.tiers if t.up_to is None][:1])


Price = FlatPrice | UnitPrice | TieredPrice


def price_findings(price: Price, field: str) -> Iterator[Finding]:
    """What is wrong with a price; `field` is its JSONPath."""
    match price:
        case FlatPrice() | UnitPrice():
            if price.amount < 0:
                yield Finding(field, "price_amount_negative", "amount must not be negative")
        case TieredPrice():
            yield from _tier_findings(price.tiers, field)


def _tier_findings(tiers: tuple[Tier, ...], field: str) -> Iterator[Finding]:
    if not tiers:
        yield Finding(field, "price_without_tiers", "at least one tier is needed")
        return
    bounds = [tier.up_to for tier in tiers if tier.up_to is not None]
    if len(bounds) == len(tiers):
        yield Finding(field, "price_without_open_tier", "at least one tier must be open-ended")
    if len(bounds) < len(tiers) - 1:
        yield Finding(field, "price_with_several_open_tiers", "only one tier may be open-ended")
    if len(set(bounds)) != len(bounds):
        yield Finding(field, "price_tiers_overlap", "no two tiers may have the same upToAmount")
    if any(bound <= 0 for bound in bounds):
        yield Finding(field, "price_tier_bound_not_positive", "upToAmount must be above 0")
    for n, tier in enumerate(tiers):
        if tier.unit is None and tier.flat is None:
            yield Finding(f"{field}.tiers[{n}]", "price_tier_empty", "a tier needs a flatPrice or a unitPrice")
        if any(amount is not None and amount < 0 for amount in (tier.unit, tier.flat)):
            yield Finding(f"{field}.tiers[{n}]", "price_amount_negative", "amount must not be negative")
