"""`/api/v1/billing/invoices`: what was billed, with its evidence, and whether raw events still prove it."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Path, Query
from ulid import ULID

from api.pagination import DEFAULT_SIZE, Order, Page, PageNumber, PageSize, page_of
from api.requests import ExactRoute
from api.services import Wired
from api.usage import Usage
from api.v1.rate_cards import price_wire
from api.wire import Body, Instant, Timestamp, Ulid, Wire, WireResponse, answers, maybe_timestamp, respond, timestamp
from billing.domain.money import plain
from billing.domain.price import Price
from billing.invoicing.clickhouse import ClickHouseReadings
from billing.invoicing.invoices import Invoice as DomainInvoice
from billing.invoicing.invoices import InvoiceFilter, InvoiceStatus, find_invoice, list_invoices
from billing.invoicing.issue import open_due
from billing.invoicing.verify import verify_invoice
from metering.domain.errors import InvalidInput
from metering.postgres.customers import get_customer

router = APIRouter(prefix="/api/v1/billing/invoices", tags=["Billing"], route_class=ExactRoute)

InvoiceId = Annotated[str, Path(alias="invoiceId", min_length=1)]
Texts = list[str] | None
# What the wire asks for and this deployment has only one of.
_PROFILE = "00000000000000000000000000"


class Invoice(Wire):
    """An invoice. Money and quantities are texts of plain decimals.

    `evidence` and `sha256` are Weighbridge's own: what the lines follow from, and the hash of the document that
    `verification` recomputes. `lines` of kind `late` bill events that came after the cut of an earlier invoice.
    """

    id: str
    type: str
    number: str
    status: str
    status_details: dict[str, Any]
    currency: str
    customer: dict[str, Any]
    supplier: dict[str, Any]
    period: dict[str, Any]
    totals: dict[str, Any]
    workflow: dict[str, Any]
    created_at: Timestamp
    updated_at: Timestamp
    collection_at: Timestamp
    issued_at: Timestamp | None = None
    quantity_snapshoted_at: Timestamp | None = None
    subscription_id: str | None = None
    lines: list[dict[str, Any]] | None = None
    evidence: dict[str, Any] | None = None
    sha256: str | None = None


class Verification(Wire, omit_defaults=False):
    """Whether an invoice is what raw events say. `differences` name places in the document."""

    invoice_id: str
    number: str | None
    is_equal: bool
    sha256_stored: str
    sha256_recomputed: str
    differences: list[dict[str, Any]]
    code_version: str
    code_version_of_invoice: str


class InvoiceDue(Body):
    customer_id: Ulid
    as_of: Instant | None = None


def totals_wire(amount: str) -> dict[str, str]:
    """There are neither taxes, discounts, commitments nor credits, so the amount is the total."""
    names = (
        "chargesTotal",
        "discountsTotal",
        "creditsTotal",
        "taxesInclusiveTotal",
        "taxesExclusiveTotal",
        "taxesTotal",
    )
    return {"amount": amount, **dict.fromkeys(names, "0"), "total": amount}


def invoice_wire(found: DomainInvoice, *, with_lines: bool) -> Invoice:
    content = found.content
    is_issued = found.status is InvoiceStatus.ISSUED
    start = found.period_from or found.period_to
    return Invoice(
        id=found.id,
        type="standard",
        number=found.number or f"DRAFT-{found.id}",
        status=found.status.split(".")[0],
        status_details={
            "immutable": is_issued,
            "failed": False,
            "extendedStatus": found.status.value,
            "availableActions": {},
        },
        currency=found.currency,
        customer=_customer(found, content),
        supplier={"name": found.namespace},
        period={"from": timestamp(start), "to": timestamp(found.period_to)},
        totals=totals_wire(plain(found.total or Decimal(0))),
        workflow={"sourceBillingProfileId": _PROFILE, "workflow": {}},
        created_at=timestamp(found.created_at),
        updated_at=timestamp(found.updated_at),
        collection_at=timestamp(found.cut),
        issued_at=maybe_timestamp(found.issued_at),
        quantity_snapshoted_at=maybe_timestamp(found.issued_at),
        subscription_id=found.subscription_id,
        lines=_lines(found, content) if with_lines and content else None,
        evidence=content.get("evidence") if with_lines else None,
        sha256=found.sha256,
    )


def _customer(found: DomainInvoice, content: Mapping[str, Any]) -> dict[str, Any]:
    snapshot = found.customer or {"id": found.customer_id}
    wire = {name: snapshot[name] for name in ("id", "key", "name") if snapshot.get(name)}
    if snapshot.get("billing_address"):
        wire["addresses"] = [snapshot["billing_address"]]
    subjects = content["evidence"]["subjects"] if content else []
    return wire | {"usageAttribution": {"subjectKeys": subjects}}


def _lines(found: DomainInvoice, content: Mapping[str, Any]) -> list[dict[str, Any]]:
    ids = _Ids(found.id)
    return [_line(found, line, ids) for line in content["lines"]]


def _line(found: DomainInvoice, line: Mapping[str, Any], ids: "_Ids") -> dict[str, Any]:
    price = price_wire(msgspec.convert(line["price"], Price))
    common = _common(found, line["period"])
    quantities = {name: line[name] for name in ("quantity", "quantityBefore") if name in line}
    optional = {"featureKey": line["feature"], "evidence": line.get("evidence")}
    own_id = ids.next()
    children = [
        {
            "id": ids.next(),
            "type": "flat_fee",
            "status": "detailed",
            "managedBy": "system",
            "category": "regular",
            "name": detail["name"],
            "quantity": detail["quantity"],
            "perUnitAmount": detail["perUnit"],
            "paymentTerm": line["price"].get("payment_term", "in_arrears"),
            "totals": totals_wire(detail["amount"]),
            **common,
        }
        for detail in line["details"]
    ]
    return {
        "id": own_id,
        "type": "usage_based",
        "kind": line["kind"],
        "status": "valid",
        "managedBy": "subscription",
        "name": line["name"],
        "subscription": {
            "subscription": {"id": found.subscription_id},
            "phase": {"id": line["phase"]},
            "item": {"id": line["key"]},
        },
        **quantities,
        **{name: value for name, value in optional.items() if value is not None},
        "price": price,
        "rateCard": {"price": price, **({"featureKey": line["feature"]} if line["feature"] else {})},
        "totals": totals_wire(line["amount"]),
        "children": children,
        **common,
    }


def _common(found: DomainInvoice, period: Mapping[str, str]) -> dict[str, Any]:
    return {
        "currency": found.currency,
        "invoice": {"id": found.id},
        "invoiceAt": timestamp(found.period_to),
        "period": dict(period),
        "createdAt": timestamp(found.issued_at or found.created_at),
        "updatedAt": timestamp(found.issued_at or found.created_at),
    }


class _Ids:
    """Ids that lines keep for ever: the ULIDs that follow the invoice's."""

    def __init__(self, invoice_id: str) -> None:
        self._last = int(ULID.from_str(invoice_id))

    def next(self) -> str:
        self._last += 1
        return str(ULID.from_int(self._last))


