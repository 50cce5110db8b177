"""`weighbridge up`, `down` and `status`: the local stack."""

from __future__ import annotations

from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType
    from rich.table import Table

    from deploy.local.state import StackState

app = typer.Typer()

_PHASE_STYLES = {"waiting": "dim", "starting": "yellow", "ready": "green", "failed": "red", "stopped": "dim"}

_ENGINE_VARIABLES = {
    "kafka": "WEIGHBRIDGE_KAFKA_BOOTSTRAP",
    "postgres": "WEIGHBRIDGE_POSTGRES_URL",
    "clickhouse": "WEIGHBRIDGE_CLICKHOUSE_URL",
}


class Only(StrEnum):
    """What `up` can start alone."""

    ENGINES = "engines"


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Show a `LocalStackError` as its one line and end with its code."""
    from deploy.local.errors import LocalStackError

    try:
        yield
    except LocalStackError as error:
        typer.echo(f"weighbridge: {error}", err=True)
        raise typer.Exit(error.exit_code) from None


def follow_local_stack() -> None:
    """Let this process reach the engines of the stack that runs in the home, unless the environment names others."""
    import os

    from deploy.local.control import supervisor
    from deploy.local.settings import load_settings
    from deploy.local.state import read_state

    home = load_settings().home.expanduser().absolute()
    state = read_state(home)
    if state is None or supervisor(home) is None:
        return
    for engine, variable in _ENGINE_VARIABLES.items():
        if engine in state.urls:
            os.environ.setdefault(variable, state.urls[engine])


@app.command()
def up(only: Annotated[Only | None, typer.Option(help="Start only these.")] = None) -> None:
    """Start the local stack in the background and wait until all of it is ready."""
    from rich.console import Console
    from rich.live import Live

    from deploy.local.control import start
    from deploy.local.settings import load_settings

    console = Console()
    with one_line_errors():
        settings = load_settings()
        with Live(console=console, refresh_per_second=10) as live:
            state = start(
                settings, only_engines=only is Only.ENGINES, on_state=lambda state: live.update(progress_table(state))
            )
    for name, url in state.urls.items():
        console.print(f"{name:11} {url}", highlight=False)
    console.print("`weighbridge down` stops it", style="dim")


@app.command()
def down() -> None:
    """Stop the local stack; its data stays."""
    from deploy.local.control import stop
    from deploy.local.settings import load_settings

    with one_line_errors():
        home = load_settings().home.expanduser().absolute()
    typer.echo("stopped" if stop(home) else f"no stack runs in {home}")


@app.command()
def status() -> None:
    """Show what runs, its memory and its state; exit code 1 when nothing does or something isn't ready."""
    from rich.console import Console

    from deploy.local.control import status as members_of
    from deploy.local.settings import load_settings

    with one_line_errors():
        home = load_settings().home.expanduser().absolute()
    members = members_of(home)
    if not members:
        typer.echo(f"no stack runs in {home}")
        raise typer.Exit(1)
    table = _table("component", "state", "pid", "memory", "restarts", "")
    for member in members:
        phase = member.state.phase
        memory = f"{member.memory_bytes / 2**20:.0f} MiB" if member.memory_bytes else ""
        pid = str(member.state.pid or "")
        styled = f"[{_PHASE_STYLES[phase]}]{phase}[/]"
        table.add_row(member.name, styled, pid, memory, str(member.state.restarts), _escaped(member.state.note))
    total = sum(member.memory_bytes for member in members)
    table.add_section()
    table.add_row("all", "", "", f"{total / 2**20:.0f} MiB", "", "")
    Console().print(table)
    if any(member.state.phase != "ready" for member in members):
        raise typer.Exit(1)


def progress_table(state: StackState) -> RenderableType:
    """A line for each component: where it is, and what it is doing when that takes long."""
    table = _table("", "", "")
    table.show_header = False
    for name, each in state.components.items():
        table.add_row(name, f"[{_PHASE_STYLES[each.phase]}]{each.phase}[/]", _escaped(each.note))
    return table


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
