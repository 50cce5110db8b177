"""How instants and numbers are written and read."""

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.wire import Amount, Body, Wire, encode, instant, timestamp
from metering.domain.measure import json_number


class Sum(Wire):
    total_amount: Decimal
    note: str | None = None


class Order(Body):
    unit_price: Amount


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (datetime(2031, 2, 1, 9, tzinfo=UTC), "2031-02-01T09:00:00Z"),
        (datetime(2031, 2, 1, 9, 0, 0, 100_000, tzinfo=UTC), "2031-02-01T09:00:00.1Z"),
        (datetime(2031, 2, 1, 9, 0, 10, tzinfo=timezone(timedelta(hours=1))), "2031-02-01T08:00:10Z"),
    ],
)
def test_timestamps_are_utc_without_trailing_zeros(at: datetime, text: str) -> None:
    assert timestamp(at) == text


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_timestamp_reads_back_as_the_same_instant(at: datetime) -> None:
    assert instant(timestamp(at)) == at


@pytest.mark.parametrize("text", ["2031-02-01", "2031-02-01T00:00:00", 1, None, "2031-13-01T00:00:00Z", "now"])
def test_what_is_no_instant_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        instant(text)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=12, min_value=-(10**11), max_value=10**11))
def test_numbers_keep_every_digit_and_no_zero_too_many(number: Decimal) -> None:
    text = encode(json_number(number)).decode().strip()
    assert json.loads(text, parse_float=Decimal, parse_int=Decimal) == number
    if "e" not in text.lower():
        assert not ("." in text and text.endswith(("0", ".")))


def test_absent_members_are_left_out_and_markup_is_escaped() -> None:
    assert encode(Sum(total_amount=Decimal(5))) == b'{"totalAmount":5}\n'
    assert encode(Sum(total_amount=Decimal(5), note="<&>")) == b'{"totalAmount":5,"note":"\\u003c\\u0026\\u003e"}\n'


@pytest.mark.parametrize("value", ["1", True, None, Decimal("1e30"), Decimal("0.1234567890123"), Decimal("NaN")])
def test_amounts_are_json_numbers_within_the_limits(value: object) -> None:
    with pytest.raises(ValueError, match="unitPrice"):
        Order.model_validate({"unitPrice": value})


def test_amounts_are_exact() -> None:
    assert Order.model_validate({"unitPrice": Decimal("0.1")}).unit_price == Decimal("0.1")