@router.get("", operation_id="listInvoices", responses={200: answers(Page[Invoice])})
async def list_all(
    services: Wired,
    page: PageNumber = None,
    page_size: PageSize = None,
    customers: Annotated[Texts, Query()] = None,
    statuses: Annotated[Texts, Query()] = None,
    expand: Annotated[list[str] | None, Query()] = None,
    order: Order = "ASC",
    order_by: Annotated[Literal["createdAt"], Query(alias="orderBy")] = "createdAt",  # noqa: ARG001 - the only order
) -> WireResponse:
    """List invoices by creation. `statuses` are prefixes; `expand=lines` shows the lines."""
    found, total = await list_invoices(
        services.engine,
        services.namespace,
        InvoiceFilter(customers=customers or (), statuses=statuses or ()),
        page=page or 1,
        size=page_size or DEFAULT_SIZE,
        newest_first=order == "DESC",
    )
    with_lines = "lines" in (expand or ())
    return respond(page_of([invoice_wire(each, with_lines=with_lines) for each in found], total, page, page_size))


@router.post(
    "/invoice", operation_id="invoicePendingLinesAction", status_code=201, responses={201: answers(list[Invoice])}
)
async def invoice_due(services: Wired, body: InvoiceDue) -> WireResponse:
    """Open the invoices of a customer whose periods are over, and list those that are open.

    They are drafts until usage has passed their `collectionAt`; the billing worker issues them then.
    """
    now = services.now()
    as_of = body.as_of or now
    if as_of > now:
        raise InvalidInput("asOf must be in the past")
    async with services.engine.connect() as connection:
        customer = await get_customer(connection, services.namespace, body.customer_id)
    await open_due(services.engine, grace=services.settings.grace, now=as_of, customer_id=customer.id)
    wanted = InvoiceFilter(customers=(customer.id,), statuses=(InvoiceStatus.WAITING,))
    found, _ = await list_invoices(services.engine, services.namespace, wanted, page=1, size=DEFAULT_SIZE)
    if not found:
        raise InvalidInput("invoice_create_no_lines: there is nothing to invoice")
    return respond([invoice_wire(each, with_lines=True) for each in found], 201)


@router.get("/{invoiceId}", operation_id="getInvoice", responses={200: answers(Invoice)})
async def get(services: Wired, invoice_id: InvoiceId) -> WireResponse:
    """An invoice with its lines and evidence, by id or number."""
    found = await find_invoice(services.engine, invoice_id, namespace=services.namespace)
    return respond(invoice_wire(found, with_lines=True))


@router.get("/{invoiceId}/verification", operation_id="verifyInvoice", responses={200: answers(Verification)})
async def verify(services: Wired, usage: Usage, invoice_id: InvoiceId) -> WireResponse:
    """Recompute an issued invoice from raw events as of its cut, and compare byte for byte."""
    readings = ClickHouseReadings(usage.clickhouse, usage, usage.settings)
    found = await verify_invoice(services.engine, readings, invoice_id, namespace=services.namespace)
    wire = Verification(
        invoice_id=found.invoice.id,
        number=found.invoice.number,
        is_equal=found.is_equal,
        sha256_stored=found.sha256_stored,
        sha256_recomputed=found.sha256_recomputed,
        differences=[
            {"path": each.path, "stored": each.stored, "recomputed": each.recomputed} for each in found.differences
        ],
        code_version=found.code_version,
        code_version_of_invoice=found.invoice.content["evidence"]["codeVersion"],
    )
    return respond(wire)
