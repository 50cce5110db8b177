"""`/api/v1/grants`: the grants of all entitlements."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query

from api.entitlement_answers import EntitlementGrant, grant_v1
from api.pagination import Limit, Offset, Order, Page, PageNumber, PageSize, page_or_list, switched_slice
from api.requests import ExactRoute
from api.services import Wired
from api.wire import NO_CONTENT, WireResponse, answers, respond
from metering.postgres.grants import GrantFilter, list_grants, void_grant

router = APIRouter(prefix="/api/v1/grants", tags=["Entitlements"], route_class=ExactRoute)

GrantOrder = Annotated[Literal["id", "createdAt", "updatedAt", "effectiveAt"], Query(alias="orderBy")]


@router.get("", operation_id="listGrants", responses={200: answers(list[EntitlementGrant] | Page[EntitlementGrant])})
async def list_all(
    services: Wired,
    feature: Annotated[list[str] | None, Query()] = None,
    subject: Annotated[list[str] | None, Query()] = None,
    include_deleted: Annotated[bool, Query(alias="includeDeleted")] = False,
    page: PageNumber = None,
    page_size: PageSize = None,
    limit: Limit = 100,
    offset: Offset = 0,
    order_by: GrantOrder = "effectiveAt",
    order: Order = "ASC",
) -> WireResponse:
    """List grants: a page when `page` or `pageSize` is given, else a bare list."""
    now = services.now()
    wanted = GrantFilter(features=feature or (), subject_keys=subject or (), include_deleted=include_deleted)
    async with services.engine.connect() as connection:
        found = await list_grants(
            connection,
            services.namespace,
            wanted,
            switched_slice(page, page_size, limit, offset),
            order_by=order_by,
            descending=order == "DESC",
        )
    return respond(page_or_list((grant_v1(each, now) for each in found.items), found.total, page, page_size))


@router.delete("/{grantId}", operation_id="voidGrant", status_code=204, responses={204: NO_CONTENT})
async def void(services: Wired, grant_id: Annotated[str, Path(alias="grantId")]) -> None:
    """Take away what is left of a grant."""
    async with services.engine.begin() as connection:
        target = services.entitlements_topic
        await void_grant(connection, services.namespace, grant_id, target=target, now=services.now())
