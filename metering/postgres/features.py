"""Features in Postgres. Nothing here commits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import RowMapping, Select, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.domain.errors import Conflict, InvalidInput, NotFound
from metering.domain.feature import COUNTABLE, Feature, dimension_filters
from metering.domain.ids import is_id, new_id
from metering.domain.meter_definition import MeterDefinition
from metering.postgres.meters import get_meter
from metering.postgres.paging import Found, Slice, fetch, ordered
from metering.postgres.tables import features, meters

ORDERS: Final = {
    "id": features.c.id,
    "key": features.c.key,
    "name": features.c.name,
    "createdAt": features.c.created_at,
    "updatedAt": features.c.updated_at,
}
_QUERY: Final = select(features, meters.c.slug.label("meter_slug")).outerjoin(
    meters, meters.c.id == features.c.meter_id
)


@dataclass(frozen=True, slots=True)
class FeatureDraft:
    """A feature as its owner sends it. `meter` is a slug or id."""

    key: str
    name: str
    meter: str | None = None
    filters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unit_cost: Mapping[str, Any] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


async def create_feature(connection: AsyncConnection, namespace: str, draft: FeatureDraft, *, now: datetime) -> Feature:
    if is_id(draft.key):
        raise InvalidInput("Feature key cannot be a valid ULID")
    meter_id = None
    columns: Sequence[str] = ()
    if draft.meter is not None:
        meter = await get_meter(connection, namespace, draft.meter)
        # Held until we commit, so that the meter isn't deleted beneath the feature.
        locked = select(meters.c.id).where(meters.c.id == meter.id, meters.c.deleted_at.is_(None))
        meter_id = (await connection.execute(locked.with_for_update(read=True))).scalar()
        if meter_id is None:
            raise NotFound(f"meter not found: {draft.meter}")
        columns = meter.meter().dimensions
        _check_meter(meter, draft)
    elif draft.filters:
        raise InvalidInput(
            "invalid filters for feature: a feature without a meter has no columns, available columns: []"
        )
    _check_unit_cost(draft, columns)
    values = {
        "id": new_id(),
        "namespace": namespace,
        "key": draft.key,
        "name": draft.name,
        "meter_id": meter_id,
        "filters": draft.filters,
        "unit_cost": draft.unit_cost,
        "metadata": dict(draft.metadata),
        "created_at": now,
        "updated_at": now,
    }
    made = insert(features).values(values).on_conflict_do_nothing().returning(features.c.id)
    feature_id = (await connection.execute(made)).scalar()
    if feature_id is None:
        live = await get_feature(connection, namespace, draft.key)
        raise Conflict(f"feature {live.id} with key {draft.key} already exists")
    return await get_feature(connection, namespace, feature_id)


async def get_feature(connection: AsyncConnection, namespace: str, id_or_key: str) -> Feature:
    """By id or key, live only; raises NotFound."""
    query = _live(namespace)
    query = query.where(
        or_(features.c.key == id_or_key, features.c.id == id_or_key.upper())
        if is_id(id_or_key)
        else features.c.key == id_or_key
    )
    row = (await connection.execute(query)).mappings().first()
    if row is None:
        raise NotFound(f"feature not found: {id_or_key}")
    return _feature(row)


async def list_features(
    connection: AsyncConnection,
    namespace: str,
    part: Slice,
    *,
    meter_slugs: Sequence[str] = (),
    include_archived: bool = False,
    order_by: str = "key",
    descending: bool = False,
) -> Found[Feature]:
    query = _QUERY.where(features.c.namespace == namespace) if include_archived else _live(namespace)
    if meter_slugs:
        query = query.where(meters.c.slug.in_(meter_slugs))
    rows, total = await fetch(connection, query, ordered(ORDERS[order_by], features.c.id, descending=descending), part)
    return Found(tuple(_feature(row) for row in rows), total)


async def archive_feature(connection: AsyncConnection, namespace: str, id_or_key: str, *, now: datetime) -> None:
    """Entitlements to it keep working; no new ones can be made, and the key is free."""
    feature = await get_feature(connection, namespace, id_or_key)
    await connection.execute(
        update(features)
        .where(features.c.id == feature.id, features.c.archived_at.is_(None))
        .values(archived_at=now, updated_at=now)
    )


def _check_meter(meter: MeterDefinition, draft: FeatureDraft) -> None:
    if meter.aggregation not in COUNTABLE:
        allowed = ", ".join(each.value for each in COUNTABLE)
        raise InvalidInput(
            f"meter {meter.slug}'s aggregation is {meter.aggregation.value} "
            f"but features can only be created for {allowed}"
        )
    columns = [name for name, _ in meter.group_by]
    for name in draft.filters:
        if name not in columns:
            raise InvalidInput(
                f"invalid filters for feature: {name} is no column, available columns: [{' '.join(columns)}]"
            )
    dimension_filters(draft.filters)


_LLM_CHOICES: Final = (("provider", "providerProperty"), ("model", "modelProperty"), ("tokenType", "tokenTypeProperty"))


def _check_unit_cost(draft: FeatureDraft, columns: Sequence[str]) -> None:
    cost = draft.unit_cost
    if cost is None or cost["type"] != "llm":
        return
    if draft.meter is None:
        raise InvalidInput("llm unit cost requires a meter")
    for fixed, from_property in _LLM_CHOICES:
        if (fixed in cost) == (from_property in cost):
            raise InvalidInput(f"llm unit cost requires exactly one of {fixed} and {from_property}")
        if from_property in cost and cost[from_property] not in columns:
            raise InvalidInput(f"llm unit cost {from_property} must be a group by key of the meter")


def _live(namespace: str) -> Select[Any]:
    return _QUERY.where(features.c.namespace == namespace, features.c.archived_at.is_(None))


def _feature(row: RowMapping) -> Feature:
    return Feature(
        id=row["id"],
        namespace=row["namespace"],
        key=row["key"],
        name=row["name"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        meter_id=row["meter_id"],
        meter_slug=row["meter_slug"],
        filters=row["filters"],
        unit_cost=row["unit_cost"],
        metadata=row["metadata"],
        archived_at=row["archived_at"],
    )
