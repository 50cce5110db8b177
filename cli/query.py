"""`weighbridge query METER`: usage in the terminal."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from metering.clickhouse.usage import Source
    from metering.domain.usage import UsageQuery, UsageRow

Meter = Annotated[str, typer.Argument(help="id or slug")]
From = Annotated[datetime | None, typer.Option("--from", help="inclusive; UTC if without an offset")]
To = Annotated[datetime | None, typer.Option(help="exclusive")]
Window = Annotated[str | None, typer.Option(help="MINUTE, HOUR, DAY or MONTH")]
Zone = Annotated[str, typer.Option(help="IANA name of the windows' time zone")]
GroupBy = Annotated[list[str] | None, typer.Option(help="a dimension, or subject; repeatable")]
Subject = Annotated[list[str] | None, typer.Option(help="only this subject; repeatable")]
Filter = Annotated[list[str] | None, typer.Option("--filter", help="DIMENSION=VALUE; repeatable")]
Raw = Annotated[bool, typer.Option("--from-events", help="count raw events instead of reading usage")]


def query(  # noqa: PLR0917 - typer takes options by position
    meter: Meter,
    from_: From = None,
    to: To = None,
    window: Window = None,
    zone: Zone = "UTC",
    group_by: GroupBy = None,
    subject: Subject = None,
    filters: Filter = None,
    from_events: Raw = False,
) -> None:
    """Show a meter's usage."""
    from metering.domain.errors import WeighbridgeError

    try:
        wanted, rows = asyncio.run(
            _ask(
                meter,
                start=_aware(from_),
                end=_aware(to),
                filters=filters or [],
                source="events" if from_events else "usage",
                window=window,
                zone=zone,
                group_by=group_by or [],
                subjects=subject or [],
            )
        )
    except WeighbridgeError as error:
        typer.echo(f"weighbridge: {error}", err=True)
        raise typer.Exit(1) from error
    _print(Console(), wanted, rows)


async def _ask(
    meter: str,
    *,
    start: datetime | None,
    end: datetime | None,
    filters: list[str],
    source: Source,
    window: str | None,
    zone: str,
    group_by: list[str],
    subjects: list[str],
) -> tuple[UsageQuery, list[UsageRow]]:
    from cli.engines import engines
    from metering.domain.filters import Compare
    from metering.domain.usage import UsageQuery
    from metering.domain.window import WindowSize, parse_zone
    from metering.postgres.meters import get_meter

    async with engines("query") as store:
        async with store.postgres.connect() as connection:
            definition = await get_meter(connection, store.settings.default_namespace, meter)
        pairs = [each.partition("=") for each in filters]
        wanted = UsageQuery(
            definition.meter(),
            start,
            end,
            WindowSize(window.upper()) if window else None,
            parse_zone(zone),
            frozenset(subjects) or None,
            filters={name: Compare("$eq", value) for name, _, value in pairs},
            group_by=tuple(group_by),
        )
        return wanted, await store.query(wanted, source=source)


def _aware(at: datetime | None) -> datetime | None:
    return at if at is None or at.tzinfo is not None else at.replace(tzinfo=UTC)


def _print(console: Console, query: UsageQuery, rows: list[UsageRow]) -> None:
    groups = query.group_by
    table = Table("from", "to", *groups, title=query.meter.slug, title_justify="left")
    table.add_column("value", justify="right")
    for row in rows:
        names = [row.subject or "" if name == "subject" else row.group_by[name] for name in groups]
        bounds = [at.astimezone(query.zone).isoformat(sep=" ") for at in (row.window_start, row.window_end)]
        table.add_row(*bounds, *names, f"{row.value:f}")
    console.print(table)
