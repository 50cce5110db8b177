"""`/api/v1/meters/{meterIdOrSlug}/query` and the lists of what a meter has seen."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import AfterValidator, Field, WithJsonSchema

from api.requests import ExactRoute
from api.services import Services, Wired
from api.usage import Usage
from api.v1 import meter_lists
from api.v1.meter_rows import MeterQueryResult, csv_response, query_result, wants_csv
from api.v1.meters import IdOrSlug
from api.wire import Body, answers, instant, respond
from metering.clickhouse.usage import UsageStore
from metering.domain.errors import InvalidInput, NotFound
from metering.domain.filters import OneOf, StringFilter, parse_filter
from metering.domain.meter_definition import MeterDefinition
from metering.domain.usage import CUSTOMER_ID, SUBJECT, UsageQuery, UsageRow
from metering.domain.window import WindowSize, parse_zone
from metering.postgres.customers import customers_by_id
from metering.postgres.meters import get_meter
from metering.postgres.subjects import display_names

router = APIRouter(prefix="/api/v1/meters", tags=["Meters"], route_class=ExactRoute)
router.include_router(meter_lists.router)

_FILTER_PARAMETER: Final = re.compile(r"filterGroupBy\[(.*)\]", re.DOTALL)
_CUSTOMERS_MAX: Final = 100
_GROUPS_MAX: Final = 100
_SUBJECTS_MAX: Final = 100
_FILTERS_DOCUMENT: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": "filterGroupBy",
            "in": "query",
            "style": "deepObject",
            "description": "One value for each dimension, such as `filterGroupBy[model]=small`.",
            "schema": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    ]
}
_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {200: answers(MeterQueryResult)}
_RESPONSES[200]["content"]["text/csv"] = {"schema": {"type": "string"}}


def _instant_text(text: str) -> str:
    instant(text)
    return text


# Instants are kept as sent: the answer repeats them with their offset and fraction.
InstantText = Annotated[str, AfterValidator(_instant_text), WithJsonSchema({"type": "string", "format": "date-time"})]
ClientId = Annotated[str, Field(min_length=1, max_length=36)]


class MeterQueryRequest(Body):
    """A question about a meter's usage."""

    client_id: ClientId | None = None
    from_: Annotated[InstantText | None, Field(alias="from")] = None
    to: InstantText | None = None
    window_size: WindowSize | None = None
    window_time_zone: str | None = None
    subject: Annotated[list[str], Field(max_length=_SUBJECTS_MAX)] | None = None
    filter_customer_id: Annotated[list[str], Field(max_length=_CUSTOMERS_MAX)] | None = None
    filter_group_by: dict[str, list[str]] | None = None
    advanced_meter_group_by_filters: dict[str, Any] | None = None
    group_by: Annotated[list[str], Field(max_length=_GROUPS_MAX)] | None = None

    @property
    def groups(self) -> tuple[str, ...]:
        """What to group by, in the order of the columns. Filters by subject or customer group by it too."""
        asked = [name for name in self.group_by or () if name != SUBJECT]
        by_subject = self.subject is not None or SUBJECT in (self.group_by or ())
        by_customer = [CUSTOMER_ID] if self.filter_customer_id else []
        return tuple(dict.fromkeys([*([SUBJECT] if by_subject else []), *asked, *by_customer]))


@dataclass(frozen=True, slots=True)
class _Answered:
    meter: MeterDefinition
    query: UsageQuery
    rows: list[UsageRow]


@router.get("/{meterIdOrSlug}/query", operation_id="queryMeter", responses=_RESPONSES, openapi_extra=_FILTERS_DOCUMENT)
async def query_meter(
    request: Request,
    services: Wired,
    usage: Usage,
    id_or_slug: IdOrSlug,
    client_id: Annotated[ClientId | None, Query(alias="clientId")] = None,
    from_: Annotated[InstantText | None, Query(alias="from")] = None,
    to: Annotated[InstantText | None, Query()] = None,
    window_size: Annotated[WindowSize | None, Query(alias="windowSize")] = None,
    window_time_zone: Annotated[str | None, Query(alias="windowTimeZone")] = None,
    subject: Annotated[list[str] | None, Query()] = None,
    filter_customer_id: Annotated[list[str] | None, Query(alias="filterCustomerId", max_length=_CUSTOMERS_MAX)] = None,
    advanced: Annotated[str | None, Query(alias="advancedMeterGroupByFilters")] = None,
    group_by: Annotated[list[str] | None, Query(alias="groupBy", max_length=_GROUPS_MAX)] = None,
) -> Response:
    """Query a meter's usage, as JSON or, by the Accept header, as CSV."""
    asked = MeterQueryRequest.model_construct(
        client_id=client_id,
        from_=from_,
        to=to,
        window_size=window_size,
        window_time_zone=window_time_zone,
        subject=subject,
        filter_customer_id=filter_customer_id,
        filter_group_by=_filter_parameters(request),
        advanced_meter_group_by_filters=_advanced_parameter(advanced),
        group_by=group_by,
    )
    return await _respond(request, services, usage, id_or_slug, asked)


