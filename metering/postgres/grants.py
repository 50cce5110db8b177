"""Grants and resets of metered entitlements in Postgres. Nothing here commits.

Each change is made under the row lock of its customer and tells the balances app of it by the outbox.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.domain.entitlement import Recurrence
from metering.domain.entitlement_terms import EntitlementType, Expiration, GrantTerms, Terms, minute
from metering.domain.errors import Finding, InvalidInput, NotFound
from metering.domain.ids import new_id
from metering.postgres.entitlement_changes import emit_for_customer, lock_customer
from metering.postgres.entitlement_rows import TERMS, grant_of, read_one
from metering.postgres.outbox import Target
from metering.postgres.paging import Found, Slice, fetch, ordered
from metering.postgres.tables import customer_subjects, entitlement_resets, entitlements, grants

ORDERS: Final = {
    "id": grants.c.id,
    "createdAt": grants.c.created_at,
    "updatedAt": grants.c.updated_at,
    "effectiveAt": grants.c.effective_at,
}
_ZERO_TIME: Final = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class GrantDraft:
    """A grant as its owner sends it. A `max_rollover` of None is the amount."""

    amount: Decimal
    effective_at: datetime
    priority: int = 0
    expiration: Expiration | None = None
    min_rollover: Decimal = Decimal(0)
    max_rollover: Decimal | None = None
    recurrence: Recurrence | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GrantFilter:
    """Which grants to list; None and empty don't filter. `features` are ids or keys."""

    features: Sequence[str] = ()
    subject_keys: Sequence[str] = ()
    customer_ids: Sequence[str] | None = None
    include_deleted: bool = False


async def create_grant(
    connection: AsyncConnection, terms: Terms, draft: GrantDraft, *, target: Target, now: datetime
) -> GrantTerms:
    """Add a grant to a metered entitlement, from the current usage period on."""
    await lock_customer(connection, terms.customer_id)
    terms = await _again(connection, terms)
    effective = minute(draft.effective_at)
    period = terms.current_period(now)
    if period is not None and effective < period[0]:
        raise InvalidInput(
            f"grant effective date {effective.isoformat()} is before the current usage period {period[0].isoformat()}"
        )
    made = await insert_grant(connection, terms, draft, now=now)
    await _emit(connection, terms, target)
    return made


async def insert_grant(
    connection: AsyncConnection, terms: Terms, draft: GrantDraft, *, now: datetime, issue_after_reset: bool = False
) -> GrantTerms:
    """Store a grant; the caller holds the customer's lock and writes the outbox."""
    require_metered(terms)
    _check(draft)
    effective = minute(draft.effective_at)
    recurrence = draft.recurrence
    values = {
        "id": new_id(),
        "namespace": terms.namespace,
        "entitlement_id": terms.id,
        "amount": draft.amount,
        "priority": draft.priority,
        "effective_at": effective,
        "expiration_duration": draft.expiration.duration if draft.expiration else None,
        "expiration_count": draft.expiration.count if draft.expiration else None,
        "expires_at": draft.expiration.after(effective) if draft.expiration else None,
        "min_rollover": draft.min_rollover,
        "max_rollover": draft.amount if draft.max_rollover is None else draft.max_rollover,
        "recurrence_interval": recurrence.interval.iso() if recurrence else None,
        "recurrence_anchor": minute(recurrence.anchor) if recurrence else None,
        "issue_after_reset": issue_after_reset,
        "metadata": dict(draft.metadata),
        "annotations": {"issueAfterReset": True} if issue_after_reset else dict(draft.annotations),
        "created_at": now,
        "updated_at": now,
    }
    row = await connection.execute(insert(grants).values(values).returning(grants))
    return grant_of(row.mappings().one())


async def void_grant(
    connection: AsyncConnection, namespace: str, grant_id: str, *, target: Target, now: datetime
) -> None:
    """What is left of the grant is gone from this minute on; what it has paid stays paid."""
    found = await _find(connection, namespace, grant_id)
    terms = await read_one(connection, TERMS.where(entitlements.c.id == found.entitlement_id))
    assert terms is not None
    await lock_customer(connection, terms.customer_id)
    terms, found = await _again(connection, terms), await _find(connection, namespace, grant_id)
    at = minute(now)
    if found.voided_at is not None:
        raise InvalidInput("grant already voided")
    period = terms.current_period(now)
    if period is not None and at < period[0]:
        raise InvalidInput(f"grant cannot be voided at {at.isoformat()}, before the current usage period")
    await connection.execute(update(grants).where(grants.c.id == found.id).values(voided_at=at, updated_at=now))
    await _emit(connection, terms, target)


