"""`weighbridge audit`: does everything that was accepted add up?"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metering.clickhouse.audit import Step


def audit() -> None:
    """Check that ranges touch, that accepted = counted + duplicate + rejected, and that usage is a recount of events.

    Ends with 1 if anything differs.
    """
    console = Console()
    steps = asyncio.run(_steps())
    _print(console, steps)
    if any(step.differences for step in steps):
        raise typer.Exit(1)


async def _steps() -> list[Step]:
    from cli.engines import engines
    from metering.clickhouse.audit import audit as check
    from metering.postgres.registry import load_registry_async

    async with engines("audit") as store:
        async with store.postgres.connect() as connection:
            meters = (await load_registry_async(connection)).meters
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("audit", total=store.settings.event_partitions + len(meters))

            def starting(name: str) -> None:
                progress.update(task, description=f"checking {name}")

            found = []
            async for step in check(store, meters, starting=starting):
                progress.advance(task)
                found.append(step)
            return found


def _print(console: Console, steps: Sequence[Step]) -> None:
    columns = ("partition", "ranges", "accepted", "counted", "duplicate", "rejected", "ticks")
    table = Table(*columns, title="flushed", title_justify="left")
    for step in steps:
        if (of := step.totals) is not None:
            figures = (of.partition, of.ranges, of.end, of.counted, of.duplicate, of.rejected, of.ticks)
            table.add_row(*map(str, figures))
    console.print(table)
    wrong = [difference for step in steps for difference in step.differences]
    if not wrong:
        console.print(f"[green]{len(steps)} checks, no difference[/green]")
        return
    found = Table("check", "where", "expected", "found", title="differences", title_justify="left")
    for each in wrong:
        found.add_row(each.check, each.where, each.expected, each.found)
    console.print(found)
