"""What a demo is made of: who is billed for what, and the events that say so."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any


@dataclass(frozen=True, slots=True)
class Measured:
    """One event with what an independent count of the input makes of it: meter slug -> amount (None: not usable)."""

    event: Mapping[str, Any]
    customer: str
    dimension: str
    amounts: Mapping[str, Decimal | str | None]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A whole demo.

    `meters`, `features`, `plan` are bodies of the API's create calls. `entitlement` is the body without its feature;
    `limited_feature` is the feature that it limits. `events(start, end)` gives the events in the order of their times,
    which it moves into [start, end). `summed` are the slugs of meters whose sums are shown by customer and dimension.
    """

    name: str
    title: str
    source: str
    customers: Mapping[str, str]  # key -> name
    meters: tuple[Mapping[str, Any], ...]
    features: tuple[Mapping[str, Any], ...]
    limited_feature: str
    entitlement: Mapping[str, Any]
    plan: Mapping[str, Any]
    dimension: str
    summed: tuple[str, ...]
    event_count: int
    events: Callable[[datetime, datetime], Iterator[Measured]]


@dataclass(slots=True)
class Expected:
    """The independent count: what the usage must be, from the input alone."""

    events: int = 0
    unusable: int = 0
    totals: dict[tuple[str, str, str], Decimal] = field(default_factory=dict)  # (slug, customer, dimension value)
    distinct: dict[str, set[tuple[str, str]]] = field(default_factory=dict)

    def add(self, measured: Measured) -> None:
        """Count one event, once."""
        self.events += 1
        for slug, amount in measured.amounts.items():
            if amount is None:
                self.unusable += 1
            elif isinstance(amount, str):
                self.distinct.setdefault(slug, set()).add((measured.customer, amount))
            else:
                cell = (slug, measured.customer, measured.dimension)
                self.totals[cell] = self.totals.get(cell, Decimal(0)) + amount

    def total(self, slug: str, customer: str | None = None) -> Decimal:
        """The total of a meter, of one customer or of all."""
        return sum((v for (s, c, _), v in self.totals.items() if s == slug and customer in (None, c)), Decimal(0))


def move(at: datetime, span: tuple[datetime, datetime], into: tuple[datetime, datetime]) -> datetime:
    """Where `at` of `span` lies in `into`: the end of the span at its end; a longer span is compressed, in order.

    Whole microseconds, so that the same input always gives the same times.
    """
    microsecond = timedelta(microseconds=1)
    length, room = (span[1] - span[0]) // microsecond + 1, (into[1] - into[0]) // microsecond
    if length <= room:
        return into[1] - (span[1] - at) - microsecond
    return into[0] + timedelta(microseconds=(at - span[0]) // microsecond * room // length)


def tiered(mode: str, *tiers: tuple[str | None, str, str | None]) -> dict[str, Any]:
    """A tiered price from (up to, price per unit, flat price) triples; None: open-ended, no flat price."""
    return {
        "type": "tiered",
        "mode": mode,
        "tiers": [
            {
                **({"upToAmount": up_to} if up_to is not None else {}),
                "unitPrice": {"type": "unit", "amount": unit},
                "flatPrice": {"type": "flat", "amount": flat} if flat is not None else None,
            }
            for up_to, unit, flat in tiers
        ],
    }


def monthly_plan(key: str, name: str, fee: str, usage: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A plan of one endless phase: a flat fee, and a price for the usage of each feature."""
    fee_card = {
        "type": "flat_fee",
        "key": "fee",
        "name": "Monthly fee",
        "billingCadence": "P1M",
        "price": {"type": "flat", "amount": fee, "paymentTerm": "in_arrears"},
    }
    usage_cards = [
        {
            "type": "usage_based",
            "key": feature,
            "name": feature.replace("_", " ").capitalize(),
            "featureKey": feature,
            "billingCadence": "P1M",
            "price": dict(price),
        }
        for feature, price in usage.items()
    ]
    return {
        "key": key,
        "name": name,
        "currency": "USD",
        "billingCadence": "P1M",
        "phases": [{"key": "standard", "name": "Standard", "duration": None, "rateCards": [fee_card, *usage_cards]}],
    }
