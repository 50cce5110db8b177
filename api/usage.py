"""The store that answers questions about usage, as request handlers get it."""

from dataclasses import replace
from typing import Annotated

from fastapi import Depends

from api.services import Wired
from metering.clickhouse.usage import UsageStore


async def usage_of(services: Wired) -> UsageStore:
    """Answers from usage, or, by a setting, from raw events. Raises Unavailable."""
    return replace(await services.usage_store(), source=services.settings.answer_from)


Usage = Annotated[UsageStore, Depends(usage_of)]
