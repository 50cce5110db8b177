"""What an entitlement is worth at an instant, by the pure fold over its stored usage."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from api.balances import CurrentBalances
from api.entitlement_answers import EntitlementValue
from metering.domain.burndown import Balance, value_at
from metering.domain.consumption import Point
from metering.domain.entitlement import Entitlement
from metering.domain.entitlement_terms import EntitlementType, Terms, minute
from metering.domain.measure import json_number
from metering.postgres.entitlement_changes import folded

NO_ACCESS = EntitlementValue(has_access=False)


class UsageByMinute(Protocol):
    """What reads an entitlement's usage: `metering.clickhouse.entitlement_usage.EntitlementUsage`."""

    async def now(
        self, entitlement: Entitlement, *, start: datetime | None = None, end: datetime | None = None
    ) -> dict[int, Point]:
        """All stored usage in [start, end) by minute since the epoch."""


@dataclass(frozen=True, slots=True)
class EntitlementValues:
    """Answers for any entitlement and any time, from Postgres and ClickHouse."""

    usage: UsageByMinute
    balances: CurrentBalances

    async def value(
        self,
        connection: AsyncConnection,
        terms: Terms,
        at: datetime,
        *,
        with_grants: bool = False,
        from_memory: bool = False,
    ) -> EntitlementValue | None:
        """The value at `at`, rounded up to a minute; None if the entitlement is not active then.

        `from_memory`: `at` is now, so a balance in memory will do.
        """
        if not terms.is_active(at):
            return None
        match terms.type:
            case EntitlementType.BOOLEAN:
                return EntitlementValue(has_access=True)
            case EntitlementType.STATIC:
                return EntitlementValue(has_access=True, config=terms.config)
            case EntitlementType.METERED:
                known = self.balances.value(terms.customer_id, terms.feature_key, at) if from_memory else None
                if known is not None:
                    return balance_wire(known, with_grants=with_grants)
                (entitlement,) = await folded(connection, [terms])
                return balance_wire(await self.balance(entitlement, at), with_grants=with_grants)

    async def balance(self, entitlement: Entitlement, at: datetime) -> Balance:
        """The balance at `at`, rounded up to a minute, from all usage since measurement began."""
        rounded = next_minute(at)
        start = min(entitlement.measure_usage_from, rounded)
        return value_at(entitlement, await self.usage.now(entitlement, start=start, end=rounded), rounded)


def next_minute(at: datetime) -> datetime:
    """`at` rounded up to a full minute, so that the running minute counts."""
    floor = minute(at)
    return floor if floor == at else floor + timedelta(minutes=1)


def balance_wire(balance: Balance, *, with_grants: bool) -> EntitlementValue:
    return EntitlementValue(
        has_access=balance.has_access,
        balance=json_number(balance.balance),
        usage=json_number(balance.usage),
        overage=json_number(balance.overage),
        total_available_grant_amount=json_number(balance.total_available),
        grant_balances={grant: json_number(left) for grant, left in balance.grant_balances.items()}
        if with_grants
        else None,
    )
