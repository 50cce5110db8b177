"""Meters in Postgres. Each change of a measuring rule goes to the registry in the same transaction.

Nothing here commits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, Final

from sqlalchemy import Select, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.domain.errors import Conflict, InvalidInput, NotFound
from metering.domain.ids import is_id, new_id
from metering.domain.meter import Aggregation
from metering.domain.meter_definition import MeterDefinition, check_rules
from metering.postgres.entitlement_changes import emit_for_meter, lock_customers_of_meter
from metering.postgres.meter_rows import meter_of
from metering.postgres.outbox import Target
from metering.postgres.registry import append_changes, meter_changed, meter_deleted
from metering.postgres.tables import backfills, entitlements, features, meters

LIST_MAX: Final = 1000
ORDERS: Final = {
    "key": meters.c.slug,
    "name": meters.c.name,
    "aggregation": meters.c.aggregation,
    "createdAt": meters.c.created_at,
    "updatedAt": meters.c.updated_at,
}


@dataclass(frozen=True, slots=True)
class MeterDraft:
    """A meter to be made. The name defaults to the slug."""

    slug: str
    event_type: str
    aggregation: Aggregation
    value_path: str | None = None
    group_by: Mapping[str, str] = field(default_factory=dict)
    name: str | None = None
    description: str | None = None
    event_from: datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


async def create_meter(
    connection: AsyncConnection, namespace: str, draft: MeterDraft, *, now: datetime, reserved: Sequence[str] = ()
) -> MeterDefinition:
    """Make a meter that counts from the sink's cut-over on; events before it are counted by a backfill."""
    check_event_type(draft.event_type, reserved)
    check_rules(draft.aggregation, draft.value_path, draft.group_by)
    definition = MeterDefinition(
        id=new_id(),
        namespace=namespace,
        version=1,
        slug=draft.slug,
        name=draft.name or draft.slug,
        event_type=draft.event_type,
        aggregation=draft.aggregation,
        value_path=draft.value_path,
        group_by=tuple(sorted(draft.group_by.items())),
        created_at=now,
        updated_at=now,
        description=draft.description,
        event_from=draft.event_from,
        metadata=draft.metadata,
    )
    made = await connection.execute(
        insert(meters).values(_values(definition)).on_conflict_do_nothing().returning(meters.c.id)
    )
    if made.first() is None:
        raise Conflict("meter with the same slug already exists")
    await _register(connection, definition)
    return definition


async def list_meters(
    connection: AsyncConnection,
    namespace: str,
    *,
    order_by: str = "key",
    descending: bool = False,
    include_deleted: bool = False,
) -> list[MeterDefinition]:
    """At most 1000 meters."""
    query = select(meters).where(meters.c.namespace == namespace)
    if not include_deleted:
        query = query.where(meters.c.deleted_at.is_(None))
    column = ORDERS[order_by]
    order = (column.desc(), meters.c.id.desc()) if descending else (column, meters.c.id)
    rows = await connection.execute(query.order_by(*order).limit(LIST_MAX))
    return [meter_of(row) for row in rows.mappings()]


async def get_meter(connection: AsyncConnection, namespace: str, id_or_slug: str) -> MeterDefinition:
    """By slug, live only; by id, deleted ones too. Raises NotFound."""
    return await _one(connection, _by(namespace, id_or_slug), id_or_slug)


async def update_meter(
    connection: AsyncConnection,
    namespace: str,
    id_or_slug: str,
    *,
    name: str | None,
    description: str | None,
    group_by: Mapping[str, str],
    metadata: Mapping[str, str],
    target: Target,
    now: datetime,
    reserved: Sequence[str] = (),
) -> MeterDefinition:
    """Replace name (None: the slug), group-by and metadata; a description of None is kept.

    Another group-by makes the next version, which is measured anew from all events.
    """
    old = await _one(connection, _by(namespace, id_or_slug).with_for_update(), id_or_slug)
    if old.deleted_at is not None:
        raise NotFound(f"meter not found: {id_or_slug}")
    check_event_type(old.event_type, reserved)
    check_rules(old.aggregation, old.value_path, group_by)
    pairs = tuple(sorted(group_by.items()))
    await _refuse_used_dimensions(connection, old, {key for key, _ in old.group_by} - set(group_by))
    measured_anew = pairs != old.group_by
    row = await connection.execute(
        update(meters)
        .where(meters.c.id == old.id)
        .values(
            name=name or old.slug,
            description=old.description if description is None else description,
            group_by=[list(pair) for pair in pairs],
            metadata=dict(metadata),
            version=old.version + 1 if measured_anew else old.version,
            updated_at=now,
        )
        .returning(meters)
    )
    new = meter_of(row.mappings().one())
    if measured_anew:
        await lock_customers_of_meter(connection, new.id)
        revision = await _register(connection, new)
        await emit_for_meter(connection, new.id, target=target, revision=revision)
    return new


