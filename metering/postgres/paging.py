"""A slice of a sorted list, with the number of all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, RowMapping, Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Slice:
    """At most `limit` items after the first `offset`."""

    limit: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """The items of a slice, and how many there are in all."""

    items: tuple[T, ...]
    total: int


async def fetch(
    connection: AsyncConnection, query: Select[Any], order: Sequence[ColumnElement[Any]], part: Slice
) -> tuple[Sequence[RowMapping], int]:
    """The rows of the slice in `order` (which must be total, so that pages are stable), and the count of all."""
    total = (await connection.execute(select(func.count()).select_from(query.subquery()))).scalar_one()
    if total <= part.offset:
        return [], total
    rows = await connection.execute(query.order_by(*order).limit(part.limit).offset(part.offset))
    return rows.mappings().all(), total


def ordered(column: ColumnElement[Any], identity: ColumnElement[Any], *, descending: bool) -> list[ColumnElement[Any]]:
    """By `column`, equal ones by id, both in one direction."""
    return [column.desc(), identity.desc()] if descending else [column.asc(), identity.asc()]
