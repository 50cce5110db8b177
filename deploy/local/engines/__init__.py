"""Kafka, Postgres and ClickHouse as child processes, from packages, without Docker.

    with Engines.start(Path(".weighbridge"), Ports.free()) as engines:
        print(engines.kafka_bootstrap, engines.postgres_url, engines.clickhouse_url)
        engines.kafka.kill()
        engines.kafka.start()

By hand: `python -m deploy.local.engines --home /tmp/x`.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

from deploy.local.engines.clickhouse import ClickHouse
from deploy.local.engines.handle import Handle
from deploy.local.engines.home import prepare
from deploy.local.engines.kafka import Kafka
from deploy.local.engines.ports import HOST, Ports
from deploy.local.engines.postgres import Postgres

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["HOST", "Engines", "Handle", "Ports"]

_READY_TIMEOUT_SECONDS = 180  # a busy machine takes its time


def _silent(_message: str) -> None:
    pass


class Engines:
    """The three engines of one home. Use `start`; leaving the context, or `stop()`, ends them."""

    def __init__(self, home: Path, ports: Ports, report: Callable[[str], None] = _silent) -> None:
        """Describe the engines without starting any; `home` must have been prepared."""
        self.home, self.ports = home, ports
        kafka = Kafka(home, ports, report)
        postgres = Postgres(home, ports, report)
        clickhouse = ClickHouse(home, ports)
        self._specs = (kafka, postgres, clickhouse)
        self.kafka, self.postgres, self.clickhouse = Handle(kafka), Handle(postgres), Handle(clickhouse)
        self.kafka_bootstrap = kafka.bootstrap
        self.postgres_url = postgres.url
        self.clickhouse_url = clickhouse.url

    @classmethod
    def start(cls, home: Path, ports: Ports, *, report: Callable[[str], None] = _silent) -> Self:
        """Start all three in parallel and return when all serve clients.

        `report` gets a line for what takes long (a download, a new data folder). Raises `PortInUse`,
        `HomeUnusable` or `EngineError`, after stopping what it had started.
        """
        engines = cls(prepare(home), ports, report)
        engines.check_ports()
        try:
            with ThreadPoolExecutor(max_workers=3) as pool:
                list(pool.map(_start, engines.all()))
        except BaseException:
            engines.stop()
            raise
        return engines

    def all(self) -> tuple[Handle, Handle, Handle]:
        return self.kafka, self.postgres, self.clickhouse

    def check_ports(self) -> None:
        """Raise `PortInUse` with the setting to change, before anything is started."""
        for spec in self._specs:
            spec.check_ports()

    def stop(self) -> None:
        """End all three, cleanly where they can."""
        with ThreadPoolExecutor(max_workers=3) as pool:
            list(pool.map(Handle.stop, self.all()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()


def _start(handle: Handle) -> None:
    handle.start()
    handle.wait_ready(time.monotonic() + _READY_TIMEOUT_SECONDS)
