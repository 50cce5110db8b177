"""Entitlements as v1 has them: below a subject, and all of them to read."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from sqlalchemy.ext.asyncio import AsyncConnection

from api.entitlement_answers import Entitlement, EntitlementGrant, EntitlementValue, entitlement_v1, grant_v1
from api.entitlement_bodies import EntitlementCreateInputs, EntitlementGrantCreateInput, ResetEntitlementUsageInput
from api.pagination import Limit, Offset, Order, Page, PageNumber, PageSize, page_or_list, switched_slice
from api.requests import ExactRoute
from api.services import Services, Wired
from api.values import NO_ACCESS
from api.wire import NO_CONTENT, Instant, WireResponse, answers, respond
from metering.domain.customer import Customer
from metering.domain.entitlement_terms import EntitlementType
from metering.domain.errors import NotFound, PreconditionFailed
from metering.domain.ids import is_id
from metering.postgres.customers import customer_of_subject
from metering.postgres.entitlements import (
    EntitlementFilter,
    active_of_customer,
    create_entitlement,
    delete_entitlement,
    get_entitlement,
    get_of_customer,
    list_entitlements,
    override_entitlement,
)
from metering.postgres.grants import create_grant, grants_of_entitlement, reset_entitlement
from metering.postgres.paging import Slice
from metering.postgres.subjects import get_subject

router = APIRouter(prefix="/api/v1", tags=["Entitlements"], route_class=ExactRoute)

GRANTS_MAX = 1000
OF_SUBJECT = "/subjects/{subjectIdOrKey}/entitlements"
ONE = OF_SUBJECT + "/{entitlementIdOrFeatureKey}"
Subject = Annotated[str, Path(alias="subjectIdOrKey", min_length=1)]
IdOrFeature = Annotated[str, Path(alias="entitlementIdOrFeatureKey", min_length=1)]


async def owner(connection: AsyncConnection, services: Services, id_or_key: str) -> Customer:
    """The customer to which the subject belongs."""
    subject = await get_subject(connection, services.namespace, id_or_key)
    if subject.deleted_at is not None:
        raise PreconditionFailed(f"subject is deleted [namespace={services.namespace} subject.id={subject.id}]")
    customer = await customer_of_subject(connection, services.namespace, subject.key)
    if customer is None:
        raise NotFound(f"customer not found for subject {subject.key} in namespace {services.namespace}")
    return customer


@router.post(OF_SUBJECT, operation_id="createEntitlement", status_code=201, responses={201: answers(Entitlement)})
async def create(services: Wired, subject: Subject, body: EntitlementCreateInputs) -> WireResponse:
    """Entitle the subject's customer to a feature."""
    now = services.now()
    async with services.engine.begin() as connection:
        made = await create_entitlement(
            connection,
            services.namespace,
            await owner(connection, services, subject),
            body.draft(now),
            target=services.entitlements_topic,
            now=now,
        )
    return respond(entitlement_v1(made, now), 201)


@router.get(OF_SUBJECT, operation_id="listSubjectEntitlements", responses={200: answers(list[Entitlement])})
async def list_of_subject(services: Wired, subject: Subject) -> WireResponse:
    """The entitlements that are active now."""
    now = services.now()
    async with services.engine.connect() as connection:
        customer = await owner(connection, services, subject)
        found = await active_of_customer(connection, services.namespace, customer.id, at=now)
    return respond([entitlement_v1(each, now) for each in found])


@router.get(ONE, operation_id="getEntitlement", responses={200: answers(Entitlement)})
async def get(services: Wired, subject: Subject, wanted: IdOrFeature) -> WireResponse:
    now = services.now()
    async with services.engine.connect() as connection:
        customer = await owner(connection, services, subject)
        found = await get_of_customer(connection, services.namespace, customer.id, wanted, at=now)
    return respond(entitlement_v1(found, now))


@router.delete(ONE, operation_id="deleteEntitlement", status_code=204, responses={204: NO_CONTENT})
async def delete(services: Wired, subject: Subject, wanted: IdOrFeature) -> None:
    """End an entitlement. Its usage and grants stay on record."""
    now = services.now()
    async with services.engine.begin() as connection:
        customer = await owner(connection, services, subject)
        found = await get_of_customer(connection, services.namespace, customer.id, wanted, at=now)
        await delete_entitlement(connection, services.namespace, found, target=services.entitlements_topic, now=now)


@router.put(
    ONE + "/override", operation_id="overrideEntitlement", status_code=201, responses={201: answers(Entitlement)}
)
async def override(
    services: Wired, subject: Subject, wanted: IdOrFeature, body: EntitlementCreateInputs
) -> WireResponse:
    """End an entitlement and make another in its place. Balances are not carried over."""
    now = services.now()
    async with services.engine.begin() as connection:
        customer = await owner(connection, services, subject)
        old = await get_of_customer(connection, services.namespace, customer.id, wanted, at=now)
        made = await override_entitlement(
            connection, services.namespace, old, body.draft(now), target=services.entitlements_topic, now=now
        )
    return respond(entitlement_v1(made, now), 201)


