"""What a meter reads out of one value: exact numbers, texts of unique counts, texts of dimensions.

Values are JSON decoded by msgspec with `float_hook=decimal_of`, so that no digit passes through a float: int, Decimal,
str, bool, None, list, dict, MISSING, or an Unusable where the data itself can't be read. Numbers have at most 12
decimals and 24 digits in all, written without an exponent and without trailing zeros of the fraction; others are
refused, with a finding.
"""

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from metering.domain.jsonpath import MISSING

DECIMALS_MAX: Final = 12
DIGITS_MAX: Final = 24
NUMBER_LIMIT: Final = 10**DIGITS_MAX
NUMBER_CHARS_MAX: Final = 1000
QUOTED_CHARS_MAX: Final = 200
PLAIN_DIGITS_MAX: Final = 40

_NUMBER_TEXT: Final = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NAN_TEXT: Final = re.compile(r"[+-]?nan", re.IGNORECASE)
_INFINITY_TEXT: Final = re.compile(r"[+-]?inf(?:inity)?", re.IGNORECASE)
_TYPE_NAMES: Final = {bool: "bool", dict: "map[string]interface {}", list: "[]interface {}"}


class HugeNumber(str):
    """The text of a JSON number whose exponent not even a Decimal can hold."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Unusable:
    """Why a meter can't use a value. `code` is stable; `message` is what event lists and dead letters show."""

    code: str
    message: str


MISSING_DATA: Final = Unusable("missing_data", "null and missing value property")


def decimal_of(text: str) -> Decimal | HugeNumber:
    """The `float_hook` of every decoder of event data."""
    try:
        return Decimal(text)
    except InvalidOperation:
        return HugeNumber(text)


def numeric(value: Any, path: str) -> Decimal | Unusable:
    """The value as SUM, AVG, MIN, MAX and LATEST use it. Texts that are numbers count as numbers."""
    if isinstance(value, HugeNumber):
        return _out_of_range(value)
    if isinstance(value, str):
        return _numeric_text(value)
    if isinstance(value, Decimal):
        return _within_limits(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value) if -NUMBER_LIMIT < value < NUMBER_LIMIT else _out_of_range(str(value))
    return _no_scalar(value, path) or Unusable(
        "unsupported_type", f"unsupported value property type: {_TYPE_NAMES.get(type(value), type(value).__name__)}"
    )


def unique_text(value: Any, path: str) -> str | Unusable:
    """The text by which UNIQUE_COUNT tells values apart. An object or array is there but has no text: it is ""."""
    return _no_scalar(value, path) or dimension_text(value)


def dimension_text(value: Any) -> str:
    """The text of a dimension. Numbers are normalised: 1.0 and 1 are one. Nothing, objects and arrays are ""."""
    if isinstance(value, str):
        return str(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Decimal):
        return number_text(value)
    return ""


def number_text(number: Decimal) -> str:
    """The one text of a number: `1000`, `0.5`, `-2`, never `-0`; `15e+99` where the digits would be more than 40."""
    sign, digits, exponent = number.as_tuple()
    coefficient = "".join(map(str, digits)).lstrip("0")
    stripped = coefficient.rstrip("0")
    if not stripped:
        return "0"
    exponent = int(exponent) + len(coefficient) - len(stripped)
    minus = "-" if sign else ""
    if len(stripped) + abs(exponent) > PLAIN_DIGITS_MAX:
        return f"{minus}{stripped}e{exponent:+d}"
    if exponent >= 0:
        return f"{minus}{stripped}{'0' * exponent}"
    padded = stripped.rjust(1 - exponent, "0")
    return f"{minus}{padded[:exponent]}.{padded[exponent:]}"


def json_number(number: Decimal) -> Decimal:
    """The same number such that `msgspec.json.Encoder(decimal_format="number")` prints it shortest: 1000, 0.5, 0.

    Numbers below 1e-6 are printed by Decimal with an exponent, which is JSON all the same.
    """
    return Decimal(number_text(number))


def _no_scalar(value: Any, path: str) -> Unusable | None:
    if value is MISSING:
        return Unusable("missing_property", f'missing value property: "{path}"')
    if value is None:
        return Unusable("null_value", "value cannot be null")
    return value if isinstance(value, Unusable) else None


def _numeric_text(text: str) -> Decimal | Unusable:
    if len(text) <= NUMBER_CHARS_MAX and _NUMBER_TEXT.fullmatch(text):
        number = decimal_of(text)
        return _within_limits(number) if isinstance(number, Decimal) else _out_of_range(text)
    if _NAN_TEXT.fullmatch(text):
        return Unusable("nan", "value cannot be NaN")
    if _INFINITY_TEXT.fullmatch(text):
        return Unusable("infinity", "value cannot be infinity")
    return Unusable("not_a_number", f"value cannot be parsed as float64: {_quoted(text)}")


def _within_limits(number: Decimal) -> Decimal | Unusable:
    """`number` if 12 decimals and 24 digits hold it exactly. Looks at digits only: no context rounds on the way."""
    if not number:
        return Decimal(0)
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)  # JSON has no NaN
    zeros = 0
    while digits[-1 - zeros] == 0:
        zeros += 1
    decimals = max(0, -(exponent + zeros))
    integer_digits = max(0, len(digits) + exponent)
    if decimals <= DECIMALS_MAX and integer_digits + decimals <= DIGITS_MAX:
        return Decimal((sign, digits[:-zeros], exponent + zeros)) if zeros else number
    return _out_of_range(number_text(number))


def _out_of_range(text: str) -> Unusable:
    return Unusable(
        "out_of_range", f"value has more than {DECIMALS_MAX} decimals or {DIGITS_MAX} digits: {_quoted(text)}"
    )


def _quoted(text: str) -> str:
    return text if len(text) <= QUOTED_CHARS_MAX else f"{text[:QUOTED_CHARS_MAX]}…"
