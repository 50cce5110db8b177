"""Usage answered from raw events: what every other way of answering must equal."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

import polars as pl

from metering.domain.columns import US_PER_MINUTE, EventColumns, measure
from metering.domain.usage import Grouping, GroupKey, PartialState, UsageQuery, UsageRow, answer

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def answer_from_events(query: UsageQuery, events: EventColumns) -> list[UsageRow]:
    """The rows of a query. `events` may hold more than the query asks for, but each event once."""
    return answer(query, states_of(query, measure(_asked(query, events), lambda _n, _t: (query.meter,)).usage))


def states_of(query: UsageQuery, usage: pl.DataFrame) -> Iterator[tuple[GroupKey, PartialState]]:
    """Rows in the columns of `rows.USAGE_SCHEMA` as states; the query's times are taken as already applied."""
    grouping = Grouping(query)
    for row in usage.iter_rows(named=True):
        key = grouping.key_of(row["subject"], tuple(row["dims"]), row["minute"])
        if key is None:
            continue
        yield (
            key,
            PartialState(
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
            ),
        )


def _asked(query: UsageQuery, events: EventColumns) -> EventColumns:
    """The events of the meter's type in the query's times and of its subjects."""
    namespace, event_type = query.namespace, query.meter.event_type
    first, last = _us(query.first_instant), _us(query.last_instant)
    cut = _us(query.as_of)
    before = None if cut is None else cut // US_PER_MINUTE * US_PER_MINUTE
    subjects = query.subjects_asked
    kept = [
        i
        for i in range(len(events))
        if events.type[i] == event_type
        and events.namespace[i] == namespace
        and (first is None or events.time_us[i] >= first)
        and (last is None or events.time_us[i] < last)
        and (before is None or events.ingest_us[i] < before)
        and (subjects is None or events.subject[i] in subjects)
    ]
    return events.take(kept)


def _us(instant: datetime | None) -> int | None:
    return None if instant is None else (instant - _EPOCH) // timedelta(microseconds=1)
