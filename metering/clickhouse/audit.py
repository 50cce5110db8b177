"""Does everything add up? Ranges, what they say was counted, the events that are there, and the usage made of them."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from clickhouse_connect.driver.asyncclient import AsyncClient

from metering.clickhouse.flushes import coverage
from metering.clickhouse.statement import integer, sql
from metering.clickhouse.usage import UsageStore
from metering.domain.meter import Meter
from metering.domain.usage import SUBJECT, GroupKey, PartialState, UsageQuery
from metering.domain.window import WindowSize

DIFFERENCES_MAX: Final = 100  # of a check; more are counted only

# Ranges in order, each beside the end of the one before. A range that was written again must be the same.
_RANGES: Final = """
SELECT a, end, counted, duplicate, rejected, ticks, before, versions
FROM (
    SELECT *, lagInFrame(end, 1, toUInt64(0)) OVER (
        ORDER BY a ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS before
    FROM (
        SELECT a, max(f.end) AS end, any(f.counted) AS counted, any(f.duplicate) AS duplicate,
            any(f.rejected) AS rejected, any(f.ticks) AS ticks,
            uniqExact(f.end, f.counted, f.duplicate, f.rejected, f.ticks, f.revision, f.digest) AS versions
        FROM flushes AS f WHERE partition = {partition} GROUP BY a
    )
)
WHERE a != before OR end - a != counted + duplicate + rejected + ticks OR versions > 1
ORDER BY a LIMIT {limit}"""
_TOTALS: Final = """
SELECT count(), max(end), sum(counted), sum(duplicate), sum(rejected), sum(ticks)
FROM flushes FINAL WHERE partition = {partition}"""
_EVENTS: Final = """
SELECT f.a, f.end, f.counted, e.found
FROM (SELECT a, end, counted FROM flushes FINAL WHERE partition = {partition}) AS f
LEFT JOIN (
    SELECT r.a AS a, count() AS found
    FROM (SELECT partition, offset FROM events FINAL WHERE partition = {partition} AND offset < {end}) AS o
    ASOF JOIN (SELECT partition, a, end FROM flushes FINAL WHERE partition = {partition}) AS r
        ON o.partition = r.partition AND o.offset >= r.a
    GROUP BY r.a
) AS e ON e.a = f.a
WHERE f.counted != e.found
ORDER BY f.a LIMIT {limit}"""


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that does not add up."""

    check: str
    where: str
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class PartitionTotals:
    """What was flushed of a partition: accepted = counted + duplicate + rejected + ticks = `end`."""

    partition: int
    ranges: int
    end: int
    counted: int
    duplicate: int
    rejected: int
    ticks: int


@dataclass(frozen=True, slots=True)
class Step:
    """A finished check, with all that it found wrong."""

    name: str
    differences: tuple[Difference, ...]
    totals: PartitionTotals | None = None


async def audit(
    store: UsageStore, meters: Sequence[Meter], *, starting: Callable[[str], None] = lambda _name: None
) -> AsyncIterator[Step]:
    """Check each partition, then each meter, recounted from raw events as of what every partition has passed.

    `starting` is told what is checked next. Meters whose backfill is not done have no usage to check yet.
    """
    partitions = store.settings.event_partitions
    for partition in range(partitions):
        name = f"partition {partition}"
        starting(name)
        yield await _partition(store.clickhouse, partition, name)
    cut = (await coverage(store.clickhouse, partitions)).ingest_time.replace(second=0, microsecond=0)
    for meter in meters:
        if (await store.read_state(meter.key)).backfilled:
            name = f"meter {meter.slug}"
            starting(name)
            yield Step(name, tuple(await _recount(store, meter, cut, name)))


async def _partition(client: AsyncClient, partition: int, name: str) -> Step:
    totals = await _totals(client, partition)
    holes = {"partition": integer(partition), "limit": integer(DIFFERENCES_MAX), "end": integer(totals.end)}
    differences = []
    ranges = sql(_RANGES, **holes).render()
    for row in (await client.query(ranges.text, ranges.parameters)).result_rows:
        a, end, counted, duplicate, rejected, ticks, before, versions = row
        where = f"{name}, [{a}, {end})"
        if a != before:
            differences.append(Difference("ranges touch", where, f"start {before}", f"start {a}"))
        if versions > 1:
            differences.append(Difference("a range is written once, or the same again", where, "1", f"{versions} ways"))
        if end - a != counted + duplicate + rejected + ticks:
            parts = f"{counted} + {duplicate} + {rejected} + {ticks}"
            differences.append(Difference("accepted = counted + duplicate + rejected", where, str(end - a), parts))
    events = sql(_EVENTS, **holes).render()
    for a, end, counted, found in (await client.query(events.text, events.parameters)).result_rows:
        where = f"{name}, [{a}, {end})"
        differences.append(Difference("events has what was counted", where, str(counted), str(found)))
    return Step(name, tuple(differences), totals)


async def _totals(client: AsyncClient, partition: int) -> PartitionTotals:
    statement = sql(_TOTALS, partition=integer(partition)).render()
    return PartitionTotals(partition, *(await client.query(statement.text, statement.parameters)).result_rows[0])


async def _recount(store: UsageStore, meter: Meter, cut: datetime, name: str) -> list[Difference]:
    """What `usage` says against the same from raw events, by day, subject and dimensions."""
    query = UsageQuery(meter, window=WindowSize.DAY, group_by=(SUBJECT, *meter.dimensions), as_of=cut)
    shown = _merged(await store.states(query, source="usage"))
    counted = _merged(await store.states(query, source="events"))
    differences = []
    for key in sorted(shown.keys() | counted.keys(), key=str):
        expected = _figures(meter, counted.get(key, PartialState()))
        found = _figures(meter, shown.get(key, PartialState()))
        if expected != found:
            day = key.window.date() if key.window else ""
            where = f"{name}, {day}, {key.subject}, {', '.join(key.values)}"
            differences.append(Difference("usage is a recount of events", where, _text(expected), _text(found)))
            if len(differences) == DIFFERENCES_MAX:
                break
    return differences


def _merged(states: Sequence[tuple[GroupKey, PartialState]]) -> dict[GroupKey, PartialState]:
    merged: dict[GroupKey, PartialState] = {}
    for key, state in states:
        merged[key] = merged[key].merge(state) if key in merged else state
    return merged


_Figures = tuple[Decimal | None, int, int]


def _figures(meter: Meter, state: PartialState) -> _Figures:
    return state.value(meter.aggregation), state.events, state.count


def _text(figures: _Figures) -> str:
    value, events, count = figures
    return f"{value} of {count} in {events} events"
