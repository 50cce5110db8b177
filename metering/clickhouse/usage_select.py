"""Usage out of `usage`, `usage_closed` and `usage_months`, grouped, as one statement.

Hours that are closed come from the latter two, which are read as they are; the rest from `usage` FINAL.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from metering.clickhouse.buckets import Buckets
from metering.clickhouse.conditions import condition
from metering.clickhouse.statement import (
    Sql,
    conjunction,
    is_below,
    join,
    second,
    sql,
    text,
    texts,
)
from metering.domain.filters import StringFilter
from metering.domain.meter import Aggregation

_MINUTE: Final = sql("minute")

# What each aggregation needs of the rows, and how groups of them are merged.
_COLUMNS: Final = {
    Aggregation.COUNT: ("events", "count"),
    Aggregation.SUM: ("events", "count", "sum"),
    Aggregation.AVG: ("events", "count", "sum"),
    Aggregation.MIN: ("events", "count", "min"),
    Aggregation.MAX: ("events", "count", "max"),
    Aggregation.LATEST: ("events", "count", "latest", "place"),
    Aggregation.UNIQUE_COUNT: ("events", "count", "uniques"),
}
_MERGED: Final = {
    "events": "sum(u.events)",
    "count": "sum(u.count)",
    "sum": "sum(u.sum)",
    "min": "min(u.min)",
    "max": "max(u.max)",
    "latest": "argMaxIf(u.latest, u.place, isNotNull(u.latest))",
    "place": "maxIf(u.place, isNotNull(u.latest))",
    "uniques": "groupUniqArrayArray(u.uniques)",
    "distinct": "uniqExactArray(u.uniques)",
}
# Of two latest values that of the greater place stays. Microseconds and minutes since the epoch, partition, offset.
_OPEN_PLACE: Final = (
    "(toUnixTimestamp64Micro(latest_time), intDiv(toUnixTimestamp(ingest_minute), 60), partition, latest_offset)"
)
_CLOSED_PLACE: Final = (
    "(toUnixTimestamp64Micro(latest_time), intDiv(toUnixTimestamp(latest_minute), 60), latest_partition, latest_offset)"
)


@dataclass(frozen=True, slots=True)
class UsageSelect:
    """Which rows, and how they are grouped. Bounds are on minutes, half-open, None for none.

    `dims` are positions in the meter's dimensions. `subjects` None means all; `customers` maps subjects to the customer
    to group by in their place. `before` bounds ingest minutes. Ingest hours before `closed_until` are taken from
    `usage_closed`, those before `months_until` from `usage_months`; None takes all from `usage`. `below` bounds the
    offsets of ranges, per partition; those not named have none, and closed hours are not used with it. With
    `count_distinct`, unique values are counted there and then.
    """

    namespace: str
    meter: str
    aggregation: Aggregation
    start: datetime | None = None
    end: datetime | None = None
    subjects: tuple[str, ...] | None = None
    filters: tuple[tuple[int, StringFilter], ...] = ()
    buckets: Buckets | None = None
    by_subject: bool = False
    customers: Mapping[str, str] | None = None
    dims: tuple[int, ...] = ()
    before: datetime | None = None
    closed_until: datetime | None = None
    months_until: datetime | None = None
    below: Mapping[int, int] | None = None
    count_distinct: bool = False

    @property
    def merged(self) -> tuple[str, ...]:
        """Names of the merged columns, which follow the keys in each row of the answer."""
        names = _COLUMNS[self.aggregation]
        return tuple("distinct" if n == "uniques" and self.count_distinct else n for n in names)

    def sql(self) -> Sql:
        """Columns: bucket (seconds), subject, customer, each of dims, as far as asked for; then first and last minute
        with an event; then `merged`."""
        keys = self._keys()
        columns = [
            *keys,
            sql("toUnixTimestamp64Second(min(u.minute)), toUnixTimestamp64Second(max(u.minute))"),
            *(sql(_MERGED[name]) for name in self.merged),
        ]
        group = sql(" GROUP BY {keys}", keys=join(", ", keys)) if keys else sql(" HAVING count() > 0")
        return sql(
            "SELECT {columns} FROM ({rows}) AS u{group}", columns=join(", ", columns), rows=self.rows(), group=group
        )

    def span(self) -> Sql:
        """The first and the last minute with an event, in seconds, and the number of rows."""
        return sql(
            "SELECT toUnixTimestamp64Second(min(u.minute)), toUnixTimestamp64Second(max(u.minute)), count() "
            "FROM ({rows}) AS u",
            rows=self.rows(),
        )

    def rows(self) -> Sql:
        """The rows to group, of both tables alike."""
        closed = self._closed_until()
        parts = []
        if closed is not None:
            months = None if self.months_until is None else min(closed, self.months_until)
            hours = [sql("ingest_hour < {c}", c=second(closed))]
            if months is not None:
                parts.append(self._part("usage_months", _CLOSED_PLACE, [sql("ingest_hour < {m}", m=second(months))]))
                hours.append(sql("ingest_hour >= {m}", m=second(months)))
            if months is None or months < closed:
                parts.append(self._part("usage_closed", _CLOSED_PLACE, hours))
        minutes = [] if closed is None else [sql("ingest_minute >= {c}", c=second(closed))]
        if self.before is not None:
            minutes.append(sql("ingest_minute < {b}", b=second(self.before)))
        if self.below is not None:
            minutes.append(is_below(sql("a"), self.below))
        if closed is None or self.before is None or closed < self.before:
            parts.append(self._part("usage FINAL", _OPEN_PLACE, minutes))
        return join(" UNION ALL ", parts)

    def _part(self, table: str, place: str, times: list[Sql]) -> Sql:
        names = ["subject", "minute", *(name for name in _COLUMNS[self.aggregation] if name != "place")]
        if self.dims:
            names.append("dims")
        columns = ", ".join(names) + (f", {place} AS place" if "place" in self.merged else "")
        where = conjunction([*self._conditions(), *times])
        return sql(
            "SELECT {columns} FROM {table} WHERE {where}", columns=Sql((columns,)), table=Sql((table,)), where=where
        )

    def _conditions(self) -> list[Sql]:
        found = [sql("namespace = {n}", n=text(self.namespace)), sql("meter = {m}", m=text(self.meter))]
        if self.subjects is not None:
            found.append(sql("subject IN {s}", s=texts(self.subjects)))
        if self.start is not None:
            found.append(sql("minute >= {t}", t=second(self.start)))
        if self.end is not None:
            found.append(sql("minute < {t}", t=second(self.end)))
        return found + [condition(sql(f"dims[{position + 1}]"), wanted) for position, wanted in self.filters]

    def _keys(self) -> list[Sql]:
        keys = [] if self.buckets is None else [self.buckets.expression(sql("u.minute"))]
        if self.by_subject:
            keys.append(sql("u.subject"))
        if self.customers is not None:
            subjects, owners = texts(self.customers), texts(self.customers.values())
            keys.append(sql("transform(u.subject, {s}, {c}, '')", s=subjects, c=owners))
        return [*keys, *(sql(f"u.dims[{position + 1}]") for position in self.dims)]

    def _closed_until(self) -> datetime | None:
        """On the hour; a cut inside a closed hour reads that hour from `usage`."""
        if self.closed_until is None or self.below is not None:
            return None
        if self.before is None or self.before >= self.closed_until:
            return self.closed_until
        return self.before.replace(minute=0, second=0, microsecond=0)
