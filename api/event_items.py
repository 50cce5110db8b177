"""Stored events as both versions of the event list show them, with what is wrong with each by the live meters."""

from collections.abc import Container, Sequence
from dataclasses import replace

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from api.services import Services
from api.wire import Timestamp, Wire, timestamp
from metering.clickhouse.event_list import StoredEvent
from metering.domain.columns import EventColumns, measure
from metering.domain.errors import InvalidInput
from metering.domain.meter import Meter
from metering.postgres.customers import customers_by_id
from metering.postgres.meters import list_meters
from metering.postgres.tables import customer_subjects

JSON = "application/json"


class Event(Wire, rename="lower"):
    """A CloudEvent. `data` and its content type are there when it has data."""

    id: str
    source: str
    type: str
    subject: str
    time: Timestamp
    specversion: str = msgspec.field(default_factory=lambda: "1.0")
    datacontenttype: str | None = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class IngestedEvent(Wire):
    """An event, whose it is now, and what its meters can't use of it."""

    event: Event
    ingested_at: Timestamp
    stored_at: Timestamp
    customer_id: str | None = None
    validation_error: str | None = None


async def event_items(services: Services, events: Sequence[StoredEvent]) -> list[IngestedEvent]:
    """The events on the wire, in their order."""
    if not events:
        return []
    async with services.engine.connect() as connection:
        meters = [definition.meter() for definition in await list_meters(connection, services.namespace)]
        owners = await _owners(connection, services.namespace, {event.subject for event in events})
    errors = findings(events, meters, owners.keys())
    return [_item(event, owners.get(event.subject), errors[i]) for i, event in enumerate(events)]


async def subjects_of_customers(services: Services, ids: Sequence[str]) -> frozenset[str]:
    """All subjects of these customers; raises InvalidInput if one is not known."""
    async with services.engine.connect() as connection:
        known = await customers_by_id(connection, services.namespace, ids)
    live = {key: each for key, each in known.items() if each.deleted_at is None}
    missing = [each for each in ids if each.upper() not in live]
    if missing:
        raise InvalidInput(f"customers not found in namespace {services.namespace}: {', '.join(missing)[:1000]}")
    return frozenset(subject for each in live.values() for subject in each.subjects)


def findings(events: Sequence[StoredEvent], meters: Sequence[Meter], owned: Container[str]) -> list[str | None]:
    """For each event what is wrong with it: by its meters, then by its subject. `owned` holds subjects of customers."""
    # Before its first instant an event does not count for a meter, but its value is looked at all the same.
    by_type: dict[str, tuple[Meter, ...]] = {}
    for meter in meters:
        by_type[meter.event_type] = (*by_type.get(meter.event_type, ()), replace(meter, event_from=None))
    found: list[list[str]] = [[] for _ in events]
    for each in measure(_columns(events), lambda _namespace, kind: by_type.get(kind, ())).findings:
        found[each.row].append(f"invalid event: {each.message}")
    for texts, event in zip(found, events, strict=True):
        if event.type not in by_type:
            texts.append(f"no meter found for event type: {event.type}")
        if event.subject not in owned:
            texts.append(f"no customer found for event subject: {event.subject}")
    return ["\n".join(texts) if texts else None for texts in found]


def _columns(events: Sequence[StoredEvent]) -> EventColumns:
    return EventColumns(
        namespace=[""] * len(events),
        id=[event.id for event in events],
        source=[event.source for event in events],
        type=[event.type for event in events],
        subject=[event.subject for event in events],
        time_us=[event.place.time_us for event in events],
        data=[event.data.encode() for event in events],
        ingest_us=[event.place.ingest_ms * 1000 for event in events],
        partition=[event.place.partition for event in events],
        offset=[event.place.offset for event in events],
    )


async def _owners(connection: AsyncConnection, namespace: str, subjects: set[str]) -> dict[str, str]:
    c = customer_subjects.c
    query = select(c.subject, c.customer_id).where(
        c.namespace == namespace, c.subject.in_(sorted(subjects)), c.deleted_at.is_(None)
    )
    return {row.subject: row.customer_id for row in await connection.execute(query)}


def _item(event: StoredEvent, customer_id: str | None, error: str | None) -> IngestedEvent:
    has_data = event.data != "null"
    return IngestedEvent(
        event=Event(
            id=event.id,
            source=event.source,
            type=event.type,
            subject=event.subject,
            time=timestamp(event.time.replace(microsecond=0)),
            datacontenttype=JSON if has_data else None,
            data=msgspec.Raw(event.data.encode()) if has_data else msgspec.UNSET,
        ),
        ingested_at=timestamp(event.ingested_at.replace(microsecond=0)),
        stored_at=timestamp(event.stored_at.replace(microsecond=0)),
        customer_id=customer_id,
        validation_error=error,
    )
