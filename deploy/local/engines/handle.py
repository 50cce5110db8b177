"""An engine as a thing that can be started, killed and waited for."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import psutil

from deploy.local.engines.child import Child, Command, wait_ended
from deploy.local.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path

_ORPHANS_TIMEOUT_SECONDS = 10


class Engine(Protocol):
    """What `Handle` needs to know of an engine."""

    @property
    def name(self) -> str: ...

    @property
    def log(self) -> Path: ...

    def check_ports(self) -> None:
        """Raise `PortInUse` if it can't listen."""

    def prepare(self) -> Command:
        """Make its data folder if it is new; takes seconds the first time."""

    def ready(self) -> bool:
        """Whether it serves clients."""


class Handle:
    """One engine of a home: `start()` returns at once, `wait_ready(deadline)` when clients are served."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._child: Child | None = None

    @property
    def name(self) -> str:
        return self._engine.name

    @property
    def log(self) -> Path:
        return self._engine.log

    @property
    def pid(self) -> int:
        """Of the running process; raises `EngineError` when it was never started."""
        return self._running().pid

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._running().exit_code()

    def start(self) -> None:
        """Start it, whether new, stopped or killed. Raises `EngineError` or `HomeUnusable`."""
        self._child = Child(self._engine.prepare())

    def wait_ready(self, deadline: float) -> None:
        """Return when it serves clients; `deadline` is on `time.monotonic`."""
        self._running().wait_until(self._engine.ready, deadline=deadline)

    def ready(self) -> bool:
        return self._child is not None and self._child.exit_code() is None and self._engine.ready()

    def kill(self) -> None:
        """SIGKILL, as a crash would: nothing is flushed, nobody is told. It can be started again at once."""
        child = self._running()
        # With its children: Postgres's would see that their parent died only after a moment in which no new one starts.
        try:
            orphans = psutil.Process(child.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            orphans = []
        child.kill()
        for orphan in orphans:
            with suppress(psutil.NoSuchProcess):
                orphan.kill()
        wait_ended(orphans, timeout_seconds=_ORPHANS_TIMEOUT_SECONDS)

    def stop(self, *, timeout_seconds: float = 20) -> None:
        """Ask it to end and wait; kill it when it doesn't. Nothing if it doesn't run."""
        if self._child is not None:
            self._child.stop(timeout_seconds=timeout_seconds)

    def restart(self, *, timeout_seconds: float = 60) -> None:
        """Kill it and wait until it serves again."""
        self.kill()
        self.start()
        self.wait_ready(time.monotonic() + timeout_seconds)

    def _running(self) -> Child:
        if self._child is None:
            raise EngineError(f"{self.name} was not started")
        return self._child
