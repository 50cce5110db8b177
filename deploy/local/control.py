"""Start and end the local stack from another process: what `up`, `down`, `status` and `demo` are made of."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from deploy.local import pidfile
from deploy.local.engines.child import log_tail, wait_ended
from deploy.local.engines.home import one_line_for_disk_errors, prepare
from deploy.local.errors import AlreadyRunning, EngineError, HomeUnusable, LocalStackError, PortInUse
from deploy.local.logs import rotate
from deploy.local.state import ENGINES, PROCESSES, ComponentState, Phase, StackState, read_state, state_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deploy.local.settings import StackSettings

_POLL_SECONDS = 0.05
_STOP_SECONDS = 45
_ERRORS = {each.exit_code: each for each in (EngineError, PortInUse, HomeUnusable, AlreadyRunning)}


@dataclass(frozen=True, slots=True)
class Member:
    """One line of a status: what the supervisor says of a component, and its memory now, 0 when it doesn't run."""

    name: str
    state: ComponentState
    memory_bytes: int


def supervisor(home: Path) -> psutil.Process | None:
    """The running supervisor of `home`."""
    return pidfile.running(home / "run" / "supervisor.pid")


def start(
    settings: StackSettings,
    *,
    only_engines: bool = False,
    while_pid: int | None = None,
    on_state: Callable[[StackState], None] = lambda _: None,
) -> StackState:
    """Start a supervisor in the background and return when all is ready; `on_state` is told of each change.

    With `while_pid` it ends when that process does. If we are interrupted meanwhile, it is stopped again.
    Raises `LocalStackError`: one line, with the exit code that goes with it.
    """
    home = prepare(settings.home)
    if supervisor(home) is not None:
        raise AlreadyRunning(f"a stack runs already in {home}; `weighbridge down` ends it")
    argv = [sys.executable, "-m", "deploy.local.supervisor"]
    argv += ["--only", "engines"] if only_engines else []
    argv += ["--while-pid", str(while_pid)] if while_pid else []
    log = home / "log" / "supervisor.log"
    with one_line_for_disk_errors(home):
        rotate(log)
        state_path(home).unlink(missing_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - ourselves
                argv,
                env=_environment(settings, home),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
    try:
        state = _wait_ready(home, process, log, on_state)
    except KeyboardInterrupt:
        process.terminate()
        process.wait(_STOP_SECONDS)
        raise
    process.returncode = 0  # it goes on without us: no warning that nobody waited for it
    return state


def stop(home: Path, *, timeout_seconds: float = _STOP_SECONDS) -> bool:
    """End the stack of `home`, by force when it doesn't in time. Whether there was one."""
    process = supervisor(home)
    if process is not None:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
        if not wait_ended([process], timeout_seconds=timeout_seconds):
            with suppress(psutil.NoSuchProcess):
                process.kill()
    # What is left of it, or of one that was killed, where the system doesn't end children with their parent.
    left = [pidfile.end_left_over(home / "run" / f"{name}.pid") for name in (*PROCESSES, *ENGINES)]
    return process is not None or any(left)


def status(home: Path) -> list[Member]:
    """A line for each component of a running stack; none when none runs."""
    state = read_state(home)
    running = supervisor(home)
    if state is None or running is None or running.pid != state.supervisor_pid:
        return []
    return [_member(name, each) for name, each in state.components.items()]


def _member(name: str, said: ComponentState) -> Member:
    memory = _memory_bytes(said.pid)
    if said.phase is Phase.READY and memory == 0:  # ended a moment ago, or the disk is full and nothing can be said
        said = ComponentState(Phase.FAILED, None, said.restarts, "ended")
    return Member(name, said, memory)


def _environment(settings: StackSettings, home: Path) -> dict[str, str]:
    given = {
        f"WEIGHBRIDGE_{name.upper()}": str(value)
        for name, value in settings.model_dump().items()
        if value is not None and name != "home"
    }
    return os.environ | given | {"WEIGHBRIDGE_HOME": str(home)}


def _wait_ready(
    home: Path, process: subprocess.Popen[bytes], log: Path, on_state: Callable[[StackState], None]
) -> StackState:
    last: StackState | None = None
    while True:
        code = process.poll()
        state = read_state(home)
        if state is not None and state.supervisor_pid == process.pid and state != last:
            last = state
            on_state(state)
            if state.ready:
                return state
        if code is not None:
            line = last.error if last is not None and last.error else log_tail(log).removeprefix("weighbridge: ")
            raise _ERRORS.get(code, LocalStackError)(line)
        time.sleep(_POLL_SECONDS)


def _memory_bytes(pid: int | None) -> int:
    """Of a process and its children; what they share counts once (PSS) where the system can tell."""
    if pid is None:
        return 0
    total = 0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                memory = each.memory_full_info()
                total += getattr(memory, "pss", 0) or memory.rss
    return total
