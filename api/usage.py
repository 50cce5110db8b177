"""The store that answers questions about usage, as request handlers get it. `app.state.usage` holds it."""

from typing import Annotated

from fastapi import Depends, Request

from metering.clickhouse.usage import UsageStore


def usage_of(request: Request) -> UsageStore:
    store: UsageStore = request.app.state.usage
    return store


Usage = Annotated[UsageStore, Depends(usage_of)]
