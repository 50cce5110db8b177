"""`/api/v1/meters/{meterIdOrSlug}/subjects` and `.../group-by/{groupByKey}/values`: what a meter has seen."""

from datetime import datetime, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Query

from api.requests import ExactRoute
from api.services import Services, Wired
from api.usage import Usage
from api.v1.meters import IdOrSlug
from api.wire import Instant, WireResponse, answers, respond
from metering.clickhouse.seen import dimension_values, subjects_of_type
from metering.domain.errors import InvalidInput
from metering.domain.meter_definition import MeterDefinition
from metering.postgres.meters import get_meter

router = APIRouter(route_class=ExactRoute)

_DEFAULT_SPAN: Final = timedelta(hours=24)
_SPAN_MAX: Final = timedelta(days=30)
_AGE_MAX: Final = timedelta(days=90)

From = Annotated[Instant | None, Query(alias="from")]
To = Annotated[Instant | None, Query()]


@router.get("/{meterIdOrSlug}/subjects", operation_id="listMeterSubjects", responses={200: answers(list[str])})
async def list_subjects(
    services: Wired, usage: Usage, id_or_slug: IdOrSlug, from_: From = None, to: To = None
) -> WireResponse:
    """The subjects of events of the meter's type, sorted."""
    _check_order(from_, to)
    meter = await _meter(services, id_or_slug)
    return respond(await subjects_of_type(usage.clickhouse, meter.meter(), from_, to))


@router.get(
    "/{meterIdOrSlug}/group-by/{groupByKey}/values",
    operation_id="listMeterGroupByValues",
    responses={200: answers(list[str])},
)
async def list_values(
    services: Wired,
    usage: Usage,
    id_or_slug: IdOrSlug,
    groupByKey: str,  # noqa: N803 - the name of the path's part
    from_: From = None,
    to: To = None,
) -> WireResponse:
    """The values that a dimension had, sorted; a missing one is "". The last 24 hours, if nothing else is asked."""
    now = services.now()
    start, end = from_ or now - _DEFAULT_SPAN, to or now
    _check_order(start, end)
    if start < now - _AGE_MAX:
        raise InvalidInput("from must be within the last 90 days")
    if end - start > _SPAN_MAX:
        raise InvalidInput("the time range must not be longer than 30 days")
    meter = await _meter(services, id_or_slug)
    if groupByKey not in dict(meter.group_by):
        raise InvalidInput("group by key is not valid for this meter")
    return respond(await dimension_values(usage, meter.meter(), groupByKey, start, end))


def _check_order(start: datetime | None, end: datetime | None) -> None:
    if start is None or end is None:
        return
    if start == end:
        raise InvalidInput("from and to cannot be equal")
    if start > end:
        raise InvalidInput("from must be before to")


async def _meter(services: Services, id_or_slug: str) -> MeterDefinition:
    async with services.engine.connect() as connection:
        return await get_meter(connection, services.namespace, id_or_slug)
