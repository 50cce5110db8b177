"""What request handlers work with, made once at the start of the process."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncEngine

from api.settings import ApiSettings
from api.values import EntitlementValues
from metering.postgres.outbox import Target


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Services:
    """The settings, the database, what answers values, and the clock."""

    settings: ApiSettings
    engine: AsyncEngine
    values: EntitlementValues
    now: Callable[[], datetime] = _utc_now

    @property
    def namespace(self) -> str:
        """The one namespace of all requests."""
        return self.settings.default_namespace

    @property
    def entitlements_topic(self) -> Target:
        """Where the outbox sends changes of entitlements."""
        return Target(self.settings.entitlements_topic, self.settings.balance_partitions)


def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Wired = Annotated[Services, Depends(services_of)]
