"""The invoice that the demo shows, and the result of proving it."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.demo.report import number

_PLACES: Final = 2


def invoice_table(invoice: Mapping[str, Any]) -> Table:
    """Each line with the tiers that make its amount."""
    period = invoice["period"]
    title = f"Invoice {invoice['number']} for {invoice['customer']['name']}"
    table = Table(
        title=f"{title}, {period['from'][:10]} to {period['to'][:10]}",
        title_justify="left",
        header_style="bold",
        pad_edge=False,
    )
    table.add_column("line and tiers", no_wrap=True)
    for column in ("quantity", "per unit", invoice["currency"]):
        table.add_column(column, justify="right", no_wrap=True)
    for line in invoice["lines"]:
        quantity = number(line["quantity"]) if "quantity" in line else ""
        table.add_row(Text(line["name"], "bold"), quantity, "", Text(money(line["totals"]["total"]), "bold"))
        for detail in line["children"]:
            figures = (number(detail["quantity"]), detail["perUnitAmount"], money(detail["totals"]["total"]))
            table.add_row(f"  {detail['name']}", *figures, style="dim")
    table.add_section()
    table.add_row(Text("total", "bold"), "", "", Text(money(invoice["totals"]["total"]), "bold"))
    return table


def money(amount: str) -> str:
    """With thousands separated, in full, and two places at least."""
    places = max(_PLACES, len(amount.partition(".")[2]))
    return f"{Decimal(amount):,.{places}f}"


def verification(result: Mapping[str, Any]) -> RenderableType:
    """Whether raw events prove the invoice, and where they don't."""
    if result["isEqual"]:
        return Text.assemble(
            ("Proven. ", "bold green"),
            "Recomputed from raw events, it has the same bytes: sha256 ",
            (result["sha256Recomputed"][:16] + "…", "bold"),
        )
    places = [f"{each['path']}: {each['stored']} is not {each['recomputed']}" for each in result["differences"][:10]]
    return Group(Text("NOT PROVEN by raw events:", "bold red"), *places)
