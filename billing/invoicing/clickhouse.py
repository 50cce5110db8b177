"""Readings of usage and raw events out of ClickHouse."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from clickhouse_connect.driver.asyncclient import AsyncClient

from billing.domain.evidence import Reading, Scope, Tally, Used, quantity
from metering.clickhouse.flushes import coverage, offsets_at
from metering.clickhouse.raw_events import events_where, read_events
from metering.clickhouse.statement import conjunction, instant, sql
from metering.clickhouse.usage import UsageStore
from metering.domain.columns import US_PER_MINUTE, EventColumns
from metering.domain.event import event_key
from metering.domain.filters import matches
from metering.domain.jsonpath import parse_path
from metering.domain.meter import Aggregation, Meter
from metering.domain.reading import Reader, dimension_texts, numbers, unique_texts
from metering.domain.usage import PartialState
from metering.settings import EngineSettings

_COUNTED: Final = Decimal(1)


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
            tally.add(_used(scope, columns))
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
            for event in _used(scope, columns):
                first = event.order[0] if first is None else min(first, event.order[0])
        return None if first is None else datetime.fromtimestamp(first // US_PER_MINUTE * 60, UTC)


def _used(scope: Scope, columns: EventColumns) -> Iterator[Used]:
    """The events of the block that the filters let through and whose value the meter can use."""
    meter = scope.meter
    kept = _passing(scope, columns)
    values: Sequence[Decimal | str | None]
    if meter.aggregation is Aggregation.COUNT:
        values = [_COUNTED] * len(columns)
    else:
        path = meter.value_path or "$"
        (found,) = Reader([parse_path(path)]).read(columns.data)
        read = unique_texts if meter.aggregation is Aggregation.UNIQUE_COUNT else numbers
        values = read(found, path)[0].to_list()
    for i in kept:
        value = values[i]
        if value is None:
            continue
        yield Used(
            key=event_key(columns.namespace[i], columns.source[i], columns.id[i]),
            value=value,
            order=(
                columns.time_us[i],
                columns.ingest_us[i] // US_PER_MINUTE,
                columns.partition[i],
                columns.offset[i],
            ),
        )


def _passing(scope: Scope, columns: EventColumns) -> Sequence[int]:
    if not scope.filters:
        return range(len(columns))
    paths = dict(scope.meter.group_by)
    reader = Reader([parse_path(paths[name]) for name, _ in scope.filters])
    texts = [dimension_texts(column).to_list() for column in reader.read(columns.data)]
    return [
        i
        for i in range(len(columns))
        if all(matches(condition, column[i]) for (_, condition), column in zip(scope.filters, texts, strict=True))
    ]
