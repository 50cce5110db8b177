"""Windows for ClickHouse: what to group minutes by, so that every bucket lies in one window.

ClickHouse's own functions of time zones are not used: they have their own data of zones, and at a clock turned back
over midnight they differ from `metering.domain.window`. Fixed steps are divided; where the calendar or a change of the
clock decides, the starts of the windows are computed here and sent along.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from math import gcd
from typing import Final
from zoneinfo import ZoneInfo

from metering.clickhouse.statement import Sql, integer, integers, sql
from metering.domain.window import WindowSize, windows

STARTS_MAX: Final = 4000  # of one query
_SAMPLE: Final = timedelta(hours=6)  # no clock changes twice within this
_SECONDS: Final = {WindowSize.MINUTE: 60, WindowSize.HOUR: 3600, WindowSize.DAY: 86400}


@dataclass(frozen=True, slots=True)
class Steps:
    """Buckets of `seconds`, which divide the windows, from the epoch on."""

    seconds: int

    def expression(self, minute: Sql) -> Sql:
        """The bucket of a minute: its start in seconds since the epoch."""
        return sql("toInt64({m}) - toInt64({m}) % {s}", m=minute, s=integer(self.seconds))


@dataclass(frozen=True, slots=True)
class Starts:
    """Buckets that begin at these seconds since the epoch, ascending."""

    seconds: tuple[int, ...]

    def expression(self, minute: Sql) -> Sql:
        return sql("roundDown(toInt64({m}), {s})", m=minute, s=integers(self.seconds))


Buckets = Steps | Starts


@dataclass(frozen=True, slots=True)
class Piece:
    """A part [start, end) of a range, small enough for one query. None stands for an open bound."""

    start: datetime | None
    end: datetime | None
    buckets: Buckets


def needs_bounds(size: WindowSize, zone: ZoneInfo) -> bool:
    """Whether `pieces` needs both bounds of the range."""
    return zone.key != "UTC" or size not in _SECONDS


def pieces(start: datetime | None, end: datetime | None, size: WindowSize, zone: ZoneInfo) -> Iterator[Piece]:
    """[start, end), bounds on a minute, in pieces with their buckets. A piece ends where a window does."""
    if not needs_bounds(size, zone):
        yield Piece(start, end, Steps(_SECONDS[size]))
        return
    assert start is not None
    assert end is not None
    if start >= end:
        return
    if size in {WindowSize.MINUTE, WindowSize.HOUR}:
        yield Piece(start, end, _steps(start, end, _SECONDS[size], zone))
        return
    found = windows(start, end, size, zone)
    while some := tuple(islice(found, STARTS_MAX)):
        starts = tuple(int(_ceil_minute(window[0]).timestamp()) for window in some)
        yield Piece(max(start, _ceil_minute(some[0][0])), min(end, _ceil_minute(some[-1][1])), Starts(starts))


def is_whole(buckets: Buckets, size: WindowSize) -> bool:
    """Whether each bucket is a whole window, so that no two need merging."""
    return isinstance(buckets, Starts) or buckets.seconds == _SECONDS[size]


def _steps(start: datetime, end: datetime, seconds: int, zone: ZoneInfo) -> Steps:
    """The greatest steps that divide the windows at every offset that the zone has in the range."""
    at = start
    while at < end + _SAMPLE:
        offset = at.astimezone(zone).utcoffset()
        assert offset is not None
        seconds = gcd(seconds, int(offset.total_seconds()))
        at += _SAMPLE
    return Steps(max(seconds, 60))


def _ceil_minute(instant: datetime) -> datetime:
    """A window takes the minutes that start in it; some do not start on one (Monrovia's until 1972)."""
    cut = instant.replace(second=0, microsecond=0)
    return cut if cut == instant else cut + timedelta(minutes=1)
