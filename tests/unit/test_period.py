from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.domain.errors import InvalidInput
from metering.domain.period import Interval, boundary, index_at, period_at

instants = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda t: t.replace(second=0, microsecond=0)
)
intervals = st.builds(
    lambda months, hours: Interval(months, timedelta(hours=hours)), st.integers(0, 26), st.integers(0, 2000)
).filter(lambda i: i.months or i.exact)


@given(instants, intervals, instants)
def test_every_instant_lies_in_exactly_one_period(anchor: datetime, interval: Interval, at: datetime) -> None:
    start, end = period_at(anchor, interval, at)
    assert start <= at < end
    assert index_at(anchor, interval, start) == index_at(anchor, interval, at)
    assert index_at(anchor, interval, end) == index_at(anchor, interval, at) + 1


def test_months_clamp_to_the_last_day_and_come_back() -> None:
    anchor, month = datetime(2031, 1, 31, tzinfo=UTC), Interval.parse("MONTH")
    assert [boundary(anchor, month, n).day for n in range(4)] == [31, 28, 31, 30]
    assert boundary(anchor, month, -2) == datetime(2030, 11, 30, tzinfo=UTC)
    assert boundary(datetime(2028, 2, 29, tzinfo=UTC), Interval.parse("YEAR"), 1) == datetime(2029, 2, 28, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "iso", "word"),
    [
        ("DAY", "P1D", "DAY"),
        ("P7D", "P1W", "WEEK"),
        ("P12M", "P1Y", "YEAR"),
        ("P1Y2M3DT4H5M6S", "P1Y2M3DT4H5M6S", "P1Y2M3DT4H5M6S"),
        ("PT36H", "P1DT12H", "P1DT12H"),
    ],
)
def test_an_interval_is_printed_in_its_largest_units(text: str, iso: str, word: str) -> None:
    assert (Interval.parse(text).iso(), Interval.parse(text).word()) == (iso, word)


@pytest.mark.parametrize("text", ["", "P", "PT", "P0D", "P1.5D", "1D", "P-1D", "month"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        Interval.parse(text)
