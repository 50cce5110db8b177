"""Entitlements in Postgres: made, replaced, ended. Nothing here commits.

Each change is made under the row lock of its customer and tells the balances app of it by the outbox.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec
from sqlalchemy import Select, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.domain.customer import Customer
from metering.domain.entitlement_terms import EntitlementType, Terms, UsagePeriod, minute
from metering.domain.errors import Conflict, Forbidden, InvalidInput, NotFound
from metering.domain.feature import Feature
from metering.domain.ids import is_id, new_id
from metering.domain.period import boundary, period_at
from metering.postgres.customers import live_customer
from metering.postgres.entitlement_changes import emit_for_customer, emit_gone, lock_customer
from metering.postgres.entitlement_rows import TERMS, active_at, read_all, read_one, terms_of
from metering.postgres.features import get_feature
from metering.postgres.grants import GrantDraft, insert_grant
from metering.postgres.outbox import Target
from metering.postgres.paging import Found, Slice, fetch, ordered
from metering.postgres.tables import customer_subjects, customers, entitlements, features, meters

SHORTEST_PERIOD: Final = timedelta(hours=1)
ORDERS: Final = {"createdAt": entitlements.c.created_at, "updatedAt": entitlements.c.updated_at}


@dataclass(frozen=True, slots=True)
class EntitlementDraft:
    """An entitlement as its owner sends it; members that its type doesn't know are ignored.

    `measure_usage_from` is an instant, "CURRENT_PERIOD_START" or "NOW". `usage_period`'s anchor may have seconds.
    """

    type: EntitlementType
    feature_id: str | None = None
    feature_key: str | None = None
    usage_period: UsagePeriod | None = None
    measure_usage_from: datetime | Literal["CURRENT_PERIOD_START", "NOW"] = "NOW"
    is_soft_limit: bool = False
    preserve_overage_at_reset: bool = False
    issue_after_reset: Decimal | None = None
    issue_after_reset_priority: int | None = None
    grants: Sequence[GrantDraft] = ()
    config: str | None = None
    subscription_id: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EntitlementFilter:
    """Which entitlements to list; empty sequences don't filter. `features` are ids or keys."""

    features: Sequence[str] = ()
    subject_keys: Sequence[str] = ()
    customer_ids: Sequence[str] = ()
    customer_keys: Sequence[str] = ()
    types: Sequence[EntitlementType] = ()
    exclude_inactive: bool = False


async def create_entitlement(
    connection: AsyncConnection,
    namespace: str,
    customer: Customer,
    draft: EntitlementDraft,
    *,
    target: Target,
    now: datetime,
) -> Terms:
    """Entitle a customer to a feature, one at a time for each feature key."""
    feature = await _feature(connection, namespace, draft)
    await _hold_meter(connection, feature)
    customer = await live_customer(connection, namespace, customer.id, lock=True)
    if not customer.subjects:
        raise InvalidInput("customer has neither key nor subject keys")
    await _refuse_second(connection, customer, feature)
    values = _values(namespace, customer, feature, draft, now)
    made = insert(entitlements).values(values).on_conflict_do_nothing().returning(entitlements.c.id)
    if (await connection.execute(made)).first() is None:
        raise Conflict(f"entitlement already exists for feature {feature.id} and customer {customer.id}")
    if draft.type is EntitlementType.METERED:
        await _first_grants(connection, namespace, values, draft, now)
        await emit_for_customer(connection, customer.id, target=target, feature_key=feature.key)
    return await get_entitlement(connection, namespace, values["id"])


async def override_entitlement(
    connection: AsyncConnection, namespace: str, old: Terms, draft: EntitlementDraft, *, target: Target, now: datetime
) -> Terms:
    """End `old` now and make another in its place. Balances and usage are not carried over."""
    refuse_managed(old)
    feature = await _feature(connection, namespace, draft)
    if feature.key != old.feature_key:
        raise InvalidInput("old and new entitlements belong to different features")
    customer = await live_customer(connection, namespace, old.customer_id, lock=True)
    await connection.execute(
        update(entitlements)
        .where(entitlements.c.id == old.id, entitlements.c.active_to.is_(None))
        .values(active_to=now, updated_at=now)
    )
    new = await create_entitlement(connection, namespace, customer, draft, target=target, now=now)
    if old.type is EntitlementType.METERED and new.type is not EntitlementType.METERED:
        await emit_gone(connection, namespace, old.customer_id, old.feature_key, target=target)
    return new