async def delete_meter(
    connection: AsyncConnection, namespace: str, id_or_slug: str, *, now: datetime, reserved: Sequence[str] = ()
) -> None:
    """Mark it deleted; its events stay. Again by id does nothing; a meter in use is a Conflict."""
    meter = await _one(connection, _by(namespace, id_or_slug).with_for_update(), id_or_slug)
    if meter.deleted_at is not None:
        return
    check_event_type(meter.event_type, reserved)
    of_meter = select(features.c.id).where(features.c.meter_id == meter.id)
    live = of_meter.where(features.c.archived_at.is_(None)).limit(1)
    if (await connection.execute(live)).first() is not None:
        raise Conflict("meter has active features and cannot be deleted")
    entitled = select(entitlements.c.id).where(
        entitlements.c.feature_id.in_(of_meter), entitlements.c.deleted_at.is_(None), entitlements.c.active_to.is_(None)
    )
    if (await connection.execute(entitled.limit(1))).first() is not None:
        raise Conflict("meter has active entitlements and cannot be deleted")
    await connection.execute(update(meters).where(meters.c.id == meter.id).values(deleted_at=now, updated_at=now))
    await append_changes(connection, [meter_deleted(namespace, meter.id)])


def check_event_type(event_type: str, reserved: Sequence[str]) -> None:
    """Raise InvalidInput if the operator keeps this event type for the system. Patterns are shell-like."""
    for pattern in reserved:
        if fnmatchcase(event_type, pattern):
            raise InvalidInput(f"invalid event type: event type '{event_type}' matched reserved pattern '{pattern}'")


async def _register(connection: AsyncConnection, definition: MeterDefinition) -> int:
    meter = definition.meter()
    revision = await append_changes(connection, [meter_changed(meter)])
    await connection.execute(
        insert(backfills).values(meter_key=meter.key, namespace=definition.namespace, revision=revision)
    )
    return revision


async def _refuse_used_dimensions(connection: AsyncConnection, meter: MeterDefinition, removed: set[str]) -> None:
    if not removed:
        return
    live = select(features.c.key, features.c.filters).where(
        features.c.meter_id == meter.id, features.c.archived_at.is_(None)
    )
    for feature, filters in (await connection.execute(live.order_by(features.c.key))).all():
        for name in sorted(removed & set(filters)):
            raise Conflict(f"meter group by: {name} cannot be dropped because it is used by feature: {feature}")


def _by(namespace: str, id_or_slug: str) -> Select[Any]:
    query = select(meters).where(meters.c.namespace == namespace)
    if is_id(id_or_slug):
        return query.where(meters.c.id == id_or_slug.upper())
    return query.where(meters.c.slug == id_or_slug, meters.c.deleted_at.is_(None))


async def _one(connection: AsyncConnection, query: Select[Any], wanted: str) -> MeterDefinition:
    row = (await connection.execute(query)).mappings().first()
    if row is None:
        raise NotFound(f"meter not found: {wanted}")
    return meter_of(row)


def _values(definition: MeterDefinition) -> dict[str, object]:
    return {
        "id": definition.id,
        "namespace": definition.namespace,
        "version": definition.version,
        "slug": definition.slug,
        "name": definition.name,
        "description": definition.description,
        "event_type": definition.event_type,
        "event_from": definition.event_from,
        "aggregation": definition.aggregation.value,
        "value_path": definition.value_path,
        "group_by": [list(pair) for pair in definition.group_by],
        "metadata": dict(definition.metadata),
        "created_at": definition.created_at,
        "updated_at": definition.updated_at,
    }
