"""A server with the ingest endpoint and clients that load it, remembering what was acknowledged."""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from socket import create_server

import httpx
from confluent_kafka.admin import AdminClient, NewTopic

PARTITIONS = 4
READY_SECONDS = 30


def create_events_topic(bootstrap: str, prefix: str) -> str:
    topic = f"{prefix}events"
    admin = AdminClient({"bootstrap.servers": bootstrap})
    config = {"message.timestamp.type": "LogAppendTime"}
    for future in admin.create_topics([NewTopic(topic, PARTITIONS, 1, config=config)]).values():
        future.result(30)
    return topic


def free_port() -> int:
    with create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass
class Server:
    """The process. `kill()` is SIGKILL."""

    url: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def memory_bytes(self) -> int:
        import psutil

        return int(psutil.Process(self.process.pid).memory_info().rss)


@contextmanager
def ingest_process(
    bootstrap: str, prefix: str, log: Path, port: int | None = None, **settings: str
) -> Iterator[Server]:
    """A server in a process of its own; `settings` are those of ingest, by their names in lower case."""
    port = port or free_port()
    environment = {
        "WEIGHBRIDGE_KAFKA_BOOTSTRAP": bootstrap,
        "WEIGHBRIDGE_TOPIC_PREFIX": prefix,
        "WEIGHBRIDGE_EVENT_PARTITIONS": str(PARTITIONS),
        **{f"WEIGHBRIDGE_INGEST_{name.upper()}": value for name, value in settings.items()},
    }
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.ingest_server", str(port)],
            stdout=output,
            stderr=output,
            env={**os.environ, **environment},
        )
    try:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            with suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                    break
            time.sleep(0.02)
        yield Server(f"http://127.0.0.1:{port}/api/v1/events", process)
    finally:
        process.kill()
        process.wait()


def event(event_id: str) -> dict[str, object]:
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": "load",
        "type": "t",
        "subject": "s",
        "data": {"n": 1, "text": "x" * 100},
    }


@dataclass
class Clients:
    """Post without end, single events and batches; a request that fails is repeated with another id."""

    url: str
    count: int = 8
    batch: int = 20
    acknowledged: set[str] = field(default_factory=set)
    statuses: dict[int, int] = field(default_factory=dict)
    answers: list[httpx.Response] = field(default_factory=list)
    seconds_max: float = 0.0
    _ids: Iterator[int] = field(default_factory=itertools.count)

    async def run_until(self, over: Callable[[], Awaitable[bool] | bool], seconds_max: float = 60) -> None:
        """Until `over()` says so, which is asked all the time."""
        async with asyncio.timeout(seconds_max):
            workers = [asyncio.create_task(self._work(number)) for number in range(self.count)]
            try:
                while True:
                    answer = over()
                    if answer if isinstance(answer, bool) else await answer:
                        break
                    await asyncio.sleep(0.01)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self, number: int) -> None:
        size = self.batch if number % 2 else 1
        async with httpx.AsyncClient(timeout=60) as client:
            while True:
                ids = [f"e-{next(self._ids)}" for _ in range(size)]
                body = [event(each) for each in ids] if size > 1 else event(ids[0])
                began = time.monotonic()
                try:
                    answer = await client.post(
                        self.url, content=json.dumps(body), headers={"content-type": "application/json"}
                    )
                except httpx.TransportError:
                    self.statuses[0] = self.statuses.get(0, 0) + 1
                    await asyncio.sleep(0.01)
                    continue
                self.seconds_max = max(self.seconds_max, time.monotonic() - began)
                self.statuses[answer.status_code] = self.statuses.get(answer.status_code, 0) + 1
                if answer.status_code == 204:
                    self.acknowledged.update(ids)
                else:
                    self.answers.append(answer)
                    await asyncio.sleep(0.01)
