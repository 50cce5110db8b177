"""What commands that read usage need of the engines."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from metering.clickhouse.client import connect_async
from metering.clickhouse.usage import UsageStore
from metering.postgres.engine import async_engine
from metering.settings import EngineSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def engines(application: str) -> AsyncIterator[UsageStore]:
    """The store over connections of its own, by the settings of the environment."""
    settings = EngineSettings()
    clickhouse = await connect_async(settings)
    postgres = async_engine(settings, application=application)
    try:
        yield UsageStore(clickhouse, postgres, settings)
    finally:
        await postgres.dispose()
        await clickhouse.close()
