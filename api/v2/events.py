"""`GET /api/v2/events`: all events, by filters, page by page with a cursor."""

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Query

from api.event_items import IngestedEvent, event_items, subjects_of_customers
from api.requests import ExactRoute
from api.services import Services, Wired
from api.usage import Usage
from api.wire import Wire, WireResponse, answers, instant, respond, timestamp
from metering.clickhouse.event_list import EventFilter, Place, StoredEvent, list_events
from metering.domain.errors import InvalidInput
from metering.domain.filters import Compare, OneOf, StringFilter, parse_filter
from metering.domain.time_filter import TimeFilter, parse_time_filter

router = APIRouter(prefix="/api/v2/events", tags=["Events"], route_class=ExactRoute)

_TEXTS: Final = ("id", "source", "subject", "type")
_TIMES: Final = ("time", "ingestedAt")
_CUSTOMER: Final = "customerId"
_ROW_ID: Final = re.compile(r"(\d{1,18})-(\d{1,18})-(\d{1,10})-(\d{1,19})", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class IngestedEventCursorPaginatedResponse(Wire):
    """A page. `nextCursor` is there exactly when the page is full."""

    items: list[IngestedEvent]
    next_cursor: str | None = None


@router.get("", operation_id="listEventsV2", responses={200: answers(IngestedEventCursorPaginatedResponse)})
async def list_v2(
    services: Wired,
    usage: Usage,
    cursor: Annotated[str | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 100,
    filter_: Annotated[str | None, Query(alias="filter", description="A JSON object of filters by member.")] = None,
    client_id: Annotated[str | None, Query(alias="clientId", min_length=1, max_length=36)] = None,
) -> WireResponse:
    """List ingested events, newest first, with what the live meters can't use of them."""
    del client_id
    after = None if cursor is None else parse_cursor(cursor)
    wanted = await _wanted(services, {} if filter_ is None else _object(filter_))
    events = await list_events(usage.clickhouse, wanted, limit=limit, after=after)
    page = IngestedEventCursorPaginatedResponse(
        items=await event_items(services, events),
        next_cursor=cursor_of(events[-1]) if len(events) == limit else None,
    )
    return respond(page)


def cursor_of(event: StoredEvent) -> str:
    """Where the next page goes on: base64 of `<event time, whole seconds>,<id of the row>`."""
    place = event.place
    row = f"{place.time_us}-{place.ingest_ms}-{place.partition}-{place.offset}"
    return b64encode(f"{timestamp(event.time.replace(microsecond=0))},{row}".encode()).decode()


def parse_cursor(text: str) -> Place:
    """Raises InvalidInput for anything that `cursor_of` does not make."""
    try:
        decoded = b64decode(text, validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"decode cursor: illegal base64 data: {error}") from error
    time, delimiter, row = decoded.partition(",")
    if not delimiter:
        raise InvalidInput("cursor is invalid: no delimiter found")
    parts = _ROW_ID.fullmatch(row)
    try:
        at = instant(time)
    except ValueError as error:
        raise InvalidInput(f"cursor is invalid: {error}") from error
    if parts is None:
        raise InvalidInput("cursor is invalid: malformed id")
    place = Place(*map(int, parts.groups()))
    if place.time_us // 1_000_000 != (at - _EPOCH) // timedelta(seconds=1):
        raise InvalidInput("cursor is invalid: time and id do not belong together")
    return place


def _object(text: str) -> dict[str, Any]:
    start = "unmarshaling param filter: Error unmarshaling parameter filter as JSON: "
    try:
        value = msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, UnicodeError) as error:
        raise InvalidInput(f"{start}{error}") from error
    if not isinstance(value, dict):
        raise InvalidInput(f"{start}value must be an object")
    for name, member in value.items():
        if name not in {*_TEXTS, *_TIMES, _CUSTOMER}:
            raise InvalidInput(f"validate input: unknown filter: {name[:100]}")
        if not isinstance(member, dict):
            raise InvalidInput(f"{start}{name} must be an object")
    return value


async def _wanted(services: Services, members: dict[str, Any]) -> EventFilter:
    texts: dict[str, StringFilter] = {}
    for name in _TEXTS:
        text = _text_filter(members, name)
        if text is not None:
            texts[name] = text
    customers = _text_filter(members, _CUSTOMER)
    return EventFilter(
        services.namespace,
        time=_time_filter(members, "time"),
        ingested_at=_time_filter(members, "ingestedAt"),
        subjects=None if customers is None else await subjects_of_customers(services, _ids(customers)),
        texts=texts,
    )


def _text_filter(members: dict[str, Any], name: str) -> StringFilter | None:
    with _named(name):
        return parse_filter(members.get(name, {}), name, nesting_max=1)


def _time_filter(members: dict[str, Any], name: str) -> tuple[TimeFilter, ...]:
    with _named(name):
        found = parse_time_filter(members.get(name, {}), name, instant)
    return () if found is None else (found,)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """A refusal in it is told as the member's."""
    try:
        yield
    except InvalidInput as error:
        text = error.detail.removeprefix(f"{name}: ")
        raise InvalidInput(f"validate input: {name}: validation error: {text}") from error


def _ids(wanted: StringFilter) -> tuple[str, ...]:
    match wanted:
        case Compare("$eq", value):
            return (value,)
        case OneOf(values, negated=False):
            return values
        case _:
            raise InvalidInput(f"validate input: {_CUSTOMER}: validation error: filter is invalid: only $eq and $in")