async def list_grants(
    connection: AsyncConnection,
    namespace: str,
    wanted: GrantFilter,
    part: Slice,
    *,
    order_by: str = "effectiveAt",
    descending: bool = False,
) -> Found[GrantTerms]:
    """Grants of entitlements that are not deleted; voided ones too."""
    query = (
        select(grants)
        .join(entitlements, entitlements.c.id == grants.c.entitlement_id)
        .where(grants.c.namespace == namespace)
    )
    if not wanted.include_deleted:
        query = query.where(grants.c.deleted_at.is_(None), entitlements.c.deleted_at.is_(None))
    if wanted.features:
        key, identity = entitlements.c.feature_key, entitlements.c.feature_id
        query = query.where(or_(key.in_(wanted.features), identity.in_(wanted.features)))
    if wanted.customer_ids is not None:
        query = query.where(entitlements.c.customer_id.in_(wanted.customer_ids))
    if wanted.subject_keys:
        s = customer_subjects.c
        mine = select(s.customer_id).where(
            s.namespace == namespace, s.subject.in_(wanted.subject_keys), s.deleted_at.is_(None)
        )
        query = query.where(entitlements.c.customer_id.in_(mine))
    rows, total = await fetch(connection, query, ordered(ORDERS[order_by], grants.c.id, descending=descending), part)
    return Found(tuple(grant_of(row) for row in rows), total)


async def grants_of_entitlement(
    connection: AsyncConnection, terms: Terms, part: Slice, *, order_by: str = "createdAt", descending: bool = False
) -> Found[GrantTerms]:
    """All grants of one entitlement, voided ones too."""
    require_metered(terms)
    query = select(grants).where(grants.c.entitlement_id == terms.id, grants.c.deleted_at.is_(None))
    rows, total = await fetch(connection, query, ordered(ORDERS[order_by], grants.c.id, descending=descending), part)
    return Found(tuple(grant_of(row) for row in rows), total)


async def reset_entitlement(
    connection: AsyncConnection,
    terms: Terms,
    *,
    effective_at: datetime | None,
    retain_anchor: bool,
    preserve_overage: bool | None,
    target: Target,
    now: datetime,
) -> None:
    """Start a new usage period at `effective_at` (now, if None); grants roll over, usage starts at zero."""
    require_metered(terms)
    await lock_customer(connection, terms.customer_id)
    terms = await _again(connection, terms)
    at = minute(effective_at or now)
    if (effective_at or now) > now:
        raise InvalidInput(f"cannot reset at {at.isoformat()} in the future")
    last = terms.last_reset or terms.measure_usage_from
    assert last is not None
    assert terms.usage_period is not None
    if at <= last:
        raise InvalidInput(f"reset at {at.isoformat()} must be after last reset at {last.isoformat()}")
    period = terms.current_period(now)
    assert period is not None
    if at < period[0]:
        raise InvalidInput(f"reset at {at.isoformat()} is before the current usage period {period[0].isoformat()}")
    values = {
        "entitlement_id": terms.id,
        "effective_at": at,
        "anchor": (terms.last_anchor or terms.usage_period.anchor) if retain_anchor else at,
        "preserve_overage": terms.preserve_overage_at_reset if preserve_overage is None else preserve_overage,
        "created_at": now,
    }
    await connection.execute(insert(entitlement_resets).values(values))
    await _emit(connection, terms, target)


def require_metered(terms: Terms) -> None:
    if terms.type is not EntitlementType.METERED:
        raise InvalidInput(f"expected entitlement type metered but got {terms.type.value}")


async def _find(connection: AsyncConnection, namespace: str, grant_id: str) -> GrantTerms:
    query = select(grants).where(
        grants.c.namespace == namespace, grants.c.id == grant_id.upper(), grants.c.deleted_at.is_(None)
    )
    row = (await connection.execute(query)).mappings().first()
    if row is None:
        raise NotFound(f"grant not found: {grant_id}")
    return grant_of(row)


async def _again(connection: AsyncConnection, terms: Terms) -> Terms:
    """The entitlement as it is under the lock."""
    fresh = await read_one(connection, TERMS.where(entitlements.c.id == terms.id, entitlements.c.deleted_at.is_(None)))
    if fresh is None:
        raise NotFound(f"entitlement not found {terms.id} in namespace {terms.namespace}")
    return fresh


async def _emit(connection: AsyncConnection, terms: Terms, target: Target) -> None:
    if terms.active_to is None:
        await emit_for_customer(connection, terms.customer_id, target=target, feature_key=terms.feature_key)


def _check(draft: GrantDraft) -> None:
    if draft.amount <= 0:
        finding = Finding(
            "$.amount", "grant_amount_must_be_positive", "amount must be positive", {"amount": draft.amount}
        )
        raise InvalidInput("", [finding])
    if draft.effective_at == _ZERO_TIME:
        raise InvalidInput("", [Finding("$.effectiveAt", "grant_effective_at_must_be_set", "effective at must be set")])
    if draft.min_rollover < 0 or (draft.max_rollover is not None and draft.max_rollover < 0):
        raise InvalidInput("rollover amounts must not be negative")
