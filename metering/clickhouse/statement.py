"""SQL as fragments with their values apart, joined by `sql` and rendered in one place.

A value never becomes part of the text: it travels as a query parameter with its ClickHouse type.

    where = conjunction([sql("namespace = {n}", n=text(namespace)), sql("subject IN {s}", s=texts(subjects))])
    statement = sql("SELECT count() FROM events WHERE {where}", where=where).render()
    client.query(statement.text, statement.parameters)
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

_HOLE: Final = re.compile(r"\{(\w+)\}")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Value:
    """A value and the ClickHouse type in which it is sent."""

    value: Any
    type: str


@dataclass(frozen=True, slots=True)
class Statement:
    """What a client is given: text with `{p0:Type}` holes, and the values of the holes."""

    text: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sql:
    """Pieces of text and values, in order."""

    pieces: tuple[str | Value, ...] = ()

    def render(self) -> Statement:
        parameters: dict[str, Any] = {}
        names: dict[int, str] = {}
        parts: list[str] = []
        for piece in self.pieces:
            if isinstance(piece, str):
                parts.append(piece)
                continue
            name = names.get(id(piece))  # a fragment used twice sends its value once
            if name is None:
                name = names[id(piece)] = f"p{len(parameters)}"
                parameters[name] = piece.value
            parts.append(f"{{{name}:{piece.type}}}")
        return Statement("".join(parts), parameters)


NOTHING: Final = Sql()


def sql(template: str, **holes: Value | Sql) -> Sql:
    """A fragment from `template`, whose `{name}` holes are values or other fragments."""
    pieces: list[str | Value] = []
    last = 0
    for hole in _HOLE.finditer(template):
        pieces.append(template[last : hole.start()])
        filling = holes[hole[1]]
        pieces.extend(filling.pieces if isinstance(filling, Sql) else (filling,))
        last = hole.end()
    pieces.append(template[last:])
    return Sql(tuple(piece for piece in pieces if piece != ""))


def join(separator: str, fragments: Iterable[Sql]) -> Sql:
    """The fragments with `separator` between them."""
    pieces: list[str | Value] = []
    for fragment in fragments:
        if pieces:
            pieces.append(separator)
        pieces.extend(fragment.pieces)
    return Sql(tuple(pieces))


def conjunction(conditions: Sequence[Sql]) -> Sql:
    """All of them hold; none at all is true."""
    return join(" AND ", [sql("({c})", c=c) for c in conditions]) if conditions else sql("1")


def disjunction(conditions: Sequence[Sql]) -> Sql:
    """One of them holds; none at all is false."""
    return sql("({any})", any=join(" OR ", [sql("({c})", c=c) for c in conditions])) if conditions else sql("0")


def text(value: str) -> Value:
    return Value(value, "String")


def texts(values: Iterable[str]) -> Value:
    return Value(list(values), "Array(String)")


def integer(value: int) -> Value:
    return Value(value, "Int64")


def integers(values: Iterable[int]) -> Value:
    return Value(list(values), "Array(Int64)")


def microseconds(instant: datetime) -> int:
    """Since the epoch, exactly."""
    return (instant - _EPOCH) // timedelta(microseconds=1)


def instant(at: datetime) -> Sql:
    """An instant as DateTime64(6, 'UTC')."""
    return sql("fromUnixTimestamp64Micro({us}, 'UTC')", us=integer(microseconds(at)))


def second(at: datetime) -> Sql:
    """An instant of a whole second as DateTime64(0, 'UTC'), so that it is compared with `minute` by the index."""
    return sql("toDateTime64({s}, 0, 'UTC')", s=integer(microseconds(at) // 1_000_000))


def partition_offsets(vector: Mapping[int, int]) -> tuple[Value, Value]:
    """A vector as two arrays, for `transform(partition, ..., ...)`."""
    ordered = sorted(vector.items())
    return integers(p for p, _ in ordered), integers(o for _, o in ordered)


def is_below(offset: Sql, vector: Mapping[int, int]) -> Sql:
    """Whether `offset` is below that of its partition in `vector`. Partitions that it does not name have nothing."""
    partitions, offsets = partition_offsets(vector)
    below = "toInt64({offset}) < transform(toInt64(partition), {p}, {o}, toInt64(0))"
    return sql(below, offset=offset, p=partitions, o=offsets)
