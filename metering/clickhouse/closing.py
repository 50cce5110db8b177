"""Closing: folding the ingest hours that every partition has passed into `usage_closed`, which is read without FINAL.

A day is folded whole, up to the last passed hour, into a table of this run's own, and then swapped in by REPLACE
PARTITION. Postgres says up to where closed hours may be read: before a swap it is set back to the start of the day, and
forward after it. So a crash anywhere leaves readers with `usage` for what is not surely closed, and the next run does
the day again.

One run holds an advisory lock in Postgres. A run that lost the lock without noticing can do no harm: its successor
drops the table that the late swap would take its rows from.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from clickhouse_connect.driver.asyncclient import AsyncClient
from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from metering.clickhouse.flushes import coverage
from metering.clickhouse.schema import USAGE_CLOSED, Table
from metering.clickhouse.statement import Sql, second, sql, texts
from metering.clickhouse.statement import text as text_value
from metering.domain.ids import new_id
from metering.postgres.tables import backfills, closing
from metering.settings import EngineSettings

HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
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
        until = await self._until()
        start = until or await self._first_day()
        days = 0
        if start is not None:
            day = start.replace(hour=0)
            while start < target and day < target and days < CATCH_UP_DAYS_MAX:
                until = min(day + DAY, target)
                await self._fold(day, until)
                day += DAY
                days += 1
        return Closed(until, days)

    async def _fold(self, day: datetime, end: datetime) -> None:
        """Fold [day, end) and swap it in."""
        staged = Table(
            f"{STAGED_PREFIX}{new_id().lower()}",
            USAGE_CLOSED.columns,
            order_by=USAGE_CLOSED.order_by,
            partition_by=USAGE_CLOSED.partition_by,
            replacing=False,
        )
        await self.clickhouse.command(staged.ddl(self.settings.clickhouse_database, None))
        await self._check_lock()
        self.failpoint("fold")
        into = Sql((staged.name,))
        fold = sql(_FOLD, staged=into, start=second(day), end=second(end)).render()
        await self.clickhouse.command(fold.text, fold.parameters)
        rows = (await self.clickhouse.query(f"SELECT count() FROM {staged.name}")).result_rows[0][0]  # noqa: S608 - a name of ours
        self.failpoint("set back")
        await self._set_until(day)
        self.failpoint("swap")
        if rows:
            await self.clickhouse.command(f"ALTER TABLE usage_closed REPLACE PARTITION {day:%Y%m%d} FROM {staged.name}")
        self.failpoint("set forward")
        await self._set_until(end)
        self.failpoint("drop")
        await self.clickhouse.command(f"DROP TABLE IF EXISTS {staged.name} SYNC")
        structlog.get_logger().info("closed_usage", day=f"{day:%Y-%m-%d}", until=end.isoformat(), rows=rows)

    async def _first_day(self) -> datetime | None:
        query = "SELECT count(), min(ingest_minute) FROM usage"
        ((count, first),) = (await self.clickhouse.query(query)).result_rows
        return first.replace(hour=0, minute=0) if count else None

    async def _until(self) -> datetime | None:
        query = select(closing.c.closed_until).where(closing.c.topic == self.settings.events_topic)
        until = (await self.connection.execute(query)).scalar_one_or_none()
        return until.astimezone(UTC) if until else None

    async def _set_until(self, until: datetime) -> None:
        await self._check_lock()
        row = {"topic": self.settings.events_topic, "closed_until": until, "updated_at": func.now()}
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
        until = await self._until()
        if count and until is not None and first < until:
            await self._set_until(first.replace(hour=0, minute=0))
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
