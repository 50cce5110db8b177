"""Calendar periods counted from an anchor: the nth boundary is anchor + n * interval, never boundary + interval.

Months and years keep the anchor's day of month, clamped to the last day where it is missing (31 Jan, 28 Feb, 31 Mar).
Days and weeks are calendar days in UTC.
"""

import calendar
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from metering.domain.errors import InvalidInput

_ISO: Final = re.compile(
    r"P(?=.)(?:(\d{1,6})Y)?(?:(\d{1,6})M)?(?:(\d{1,6})W)?(?:(\d{1,6})D)?(?:T(?=.)(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,9})S)?)?"
)
_WORDS: Final = {"HOUR": "PT1H", "DAY": "P1D", "WEEK": "P1W", "MONTH": "P1M", "YEAR": "P1Y"}


@dataclass(frozen=True, slots=True)
class Interval:
    """A calendar duration: whole months plus an exact time. At least one of them is positive."""

    months: int
    exact: timedelta

    @classmethod
    def parse(cls, text: str) -> "Interval":
        """From `DAY`, `WEEK`, `MONTH`, `YEAR` or an ISO 8601 duration of whole numbers; raises InvalidInput."""
        match = _ISO.fullmatch(_WORDS.get(text, text))
        if match is None:
            raise InvalidInput(f"invalid ISO 8601 duration: {text}")
        years, months, weeks, days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        interval = cls(
            12 * years + months,
            timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds),
        )
        if interval.months == 0 and interval.exact == timedelta(0):
            raise InvalidInput(f"a duration must not be zero: {text}")
        return interval

    def iso(self) -> str:
        """As an ISO 8601 duration, in the largest units: P1Y, P1M, P1W, P1D, PT1H."""
        years, months = divmod(self.months, 12)
        days, seconds = self.exact.days, self.exact.seconds
        weeks = days // 7 if days % 7 == 0 and seconds == 0 else 0
        days -= 7 * weeks
        hours, seconds = divmod(seconds, 3600)
        minutes, seconds = divmod(seconds, 60)
        date = "".join(f"{n}{u}" for n, u in ((years, "Y"), (months, "M"), (weeks, "W"), (days, "D")) if n)
        clock = "".join(f"{n}{u}" for n, u in ((hours, "H"), (minutes, "M"), (seconds, "S")) if n)
        return f"P{date}" + (f"T{clock}" if clock else "")

    def word(self) -> str:
        """As the wire prints it: DAY, WEEK, MONTH or YEAR where it is one, else the ISO text."""
        iso = self.iso()
        return {"P1D": "DAY", "P1W": "WEEK", "P1M": "MONTH", "P1Y": "YEAR"}.get(iso, iso)


def boundary(anchor: datetime, interval: Interval, n: int) -> datetime:
    """anchor + n * interval; `n` may be negative."""
    month = anchor.month - 1 + n * interval.months
    year, month = anchor.year + month // 12, month % 12 + 1
    day = min(anchor.day, calendar.monthrange(year, month)[1])
    return anchor.replace(year=year, month=month, day=day) + n * interval.exact


def index_at(anchor: datetime, interval: Interval, at: datetime) -> int:
    """The n of the period that holds `at`: boundary(n) <= at < boundary(n + 1)."""
    length = interval.exact + timedelta(days=interval.months * 30.436875)
    n = (at - anchor) // length
    while boundary(anchor, interval, n) > at:
        n -= 1
    while boundary(anchor, interval, n + 1) <= at:
        n += 1
    return n


def period_at(anchor: datetime, interval: Interval, at: datetime) -> tuple[datetime, datetime]:
    """The period [start, end) that holds `at`."""
    n = index_at(anchor, interval, at)
    return boundary(anchor, interval, n), boundary(anchor, interval, n + 1)