async def delete_entitlement(
    connection: AsyncConnection, namespace: str, terms: Terms, *, target: Target, now: datetime
) -> None:
    """End and delete it; its usage and grants stay on record."""
    refuse_managed(terms)
    await lock_customer(connection, terms.customer_id)
    gone = (
        update(entitlements)
        .where(entitlements.c.id == terms.id, entitlements.c.deleted_at.is_(None))
        .values(deleted_at=now, active_to=terms.active_to or now, updated_at=now)
        .returning(entitlements.c.id)
    )
    if (await connection.execute(gone)).first() is None:
        raise _not_found(namespace, terms.id)
    if terms.type is EntitlementType.METERED and terms.active_to is None:
        await emit_gone(connection, namespace, terms.customer_id, terms.feature_key, target=target)


async def get_entitlement(connection: AsyncConnection, namespace: str, entitlement_id: str) -> Terms:
    """By id, ended ones too; raises NotFound for a deleted one."""
    found = await read_one(connection, _not_deleted(namespace).where(entitlements.c.id == entitlement_id.upper()))
    if found is None:
        raise _not_found(namespace, entitlement_id)
    return found


async def find_of_customer(
    connection: AsyncConnection, namespace: str, customer_id: str, id_or_feature_key: str, *, at: datetime
) -> Terms | None:
    """The customer's entitlement: by id, ended ones too; by feature key, the one active at `at`."""
    mine = _not_deleted(namespace).where(entitlements.c.customer_id == customer_id)
    if is_id(id_or_feature_key):
        by_id = await read_one(connection, mine.where(entitlements.c.id == id_or_feature_key.upper()))
        if by_id is not None:
            return by_id
    by_key = mine.where(entitlements.c.feature_key == id_or_feature_key)
    return await read_one(connection, active_at(by_key, at).order_by(entitlements.c.active_from.desc()))


async def get_of_customer(
    connection: AsyncConnection, namespace: str, customer_id: str, id_or_feature_key: str, *, at: datetime
) -> Terms:
    """As find_of_customer; raises NotFound."""
    found = await find_of_customer(connection, namespace, customer_id, id_or_feature_key, at=at)
    if found is None:
        raise _not_found(namespace, id_or_feature_key)
    return found


async def active_of_customer(
    connection: AsyncConnection, namespace: str, customer_id: str, *, at: datetime
) -> list[Terms]:
    """All that are active at `at`, by creation."""
    mine = _not_deleted(namespace).where(entitlements.c.customer_id == customer_id)
    return await read_all(connection, active_at(mine, at).order_by(entitlements.c.created_at, entitlements.c.id))


async def list_entitlements(
    connection: AsyncConnection,
    namespace: str,
    wanted: EntitlementFilter,
    part: Slice,
    *,
    now: datetime,
    order_by: str = "createdAt",
    descending: bool = False,
) -> Found[Terms]:
    """Those not deleted; ended ones too unless `exclude_inactive`."""
    c = entitlements.c
    query = _not_deleted(namespace)
    if wanted.exclude_inactive:
        query = active_at(query, now)
    if wanted.features:
        query = query.where(or_(c.feature_key.in_(wanted.features), c.feature_id.in_(wanted.features)))
    if wanted.types:
        query = query.where(c.type.in_(wanted.types))
    if wanted.customer_ids:
        query = query.where(c.customer_id.in_(wanted.customer_ids))
    if wanted.customer_keys:
        query = query.where(customers.c.key.in_(wanted.customer_keys), customers.c.deleted_at.is_(None))
    if wanted.subject_keys:
        s = customer_subjects.c
        mine = select(s.customer_id).where(
            s.namespace == namespace, s.subject.in_(wanted.subject_keys), s.is_subject_key, s.deleted_at.is_(None)
        )
        query = query.where(c.customer_id.in_(mine))
    rows, total = await fetch(connection, query, ordered(ORDERS[order_by], c.id, descending=descending), part)
    return Found(tuple(terms_of(row) for row in rows), total)


def refuse_managed(terms: Terms) -> None:
    """Raise Forbidden for an entitlement that a subscription made: it changes with its subscription only."""
    if terms.subscription_id is not None:
        raise Forbidden("entitlement is managed by subscription")


def _not_deleted(namespace: str) -> Select[Any]:
    return TERMS.where(entitlements.c.namespace == namespace, entitlements.c.deleted_at.is_(None))


def _not_found(namespace: str, wanted: str) -> NotFound:
    return NotFound(f"entitlement not found {wanted} in namespace {namespace}")


