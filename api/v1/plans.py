"""`/api/v1/plans`: what is sold, in versions."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import Field

from api.pagination import DEFAULT_SIZE, Page, PageNumber, PageSize, page_of
from api.requests import ExactRoute
from api.services import Wired
from api.v1.rate_cards import Currency, Duration, PhaseBody, ProRatingBody, phase_wire, plan_body
from api.wire import (
    Body,
    Description,
    Key,
    Metadata,
    Name,
    Timestamp,
    Wire,
    WireResponse,
    answers,
    maybe_timestamp,
    respond,
    timestamp,
)
from billing.catalog.plans import Plan as DomainPlan
from billing.catalog.plans import PlanFilter, PlanStatus, create_plan, find_plan, list_plans, publish_plan

router = APIRouter(prefix="/api/v1/plans", tags=["Product Catalog"], route_class=ExactRoute)

IdOrKey = Annotated[str, Path(alias="planId", min_length=1)]
Texts = list[str] | None


class Plan(Wire, omit_defaults=False):
    """One version of a plan."""

    id: str
    key: str
    name: str
    version: int
    status: str
    currency: str
    billing_cadence: str
    pro_rating_config: dict[str, Any]
    settlement_mode: str
    phases: list[dict[str, Any]]
    created_at: Timestamp
    updated_at: Timestamp
    validation_errors: list[dict[str, Any]] | None


class PlanCreate(Body):
    name: Name
    key: Key
    description: Description | None = None
    metadata: Metadata | None = None
    currency: Currency
    billing_cadence: Duration
    pro_rating_config: ProRatingBody | None = None
    phases: Annotated[list[PhaseBody], Field(min_length=1, max_length=100)]


def plan_wire(plan: DomainPlan, status: PlanStatus) -> dict[str, Any]:
    optional = {
        "description": plan.description,
        "metadata": dict(plan.metadata) or None,
        "effectiveFrom": maybe_timestamp(plan.effective_from),
        "effectiveTo": maybe_timestamp(plan.effective_to),
        "deletedAt": maybe_timestamp(plan.deleted_at),
    }
    findings = [{"field": each.field, "code": each.code, "message": each.message} for each in plan.findings]
    return {
        "id": plan.id,
        "key": plan.key,
        "name": plan.name,
        "version": plan.version,
        "status": status.value,
        "currency": plan.body.currency,
        "billingCadence": plan.body.billing_cadence,
        "proRatingConfig": {"enabled": plan.body.prorates, "mode": "prorate_prices"},
        "settlementMode": "credit_then_invoice",
        "phases": [phase_wire(phase) for phase in plan.body.phases],
        **{name: value for name, value in optional.items() if value is not None},
        "createdAt": timestamp(plan.created_at),
        "updatedAt": timestamp(plan.updated_at),
        "validationErrors": findings or None,
    }


@router.post("", operation_id="createPlan", status_code=201, responses={201: answers(Plan)})
async def create(services: Wired, body: PlanCreate) -> WireResponse:
    """Create a draft: the first version of its key, or the next."""
    now = services.now()
    plan = await create_plan(
        services.engine,
        services.namespace,
        key=body.key,
        name=body.name,
        body=plan_body(body.currency, body.billing_cadence, body.phases, body.pro_rating_config),
        now=now,
        description=body.description,
        metadata=body.metadata,
    )
    return respond(plan_wire(plan, plan.status(now)), 201)


@router.get("", operation_id="listPlans", responses={200: answers(Page[Plan])})
async def list_all(
    services: Wired,
    page: PageNumber = None,
    page_size: PageSize = None,
    ids: Annotated[Texts, Query(alias="id")] = None,
    keys: Annotated[Texts, Query(alias="key")] = None,
    currencies: Annotated[Texts, Query(alias="currency")] = None,
    statuses: Annotated[list[PlanStatus] | None, Query(alias="status")] = None,
    include_deleted: Annotated[bool, Query(alias="includeDeleted")] = False,
) -> WireResponse:
    """List versions, newest first. `id`, `key` and `currency` are alternatives of each other."""
    now = services.now()
    wanted = PlanFilter(ids or (), keys or (), currencies or (), statuses or (), include_deleted)
    size = page_size or DEFAULT_SIZE
    found, total = await list_plans(services.engine, services.namespace, wanted, page=page or 1, size=size, now=now)
    return respond(page_of([plan_wire(plan, plan.status(now)) for plan in found], total, page, page_size))


@router.get("/{planId}", operation_id="getPlan", responses={200: answers(Plan)})
async def get(
    services: Wired, id_or_key: IdOrKey, include_latest: Annotated[bool, Query(alias="includeLatest")] = False
) -> WireResponse:
    """By id any version; by key the active one, or the newest."""
    now = services.now()
    plan = await find_plan(services.engine, services.namespace, id_or_key, now=now, include_latest=include_latest)
    return respond(plan_wire(plan, plan.status(now)))


@router.post("/{planId}/publish", operation_id="publishPlan", responses={200: answers(Plan)})
async def publish(services: Wired, plan_id: IdOrKey) -> WireResponse:
    """Make a draft the active version of its key. From then on it never changes."""
    now = services.now()
    plan = await publish_plan(services.engine, services.namespace, plan_id.upper(), now=now)
    return respond(plan_wire(plan, plan.status(now)))
