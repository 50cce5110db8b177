"""The connection to ClickHouse, made when it is first needed: the API starts, and takes events, without it."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import Error
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.clickhouse.client import connect_async
from metering.clickhouse.entitlement_usage import EntitlementUsage
from metering.clickhouse.usage import UsageStore
from metering.domain.consumption import Point
from metering.domain.entitlement import Entitlement
from metering.domain.errors import Unavailable
from metering.settings import EngineSettings


@dataclass(slots=True)
class ClickHouse:
    """One pool for the process."""

    settings: EngineSettings
    engine: AsyncEngine
    _client: AsyncClient | None = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def client(self) -> AsyncClient:
        """The pool; raises Unavailable if there has been none yet and ClickHouse doesn't answer."""
        if self._client is None:
            async with self._lock:
                if self._client is None:
                    try:
                        self._client = await connect_async(self.settings)
                    except (Error, OSError) as error:
                        raise Unavailable("ClickHouse is away") from error
        return self._client

    async def usage_store(self) -> UsageStore:
        """What answers usage queries."""
        return UsageStore(await self.client(), self.engine, self.settings)

    async def now(
        self, entitlement: Entitlement, *, start: datetime | None = None, end: datetime | None = None
    ) -> dict[int, Point]:
        """The stored usage of an entitlement in [start, end), by minute since the epoch."""
        return await EntitlementUsage(await self.usage_store()).now(entitlement, start=start, end=end)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
