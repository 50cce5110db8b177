"""The JSONPath subset that meters read event data by.

`$`, `.name`, `['name']`, `["name"]`, `[0]`, `[0, 2]`, `[1 to 3]` (both ends included, as in SQL/JSON), `[*]`. No
filters, no `..`, no functions, no negative positions. The first scalar that a path meets is its value.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import msgspec

from metering.domain.errors import InvalidInput

PATH_CHARS_MAX: Final = 1024

_DOT_NAME: Final = re.compile(r"\.(\w+)")
_QUOTED_NAME: Final = re.compile(r"""\[\s*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")\s*\]""", re.DOTALL)
_ANY_POSITION: Final = re.compile(r"\[\s*\*\s*\]")
_POSITIONS: Final = re.compile(r"\[([0-9,to\s]+)\]", re.ASCII)
_RANGE: Final = re.compile(r"\s*([0-9]{1,9})(?:\s+to\s+([0-9]{1,9}))?\s*", re.ASCII)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)

MISSING: Final = msgspec.UNSET
"""What a path finds where there is nothing."""


@dataclass(frozen=True, slots=True)
class Member:
    """`.name`: the member of an object."""

    name: str


@dataclass(frozen=True, slots=True)
class Positions:
    """`[0, 2 to 4]` as (first, last) pairs; empty stands for `[*]`."""

    ranges: tuple[tuple[int, int], ...]


Step = Member | Positions


@dataclass(frozen=True, slots=True)
class JsonPath:
    """A parsed path. `text` is as written."""

    text: str
    steps: tuple[Step, ...]

    @property
    def head(self) -> str | None:
        """The member of the data object that decides the value; None when the path doesn't begin with a member."""
        first = self.steps[0] if self.steps else None
        return first.name if isinstance(first, Member) else None

    def find(self, data: Any) -> Any:
        """The first scalar at this path of decoded JSON (null is None), else the first dict or list, else MISSING."""
        return find(data, self.steps)


def find(data: Any, steps: tuple[Step, ...]) -> Any:
    """As `JsonPath.find`, for steps below some value."""
    composite: Any = MISSING
    for value in _walk(data, steps):
        if not isinstance(value, dict | list):
            return value
        if composite is MISSING:
            composite = value
    return composite


def _walk(value: Any, steps: tuple[Step, ...]) -> Iterator[Any]:
    if not steps:
        yield value
        return
    match steps[0]:
        case Member(name):
            if isinstance(value, dict) and name in value:
                yield from _walk(value[name], steps[1:])
        case Positions(ranges):
            if isinstance(value, list):
                for item in _items(value, ranges):
                    yield from _walk(item, steps[1:])


def _items(array: list[Any], ranges: tuple[tuple[int, int], ...]) -> Iterator[Any]:
    if not ranges:
        yield from array
    for first, last in ranges:
        yield from array[first : last + 1]


@lru_cache(maxsize=4096)
def parse_path(text: str) -> JsonPath:
    """Parse a path. Raises InvalidInput, whose text starts with `invalid JSONPath`."""
    if len(text) > PATH_CHARS_MAX:
        raise InvalidInput(f"invalid JSONPath: longer than {PATH_CHARS_MAX} characters")
    if not text.startswith("$"):
        raise InvalidInput(f"invalid JSONPath: {text!r} does not start with $")
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise InvalidInput(f"invalid JSONPath: {text!r} has a character that no text can hold")
    steps: list[Step] = []
    at = 1
    while at < len(text):
        step, at = _step(text, at)
        steps.append(step)
    return JsonPath(text, tuple(steps))


def _step(text: str, at: int) -> tuple[Step, int]:
    if found := _DOT_NAME.match(text, at):
        return Member(found[1]), found.end()
    if found := _QUOTED_NAME.match(text, at):
        quoted = found[1] if found[1] is not None else found[2]
        return Member(_ESCAPE.sub(r"\1", quoted)), found.end()
    if found := _ANY_POSITION.match(text, at):
        return Positions(()), found.end()
    if found := _POSITIONS.match(text, at):
        ranges = []
        for part in found[1].split(","):
            bounds = _RANGE.fullmatch(part)
            if bounds is None:
                break
            first, last = int(bounds[1]), int(bounds[2] or bounds[1])
            if last < first:
                break
            ranges.append((first, last))
        else:
            return Positions(tuple(ranges)), found.end()
    raise InvalidInput(f"invalid JSONPath: {text!r} can't be read from character {at + 1} on")
