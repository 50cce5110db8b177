"""A whole local stack of its own under its supervisor, whose members may be killed and stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.request import urlopen

import clickhouse_connect
import httpx
import msgspec
import psutil
from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka import Consumer, KafkaException, TopicPartition

from deploy.local import control, pidfile
from deploy.local.engines.ports import free_ports
from deploy.local.settings import StackSettings
from deploy.local.state import ENGINES, PROCESSES, Phase, read_state
from tests.chaos.oracle import DECODER

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.chaos.late_event import LateEvent
    from tests.chaos.world import World

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 120
PARTITIONS = 4

# Short sessions and small ranges: a few seconds have many flushes, and a process that is away is soon missed.
ENVIRONMENT = {
    "WEIGHBRIDGE_SINK_FLUSH_EVENTS": "200",
    "WEIGHBRIDGE_SINK_FLUSH_MS": "100",
    "WEIGHBRIDGE_SINK_SESSION_SECONDS": "2",
    "WEIGHBRIDGE_SINK_TICK_SECONDS": "1",
    "WEIGHBRIDGE_SINK_RETAKE_SECONDS": "1",
    "WEIGHBRIDGE_EVENT_PARTITIONS": str(PARTITIONS),
    "WEIGHBRIDGE_BILLING_GRACE_SECONDS": "0",
    "WEIGHBRIDGE_INGEST_ACK_TIMEOUT_SECONDS": "2",
    "WEIGHBRIDGE_INGEST_DELIVERY_TIMEOUT_SECONDS": "4",
}


def wait_until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_SECONDS) -> Any:
    """The first true value of `condition`; fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.05)
    return value


@dataclass(frozen=True, slots=True)
class Range:
    """A row of `flushes`."""

    partition: int
    a: int
    end: int
    counted: int
    duplicate: int
    rejected: int
    ticks: int


def partitions_owned(metrics_url: str) -> int:
    """How many partitions a sink says that it works on; 0 while it can't be asked."""
    try:
        with urlopen(metrics_url, timeout=2) as answer:
            lines = answer.read().decode().splitlines()
    except (URLError, OSError):
        return 0
    return int(sum(float(line.split()[1]) for line in lines if line.startswith("weighbridge_sink_partitions_owned ")))


@dataclass(slots=True)
class ExtraSink:
    """A sink beside the supervised one, with a home of its own."""

    process: subprocess.Popen[bytes]
    metrics_url: str
    log: Path

    def owned(self) -> int:
        """How many partitions it works on; 0 while it can't be asked."""
        return partitions_owned(self.metrics_url)

    def ended(self) -> bool:
        return self.process.poll() is not None

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def close(self) -> None:
        if not self.ended():
            self.process.kill()
        self.process.wait()


