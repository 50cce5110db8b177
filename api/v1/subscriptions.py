"""`/api/v1/subscriptions`: which customer pays by which plan, from when on."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field

from api.pagination import DEFAULT_SIZE, Page, PageNumber, PageSize, page_of
from api.requests import ExactRoute
from api.services import Wired
from api.v1.rate_cards import phase_wire
from api.wire import (
    Body,
    Description,
    Instant,
    Integer,
    Key,
    Metadata,
    Name,
    Timestamp,
    Ulid,
    Wire,
    WireResponse,
    answers,
    maybe_timestamp,
    respond,
    timestamp,
)
from billing.subscriptions.subscriptions import (
    Order,
    SubscriptionStatus,
    cancel_subscription,
    create_subscription,
    find_subscription,
    list_subscriptions,
)
from billing.subscriptions.subscriptions import Subscription as DomainSubscription
from metering.domain.errors import InvalidInput

router = APIRouter(prefix="/api/v1/subscriptions", tags=["Subscriptions"], route_class=ExactRoute)

SubscriptionId = Annotated[str, Path(alias="subscriptionId", min_length=1)]


class Subscription(Wire):
    """A subscription."""

    id: str
    name: str
    customer_id: str
    status: str
    currency: str
    billing_cadence: str
    active_from: Timestamp
    billing_anchor: Timestamp
    created_at: Timestamp
    updated_at: Timestamp
    plan: dict[str, Any]
    pro_rating_config: dict[str, Any]
    alignment: dict[str, Any]
    settlement_mode: str
    cost_basis_mode: str
    cost_basis_pins: list[Any]
    active_to: Timestamp | None = None
    deleted_at: Timestamp | None = None
    description: str | None = None
    metadata: dict[str, str] | None = None
    phases: list[dict[str, Any]] | None = None


class PlanReference(Body):
    key: Key
    version: Integer | None = None


class SubscriptionCreate(Body):
    plan: PlanReference
    customer_id: Ulid | None = None
    customer_key: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    timing: Literal["immediate", "next_billing_cycle"] | Instant = "immediate"
    billing_anchor: Instant | None = None
    starting_phase: str | None = None
    name: Name | None = None
    description: Description | None = None
    metadata: Metadata | None = None


class SubscriptionCancel(Body):
    timing: Literal["immediate", "next_billing_cycle"] = "immediate"


def subscription_wire(found: DomainSubscription, status: SubscriptionStatus, *, expanded: bool = False) -> Subscription:
    plan = found.plan
    return Subscription(
        id=found.id,
        name=found.name,
        customer_id=found.customer_id,
        status=status.value,
        currency=plan.body.currency,
        billing_cadence=plan.body.billing_cadence,
        active_from=timestamp(found.active_from),
        billing_anchor=timestamp(found.anchor),
        created_at=timestamp(found.created_at),
        updated_at=timestamp(found.updated_at),
        plan={"id": plan.id, "key": plan.key, "version": plan.version},
        pro_rating_config={"enabled": plan.body.prorates, "mode": "prorate_prices"},
        alignment={"billablesMustAlign": True},
        settlement_mode="credit_then_invoice",
        cost_basis_mode="dynamic",
        cost_basis_pins=[],
        active_to=maybe_timestamp(found.active_to),
        deleted_at=maybe_timestamp(found.deleted_at),
        description=found.description,
        metadata=dict(found.metadata) or None,
        phases=_phases(found) if expanded else None,
    )


def _phases(found: DomainSubscription) -> list[dict[str, Any]]:
    wires = []
    for span in found.timeline.spans:
        wire = phase_wire(span.phase)
        wire.pop("duration")
        wire["activeFrom"] = timestamp(span.start)
        if span.end is not None:
            wire["activeTo"] = timestamp(span.end)
        wires.append(wire)
    return wires


@router.post("", operation_id="createSubscription", status_code=201, responses={201: answers(Subscription)})
async def create(services: Wired, body: SubscriptionCreate) -> WireResponse:
    """Subscribe a customer to the active version of a plan.

    A start in the past is taken as it is: what was used since then is billed.
    """
    if body.timing == "next_billing_cycle":
        raise InvalidInput("unsupported enum value: next_billing_cycle")
    now = services.now()
    order = Order(
        plan_key=body.plan.key,
        plan_version=body.plan.version,
        customer_id=body.customer_id,
        customer_key=body.customer_key,
        start=None if isinstance(body.timing, str) else body.timing,
        anchor=body.billing_anchor,
        starting_phase=body.starting_phase,
        name=body.name,
        description=body.description,
        metadata=body.metadata or {},
    )
    made = await create_subscription(services.engine, services.namespace, order, now=now)
    return respond(subscription_wire(made, made.status(now)), 201)


@router.get("", operation_id="listSubscriptions", responses={200: answers(Page[Subscription])})
async def list_all(
    services: Wired,
    page: PageNumber = None,
    page_size: PageSize = None,
    customer_ids: Annotated[list[str] | None, Query(alias="customerId")] = None,
) -> WireResponse:
    """List subscriptions, latest start first."""
    now = services.now()
    found, total = await list_subscriptions(
        services.engine,
        services.namespace,
        customer_ids=customer_ids or (),
        page=page or 1,
        size=page_size or DEFAULT_SIZE,
    )
    return respond(page_of([subscription_wire(each, each.status(now)) for each in found], total, page, page_size))


@router.get("/{subscriptionId}", operation_id="getSubscription", responses={200: answers(Subscription)})
async def get(services: Wired, subscription_id: SubscriptionId) -> WireResponse:
    """A subscription with its phases."""
    found = await find_subscription(services.engine, services.namespace, subscription_id)
    return respond(subscription_wire(found, found.status(services.now()), expanded=True))


@router.post("/{subscriptionId}/cancel", operation_id="cancelSubscription", responses={200: answers(Subscription)})
async def cancel(
    services: Wired, subscription_id: SubscriptionId, body: SubscriptionCancel | None = None
) -> WireResponse:
    """End a subscription now or at the end of its billing period."""
    now = services.now()
    timing = "immediate" if body is None else body.timing
    ended = await cancel_subscription(services.engine, services.namespace, subscription_id, timing=timing, now=now)
    return respond(subscription_wire(ended, ended.status(now)))
