"""The `weighbridge` command."""

from __future__ import annotations

import typer

from cli import settings, stack
from cli.audit import audit
from cli.demo import command as demo
from cli.invoice import invoice_app, verify_app
from cli.query import query

# They start the engines, or need none.
_WITHOUT_ENGINES = ("up", "down", "status", "demo", "settings")

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(demo.app)
app.add_typer(stack.app)
app.add_typer(settings.app)
app.add_typer(invoice_app, name="invoice")
app.add_typer(verify_app, name="verify")
app.command("audit")(audit)
app.command("query")(query)


@app.callback()
def weighbridge(context: typer.Context) -> None:
    """Meter usage, enforce entitlements, bill for them: every event counted once, every invoice line proven."""
    if context.invoked_subcommand not in _WITHOUT_ENGINES:
        with stack.one_line_errors():
            stack.follow_local_stack()


if __name__ == "__main__":
    app()
