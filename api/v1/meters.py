"""`/api/v1/meters`: what is measured."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field

from api.pagination import Order
from api.requests import ExactRoute
from api.services import Wired
from api.wire import (
    NO_CONTENT,
    Body,
    Description,
    Instant,
    Key,
    Metadata,
    Name,
    Timestamp,
    Wire,
    WireResponse,
    answers,
    maybe_timestamp,
    respond,
    timestamp,
)
from metering.domain.errors import InvalidInput
from metering.domain.meter import Aggregation
from metering.domain.meter_definition import MeterDefinition
from metering.postgres.meters import MeterDraft, create_meter, delete_meter, get_meter, list_meters, update_meter

router = APIRouter(prefix="/api/v1/meters", tags=["Meters"], route_class=ExactRoute)

IdOrSlug = Annotated[
    str,
    Path(
        alias="meterIdOrSlug",
        pattern=r"^[a-z0-9]+(?:_[a-z0-9]+)*$|^[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}$",
        max_length=64,
    ),
]


class Meter(Wire):
    """A meter. `metadata` and `annotations` are null when empty."""

    id: str
    slug: str
    name: str
    aggregation: Aggregation
    event_type: str
    created_at: Timestamp
    updated_at: Timestamp
    metadata: dict[str, str] | None
    annotations: dict[str, str] | None
    description: str | None = None
    event_from: Timestamp | None = None
    value_property: str | None = None
    group_by: dict[str, str] = {}
    deleted_at: Timestamp | None = None


class MeterCreate(Body):
    slug: Key
    event_type: Annotated[str, Field(min_length=1)]
    aggregation: Aggregation
    name: Name | None = None
    description: Description | None = None
    event_from: Instant | None = None
    value_property: str | None = None
    group_by: dict[str, str] | None = None
    metadata: Metadata | None = None


class MeterUpdate(Body):
    name: Name | None = None
    description: Description | None = None
    group_by: dict[str, str] | None = None
    metadata: Metadata | None = None


def meter_wire(meter: MeterDefinition) -> Meter:
    return Meter(
        id=meter.id,
        slug=meter.slug,
        name=meter.name,
        aggregation=meter.aggregation,
        event_type=meter.event_type,
        created_at=timestamp(meter.created_at),
        updated_at=timestamp(meter.updated_at),
        metadata=dict(meter.metadata) or None,
        annotations=None,
        description=meter.description,
        event_from=maybe_timestamp(meter.event_from),
        value_property=meter.value_path,
        group_by=dict(meter.group_by),
        deleted_at=maybe_timestamp(meter.deleted_at),
    )


@router.post("", operation_id="createMeter", responses={200: answers(Meter)})
async def create(services: Wired, body: MeterCreate) -> WireResponse:
    """Create a meter. It counts the events from before too, as soon as they are gone through."""
    _check_description(body.description)
    draft = MeterDraft(
        slug=body.slug,
        event_type=body.event_type,
        aggregation=body.aggregation,
        value_path=body.value_property,
        group_by=body.group_by or {},
        name=body.name,
        description=body.description,
        event_from=body.event_from,
        metadata=body.metadata or {},
    )
    async with services.engine.begin() as connection:
        reserved = services.settings.reserved_event_types
        meter = await create_meter(connection, services.namespace, draft, now=services.now(), reserved=reserved)
    return respond(meter_wire(meter))


@router.get("", operation_id="listMeters", responses={200: answers(list[Meter])})
async def list_all(
    services: Wired,
    order_by: Annotated[
        Literal["key", "name", "aggregation", "createdAt", "updatedAt"], Query(alias="orderBy")
    ] = "key",
    order: Order = "ASC",
    include_deleted: Annotated[bool, Query(alias="includeDeleted")] = False,
) -> WireResponse:
    """List meters, at most 1000."""
    async with services.engine.connect() as connection:
        found = await list_meters(
            connection,
            services.namespace,
            order_by=order_by,
            descending=order == "DESC",
            include_deleted=include_deleted,
        )
    return respond([meter_wire(meter) for meter in found])


@router.get("/{meterIdOrSlug}", operation_id="getMeter", responses={200: answers(Meter)})
async def get(services: Wired, id_or_slug: IdOrSlug) -> WireResponse:
    async with services.engine.connect() as connection:
        meter = await get_meter(connection, services.namespace, id_or_slug)
    return respond(meter_wire(meter))


@router.put("/{meterIdOrSlug}", operation_id="updateMeter", responses={200: answers(Meter)})
async def update(services: Wired, id_or_slug: IdOrSlug, body: MeterUpdate) -> WireResponse:
    """Replace name, group-by and metadata. Another group-by has all events measured anew."""
    _check_description(body.description)
    async with services.engine.begin() as connection:
        meter = await update_meter(
            connection,
            services.namespace,
            id_or_slug,
            name=body.name,
            description=body.description,
            group_by=body.group_by or {},
            metadata=body.metadata or {},
            target=services.entitlements_topic,
            now=services.now(),
            reserved=services.settings.reserved_event_types,
        )
    return respond(meter_wire(meter))


@router.delete("/{meterIdOrSlug}", operation_id="deleteMeter", status_code=204, responses={204: NO_CONTENT})
async def delete(services: Wired, id_or_slug: IdOrSlug) -> None:
    async with services.engine.begin() as connection:
        reserved = services.settings.reserved_event_types
        await delete_meter(connection, services.namespace, id_or_slug, now=services.now(), reserved=reserved)


def _check_description(description: str | None) -> None:
    if description == "":
        raise InvalidInput("description must not be empty string")
