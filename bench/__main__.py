"""`python -m bench [--quick] [ROW ...]`: measure, print one table, and rewrite it in docs/benchmarks.md."""

import argparse
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from rich.console import Console

from bench.report import rewrite, show
from bench.row import Bench, NotAvailableError, Result
from bench.rows import ROWS
from deploy.local.engines import Engines, Ports

_PAGE = Path("docs/benchmarks.md")
_WIDTH_OF_FILE = 220  # where the table goes into a file or a pipe


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all without any")
    parser.add_argument("--quick", action="store_true", help="short runs with small data; the page stays as it is")
    arguments = parser.parse_args()
    if unknown := set(arguments.rows) - ROWS.keys():
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    outcomes = _run(arguments.rows or list(ROWS), quick=arguments.quick)
    console = Console()
    show(ROWS, outcomes, console if console.is_terminal else Console(width=_WIDTH_OF_FILE))
    if not arguments.quick:
        rewrite(_PAGE, ROWS, outcomes, datetime.now(UTC))
    return 0


def _run(names: list[str], *, quick: bool) -> dict[str, Result | str]:
    console = Console(stderr=True)
    outcomes: dict[str, Result | str] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weighbridge-bench-")))

        @cache
        def engines() -> Engines:
            return stack.enter_context(Engines.start(folder / "home", Ports.free(), report=console.print))

        bench = Bench(quick=quick, engines=engines, scratch=folder, say=console.print)
        for name in names:
            console.print(f"[bold]{name}[/bold] ...")
            try:
                outcomes[name] = ROWS[name].measure(bench)
            except NotAvailableError as reason:
                outcomes[name] = str(reason)
            except Exception as error:  # noqa: BLE001 - the other rows are measured all the same
                outcomes[name] = f"failed: {error!r}"
    return outcomes


if __name__ == "__main__":
    raise SystemExit(main())
