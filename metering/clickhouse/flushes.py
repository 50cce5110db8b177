"""What the sinks have flushed: `flushes` accounts for every offset, so it says how far all counting has come."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from clickhouse_connect.driver.asyncclient import AsyncClient

from metering.clickhouse.statement import integer, integers, is_below, sql

_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PartitionCoverage:
    """All offsets below `end` of a partition were counted, at registry revisions up to `revision`.

    Every record with an ingest time below `ingest_time` has been counted.
    """

    partition: int
    end: int = 0
    revision: int = 0
    ingest_time: datetime = _NEVER


@dataclass(frozen=True, slots=True)
class Coverage:
    """How far each partition has come, without gaps. Partitions without any flush are there with `end` 0."""

    partitions: tuple[PartitionCoverage, ...]

    @property
    def offsets(self) -> dict[int, int]:
        """The vector W: for each partition the first offset that may be uncounted."""
        return {each.partition: each.end for each in self.partitions}

    @property
    def revision(self) -> int:
        """The registry revision that every partition has reached."""
        return min((each.revision for each in self.partitions), default=0)

    @property
    def ingest_time(self) -> datetime:
        """Every record with an ingest time before this has been counted, in all partitions."""
        return min((each.ingest_time for each in self.partitions), default=_NEVER)

    def passed(self, cut: datetime) -> bool:
        """Whether usage as of `cut` is final."""
        return self.ingest_time >= cut


# The quick way: ranges that start at the floor and add up to what their last end says can't have a gap.
# `flushes` may show a range twice until parts are merged, hence the inner GROUP BY.
_SUMMARY: Final = """
SELECT partition, min(a), max(end), sum(end - a), argMax(revision, end), max(ingest_time)
FROM (
    SELECT partition, a, any(end) AS end, any(revision) AS revision, any(ingest_time) AS ingest_time
    FROM flushes WHERE {where} GROUP BY partition, a
)
GROUP BY partition"""

_UP_TO_GAP: Final = """
SELECT max(end), argMax(revision, end), max(ingest_time)
FROM (
    SELECT *, sum(gap) OVER (ORDER BY a ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS gaps
    FROM (
        SELECT *, toInt64(a) != lagInFrame(toInt64(end), 1, {floor}) OVER (
            ORDER BY a ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS gap
        FROM (
            SELECT a, any(end) AS end, any(revision) AS revision, any(ingest_time) AS ingest_time
            FROM flushes WHERE partition = {partition} AND a >= {floor} GROUP BY a
        )
    )
)
WHERE gaps = 0"""


async def coverage(client: AsyncClient, partitions: int, *, known: Coverage | None = None) -> Coverage:
    """The contiguous coverage of each of `partitions` partitions.

    `known`, from an earlier call, spares reading what was before it.
    """
    floor = {each.partition: each for each in known.partitions} if known else {}
    ends = {p: floor[p].end if p in floor else 0 for p in range(partitions)}
    statement = sql(_SUMMARY, where=sql("NOT ({b})", b=is_below(sql("a"), ends))).render()
    found = {row[0]: row[1:] for row in (await client.query(statement.text, statement.parameters)).result_rows}
    result = []
    for p in range(partitions):
        start = floor.get(p, PartitionCoverage(p))
        row = found.get(p)
        if row is None:
            result.append(start)
        elif row[0] == start.end and row[0] + row[2] == row[1]:
            result.append(PartitionCoverage(p, row[1], row[3], row[4]))
        else:
            result.append(await _up_to_gap(client, start))
    return Coverage(tuple(result))


async def _up_to_gap(client: AsyncClient, start: PartitionCoverage) -> PartitionCoverage:
    statement = sql(_UP_TO_GAP, partition=integer(start.partition), floor=integer(start.end)).render()
    ((end, revision, ingest_time),) = (await client.query(statement.text, statement.parameters)).result_rows
    return PartitionCoverage(start.partition, end, revision, ingest_time) if end else start


async def offsets_at(client: AsyncClient, cut: datetime, partitions: int) -> Mapping[int, int]:
    """For each partition the end of the range that passed `cut`: no record before it lies at or beyond that offset.

    Partitions that have not passed are left out. The answer for a passed cut never changes.
    """
    statement = sql(
        "SELECT partition, min(end) FROM flushes WHERE has({all}, toInt64(partition)) "
        "AND toUnixTimestamp64Milli(ingest_time) >= {cut} GROUP BY partition",
        all=integers(range(partitions)),
        cut=integer(int(cut.timestamp() * 1000)),
    ).render()
    rows = (await client.query(statement.text, statement.parameters)).result_rows
    return {int(partition): int(end) for partition, end in rows}
