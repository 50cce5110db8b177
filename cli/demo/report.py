"""The tables that the demo ends with."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from cli.demo.scenario import Scenario
from cli.demo.state import Result

ROWS_MAX: Final = 24


def number(value: object) -> str:
    """With thousands separated; decimals as they are."""
    if isinstance(value, str):
        value = Decimal(value)
    return f"{value.normalize():,f}" if isinstance(value, Decimal) else f"{value:,}"


def _table(title: str, *columns: str, left: int = 1) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold", pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < left else "right", no_wrap=True)
    return table


def events_table(result: Result, counts: Mapping[str, int]) -> Table:
    """Accepted, duplicate and rejected events, beside what was sent."""
    table = _table("Events", "", "events", "should be")
    probes = len(result.delays)
    table.add_row("accepted", number(counts["accepted"]), number(result.events + result.twice + probes))
    table.add_row("counted once", number(counts["counted"]), number(result.events + probes))
    table.add_row("duplicate", number(counts["duplicate"]), number(result.twice))
    table.add_row("rejected", number(counts["rejected"]), "0")
    table.add_row("without a usable value (dead letters)", number(counts["dead_letters"]), number(result.unusable))
    return table


def wanted_totals(result: Result) -> dict[str, Decimal]:
    """What the independent count of the input says of each meter."""
    return {**result.totals, **{slug: Decimal(count) for slug, count in result.distinct.items()}}


def is_right(result: Result, measured: Mapping[str, Decimal]) -> bool:
    """Whether every meter says what the independent count says."""
    return all(measured.get(slug) == want for slug, want in wanted_totals(result).items())


def totals_table(result: Result, measured: Mapping[str, Decimal]) -> Table:
    """Every meter's total beside an independent count of the input."""
    table = _table("Meters against an independent count of the input", "meter", "usage", "count of the input", "")
    for slug, want in sorted(wanted_totals(result).items()):
        got = measured.get(slug, Decimal(0))
        verdict = Text("equal", "green") if got == want else Text("DIFFERENT", "bold red")
        table.add_row(slug, number(got), number(want), verdict)
    return table


def usage_table(
    scenario: Scenario, usage: Mapping[str, Sequence[Mapping[str, Any]]], *, rows_max: int = ROWS_MAX
) -> Table:
    """Usage by customer and the scenario's dimension, largest first."""
    table = _table(
        f"Usage by customer and {scenario.dimension}", "customer", scenario.dimension, *scenario.summed, left=2
    )
    cells: dict[tuple[str, str], dict[str, Decimal]] = {}
    for slug in scenario.summed:
        for row in usage[slug]:
            key = (row["subject"], row["groupBy"][scenario.dimension])
            cells.setdefault(key, {})[slug] = Decimal(row["value"])
    first = scenario.summed[0]
    ordered = sorted(cells.items(), key=lambda item: (-item[1].get(first, Decimal(0)), item[0]))
    for (customer, value), amounts in ordered[:rows_max]:
        figures = [number(amounts.get(slug, Decimal(0))) for slug in scenario.summed]
        table.add_row(scenario.customers.get(customer, customer), value, *figures)
    if len(ordered) > rows_max:
        table.caption = f"and {len(ordered) - rows_max} smaller ones"
    return table


def balances_table(scenario: Scenario, balances: Mapping[str, Mapping[str, Any]]) -> Table:
    """The live balance of each customer."""
    table = _table(f"Live balances of {scenario.limited_feature}", "customer", "used", "left", "over", "may go on")
    for customer, value in sorted(balances.items(), key=lambda item: -Decimal(item[1].get("usage", 0))):
        allowed = Text("yes", "green") if value["hasAccess"] else Text("no", "red")
        figures = [number(value.get(member, 0)) for member in ("usage", "balance", "overage")]
        table.add_row(scenario.customers.get(customer, customer), *figures, allowed)
    return table


def delay_table(delays: Sequence[float]) -> Table:
    """How long from the sending of an event until a balance check shows it."""
    table = _table("Event to balance", "", "milliseconds")
    ordered = sorted(delays)
    for name, share in (("p50", 0.50), ("p99", 0.99)):
        place = min(len(ordered) - 1, int(share * len(ordered)))
        table.add_row(f"{name} of {len(ordered)} events", f"{1000 * ordered[place]:.0f}")
    return table
