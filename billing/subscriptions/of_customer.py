"""What a customer's subscriptions forbid to do with the customer. Nothing here commits."""

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from billing.postgres.tables import invoices, subscriptions
from metering.domain.customer import Customer
from metering.domain.errors import InvalidInput


async def active_subscriptions(
    connection: AsyncConnection, namespace: str, customer_ids: Iterable[str], *, now: datetime
) -> dict[str, str]:
    """Customer id -> id of the subscription that is active now, of those that have one."""
    c = subscriptions.c
    query = select(c.customer_id, c.id).where(
        c.namespace == namespace,
        c.customer_id.in_(list(customer_ids)),
        c.deleted_at.is_(None),
        c.active_from <= now,
        or_(c.active_to.is_(None), c.active_to > now),
    )
    return {row.customer_id: row.id for row in await connection.execute(query)}


async def refuse_delete(connection: AsyncConnection, customer: Customer, *, now: datetime) -> None:
    """Raise InvalidInput while there is a subscription that hasn't ended, or an invoice that isn't issued.

    Call it with the customer's row locked, so that no subscription is made meanwhile.
    """
    c = subscriptions.c
    unended = select(c.id).where(
        c.customer_id == customer.id, c.deleted_at.is_(None), or_(c.active_to.is_(None), c.active_to > now)
    )
    lines = []
    if (await connection.execute(unended.limit(1))).first() is not None:
        lines.append(
            f"customer {customer.id} still have active subscriptions, please cancel them before deleting the customer"
        )
    i = invoices.c
    waiting = select(i.id, i.status).where(i.customer_id == customer.id, i.status != "issued").order_by(i.id).limit(100)
    lines += [
        f"invoice {each} is still in {status} state" for each, status in (await connection.execute(waiting)).all()
    ]
    if lines:
        raise InvalidInput("\n".join(lines))


async def refuse_other_subjects(
    connection: AsyncConnection, customer: Customer, subject_keys: Iterable[str], *, now: datetime
) -> None:
    """Raise InvalidInput if the customer's subject keys would change under an active subscription."""
    if set(subject_keys) == set(customer.subject_keys):
        return
    if await active_subscriptions(connection, customer.namespace, [customer.id], now=now):
        raise InvalidInput("cannot change subject keys for customer with active subscriptions")
