"""Entitlements and grants as their owner sees them: all types, with names, times and metadata.

The balance fold takes less, a `metering.domain.entitlement.Entitlement`; see `Terms.folded`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from metering.domain.entitlement import DimensionFilter, Entitlement, Grant, Recurrence, Reset
from metering.domain.meter import Meter
from metering.domain.period import Interval, boundary, index_at, period_at

_MONTHS: Final = {"MONTH": 1, "YEAR": 12}
_EXACT: Final = {"HOUR": timedelta(hours=1), "DAY": timedelta(days=1), "WEEK": timedelta(weeks=1)}


class EntitlementType(StrEnum):
    """What an entitlement gives."""

    METERED = "metered"
    STATIC = "static"
    BOOLEAN = "boolean"


@dataclass(frozen=True, slots=True)
class UsagePeriod:
    """Usage is counted anew at every anchor + n * interval."""

    interval: Interval
    anchor: datetime


@dataclass(frozen=True, slots=True)
class Expiration:
    """A grant ends `count` times `duration` (HOUR, DAY, WEEK, MONTH, YEAR) after it became effective."""

    duration: str
    count: int

    def after(self, start: datetime) -> datetime:
        """The end. A day that the month doesn't have overflows into the next: 31 Jan + 1 month = 2 or 3 Mar."""
        if self.duration in _EXACT:
            return start + self.count * _EXACT[self.duration]
        month = start.month - 1 + self.count * _MONTHS[self.duration]
        first = start.replace(year=start.year + month // 12, month=month % 12 + 1, day=1)
        return first + timedelta(days=start.day - 1)


@dataclass(frozen=True, slots=True)
class GrantTerms:
    """A grant. `issue_after_reset` marks the one that an entitlement makes for itself."""

    id: str
    namespace: str
    entitlement_id: str
    amount: Decimal
    priority: int
    effective_at: datetime
    min_rollover: Decimal
    max_rollover: Decimal
    created_at: datetime
    updated_at: datetime
    expiration: Expiration | None = None
    expires_at: datetime | None = None
    recurrence: Recurrence | None = None
    issue_after_reset: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, Any] = field(default_factory=dict)
    voided_at: datetime | None = None
    deleted_at: datetime | None = None

    def next_recurrence(self, now: datetime) -> datetime | None:
        """The first recurrence at or after `now`."""
        if self.recurrence is None:
            return None
        anchor, interval = self.recurrence.anchor, self.recurrence.interval
        n = index_at(anchor, interval, now)
        start = boundary(anchor, interval, n)
        return start if start == now else boundary(anchor, interval, n + 1)

    def folded(self) -> Grant:
        """As the balance fold takes it."""
        return Grant(
            id=self.id,
            amount=self.amount,
            effective_at=self.effective_at,
            created_at=self.created_at,
            priority=self.priority,
            expires_at=self.expires_at,
            voided_at=self.voided_at,
            min_rollover=self.min_rollover,
            max_rollover=self.max_rollover,
            recurrence=self.recurrence,
        )


@dataclass(frozen=True, slots=True)
class Terms:
    """An entitlement of any type. The metered members are None or False in the others, `config` is the static one's.

    `customer_key` and `subject_key` (the first of the customer's subject keys) are those of now.
    """

    id: str
    namespace: str
    type: EntitlementType
    customer_id: str
    customer_key: str | None
    subject_key: str | None
    feature_id: str
    feature_key: str
    active_from: datetime
    created_at: datetime
    updated_at: datetime
    usage_period: UsagePeriod | None = None
    measure_usage_from: datetime | None = None
    is_soft_limit: bool = False
    preserve_overage_at_reset: bool = False
    issue_after_reset: Decimal | None = None
    issue_after_reset_priority: int | None = None
    last_reset: datetime | None = None
    last_anchor: datetime | None = None
    config: str | None = None
    subscription_id: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, Any] = field(default_factory=dict)
    active_to: datetime | None = None
    deleted_at: datetime | None = None

    def is_active(self, at: datetime) -> bool:
        """Whether it holds at `at`."""
        return self.active_from <= at and (self.active_to is None or at < self.active_to)

    def current_period(self, at: datetime) -> tuple[datetime, datetime] | None:
        """The usage period [start, end) at `at`; the first may be short, as is one after a reset."""
        if self.usage_period is None:
            return None
        start = self.last_reset or self.measure_usage_from or self.active_from
        anchor = self.last_anchor or self.usage_period.anchor
        begins, ends = period_at(anchor, self.usage_period.interval, max(at, start))
        return max(begins, start), ends

    def folded(
        self,
        meter: Meter,
        filters: Sequence[DimensionFilter],
        *,
        subjects: Sequence[str],
        revision: int,
        grants: Sequence[GrantTerms],
        resets: Sequence[Reset],
    ) -> Entitlement:
        """As the balance fold takes a metered one, with all that decides its balance."""
        assert self.usage_period is not None
        assert self.measure_usage_from is not None
        return Entitlement(
            id=self.id,
            namespace=self.namespace,
            customer_id=self.customer_id,
            feature_key=self.feature_key,
            meter_key=meter.key,
            aggregation=meter.aggregation,
            dimensions=meter.dimensions,
            filters=tuple(filters),
            subjects=tuple(subjects),
            revision=revision,
            measure_usage_from=self.measure_usage_from,
            interval=self.usage_period.interval,
            anchor=self.usage_period.anchor,
            active_from=self.active_from,
            active_to=self.active_to,
            is_soft_limit=self.is_soft_limit,
            preserve_overage_at_reset=self.preserve_overage_at_reset,
            grants=tuple(grant.folded() for grant in grants),
            resets=tuple(resets),
        )


def minute(at: datetime) -> datetime:
    """`at` in UTC, cut down to the minute."""
    return at.astimezone(UTC).replace(second=0, microsecond=0)
