"""What request handlers work with, made once at the start of the process."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncEngine

from api.balances import CurrentBalances
from api.clickhouse import ClickHouse
from api.settings import ApiSettings
from api.values import EntitlementValues
from metering.clickhouse.usage import UsageStore
from metering.postgres.outbox import Target


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Services:
    """The settings, the engines, what answers values, and the clock."""

    settings: ApiSettings
    engine: AsyncEngine
    clickhouse: ClickHouse
    balances: CurrentBalances
    values: EntitlementValues
    kafka_reachable: Callable[[float], Awaitable[bool]]
    now: Callable[[], datetime] = utc_now

    @property
    def namespace(self) -> str:
        """The one namespace of all requests."""
        return self.settings.default_namespace

    @property
    def entitlements_topic(self) -> Target:
        """Where the outbox sends changes of entitlements."""
        settings = self.settings
        return Target(settings.entitlements_topic, settings.balance_partitions, self.balances.pending.add)

    async def usage_store(self) -> UsageStore:
        """What answers usage queries; raises Unavailable."""
        return await self.clickhouse.usage_store()


def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Wired = Annotated[Services, Depends(services_of)]