@router.post("/{meterIdOrSlug}/query", operation_id="queryMeterPost", responses=_RESPONSES)
async def query_meter_post(
    request: Request, services: Wired, usage: Usage, id_or_slug: IdOrSlug, body: MeterQueryRequest
) -> Response:
    """The same, asked by a body."""
    return await _respond(request, services, usage, id_or_slug, body)


async def _respond(
    request: Request, services: Services, usage: UsageStore, id_or_slug: str, asked: MeterQueryRequest
) -> Response:
    answered = await _answer(services, usage, id_or_slug, asked)
    if not wants_csv(request.headers.get("accept", "")):
        return respond(query_result(answered.query, answered.rows, from_text=asked.from_, to_text=asked.to))
    names: Mapping[str, str] = {}
    if SUBJECT in answered.query.group_by:
        async with services.engine.connect() as connection:
            names = await display_names(connection, services.namespace, _subjects(answered.rows))
    return csv_response(answered.meter.slug, answered.query, answered.rows, names)


def _subjects(rows: Iterable[UsageRow]) -> set[str]:
    return {row.subject for row in rows if row.subject is not None}


async def _answer(services: Services, usage: UsageStore, id_or_slug: str, asked: MeterQueryRequest) -> _Answered:
    async with services.engine.connect() as connection:
        meter = await get_meter(connection, services.namespace, id_or_slug)
    query = UsageQuery(
        meter.meter(),
        start=instant(asked.from_) if asked.from_ is not None else None,
        end=instant(asked.to) if asked.to is not None else None,
        window=asked.window_size,
        zone=parse_zone(asked.window_time_zone or ""),
        subjects=frozenset(asked.subject) if asked.subject else None,
        customers=await _customers(services, asked.filter_customer_id or ()),
        filters=_filters(meter, asked),
        group_by=asked.groups,
    )
    return _Answered(meter, query, await usage.query(query))


async def _customers(services: Services, ids: Iterable[str]) -> dict[str, frozenset[str]] | None:
    """The subjects of each customer as attributed now; None if none is asked for."""
    wanted = list(dict.fromkeys(ids))
    if not wanted:
        return None
    async with services.engine.connect() as connection:
        known = await customers_by_id(connection, services.namespace, wanted)
    found = {}
    for each in wanted:
        customer = known.get(each.upper())
        if customer is None or (customer.deleted_at is not None and customer.deleted_at <= services.now()):
            raise NotFound(f"customer with id {each} not found")
        if not customer.subjects:
            raise InvalidInput("usage attribution must have a key or subject keys")
        found[customer.id] = frozenset(customer.subjects)
    return found


def _filters(meter: MeterDefinition, asked: MeterQueryRequest) -> dict[str, StringFilter]:
    simple, advanced = asked.filter_group_by, asked.advanced_meter_group_by_filters
    if simple and advanced:
        raise InvalidInput("advanced meter group by filters and filter group by cannot be used together")
    names = {name for name, _ in meter.group_by}
    found: dict[str, StringFilter] = {}
    for name, values in (simple or {}).items():
        if name not in names:
            raise InvalidInput(f"invalid group by filter: {name}")
        if "" in values:
            raise InvalidInput(f"{name}: filter is invalid: format mismatch")
        if values:
            found[name] = OneOf(tuple(values))
    for name, value in (advanced or {}).items():
        if name not in names:
            raise InvalidInput(f"meter does not have group by: {name}")
        wanted = parse_filter(value, name)
        if wanted is not None:
            found[name] = wanted
    return found


def _filter_parameters(request: Request) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for parameter, value in request.query_params.multi_items():
        named = _FILTER_PARAMETER.fullmatch(parameter)
        if named is None:
            continue
        if named[1] in found:
            raise InvalidInput(f'parameter "filterGroupBy" in query has an error: {named[1]} is there twice')
        found[named[1]] = [value]
    return found


def _advanced_parameter(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, UnicodeError) as error:
        raise InvalidInput(
            "unmarshaling param advancedMeterGroupByFilters: "
            f"Error unmarshaling parameter advancedMeterGroupByFilters as JSON: {error}"
        ) from error
    if not isinstance(value, dict):
        raise InvalidInput("unmarshaling param advancedMeterGroupByFilters: value must be an object")
    return value
