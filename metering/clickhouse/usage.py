"""Answers to questions about usage, out of ClickHouse.

    store = UsageStore(clickhouse, postgres, settings)
    rows = await store.query(UsageQuery(meter, start=..., end=..., window=WindowSize.DAY, group_by=("subject",)))

Whole minutes are answered from `usage` and `usage_closed`, the parts of a minute at both ends from raw events; what the
two bring is merged as partial states. A meter whose backfill is not done is answered from raw events, and so is
everything when the store is made with `source="events"`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from clickhouse_connect.driver.asyncclient import AsyncClient
from sqlalchemy import literal, select
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.clickhouse.buckets import is_whole, needs_bounds, pieces
from metering.clickhouse.raw_events import states_from_events
from metering.clickhouse.usage_select import UsageSelect
from metering.domain.errors import InvalidInput
from metering.domain.usage import CUSTOMER_ID, SUBJECT, GroupKey, PartialState, UsageQuery, UsageRow, answer
from metering.domain.window import window_at
from metering.postgres.tables import backfills, closing
from metering.settings import EngineSettings

Source = Literal["usage", "events"]
States = list[tuple[GroupKey, PartialState]]

ROWS_MAX: Final = 1_000_000
_MINUTE: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class ReadState:
    """Whether a meter can be read from `usage` yet, and up to where from `usage_closed`, and from `usage_months`."""

    backfilled: bool
    closed_until: datetime | None
    months_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class UsageStore:
    """Reads usage. Holds nothing but the two connections; safe for many queries at once."""

    clickhouse: AsyncClient
    postgres: AsyncEngine
    settings: EngineSettings
    source: Source = "usage"

    async def query(self, query: UsageQuery, *, source: Source | None = None) -> list[UsageRow]:
        """The rows by window, subject, customer, group values. Raises InvalidInput if they were too many to send."""
        return answer(query, await self.states(query, source=source))

    async def states(self, query: UsageQuery, *, source: Source | None = None) -> States:
        """What `answer` makes rows of; besides values, it knows the number of events."""
        query = _on_minutes(query)
        asked = query.subjects_asked
        if asked is not None and not asked:
            return []
        state = await self.read_state(query.meter.key)
        if (source or self.source) == "events" or not state.backfilled:
            return [found async for found in states_from_events(self.clickhouse, query, *_bounds(query))]
        found: States = []
        start, end = _whole_minutes(query)
        edges = list(_edges(query))
        for edge in edges:
            found += [pair async for pair in states_from_events(self.clickhouse, query, *edge)]
        if start is None or end is None or start < end:
            found += await self._from_usage(query, start, end, state, alone=not edges)
        return found

    async def read_state(self, meter_key: str) -> ReadState:
        """How the meter of this key can be read now."""
        c, b = closing.c, backfills.c
        one = select(literal(1).label("one")).subquery()
        both = one.outerjoin(closing, c.topic == self.settings.events_topic).outerjoin(
            backfills, b.meter_key == meter_key
        )
        statement = select(c.closed_until, c.months_until, b.meter_key, b.done_at, b.closed_at).select_from(both)
        async with self.postgres.connect() as connection:
            closed_until, months_until, key, done_at, closed_at = (await connection.execute(statement)).one()
        folded = key is None or closed_at is not None
        return ReadState(
            backfilled=key is None or done_at is not None,
            closed_until=_utc(closed_until) if folded else None,
            months_until=_utc(months_until) if folded else None,
        )

    async def _from_usage(
        self, query: UsageQuery, start: datetime | None, end: datetime | None, state: ReadState, *, alone: bool
    ) -> States:
        whole = _select(query, start, end, state)
        if query.window is None:
            return await self._run(query, replace(whole, count_distinct=alone))
        if (start is None or end is None) and needs_bounds(query.window, query.zone):
            start, end = await self._span(whole)
        found: States = []
        for piece in pieces(start, end, query.window, query.zone):
            part = replace(whole, start=piece.start, end=piece.end, buckets=piece.buckets)
            whole_windows = alone and is_whole(piece.buckets, query.window)
            found += await self._run(query, replace(part, count_distinct=whole_windows))
            _bound(found)
        return found

    async def _span(self, whole: UsageSelect) -> tuple[datetime, datetime]:
        """The minutes from the first to after the last in which there is any usage."""
        statement = whole.span().render()
        result = await self.clickhouse.query(statement.text, statement.parameters)
        first, last, rows = result.result_rows[0]
        if not rows:
            return datetime.fromtimestamp(0, UTC), datetime.fromtimestamp(0, UTC)
        return datetime.fromtimestamp(first, UTC), datetime.fromtimestamp(last + 60, UTC)

    async def _run(self, query: UsageQuery, wanted: UsageSelect) -> States:
        return list(_states(query, wanted, await self.read(wanted)))

    async def read(self, wanted: UsageSelect) -> Sequence[Sequence[Any]]:
        """The rows of a statement, see `UsageSelect.sql`. Raises InvalidInput if they are too many."""
        statement = wanted.sql().render()
        result = await self.clickhouse.query(f"{statement.text} LIMIT {ROWS_MAX + 1}", statement.parameters)
        rows: Sequence[Sequence[Any]] = result.result_rows
        _bound(rows)
        return rows


def _on_minutes(query: UsageQuery) -> UsageQuery:
    """An ingest minute that began before the cut counts whole, in raw events too."""
    return query if query.as_of is None else replace(query, as_of=_ceil(query.as_of))


def _bounds(query: UsageQuery) -> tuple[datetime | None, datetime | None]:
    return query.first_instant, query.last_instant


def _given_start(query: UsageQuery) -> datetime | None:
    """Rows of usage hold nothing before the meter's first instant, so only a start that was asked for bounds them."""
    return None if query.start is None else query.start.replace(microsecond=0)


