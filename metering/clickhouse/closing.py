"""Closing: folding the ingest hours that every partition has passed into `usage_closed`, which is read without FINAL.

A day is folded whole, up to the last passed hour, into a table of this run's own, and then swapped in by REPLACE
PARTITION. Postgres says up to where closed hours may be read: before a swap it is set back to the start of the day, and
forward after it. So a crash anywhere leaves readers with `usage` for what is not surely closed, and the next run does
the day again. Closed days are then added to their month in `usage_months` and read from there, since every day that is
a partition costs each query that touches it.

One run holds an advisory lock in Postgres. A run that lost the lock without noticing can do no harm: its successor
drops the table that the late swap would take its rows from.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from clickhouse_connect.driver.asyncclient import AsyncClient
from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from metering.clickhouse.flushes import coverage
from metering.clickhouse.schema import USAGE_CLOSED, USAGE_MONTHS, Table
from metering.clickhouse.statement import Sql, second, sql, texts
from metering.clickhouse.statement import text as text_value
from metering.domain.ids import new_id
from metering.postgres.tables import backfills, closing
from metering.settings import EngineSettings

_log: Final = structlog.get_logger()
DAY: Final = timedelta(days=1)
READERS_GONE: Final = timedelta(minutes=10)  # no query runs that long
STAGED_PREFIX: Final = "usage_closed_staged_"
CATCH_UP_DAYS_MAX: Final = 40  # of one run; the next one goes on

_LOCK: Final = text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")
_HELD: Final = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted")
_UNLOCK: Final = text("SELECT pg_advisory_unlock_all()")

_FOLD: Final = """
INSERT INTO {staged} WITH maxIf(place, isNotNull(u.latest)) AS newest SELECT
    namespace, meter, subject, dims, minute, toStartOfHour(ingest_minute, 'UTC') AS hour,
    sum(u.events), sum(u.count), sum(u.sum), min(u.min), max(u.max),
    argMaxIf(u.latest, place, isNotNull(u.latest)), tupleElement(newest, 1), tupleElement(newest, 4),
    arraySort(groupUniqArrayArray(u.uniques)),
    tupleElement(newest, 2), tupleElement(newest, 3)
