"""An invoice as a pure function: what is known about a subscription and the readings of its usage -> a document.

`needed` says which readings an invoice asks for; `document` makes of them the lines, the totals and the evidence. Both
issuing and verifying go through here, with readings from different sources, and must come to the same bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from billing.domain.canonical import canonical, fingerprint
from billing.domain.evidence import Reading, Scope
from billing.domain.money import Currency, total
from billing.domain.price import FlatPrice, Price
from billing.domain.proration import Period, prorated
from billing.domain.rating import Detail, difference, rate
from billing.domain.timeline import Charge, Timeline
from metering.domain.filters import StringFilter, parse_filter
from metering.domain.meter import Meter

RULES: Final = 1
"""The version of the rules in this package. A change of what they give makes the next; old invoices name theirs."""


@dataclass(frozen=True, slots=True)
class Measure:
    """How a feature's usage is measured. `filters` map dimensions to string filters as on the wire."""

    feature_id: str
    meter: Meter
    filters: Mapping[str, Mapping[str, Any]]

    @property
    def conditions(self) -> tuple[tuple[str, StringFilter], ...]:
        """The filters, parsed. Raises InvalidInput on what can't be understood."""
        parsed = [(name, parse_filter(self.filters[name], name)) for name in sorted(self.filters)]
        return tuple((name, condition) for name, condition in parsed if condition is not None)


@dataclass(frozen=True, slots=True)
class Basis:
    """All that an invoice follows from, but for the usage itself.

    It bills the boundary `at` of `timeline`; `since` is the boundary before (None at the start). Usage is taken as of
    `cut`; `previous_cut` is that of the subscription's invoice before. `measures` are by feature key and hold, as do
    `subjects`, at registry revision `revision`. `offsets` say for each partition of events below which offset all that
    came before the cut lies.
    """

    subscription_id: str
    customer_id: str
    plan_id: str
    plan_key: str
    plan_version: int
    timeline: Timeline
    first_phase: str | None
    since: datetime | None
    at: datetime
    cut: datetime
    previous_cut: datetime | None
    revision: int
    subjects: tuple[str, ...]
    measures: Mapping[str, Measure]
    offsets: Mapping[int, int]
    code_version: str

    def scope(self, charge: Charge, cut: datetime) -> Scope:
        """The usage that a metered charge asks for."""
        measure = self.measures[charge.card.feature_key or ""]
        return Scope(measure.meter, measure.conditions, self.subjects, charge.served, cut)


@dataclass(frozen=True, slots=True)
class Late:
    """Events of earlier periods that came since the invoice before: `before` at its cut, `after` at this one's."""

    charge: Charge
    before: Scope
    after: Scope


def late_question(basis: Basis, charge: Charge) -> Scope | None:
    """The scope of all usage before this invoice's period; None where no invoice was before.

    Asked for its earliest event that came in [previous cut, cut), it tells from where on `late` must look.
    """
    if basis.since is None or basis.previous_cut is None or basis.since <= basis.timeline.start:
        return None
    measure = basis.measures[charge.card.feature_key or ""]
    period = (basis.timeline.start, basis.since)
    return Scope(measure.meter, measure.conditions, basis.subjects, period, basis.cut)


def late(basis: Basis, earliest: Mapping[str, datetime]) -> tuple[Late, ...]:
    """The earlier charges to look at again. `earliest` maps feature keys to the time of their first late event."""
    if basis.since is None or basis.previous_cut is None or not earliest:
        return ()
    charges = basis.timeline.metered_before(basis.since, touching=min(earliest.values()))
    return tuple(
        Late(charge, basis.scope(charge, basis.previous_cut), basis.scope(charge, basis.cut))
        for charge in charges
        if (first := earliest.get(charge.card.feature_key or "")) is not None and first < charge.served[1]
    )


def document(basis: Basis, lates: tuple[Late, ...], readings: Mapping[Scope, Reading]) -> bytes:
    """The canonical JSON of the invoice. `readings` has every scope that charges and lates ask for."""
    currency = Currency(basis.timeline.plan.currency)
    lines = []
    for charge in basis.timeline.charges(basis.since, basis.at):
        line = _line(basis, charge, readings, currency)
        if line is not None:
            lines.append(line)
    for each in lates:
        before, after = readings[each.before], readings[each.after]
        if before != after:
            lines.append(_late_line(basis, each, before, after, currency))
    amount = total((line.pop("money") for line in lines), currency).amount
    return canonical(
        {"lines": lines, "totals": {"amount": amount, "total": amount}, "evidence": _evidence(basis, currency)}
    )


