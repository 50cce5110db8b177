"""Reading entitlements, their grants and their resets from Postgres."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from sqlalchemy import RowMapping, Select, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.domain.entitlement import Recurrence, Reset
from metering.domain.entitlement_terms import EntitlementType, Expiration, GrantTerms, Terms, UsagePeriod
from metering.domain.period import Interval
from metering.postgres.tables import customer_subjects, customers, entitlement_resets, entitlements, grants

_last = (
    select(entitlement_resets.c.effective_at, entitlement_resets.c.anchor)
    .where(entitlement_resets.c.entitlement_id == entitlements.c.id)
    .order_by(entitlement_resets.c.effective_at.desc())
    .limit(1)
    .lateral("last_reset")
)
_first_subject = (
    select(func.min(customer_subjects.c.subject))
    .where(
        customer_subjects.c.customer_id == entitlements.c.customer_id,
        customer_subjects.c.is_subject_key,
        customer_subjects.c.deleted_at.is_(None),
    )
    .scalar_subquery()
)

TERMS: Final[Select[Any]] = (
    select(
        entitlements,
        customers.c.key.label("customer_key"),
        _first_subject.label("subject_key"),
        _last.c.effective_at.label("last_reset"),
        _last.c.anchor.label("last_anchor"),
    )
    .join(customers, customers.c.id == entitlements.c.customer_id)
    .outerjoin(_last, onclause=entitlements.c.id == entitlements.c.id)
)


def active_at(query: Select[Any], at: datetime) -> Select[Any]:
    """Those neither deleted nor outside their time at `at`."""
    c = entitlements.c
    return query.where(c.deleted_at.is_(None), c.active_from <= at, or_(c.active_to.is_(None), c.active_to > at))


async def read_one(connection: AsyncConnection, query: Select[Any]) -> Terms | None:
    """The first row of a query on TERMS."""
    row = (await connection.execute(query.limit(1))).mappings().first()
    return terms_of(row) if row is not None else None


async def read_all(connection: AsyncConnection, query: Select[Any]) -> list[Terms]:
    return [terms_of(row) for row in (await connection.execute(query)).mappings()]


async def grants_of(connection: AsyncConnection, entitlement_ids: Iterable[str]) -> dict[str, list[GrantTerms]]:
    """The grants of each entitlement, voided ones too, by creation."""
    wanted = list(entitlement_ids)
    query = select(grants).where(grants.c.entitlement_id.in_(wanted), grants.c.deleted_at.is_(None))
    found: dict[str, list[GrantTerms]] = {each: [] for each in wanted}
    for row in (await connection.execute(query.order_by(grants.c.created_at, grants.c.id))).mappings():
        found[row["entitlement_id"]].append(grant_of(row))
    return found


async def resets_of(connection: AsyncConnection, entitlement_ids: Iterable[str]) -> dict[str, list[Reset]]:
    """The explicit resets of each entitlement, in time order."""
    wanted = list(entitlement_ids)
    c = entitlement_resets.c
    query = select(entitlement_resets).where(c.entitlement_id.in_(wanted)).order_by(c.effective_at)
    found: dict[str, list[Reset]] = {each: [] for each in wanted}
    for row in (await connection.execute(query)).mappings():
        found[row["entitlement_id"]].append(Reset(row["effective_at"], row["anchor"], row["preserve_overage"]))
    return found


def terms_of(row: RowMapping) -> Terms:
    """A row of TERMS."""
    interval, anchor = row["usage_period_interval"], row["usage_period_anchor"]
    return Terms(
        id=row["id"],
        namespace=row["namespace"],
        type=EntitlementType(row["type"]),
        customer_id=row["customer_id"],
        customer_key=row["customer_key"],
        subject_key=row["subject_key"],
        feature_id=row["feature_id"],
        feature_key=row["feature_key"],
        active_from=row["active_from"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        usage_period=UsagePeriod(Interval.parse(interval), anchor) if interval is not None else None,
        measure_usage_from=row["measure_usage_from"],
        is_soft_limit=row["is_soft_limit"],
        preserve_overage_at_reset=row["preserve_overage_at_reset"],
        issue_after_reset=row["issue_after_reset"],
        issue_after_reset_priority=row["issue_after_reset_priority"],
        last_reset=row["last_reset"],
        last_anchor=row["last_anchor"],
        config=row["config"],
        subscription_id=row["subscription_id"],
        metadata=row["metadata"],
        annotations=row["annotations"],
        active_to=row["active_to"],
        deleted_at=row["deleted_at"],
    )


def grant_of(row: RowMapping) -> GrantTerms:
    """A row of `grants`."""
    duration, interval = row["expiration_duration"], row["recurrence_interval"]
    return GrantTerms(
        id=row["id"],
        namespace=row["namespace"],
        entitlement_id=row["entitlement_id"],
        amount=row["amount"],
        priority=row["priority"],
        effective_at=row["effective_at"],
        min_rollover=row["min_rollover"],
        max_rollover=row["max_rollover"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        expiration=Expiration(duration, row["expiration_count"]) if duration is not None else None,
        expires_at=row["expires_at"],
        recurrence=Recurrence(Interval.parse(interval), row["recurrence_anchor"]) if interval is not None else None,
        issue_after_reset=row["issue_after_reset"],
        metadata=row["metadata"],
        annotations=row["annotations"],
        voided_at=row["voided_at"],
        deleted_at=row["deleted_at"],
    )
