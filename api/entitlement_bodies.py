"""What requests of entitlements, grants and resets are made of, in both versions of the API."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field

from api.wire import Amount, Body, Flag, Instant, Integer, Key, Metadata, Positive, Ulid
from metering.domain.entitlement import Recurrence
from metering.domain.entitlement_terms import EntitlementType, Expiration, UsagePeriod
from metering.domain.errors import InvalidInput
from metering.domain.period import Interval
from metering.postgres.entitlements import EntitlementDraft
from metering.postgres.grants import GrantDraft

Priority = Annotated[Integer, Field(ge=0, le=255)]


class RecurringPeriodCreateInput(Body):
    """A period that recurs from an anchor. `interval` is DAY, WEEK, MONTH, YEAR or an ISO 8601 duration."""

    interval: str
    anchor: Instant | None = None


class ExpirationPeriod(Body):
    """A time to live."""

    duration: Literal["HOUR", "DAY", "WEEK", "MONTH", "YEAR"]
    count: Annotated[Integer, Field(ge=1, le=1000)]

    def value(self) -> Expiration:
        return Expiration(self.duration, self.count)


class EntitlementGrantCreateInputV2(Body):
    """A grant. Without an expiration it never ends; `maxRolloverAmount` defaults to the amount."""

    amount: Positive
    effective_at: Instant
    priority: Priority = 0
    expiration: ExpirationPeriod | None = None
    min_rollover_amount: Positive = Decimal(0)
    max_rollover_amount: Positive | None = None
    recurrence: RecurringPeriodCreateInput | None = None
    metadata: Metadata | None = None
    annotations: dict[str, Any] | None = None

    def draft(self) -> GrantDraft:
        recurrence = self.recurrence
        return GrantDraft(
            amount=self.amount,
            effective_at=self.effective_at,
            priority=self.priority,
            expiration=self.expiration.value() if self.expiration else None,
            min_rollover=self.min_rollover_amount,
            max_rollover=self.max_rollover_amount,
            recurrence=Recurrence(Interval.parse(recurrence.interval), recurrence.anchor or self.effective_at)
            if recurrence
            else None,
            metadata=self.metadata or {},
            annotations=self.annotations or {},
        )


class EntitlementGrantCreateInput(EntitlementGrantCreateInputV2):
    """A grant as v1 has it: it must expire, and `maxRolloverAmount` defaults to 0."""

    expiration: ExpirationPeriod
    max_rollover_amount: Positive | None = Decimal(0)


class IssueAfterReset(Body):
    """The amount that every usage period starts with."""

    amount: Positive
    priority: Priority | None = None


class EntitlementCreateInputs(Body):
    """An entitlement of any type; members that the type doesn't know are ignored."""

    type: EntitlementType
    feature_id: Ulid | None = None
    feature_key: Key | None = None
    metadata: Metadata | None = None
    usage_period: RecurringPeriodCreateInput | None = None
    config: str | None = None
    is_soft_limit: Flag = False
    measure_usage_from: Literal["CURRENT_PERIOD_START", "NOW"] | Instant | None = None
    preserve_overage_at_reset: Flag = False
    issue_after_reset: Positive | None = None
    issue_after_reset_priority: Priority | None = None

    def draft(self, now: datetime) -> EntitlementDraft:
        """Raises InvalidInput."""
        if self.issue_after_reset is None and self.issue_after_reset_priority is not None:
            raise InvalidInput("IssueAfterResetPriority requires IssueAfterReset")
        return self._draft(now, self.issue_after_reset, self.issue_after_reset_priority, ())

    def _draft(
        self, now: datetime, issue: Amount | None, priority: int | None, grants: Sequence[GrantDraft]
    ) -> EntitlementDraft:
        period = self.usage_period
        return EntitlementDraft(
            type=self.type,
            feature_id=self.feature_id,
            feature_key=self.feature_key,
            usage_period=UsagePeriod(Interval.parse(period.interval), period.anchor or now) if period else None,
            measure_usage_from=self.measure_usage_from or "NOW",
            is_soft_limit=self.is_soft_limit,
            preserve_overage_at_reset=self.preserve_overage_at_reset,
            issue_after_reset=Decimal(0) if issue is None else issue,
            issue_after_reset_priority=priority,
            grants=grants,
            config=self.config,
            metadata=self.metadata or {},
        )


class EntitlementV2CreateInputs(EntitlementCreateInputs):
    """The same in v2: with `issue`, which wins over `issueAfterReset`, or with first grants."""

    issue: IssueAfterReset | None = None
    grants: Annotated[list[EntitlementGrantCreateInputV2], Field(max_length=1000)] | None = None

    def draft(self, now: datetime) -> EntitlementDraft:
        if self.grants and (self.issue is not None or self.issue_after_reset is not None):
            raise InvalidInput("issueAfterReset and grants cannot be used together")
        amount, priority = self.issue_after_reset, self.issue_after_reset_priority
        if self.issue is not None:
            amount, priority = self.issue.amount, self.issue.priority
        if amount is None:
            priority = None
        return self._draft(now, amount, priority, tuple(grant.draft() for grant in self.grants or ()))


class ResetEntitlementUsageInput(Body):
    """How to start a new usage period."""

    effective_at: Instant | None = None
    retain_anchor: Flag = False
    preserve_overage: Flag | None = None
