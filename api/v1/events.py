"""`GET /api/v1/events`: the newest events of the last 32 days. Ingest owns POST."""

from datetime import datetime, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Query

from api.event_items import IngestedEvent, event_items, subjects_of_customers
from api.requests import ExactRoute
from api.services import Wired
from api.usage import Usage
from api.wire import Instant, Ulid, WireResponse, answers, respond, timestamp
from metering.clickhouse.event_list import EventFilter, list_events
from metering.domain.errors import InvalidInput
from metering.domain.filters import Compare
from metering.domain.time_filter import TimeCompare, TimeFilter

router = APIRouter(prefix="/api/v1/events", tags=["Events"], route_class=ExactRoute)

AGE_MAX: Final = timedelta(days=32)


@router.get("", operation_id="listEvents", responses={200: answers(list[IngestedEvent])})
async def list_v1(
    services: Wired,
    usage: Usage,
    from_: Annotated[Instant | None, Query(alias="from")] = None,
    to: Annotated[Instant | None, Query()] = None,
    ingested_from: Annotated[Instant | None, Query(alias="ingestedAtFrom")] = None,
    ingested_to: Annotated[Instant | None, Query(alias="ingestedAtTo")] = None,
    event_id: Annotated[str | None, Query(alias="id", description="Part of the id.")] = None,
    subject: Annotated[str | None, Query()] = None,
    customer_ids: Annotated[list[Ulid] | None, Query(alias="customerId")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 100,
    client_id: Annotated[str | None, Query(alias="clientId", min_length=1, max_length=36)] = None,
) -> WireResponse:
    """List ingested events, newest first, with what the live meters can't use of them."""
    del client_id
    now = services.now()
    _check(from_, to, now)
    _check(ingested_from, ingested_to, now)
    customers = await subjects_of_customers(services, customer_ids) if customer_ids else None
    wanted = EventFilter(
        services.namespace,
        time=_between(from_ or now - AGE_MAX, to),
        ingested_at=_between(ingested_from, ingested_to),
        id_contains=event_id,
        subjects=customers,
        texts={"subject": Compare("$eq", subject)} if subject is not None else {},
    )
    events = await list_events(usage.clickhouse, wanted, limit=limit)
    return respond(await event_items(services, events))


def _check(start: datetime | None, end: datetime | None, now: datetime) -> None:
    oldest = now - AGE_MAX
    if start is not None and start < oldest:
        raise InvalidInput(
            f"validate input: from date is too old: {timestamp(start)}, must be after {timestamp(oldest)}"
        )
    if start is not None and end is not None and end < start:
        raise InvalidInput(f"validate input: to date is before from date: {timestamp(end)} < {timestamp(start)}")


def _between(start: datetime | None, end: datetime | None) -> tuple[TimeFilter, ...]:
    """Compared at whole seconds; the end is not in it."""
    found: list[TimeFilter] = []
    if start is not None:
        found.append(TimeCompare("$gte", start.replace(microsecond=0)))
    if end is not None:
        found.append(TimeCompare("$lt", end.replace(microsecond=0)))
    return tuple(found)
