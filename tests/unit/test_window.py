from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from metering.domain.errors import InvalidInput
from metering.domain.window import WindowSize, parse_zone, window_at, windows

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe",
         "Africa/Monrovia", "Pacific/Apia", "Asia/Gaza", "America/Havana", "Atlantic/Azores", "America/Toronto", "Asia/Amman",
         "America/St_Johns"]  # fmt: skip
INSTANTS = st.datetimes(datetime(1970, 1, 2), datetime(2199, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
MICROSECOND = timedelta(microseconds=1)
SECOND = timedelta(seconds=1)


def changes(zone: ZoneInfo, first: datetime, last: datetime) -> list[datetime]:
    """The instants, on a minute, at which the clock changes: looked for by stepping, hour by hour."""
    found = []
    at = first
    while at < last:
        after = at + timedelta(hours=1)
        if at.astimezone(zone).utcoffset() != after.astimezone(zone).utcoffset():
            while at.astimezone(zone).utcoffset() != after.astimezone(zone).utcoffset():
                after -= SECOND
            found.append(after + SECOND)
            after = after + SECOND
        at = after
    return found


CHANGES = [
    (zone, at)
    for zone in ZONES
    for at in changes(ZoneInfo(zone), datetime(2009, 9, 1, tzinfo=UTC), datetime(2012, 5, 1, tzinfo=UTC))
]
CHANGES += [
    ("Asia/Pyongyang", datetime(2015, 8, 14, 15, tzinfo=UTC)),
    ("Asia/Pyongyang", datetime(2018, 5, 4, 15, tzinfo=UTC)),
]
NEAR_CHANGES = st.tuples(st.sampled_from(CHANGES), st.integers(-90_000, 90_000)).map(
    lambda drawn: (drawn[0][0], drawn[0][1] + drawn[1] * SECOND)
)
ANYWHERE = st.tuples(st.sampled_from(ZONES), INSTANTS)
SIZES = st.sampled_from(WindowSize)


def oracle_start(instant: datetime, size: WindowSize, zone: ZoneInfo) -> datetime:
    """The last second up to `instant` that begins a window: found by walking back through the zone's clock."""
    at = instant.replace(microsecond=0)
    if size in (WindowSize.DAY, WindowSize.MONTH):
        wanted = (lambda t: t.date()) if size is WindowSize.DAY else (lambda t: (t.year, t.month))
        latest = max(wanted((at - timedelta(minutes=m)).astimezone(zone)) for m in range(180))
        low, high = at - timedelta(days=33), at  # the first second that shows `latest` is when it begins
        while high - low > SECOND:
            middle = low + (high - low) // 2 // SECOND * SECOND
            shown = max(wanted((middle - timedelta(minutes=m)).astimezone(zone)) for m in range(180))
            low, high = (low, middle) if shown >= latest else (middle, high)
        return high
    step = 60 if size is WindowSize.MINUTE else 3600
    while True:
        local = at.astimezone(zone)
        seconds = local.minute * 60 + local.second if step == 3600 else local.second
        before = (at - SECOND).astimezone(zone).utcoffset()
        now = local.utcoffset()
        assert before is not None
        assert now is not None
        if seconds == 0 or (now - before) % timedelta(seconds=step):
            return at
        at -= SECOND


@given(NEAR_CHANGES | ANYWHERE, SIZES)
@example(("America/Sao_Paulo", datetime(2011, 10, 16, 3, 0, tzinfo=UTC)), WindowSize.DAY)
@example(("Pacific/Apia", datetime(2011, 12, 30, 10, 0, tzinfo=UTC)), WindowSize.DAY)
def test_the_window_begins_where_the_clock_says(drawn: tuple[str, datetime], size: WindowSize):
    name, instant = drawn
    zone = parse_zone(name)
    start, end = window_at(instant, size, zone)
    assert start <= instant < end
    assert start == oracle_start(instant, size, zone)


@given(NEAR_CHANGES | ANYWHERE, SIZES)
def test_windows_meet(drawn: tuple[str, datetime], size: WindowSize):
    zone = parse_zone(drawn[0])
    start, end = window_at(drawn[1], size, zone)
    assert window_at(start, size, zone) == (start, end)
    assert window_at(end - MICROSECOND, size, zone) == (start, end)
    assert window_at(end, size, zone)[0] == end
    assert window_at(start - MICROSECOND, size, zone)[1] == start


@pytest.mark.parametrize(
    ("zone", "instant", "size", "start", "hours"),
    [
        ("Asia/Kolkata", "2031-02-01T07:29:59Z", "HOUR", "2031-02-01T06:30:00+00:00", 1),
        ("Asia/Kathmandu", "2031-02-01T07:20:00Z", "HOUR", "2031-02-01T07:15:00+00:00", 1),
        ("Asia/Kolkata", "2031-02-01T18:30:00Z", "DAY", "2031-02-01T18:30:00+00:00", 24),
        ("Asia/Kathmandu", "2031-02-01T18:15:00Z", "DAY", "2031-02-01T18:15:00+00:00", 24),
        ("Europe/Berlin", "2031-03-30T10:00:00Z", "DAY", "2031-03-29T23:00:00+00:00", 23),
        ("Europe/Berlin", "2031-10-26T10:00:00Z", "DAY", "2031-10-25T22:00:00+00:00", 25),
        ("America/Sao_Paulo", "2018-11-04T12:00:00Z", "DAY", "2018-11-04T03:00:00+00:00", 23),
        ("America/Sao_Paulo", "2018-02-17T12:00:00Z", "DAY", "2018-02-17T02:00:00+00:00", 25),
        ("America/St_Johns", "2010-11-07T03:00:00Z", "DAY", "2010-11-07T02:30:00+00:00", 25),
        ("Asia/Pyongyang", "2018-05-04T14:45:00Z", "HOUR", "2018-05-04T14:30:00+00:00", 0.5),
        ("Pacific/Apia", "2011-12-30T09:59:59Z", "DAY", "2011-12-29T10:00:00+00:00", 24),
        ("Europe/Berlin", "2031-03-15T00:00:00Z", "MONTH", "2031-02-28T23:00:00+00:00", 31 * 24 - 1),
        ("UTC", "1970-01-01T00:00:01Z", "MONTH", "1970-01-01T00:00:00+00:00", 31 * 24),
        ("Europe/Berlin", "2199-12-31T23:30:00Z", "DAY", "2199-12-31T23:00:00+00:00", 24),
    ],
)
def test_known_windows(zone: str, instant: str, size: str, start: str, hours: int):
    found, end = window_at(datetime.fromisoformat(instant), WindowSize(size), parse_zone(zone))
    assert found.isoformat() == start
    assert end - found == timedelta(hours=hours)


def test_windows_of_a_range_are_whole():
    start, end = datetime(2031, 3, 29, 12, tzinfo=UTC), datetime(2031, 3, 31, 12, tzinfo=UTC)
    found = list(windows(start, end, WindowSize.DAY, parse_zone("Europe/Berlin")))
    assert [(e - s) / timedelta(hours=1) for s, e in found] == [24, 23, 24]


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/localtime", "+05:30", "utc+1", "Mars/Phobos", "Europe/Berlin\0", "localtime",
                                  "Europe", "europe/berlin", " UTC", "posixrules", "x" * 100_000])  # fmt: skip
def test_what_is_no_zone_is_refused(name: str):
    with pytest.raises(InvalidInput, match=r"^invalid time zone: ") as refused:
        parse_zone(name)
    assert len(refused.value.detail) < 200


def test_no_zone_is_utc():
    assert parse_zone("") == parse_zone("UTC") == ZoneInfo("UTC")
