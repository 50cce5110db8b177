"""Entitlements as v2 has them: below a customer, and all of them to read."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query

from api.entitlement_answers import EntitlementGrant, EntitlementV2, EntitlementValue, entitlement_v2, grant_v2
from api.entitlement_bodies import (
    EntitlementGrantCreateInputV2,
    EntitlementV2CreateInputs,
    ResetEntitlementUsageInput,
)
from api.pagination import Limit, Offset, Order, Page, PageNumber, PageSize, is_paged, page_of, page_slice
from api.requests import ExactRoute
from api.services import Wired
from api.v1.customers import IdOrKey
from api.v1.grants import GrantOrder
from api.wire import NO_CONTENT, Instant, WireResponse, answers, respond
from metering.domain.entitlement_terms import EntitlementType
from metering.postgres.customers import get_customer, live_customer
from metering.postgres.entitlements import (
    EntitlementFilter,
    active_of_customer,
    create_entitlement,
    delete_entitlement,
    find_of_customer,
    get_entitlement,
    get_of_customer,
    list_entitlements,
    override_entitlement,
)
from metering.postgres.grants import GrantFilter, create_grant, grants_of_entitlement, list_grants, reset_entitlement
from metering.postgres.paging import Slice

router = APIRouter(prefix="/api/v2", tags=["Entitlements"], route_class=ExactRoute)

OF_CUSTOMER = "/customers/{customerIdOrKey}/entitlements"
ONE = OF_CUSTOMER + "/{entitlementIdOrFeatureKey}"
IdOrFeature = Annotated[str, Path(alias="entitlementIdOrFeatureKey", min_length=1)]
GrantsV2 = Page[EntitlementGrant]


@router.post(
    OF_CUSTOMER, operation_id="createCustomerEntitlementV2", status_code=201, responses={201: answers(EntitlementV2)}
)
async def create(services: Wired, id_or_key: IdOrKey, body: EntitlementV2CreateInputs) -> WireResponse:
    """Entitle a customer to a feature."""
    now = services.now()
    async with services.engine.begin() as connection:
        customer = await live_customer(connection, services.namespace, id_or_key)
        target = services.entitlements_topic
        made = await create_entitlement(
            connection, services.namespace, customer, body.draft(now), target=target, now=now
        )
    return respond(entitlement_v2(made, now), 201)


@router.get(OF_CUSTOMER, operation_id="listCustomerEntitlementsV2", responses={200: answers(Page[EntitlementV2])})
async def list_of_customer(
    services: Wired, id_or_key: IdOrKey, page: PageNumber = None, page_size: PageSize = None
) -> WireResponse:
    """The entitlements that are active now."""
    now = services.now()
    part = page_slice(page, page_size)
    async with services.engine.connect() as connection:
        customer = await live_customer(connection, services.namespace, id_or_key)
        found = await active_of_customer(connection, services.namespace, customer.id, at=now)
    shown = found[part.offset : part.offset + part.limit]
    return respond(page_of((entitlement_v2(each, now) for each in shown), len(found), page, page_size))


@router.get(ONE, operation_id="getCustomerEntitlementV2", responses={200: answers(EntitlementV2)})
async def get(services: Wired, id_or_key: IdOrKey, wanted: IdOrFeature) -> WireResponse:
    now = services.now()
    async with services.engine.connect() as connection:
        customer = await live_customer(connection, services.namespace, id_or_key)
        found = await get_of_customer(connection, services.namespace, customer.id, wanted, at=now)
    return respond(entitlement_v2(found, now))


@router.delete(ONE, operation_id="deleteCustomerEntitlementV2", status_code=204, responses={204: NO_CONTENT})
async def delete(services: Wired, id_or_key: IdOrKey, wanted: IdOrFeature) -> None:
    """End an entitlement. Its usage and grants stay on record."""
    now = services.now()
    async with services.engine.begin() as connection:
        customer = await live_customer(connection, services.namespace, id_or_key)
        found = await get_of_customer(connection, services.namespace, customer.id, wanted, at=now)
        await delete_entitlement(connection, services.namespace, found, target=services.entitlements_topic, now=now)


@router.put(
    ONE + "/override",
    operation_id="overrideCustomerEntitlementV2",
    status_code=201,
    responses={201: answers(EntitlementV2)},
)
async def override(
    services: Wired, id_or_key: IdOrKey, wanted: IdOrFeature, body: EntitlementV2CreateInputs
) -> WireResponse:
    """End an entitlement and make another in its place. Balances are not carried over."""
    now = services.now()
    async with services.engine.begin() as connection:
        customer = await live_customer(connection, services.namespace, id_or_key)
        old = await get_of_customer(connection, services.namespace, customer.id, wanted, at=now)
        made = await override_entitlement(
            connection, services.namespace, old, body.draft(now), target=services.entitlements_topic, now=now
        )
    return respond(entitlement_v2(made, now), 201)


@router.get(ONE + "/value", operation_id="getCustomerEntitlementValueV2", responses={200: answers(EntitlementValue)})
async def value(
    services: Wired, id_or_key: IdOrKey, wanted: IdOrFeature, time: Annotated[Instant | None, Query()] = None
) -> WireResponse:
    """What is left at `time`, by default now, with what is left of each grant."""
    at = time or services.now()
    async with services.engine.connect() as connection:
        customer = await live_customer(connection, services.namespace, id_or_key)
        terms = await find_of_customer(connection, services.namespace, customer.id, wanted, at=at)
        found = None
        if terms is not None:
            found = await services.values.value(connection, terms, at, with_grants=True, from_memory=time is None)
    return respond(found or EntitlementValue(has_access=False))


@router.get(ONE + "/grants", operation_id="listCustomerEntitlementGrantsV2", responses={200: answers(GrantsV2)})
async def list_grants_of(
    services: Wired,
    id_or_key: IdOrKey,
    wanted: IdOrFeature,
    page: PageNumber = None,
    page_size: PageSize = None,
    limit: Limit = 100,
    offset: Offset = 0,
    order_by: Annotated[Literal["id", "createdAt", "updatedAt"], Query(alias="orderBy")] = "createdAt",
    order: Order = "ASC",
) -> WireResponse:
    """The grants of one entitlement, voided ones too."""
    now = services.now()
    part = page_slice(page, page_size) if is_paged(page, page_size) else Slice(limit, offset)
    async with services.engine.connect() as connection:
        customer = await live_customer(connection, services.namespace, id_or_key)
        terms = await get_of_customer(connection, services.namespace, customer.id, wanted, at=now)
        found = await grants_of_entitlement(connection, terms, part, order_by=order_by, descending=order == "DESC")
    return respond(_grants([grant_v2(each, now) for each in found.items], found.total, page, page_size))


@router.post(
    ONE + "/grants",
    operation_id="createCustomerEntitlementGrantV2",
    status_code=201,
    responses={201: answers(EntitlementGrant)},
)
async def grant(
    services: Wired, id_or_key: IdOrKey, wanted: IdOrFeature, body: EntitlementGrantCreateInputV2
) -> WireResponse:
    """Add to what the entitlement gives."""
    now = services.now()
    async with services.engine.begin() as connection:
        customer = await live_customer(connection, services.namespace, id_or_key)
        terms = await get_of_customer(connection, services.namespace, customer.id, wanted, at=now)
        made = await create_grant(connection, terms, body.draft(), target=services.entitlements_topic, now=now)
    return respond(grant_v2(made, now), 201)


@router.post(
    ONE + "/reset", operation_id="resetCustomerEntitlementUsageV2", status_code=204, responses={204: NO_CONTENT}
)
async def reset(services: Wired, id_or_key: IdOrKey, wanted: IdOrFeature, body: ResetEntitlementUsageInput) -> None:
    """Start a new usage period: grants roll over and usage begins at zero."""
    now = services.now()
    async with services.engine.begin() as connection:
        customer = await live_customer(connection, services.namespace, id_or_key)
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


@router.get("/entitlements", operation_id="listEntitlementsV2", responses={200: answers(Page[EntitlementV2])})
async def list_all(
    services: Wired,
    feature: Annotated[list[str] | None, Query()] = None,
    customer_keys: Annotated[list[str] | None, Query(alias="customerKeys")] = None,
    customer_ids: Annotated[list[str] | None, Query(alias="customerIds")] = None,
    entitlement_type: Annotated[list[EntitlementType] | None, Query(alias="entitlementType")] = None,
    exclude_inactive: Annotated[bool, Query(alias="excludeInactive")] = False,
    page: PageNumber = None,
    page_size: PageSize = None,
    order_by: Annotated[Literal["createdAt", "updatedAt"], Query(alias="orderBy")] = "createdAt",
    order: Order = "ASC",
) -> WireResponse:
    """List entitlements of all customers."""
    now = services.now()
    wanted = EntitlementFilter(
        features=feature or (),
        customer_ids=customer_ids or (),
        customer_keys=customer_keys or (),
        types=entitlement_type or (),
        exclude_inactive=exclude_inactive,
    )
    async with services.engine.connect() as connection:
        found = await list_entitlements(
            connection,
            services.namespace,
            wanted,
            page_slice(page, page_size),
            now=now,
            order_by=order_by,
            descending=order == "DESC",
        )
    return respond(page_of((entitlement_v2(each, now) for each in found.items), found.total, page, page_size))


@router.get(
    "/entitlements/{entitlementId}", operation_id="getEntitlementByIdV2", responses={200: answers(EntitlementV2)}
)
async def get_by_id(services: Wired, entitlement_id: Annotated[str, Path(alias="entitlementId")]) -> WireResponse:
    now = services.now()
    async with services.engine.connect() as connection:
        return respond(entitlement_v2(await get_entitlement(connection, services.namespace, entitlement_id), now))


@router.get("/grants", operation_id="listGrantsV2", responses={200: answers(GrantsV2)})
async def list_all_grants(
    services: Wired,
    feature: Annotated[list[str] | None, Query()] = None,
    customer: Annotated[list[str] | None, Query()] = None,
    include_deleted: Annotated[bool, Query(alias="includeDeleted")] = False,
    page: PageNumber = None,
    page_size: PageSize = None,
    limit: Limit = 100,
    offset: Offset = 0,
    order_by: GrantOrder = "effectiveAt",
    order: Order = "ASC",
) -> WireResponse:
    """List grants of all customers, or of those named by id or key."""
    now = services.now()
    part = page_slice(page, page_size) if is_paged(page, page_size) else Slice(limit, offset)
    async with services.engine.connect() as connection:
        ids = None
        if customer:
            named = [await get_customer(connection, services.namespace, each) for each in customer]
            ids = [each.id for each in named if each.deleted_at is None]
        wanted = GrantFilter(features=feature or (), customer_ids=ids, include_deleted=include_deleted)
        found = await list_grants(
            connection, services.namespace, wanted, part, order_by=order_by, descending=order == "DESC"
        )
    return respond(_grants([grant_v2(each, now) for each in found.items], found.total, page, page_size))


def _grants(items: list[EntitlementGrant], total: int, page: int | None, page_size: int | None) -> GrantsV2:
    """Without page parameters the object says page 0 of size 0, as limit and offset were used."""
    if is_paged(page, page_size):
        return page_of(items, total, page, page_size)
    return Page(items=items, page=0, page_size=0, total_count=total)
