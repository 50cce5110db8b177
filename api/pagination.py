"""The paging conventions of the API: pages, or limit and offset."""

from collections.abc import Iterable
from typing import Annotated, Any, Generic, Literal, TypeVar

from fastapi import Query

from api.wire import Wire
from metering.postgres.paging import Slice

T = TypeVar("T")

PageNumber = Annotated[int | None, Query(ge=1, description="The page, from 1.")]
PageSize = Annotated[int | None, Query(ge=1, le=1000, alias="pageSize", description="Items on a page; 100.")]
Limit = Annotated[int, Query(ge=1, le=1000)]
Offset = Annotated[int, Query(ge=0)]
Order = Annotated[Literal["ASC", "DESC"], Query()]

DEFAULT_SIZE = 100


class Page(Wire, Generic[T], omit_defaults=False):
    """A page of a list."""

    items: list[T]
    page: int
    page_size: int
    total_count: int


def page_slice(page: int | None, page_size: int | None) -> Slice:
    """Pages only; the first, of 100 items, by default."""
    size = page_size or DEFAULT_SIZE
    return Slice(size, ((page or 1) - 1) * size)


def is_paged(page: int | None, page_size: int | None) -> bool:
    return page is not None or page_size is not None


def switched_slice(page: int | None, page_size: int | None, limit: int, offset: int) -> Slice:
    """By page if one is named, else by limit and offset."""
    return page_slice(page, page_size) if is_paged(page, page_size) else Slice(limit, offset)


def page_of(items: Iterable[Any], total: int, page: int | None, page_size: int | None) -> Page[Any]:
    return Page(items=list(items), page=page or 1, page_size=page_size or DEFAULT_SIZE, total_count=total)


def page_or_list(items: Iterable[Any], total: int, page: int | None, page_size: int | None) -> Page[Any] | list[Any]:
    """The object if a page was asked for, else the bare list."""
    return page_of(items, total, page, page_size) if is_paged(page, page_size) else list(items)
