"""Subscriptions: a customer, a published plan version, and dates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal

from sqlalchemy import Row, and_, func, insert, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from billing.catalog.plans import Plan, PlanStatus, active_plan, plan_by_id
from billing.domain.timeline import Timeline
from billing.postgres import audit
from billing.postgres.tables import subscriptions
from metering.domain.errors import Conflict, Forbidden, InvalidInput, NotFound, PreconditionFailed
from metering.domain.ids import new_id
from metering.postgres.tables import customers

_LOCK_CUSTOMER: Final = text("SELECT pg_advisory_xact_lock(hashtextextended('weighbridge.subscriptions/' || :id, 0))")


class SubscriptionStatus(StrEnum):
    SCHEDULED = "scheduled"
    ACTIVE = "active"
    CANCELED = "canceled"
    INACTIVE = "inactive"


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription of a customer to one version of a plan. `plan` is that version."""

    id: str
    namespace: str
    customer_id: str
    plan: Plan
    name: str
    active_from: datetime
    anchor: datetime
    created_at: datetime
    updated_at: datetime
    active_to: datetime | None = None
    first_phase: str | None = None
    description: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    billed_to: datetime | None = None
    next_at: datetime | None = None
    deleted_at: datetime | None = None

    def status(self, now: datetime) -> SubscriptionStatus:
        if self.deleted_at is not None or (self.active_to is not None and self.active_to <= now):
            return SubscriptionStatus.INACTIVE
        if self.active_from > now:
            return SubscriptionStatus.SCHEDULED
        return SubscriptionStatus.ACTIVE if self.active_to is None else SubscriptionStatus.CANCELED

    @property
    def timeline(self) -> Timeline:
        """When it is billed and for what, as known now."""
        return Timeline.of(
            self.plan.body,
            active_from=self.active_from,
            active_to=self.active_to,
            anchor=self.anchor,
            first_phase=self.first_phase,
        )


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked of a new subscription. The customer is named by id or by key, the id first.

    `start` None means now. It may lie in the past: what was used since then is billed.
    """

    plan_key: str
    plan_version: int | None = None
    customer_id: str | None = None
    customer_key: str | None = None
    start: datetime | None = None
    anchor: datetime | None = None
    starting_phase: str | None = None
    name: str | None = None
    description: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


async def create_subscription(engine: AsyncEngine, namespace: str, order: Order, *, now: datetime) -> Subscription:
    """Subscribe. Raises NotFound, PreconditionFailed (deleted customer), InvalidInput or Conflict (overlap)."""
    async with engine.begin() as connection:
        customer = await _customer(connection, namespace, order)
        await connection.execute(_LOCK_CUSTOMER, {"id": customer.id})
        plan = await _plan_to_subscribe(connection, namespace, order, now=now)
        if customer.currency is not None and customer.currency != plan.body.currency:
            raise InvalidInput(f"the customer pays in {customer.currency}, the plan asks for {plan.body.currency}")
        start = order.start or now
        subscription = Subscription(
            id=new_id(),
            namespace=namespace,
            customer_id=customer.id,
            plan=plan,
            name=order.name or plan.name,
            active_from=start,
            anchor=order.anchor or start,
            created_at=now,
            updated_at=now,
            first_phase=order.starting_phase,
            description=order.description,
            metadata=order.metadata,
        )
        subscription = replace(subscription, next_at=subscription.timeline.start)
        await _refuse_overlap(connection, subscription)
        await connection.execute(insert(subscriptions).values(_values(subscription)))
        await audit.append(
            connection,
            at=now,
            actor="api",
            action="subscription.created",
            subject=f"subscription/{subscription.id}",
            details={"customer": customer.id, "plan": plan.id, "from": start.isoformat()},
        )
    return subscription


async def cancel_subscription(
    engine: AsyncEngine,
    namespace: str,
    subscription_id: str,
    *,
    timing: Literal["immediate", "next_billing_cycle"] = "immediate",
    now: datetime,
) -> Subscription:
    """End it now, or at the end of the billing period that holds now. What was used until then is billed."""
    async with engine.begin() as connection:
        found = await subscription_by_id(connection, namespace, subscription_id, lock=True)
        status = found.status(now)
        if status is not SubscriptionStatus.ACTIVE:
            raise Forbidden(f"transition cancel in state {status} not allowed")
        end = now
        if timing == "next_billing_cycle":
            end = found.timeline.boundary_after(now) or now
        ended = replace(found, active_to=end, updated_at=now)
        following = ended.next_at
        if ended.billed_to is not None:
            following = ended.timeline.boundary_after(ended.billed_to)
        ended = replace(ended, next_at=following)
        await connection.execute(update(subscriptions).where(subscriptions.c.id == ended.id).values(_values(ended)))
        await audit.append(
            connection,
            at=now,
            actor="api",
            action="subscription.canceled",
            subject=f"subscription/{ended.id}",
            details={"to": end.isoformat()},
        )
    return ended


async def find_subscription(engine: AsyncEngine, namespace: str, subscription_id: str) -> Subscription:
    async with engine.connect() as connection:
        return await subscription_by_id(connection, namespace, subscription_id)


async def list_subscriptions(
    engine: AsyncEngine, namespace: str, *, customer_ids: Sequence[str] = (), page: int, size: int
) -> tuple[list[Subscription], int]:
    """A page of subscriptions, latest start first, and how many there are in all. Pages count from 1."""
    conditions = [subscriptions.c.namespace == namespace, subscriptions.c.deleted_at.is_(None)]
    if customer_ids:
        conditions.append(subscriptions.c.customer_id.in_(list(customer_ids)))
    query = (
        select(subscriptions)
        .where(*conditions)
        .order_by(subscriptions.c.active_from.desc(), subscriptions.c.id.desc())
        .limit(size)
        .offset((page - 1) * size)
    )
    count = select(func.count()).select_from(subscriptions).where(*conditions)
    async with engine.connect() as connection:
        total = (await connection.execute(count)).scalar_one()
        rows = (await connection.execute(query)).all()
        return [await _subscription(connection, row) for row in rows], total


async def subscription_by_id(
    connection: AsyncConnection, namespace: str, subscription_id: str, *, lock: bool = False
) -> Subscription:
    """Deleted ones too; raises NotFound."""
    query = select(subscriptions).where(
        subscriptions.c.namespace == namespace, subscriptions.c.id == subscription_id.upper()
    )
    row = (await connection.execute(query.with_for_update() if lock else query)).first()
    if row is None:
        raise NotFound(f"subscription {subscription_id} not found")
    return await _subscription(connection, row)


async def _customer(connection: AsyncConnection, namespace: str, order: Order) -> Row[Any]:
    if order.customer_id is not None:
        condition, named = customers.c.id == order.customer_id.upper(), f"id {order.customer_id}"
    elif order.customer_key is not None:
        condition, named = customers.c.key == order.customer_key, f"key {order.customer_key}"
    else:
        raise InvalidInput("customerId or customerKey is required")
    query = (
        select(customers)
        .where(customers.c.namespace == namespace, condition)
        .order_by(customers.c.deleted_at.desc().nulls_first())
        .with_for_update(read=True)  # so that the customer isn't deleted meanwhile
    )
    row = (await connection.execute(query)).first()
    if row is None:
        raise NotFound(f"customer with {named} not found in {namespace} namespace")
    if row.deleted_at is not None:
        raise PreconditionFailed(f"customer with {named} is deleted")
    return row


async def _plan_to_subscribe(connection: AsyncConnection, namespace: str, order: Order, *, now: datetime) -> Plan:
    plan = await active_plan(connection, namespace, order.plan_key, now=now)
    if plan is None:
        raise NotFound(f"plan {order.plan_key} with version {order.plan_version or 0} not found")
    if order.plan_version is not None and order.plan_version != plan.version:
        raise InvalidInput(f"plan {order.plan_key} with version {order.plan_version} is not {PlanStatus.ACTIVE}")
    phases = [phase.key for phase in plan.body.phases]
    if order.starting_phase is not None and order.starting_phase not in phases:
        raise InvalidInput(f"starting phase {order.starting_phase} not found in plan {plan.key}@{plan.version}")
    return plan


async def _refuse_overlap(connection: AsyncConnection, new: Subscription) -> None:
    query = select(subscriptions.c.id).where(
        subscriptions.c.namespace == new.namespace,
        subscriptions.c.customer_id == new.customer_id,
        subscriptions.c.deleted_at.is_(None),
        or_(
            subscriptions.c.active_to.is_(None),
            and_(subscriptions.c.active_to > new.active_from, subscriptions.c.active_to > subscriptions.c.active_from),
        ),
    )
    other = (await connection.execute(query)).scalars().first()
    if other is not None:
        raise Conflict("only single subscription is allowed per customer at a time", other)


def _values(subscription: Subscription) -> dict[str, Any]:
    named = ("id", "namespace", "customer_id", "name", "description", "first_phase", "active_from", "active_to")
    rest = ("anchor", "billed_to", "next_at", "created_at", "updated_at", "deleted_at")
    values = {name: getattr(subscription, name) for name in (*named, *rest)}
    return values | {"plan_id": subscription.plan.id, "metadata": dict(subscription.metadata)}


async def _subscription(connection: AsyncConnection, row: Row[Any]) -> Subscription:
    plan = await plan_by_id(connection, row.namespace, row.plan_id)
    return Subscription(
        id=row.id,
        namespace=row.namespace,
        customer_id=row.customer_id,
        plan=plan,
        name=row.name,
        active_from=row.active_from,
        anchor=row.anchor,
        created_at=row.created_at,
        updated_at=row.updated_at,
        active_to=row.active_to,
        first_phase=row.first_phase,
        description=row.description,
        metadata=row.metadata,
        billed_to=row.billed_to,
        next_at=row.next_at,
        deleted_at=row.deleted_at,
    )
