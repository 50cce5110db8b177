"""What a plan says: phases of rate cards. These are values; the catalog gives them versions and a life."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

from billing.domain.price import FlatPrice, Price, price_findings
from metering.domain.errors import Finding, InvalidInput
from metering.domain.period import Interval

PLAN_CADENCES = ("P1W", "P2W", "P4W", "P1M", "P3M", "P6M", "P12M", "P1Y")


class RateCard(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is charged for. `billing_cadence` None: once; `price` None: included, never charged.

    `entitlement_template`, `tax_config` are kept as the wire gave them.
    """

    type: Literal["flat_fee", "usage_based"]
    key: str
    name: str
    billing_cadence: str | None = None
    price: Price | None = None
    feature_key: str | None = None
    description: str | None = None
    entitlement_template: dict[str, Any] | None = None
    tax_config: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None

    @property
    def is_metered(self) -> bool:
        """Whether its price asks for a quantity."""
        return self.price is not None and not isinstance(self.price, FlatPrice)

    @property
    def in_advance(self) -> bool:
        return isinstance(self.price, FlatPrice) and self.price.payment_term == "in_advance"


class Phase(msgspec.Struct, frozen=True, omit_defaults=True):
    """Rate cards that hold together for `duration` (ISO 8601); the last phase has none and does not end."""

    key: str
    name: str
    rate_cards: tuple[RateCard, ...] = ()
    duration: str | None = None
    description: str | None = None
    metadata: dict[str, str] | None = None


class PlanBody(msgspec.Struct, frozen=True):
    """All of a plan version that decides what its subscribers pay."""

    currency: str
    billing_cadence: str
    phases: tuple[Phase, ...]
    prorates: bool = True


def plan_findings(body: PlanBody) -> Iterator[Finding]:
    """What keeps a plan from being published. Codes and fields are those of the wire format."""
    if body.billing_cadence not in PLAN_CADENCES:
        yield Finding("$.billingCadence", "plan_billing_cadence_invalid", f"must be one of {', '.join(PLAN_CADENCES)}")
    if not body.phases:
        yield Finding("$.phases", "plan_with_no_phases", "a plan needs a phase")
    yield from _repeated(
        [phase.key for phase in body.phases], "$.phases[?(@.key=='{}')].key", "plan_phase_duplicated_key"
    )
    for n, phase in enumerate(body.phases):
        field = f"$.phases[?(@.key=='{phase.key}')]"
        yield from _duration_findings(phase, field, is_last=n == len(body.phases) - 1)
        if not phase.rate_cards:
            yield Finding(f"{field}.rateCards", "plan_phase_has_no_rate_cards", "a phase needs a rate card")
        yield from _repeated(
            [card.key for card in phase.rate_cards],
            f"{field}.ratecards[?(@.key=='{{}}')].key",
            "rate_card_duplicated_key",
        )
        for card in phase.rate_cards:
            yield from _card_findings(card, f"{field}.ratecards[?(@.key=='{card.key}')]")


def _duration_findings(phase: Phase, field: str, *, is_last: bool) -> Iterator[Finding]:
    field = f"{field}.duration"
    if phase.duration is None:
        if not is_last:
            yield Finding(field, "plan_has_non_last_phase_with_no_duration", "only the last phase is endless")
        return
    if is_last:
        yield Finding(field, "plan_has_last_phase_with_duration", "the last phase has no duration")
    if _is_short(phase.duration):
        yield Finding(field, "plan_phase_duration_less_then_an_hour", "a phase lasts an hour at least")


def _card_findings(card: RateCard, field: str) -> Iterator[Finding]:
    if card.feature_key is not None and card.feature_key != card.key:
        yield Finding(f"{field}.key", "rate_card_key_feature_key_mismatch", "key and featureKey must be the same")
    if card.is_metered and card.feature_key is None:
        yield Finding(f"{field}.featureKey", "usage_based_price_with_no_feature", "a usage price needs a feature")
    if card.entitlement_template is not None and card.feature_key is None:
        yield Finding(f"{field}.entitlementTemplate", "entitlement_template_with_no_feature", "needs a feature")
    if card.billing_cadence is not None and _is_short(card.billing_cadence):
        yield Finding(f"{field}.billingCadence", "billing_cadence_invalid_value", "must be an hour at least")
    if card.price is not None:
        yield from price_findings(card.price, f"{field}.price")


def _is_short(duration: str) -> bool:
    try:
        interval = Interval.parse(duration)
    except InvalidInput:
        return True
    return interval.months == 0 and interval.exact.total_seconds() < 3600  # noqa: PLR2004 - an hour


def _repeated(keys: Sequence[str], field: str, code: str) -> Iterator[Finding]:
    for key, times in Counter(keys).items():
        if times > 1:
            yield Finding(field.format(key), code, f"{key} is there {times} times")