@dataclass(slots=True)
class Stack:
    """Started by `start`. `close` ends all of it."""

    settings: StackSettings
    extra: list[ExtraSink] = field(default_factory=list)
    worlds: list[World] = field(default_factory=list)  # all that ever sent something
    story: LateEvent | None = None
    has_small_disk: bool = False
    counted_before: int = 0
    _paused: set[int] = field(default_factory=set)

    @classmethod
    def start(cls, home: Path) -> Stack:
        settings = _settings(home)
        control.start(settings, while_pid=os.getpid())
        return cls(settings)

    @classmethod
    def attach(cls, home: Path) -> Stack:
        """To the one that runs in `home`, started if there is none. It goes on after the tests."""
        kept = home / "settings.json"
        if control.supervisor(home) is None:
            home.mkdir(parents=True, exist_ok=True)
            settings = _settings(home)
            control.start(settings)
            kept.write_text(settings.model_dump_json())
        stack = cls(StackSettings.model_validate_json(kept.read_text()))
        stack.counted_before = sum(each.counted for each in stack.flushes())
        return stack

    def let_go(self) -> None:
        """End what was started beside the stack, and let go on what was stopped."""
        for pid in list(self._paused):
            self._signal(pid, signal.SIGCONT)
        for sink in self.extra:
            sink.close()

    def close(self) -> None:
        self.let_go()
        control.stop(self.home)

    @property
    def home(self) -> Path:
        return self.settings.home

    @property
    def url(self) -> str:
        return self.settings.api_url

    def pid(self, name: str) -> int:
        process = wait_until(lambda: pidfile.running(self.home / "run" / f"{name}.pid"), f"a running {name}")
        return int(process.pid)

    def owned(self) -> int:
        """How many partitions the supervised sink works on."""
        return partitions_owned(f"http://127.0.0.1:{self.settings.sink_metrics_port}/metrics")

    def rss_bytes(self, name: str) -> int:
        return int(psutil.Process(self.pid(name)).memory_info().rss)

    # --- faults ---------------------------------------------------------------------------------------------------

    def kill(self, name: str) -> int:
        """SIGKILL; the pid that it had."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_back(self, name: str, killed: int | None = None) -> None:
        """Until another process than `killed` does its work and says that it is ready."""

        def back() -> bool:
            state = read_state(self.home)
            member = state.components[name] if state else None
            return member is not None and member.phase is Phase.READY and member.pid not in (None, killed)

        wait_until(back, f"{name} to be back")

    def kill_and_wait(self, name: str) -> None:
        self.wait_back(name, self.kill(name))

    def kill_and_meanwhile(self, name: str, act: Callable[[], None]) -> None:
        """Kill it and `act` before it is started again."""
        supervisor = control.supervisor(self.home)
        assert supervisor is not None
        supervisor.suspend()
        self._paused.add(supervisor.pid)
        killed = self.kill(name)
        wait_until(lambda: _is_dead(killed), f"the end of {name}")
        act()
        self._signal(supervisor.pid, signal.SIGCONT)
        self.wait_back(name, killed)

    def pause(self, name: str) -> Callable[[], None]:
        """SIGSTOP; what is returned lets it go on."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGSTOP)
        self._paused.add(pid)
        return lambda: self._signal(pid, signal.SIGCONT)

    def _signal(self, pid: int, number: signal.Signals) -> None:
        self._paused.discard(pid)
        if psutil.pid_exists(pid):
            os.kill(pid, number)

    def start_sink(self, name: str, **environment: str) -> ExtraSink:
        """Another sink, set as the supervised one, with more settings by their variables without the prefix."""
        home = self.home / name
        home.mkdir(exist_ok=True)
        (port,) = free_ports(1)
        own = {"HOME": str(home), "SINK_NAME": name, "SINK_METRICS_PORT": str(port), **environment}
        variables = {f"WEIGHBRIDGE_{key}": value for key, value in own.items()}
        log = self.home / "log" / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, str(ROOT / "cmd" / "run_sink.py")],
                env=psutil.Process(self.pid("sink")).environ() | variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        sink = ExtraSink(process, f"http://127.0.0.1:{port}/metrics", log)
        self.extra.append(sink)
        return sink

    # --- what is compared -----------------------------------------------------------------------------------------

    def request(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """The decoded answer, numbers as Decimals. Asks again while the server is away or says 503."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        if body is not None:
            options |= {"content": msgspec.json.encode(body), "headers": {"content-type": "application/json"}}
        while True:
            try:
                answer = httpx.request(method, self.url + path, timeout=30, **options)
            except httpx.TransportError as error:
                failed = repr(error)
            else:
                if answer.is_success:
                    return DECODER.decode(answer.content) if answer.content else None
                failed = f"{method} {path}: {answer.status_code} {answer.text}"
                assert answer.status_code == 503, f"{failed}\n{self.tails('api')}"
            assert time.monotonic() < deadline, failed
            time.sleep(0.1)

    def flushes(self) -> list[Range]:
        """All ranges in order. Raises ClickHouseError when it is away."""
        client = clickhouse_connect.get_client(
            host="127.0.0.1", port=self.settings.clickhouse_port, database="weighbridge", autogenerate_session_id=False
        )
        try:
            rows = client.query(
                "SELECT partition, a, end, counted, duplicate, rejected, ticks FROM flushes FINAL ORDER BY partition, a"
            ).result_rows
            return [Range(*map(int, row)) for row in rows]
        finally:
            client.close()

    def topic_ends(self) -> dict[int, int]:
        consumer = Consumer(
            {"bootstrap.servers": f"127.0.0.1:{self.settings.kafka_port}", "group.id": "test-ends", "log_level": 0}
        )
        try:
            topic = "weighbridge.events"
            return {
                p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1] for p in range(PARTITIONS)
            }
        finally:
            consumer.close()

    def wait_flushed(self) -> None:
        """Until all that is on the topic now has its ranges."""

        def ends() -> dict[int, int] | None:
            try:
                return self.topic_ends()
            except KafkaException:
                return None

        wanted = wait_until(ends, "the ends of the topic")

        def flushed() -> bool:
            try:
                reached = {each.partition: each.end for each in self.flushes()}
            except (ClickHouseError, OSError):
                return False
            return all(reached.get(partition, 0) >= end for partition, end in wanted.items())

        wait_until(flushed, f"flushes up to {wanted}; {self.tails('sink')}")

    def tails(self, *names: str, lines: int = 15) -> str:
        """The ends of logs, for messages of failed tests."""
        texts = []
        for name in names or (*ENGINES, *PROCESSES):
            log = self.home / "log" / f"{name}.log"
            if log.exists():
                texts += [f"--- {name}", *log.read_text(errors="replace").splitlines()[-lines:]]
        return "\n".join(line[:600] for line in texts)


def _is_dead(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _settings(home: Path) -> StackSettings:
    """With free ports."""
    ports = free_ports(8)
    names = ("api", "postgres", "clickhouse", "kafka", "kafka_controller")
    given = {f"{name}_port": port for name, port in zip(names, ports[:5], strict=True)}
    given |= {f"{name}_metrics_port": port for name, port in zip(PROCESSES[1:], ports[5:], strict=True)}
    return StackSettings(home=home, **given)
