"""The usage that an entitlement's balance is folded from: minute by minute, of its subjects, through its filters."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import select

from metering.clickhouse.buckets import Steps
from metering.clickhouse.raw_events import states_from_events
from metering.clickhouse.usage import UsageStore, state_of
from metering.clickhouse.usage_select import UsageSelect
from metering.domain.consumption import Latest, Point, add, digest, minute_of
from metering.domain.entitlement import Entitlement
from metering.domain.errors import NotFound
from metering.domain.filters import Every, StringFilter, filter_of
from metering.domain.meter import Aggregation, Meter
from metering.domain.usage import PartialState, UsageQuery
from metering.domain.window import WindowSize
from metering.postgres.registry import meter_of_payload
from metering.postgres.tables import registry_changes

_MINUTES: Final = Steps(60)


@dataclass(frozen=True, slots=True)
class EntitlementUsage:
    """Reads the usage of entitlements. Minutes without usage are left out."""

    store: UsageStore

    async def below(
        self,
        entitlement: Entitlement,
        offsets: Mapping[int, int],
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> dict[int, Point]:
        """Usage in [start, end), bounds on a minute, out of the ranges below `offsets` (W, as `coverage` gives it).

        It is exact for offsets that lie on the borders of flushed ranges, as W does.
        """
        return await self._read(entitlement, start, end, offsets)

    async def now(
        self, entitlement: Entitlement, *, start: datetime | None = None, end: datetime | None = None
    ) -> dict[int, Point]:
        """All usage in [start, end), bounds on a minute, that is stored now."""
        return await self._read(entitlement, start, end, None)

    async def _read(
        self, entitlement: Entitlement, start: datetime | None, end: datetime | None, below: Mapping[int, int] | None
    ) -> dict[int, Point]:
        state = await self.store.read_state(entitlement.meter_key)
        if not state.backfilled or self.store.source == "events":
            query = _query(entitlement, await self._meter(entitlement.meter_key), start, end)
            found: dict[int, Point] = {}
            async for key, part in states_from_events(self.store.clickhouse, query, start, end, below=below):
                assert key.window is not None
                _add(found, entitlement.aggregation, minute_of(key.window), part)
            return found
        names = entitlement.dimensions
        wanted = UsageSelect(
            namespace=entitlement.namespace,
            meter=entitlement.meter_key,
            aggregation=entitlement.aggregation,
            start=start,
            end=end,
            subjects=tuple(sorted(entitlement.subjects)),
            filters=tuple((names.index(each.dimension), filter_of(each)) for each in entitlement.filters),
            buckets=_MINUTES,
            closed_until=state.closed_until,
            months_until=state.months_until,
            below=below,
        )
        points: dict[int, Point] = {}
        for bucket, first, last, *merged in await self.store.read(wanted):
            used = state_of(dict(zip(wanted.merged, merged, strict=True)), first, last)
            _add(points, entitlement.aggregation, bucket // 60, used)
        return points

    async def _meter(self, key: str) -> Meter:
        """The meter at the version that `key` names, from the registry's log: it may be gone by now."""
        meter_id, _, version = key.rpartition(".")
        query = select(registry_changes.c.namespace, registry_changes.c.payload).where(
            registry_changes.c.kind == "meter",
            registry_changes.c.key == meter_id,
            registry_changes.c.payload["version"].as_integer() == int(version),
        )
        async with self.store.postgres.connect() as connection:
            row = (await connection.execute(query.limit(1))).first()
        if row is None:
            raise NotFound(f"meter not found: {key}")
        return meter_of_payload(row.namespace, row.payload)


def _query(entitlement: Entitlement, meter: Meter, start: datetime | None, end: datetime | None) -> UsageQuery:
    filters: dict[str, StringFilter] = {}
    for each in entitlement.filters:
        wanted = filter_of(each)
        known = filters.get(each.dimension)
        filters[each.dimension] = wanted if known is None else Every((known, wanted))
    subjects = frozenset(entitlement.subjects)
    return UsageQuery(meter, start, end, window=WindowSize.MINUTE, subjects=subjects, filters=filters)


def _add(points: dict[int, Point], aggregation: Aggregation, minute: int, state: PartialState) -> None:
    used = _point(aggregation, state)
    if used is not None:
        add(points, minute, used)


def _point(aggregation: Aggregation, state: PartialState) -> Point | None:
    match aggregation:
        case Aggregation.COUNT | Aggregation.SUM:
            return state.value(aggregation) if state.count else None
        case Aggregation.UNIQUE_COUNT:
            return frozenset(map(digest, state.uniques)) or None
        case Aggregation.LATEST:
            return None if state.latest is None else Latest(*state.latest_order, state.latest)
        case _:
            raise ValueError(f"no balance is kept of a meter with aggregation {aggregation}")
