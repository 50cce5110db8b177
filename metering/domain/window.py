"""Windows of time along the local clock of an IANA zone.

A DAY runs from a local midnight to the next, a MONTH from the midnight of its first day to that of the next month's;
where a change of the clock skips midnight, they begin at the change. A MINUTE or an HOUR is a fixed step on the local
clock; where the clock changes by a part of a step (Lord Howe's half hour), the steps on both sides are cut at the
change. So every instant lies in one window, and windows meet without gap or overlap.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import cache, lru_cache
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from metering.domain.errors import InvalidInput

_SECOND: Final = timedelta(seconds=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NOT_ZONES: Final = frozenset({"localtime", "posixrules", "Factory"})


class WindowSize(StrEnum):
    """How long a window is, on the local clock."""

    MINUTE = "MINUTE"
    HOUR = "HOUR"
    DAY = "DAY"
    MONTH = "MONTH"


def parse_zone(name: str) -> ZoneInfo:
    """The zone of an IANA name; empty is UTC. Raises InvalidInput for anything else, offsets such as +05:30 too."""
    if name not in _zone_names():
        raise InvalidInput(f"invalid time zone: {name[:100]}")
    return ZoneInfo(name or "UTC")


def window_at(instant: datetime, size: WindowSize, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The window [start, end) that contains `instant` (aware), in UTC."""
    match size:
        case WindowSize.MINUTE:
            return _step_at(instant.astimezone(UTC), 60, zone)
        case WindowSize.HOUR:
            return _step_at(instant.astimezone(UTC), 3600, zone)
        case WindowSize.DAY | WindowSize.MONTH:
            return _calendar_window(instant.astimezone(UTC), size, zone)


def windows(start: datetime, end: datetime, size: WindowSize, zone: ZoneInfo) -> Iterator[tuple[datetime, datetime]]:
    """The windows that [start, end) touches, ascending, whole ones at both ends."""
    at = start
    while at < end:
        window = window_at(at, size, zone)
        yield window
        at = window[1]


def _calendar_window(instant: datetime, size: WindowSize, zone: ZoneInfo) -> tuple[datetime, datetime]:
    day = instant.astimezone(zone).date()
    first = day.replace(day=1) if size is WindowSize.MONTH else day
    start, end = _midnight(first, zone), _midnight(_next(first, size), zone)
    while instant >= end:  # a clock turned back over midnight shows a date a second time: that is of the later window
        first = _next(first, size)
        start, end = end, _midnight(_next(first, size), zone)
    return start, end


def _next(first: date, size: WindowSize) -> date:
    if size is WindowSize.DAY:
        return first + timedelta(days=1)
    return date(first.year + first.month // 12, first.month % 12 + 1, 1)


@lru_cache(maxsize=65536)
def _midnight(day: date, zone: ZoneInfo) -> datetime:
    """The instant at which the local clock first shows 00:00 of `day`, or skips it.

    Where a gap swallows midnight, it begins there (in every zone since 1970), and then this is the instant of the gap.
    """
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)


def _first_change(low: datetime, high: datetime, zone: ZoneInfo) -> datetime:
    """The instant in (low, high], on a second, from which on the offset is no longer that at `low`."""
    before = _offset(low, zone)
    while high - low > _SECOND:
        middle = low + (high - low) // (2 * _SECOND) * _SECOND
        if _offset(middle, zone) == before:
            low = middle
        else:
            high = middle
    return high


def _step_at(instant: datetime, seconds: int, zone: ZoneInfo) -> tuple[datetime, datetime]:
    offset = _offset(instant, zone)
    second = instant.replace(microsecond=0)
    start = second - (second - _EPOCH + offset) % timedelta(seconds=seconds)
    end = start + timedelta(seconds=seconds)
    if _cuts(_offset(start, zone) - offset, seconds):
        start = _first_change(start, second, zone)
    last = end - _SECOND
    if _cuts(_offset(last, zone) - offset, seconds):
        end = _first_change(second, last, zone)
    return start, end


def _cuts(change: timedelta, seconds: int) -> bool:
    return bool(change % timedelta(seconds=seconds))


def _offset(instant: datetime, zone: ZoneInfo) -> timedelta:
    offset = instant.astimezone(zone).utcoffset()
    assert offset is not None
    return offset


@cache
def _zone_names() -> frozenset[str]:
    return frozenset(available_timezones()) - _NOT_ZONES | {"", "UTC"}
