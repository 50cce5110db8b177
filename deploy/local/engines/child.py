"""A child process that ends with its parent, writes to a log file and can be killed and started again."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import psutil

from deploy.local.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.02

# Linux sends the signal when the *thread* that made the child ends, not the process. So one thread, which lives as
# long as the process, makes all children.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")


@cache
def _prctl() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    return ctypes.CDLL(None, use_errno=True).prctl


def _die_with_parent(death_signal: int) -> Callable[[], None]:
    prctl, parent = _prctl(), os.getpid()

    def before_exec() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, death_signal)
            if os.getppid() != parent:  # it died in between
                os._exit(1)

    return before_exec


@dataclass(frozen=True, slots=True)
class Command:
    """How to start a child. `user` is a numeric (uid, gid) to run as, when we are root and it must not be.

    `death_signal` is what Linux sends it when we die. Its own session keeps a Ctrl-C on our terminal away from it:
    who stops it, and in which order, is our decision.
    """

    name: str
    argv: Sequence[str]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    user: tuple[int, int] | None = None
    stop_signal: int = signal.SIGTERM
    death_signal: int = signal.SIGKILL


class Child:
    """A running process made from a `Command`."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self._process = _spawner.submit(_spawn, command).result()

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """None while it runs; negative is the signal that ended it."""
        return self._process.poll()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        self._process.wait()

    def stop(self, *, timeout_seconds: float = 15) -> bool:
        """Ask it to end, and kill it when it doesn't. Whether it ended by itself."""
        if self._process.poll() is None:
            self._process.send_signal(self.command.stop_signal)
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        return True

    def wait_until(self, ready: Callable[[], bool], *, deadline: float) -> None:
        """Return when `ready()`; `deadline` is on `time.monotonic`. Raise `EngineError` when it ended or is late."""
        while True:
            code = self.exit_code()
            if code is not None:
                why = log_tail(self.command.log)
                raise EngineError(f"{self.command.name} ended with code {code}: {why} (see {self.command.log})")
            if ready():
                return
            if time.monotonic() > deadline:
                raise EngineError(f"{self.command.name} is not ready in time (see {self.command.log})")
            time.sleep(_POLL_SECONDS)


def _spawn(command: Command) -> subprocess.Popen[bytes]:
    uid, gid = command.user or (None, None)
    with command.log.open("ab") as log:
        try:
            return subprocess.Popen(  # noqa: S603 - our own engines
                list(command.argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **command.env},
                start_new_session=True,
                user=uid,
                group=gid,
                extra_groups=[] if command.user else None,
                # PLW1509 warns of threads: the function only makes two system calls.
                preexec_fn=_die_with_parent(command.death_signal),  # noqa: PLW1509
            )
        except OSError as error:
            raise EngineError(f"can't start {command.name}: {error.strerror}: {command.argv[0]}") from error


def wait_ended(processes: Iterable[psutil.Process], *, timeout_seconds: float) -> bool:
    """Whether all ended in time. One that nobody has waited for yet (a zombie) has ended."""
    deadline = time.monotonic() + timeout_seconds
    alive = list(processes)
    while alive := [each for each in alive if _alive(each)]:
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def log_tail(log: Path, *, bytes_max: int = 4096) -> str:
    """The last line in `log` that says something, or that nothing is there."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - bytes_max))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    except OSError:
        return "no log"
    telling = [line for line in lines if line and not line.startswith(("at ", "..."))]
    return telling[-1][:300] if telling else "no log"
