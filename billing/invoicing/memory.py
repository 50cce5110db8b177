"""Readings of events held in memory: the twin of those out of ClickHouse, for tests and for trying plans out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from billing.domain.evidence import Reading, Scope, Tally, Used
from billing.domain.valuing import used
from metering.clickhouse.statement import microseconds
from metering.domain.columns import US_PER_MINUTE, EventColumns
from metering.domain.meter import Meter


@dataclass(slots=True)
class MemoryReadings:
    """`events` must each be there once. Every partition has flushed up to `reached`, if that is set."""

    events: EventColumns
    reached: datetime | None = None
    not_backfilled: set[str] = field(default_factory=set)

    async def offsets(self, cut: datetime) -> Mapping[int, int] | None:
        """One past the last offset before the cut, for partitions that have any."""
        if self.reached is None or self.reached < cut:
            return None
        found: dict[int, int] = {}
        for partition, offset, ingest in zip(
            self.events.partition, self.events.offset, self.events.ingest_us, strict=True
        ):
            if ingest < microseconds(cut):
                found[partition] = max(found.get(partition, 0), offset + 1)
        return found

    async def is_backfilled(self, meters: Sequence[Meter]) -> bool:
        return not any(meter.key in self.not_backfilled for meter in meters)

    async def shown(self, scope: Scope) -> tuple[Decimal, int]:
        reading = await self.proven(scope)
        return reading.quantity, reading.events

    async def proven(self, scope: Scope) -> Reading:
        tally = Tally()
        tally.add(self._used(scope, since=None))
        return tally.reading(scope.meter.aggregation)

    async def earliest(self, scope: Scope, since: datetime) -> datetime | None:
        first = min((event.order[0] for event in self._used(scope, since=since)), default=None)
        return None if first is None else datetime.fromtimestamp(first // US_PER_MINUTE * 60, UTC)

    def _used(self, scope: Scope, *, since: datetime | None) -> list[Used]:
        events, query = self.events, scope.query
        start, end = query.first_instant, query.last_instant
        kept = [
            n
            for n in range(len(events))
            if events.namespace[n] == scope.meter.namespace
            and events.type[n] == scope.meter.event_type
            and events.subject[n] in scope.subjects
            and (start is None or events.time_us[n] >= microseconds(start))
            and (end is None or events.time_us[n] < microseconds(end))
            and events.ingest_us[n] < microseconds(scope.cut)
            and (since is None or events.ingest_us[n] >= microseconds(since))
        ]
        return list(used(scope, events.take(kept))) if kept else []
