"""Invoices as they are stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

import msgspec
from sqlalchemy import Row, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from billing.postgres.tables import invoices
from metering.domain.errors import NotFound


class InvoiceStatus(StrEnum):
    WAITING = "draft.waiting_for_collection"
    ISSUED = "issued"


OPEN: Final = InvoiceStatus.WAITING


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice of a subscription for the boundary `period_to`, as of `cut`.

    While it waits for its cut it has no document. Once issued it never changes: `document` is the canonical JSON of
    its lines, totals and evidence, `sha256` its fingerprint, `customer` who was billed.
    """

    id: str
    namespace: str
    customer_id: str
    subscription_id: str
    period_from: datetime | None
    period_to: datetime
    cut: datetime
    status: InvoiceStatus
    currency: str
    created_at: datetime
    updated_at: datetime
    number: str | None = None
    total: Decimal | None = None
    customer: Mapping[str, Any] | None = None
    document: bytes | None = None
    sha256: str | None = None
    issued_at: datetime | None = None

    @property
    def content(self) -> Mapping[str, Any]:
        """The document, decoded; empty while there is none."""
        return {} if self.document is None else msgspec.json.decode(self.document, type=dict[str, Any])


@dataclass(frozen=True, slots=True)
class InvoiceFilter:
    customers: Sequence[str] = ()
    statuses: Sequence[str] = ()
    """Prefixes of the status."""
    ids: Sequence[str] = ()


async def invoice_by_id(
    connection: AsyncConnection, invoice_id: str, *, namespace: str | None = None, lock: bool = False
) -> Invoice:
    """Raises NotFound."""
    query = select(invoices).where(invoices.c.id == invoice_id.upper())
    if namespace is not None:
        query = query.where(invoices.c.namespace == namespace)
    row = (await connection.execute(query.with_for_update() if lock else query)).first()
    if row is None:
        raise NotFound(f"invoice not found: {invoice_id}")
    return of_row(row)


async def find_invoice(engine: AsyncEngine, invoice_id: str, *, namespace: str | None = None) -> Invoice:
    """By id, or by its number. Raises NotFound."""
    async with engine.connect() as connection:
        query = select(invoices).where(or_(invoices.c.id == invoice_id.upper(), invoices.c.number == invoice_id))
        if namespace is not None:
            query = query.where(invoices.c.namespace == namespace)
        row = (await connection.execute(query)).first()
        if row is None:
            raise NotFound(f"invoice not found: {invoice_id}")
        return of_row(row)


async def list_invoices(
    engine: AsyncEngine, namespace: str, wanted: InvoiceFilter, *, page: int, size: int, newest_first: bool = False
) -> tuple[list[Invoice], int]:
    """A page of invoices by creation, and how many there are in all. Pages count from 1."""
    conditions = [invoices.c.namespace == namespace]
    if wanted.customers:
        conditions.append(invoices.c.customer_id.in_(list(wanted.customers)))
    if wanted.ids:
        conditions.append(invoices.c.id.in_(list(wanted.ids)))
    if wanted.statuses:
        conditions.append(or_(*[invoices.c.status.startswith(status, autoescape=True) for status in wanted.statuses]))
    order = [invoices.c.created_at, invoices.c.id]
    query = (
        select(invoices)
        .where(*conditions)
        .order_by(*([column.desc() for column in order] if newest_first else order))
        .limit(size)
        .offset((page - 1) * size)
    )
    async with engine.connect() as connection:
        count = await connection.execute(select(func.count()).select_from(invoices).where(*conditions))
        return [of_row(row) for row in await connection.execute(query)], count.scalar_one()


async def previous_invoice(connection: AsyncConnection, invoice: Invoice) -> Invoice | None:
    """The subscription's invoice before this one."""
    query = (
        select(invoices)
        .where(
            invoices.c.subscription_id == invoice.subscription_id,
            invoices.c.period_to < invoice.period_to,
        )
        .order_by(invoices.c.period_to.desc())
        .limit(1)
    )
    row = (await connection.execute(query)).first()
    return None if row is None else of_row(row)


def of_row(row: Row[Any]) -> Invoice:
    return Invoice(
        id=row.id,
        namespace=row.namespace,
        customer_id=row.customer_id,
        subscription_id=row.subscription_id,
        period_from=row.period_from,
        period_to=row.period_to,
        cut=row.cut,
        status=InvoiceStatus(row.status),
        currency=row.currency,
        created_at=row.created_at,
        updated_at=row.updated_at,
        number=row.number,
        total=row.total,
        customer=row.customer,
        document=row.document,
        sha256=row.sha256,
        issued_at=row.issued_at,
    )
