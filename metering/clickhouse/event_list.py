"""Stored events, newest first, a page at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, assert_never

from clickhouse_connect.driver.asyncclient import AsyncClient

from metering.clickhouse.conditions import condition, contains
from metering.clickhouse.statement import (
    Sql,
    conjunction,
    disjunction,
    instant,
    integer,
    sql,
    text,
    texts,
)
from metering.domain.filters import StringFilter
from metering.domain.time_filter import TimeCompare, TimeEvery, TimeFilter, TimeSome

# A range that was written again may show its events twice until parts are merged: one of each place is taken.
_PAGE: Final = """
SELECT id, source, type, subject, time, data, ingest_time, stored_at,
    toUnixTimestamp64Micro(time), toUnixTimestamp64Milli(ingest_time), partition, offset
FROM events WHERE {where}
ORDER BY time DESC, ingest_time DESC, partition DESC, offset DESC
LIMIT 1 BY partition, offset
LIMIT {limit}"""
_BEHIND: Final = (
    "time <= fromUnixTimestamp64Micro({time}, 'UTC') AND "
    "(toUnixTimestamp64Micro(time), toUnixTimestamp64Milli(ingest_time), toInt64(partition), toInt64(offset)) "
    "< ({time}, {ingest}, {partition}, {offset})"
)
_TIME_OPERATORS: Final = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


@dataclass(frozen=True, slots=True)
class Place:
    """Where an event stands in the list. `time_us` and `ingest_ms` are since the epoch."""

    time_us: int
    ingest_ms: int
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as it was accepted. `data` is its JSON text, `null` for none."""

    id: str
    source: str
    type: str
    subject: str
    time: datetime
    data: str
    ingested_at: datetime
    stored_at: datetime
    place: Place


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events; everything named must hold. `texts` is by column: id, source, subject, type."""

    namespace: str
    time: tuple[TimeFilter, ...] = ()
    ingested_at: tuple[TimeFilter, ...] = ()
    id_contains: str | None = None
    subjects: frozenset[str] | None = None
    texts: Mapping[str, StringFilter] = field(default_factory=dict)


async def list_events(
    client: AsyncClient, wanted: EventFilter, *, limit: int, after: Place | None = None
) -> list[StoredEvent]:
    """At most `limit` events: by time, newest first, then newest stored first; those that stand behind `after`."""
    if wanted.subjects is not None and not wanted.subjects:
        return []
    conditions = _conditions(wanted)
    if after is not None:
        conditions.append(_behind(after))
    statement = sql(_PAGE, where=conjunction(conditions), limit=integer(limit)).render()
    rows = (await client.query(statement.text, statement.parameters)).result_rows
    return [_event(row) for row in rows]


def _event(row: Sequence[Any]) -> StoredEvent:
    event_id, source, kind, subject, time, data, ingested_at, stored_at, *place = row
    return StoredEvent(event_id, source, kind, subject, time, data, ingested_at, stored_at, Place(*place))


def _conditions(wanted: EventFilter) -> list[Sql]:
    found = [sql("namespace = {n}", n=text(wanted.namespace))]
    found += [_time_condition("time", each) for each in wanted.time]
    found += [_time_condition("ingest_time", each) for each in wanted.ingested_at]
    if wanted.id_contains:
        found.append(contains(sql("id"), wanted.id_contains))
    if wanted.subjects is not None:
        found.append(sql("subject IN {s}", s=texts(sorted(wanted.subjects))))
    columns = {name: sql(name) for name in ("id", "source", "subject", "type")}
    return found + [condition(columns[name], each) for name, each in wanted.texts.items()]


def _time_condition(column: str, wanted: TimeFilter) -> Sql:
    match wanted:
        case TimeCompare(operator, at):
            return sql(f"{column} {_TIME_OPERATORS[operator]} {{at}}", at=instant(at))
        case TimeEvery(filters):
            return conjunction([_time_condition(column, each) for each in filters])
        case TimeSome(filters):
            return disjunction([_time_condition(column, each) for each in filters])
    assert_never(wanted)


def _behind(place: Place) -> Sql:
    return sql(
        _BEHIND,
        time=integer(place.time_us),
        ingest=integer(place.ingest_ms),
        partition=integer(place.partition),
        offset=integer(place.offset),
    )
