"""A metered entitlement as the balance fold sees it: what may be used, in which periods, out of which grants."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

from metering.domain.meter import Aggregation
from metering.domain.period import Interval


@dataclass(frozen=True, slots=True)
class Recurrence:
    """A grant's balance is set to its full amount at every boundary anchor + n * interval after it became effective."""

    interval: Interval
    anchor: datetime


@dataclass(frozen=True, slots=True)
class Grant:
    """An amount that usage may burn from `effective_at` until it expires or is voided.

    Instants are UTC, on a minute. `amount` > 0, in the meter's unit.
    """

    id: str
    amount: Decimal
    effective_at: datetime
    created_at: datetime
    priority: int = 0
    expires_at: datetime | None = None
    voided_at: datetime | None = None
    min_rollover: Decimal = Decimal(0)
    max_rollover: Decimal = Decimal(0)
    recurrence: Recurrence | None = None


@dataclass(frozen=True, slots=True)
class Reset:
    """An explicit reset at `effective_at`; `anchor` is the usage period's anchor from then on."""

    effective_at: datetime
    anchor: datetime
    preserve_overage: bool


@dataclass(frozen=True, slots=True)
class DimensionFilter:
    """Only usage whose dimension compares so counts. `operator` as in the API's string filters; values are texts."""

    dimension: str
    operator: Literal["$eq", "$ne", "$in", "$nin", "$like", "$nlike", "$ilike", "$nilike", "$gt", "$gte", "$lt", "$lte"]
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entitlement:
    """A metered entitlement with all that decides its balance.

    `meter_key` names the usage rows, `dimensions` the order of their `dims`; `filters` are ANDed. `anchor` is the usage
    period's anchor at creation; resets carry later ones. `subjects` are those whose usage counts, which holds from
    registry revision `revision` on. `issueAfterReset` is one of `grants` (min = max rollover = amount).
    """

    id: str
    namespace: str
    customer_id: str
    feature_key: str
    meter_key: str
    aggregation: Aggregation
    dimensions: tuple[str, ...]
    filters: tuple[DimensionFilter, ...]
    subjects: tuple[str, ...]
    revision: int
    measure_usage_from: datetime
    interval: Interval
    anchor: datetime
    active_from: datetime
    active_to: datetime | None = None
    is_soft_limit: bool = False
    preserve_overage_at_reset: bool = False
    grants: tuple[Grant, ...] = ()
    resets: tuple[Reset, ...] = ()
