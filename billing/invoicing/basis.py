"""Gathering what an invoice follows from, out of Postgres."""

from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from billing.domain.invoice import Basis, Measure
from billing.domain.rate_card import PlanBody
from billing.domain.timeline import Timeline
from billing.invoicing.invoices import Invoice
from billing.subscriptions.subscriptions import Subscription
from metering.domain.errors import NotFound
from metering.domain.registry import Registry
from metering.postgres.registry import load_registry_async
from metering.postgres.tables import features

CODE_VERSION: Final = version("weighbridge")


async def gather(
    connection: AsyncConnection,
    invoice: Invoice,
    subscription: Subscription,
    *,
    offsets: Mapping[int, int],
    previous_cut: datetime | None,
) -> Basis:
    """The basis as everything is now, at the newest registry revision."""
    registry = await load_registry_async(connection)
    body = subscription.plan.body
    measures = await _measures(connection, subscription.namespace, body, registry)
    return _basis(
        invoice,
        subscription,
        subscription.timeline,
        registry,
        measures,
        offsets=offsets,
        previous_cut=previous_cut,
        code_version=CODE_VERSION,
    )


async def gather_again(
    connection: AsyncConnection,
    invoice: Invoice,
    subscription: Subscription,
    evidence: Mapping[str, Any],
    feature_ids: Mapping[str, str],
    *,
    offsets: Mapping[int, int],
    previous_cut: datetime | None,
) -> Basis:
    """The basis as it was when the invoice was issued.

    What may have changed since comes from its evidence: the end of the subscription, the registry's revision (whose
    state never changes), the code's version; `feature_ids` say which features its feature keys meant.
    """
    end = evidence["subscription"]["end"]
    timeline = Timeline.of(
        subscription.plan.body,
        active_from=subscription.active_from,
        active_to=None if end is None else datetime.fromisoformat(end),
        anchor=subscription.anchor,
        first_phase=subscription.first_phase,
    )
    registry = await load_registry_async(connection, evidence["registryRevision"])
    measures = await _measures(connection, subscription.namespace, subscription.plan.body, registry, feature_ids)
    return _basis(
        invoice,
        subscription,
        timeline,
        registry,
        measures,
        offsets=offsets,
        previous_cut=previous_cut,
        code_version=evidence["codeVersion"],
    )


def _basis(
    invoice: Invoice,
    subscription: Subscription,
    timeline: Timeline,
    registry: Registry,
    measures: Mapping[str, Measure],
    *,
    offsets: Mapping[int, int],
    previous_cut: datetime | None,
    code_version: str,
) -> Basis:
    owned = [
        subject
        for (namespace, subject), customer in registry.subjects.items()
        if namespace == subscription.namespace and customer == subscription.customer_id
    ]
    return Basis(
        subscription_id=subscription.id,
        customer_id=subscription.customer_id,
        plan_id=subscription.plan.id,
        plan_key=subscription.plan.key,
        plan_version=subscription.plan.version,
        timeline=timeline,
        first_phase=subscription.first_phase,
        since=invoice.period_from,
        at=invoice.period_to,
        cut=invoice.cut,
        previous_cut=previous_cut,
        revision=registry.revision,
        subjects=tuple(sorted(owned)),
        measures=measures,
        offsets=offsets,
        code_version=code_version,
    )


async def _measures(
    connection: AsyncConnection,
    namespace: str,
    body: PlanBody,
    registry: Registry,
    feature_ids: Mapping[str, str] | None = None,
) -> Mapping[str, Measure]:
    """How the features of the plan's usage prices are measured, by feature key."""
    keys = {card.feature_key for phase in body.phases for card in phase.rate_cards if card.is_metered}
    query = select(features).where(features.c.namespace == namespace, features.c.key.in_(keys))
    named = feature_ids or {}
    found: dict[str, Any] = {}
    for feature in await connection.execute(query.order_by(features.c.archived_at.desc().nulls_first())):
        if named.get(feature.key, feature.id) == feature.id:
            found.setdefault(feature.key, feature)
    meters = {meter.id: meter for meter in registry.meters if meter.namespace == namespace}
    measures = {}
    for key in sorted(key for key in keys if key is not None):
        row = found.get(key)
        meter = None if row is None else meters.get(row.meter_id)
        if row is None or meter is None:
            raise NotFound(f"no meter for the feature {key} at registry revision {registry.revision}")
        measures[key] = Measure(row.id, meter, row.filters)
    return measures
