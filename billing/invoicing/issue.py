"""Issuing invoices.

Two steps, each safe to repeat and to race. `open_due` writes a row for every boundary that has come; its natural key
is (subscription, boundary), and it fixes the cut. `issue` makes the document once the cut has passed everywhere; the
row is locked while it is written, and whoever comes second finds it issued.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import msgspec
from sqlalchemy import Row, func, select, update
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from billing.domain.canonical import fingerprint
from billing.domain.timeline import ceil_minute
from billing.invoicing.basis import gather
from billing.invoicing.compose import compose
from billing.invoicing.invoices import OPEN, Invoice, InvoiceStatus, invoice_by_id, previous_invoice
from billing.invoicing.ports import Readings
from billing.postgres import audit
from billing.postgres.tables import counters, invoices, subscriptions
from billing.subscriptions.subscriptions import Subscription, subscription_by_id
from metering.domain.ids import new_id
from metering.postgres.tables import customers

BATCH: Final = 200


@dataclass(frozen=True, slots=True)
class Waiting:
    """The invoice can't be issued yet."""

    invoice_id: str
    reason: Literal["cut", "flushes", "backfill", "previous invoice"]


async def open_due(
    engine: AsyncEngine, *, grace: timedelta, now: datetime, customer_id: str | None = None, limit: int = BATCH
) -> list[str]:
    """Open the invoices of boundaries that have come, of one customer or of all; returns the ids of the new ones.

    `limit` bounds how many subscriptions are looked at. Usage is billed as of `grace` after the boundary, or as of when
    the subscription was made if that was later.
    """
    due = [subscriptions.c.next_at <= now, subscriptions.c.deleted_at.is_(None)]
    if customer_id is not None:
        due.append(subscriptions.c.customer_id == customer_id)
    async with engine.connect() as connection:
        found = await connection.execute(
            select(subscriptions.c.namespace, subscriptions.c.id)
            .where(*due)
            .order_by(subscriptions.c.next_at)
            .limit(limit)
        )
        keys = found.all()
    opened: list[str] = []
    for namespace, subscription_id in keys:
        async with engine.begin() as connection:
            subscription = await subscription_by_id(connection, namespace, subscription_id, lock=True)
            opened += await _open(connection, subscription, grace=grace, now=now)
    return opened


async def _open(
    connection: AsyncConnection, subscription: Subscription, *, grace: timedelta, now: datetime
) -> list[str]:
    timeline, since, at = subscription.timeline, subscription.billed_to, subscription.next_at
    latest = select(func.max(invoices.c.cut)).where(invoices.c.subscription_id == subscription.id)
    floor = (await connection.execute(latest)).scalar_one() or subscription.created_at
    opened = []
    while at is not None and at <= now:
        if since is not None or timeline.charges(None, at):
            # Cuts never go back, even when the grace was shortened: a late event would be billed twice.
            floor = max(floor, ceil_minute(max(at + grace, subscription.created_at)))
            row = {
                "id": new_id(),
                "namespace": subscription.namespace,
                "customer_id": subscription.customer_id,
                "subscription_id": subscription.id,
                "period_from": since,
                "period_to": at,
                "cut": floor,
                "status": OPEN,
                "currency": subscription.plan.body.currency,
                "created_at": now,
                "updated_at": now,
            }
            made = await connection.execute(
                insert(invoices).values(row).on_conflict_do_nothing().returning(invoices.c.id)
            )
            opened += list(made.scalars())
        since, at = at, timeline.boundary_after(at)
    await connection.execute(
        update(subscriptions).where(subscriptions.c.id == subscription.id).values(billed_to=since, next_at=at)
    )
    return opened


async def waiting_invoices(
    engine: AsyncEngine, *, now: datetime, subscription_id: str | None = None, limit: int = BATCH
) -> list[str]:
    """Of each subscription (or of one) the id of its first open invoice, if the cut is over; earliest first."""
    waiting = [invoices.c.status == OPEN, invoices.c.cut <= now]
    if subscription_id is not None:
        waiting.append(invoices.c.subscription_id == subscription_id)
    first = (
        select(invoices.c.id, invoices.c.period_to)
        .ext(distinct_on(invoices.c.subscription_id))
        .where(*waiting)
        .order_by(invoices.c.subscription_id, invoices.c.period_to)
        .subquery()
    )
    query = select(first.c.id).order_by(first.c.period_to, first.c.id).limit(limit)
    async with engine.connect() as connection:
        return list((await connection.execute(query)).scalars())


