"""`weighbridge invoice show` and `weighbridge verify`: an invoice with its lines and tiers, and its proof."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from rich.table import Table
    from sqlalchemy.ext.asyncio import AsyncEngine

    from billing.invoicing.invoices import Invoice
    from billing.invoicing.verify import Verification

invoice_app = typer.Typer(no_args_is_help=True, help="Look at invoices.")
verify_app = typer.Typer(no_args_is_help=True, help="Prove what was billed.")

InvoiceId = Annotated[str, typer.Argument(help="The invoice's id or number.")]


@invoice_app.callback()
def invoices() -> None:
    """Look at invoices."""


@verify_app.callback()
def proofs() -> None:
    """Prove what was billed."""


@invoice_app.command("show")
def show(invoice_id: InvoiceId) -> None:
    """Show an invoice with its lines and tiers."""
    from rich.console import Console

    found = _run(_find(invoice_id))
    Console().print(invoice_table(found))


@verify_app.command("invoice")
def verify(invoice_id: InvoiceId) -> None:
    """Recompute an invoice from raw events as of its cut; exit code 1 when a byte differs."""
    from rich.console import Console

    found = _run(_verify(invoice_id))
    Console().print(verification_text(found), highlight=False)
    if not found.is_equal:
        raise typer.Exit(1)


@verify_app.command("log")
def verify_log() -> None:
    """Check the chain of hashes of the audit log of billing; exit code 1 where it is broken."""
    broken = _run(_verify_log())
    if broken is not None:
        typer.echo(f"the audit log does not hold at entry {broken}")
        raise typer.Exit(1)
    typer.echo("the audit log holds")


def invoice_table(invoice: Invoice) -> Table:
    """Each line, and beneath it the parts and tiers that it is made of."""
    from rich import box
    from rich.table import Table

    title = f"Invoice {invoice.number or invoice.id}: {invoice.status}"
    who = (invoice.customer or {}).get("name", invoice.customer_id)
    caption = f"{who}; {invoice.period_from or invoice.period_to:%Y-%m-%d %H:%M} to {invoice.period_to:%Y-%m-%d %H:%M}"
    table = Table(title=title, caption=caption, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "quantity", "per unit", f"amount, {invoice.currency}"):
        table.add_column(column, justify="right" if column else "left")
    for line in invoice.content.get("lines", ()):
        table.add_row(
            f"[bold]{line['name']}[/]", _shown(line.get("quantity")), "", _money(line["amount"], invoice.currency)
        )
        for detail in line["details"]:
            numbers = _shown(detail["quantity"]), _shown(detail["perUnit"]), _money(detail["amount"], invoice.currency)
            table.add_row(f"[dim]  {detail['name']}[/]", *(f"[dim]{number}[/]" for number in numbers))
    table.add_section()
    if invoice.content:
        total = _money(invoice.content["totals"]["total"], invoice.currency)
        table.add_row("[bold]total[/]", "", "", f"[bold]{total}[/]")
    return table


def verification_text(found: Verification) -> str:
    """What was compared, and what differs."""
    invoice = found.invoice
    evidence = invoice.content["evidence"]
    events = sum(line["evidence"]["events"] for line in invoice.content["lines"] if "evidence" in line)
    head = f"invoice {invoice.number}, as of {evidence['cut']}, registry revision {evidence['registryRevision']}"
    if found.is_equal:
        return (
            f"{head}\n[green]equal[/]: recomputed from {events} raw events, byte for byte, sha256 {found.sha256_stored}"
        )
    lines = [f"  {each.path}: stored {each.stored}, raw events say {each.recomputed}" for each in found.differences]
    return "\n".join([f"{head}\n[bold red]DIFFERENT[/]", *lines])


def _shown(number: Any) -> str:
    from decimal import Decimal

    return "" if number is None else f"{Decimal(number):,f}"


def _money(amount: str, currency: str) -> str:
    from decimal import Decimal

    from billing.domain.money import Currency

    return f"{Decimal(amount):,.{Currency(currency).exponent}f}"


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """Its result; what the domain refuses becomes one line and exit code 2."""
    from clickhouse_connect.driver.exceptions import OperationalError as ClickHouseAway
    from sqlalchemy.exc import OperationalError as PostgresAway

    from metering.domain.errors import WeighbridgeError

    try:
        return asyncio.run(work)
    except WeighbridgeError as error:
        typer.echo(f"weighbridge: {error}", err=True)
    except PostgresAway as error:
        typer.echo(f"weighbridge: Postgres is away: {str(error.orig).splitlines()[0]}", err=True)
    except ClickHouseAway as error:
        typer.echo(f"weighbridge: ClickHouse is away: {str(error).splitlines()[0]}", err=True)
    raise typer.Exit(2)


async def _find(invoice_id: str) -> Invoice:
    from billing.invoicing.invoices import find_invoice

    async with _postgres() as postgres:
        return await find_invoice(postgres, invoice_id)


async def _verify(invoice_id: str) -> Verification:
    from billing.invoicing.clickhouse import ClickHouseReadings
    from billing.invoicing.verify import verify_invoice
    from metering.clickhouse.client import connect_async
    from metering.clickhouse.usage import UsageStore
    from metering.settings import EngineSettings

    settings = EngineSettings()
    clickhouse = await connect_async(settings)
    try:
        async with _postgres() as postgres:
            readings = ClickHouseReadings(clickhouse, UsageStore(clickhouse, postgres, settings), settings)
            return await verify_invoice(postgres, readings, invoice_id)
    finally:
        await clickhouse.close()


async def _verify_log() -> int | None:
    from billing.postgres.audit import verify

    async with _postgres() as postgres, postgres.connect() as connection:
        return await verify(connection)


@asynccontextmanager
async def _postgres() -> AsyncIterator[AsyncEngine]:
    from metering.postgres.engine import async_engine
    from metering.settings import EngineSettings

    engine = async_engine(EngineSettings(), application="cli")
    try:
        yield engine
    finally:
        await engine.dispose()
