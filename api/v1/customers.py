"""`/api/v1/customers`: who pays, and whose usage it is."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field

from api.pagination import Order, Page, PageNumber, PageSize, page_of, page_slice
from api.requests import ExactRoute
from api.services import Wired
from api.wire import (
    NO_CONTENT,
    Body,
    Description,
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
from billing.subscriptions.of_customer import active_subscriptions, refuse_delete, refuse_other_subjects
from metering.domain.customer import Customer as DomainCustomer
from metering.postgres.customers import (
    CustomerDraft,
    CustomerFilter,
    create_customer,
    delete_customer,
    get_customer,
    list_customers,
    live_customer,
    refuse_entitled,
    update_customer,
)

router = APIRouter(prefix="/api/v1/customers", tags=["Customers"], route_class=ExactRoute)

IdOrKey = Annotated[str, Path(alias="customerIdOrKey", min_length=1, max_length=256)]


class UsageAttribution(Wire):
    """Subjects whose usage is the customer's, beside its key; sorted."""

    subject_keys: list[str]


class Customer(Wire):
    """A customer."""

    id: str
    name: str
    created_at: Timestamp
    updated_at: Timestamp
    key: str | None = None
    description: str | None = None
    currency: str | None = None
    primary_email: str | None = None
    billing_address: dict[str, str] | None = None
    usage_attribution: UsageAttribution | None = None
    metadata: dict[str, str] = {}
    current_subscription_id: str | None = None
    deleted_at: Timestamp | None = None


class Address(Body):
    country: Annotated[str, Field(pattern="^[A-Z]{2}$")] | None = None
    postal_code: str | None = None
    state: str | None = None
    city: str | None = None
    line1: str | None = None
    line2: str | None = None
    phone_number: str | None = None


class CustomerUsageAttribution(Body):
    subject_keys: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=1000)]


class CustomerCreate(Body):
    name: Name
    key: Name | None = None
    description: Description | None = None
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")] | None = None
    primary_email: str | None = None
    billing_address: Address | None = None
    usage_attribution: CustomerUsageAttribution | None = None
    metadata: Metadata | None = None

    def draft(self) -> CustomerDraft:
        address = self.billing_address
        return CustomerDraft(
            name=self.name,
            key=self.key,
            subject_keys=tuple(self.usage_attribution.subject_keys) if self.usage_attribution else (),
            description=self.description,
            currency=self.currency,
            primary_email=self.primary_email,
            billing_address=address.model_dump(by_alias=True, exclude_none=True) if address else None,
            metadata=self.metadata or {},
        )


class CustomerReplaceUpdate(CustomerCreate):
    pass


def customer_wire(customer: DomainCustomer, subscription_id: str | None = None) -> Customer:
    return Customer(
        id=customer.id,
        name=customer.name,
        created_at=timestamp(customer.created_at),
        updated_at=timestamp(customer.updated_at),
        key=customer.key,
        description=customer.description,
        currency=customer.currency,
        primary_email=customer.primary_email,
        billing_address=dict(customer.billing_address) if customer.billing_address else None,
        usage_attribution=UsageAttribution(subject_keys=list(customer.subject_keys)) if customer.subject_keys else None,
        metadata=dict(customer.metadata),
        current_subscription_id=subscription_id,
        deleted_at=maybe_timestamp(customer.deleted_at),
    )


@router.post("", operation_id="createCustomer", status_code=201, responses={201: answers(Customer)})
async def create(services: Wired, body: CustomerCreate) -> WireResponse:
    """Create a customer. The usage of its key and subject keys is its own, that from before included."""
    async with services.engine.begin() as connection:
        made = await create_customer(connection, services.namespace, body.draft(), now=services.now())
    return respond(customer_wire(made), 201)


@router.get("", operation_id="listCustomers", responses={200: answers(Page[Customer])})
async def list_all(
    services: Wired,
    page: PageNumber = None,
    page_size: PageSize = None,
    order_by: Annotated[Literal["id", "name", "createdAt"], Query(alias="orderBy")] = "name",
    order: Order = "ASC",
    include_deleted: Annotated[bool, Query(alias="includeDeleted")] = False,
    key: Annotated[str | None, Query()] = None,
    name: Annotated[str | None, Query()] = None,
    primary_email: Annotated[str | None, Query(alias="primaryEmail")] = None,
    subject: Annotated[str | None, Query()] = None,
) -> WireResponse:
    """List customers. The text filters look for a part, whatever its case."""
    wanted = CustomerFilter(key, name, primary_email, subject, include_deleted)
    async with services.engine.connect() as connection:
        found = await list_customers(
            connection,
            services.namespace,
            wanted,
            page_slice(page, page_size),
            order_by=order_by,
            descending=order == "DESC",
        )
        ids = [each.id for each in found.items]
        subscribed = await active_subscriptions(connection, services.namespace, ids, now=services.now())
    shown = (customer_wire(each, subscribed.get(each.id)) for each in found.items)
    return respond(page_of(shown, found.total, page, page_size))


@router.get("/{customerIdOrKey}", operation_id="getCustomer", responses={200: answers(Customer)})
async def get(
    services: Wired,
    id_or_key: IdOrKey,
    expand: Annotated[list[Literal["subscriptions"]] | None, Query()] = None,
) -> WireResponse:
    """Get a customer; with its subscription when expanded."""
    async with services.engine.connect() as connection:
        found = await get_customer(connection, services.namespace, id_or_key)
        subscribed = {}
        if expand:
            subscribed = await active_subscriptions(connection, services.namespace, [found.id], now=services.now())
    return respond(customer_wire(found, subscribed.get(found.id)))


@router.put("/{customerIdOrKey}", operation_id="updateCustomer", responses={200: answers(Customer)})
async def update(services: Wired, id_or_key: IdOrKey, body: CustomerReplaceUpdate) -> WireResponse:
    """Replace a customer. Absent e-mail, currency and address lines stay as they are; all else is cleared."""
    now, draft = services.now(), body.draft()
    async with services.engine.begin() as connection:
        old = await live_customer(connection, services.namespace, id_or_key, lock=True)
        await refuse_other_subjects(connection, old, draft.subject_keys, now=now)
        changed = await update_customer(
            connection, services.namespace, old.id, draft, target=services.entitlements_topic, now=now
        )
    return respond(customer_wire(changed))


@router.delete("/{customerIdOrKey}", operation_id="deleteCustomer", status_code=204, responses={204: NO_CONTENT})
async def delete(services: Wired, id_or_key: IdOrKey) -> None:
    now = services.now()
    async with services.engine.begin() as connection:
        old = await live_customer(connection, services.namespace, id_or_key, lock=True)
        await refuse_entitled(connection, old)
        await refuse_delete(connection, old, now=now)
        await delete_customer(connection, services.namespace, old.id, now=now)