FROM (
    SELECT *, (latest_time, ingest_minute, partition, latest_offset) AS place
    FROM usage FINAL WHERE ingest_minute >= {start} AND ingest_minute < {end}
) AS u
GROUP BY namespace, meter, subject, dims, minute, hour"""


_ARCHIVE: Final = """
INSERT INTO {staged}
SELECT * FROM usage_months WHERE ingest_hour >= {month} AND ingest_hour < {start}
UNION ALL
SELECT * FROM usage_closed WHERE ingest_hour >= {start} AND ingest_hour < {end}"""


@dataclass(frozen=True, slots=True)
class Closed:
    """What a run did: hours are closed up to `until`, None when nothing ever was; `days` were folded."""

    until: datetime | None
    days: int


def _go_on(_step: str) -> None:
    """Stands where tests let the run crash."""


async def close_hours(
    clickhouse: AsyncClient,
    postgres: AsyncEngine,
    settings: EngineSettings,
    *,
    now: datetime,
    failpoint: Callable[[str], None] = _go_on,
) -> Closed | None:
    """Close what can be closed. None when another run is at it. Doing it again changes nothing.

    `failpoint` is called with the name of each step that follows; a test raises from it.
    """
    async with postgres.connect() as plain:
        connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
        name = f"weighbridge.closing.{settings.events_topic}"
        if not (await connection.execute(_LOCK, {"name": name})).scalar_one():
            return None
        try:
            return await _Run(clickhouse, connection, settings, now, failpoint).close()
        finally:
            await connection.execute(_UNLOCK)


@dataclass(frozen=True, slots=True)
class _State:
    """What Postgres says."""

    closed_until: datetime | None = None
    months_until: datetime | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Run:
    clickhouse: AsyncClient
    connection: AsyncConnection
    settings: EngineSettings
    now: datetime
    failpoint: Callable[[str], None]

    async def close(self) -> Closed:
        await self._drop_left_over()
        passed = await coverage(self.clickhouse, self.settings.event_partitions)
        target = min(passed.ingest_time, self.now).replace(minute=0, second=0, microsecond=0)
        await self._reopen_for_backfills()
        until = (await self._state()).closed_until
        start = until or await self._first_day()
        days = 0
        if start is not None:
            day = start.replace(hour=0)
            while start < target and day < target and days < CATCH_UP_DAYS_MAX:
                until = min(day + DAY, target)
                await self._fold(day, until)
                day += DAY
                days += 1
        await self._archive(until)
        return Closed(until, days)

    async def _fold(self, day: datetime, end: datetime) -> None:
        """Fold [day, end) out of `usage` and swap it in."""
        async with self._staged(USAGE_CLOSED) as staged:
            self.failpoint("fold")
            rows = await self._build(staged, sql(_FOLD, staged=Sql((staged,)), start=second(day), end=second(end)))
            self.failpoint("set back")
            await self._set(closed_until=day)
            self.failpoint("swap")
            if rows:
                await self._swap(USAGE_CLOSED, f"{day:%Y%m%d}", staged)
            self.failpoint("set forward")
            await self._set(closed_until=end)
            self.failpoint("drop")
        _log.info("closed_usage", day=f"{day:%Y-%m-%d}", until=end.isoformat(), rows=rows)

    async def _archive(self, until: datetime | None) -> None:
        """Add closed days to their months in `usage_months`, and drop days that nobody reads any more.

        A month is built anew with the days added, and swapped in. Readers take days out of it when Postgres says so;
        the days themselves are dropped a while later.
        """
        state = await self._state()
        days = await self._days()
        for day in days if state.updated_at is not None and self.now - state.updated_at > READERS_GONE else ():
            if state.months_until is not None and day < state.months_until:
                await self.clickhouse.command(f"ALTER TABLE usage_closed DROP PARTITION {day:%Y%m%d}")
        start = state.months_until or min(days, default=None)
        goal = None if until is None else until.replace(hour=0)
        while start is not None and goal is not None and start < goal:
            month = start.replace(day=1)
            end = min((month + 31 * DAY).replace(day=1), goal)
            async with self._staged(USAGE_MONTHS) as staged:
                self.failpoint("archive")
                where = {"month": second(month), "start": second(start), "end": second(end)}
                rows = await self._build(staged, sql(_ARCHIVE, staged=Sql((staged,)), **where))
                self.failpoint("swap month")
                if rows:
                    await self._swap(USAGE_MONTHS, f"{month:%Y%m}", staged)
                self.failpoint("month forward")
                await self._set(months_until=end)
            _log.info("archived_usage", month=f"{month:%Y-%m}", until=end.isoformat(), rows=rows)
            start = end

    async def _days(self) -> list[datetime]:
        """The days that have a partition in `usage_closed`."""
        find = sql(
            "SELECT DISTINCT partition FROM system.parts WHERE database = {d} AND table = 'usage_closed' AND active",
            d=text_value(self.settings.clickhouse_database),
        ).render()
        rows = (await self.clickhouse.query(find.text, find.parameters)).result_rows
        return sorted(datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC) for (day,) in rows)

    @asynccontextmanager
    async def _staged(self, table: Table) -> AsyncIterator[str]:
        """The name of a table like `table` that is this run's own. If the run fails it stays, for the next one."""
        name = f"{STAGED_PREFIX}{new_id().lower()}"
        staged = replace(table, name=name)
        await self.clickhouse.command(staged.ddl(self.settings.clickhouse_database, None))
        await self._check_lock()
        yield name
        await self.clickhouse.command(f"DROP TABLE IF EXISTS {name} SYNC")

    async def _build(self, staged: str, fill: Sql) -> int:
        statement = fill.render()
        await self.clickhouse.command(statement.text, statement.parameters)
        rows = (await self.clickhouse.query(f"SELECT count() FROM {staged}")).result_rows  # noqa: S608 - a name of ours
        return int(rows[0][0])

    async def _swap(self, table: Table, partition: str, staged: str) -> None:
        await self.clickhouse.command(f"ALTER TABLE {table.name} REPLACE PARTITION {partition} FROM {staged}")

    async def _first_day(self) -> datetime | None:
        query = "SELECT count(), min(ingest_minute) FROM usage"
        ((count, first),) = (await self.clickhouse.query(query)).result_rows
        return first.replace(hour=0, minute=0) if count else None

    async def _state(self) -> _State:
        c = closing.c
        query = select(c.closed_until, c.months_until, c.updated_at).where(c.topic == self.settings.events_topic)
        row = (await self.connection.execute(query)).first()
        return _State() if row is None else _State(*(None if each is None else each.astimezone(UTC) for each in row))

    async def _set(self, **changes: datetime) -> None:
        await self._check_lock()
        row = {"topic": self.settings.events_topic, **changes, "updated_at": self.now}
        statement = insert(closing).values(**row)
        await self.connection.execute(statement.on_conflict_do_update(index_elements=["topic"], set_=row))

    async def _check_lock(self) -> None:
        if not (await self.connection.execute(_HELD)).scalar_one():
            raise RuntimeError("the lock of closing was lost")

    async def _reopen_for_backfills(self) -> None:
        """A finished backfill added to hours that may be closed: they are folded again from its first day on.

        First the hours are open again, then the meter counts as folded: between the two, readers of its usage take
        `usage` for all.
        """
        query = select(backfills.c.meter_key).where(backfills.c.done_at.is_not(None), backfills.c.closed_at.is_(None))
        keys = list((await self.connection.execute(query)).scalars())
        if not keys:
            return
        find = sql("SELECT count(), min(ingest_minute) FROM usage WHERE meter IN {m}", m=texts(keys)).render()
        ((count, first),) = (await self.clickhouse.query(find.text, find.parameters)).result_rows
        state = await self._state()
        day = first.replace(hour=0, minute=0)
        if count and state.months_until is not None and first < state.months_until:
            month = day.replace(day=1)
            await self._set(closed_until=month, months_until=month)
        elif count and state.closed_until is not None and first < state.closed_until:
            await self._set(closed_until=day)
        self.failpoint("reopened")
        done = update(backfills).where(backfills.c.meter_key.in_(keys)).values(closed_at=func.now())
        await self.connection.execute(done)

    async def _drop_left_over(self) -> None:
        """Tables of runs that ended midway. After this none of them can swap any more."""
        find = sql(
            "SELECT name FROM system.tables WHERE database = {d} AND startsWith(name, {p})",
            d=text_value(self.settings.clickhouse_database),
            p=text_value(STAGED_PREFIX),
        ).render()
        for (name,) in (await self.clickhouse.query(find.text, find.parameters)).result_rows:
            await self.clickhouse.command(f"DROP TABLE IF EXISTS {name} SYNC")
