"""The stack under the demo: a running one is used, else one is started and ended with the demo."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live

from cli.stack import follow_local_stack, progress_table
from deploy.local.control import start, stop, supervisor
from deploy.local.settings import load_settings


@contextmanager
def running_stack(console: Console) -> Iterator[tuple[str, Path]]:
    """Gives the API's address and the stack's home; the environment names the engines from then on."""
    settings = load_settings()
    home = settings.home.expanduser().absolute()
    is_ours = supervisor(home) is None
    if is_ours:
        with Live(console=console, refresh_per_second=10, transient=True) as live:
            start(settings, while_pid=os.getpid(), on_state=lambda state: live.update(progress_table(state)))
    try:
        follow_local_stack()
        yield settings.api_url, home
    finally:
        if is_ours:
            with console.status("stopping the stack"):
                stop(home)
