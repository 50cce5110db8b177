"""Proving an issued invoice: it is composed again from raw events as of its cut, and the bytes are compared."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from billing.domain.canonical import fingerprint
from billing.domain.invoice import RULES
from billing.invoicing.basis import CODE_VERSION, gather_again
from billing.invoicing.compose import compose
from billing.invoicing.invoices import Invoice, InvoiceStatus, find_invoice, previous_invoice
from billing.invoicing.issue import offsets_of
from billing.invoicing.ports import Readings
from billing.subscriptions.subscriptions import subscription_by_id
from metering.domain.errors import PreconditionFailed


@dataclass(frozen=True, slots=True)
class Difference:
    """`path` into the document, such as `lines[2].quantity`; None on the side where there is nothing."""

    path: str
    stored: Any
    recomputed: Any


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether the invoice is what raw events say. Equal bytes have no differences."""

    invoice: Invoice
    is_equal: bool
    sha256_stored: str
    sha256_recomputed: str
    differences: tuple[Difference, ...]
    code_version: str = CODE_VERSION


async def verify_invoice(
    engine: AsyncEngine, readings: Readings, invoice_id: str, *, namespace: str | None = None
) -> Verification:
    """Recompute an invoice. Raises NotFound, or PreconditionFailed where there is nothing to verify yet."""
    invoice = await find_invoice(engine, invoice_id, namespace=namespace)
    if invoice.status is not InvoiceStatus.ISSUED or invoice.document is None:
        raise PreconditionFailed(f"invoice {invoice_id} is not issued yet")
    evidence = invoice.content["evidence"]
    if evidence["rules"] != RULES:
        raise PreconditionFailed(f"invoice {invoice_id} was made by rules {evidence['rules']}, this code has {RULES}")
    async with engine.connect() as connection:
        subscription = await subscription_by_id(connection, invoice.namespace, invoice.subscription_id)
        previous = await previous_invoice(connection, invoice)
        basis = await gather_again(
            connection,
            invoice,
            subscription,
            evidence,
            dict(_feature_ids(invoice.content)),
            offsets=await offsets_of(invoice, readings) or {},
            previous_cut=None if previous is None else previous.cut,
        )
    again = await compose(basis, readings, compare=False)
    differences = tuple(diff("", invoice.content, msgspec.json.decode(again)))
    stored = fingerprint(invoice.document)
    is_equal = invoice.document == again and stored == invoice.sha256
    return Verification(invoice, is_equal, invoice.sha256 or "", fingerprint(again), differences)


def _feature_ids(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for line in content["lines"]:
        if "evidence" in line:
            yield line["feature"], line["evidence"]["featureId"]


def diff(path: str, stored: Any, recomputed: Any) -> Iterator[Difference]:
    """Where two JSON values differ, as deep as they are alike."""
    if isinstance(stored, dict) and isinstance(recomputed, dict):
        for key in sorted(stored.keys() | recomputed.keys()):
            yield from diff(f"{path}.{key}" if path else key, stored.get(key), recomputed.get(key))
    elif isinstance(stored, list) and isinstance(recomputed, list):
        for n in range(max(len(stored), len(recomputed))):
            yield from diff(
                f"{path}[{n}]",
                stored[n] if n < len(stored) else None,
                recomputed[n] if n < len(recomputed) else None,
            )
    elif stored != recomputed:
        yield Difference(path, stored, recomputed)
