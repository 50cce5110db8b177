"""Reading the members that meters need out of many events' data, as columns.

A joint decoder reads all the members that the meters of a type need, and nothing else. Where it fails on an event, each
member is read by itself, so what a path finds never depends on which other paths are read beside it.
"""

import re
from collections.abc import Callable, Sequence
from decimal import Decimal, DecimalException
from functools import partial
from typing import Any, Final

import msgspec
import polars as pl

from metering.domain.jsonpath import MISSING, JsonPath, find
from metering.domain.measure import (
    MISSING_DATA,
    Unusable,
    decimal_of,
    dimension_text,
    number_text,
    numeric,
    unique_text,
)

NESTING_MAX: Final = 128
NUMBER_TYPE: Final = pl.Decimal(38, 12)

_PLAIN_NUMBER: Final = r"^-?[0-9]{1,12}(\.[0-9]{1,12})?$"
_PLAIN_TYPES: Final = frozenset({int, Decimal, str})
_UNSAFE_NAME: Final = re.compile(r'[\x00-\x1f"\\]')
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NOT_READ: Final = (msgspec.DecodeError, UnicodeDecodeError, DecimalException, RecursionError)
_TOO_DEEP: Final = Unusable("bad_json", f"failed to parse event data: nested deeper than {NESTING_MAX}")
_NULLS: Final = (b"null", b"")

Refusals = list[tuple[int, Unusable]]
"""(index, why) of the values that a column could not take."""
_Decode = Callable[[bytes], Any]


class Reader:
    """Reads `paths` out of JSON texts. Nothing is decoded when there are no paths."""

    def __init__(self, paths: Sequence[JsonPath]) -> None:
        self.paths = tuple(paths)
        heads = tuple(dict.fromkeys(path.head for path in paths if path.head is not None))
        self._members, self._decode = _decoder(heads, Decimal)
        self._alone = [_decoder((head,), decimal_of)[1] for head in heads]
        self._bare = _decoder((), decimal_of)[1]
        self._field = {head: f"f{i}" for i, head in enumerate(heads)}

    def read(self, data: Sequence[bytes]) -> list[list[Any]]:
        """For each path the column of what it finds: scalars, a dict or list, MISSING, or an Unusable."""
        if not self.paths:
            return []
        rows = self._rows(data)
        return [self._column(path, rows) for path in self.paths]

    def _rows(self, data: Sequence[bytes]) -> list[Any]:
        if not any(map(_suspicious, data)):
            decode = self._decode
            try:
                return [decode(text) for text in data]
            except _NOT_READ:
                pass  # some event needs the careful way; which one is not known here
        return [self._row(text) for text in data]

    def _row(self, text: bytes) -> Any:
        if text in _NULLS:
            return MISSING_DATA
        if _suspicious(text) and _depth(text) > NESTING_MAX:
            return _TOO_DEEP
        try:
            return self._decode(text)
        except _NOT_READ:
            pass
        try:
            self._bare(text)
        except _NOT_READ as error:
            return _unreadable(error)
        return self._members(*[_read_alone(decode, text) for decode in self._alone])

    def _column(self, path: JsonPath, rows: list[Any]) -> list[Any]:
        head = path.head
        if head is None:  # `$` is an object and no scalar; positions of an object don't exist
            found: Any = MISSING if path.steps else {}
            return [row if isinstance(row, Unusable) else found for row in rows]
        field = self._field[head]
        try:
            column = [getattr(row, field) for row in rows]
        except AttributeError:
            column = [row if isinstance(row, Unusable) else getattr(row, field) for row in rows]
        steps = path.steps[1:]
        if steps:
            return [value if isinstance(value, Unusable) else find(value, steps) for value in column]
        return column


def numbers(column: list[Any], path: str) -> tuple[pl.Series, Refusals]:
    """The column as exact Decimal(38, 12), null where a value is refused."""
    kinds = set(map(type, column))
    if kinds == {int}:
        try:
            return pl.Series(column, dtype=pl.Int64).cast(NUMBER_TYPE), []
        except (OverflowError, TypeError):
            pass  # more than 64 bits: as texts
    texts: list[str | None]
    if kinds <= _PLAIN_TYPES:
        texts = list(map(str, column))
    else:
        texts = [str(value) if type(value) in _PLAIN_TYPES else "" for value in column]
    series = pl.Series(texts, dtype=pl.String)
    plain = series.str.contains(_PLAIN_NUMBER)
    refused: Refusals = []
    if not plain.all():
        for index in (~plain).arg_true().to_list():
            number = numeric(column[index], path)
            if isinstance(number, Unusable):
                refused.append((index, number))
                texts[index] = None
            else:
                texts[index] = number_text(number)
        series = pl.Series(texts, dtype=pl.String)
    return series.cast(NUMBER_TYPE), refused


def unique_texts(column: list[Any], path: str) -> tuple[pl.Series, Refusals]:
    """The column as texts that tell values apart, null where a value is refused."""
    refused: Refusals = []
    if set(map(type, column)) != {str}:
        texts: list[str | None] = []
        for index, value in enumerate(column):
            text = value if type(value) is str else unique_text(value, path)
            if isinstance(text, Unusable):
                refused.append((index, text))
                texts.append(None)
            else:
                texts.append(text)
        return pl.Series(texts, dtype=pl.String), refused
    return pl.Series(column, dtype=pl.String), refused


def dimension_texts(column: list[Any]) -> pl.Series:
    """The column as texts to group by."""
    if set(map(type, column)) != {str}:
        column = [value if type(value) is str else dimension_text(value) for value in column]
    return pl.Series(column, dtype=pl.String)


def _decoder(heads: tuple[str, ...], float_hook: Callable[[str], Any]) -> tuple[type[msgspec.Struct], _Decode]:
    """A struct of these members of an object, fields f0, f1, ..., and what decodes JSON texts to it."""
    names = [f"f{i}" for i in range(len(heads))]
    plain = not any(_UNSAFE_NAME.search(head) for head in heads)
    struct = msgspec.defstruct(
        "Members",
        [(name, Any, MISSING) for name in names],
        rename=dict(zip(names, heads, strict=True)) if plain else None,
        gc=False,
    )
    if plain:
        return struct, msgspec.json.Decoder(struct, float_hook=float_hook).decode
    whole = msgspec.json.Decoder(dict[str, Any], float_hook=float_hook).decode
    return struct, partial(_members_of, whole, struct, heads)


def _members_of(decode: _Decode, struct: type[msgspec.Struct], heads: tuple[str, ...], text: bytes) -> Any:
    """For names that a struct's field can't be renamed to."""
    members = decode(text)
    return struct(*[members.get(head, MISSING) for head in heads])


def _read_alone(decode: _Decode, text: bytes) -> Any:
    try:
        return decode(text).f0
    except _NOT_READ as error:
        return _unreadable(error)


def _unreadable(error: Exception) -> Unusable:
    return Unusable("bad_json", f"failed to parse event data: {error}")


def _suspicious(text: bytes) -> bool:
    """Whether it might be nested deeper than allowed; how deep Python can decode depends on who calls."""
    return len(text) > 2 * NESTING_MAX and text.count(b"{") + text.count(b"[") > NESTING_MAX


def _depth(text: bytes) -> int:
    depth = deepest = 0
    for char in _STRING.sub(b"", text):
        if char in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in b"]}":
            depth -= 1
    return deepest
