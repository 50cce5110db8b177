"""The table: on the terminal, and in docs/benchmarks.md."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.machine import machine
from bench.row import Result, Row

BEGIN: Final = "<!-- figures: begin -->"
END: Final = "<!-- figures: end -->"
_HEAD: Final = ("what", "measured", "limit beside it", "limit", "ratio", "at least", "reached", "notes")
_PAGE: Final = f"""# Benchmarks

`make bench` measures these and rewrites the table; `make bench ARGS="--quick"` is a short run that leaves it alone, and
`make bench ARGS="single-events"` runs one row. Each row stands beside a limit that is measured in the same run on the
same machine, since a ratio says more than a speed. Load generator, engines and processes share the cores.

{BEGIN}
{END}
"""

Outcomes = Mapping[str, Result | str]  # by the row's name; a text says why there is no result


def cells(row: Row, outcome: Result | str) -> tuple[str, ...]:
    """The row of the table as texts."""
    goal = _goal(row)
    if isinstance(outcome, str):
        return (row.what, "-", row.limit, "-", "-", goal, "-", outcome)
    limit = "-" if outcome.limit is None else _figure(outcome.limit, row.unit)
    ratio = "-" if outcome.ratio is None else f"{outcome.ratio:.2f}"
    notes = "; ".join(filter(None, (outcome.notes, *outcome.misses)))
    reached = "yes" if row.good(outcome) else "no"
    return (row.what, _figure(outcome.value, row.unit), row.limit, limit, ratio, goal, reached, notes)


def _goal(row: Row) -> str:
    goals = [] if row.goal is None else [f"{row.goal:g}"]
    if row.goal_value is not None:
        goals.append(("under " if row.lower_is_better else "") + _figure(row.goal_value, row.unit))
    return ", ".join(goals) or "-"


def _figure(value: float, unit: str) -> str:
    text = f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
    return f"{text}{unit}" if unit.startswith("/") else f"{text} {unit}"


def show(rows: Mapping[str, Row], outcomes: Outcomes, console: Console) -> None:
    table = Table(title=machine(), title_justify="left")
    for index, name in enumerate(_HEAD):
        table.add_column(name, justify="right" if index in (1, 3, 4, 5) else "left")
    for name, outcome in outcomes.items():
        good = isinstance(outcome, Result) and rows[name].good(outcome)
        table.add_row(*cells(rows[name], outcome), style=None if good else "yellow")
    console.print(table)


def rewrite(page: Path, rows: Mapping[str, Row], outcomes: Outcomes, now: datetime) -> None:
    """Put the new rows into the page; rows that were not run stay as they are."""
    text = page.read_text() if page.exists() else _PAGE
    before, _, rest = text.partition(BEGIN)
    old, _, after = rest.partition(END)
    lines = {line.split("|")[1].strip(): line for line in old.splitlines() if line.startswith("|")}
    for name, outcome in outcomes.items():
        if isinstance(outcome, Result):
            lines[rows[name].what] = "| " + " | ".join(cells(rows[name], outcome)) + " |"
    body = [lines[row.what] for row in rows.values() if row.what in lines]
    head = ["| " + " | ".join(_HEAD) + " |", "|" + "---|" * len(_HEAD)]
    made = f"Last run {now.astimezone(UTC):%Y-%m-%d} on {machine()}."
    page.parent.mkdir(exist_ok=True)
    page.write_text("\n".join([before + BEGIN, "", *head, *body, "", made, "", END]) + after)
