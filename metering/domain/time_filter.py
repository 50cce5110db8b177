"""Filters of instants: `{"$gte": "2031-02-01T00:00:00Z"}`, combined by `$and` and `$or` one level deep."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from metering.domain.errors import InvalidInput

OPERATORS: Final = frozenset({"$gt", "$gte", "$lt", "$lte"})
PARTS_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class TimeCompare:
    """`$gt $gte $lt $lte` with one instant."""

    operator: str
    at: datetime


@dataclass(frozen=True, slots=True)
class TimeEvery:
    """`$and`."""

    filters: tuple["TimeFilter", ...]


@dataclass(frozen=True, slots=True)
class TimeSome:
    """`$or`."""

    filters: tuple["TimeFilter", ...]


TimeFilter = TimeCompare | TimeEvery | TimeSome


def parse_time_filter(value: Any, name: str, read: Callable[[object], datetime], *, deep: int = 1) -> TimeFilter | None:
    """The filter of a decoded JSON object; None for an empty one.

    `read` makes an instant of a text or raises ValueError. Raises InvalidInput, which names the field `name`.
    """
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{name}: filter is invalid: must be an object")
    if not value:
        return None
    if len(value) > 1:
        raise InvalidInput(f"{name}: filter is invalid: multiple operators are set")
    operator, operand = next(iter(value.items()))
    if operator in OPERATORS:
        try:
            return TimeCompare(operator, read(operand))
        except ValueError as error:
            raise InvalidInput(f"{name}: filter is invalid: {error}") from error
    if operator not in {"$and", "$or"}:
        raise InvalidInput(f"{name}: filter is invalid: unknown operator {str(operator)[:100]}")
    if deep < 1:
        raise InvalidInput(f"{name}: filter complexity exceeds maximum allowed depth")
    if not isinstance(operand, list) or not 0 < len(operand) <= PARTS_MAX:
        raise InvalidInput(f"{name}: filter is invalid: {operator} needs an array of 1 to {PARTS_MAX} filters")
    parts = [parse_time_filter(item, name, read, deep=deep - 1) for item in operand]
    whole = tuple(part for part in parts if part is not None)
    if len(whole) < len(parts):
        raise InvalidInput(f"{name}: filter is invalid: {operator} needs filters")
    return TimeEvery(whole) if operator == "$and" else TimeSome(whole)