@router.get(ONE + "/value", operation_id="getEntitlementValue", responses={200: answers(EntitlementValue)})
async def value(
    services: Wired, subject: Subject, wanted: IdOrFeature, time: Annotated[Instant | None, Query()] = None
) -> WireResponse:
    """What is left at `time`, by default now."""
    at = time or services.now()
    async with services.engine.connect() as connection:
        customer = await owner(connection, services, subject)
        terms = await get_of_customer(connection, services.namespace, customer.id, wanted, at=at)
        found = await services.values.value(connection, terms, at, from_memory=time is None)
    if found is None and not is_id(wanted):
        raise NotFound(f"entitlement not found {wanted} in namespace {services.namespace}")
    return respond(found or NO_ACCESS)


@router.get(ONE + "/grants", operation_id="listEntitlementGrants", responses={200: answers(list[EntitlementGrant])})
async def list_grants(services: Wired, subject: Subject, wanted: IdOrFeature) -> WireResponse:
    """All grants, voided ones too, by creation."""
    now = services.now()
    async with services.engine.connect() as connection:
        customer = await owner(connection, services, subject)
        terms = await get_of_customer(connection, services.namespace, customer.id, wanted, at=now)
        found = await grants_of_entitlement(connection, terms, Slice(GRANTS_MAX))
    return respond([grant_v1(each, now) for each in found.items])


@router.post(ONE + "/grants", operation_id="createGrant", status_code=201, responses={201: answers(EntitlementGrant)})
async def grant(
    services: Wired, subject: Subject, wanted: IdOrFeature, body: EntitlementGrantCreateInput
) -> WireResponse:
    """Add to what the entitlement gives."""
    now = services.now()
    async with services.engine.begin() as connection:
        customer = await owner(connection, services, subject)
        terms = await get_of_customer(connection, services.namespace, customer.id, wanted, at=now)
        made = await create_grant(connection, terms, body.draft(), target=services.entitlements_topic, now=now)
    return respond(grant_v1(made, now), 201)


@router.post(ONE + "/reset", operation_id="resetEntitlementUsage", status_code=204, responses={204: NO_CONTENT})
async def reset(services: Wired, subject: Subject, wanted: IdOrFeature, body: ResetEntitlementUsageInput) -> None:
    """Start a new usage period: grants roll over and usage begins at zero."""
    now = services.now()
    async with services.engine.begin() as connection:
        customer = await owner(connection, services, subject)
        terms = await get_of_customer(connection, services.namespace, customer.id, wanted, at=now)
        await reset_entitlement(
            connection,
            terms,
            effective_at=body.effective_at,
            retain_anchor=body.retain_anchor,
            preserve_overage=body.preserve_overage,
            target=services.entitlements_topic,
            now=now,
        )


@router.get(
    "/entitlements",
    operation_id="listEntitlements",
    responses={200: answers(list[Entitlement] | Page[Entitlement])},
)
async def list_all(
    services: Wired,
    feature: Annotated[list[str] | None, Query()] = None,
    subject: Annotated[list[str] | None, Query()] = None,
    entitlement_type: Annotated[list[EntitlementType] | None, Query(alias="entitlementType")] = None,
    exclude_inactive: Annotated[bool, Query(alias="excludeInactive")] = False,
    page: PageNumber = None,
    page_size: PageSize = None,
    limit: Limit = 100,
    offset: Offset = 0,
    order_by: Annotated[Literal["createdAt", "updatedAt"], Query(alias="orderBy")] = "createdAt",
    order: Order = "ASC",
) -> WireResponse:
    """List entitlements of all customers: a page when `page` or `pageSize` is given, else a bare list."""
    now = services.now()
    wanted = EntitlementFilter(
        features=feature or (),
        subject_keys=subject or (),
        types=entitlement_type or (),
        exclude_inactive=exclude_inactive,
    )
    async with services.engine.connect() as connection:
        found = await list_entitlements(
            connection,
            services.namespace,
            wanted,
            switched_slice(page, page_size, limit, offset),
            now=now,
            order_by=order_by,
            descending=order == "DESC",
        )
    return respond(page_or_list((entitlement_v1(each, now) for each in found.items), found.total, page, page_size))


@router.get("/entitlements/{entitlementId}", operation_id="getEntitlementById", responses={200: answers(Entitlement)})
async def get_by_id(services: Wired, entitlement_id: Annotated[str, Path(alias="entitlementId")]) -> WireResponse:
    now = services.now()
    async with services.engine.connect() as connection:
        return respond(entitlement_v1(await get_entitlement(connection, services.namespace, entitlement_id), now))
