"""From what is known about a subscription, and readings of its usage, to the invoice's document."""

from billing.domain.evidence import Reading, Scope
from billing.domain.invoice import Basis, document, late, late_question
from billing.domain.timeline import Charge
from billing.invoicing.ports import Readings
from metering.domain.errors import ProtocolViolation


async def compose(basis: Basis, readings: Readings, *, compare: bool) -> bytes:
    """The document, of what raw events prove.

    With `compare` the usage that everybody is shown must be the same, else ProtocolViolation is raised: no invoice is
    issued on numbers that disagree.
    """
    charges = basis.timeline.charges(basis.since, basis.at)
    earliest = {}
    for feature, charge in _metered_so_far(basis).items():
        question = late_question(basis, charge)
        if question is None or basis.previous_cut is None:
            continue
        first = await readings.earliest(question, basis.previous_cut)
        if first is not None:
            earliest[feature] = first
    lates = late(basis, earliest)
    scopes = [basis.scope(charge, basis.cut) for charge in charges if charge.card.is_metered]
    scopes += [scope for each in lates for scope in (each.before, each.after)]
    found: dict[Scope, Reading] = {}
    for scope in dict.fromkeys(scopes):
        found[scope] = await readings.proven(scope)
        if compare:
            await _check(readings, scope, found[scope])
    return document(basis, lates, found)


def _metered_so_far(basis: Basis) -> dict[str, Charge]:
    """For each feature some charge of an earlier invoice."""
    if basis.since is None:
        return {}
    charges = basis.timeline.metered_before(basis.since, touching=basis.timeline.start)
    return {charge.card.feature_key or "": charge for charge in charges}


async def _check(readings: Readings, scope: Scope, proven: Reading) -> None:
    quantity, events = await readings.shown(scope)
    if (quantity, events) != (proven.quantity, proven.events):
        raise ProtocolViolation(
            f"usage of {scope.meter.slug} shows {quantity} of {events} events, "
            f"but raw events prove {proven.quantity} of {proven.events}"
        )