async def issue(engine: AsyncEngine, readings: Readings, invoice_id: str, *, now: datetime) -> Invoice | Waiting:
    """Issue an open invoice, or say what it waits for. An issued one is returned as it is.

    Raises ProtocolViolation when usage and raw events disagree.
    """
    async with engine.connect() as connection:
        invoice = await invoice_by_id(connection, invoice_id)
        if invoice.status is InvoiceStatus.ISSUED:
            return invoice
        previous = await previous_invoice(connection, invoice)
        subscription = await subscription_by_id(connection, invoice.namespace, invoice.subscription_id)
    if previous is not None and previous.status is not InvoiceStatus.ISSUED:
        return Waiting(invoice.id, "previous invoice")
    if now < invoice.cut:
        return Waiting(invoice.id, "cut")
    offsets = await offsets_of(invoice, readings)
    if offsets is None:
        return Waiting(invoice.id, "flushes")
    async with engine.connect() as connection:
        basis = await gather(
            connection,
            invoice,
            subscription,
            offsets=offsets,
            previous_cut=None if previous is None else previous.cut,
        )
    if not await readings.is_backfilled([measure.meter for measure in basis.measures.values()]):
        return Waiting(invoice.id, "backfill")
    document = await compose(basis, readings, compare=True)
    return await _save(engine, invoice.id, document, now=now)


async def offsets_of(invoice: Invoice, readings: Readings) -> Mapping[int, int] | None:
    """The offsets of the invoice's cut; None until all have passed it. At a subscription's start no usage is billed."""
    return {} if invoice.period_from is None else await readings.offsets(invoice.cut)


async def _save(engine: AsyncEngine, invoice_id: str, document: bytes, *, now: datetime) -> Invoice:
    """Write it once: the row is locked, the number and the audit entry are of the same transaction."""
    async with engine.begin() as connection:
        invoice = await invoice_by_id(connection, invoice_id, lock=True)
        if invoice.status is InvoiceStatus.ISSUED:
            return invoice
        customer = (await connection.execute(select(customers).where(customers.c.id == invoice.customer_id))).one()
        number = await _next_number(connection, invoice.namespace, customer.name)
        digest = fingerprint(document)
        total = msgspec.json.decode(document)["totals"]["total"]
        await connection.execute(
            update(invoices)
            .where(invoices.c.id == invoice_id)
            .values(
                status=InvoiceStatus.ISSUED,
                number=number,
                document=document,
                sha256=digest,
                total=total,
                customer=_snapshot(customer),
                issued_at=now,
                updated_at=now,
            )
        )
        await audit.append(
            connection,
            at=now,
            actor="billing",
            action="invoice.issued",
            subject=f"invoice/{invoice_id}",
            details={"number": number, "total": total, "currency": invoice.currency, "sha256": digest},
        )
        return await invoice_by_id(connection, invoice_id)


async def _next_number(connection: AsyncConnection, namespace: str, customer_name: str) -> str:
    """`INV-BLHE-7`: counted per namespace, without gaps, as the counter's row stays locked until the commit."""
    statement = insert(counters).values(namespace=namespace, kind="invoice", last=1)
    statement = statement.on_conflict_do_update(
        index_elements=["namespace", "kind"], set_={"last": counters.c.last + 1}
    )
    count = (await connection.execute(statement.returning(counters.c.last))).scalar_one()
    return f"INV-{name_prefix(customer_name)}-{count}"


def name_prefix(name: str) -> str:
    """Four letters of a customer's name: of one word the first four, of more the first two of the first two words."""
    ascii_only = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    words = ["".join(filter(str.isalnum, word)) for word in ascii_only.split()]
    words = [word for word in words if word]
    if not words:
        return "UNKN"
    return (words[0][:4] if len(words) == 1 else words[0][:2] + words[1][:2]).upper()


def _snapshot(customer: Row[Any]) -> dict[str, Any]:
    return {
        "id": customer.id,
        "key": customer.key,
        "name": customer.name,
        "billing_address": customer.billing_address,
    }
