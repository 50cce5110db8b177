from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.domain.jsonpath import MISSING
from metering.domain.measure import (
    HugeNumber,
    Unusable,
    decimal_of,
    dimension_text,
    json_number,
    number_text,
    numeric,
    unique_text,
)

DIGITS = st.text("0123456789", min_size=1, max_size=30)
NUMBER_TEXTS = st.builds(
    lambda sign, whole, decimals, exponent: sign + whole + ("." + decimals if decimals else "") + exponent,
    st.sampled_from(["", "-"]), DIGITS, st.just("") | DIGITS, st.just("") | st.integers(-40, 40).map(lambda e: f"e{e}"),
)  # fmt: skip


def exact(text: str) -> Fraction:
    mantissa, _, exponent = text.partition("e")
    return Fraction(mantissa) * Fraction(10) ** int(exponent or 0)


def fits(number: Fraction) -> bool:
    for decimals in range(13):
        scaled = number * 10**decimals
        if scaled.denominator == 1:
            return abs(scaled.numerator) < 10**24
    return False


@given(NUMBER_TEXTS)
def test_a_number_is_taken_exactly_or_refused(text: str):
    for value in (text, Decimal(text)):
        got = numeric(value, "$.v")
        if fits(exact(text)):
            assert isinstance(got, Decimal)
            assert Fraction(got) == exact(text)
        else:
            assert isinstance(got, Unusable)
            assert got.code == "out_of_range"


@given(st.integers(-(10**26), 10**26) | st.integers(-1000, 1000))
def test_integers_are_taken_up_to_24_digits(value: int):
    got = numeric(value, "$.v")
    assert got == value if abs(value) < 10**24 else isinstance(got, Unusable)


def test_the_limits_themselves():
    assert numeric(10**24 - 1, "$.v") == 10**24 - 1
    for value in (10**24, -(10**24), "1e24", Decimal("1E-13")):
        assert isinstance(numeric(value, "$.v"), Unusable)


@given(NUMBER_TEXTS, st.integers(0, 5))
def test_equal_numbers_have_one_text_and_others_another(text: str, zeros: int):
    shown = number_text(Decimal(text))
    assert exact(shown) == exact(text)
    mantissa, letter, exponent = text.partition("e")
    longer = mantissa + ("" if "." in mantissa else ".") + "0" * zeros + letter + exponent
    assert number_text(Decimal(longer)) == shown
    assert shown == "0" or not (shown.startswith(("-0.0e", "0e")) or ("." in shown and shown.endswith("0")))


@pytest.mark.parametrize(
    ("number", "text"),
    [("1E+3", "1000"), ("0.50", "0.5"), ("-0.0", "0"), ("0E-12", "0"), ("-1.10", "-1.1"), ("1E+400", "1e+400"), ("100", "100"), ("1E-7", "0.0000001"),
     ("-12.5E-99", "-125e-100"), ("1001.8", "1001.8")],
)  # fmt: skip
def test_numbers_are_written_plainly(number: str, text: str):
    assert number_text(Decimal(number)) == text


def test_json_numbers_are_shortest():
    encode = msgspec.json.Encoder(decimal_format="number").encode
    printed = [
        encode(json_number(Decimal(text))) for text in ("1E+3", "0.500", "-0", "1001.80", "123456789012345678901234")
    ]
    assert printed == [b"1000", b"0.5", b"0", b"1001.8", b"123456789012345678901234"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (MISSING, 'missing value property: "$.v"'),
        (None, "value cannot be null"),
        ("", "value cannot be parsed as float64: "),
        ("abc", "value cannot be parsed as float64: abc"),
        ("1_000", "value cannot be parsed as float64: 1_000"),
        (" 1", "value cannot be parsed as float64:  1"),
        ("1\n", "value cannot be parsed as float64: 1\n"),
        ("\u0661", "value cannot be parsed as float64: \u0661"),
        ("0x10", "value cannot be parsed as float64: 0x10"),
        ("NaN", "value cannot be NaN"),
        ("nan123", "value cannot be parsed as float64: nan123"),
        ("+Inf", "value cannot be infinity"),
        ("-infinity", "value cannot be infinity"),
        (True, "unsupported value property type: bool"),
        ([1], "unsupported value property type: []interface {}"),
        ({}, "unsupported value property type: map[string]interface {}"),
        ("1e400", "value has more than 12 decimals or 24 digits: 1e+400"),
        (HugeNumber("1e99999999999999999999"), "value has more than 12 decimals or 24 digits: 1e99999999999999999999"),
        ("x" * 1000, "value cannot be parsed as float64: " + "x" * 200 + "…"),
    ],
)
def test_findings_say_why(value: Any, message: str):
    got = numeric(value, "$.v")
    assert isinstance(got, Unusable)
    assert got.message == message


@pytest.mark.parametrize(
    ("text", "number"), [("+7", 7), (".5", "0.5"), ("5.", 5), ("-1.5E2", -150), ("007", 7), ("-0", 0)]
)
def test_texts_may_be_numbers(text: str, number: Any):
    got = numeric(text, "$.v")
    assert got == Decimal(number)
    assert not str(got).startswith("-0")


@pytest.mark.parametrize(
    ("value", "dimension", "unique"),
    [(MISSING, "", None), (None, "null", None), ("null", "null", "null"), ("", "", ""), (True, "true", "true"), (False, "false", "false"),
     (0, "0", "0"), (Decimal("1.0"), "1", "1"), (Decimal("-0.0"), "0", "0"), ("1.0", "1.0", "1.0"), ([1], "", ""), ({"a": 1}, "", ""),
     ("NaN", "NaN", "NaN"), (2**70, str(2**70), str(2**70)), (Unusable("x", "y"), "", None)],
)  # fmt: skip
def test_texts_of_dimensions_and_unique_values(value: Any, dimension: str, unique: str | None):
    assert dimension_text(value) == dimension
    got = unique_text(value, "$.v")
    assert (None if isinstance(got, Unusable) else got) == unique


def test_a_number_that_no_decimal_holds_keeps_its_text():
    number = decimal_of("1e99999999999999999999")
    assert isinstance(number, HugeNumber)
    assert dimension_text(number) == "1e99999999999999999999"
