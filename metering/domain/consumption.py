"""Usage as the balance fold takes it: what was used in each minute of event time.

Three kinds of points, by the meter's aggregation, and each with a merge that knows no order: sums add, sets of unique
values unite, of two latest values the later one stays. So deltas may come in any order, and minutes whose difference no
longer matters may be merged into one.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol, TypeAlias

from metering.domain.errors import InvalidInput
from metering.domain.meter import Aggregation

#: Sums of usage are exact: an operation that would round raises instead.
EXACT: Final = Context(prec=150, traps=[Inexact, InvalidOperation, DivisionByZero, Overflow])

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE: Final = timedelta(minutes=1)


class Latest(NamedTuple):
    """A value of a LATEST meter with all that decides which of two is the later one, compared in this order.

    `time` in microseconds, `ingest_minute` in minutes since the epoch.
    """

    time: int
    ingest_minute: int
    partition: int
    offset: int
    value: Decimal


Point: TypeAlias = Decimal | frozenset[bytes] | Latest
Usage: TypeAlias = Mapping[int, Point]
"""Minutes since the epoch -> what was used in that minute."""


class Measured(Protocol):
    """What one usage row or one cell of a delta says (a `metering.kafka.wire.Cell`, or a row of `usage`)."""

    @property
    def count(self) -> int: ...
    @property
    def sum(self) -> Decimal: ...
    @property
    def latest(self) -> Decimal | None: ...
    @property
    def latest_time(self) -> int: ...
    @property
    def latest_ingest(self) -> int: ...
    @property
    def latest_offset(self) -> int: ...
    @property
    def uniques(self) -> Iterable[str]: ...


def point(aggregation: Aggregation, measured: Measured, partition: int) -> Point | None:
    """The usage in what was measured, or None if it has none. Raises InvalidInput for MIN, MAX and AVG."""
    match aggregation:
        case Aggregation.COUNT:
            return Decimal(measured.count) if measured.count else None
        case Aggregation.SUM:
            return measured.sum if measured.count else None
        case Aggregation.UNIQUE_COUNT:
            return frozenset(map(digest, measured.uniques)) or None
        case Aggregation.LATEST:
            if measured.latest is None:
                return None
            order = measured.latest_time, measured.latest_ingest, partition, measured.latest_offset
            return Latest(*order, measured.latest)
        case _:
            raise InvalidInput(f"a balance can't be kept of a meter with aggregation {aggregation}")


def digest(value: str) -> bytes:
    """A unique value's stand-in, of fixed length: the sets are kept in records and must not grow with the texts."""
    return blake2b(value.encode(), digest_size=16).digest()


def merge(one: Point, other: Point) -> Point:
    """Both together; commutative and associative. The two are of one kind."""
    if isinstance(one, Decimal) and isinstance(other, Decimal):
        return EXACT.add(one, other)
    if isinstance(one, frozenset) and isinstance(other, frozenset):
        return one | other
    if isinstance(one, Latest) and isinstance(other, Latest):
        return max(one, other)
    raise TypeError(f"{type(one).__name__} and {type(other).__name__} are not usage of one meter")


def add(usage: dict[int, Point], minute: int, extra: Point) -> None:
    """Merge one more point into `usage`, in place."""
    before = usage.get(minute)
    usage[minute] = extra if before is None else merge(before, extra)


def minute_of(at: datetime) -> int:
    """The minute that holds `at`, in minutes since the epoch."""
    return (at - _EPOCH) // _MINUTE


def minute_ceiling(at: datetime) -> int:
    """The first minute that starts at or after `at`: usage up to `at` is that of the minutes before it."""
    return -((_EPOCH - at) // _MINUTE)


def instant_of(minute: int) -> datetime:
    """When a minute starts."""
    return _EPOCH + minute * _MINUTE
