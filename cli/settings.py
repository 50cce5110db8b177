"""`weighbridge settings`: every setting of every process, with its value now or as the page docs/settings.md."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

app = typer.Typer()


@app.command()
def settings(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/settings.md.")] = False,
) -> None:
    """List the settings of all processes: environment variables, what they mean, their defaults."""
    if markdown:
        typer.echo(page(), nl=False)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("variable", "default", "what it is", box=None, pad_edge=False)
    for title, rows in groups():
        table.add_section()
        table.add_row(f"[bold]{title}[/]")
        for row in rows:
            table.add_row(*row)
    Console().print(table)


def groups() -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """(process, rows of variable, default and description). A setting stands at the first process that has it."""
    from api.settings import ApiSettings
    from billing.settings import BillingSettings, InvoicingSettings
    from deploy.local.settings import StackSettings
    from ingest.limits import IngestSettings
    from metering.balances.settings import BalancesSettings
    from metering.settings import EngineSettings
    from sink.settings import SinkSettings

    seen: set[str] = set()
    for title, model in (
        ("All processes", EngineSettings),
        ("API", ApiSettings),
        ("API: ingest", IngestSettings),
        ("Sink", SinkSettings),
        ("Balances", BalancesSettings),
        ("Invoices", InvoicingSettings),
        ("Billing worker", BillingSettings),
        ("Local stack", StackSettings),
    ):
        prefix = model.model_config.get("env_prefix", "")
        rows = []
        for name, field in model.model_fields.items():
            variable = f"{prefix}{name}".upper()
            if variable not in seen:
                seen.add(variable)
                rows.append((variable, shown(field.get_default()), field.description or ""))
        if rows:
            yield title, rows


def shown(default: Any) -> str:
    """A default as a person reads it."""
    if hasattr(default, "get_secret_value"):
        return str(default.get_secret_value())
    return "" if default is None else str(default)


def page() -> str:
    """The page docs/settings.md."""
    lines = [
        "# Settings",
        "Every process reads its settings from the environment once, at its start; `--check-config` of the scripts in",
        "`cmd/` validates them and exits. This page is printed by `weighbridge settings --markdown`.",
    ]
    for title, rows in groups():
        lines += ["", f"## {title}", "| variable | default | what it is |", "|---|---|---|"]
        lines += [
            f"| `{variable}` | {f'`{default}`' if default else ''} | {text} |" for variable, default, text in rows
        ]
    return "\n".join(lines) + "\n"
