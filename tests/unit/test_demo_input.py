"""What the demo makes of its input."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from cli.demo.flights import flights
from cli.demo.scenario import Expected, move
from cli.demo.trace import instant, read_trace
from metering.domain.errors import InvalidInput


def test_the_year_of_flights_is_whole() -> None:
    scenario = flights(whole_year=True)
    expected = Expected()
    end = datetime(2030, 3, 1, tzinfo=UTC)
    ids, times = set(), []
    for measured in scenario.events(end - timedelta(days=27), end):
        expected.add(measured)
        ids.add(measured.event["id"])
        times.append(datetime.fromisoformat(measured.event["time"]))
    assert expected.events == len(ids) == 336_776
    assert expected.total("miles") == Decimal(350_217_607)
    assert times == sorted(times)
    assert end - timedelta(days=27) <= times[0]
    assert times[-1] < end


def test_a_span_that_fits_is_moved_and_a_longer_one_compressed() -> None:
    day = datetime(2030, 1, 1, tzinfo=UTC)
    into = (day, day + timedelta(days=2))
    fits = (day - timedelta(days=400), day - timedelta(days=399))
    assert move(fits[1], fits, into) - move(fits[0], fits, into) == timedelta(days=1)
    long = (day - timedelta(days=400), day)
    assert move(long[0], long, into) == day
    assert move(long[1], long, into) < into[1]


def test_trace_times_are_cut_to_the_microsecond() -> None:
    assert instant("2023-11-16 18:17:03.9799609").microsecond == 979_960
    assert instant("2023-11-16 18:17:03").microsecond == 0


def test_a_file_without_the_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InvalidInput, match="needs the columns"):
        read_trace(path)
