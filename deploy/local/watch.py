"""Keep one component running: start it, see it ready, start it again when it ends."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploy.local import pidfile
from deploy.local.engines.child import log_tail
from deploy.local.errors import LocalStackError
from deploy.local.logs import rotate
from deploy.local.state import ComponentState, Phase

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from pathlib import Path

    from deploy.local.engines.handle import Handle

_STARTING_POLL_SECONDS = 0.05
_READY_POLL_SECONDS = 0.1
_ROTATE_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before the next start: hardly after a crash, ever longer after starts that came to nothing."""

    first_seconds: float = 0.1
    most_seconds: float = 5.0

    def next_delay(self, previous_seconds: float, *, was_ready: bool) -> float:
        """`previous_seconds` is the delay before the start that ended now, 0 for the first one."""
        if was_ready or previous_seconds == 0:
            return self.first_seconds
        return min(self.most_seconds, previous_seconds * 2)


class Watch:
    """One component under supervision. `run` is a thread's work and ends when `stopping` is set."""

    def __init__(
        self,
        handle: Handle,
        home: Path,
        stopping: threading.Event,
        changed: Callable[[str, ComponentState], None],
        *,
        backoff: Backoff | None = None,
    ) -> None:
        self.handle = handle
        self.failures_before_ready = 0
        """Starts in a row that ended before it was ready; 0 once it was."""
        self.state = ComponentState()
        self._pid_file = home / "run" / f"{handle.name}.pid"
        self._stopping, self._changed = stopping, changed
        self._backoff = backoff or Backoff()
        self._rotated_at = 0.0

    def run(self) -> None:
        delay, restarts = 0.0, 0
        while not self._stopping.is_set():
            was_ready, why = self._one_life(restarts)
            if self._stopping.is_set():
                return
            self.failures_before_ready = 0 if was_ready else self.failures_before_ready + 1
            delay = self._backoff.next_delay(delay, was_ready=was_ready)
            restarts += 1
            self.say(ComponentState(Phase.FAILED, None, restarts, why))
            self._stopping.wait(delay)

    def say(self, state: ComponentState) -> None:
        self.state = state
        self._changed(self.handle.name, state)

    def note(self, line: str) -> None:
        """Say what it is doing."""
        self.say(ComponentState(self.state.phase, self.state.pid, self.state.restarts, line))

    def stop(self, *, timeout_seconds: float) -> None:
        """End the component for good; `stopping` must be set."""
        self.handle.stop(timeout_seconds=timeout_seconds)
        self._pid_file.unlink(missing_ok=True)
        self.say(ComponentState(Phase.STOPPED, None, self.state.restarts))

    def _one_life(self, restarts: int) -> tuple[bool, str]:
        """From start to end. Whether it was ready, and what can be said of its end."""
        self.say(ComponentState(Phase.STARTING, None, restarts))
        self._rotate()
        try:
            self.handle.start()
        except (LocalStackError, OSError) as error:
            return False, str(error)
        written = self._write_pid()
        self.say(ComponentState(Phase.STARTING, self.handle.pid, restarts))
        ready = False
        while (code := self.handle.exit_code()) is None:
            if self._stopping.is_set():
                return ready, ""
            if not ready and self.handle.ready():
                ready = True
                self.say(ComponentState(Phase.READY, self.handle.pid, restarts))
            written = written or self._write_pid()
            self._rotate()
            self._stopping.wait(_READY_POLL_SECONDS if ready else _STARTING_POLL_SECONDS)
        ended = f"killed by signal {-code}" if code < 0 else f"ended with code {code}: {log_tail(self.handle.log)}"
        return ready, ended

    def _write_pid(self) -> bool:
        """Whether it could: on a full disk it is tried again."""
        try:
            pidfile.write(self._pid_file, self.handle.pid)
        except OSError:
            return False
        return True

    def _rotate(self) -> None:
        now = time.monotonic()
        if now - self._rotated_at >= _ROTATE_SECONDS:
            self._rotated_at = now
            try:
                rotate(self.handle.log)
            except OSError:
                return  # a full disk: the next attempt may have more luck
