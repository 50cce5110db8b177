"""The parent of a local stack: `python -m deploy.local.supervisor`, configured by environment.

It starts the engines, makes tables and topics, starts the processes, and starts again whatever ends. It writes
`run/stack.json`, and ends all on SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TYPE_CHECKING

import psutil

from deploy.local import pidfile
from deploy.local.engines import Engines, Handle
from deploy.local.engines.home import prepare
from deploy.local.errors import AlreadyRunning, EngineError, LocalStackError
from deploy.local.processes import SCRIPTS, migrate, processes
from deploy.local.settings import load_settings
from deploy.local.state import ENGINES, PROCESSES, ComponentState, Phase, StackState, write_state
from deploy.local.watch import Watch

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.local.settings import StackSettings

_ENGINES_TIMEOUT_SECONDS = 180
_PROCESSES_STOP_SECONDS = 10
_ENGINES_STOP_SECONDS = 20
_FAILURES_MAX = 5
_POLL_SECONDS = 0.05
_WATCH_SECONDS = 0.5
_THREAD_SECONDS = 5


class Supervisor:
    """One stack of one home. `run` returns when it was asked to stop; `stop` may be called from a signal handler."""

    def __init__(self, settings: StackSettings, *, only_engines: bool = False, scripts: Path = SCRIPTS) -> None:
        self._settings, self._only_engines, self._scripts = settings, only_engines, scripts
        self._home = settings.home
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        names = ENGINES if only_engines else (*ENGINES, *PROCESSES)
        self._components = {name: ComponentState() for name in names}
        self._urls: dict[str, str] = {}
        self._ready = False
        self._unwritten = False
        self._threads: list[threading.Thread] = []
        self._watches: list[Watch] = []

    def stop(self) -> None:
        self._stopping.set()

    def run(self, *, while_pid: int | None = None) -> None:
        """Raises `LocalStackError` when the stack can't start, after ending what it had started."""
        home = self._home = prepare(self._settings.home)
        with _owned(home):
            for name in (*PROCESSES, *ENGINES):  # of a supervisor that was killed, where the system didn't end them
                pidfile.end_left_over(home / "run" / f"{name}.pid")
            try:
                self._boot(home)
                while not self._stopping.wait(_WATCH_SECONDS):
                    if self._unwritten:
                        self._write()
                    if while_pid is not None and not psutil.pid_exists(while_pid):
                        break
            except LocalStackError as error:
                self._end()
                self._write(error)
                raise
            self._end()

    def _boot(self, home: Path) -> None:
        engines = Engines(home, self._settings.engine_ports, self._report)
        members = [] if self._only_engines else processes(self._settings, engines, self._scripts)
        engines.check_ports()
        for member in members:
            member.check_ports()
        self._urls = {
            "kafka": engines.kafka_bootstrap,
            "postgres": engines.postgres_url,
            "clickhouse": engines.clickhouse_url,
        }
        self._await([self._watch(handle, home) for handle in engines.all()], _ENGINES_TIMEOUT_SECONDS)
        if members and not self._stopping.is_set():
            self._report("making tables and topics", *PROCESSES)
            migrate(self._settings, engines, self._scripts)
            self._urls["api"] = self._settings.api_url
            watches = [self._watch(Handle(member), home) for member in members]
            self._await(watches, self._settings.start_timeout_seconds)
        self._ready = not self._stopping.is_set()
        self._write()

    def _watch(self, handle: Handle, home: Path) -> Watch:
        def changed(name: str, state: ComponentState) -> None:
            self._components[name] = state
            self._write()

        watch = Watch(handle, home, self._stopping, changed)
        thread = threading.Thread(target=watch.run, name=handle.name, daemon=True)
        self._watches.append(watch)
        self._threads.append(thread)
        thread.start()
        return watch

    def _await(self, watches: list[Watch], timeout_seconds: float) -> None:
        """Until all are ready, or we are to stop. Raises `EngineError` for one that can't start or is late."""
        deadline = time.monotonic() + timeout_seconds
        waiting = list(watches)
        while waiting and not self._stopping.wait(_POLL_SECONDS):
            waiting = [watch for watch in waiting if watch.state.phase is not Phase.READY]
            for watch in waiting:
                if watch.failures_before_ready >= _FAILURES_MAX:
                    raise EngineError(
                        f"{watch.handle.name} does not start: {watch.state.note} (see {watch.handle.log})"
                    )
            if waiting and time.monotonic() > deadline:
                late = ", ".join(watch.handle.name for watch in waiting)
                raise EngineError(f"{late}: not ready after {timeout_seconds:.0f} s (see {waiting[0].handle.log})")

    def _report(self, line: str, *names: str) -> None:
        """Of something that takes long."""
        for name in names or [each for each in ENGINES if each in line.lower()]:
            self._components[name] = ComponentState(note=line)
        self._write()

    def _end(self) -> None:
        """The processes first, so that they can finish with the engines there."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(_THREAD_SECONDS)  # longer only while it downloads; what it starts then ends with us
        members = [watch for watch in self._watches if watch.handle.name in PROCESSES]
        engines = [watch for watch in self._watches if watch.handle.name in ENGINES]
        for group, seconds in ((members, _PROCESSES_STOP_SECONDS), (engines, _ENGINES_STOP_SECONDS)):
            with ThreadPoolExecutor(max_workers=len(PROCESSES)) as pool:
                for watch in group:
                    pool.submit(watch.stop, timeout_seconds=seconds)
        self._ready = False
        self._write()

    def _write(self, error: LocalStackError | None = None) -> None:
        with self._lock:
            state = StackState(
                supervisor_pid=os.getpid(),
                components=dict(self._components),
                urls=self._urls,
                ready=self._ready,
                error=str(error) if error else "",
                exit_code=error.exit_code if error else 0,
            )
            try:
                write_state(self._home, state)
                self._unwritten = False
            except OSError:  # a full disk must not end what runs; its log can't say so either
                self._unwritten = True


class _owned:  # noqa: N801 - used as a function
    """Hold `home` for this process alone: the lock goes with the process, however it ends."""

    def __init__(self, home: Path) -> None:
        self._pid_file = home / "run" / "supervisor.pid"
        self._lock_file = home / "run" / "supervisor.lock"
        self._held: IO[str] | None = None

    def __enter__(self) -> None:
        held = self._lock_file.open("a")
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            held.close()
            home = self._lock_file.parents[1]
            raise AlreadyRunning(f"a stack runs already in {home}; `weighbridge down` ends it") from error
        self._held = held
        pidfile.write(self._pid_file, os.getpid())

    def __exit__(self, *_error: object) -> None:
        self._pid_file.unlink(missing_ok=True)
        if self._held is not None:
            self._held.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.supervisor", description=__doc__)
    parser.add_argument("--only", choices=["engines"], help="start no processes")
    parser.add_argument("--while-pid", type=int, help="end when this process does")
    arguments = parser.parse_args()
    try:
        supervisor = Supervisor(load_settings(), only_engines=arguments.only == "engines")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: supervisor.stop())
        supervisor.run(while_pid=arguments.while_pid)
    except LocalStackError as error:
        print(f"weighbridge: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
