"""The local stack under its supervisor: real engines, and stand-ins for the four processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import clickhouse_connect
import psutil
import psycopg
import pytest

from deploy.local import control, pidfile
from deploy.local.engines.ports import free_ports
from deploy.local.errors import AlreadyRunning, EngineError, PortInUse
from deploy.local.settings import StackSettings
from deploy.local.state import ENGINES, PROCESSES, Phase, read_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.engines, pytest.mark.timeout(240)]

DEADLINE_SECONDS = 60

# As small as one of the product's processes can be: it says that it is ready, and leaves its environment behind.
STAND_IN = """
import json, os, pathlib, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
name = pathlib.Path(__file__).stem.removeprefix("run_")
home = pathlib.Path(os.environ["WEIGHBRIDGE_HOME"])
(home / f"{name}.env").write_text(json.dumps(dict(os.environ)))
port = os.environ["WEIGHBRIDGE_API_PORT" if name == "api" else f"WEIGHBRIDGE_{name.upper()}_METRICS_PORT"]
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("serving", flush=True)
HTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
"""


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_SECONDS} s"
        time.sleep(0.02)


def settings_for(home: Path) -> StackSettings:
    ports = free_ports(8)
    names = ("api", "postgres", "clickhouse", "kafka", "kafka_controller")
    given = {f"{name}_port": port for name, port in zip(names, ports[:5], strict=True)}
    metrics = {f"{name}_metrics_port": port for name, port in zip(PROCESSES[1:], ports[5:], strict=True)}
    return StackSettings(home=home, start_timeout_seconds=30, **given, **metrics)


def scripts_in(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in PROCESSES:
        (folder / f"run_{name}.py").write_text(STAND_IN)
    (folder / "migrate.py").write_text("print('all is there')\n")
    return folder


@pytest.fixture
def home(tmp_path_factory, monkeypatch) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("stack")
    monkeypatch.setenv("WEIGHBRIDGE_SCRIPTS", str(scripts_in(folder / "scripts")))
    yield folder
    control.stop(folder)


def pids(home: Path) -> dict[str, int]:
    return {name: int((home / "run" / f"{name}.pid").read_text()) for name in (*ENGINES, *PROCESSES)}


def phase_of(home: Path, name: str) -> Phase | None:
    state = read_state(home)
    return state.components[name].phase if state else None


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_back(home: Path, name: str, killed: int) -> bool:
    running = pidfile.running(home / "run" / f"{name}.pid")
    return running is not None and running.pid != killed and phase_of(home, name) is Phase.READY


def test_a_stack_lives_through_kills_and_starts_again_with_its_data(home):
    settings = settings_for(home)
    seen = []
    state = control.start(settings, on_state=seen.append)
    assert state.ready
    assert {each.phase for each in state.components.values()} == {Phase.READY}
    assert any(each.components["kafka"].phase is Phase.STARTING for each in seen)
    assert all((home / "log" / f"{name}.log").exists() for name in (*ENGINES, *PROCESSES))
    for member in control.status(home):
        assert member.memory_bytes > 0

    with pytest.raises(AlreadyRunning, match="a stack runs already"):
        control.start(settings)

    with psycopg.connect(state.urls["postgres"]) as connection:
        connection.execute("CREATE TABLE kept (n int)")
        connection.execute("INSERT INTO kept VALUES (7)")
    first = pids(home)
    for name, pid in first.items():
        os.kill(pid, signal.SIGKILL)
        until(lambda name=name, pid=pid: is_back(home, name, pid), f"{name} is back")
    assert {name for name, pid in pids(home).items() if pid == first[name]} == set()

    # Its parent is gone: they must go too, or the next start would find their ports and folders taken.
    children = pids(home)
    os.kill(read_state(home).supervisor_pid, signal.SIGKILL)
    if sys.platform.startswith("linux"):
        until(lambda: not any(map(alive, children.values())), "the children end with their parent")
    assert control.status(home) == []

    state = control.start(settings)
    with psycopg.connect(state.urls["postgres"]) as connection:
        assert connection.execute("SELECT n FROM kept").fetchall() == [(7,)]

    children = pids(home)
    assert control.stop(home)
    assert not any(map(alive, children.values()))
    assert not list((home / "run").glob("*.pid"))
    assert not control.stop(home)


def test_processes_are_told_of_the_engines(home):
    settings = settings_for(home)
    state = control.start(settings)
    told = json.loads((home / "sink.env").read_text())
    assert told["WEIGHBRIDGE_KAFKA_BOOTSTRAP"] == state.urls["kafka"] == f"127.0.0.1:{settings.kafka_port}"
    assert told["WEIGHBRIDGE_POSTGRES_URL"] == state.urls["postgres"]
    assert told["WEIGHBRIDGE_CLICKHOUSE_URL"] == state.urls["clickhouse"]
    assert told["WEIGHBRIDGE_HOME"] == str(home)
    assert told["WEIGHBRIDGE_SINK_METRICS_PORT"] == str(settings.sink_metrics_port)


def test_two_stacks_run_side_by_side(tmp_path_factory):
    homes = [tmp_path_factory.mktemp("left"), tmp_path_factory.mktemp("right")]
    try:
        for home in homes:
            state = control.start(settings_for(home), only_engines=True)
            with clickhouse_connect.get_client(dsn=state.urls["clickhouse"]) as client:
                client.command("CREATE TABLE one (n UInt8) ENGINE = MergeTree ORDER BY n")
        assert all(control.supervisor(home) for home in homes)
    finally:
        assert [control.stop(home) for home in homes] == [True, True]


def test_a_failed_migration_is_one_line_and_leaves_nothing(home):
    (home / "scripts" / "migrate.py").write_text("import sys; sys.exit('migrate: ClickHouse tables: no such engine')")
    with pytest.raises(EngineError, match="migrate: ClickHouse tables: no such engine") as caught:
        control.start(settings_for(home))
    assert "\n" not in str(caught.value)
    assert control.supervisor(home) is None
    assert not list((home / "run").glob("*.pid"))


def test_a_process_that_can_not_start_ends_the_start(home):
    (home / "scripts" / "run_sink.py").write_text("raise SystemExit('settings: WEIGHBRIDGE_METERS is no file')")
    with pytest.raises(EngineError, match=r"sink does not start: .*WEIGHBRIDGE_METERS is no file"):
        control.start(settings_for(home))
    assert not list((home / "run").glob("*.pid"))


def test_a_taken_port_is_named_with_its_setting(home):
    settings = settings_for(home)
    with (
        socket.create_server(("127.0.0.1", settings.clickhouse_port)),
        pytest.raises(
            PortInUse, match=f"port {settings.clickhouse_port} for ClickHouse .* WEIGHBRIDGE_CLICKHOUSE_PORT"
        ),
    ):
        control.start(settings, only_engines=True)


def test_the_supervisor_ends_with_the_process_it_was_started_for(home):
    waiting = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        control.start(settings_for(home), only_engines=True, while_pid=waiting.pid)
    finally:
        waiting.communicate(b"\n")
    until(lambda: control.supervisor(home) is None, "the supervisor ends")


def test_the_command_says_what_runs(home):
    settings = settings_for(home)
    env = os.environ | {
        f"WEIGHBRIDGE_{name.upper()}": str(value) for name, value in settings.model_dump().items() if value is not None
    }

    def weighbridge(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments], env=env, capture_output=True, text=True, check=False
        )

    assert weighbridge("status").returncode == 1
    started = weighbridge("up", "--only", "engines")
    assert started.returncode == 0, started.stderr
    again = weighbridge("up", "--only", "engines")
    assert again.returncode == AlreadyRunning.exit_code
    assert again.stderr.count("\n") == 1
    shown = weighbridge("status")
    assert shown.returncode == 0
    assert all(name in shown.stdout for name in ENGINES)
    assert weighbridge("down").stdout == "stopped\n"
    assert weighbridge("down").stdout.startswith("no stack runs")


def test_a_pid_of_another_process_is_never_killed(home):
    """After a reboot, pids in old files belong to others."""
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        (home / "run").mkdir(exist_ok=True)
        file = home / "run" / "kafka.pid"
        file.write_text(str(other.pid))
        os.utime(file, (time.time() - 3600,) * 2)
        control.stop(home)
        assert other.poll() is None
    finally:
        other.communicate(b"\n")
