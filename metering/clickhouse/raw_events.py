"""Usage straight from raw events: measured by the same code as in the sink, block by block.

It answers what `usage` can't: parts of a minute, meters whose backfill is not done, and, in debugging, everything.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import polars as pl
import pyarrow as pa
from clickhouse_connect.driver.asyncclient import AsyncClient

from metering.clickhouse.statement import Sql, conjunction, instant, is_below, sql, text, texts
from metering.domain.columns import EventColumns, measure
from metering.domain.meter import Meter
from metering.domain.usage import Grouping, GroupKey, PartialState, UsageQuery

BLOCK_ROWS: Final = 65_536
_SETTINGS: Final = {"max_block_size": BLOCK_ROWS}

# A range that was written again may show its events twice until parts are merged: FINAL.
_EVENTS: Final = """
SELECT id, source, subject, toUnixTimestamp64Micro(time) AS time_us, data,
    toUnixTimestamp64Milli(ingest_time) * 1000 AS ingest_us, partition, offset
FROM events FINAL WHERE {where}"""


def events_where(
    meter: Meter,
    *,
    start: datetime | None,
    end: datetime | None,
    subjects: frozenset[str] | None = None,
    before: datetime | None = None,
) -> Sql:
    """Events of the meter's type in [start, end) of event time, ingested before `before`."""
    found = [sql("namespace = {n}", n=text(meter.namespace)), sql("type = {t}", t=text(meter.event_type))]
    if subjects is not None:
        found.append(sql("subject IN {s}", s=texts(sorted(subjects))))
    if start is not None:
        found.append(sql("time >= {t}", t=instant(start)))
    if end is not None:
        found.append(sql("time < {t}", t=instant(end)))
    if before is not None:
        found.append(sql("ingest_time < {t}", t=instant(before)))
    return conjunction(found)


async def states_from_events(
    client: AsyncClient,
    query: UsageQuery,
    start: datetime | None,
    end: datetime | None,
    *,
    below: Mapping[int, int] | None = None,
) -> AsyncIterator[tuple[GroupKey, PartialState]]:
    """What the events in [start, end) come to, a few states for each key; with `below`, those at smaller offsets."""
    grouping = Grouping(query)
    where = events_where(query.meter, start=start, end=end, subjects=query.subjects_asked, before=query.as_of)
    if below is not None:
        where = conjunction([where, is_below(sql("offset"), below)])
    async for columns in read_events(client, query.meter, where):
        usage = measure(columns, lambda _namespace, _type: (query.meter,)).usage
        for key, state in _states(usage, grouping):
            yield key, state


async def read_events(client: AsyncClient, meter: Meter, where: Sql) -> AsyncIterator[EventColumns]:
    """Events of the meter's type in blocks, in the order of storage."""
    statement = sql(_EVENTS, where=where).render()
    stream = await client.query_arrow_stream(statement.text, statement.parameters, settings=_SETTINGS, use_strings=True)
    async with stream:
        async for batch in stream:
            yield _columns(batch, meter)


def _columns(batch: pa.RecordBatch | pa.Table, meter: Meter) -> EventColumns:
    names = ("id", "source", "subject", "time_us", "data", "ingest_us", "partition", "offset")
    lists: dict[str, list[Any]] = {name: batch.column(name).to_pylist() for name in names}
    return EventColumns(
        namespace=[meter.namespace] * batch.num_rows,
        type=[meter.event_type] * batch.num_rows,
        id=lists["id"],
        source=lists["source"],
        subject=lists["subject"],
        time_us=lists["time_us"],
        data=[each.encode() for each in lists["data"]],
        ingest_us=lists["ingest_us"],
        partition=lists["partition"],
        offset=lists["offset"],
    )


def _states(usage: pl.DataFrame, grouping: Grouping) -> Iterator[tuple[GroupKey, PartialState]]:
    merged: dict[GroupKey, PartialState] = {}
    for row in usage.iter_rows(named=True):
        key = grouping.key_of(row["subject"], tuple(row["dims"]), row["minute"])
        if key is None:
            continue
        state = PartialState(
            events=row["events"],
            count=row["count"],
            sum=Decimal(row["sum"]),
            min=row["min"],
            max=row["max"],
            latest=row["latest"],
            latest_order=(row["latest_time"], row["ingest_minute"], row["partition"], row["latest_offset"]),
            uniques=frozenset(row["uniques"]),
            first_minute=row["minute"],
            last_minute=row["minute"],
        )
        known = merged.get(key)
        merged[key] = state if known is None else known.merge(state)
    yield from merged.items()
