"""String filters: `{"$eq": "a"}`, `{"$in": ["a", "b"]}`, `{"$like": "gpu%"}`, `{"$and": [...]}` and so on.

An object has one operator; conditions are combined by `$and` and `$or`. Texts compare by code point, which is how their
UTF-8 bytes compare in ClickHouse. `%` and `_` are the wildcards of `$like`, with `\\` before one that stands for
itself.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, assert_never

from metering.domain.entitlement import DimensionFilter
from metering.domain.errors import InvalidInput

NESTING_MAX: Final = 10
VALUES_MAX: Final = 1000

Operator = str
_TESTS: Final[Mapping[Operator, Callable[[str, str], bool]]] = {
    "$eq": lambda text, value: text == value,
    "$ne": lambda text, value: text != value,
    "$gt": lambda text, value: text > value,
    "$gte": lambda text, value: text >= value,
    "$lt": lambda text, value: text < value,
    "$lte": lambda text, value: text <= value,
    "$like": lambda text, value: _like(value, text),
    "$nlike": lambda text, value: not _like(value, text),
    "$ilike": lambda text, value: _like(value.lower(), text.lower()),
    "$nilike": lambda text, value: not _like(value.lower(), text.lower()),
}
_LISTS: Final = frozenset({"$in", "$nin"})
_JOINS: Final = frozenset({"$and", "$or"})


@dataclass(frozen=True, slots=True)
class Compare:
    """`$eq $ne $gt $gte $lt $lte $like $nlike $ilike $nilike` with one value."""

    operator: Operator
    value: str


@dataclass(frozen=True, slots=True)
class OneOf:
    """`$in`, or `$nin` when negated. Nothing is in an empty list."""

    values: tuple[str, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Every:
    """`$and`."""

    filters: tuple["StringFilter", ...]


@dataclass(frozen=True, slots=True)
class Some:
    """`$or`."""

    filters: tuple["StringFilter", ...]


StringFilter = Compare | OneOf | Every | Some


def matches(condition: StringFilter, text: str) -> bool:
    """Whether `text` passes."""
    match condition:
        case Compare(operator, value):
            return _TESTS[operator](text, value)
        case OneOf(values, negated):
            return (text in values) is not negated
        case Every(filters):
            return all(matches(part, text) for part in filters)
        case Some(filters):
            return any(matches(part, text) for part in filters)
    assert_never(condition)


def parse_filter(value: Any, name: str, *, nesting_max: int = NESTING_MAX) -> StringFilter | None:
    """The filter of a decoded JSON object; None for an empty one. `name` is what the errors name.

    `nesting_max` is how deep `$and` and `$or` may stand in each other. Raises InvalidInput.
    """
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{name}: filter is invalid: must be an object")
    if not value:
        return None
    if len(value) > 1:
        raise InvalidInput(f"{name}: filter is invalid: multiple operators are set")
    operator, operand = next(iter(value.items()))
    if operator in _TESTS:
        return Compare(operator, _text(operand, name))
    if operator in _LISTS:
        return OneOf(tuple(_text(item, name) for item in _list(operand, operator, name)), negated=operator == "$nin")
    if operator not in _JOINS:
        raise InvalidInput(f"{name}: filter is invalid: unknown operator {str(operator)[:100]}")
    if nesting_max < 1:
        raise InvalidInput(f"{name}: filter complexity exceeds maximum allowed depth")
    parsed = [parse_filter(item, name, nesting_max=nesting_max - 1) for item in _list(operand, operator, name)]
    parts = tuple(part for part in parsed if part is not None)
    if not parts or len(parts) < len(parsed):
        raise InvalidInput(f"{name}: filter is invalid: {operator} needs filters")
    return Every(parts) if operator == "$and" else Some(parts)


def filter_of(flat: DimensionFilter) -> StringFilter:
    """The tree of a flat filter; several values mean any of them, for negated operators none of them."""
    if flat.operator in _LISTS:
        return OneOf(flat.values, negated=flat.operator == "$nin")
    parts = tuple(Compare(flat.operator, value) for value in flat.values)
    if len(parts) == 1:
        return parts[0]
    return Every(parts) if flat.operator in {"$ne", "$nlike", "$nilike"} else Some(parts)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"{name}: filter is invalid: value must be a string")
    if not value:
        raise InvalidInput(f"{name}: filter is invalid: format mismatch")
    return value


def _list(value: Any, operator: str, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidInput(f"{name}: filter is invalid: {operator} needs an array")
    if len(value) > VALUES_MAX:
        raise InvalidInput(f"{name}: filter is invalid: more than {VALUES_MAX} values")
    return value


@lru_cache(maxsize=1024)
def _wildcards(pattern: str) -> tuple[str | None, ...]:
    """The pattern as literal characters, "" for any one character and None for any run of them."""
    found = re.findall(r"\\[%_\\]|.", pattern, re.DOTALL)
    return tuple(None if part == "%" else "" if part == "_" else part[-1] for part in found)


def _like(pattern: str, text: str) -> bool:
    """SQL's LIKE, in at most len(pattern) * len(text) steps: a regular expression could take forever."""
    wanted = _wildcards(pattern)
    at = here = 0
    run: tuple[int, int] | None = None  # where the last % stands, and from where on it may take one character more
    while here < len(text):
        if at < len(wanted) and wanted[at] is None:
            run = (at, here)
            at += 1
        elif at < len(wanted) and wanted[at] in ("", text[here]):
            at += 1
            here += 1
        elif run is not None:
            run = (run[0], run[1] + 1)
            at, here = run[0] + 1, run[1]
        else:
            return False
    return all(part is None for part in wanted[at:])
