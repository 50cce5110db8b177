"""`weighbridge demo`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer()


@app.command()
def demo(
    everything: Annotated[bool, typer.Option("--all", help="All 336,776 flights of the year, not one month.")] = False,
    trace_file: Annotated[
        Path | None,
        typer.Option("--trace", help="Bill the LLM requests of this CSV: TIMESTAMP, ContextTokens, GeneratedTokens."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws what is sent twice, and who sent a trace's requests.")] = 1,
    once: Annotated[bool, typer.Option("--once", help="End after the tables instead of serving until Ctrl-C.")] = False,
) -> None:
    """Start everything, load real events, and show the way from an event to a proven invoice."""
    import asyncio

    from rich.console import Console

    from cli.demo.flights import flights
    from cli.demo.run import Demo
    from cli.demo.stack import running_stack
    from cli.demo.trace import trace
    from cli.stack import one_line_errors
    from metering.domain.errors import WeighbridgeError

    console = Console()
    with one_line_errors():
        try:
            scenario = trace(trace_file, seed=seed) if trace_file else flights(whole_year=everything)
            console.print(f"[bold]{scenario.title}[/]: {scenario.event_count:,} events", highlight=False)
            console.print(f"from {scenario.source}\n", style="dim", highlight=False)
            os.environ.setdefault("WEIGHBRIDGE_BILLING_GRACE_SECONDS", "0")  # nobody is late in a demo
            with running_stack(console) as (url, home):
                is_right = asyncio.run(Demo(url, home, scenario, console, seed=seed).run())
                console.print(f"API            {url}", highlight=False)
                console.print(f"documentation  {url}/docs\n", highlight=False)
                if not is_right:
                    raise typer.Exit(1)
                if not once:
                    serve_until_interrupted(console)
        except WeighbridgeError as error:
            typer.echo(f"weighbridge: {error}", err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


def serve_until_interrupted(console: "Console") -> None:
    """Leave the stack running until Ctrl-C."""
    import signal

    console.print("serving until Ctrl-C", style="dim")
    with_handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        signal.pause()
    except KeyboardInterrupt:
        console.print("stopping; the data stays", style="dim")
    finally:
        signal.signal(signal.SIGTERM, with_handler)