async def _feature(connection: AsyncConnection, namespace: str, draft: EntitlementDraft) -> Feature:
    wanted = draft.feature_id or draft.feature_key
    if wanted is None:
        raise InvalidInput("feature id or key must be set")
    return await get_feature(connection, namespace, wanted)


async def _hold_meter(connection: AsyncConnection, feature: Feature) -> None:
    """Keep the feature and its meter as they are until we commit; taken before the customer's lock, as everywhere."""
    if feature.meter_id is not None:
        await connection.execute(select(meters.c.id).where(meters.c.id == feature.meter_id).with_for_update(read=True))
    held = select(features.c.id).where(features.c.id == feature.id, features.c.archived_at.is_(None))
    if (await connection.execute(held.with_for_update(read=True))).first() is None:
        raise NotFound(f"feature not found: {feature.key}")


async def _refuse_second(connection: AsyncConnection, customer: Customer, feature: Feature) -> None:
    c = entitlements.c
    active = select(c.id).where(
        c.customer_id == customer.id, c.feature_key == feature.key, c.deleted_at.is_(None), c.active_to.is_(None)
    )
    existing = (await connection.execute(active)).scalar()
    if existing is not None:
        raise Conflict(
            f"entitlement with id {existing} already exists for feature {feature.id} and customer {customer.id}",
            existing,
        )


def _values(
    namespace: str, customer: Customer, feature: Feature, draft: EntitlementDraft, now: datetime
) -> dict[str, Any]:
    period = draft.usage_period
    if period is not None:
        period = UsagePeriod(period.interval, minute(period.anchor))
        if boundary(period.anchor, period.interval, 1) - period.anchor < SHORTEST_PERIOD:
            raise InvalidInput("UsagePeriod must be at least 1 hour")
    values: dict[str, Any] = {
        "id": new_id(),
        "namespace": namespace,
        "customer_id": customer.id,
        "feature_id": feature.id,
        "feature_key": feature.key,
        "type": draft.type.value,
        "usage_period_interval": period.interval.iso() if period is not None else None,
        "usage_period_anchor": period.anchor if period is not None else None,
        "subscription_id": draft.subscription_id,
        "metadata": dict(draft.metadata),
        "active_from": now,
        "created_at": now,
        "updated_at": now,
    }
    match draft.type:
        case EntitlementType.METERED:
            values |= _metered(feature, period, draft, now)
        case EntitlementType.STATIC:
            values["config"] = _config(draft.config)
        case EntitlementType.BOOLEAN:
            pass
    return values


def _metered(feature: Feature, period: UsagePeriod | None, draft: EntitlementDraft, now: datetime) -> dict[str, Any]:
    if feature.meter_id is None:
        raise InvalidInput(f"invalid feature {feature.key}: Feature has no meter")
    if period is None:
        raise InvalidInput("usage period is required for metered entitlements")
    if draft.issue_after_reset is not None and draft.issue_after_reset < 0:
        raise InvalidInput("issueAfterReset must not be negative")
    match draft.measure_usage_from:
        case "NOW":
            start = minute(now)
        case "CURRENT_PERIOD_START":
            start = period_at(period.anchor, period.interval, now)[0]
        case instant:
            start = minute(instant)
    return {
        "measure_usage_from": start,
        "is_soft_limit": draft.is_soft_limit,
        "preserve_overage_at_reset": draft.preserve_overage_at_reset,
        "issue_after_reset": draft.issue_after_reset,
        "issue_after_reset_priority": draft.issue_after_reset_priority,
    }


def _config(text: str | None) -> str:
    if text is None:
        raise InvalidInput("config is required for static entitlements")
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise InvalidInput(f"invalid JSON config: {error}") from error
    return text


async def _first_grants(
    connection: AsyncConnection, namespace: str, values: Mapping[str, Any], draft: EntitlementDraft, now: datetime
) -> None:
    """The grants that come with a metered entitlement: the built-in one, or those of the draft."""
    terms = await get_entitlement(connection, namespace, values["id"])
    if draft.issue_after_reset:
        assert draft.usage_period is not None
        period_start, _ = period_at(values["usage_period_anchor"], draft.usage_period.interval, now)
        built_in = GrantDraft(
            amount=draft.issue_after_reset,
            effective_at=max(values["measure_usage_from"], period_start),
            priority=1 if draft.issue_after_reset_priority is None else draft.issue_after_reset_priority,
            min_rollover=draft.issue_after_reset,
            max_rollover=draft.issue_after_reset,
        )
        await insert_grant(connection, terms, built_in, now=now, issue_after_reset=True)
    for grant in draft.grants:
        await insert_grant(connection, terms, grant, now=now)
