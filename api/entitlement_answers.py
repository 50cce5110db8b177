"""Entitlements, grants and values as answers, in both versions of the API."""

from datetime import datetime
from typing import Any

import msgspec

from api.wire import Number, Timestamp, Wire, maybe_number, maybe_timestamp, timestamp
from metering.domain.entitlement_terms import EntitlementType, GrantTerms, Terms
from metering.domain.measure import json_number
from metering.domain.period import Interval

NEVER_YEARS = 100


class RecurringPeriod(Wire):
    """A period that recurs from an anchor."""

    anchor: Timestamp
    interval: str
    interval_iso: str = msgspec.field(name="intervalISO")


class Period(Wire, rename={"start": "from", "end": "to"}):
    """From start to end, the end not in it."""

    start: Timestamp
    end: Timestamp


class Issue(Wire):
    """What every usage period starts with."""

    amount: Number
    priority: int | None = None


class ExpirationAnswer(Wire):
    """A time to live."""

    duration: str
    count: int


class EntitlementAnswer(Wire, kw_only=True):
    """An entitlement of any type; which members there are depends on the type."""

    type: EntitlementType
    id: str
    feature_key: str
    feature_id: str
    active_from: Timestamp
    created_at: Timestamp
    updated_at: Timestamp
    is_soft_limit: bool | None = None
    preserve_overage_at_reset: bool | None = None
    issue_after_reset: Number | None = None
    issue_after_reset_priority: int | None = None
    measure_usage_from: Timestamp | None = None
    last_reset: Timestamp | None = None
    config: str | None = None
    usage_period: RecurringPeriod | None = None
    current_usage_period: Period | None = None
    metadata: dict[str, str] = {}
    annotations: dict[str, Any] = {}
    active_to: Timestamp | None = None
    deleted_at: Timestamp | None = None


class Entitlement(EntitlementAnswer, kw_only=True):
    """As v1 shows it: owned by a subject."""

    subject_key: str
    is_unlimited: bool | None = None


class EntitlementV2(EntitlementAnswer, kw_only=True):
    """As v2 shows it: owned by a customer."""

    customer_id: str
    customer_key: str | None = None
    issue: Issue | None = None


class EntitlementGrant(Wire):
    """A grant."""

    id: str
    entitlement_id: str
    amount: Number
    priority: int
    effective_at: Timestamp
    max_rollover_amount: Number
    min_rollover_amount: Number
    created_at: Timestamp
    updated_at: Timestamp
    expiration: ExpirationAnswer | None = None
    expires_at: Timestamp | None = None
    recurrence: RecurringPeriod | None = None
    next_recurrence: Timestamp | None = None
    metadata: dict[str, str] = {}
    annotations: dict[str, Any] = {}
    voided_at: Timestamp | None = None
    deleted_at: Timestamp | None = None


class EntitlementValue(Wire):
    """What may be used now. Only `hasAccess` is always there; `grantBalances` is v2's."""

    has_access: bool
    balance: Number | None = None
    usage: Number | None = None
    overage: Number | None = None
    total_available_grant_amount: Number | None = None
    config: str | None = None
    grant_balances: dict[str, Number] | None = None


def entitlement_v1(terms: Terms, now: datetime) -> Entitlement:
    metered = terms.type is EntitlementType.METERED
    return Entitlement(
        **_members(terms, now), subject_key=terms.subject_key or "", is_unlimited=False if metered else None
    )


def entitlement_v2(terms: Terms, now: datetime) -> EntitlementV2:
    issue = None
    if terms.issue_after_reset is not None:
        issue = Issue(amount=json_number(terms.issue_after_reset), priority=terms.issue_after_reset_priority)
    return EntitlementV2(
        **_members(terms, now), customer_id=terms.customer_id, customer_key=terms.customer_key, issue=issue
    )


def _members(terms: Terms, now: datetime) -> dict[str, Any]:
    metered = terms.type is EntitlementType.METERED
    period, usage_period = terms.current_period(now), terms.usage_period
    return {
        "type": terms.type,
        "id": terms.id,
        "feature_key": terms.feature_key,
        "feature_id": terms.feature_id,
        "active_from": timestamp(terms.active_from),
        "created_at": timestamp(terms.created_at),
        "updated_at": timestamp(terms.updated_at),
        "is_soft_limit": terms.is_soft_limit if metered else None,
        "preserve_overage_at_reset": terms.preserve_overage_at_reset if metered else None,
        "issue_after_reset": maybe_number(terms.issue_after_reset),
        "issue_after_reset_priority": terms.issue_after_reset_priority,
        "measure_usage_from": maybe_timestamp(terms.measure_usage_from),
        "last_reset": maybe_timestamp(terms.last_reset or terms.measure_usage_from),
        "config": terms.config,
        "usage_period": _recurring(usage_period.interval, usage_period.anchor) if usage_period else None,
        "current_usage_period": Period(start=timestamp(period[0]), end=timestamp(period[1])) if period else None,
        "metadata": dict(terms.metadata),
        "annotations": dict(terms.annotations),
        "active_to": maybe_timestamp(terms.active_to),
        "deleted_at": maybe_timestamp(terms.deleted_at),
    }


def grant_v1(grant: GrantTerms, now: datetime) -> EntitlementGrant:
    """v1 knows no grant without an end: one that never ends is shown to end in a hundred years."""
    shown = grant_v2(grant, now)
    if grant.expiration is None:
        shown.expiration = ExpirationAnswer(duration="YEAR", count=NEVER_YEARS)
        day = min(now.day, 28) if now.month == 2 else now.day  # noqa: PLR2004 - February
        shown.expires_at = timestamp(now.replace(year=now.year + NEVER_YEARS, day=day))
    return shown


def grant_v2(grant: GrantTerms, now: datetime) -> EntitlementGrant:
    expiration, recurrence = grant.expiration, grant.recurrence
    return EntitlementGrant(
        id=grant.id,
        entitlement_id=grant.entitlement_id,
        amount=json_number(grant.amount),
        priority=grant.priority,
        effective_at=timestamp(grant.effective_at),
        max_rollover_amount=json_number(grant.max_rollover),
        min_rollover_amount=json_number(grant.min_rollover),
        created_at=timestamp(grant.created_at),
        updated_at=timestamp(grant.updated_at),
        expiration=ExpirationAnswer(duration=expiration.duration, count=expiration.count) if expiration else None,
        expires_at=maybe_timestamp(grant.expires_at),
        recurrence=_recurring(recurrence.interval, recurrence.anchor) if recurrence else None,
        next_recurrence=maybe_timestamp(grant.next_recurrence(now)),
        metadata=dict(grant.metadata),
        annotations=dict(grant.annotations),
        voided_at=maybe_timestamp(grant.voided_at),
        deleted_at=maybe_timestamp(grant.deleted_at),
    )


def _recurring(interval: Interval, anchor: datetime) -> RecurringPeriod:
    return RecurringPeriod(anchor=timestamp(anchor), interval=interval.word(), interval_iso=interval.iso())