def _whole_minutes(query: UsageQuery) -> tuple[datetime | None, datetime | None]:
    start, end = _given_start(query), query.last_instant
    return (None if start is None else _ceil(start)), (None if end is None else end.replace(second=0))


def _edges(query: UsageQuery) -> Iterator[tuple[datetime, datetime]]:
    """The parts of minutes at the ends of the range."""
    start, end = _given_start(query), query.last_instant
    if start is not None and start.second:
        yield start, min(_ceil(start), end) if end is not None else _ceil(start)
    if end is not None and end.second:
        floor = end.replace(second=0)
        if start is None or start <= floor:
            yield floor, end


def _select(query: UsageQuery, start: datetime | None, end: datetime | None, state: ReadState) -> UsageSelect:
    asked = query.subjects_asked
    owners = {subject: owner for owner, owned in (query.customers or {}).items() for subject in owned}
    names = query.meter.dimensions
    return UsageSelect(
        namespace=query.namespace,
        meter=query.meter.key,
        aggregation=query.meter.aggregation,
        start=start,
        end=end,
        subjects=None if asked is None else tuple(sorted(asked)),
        filters=tuple((names.index(name), wanted) for name, wanted in query.filters.items()),
        by_subject=SUBJECT in query.group_by,
        customers=owners if CUSTOMER_ID in query.group_by else None,
        dims=tuple(names.index(name) for name in query.grouped_dimensions),
        before=query.as_of,
        closed_until=state.closed_until,
        months_until=state.months_until,
    )


def _states(
    query: UsageQuery, wanted: UsageSelect, rows: Iterable[Sequence[Any]]
) -> Iterator[tuple[GroupKey, PartialState]]:
    windows: dict[int, datetime] = {}
    for row in rows:
        fields = iter(row)
        window = subject = customer = None
        if wanted.buckets is not None:
            bucket = next(fields)
            if bucket not in windows:
                assert query.window is not None
                windows[bucket] = window_at(datetime.fromtimestamp(bucket, UTC), query.window, query.zone)[0]
            window = windows[bucket]
        if wanted.by_subject:
            subject = next(fields)
        if wanted.customers is not None:
            customer = next(fields)
        values = tuple(next(fields) for _ in wanted.dims)
        first, last = next(fields), next(fields)
        merged = dict(zip(wanted.merged, fields, strict=True))
        yield GroupKey(window, subject, customer, values), state_of(merged, first, last)


def state_of(merged: dict[str, Any], first: int, last: int) -> PartialState:
    """The state of a group's `UsageSelect.merged` columns and of its first and last minute, in seconds."""
    uniques = merged.pop("uniques", ())
    order = merged.pop("place", (0, 0, 0, 0))
    return PartialState(
        **merged,
        uniques=frozenset(uniques),
        latest_order=tuple(order),
        first_minute=first // 60,
        last_minute=last // 60,
    )


def _bound(rows: Any) -> None:
    if len(rows) > ROWS_MAX:
        raise InvalidInput(f"the answer would have more than {ROWS_MAX} rows: narrow the range, or take larger windows")


def _utc(instant: datetime | None) -> datetime | None:
    return None if instant is None else instant.astimezone(UTC)


def _ceil(instant: datetime) -> datetime:
    cut = instant.replace(second=0, microsecond=0)
    return cut if cut == instant else cut + _MINUTE