def _line(basis: Basis, charge: Charge, readings: Mapping[Scope, Reading], currency: Currency) -> dict[str, Any] | None:
    price = charge.card.price
    if isinstance(price, FlatPrice):
        amount = price.amount
        if basis.timeline.plan.prorates:
            amount = prorated(amount, charge.served, charge.full, currency)
        if not amount:
            return None
        details = rate(FlatPrice(amount, price.payment_term), Decimal(1), name=charge.card.name, currency=currency)
        return _shape(charge, price, details, currency, kind="charge", name=charge.card.name)
    assert price is not None
    scope = basis.scope(charge, basis.cut)
    reading = readings[scope]
    details = rate(price, reading.quantity, name=charge.card.name, currency=currency)
    proof = _measured(basis, charge) | _reading(reading)
    return _shape(charge, price, details, currency, kind="charge", name=charge.card.name) | {
        "quantity": reading.quantity,
        "evidence": proof,
    }


def _late_line(basis: Basis, each: Late, before: Reading, after: Reading, currency: Currency) -> dict[str, Any]:
    card = each.charge.card
    assert card.price is not None
    name = f"{card.name} (late usage)"
    details = difference(
        rate(card.price, before.quantity, name=name, currency=currency),
        rate(card.price, after.quantity, name=name, currency=currency),
    )
    return _shape(each.charge, card.price, details, currency, kind="late", name=name) | {
        "quantity": after.quantity,
        "quantityBefore": before.quantity,
        "evidence": _measured(basis, each.charge) | _reading(after) | {"before": _reading(before)},
    }


def _shape(
    charge: Charge, price: Price, details: tuple[Detail, ...], currency: Currency, *, kind: str, name: str
) -> dict[str, Any]:
    amount = total((detail.amount for detail in details), currency)
    return {
        "money": amount,
        "kind": kind,
        "key": charge.card.key,
        "feature": charge.card.feature_key,
        "phase": charge.phase,
        "name": name,
        "price": msgspec.to_builtins(price, builtin_types=(Decimal,)),
        "period": _period(charge.served),
        "fullPeriod": _period(charge.full) if charge.card.billing_cadence is not None else None,
        "details": [
            {
                "name": detail.name,
                "part": detail.part,
                "tier": detail.tier,
                "quantity": detail.quantity,
                "perUnit": detail.per_unit,
                "amount": detail.amount.amount,
            }
            for detail in details
        ],
        "amount": amount.amount,
    }


def _period(period: Period) -> dict[str, Any]:
    return {"from": period[0], "to": period[1]}


def _measured(basis: Basis, charge: Charge) -> dict[str, Any]:
    measure = basis.measures[charge.card.feature_key or ""]
    meter = measure.meter
    return {
        "featureId": measure.feature_id,
        "meter": {
            "key": meter.key,
            "eventType": meter.event_type,
            "aggregation": meter.aggregation.value,
            "valuePath": meter.value_path,
            "groupBy": [list(pair) for pair in meter.group_by],
            "eventFrom": meter.event_from,
        },
        "filters": dict(measure.filters),
    }


def _reading(reading: Reading) -> dict[str, Any]:
    return {"quantity": reading.quantity, "events": reading.events, "digest": reading.digest}


def _evidence(basis: Basis, currency: Currency) -> dict[str, Any]:
    plan = basis.timeline.plan
    return {
        "rules": RULES,
        "codeVersion": basis.code_version,
        "currency": currency.code,
        "customerId": basis.customer_id,
        "subscription": {
            "id": basis.subscription_id,
            "start": basis.timeline.start,
            "end": basis.timeline.end,
            "anchor": basis.timeline.anchor,
            "firstPhase": basis.first_phase,
        },
        "plan": {
            "id": basis.plan_id,
            "key": basis.plan_key,
            "version": basis.plan_version,
            "sha256": plan_fingerprint(plan),
        },
        "period": {"from": basis.since, "to": basis.at},
        "cut": basis.cut,
        "previousCut": basis.previous_cut,
        "registryRevision": basis.revision,
        "subjects": list(basis.subjects),
        "offsets": {str(partition): offset for partition, offset in sorted(basis.offsets.items())},
    }


def plan_fingerprint(plan: Any) -> str:
    """SHA-256 of a plan body's canonical form."""
    return fingerprint(canonical(msgspec.to_builtins(plan, builtin_types=(Decimal,))))
