"""Phases, rate cards and prices on the wire, and what they mean."""

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field

from api.wire import Body, Description, Flag, Key, Metadata, Name
from billing.domain.money import plain
from billing.domain.price import FlatPrice, Price, Tier, TieredPrice, UnitPrice
from billing.domain.rate_card import Phase, PlanBody, RateCard
from metering.domain.errors import InvalidInput

Numeric = Annotated[str, Field(pattern=r"^-?[0-9]{1,24}(?:\.[0-9]{1,12})?$")]
Duration = Annotated[str, Field(max_length=64)]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]


def decimal(text: str) -> Decimal:
    """Without trailing zeros, so that equal prices have equal texts."""
    return Decimal(plain(Decimal(text)))


class FlatPriceBody(Body):
    type: Literal["flat"]
    amount: Numeric
    payment_term: Literal["in_advance", "in_arrears"] = "in_advance"

    def price(self) -> Price:
        return FlatPrice(decimal(self.amount), self.payment_term)


class Commitments(Body):
    """Parsed only to be refused: dropping them in silence would bill wrongly."""

    minimum_amount: Numeric | None = None
    maximum_amount: Numeric | None = None

    def refuse(self) -> None:
        if any(amount is not None and Decimal(amount) != 0 for amount in (self.minimum_amount, self.maximum_amount)):
            raise InvalidInput("minimumAmount and maximumAmount are not supported")


class UnitPriceBody(Commitments):
    type: Literal["unit"]
    amount: Numeric

    def price(self) -> Price:
        self.refuse()
        return UnitPrice(decimal(self.amount))


class TierPart(Body):
    type: Literal["flat", "unit"]
    amount: Numeric


class TierBody(Body):
    up_to_amount: Numeric | None = None
    flat_price: TierPart | None
    unit_price: TierPart | None

    def tier(self) -> Tier:
        up_to, flat, unit = self.up_to_amount, self.flat_price, self.unit_price
        return Tier(
            up_to=None if up_to is None else decimal(up_to),
            unit=None if unit is None else decimal(unit.amount),
            flat=None if flat is None else decimal(flat.amount),
        )


class TieredPriceBody(Commitments):
    type: Literal["tiered"]
    mode: Literal["graduated", "volume"]
    tiers: Annotated[list[TierBody], Field(max_length=1000)]

    def price(self) -> Price:
        self.refuse()
        return TieredPrice(self.mode, tuple(tier.tier() for tier in self.tiers))


class OtherPriceBody(Body):
    type: Literal["dynamic", "package"]

    def price(self) -> Price:
        raise InvalidInput(f"{self.type} prices are not supported")


PriceBody = Annotated[FlatPriceBody | UnitPriceBody | TieredPriceBody | OtherPriceBody, Field(discriminator="type")]


class CardBody(Body):
    key: Key
    name: Name
    description: Description | None = None
    metadata: Metadata | None = None
    feature_key: Key | None = None
    entitlement_template: dict[str, Any] | None = None
    tax_config: dict[str, Any] | None = None
    discounts: dict[str, Any] | None = None

    def card(self, kind: Literal["flat_fee", "usage_based"], cadence: str | None, price: Price | None) -> RateCard:
        if self.discounts:
            raise InvalidInput("discounts are not supported")
        return RateCard(
            type=kind,
            key=self.key,
            name=self.name,
            billing_cadence=cadence,
            price=price,
            feature_key=self.feature_key,
            description=self.description,
            entitlement_template=_without_decimals(self.entitlement_template),
            tax_config=_without_decimals(self.tax_config),
            metadata=self.metadata,
        )


class FlatFeeBody(CardBody):
    type: Literal["flat_fee"]
    billing_cadence: Duration | None
    price: FlatPriceBody | None

    def rate_card(self) -> RateCard:
        return self.card(self.type, self.billing_cadence, None if self.price is None else self.price.price())


class UsageBasedBody(CardBody):
    type: Literal["usage_based"]
    billing_cadence: Duration
    price: PriceBody | None

    def rate_card(self) -> RateCard:
        return self.card(self.type, self.billing_cadence, None if self.price is None else self.price.price())


RateCardBody = Annotated[FlatFeeBody | UsageBasedBody, Field(discriminator="type")]


class PhaseBody(Body):
    key: Key
    name: Name
    description: Description | None = None
    metadata: Metadata | None = None
    duration: Duration | None
    rate_cards: Annotated[list[RateCardBody], Field(max_length=1000)]

    def phase(self) -> Phase:
        cards = tuple(card.rate_card() for card in self.rate_cards)
        return Phase(self.key, self.name, cards, self.duration, self.description, self.metadata)


class ProRatingBody(Body):
    enabled: Flag = True
    mode: Literal["prorate_prices"] = "prorate_prices"


def plan_body(currency: str, cadence: str, phases: list[PhaseBody], pro_rating: ProRatingBody | None) -> PlanBody:
    """The plan that the parts of a request mean."""
    prorates = pro_rating is None or pro_rating.enabled
    return PlanBody(currency, cadence, tuple(phase.phase() for phase in phases), prorates)


def price_wire(price: Price) -> dict[str, Any]:
    """A price as answers show it."""
    match price:
        case FlatPrice():
            return {"type": "flat", "amount": plain(price.amount), "paymentTerm": price.payment_term}
        case UnitPrice():
            return {"type": "unit", "amount": plain(price.amount)}
        case TieredPrice():
            return {"type": "tiered", "mode": price.mode, "tiers": [_tier_wire(tier) for tier in price.tiers]}


def phase_wire(phase: Phase) -> dict[str, Any]:
    optional = {"description": phase.description, "metadata": phase.metadata}
    return {
        "key": phase.key,
        "name": phase.name,
        **{name: value for name, value in optional.items() if value},
        "duration": phase.duration,
        "rateCards": [card_wire(card) for card in phase.rate_cards],
    }


def card_wire(card: RateCard) -> dict[str, Any]:
    optional = {
        "description": card.description,
        "metadata": card.metadata,
        "featureKey": card.feature_key,
        "entitlementTemplate": card.entitlement_template,
        "taxConfig": card.tax_config,
    }
    return {
        "type": card.type,
        "key": card.key,
        "name": card.name,
        **{name: value for name, value in optional.items() if value},
        "billingCadence": card.billing_cadence,
        "price": None if card.price is None else price_wire(card.price),
    }


def _tier_wire(tier: Tier) -> dict[str, Any]:
    bound = {} if tier.up_to is None else {"upToAmount": plain(tier.up_to)}
    return bound | {
        "flatPrice": None if tier.flat is None else {"type": "flat", "amount": plain(tier.flat)},
        "unitPrice": None if tier.unit is None else {"type": "unit", "amount": plain(tier.unit)},
    }


def _without_decimals(value: Any) -> Any:
    """Members kept as they came: whole numbers and texts only, as no price is among them."""
    match value:
        case Decimal():
            return int(value) if value == value.to_integral_value() else plain(value)
        case dict():
            return {key: _without_decimals(member) for key, member in value.items()}
        case list():
            return [_without_decimals(member) for member in value]
        case _:
            return value
