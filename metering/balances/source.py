"""What a balance is computed from: the usage rows below the offsets that `flushes` shows."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import Error as ClickHouseError

from metering.clickhouse.client import connect_async
from metering.clickhouse.flushes import Coverage, coverage
from metering.clickhouse.statement import Statement, partition_offsets, second, sql, text, texts
from metering.domain.balance import Vector, counts
from metering.domain.balance_book import Key, Task
from metering.domain.consumption import Point, Usage, add, minute_of, point
from metering.settings import EngineSettings

# An unfinished later range has a >= W of its partition; FINAL leaves one of the rows that a range wrote again.
_USAGE: Final = """
SELECT meter, subject, dims, intDiv(toUnixTimestamp64Second(minute), 60) AS at, sum(count), sum(sum),
    argMaxIf(
        tuple(latest, toUnixTimestamp64Micro(latest_time), intDiv(toUnixTimestamp(ingest_minute), 60),
            partition, latest_offset),
        (latest_time, ingest_minute, partition, latest_offset),
        latest IS NOT NULL),
    groupUniqArrayArray(uniques)
FROM usage FINAL
WHERE namespace = {namespace} AND meter IN {meters} AND subject IN {subjects} AND minute >= {since}
    AND a < transform(toInt64(partition), {p}, {o}, toInt64(0))
GROUP BY meter, subject, dims, at"""


@dataclass(frozen=True, slots=True)
class _Row:
    """What one row says, as `Measured`."""

    count: int
    sum: Decimal
    latest: Decimal | None
    latest_time: int
    latest_ingest: int
    latest_offset: int
    uniques: Sequence[str]


@dataclass(slots=True)
class ClickHouseSource:
    """Reads W and the usage below it. Connects when it is first asked, so ClickHouse may start later."""

    settings: EngineSettings
    _connecting: asyncio.Lock = field(default_factory=asyncio.Lock)
    _client: AsyncClient | None = None
    _known: Coverage | None = None

    async def coverage(self) -> Coverage:
        """How far each source partition has been counted, without gaps."""
        try:
            client = await self._connected()
            self._known = await coverage(client, self.settings.event_partitions, known=self._known)
        except ClickHouseError:
            self._known = None  # if it was restarted it may have less than before: look at everything again
            raise
        return self._known

    async def usage(self, tasks: Sequence[Task], w: Vector) -> dict[Key, Usage]:
        """All usage of each task's entitlement below `w`, by minute."""
        found: dict[Key, Usage] = {}
        client = await self._connected()
        for namespace in {task.key.namespace for task in tasks}:
            some = [task for task in tasks if task.key.namespace == namespace]
            statement = _statement(namespace, some, w)
            rows = (await client.query(statement.text, statement.parameters)).result_rows
            found |= _usage(some, rows)
        return found

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def _connected(self) -> AsyncClient:
        async with self._connecting:
            if self._client is None:
                self._client = await connect_async(self.settings)
            return self._client


def vector_of(found: Coverage) -> Vector:
    """W: for each source partition the first offset that may be uncounted."""
    return tuple(each.end for each in found.partitions)


def _statement(namespace: str, tasks: Iterable[Task], w: Vector) -> Statement:
    entitlements = [task.entitlement for task in tasks]
    p, o = partition_offsets(dict(enumerate(w)))
    return sql(
        _USAGE,
        namespace=text(namespace),
        meters=texts({each.meter_key for each in entitlements}),
        subjects=texts({subject for each in entitlements for subject in each.subjects}),
        since=second(min(each.measure_usage_from for each in entitlements)),
        p=p,
        o=o,
    ).render()


def _usage(tasks: Sequence[Task], rows: Iterable[Sequence[Any]]) -> dict[Key, Usage]:
    by_series: dict[tuple[str, str], list[Task]] = {}
    for task in tasks:
        for subject in task.entitlement.subjects:
            by_series.setdefault((task.entitlement.meter_key, subject), []).append(task)
    found: dict[Key, dict[int, Point]] = {task.key: {} for task in tasks}
    for meter, subject, dims, minute, measured, partition in _measured(rows):
        for task in by_series.get((meter, subject), ()):
            each = task.entitlement
            first = minute_of(each.measure_usage_from)
            if minute >= first and counts(each, dims):
                extra = point(each.aggregation, measured, partition)
                if extra is not None:
                    add(found[task.key], minute, extra)
    return {**found}


def _measured(rows: Iterable[Sequence[Any]]) -> Iterator[tuple[str, str, Sequence[str], int, _Row, int]]:
    for meter, subject, dims, minute, count, total, newest, uniques in rows:
        latest, latest_time, ingest_minute, partition, offset = newest
        row = _Row(count, total, latest, latest_time, ingest_minute, offset, uniques)
        yield meter, subject, dims, minute, row, partition
