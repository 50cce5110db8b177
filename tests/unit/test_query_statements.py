"""The parts of queries: statements, buckets of windows, patterns, filters of time."""

from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.v2.events import cursor_of, parse_cursor
from metering.clickhouse.buckets import Buckets, Piece, Starts, Steps, is_whole, pieces
from metering.clickhouse.conditions import like_pattern
from metering.clickhouse.event_list import Place, StoredEvent
from metering.clickhouse.schema import TABLES
from metering.clickhouse.statement import conjunction, disjunction, instant, sql, text, texts
from metering.clickhouse.usage_select import UsageSelect
from metering.domain.errors import InvalidInput
from metering.domain.filters import Compare, matches
from metering.domain.meter import Aggregation
from metering.domain.time_filter import TimeCompare, TimeEvery, parse_time_filter
from metering.domain.window import WindowSize, window_at

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/St_Johns",
    "America/Sao_Paulo",
    "America/Havana",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Asia/Pyongyang",
    "Asia/Beirut",
    "Pacific/Apia",
    "Antarctica/Troll",
    "Africa/Casablanca",
    "Africa/Monrovia",
)
minutes = st.integers(0, 7_258_118_399 // 60).map(lambda m: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(minutes=m))


def bucket_of(buckets: Buckets, second: int) -> int:
    """As ClickHouse evaluates it."""
    match buckets:
        case Steps(seconds):
            return second - second % seconds
        case Starts(starts):
            return starts[max(0, bisect_right(starts, second) - 1)]


def piece_of(found: list[Piece], at: datetime) -> Piece:
    (piece,) = [each for each in found if each.start <= at < each.end]
    return piece


@given(
    start=minutes,
    length=st.integers(1, 60 * 24 * 400),
    zone=st.sampled_from(ZONES).map(ZoneInfo),
    size=st.sampled_from(WindowSize),
    data=st.data(),
)
def test_a_minute_and_its_bucket_lie_in_the_same_window(start, length, zone, size, data):
    end = start + timedelta(minutes=length)
    found = list(pieces(start, end, size, zone))
    assert found[0].start == start
    assert found[-1].end == end
    assert all(one.end == other.start for one, other in pairwise(found))
    for at in data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=20)):
        minute = start + timedelta(minutes=at)
        piece = piece_of(found, minute)
        bucket = datetime.fromtimestamp(bucket_of(piece.buckets, int(minute.timestamp())), UTC)
        window = window_at(minute, size, zone)
        assert window_at(bucket, size, zone) == window
        if is_whole(piece.buckets, size) and window[0].second == 0 and minute > window[0] >= piece.start:
            assert bucket == window[0]


def test_windows_over_many_years_are_asked_in_pieces():
    start, end = datetime(1990, 1, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)
    found = list(pieces(start, end, WindowSize.DAY, ZoneInfo("Europe/Berlin")))
    assert len(found) == 4
    assert all(isinstance(each.buckets, Starts) and len(each.buckets.seconds) <= 4000 for each in found)


def test_a_value_is_never_a_part_of_the_text():
    nasty = "'; DROP TABLE usage --{p0:String}"
    where = conjunction(
        [sql("a = {v}", v=text(nasty)), disjunction([sql("b IN {w}", w=texts([nasty]))]), disjunction([])]
    )
    statement = sql(
        "SELECT {x}, {x} FROM t WHERE {where} AND {at}", x=text(nasty), where=where, at=instant(datetime.now(UTC))
    )
    rendered = statement.render()
    assert nasty not in rendered.text
    assert list(rendered.parameters) == ["p0", "p1", "p2", "p3"]
    assert rendered.text.count("{p0:String}") == 2
    assert rendered.parameters["p2"] == [nasty]


def test_a_cut_inside_a_closed_hour_reads_that_hour_from_usage():
    closed = datetime(2031, 1, 2, 10, tzinfo=UTC)

    def tables(**changes: object) -> list[str]:
        wanted = UsageSelect("n", "m", Aggregation.SUM, closed_until=closed, **changes)
        words = wanted.sql().render().text.split()
        return [after for word, after in pairwise(words) if word == "FROM" and after[0] != "("]

    assert tables() == ["usage_closed", "usage"]
    assert tables(before=closed) == ["usage_closed"]
    assert tables(before=closed - timedelta(minutes=30)) == ["usage_closed", "usage"]
    assert tables(months_until=closed.replace(hour=0)) == ["usage_months", "usage_closed", "usage"]
    assert tables(months_until=closed.replace(hour=0), before=closed - timedelta(days=2)) == ["usage_months"]
    assert tables(below={0: 5}) == ["usage"]


@given(pattern=st.text("ab%_\\", max_size=6), value=st.text("ab%_\\", max_size=5))
def test_a_pattern_for_clickhouse_means_the_same_and_ends_in_no_lone_backslash(pattern, value):
    written = like_pattern(pattern)
    assert like_pattern(written) == written
    assert matches(Compare("$like", written), value) == matches(Compare("$like", pattern), value)
    rest = written.replace("\\\\", "").replace("\\%", "").replace("\\_", "")
    assert "\\" not in rest


def test_tables_say_what_they_are():
    for table in TABLES:
        assert "CREATE TABLE IF NOT EXISTS `d`.`" in table.ddl("d", None)
        assert "fsync_after_insert = 1" in table.ddl("d", None)
        replicated = table.ddl("d", "c")
        assert "ON CLUSTER `c`" in replicated
        assert "Replicated" in replicated


@pytest.mark.parametrize(
    "value",
    [
        5,
        {"$gt": "x"},
        {"$gt": None},
        {"$eq": "2031-01-01T00:00:00Z"},
        {"$gt": "1", "$lt": "2"},
        {"$and": []},
        {"$and": [{}]},
        {"$or": [{"$and": [{"$gt": "2031-01-01T00:00:00Z"}]}]},
        {"$and": {}},
    ],
)
def test_a_filter_of_time_that_can_not_be_understood_is_refused(value):
    def read(text: object) -> datetime:
        if not isinstance(text, str):
            raise ValueError("must be a text")  # noqa: TRY004
        return datetime.fromisoformat(text)

    with pytest.raises(InvalidInput, match=r"^time: "):
        parse_time_filter(value, "time", read)
    at = "2031-01-01T00:00:00+00:00"
    wanted = TimeEvery((TimeCompare("$gte", datetime(2031, 1, 1, tzinfo=UTC)),))
    assert parse_time_filter({"$and": [{"$gte": at}]}, "time", read) == wanted
    assert parse_time_filter({}, "time", read) is None


@given(st.integers(1, 7_258_118_399_999_999), st.integers(1, 10**15), st.integers(0, 999), st.integers(0, 10**18))
def test_a_cursor_comes_back_as_the_place_it_was_made_of(time_us, ingest_ms, partition, offset):
    time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)
    place = Place(time_us, ingest_ms, partition, offset)
    event = StoredEvent("i", "s", "t", "u", time, "null", time, time, place)
    assert parse_cursor(cursor_of(event)) == place
