"""Telling the balances app of each change of a metered entitlement, through the outbox.

Every change is made, and read again for the message, under the row lock of its customer: so the message with the higher
sequence is the newer state.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Select, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.domain.entitlement import DimensionFilter, Entitlement
from metering.domain.entitlement_terms import EntitlementType, Terms
from metering.domain.feature import dimension_filters
from metering.domain.meter import Meter
from metering.kafka.wire import EntitlementChange, balance_partition, record_key
from metering.postgres.entitlement_rows import TERMS, grants_of, read_all, resets_of
from metering.postgres.meter_rows import meter_of
from metering.postgres.outbox import Target, append
from metering.postgres.registry import current_revision_async
from metering.postgres.tables import customer_subjects, customers, entitlements, features, meters

CHANNEL: Final = "weighbridge_entitlements"
_NOTIFY: Final = text("SELECT pg_notify(:channel, :payload)")
_ENCODER: Final = msgspec.msgpack.Encoder()


async def lock_customer(connection: AsyncConnection, customer_id: str) -> None:
    """Wait until no other transaction changes this customer or its entitlements, and keep others waiting."""
    await connection.execute(select(customers.c.id).where(customers.c.id == customer_id).with_for_update())


async def lock_customers_of_meter(connection: AsyncConnection, meter_id: str) -> None:
    """Lock all customers with a metered entitlement on this meter, in the order of their ids."""
    entitled = (
        select(entitlements.c.customer_id)
        .join(features, features.c.id == entitlements.c.feature_id)
        .where(features.c.meter_id == meter_id, entitlements.c.deleted_at.is_(None))
    )
    query = select(customers.c.id).where(customers.c.id.in_(entitled)).order_by(customers.c.id).with_for_update()
    await connection.execute(query)


async def emit_for_customer(
    connection: AsyncConnection,
    customer_id: str,
    *,
    target: Target,
    revision: int | None = None,
    feature_key: str | None = None,
) -> None:
    """Write the state of the customer's live metered entitlements (of one feature, if named) to the outbox.

    `revision` is the registry's at which the customer's subjects hold; None takes the newest. The caller holds
    the lock.
    """
    live = _live().where(entitlements.c.customer_id == customer_id)
    if feature_key is not None:
        live = live.where(entitlements.c.feature_key == feature_key)
    await _emit(connection, await read_all(connection, live), target, revision)


async def emit_for_meter(connection: AsyncConnection, meter_id: str, *, target: Target, revision: int) -> None:
    """The same for all entitlements on a meter; the caller holds `lock_customers_of_meter`."""
    on_meter = _live().join(features, features.c.id == entitlements.c.feature_id)
    terms = await read_all(connection, on_meter.where(features.c.meter_id == meter_id))
    await _emit(connection, terms, target, revision)


async def emit_gone(
    connection: AsyncConnection, namespace: str, customer_id: str, feature_key: str, *, target: Target
) -> None:
    """Tell that the customer has no metered entitlement to this feature any more."""
    await _append(connection, namespace, customer_id, feature_key, None, target=target)


async def folded(connection: AsyncConnection, terms: Sequence[Terms], revision: int | None = None) -> list[Entitlement]:
    """Metered entitlements as the balance fold takes them, in the order of `terms`."""
    if not terms:
        return []
    at = await current_revision_async(connection) if revision is None else revision
    grants = await grants_of(connection, [each.id for each in terms])
    resets = await resets_of(connection, [each.id for each in terms])
    measured = await _measured(connection, {each.feature_id for each in terms})
    subjects = await _subjects(connection, {each.customer_id for each in terms})
    return [
        each.folded(
            *measured[each.feature_id],
            subjects=subjects.get(each.customer_id, ()),
            revision=at,
            grants=grants[each.id],
            resets=resets[each.id],
        )
        for each in terms
    ]


def _live() -> Select[Any]:
    c = entitlements.c
    return TERMS.where(c.type == EntitlementType.METERED, c.deleted_at.is_(None), c.active_to.is_(None))


async def _emit(connection: AsyncConnection, terms: Sequence[Terms], target: Target, revision: int | None) -> None:
    for each in await folded(connection, terms, revision):
        await _append(connection, each.namespace, each.customer_id, each.feature_key, each, target=target)


async def _append(
    connection: AsyncConnection,
    namespace: str,
    customer_id: str,
    feature_key: str,
    entitlement: Entitlement | None,
    *,
    target: Target,
) -> None:
    sequence = await append(
        connection,
        topic=target.topic,
        partition=balance_partition(namespace, customer_id, target.partitions),
        key=record_key(namespace, customer_id, feature_key),
        payload=lambda sequence: _ENCODER.encode(
            EntitlementChange(sequence, namespace, customer_id, feature_key, entitlement)
        ),
    )
    if target.told is not None:
        target.told(customer_id, feature_key, sequence)
    await connection.execute(_NOTIFY, {"channel": CHANNEL, "payload": f"{customer_id} {feature_key} {sequence}"})


async def _measured(
    connection: AsyncConnection, feature_ids: Iterable[str]
) -> dict[str, tuple[Meter, tuple[DimensionFilter, ...]]]:
    """What each feature measures."""
    query = (
        select(meters, features.c.id.label("feature_id"), features.c.filters)
        .join(features, features.c.meter_id == meters.c.id)
        .where(features.c.id.in_(list(feature_ids)))
    )
    rows = (await connection.execute(query)).mappings()
    return {row["feature_id"]: (meter_of(row).meter(), dimension_filters(row["filters"])) for row in rows}


async def _subjects(connection: AsyncConnection, customer_ids: Iterable[str]) -> dict[str, list[str]]:
    c = customer_subjects.c
    query = (
        select(c.customer_id, c.subject)
        .where(c.customer_id.in_(list(customer_ids)), c.deleted_at.is_(None))
        .order_by(c.subject)
    )
    found: dict[str, list[str]] = {}
    for customer_id, subject in (await connection.execute(query)).all():
        found.setdefault(customer_id, []).append(subject)
    return found
