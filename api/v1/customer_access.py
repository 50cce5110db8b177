"""What a customer may use: the balance check, and all its entitlements at once."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from api.entitlement_answers import EntitlementValue
from api.requests import ExactRoute
from api.services import Wired
from api.v1.customers import IdOrKey
from api.values import NO_ACCESS
from api.wire import Instant, Wire, WireResponse, answers, respond
from metering.postgres.customers import live_customer
from metering.postgres.entitlements import active_of_customer, find_of_customer

router = APIRouter(prefix="/api/v1/customers/{customerIdOrKey}", tags=["Entitlements"], route_class=ExactRoute)


class CustomerAccess(Wire, omit_defaults=False):
    """Feature key -> value, of all entitlements that are active now."""

    entitlements: dict[str, EntitlementValue]


@router.get("/access", operation_id="getCustomerAccess", responses={200: answers(CustomerAccess)})
async def access(services: Wired, id_or_key: IdOrKey) -> WireResponse:
    """All that the customer is entitled to now."""
    now = services.now()
    values = {}
    async with services.engine.connect() as connection:
        customer = await live_customer(connection, services.namespace, id_or_key)
        for terms in await active_of_customer(connection, services.namespace, customer.id, at=now):
            value = await services.values.value(connection, terms, now, with_grants=True, from_memory=True)
            values[terms.feature_key] = value or NO_ACCESS
    return respond(CustomerAccess(entitlements=values))


@router.get(
    "/entitlements/{featureKey}/value",
    operation_id="getCustomerEntitlementValue",
    responses={200: answers(EntitlementValue)},
)
async def value(
    services: Wired,
    id_or_key: IdOrKey,
    feature: Annotated[str, Path(alias="featureKey", min_length=1)],
    time: Annotated[Instant | None, Query()] = None,
) -> WireResponse:
    """What is left at `time`, by default now; then it is answered from memory. No entitlement is no access."""
    at = time or services.now()
    async with services.engine.connect() as connection:
        customer = await live_customer(connection, services.namespace, id_or_key)
        terms = await find_of_customer(connection, services.namespace, customer.id, feature, at=at)
        found = None
        if terms is not None:
            found = await services.values.value(connection, terms, at, from_memory=time is None)
    return respond(found or NO_ACCESS)
