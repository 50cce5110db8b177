"""Readings of usage and raw events out of ClickHouse."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from clickhouse_connect.driver.asyncclient import AsyncClient

from billing.domain.evidence import Reading, Scope, Tally, quantity
from billing.domain.valuing import used
from metering.clickhouse.flushes import coverage, offsets_at
from metering.clickhouse.raw_events import events_where, read_events
from metering.clickhouse.statement import conjunction, instant, sql
from metering.clickhouse.usage import UsageStore
from metering.domain.columns import US_PER_MINUTE
from metering.domain.meter import Meter
from metering.domain.usage import PartialState
from metering.settings import EngineSettings


@dataclass(frozen=True, slots=True)
class ClickHouseReadings:
    """Reads both tables. Holds nothing but connections."""

    clickhouse: AsyncClient
    usage: UsageStore
    settings: EngineSettings

    async def offsets(self, cut: datetime) -> Mapping[int, int] | None:
        partitions = self.settings.event_partitions
        if not (await coverage(self.clickhouse, partitions)).passed(cut):
            return None
        return await offsets_at(self.clickhouse, cut, partitions)

    async def is_backfilled(self, meters: Sequence[Meter]) -> bool:
        return all([(await self.usage.read_state(meter.key)).backfilled for meter in meters])

    async def shown(self, scope: Scope) -> tuple[Decimal, int]:
        state = PartialState()
        for _, part in await self.usage.states(scope.query, source="usage"):
            state = state.merge(part)
        return quantity(state, scope.meter.aggregation), state.count

    async def proven(self, scope: Scope) -> Reading:
        tally = Tally()
        query = scope.query
        where = events_where(
            scope.meter,
            start=query.first_instant,
            end=query.last_instant,
            subjects=query.subjects_asked,
            before=scope.cut,
        )
        async for columns in read_events(self.clickhouse, scope.meter, where):
            tally.add(used(scope, columns))
        return tally.reading(scope.meter.aggregation)

    async def earliest(self, scope: Scope, since: datetime) -> datetime | None:
        query = scope.query
        asked = events_where(
            scope.meter,
            start=query.first_instant,
            end=query.last_instant,
            subjects=query.subjects_asked,
            before=scope.cut,
        )
        where = conjunction([asked, sql("ingest_time >= {t}", t=instant(since))])
        first: int | None = None
        async for columns in read_events(self.clickhouse, scope.meter, where):
            for event in used(scope, columns):
                first = event.order[0] if first is None else min(first, event.order[0])
        return None if first is None else datetime.fromtimestamp(first // US_PER_MINUTE * 60, UTC)
