"""The product's processes on the benchmark's engines, with topics and databases that no other row uses."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.processes import free_port, python_process
from bench.row import Bench

PARTITIONS: Final = 4
_MIGRATE_SECONDS: Final = 180
_SCRIPTS: Final = Path(__file__).parents[1] / "cmd"


@dataclass(frozen=True, slots=True)
class Product:
    """Where a row finds its processes. `environment` is what each of them is told."""

    bench: Bench
    environment: dict[str, str]
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def api_port(self) -> int:
        return self.ports["api"]

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    @contextmanager
    def process(self, name: str) -> Iterator["subprocess.Popen[bytes]"]:
        """Run one of api, sink, balances, billing, until the block ends."""
        port = self.ports.setdefault(name, free_port())
        setting = "WEIGHBRIDGE_API_PORT" if name == "api" else f"WEIGHBRIDGE_{name.upper()}_METRICS_PORT"
        script = ["-m", "bench.api_server"] if name == "api" else [str(_SCRIPTS / f"run_{name}.py")]
        log = self.bench.scratch / f"{name}-{port}.log"
        ready = f"http://127.0.0.1:{port}/readyz"
        with python_process(
            script, log=log, ready_url=ready, environment={**self.environment, setting: str(port)}
        ) as it:
            yield it


@contextmanager
def product(bench: Bench, *, processes: Sequence[str] = (), partitions: int = PARTITIONS) -> Iterator[Product]:
    """Tables and topics made, and these processes running."""
    engines, name = bench.engines(), f"bench_{secrets.token_hex(4)}"
    environment = {
        "WEIGHBRIDGE_HOME": str(bench.scratch / name),
        "WEIGHBRIDGE_KAFKA_BOOTSTRAP": engines.kafka_bootstrap,
        "WEIGHBRIDGE_POSTGRES_URL": engines.postgres_url.rsplit("/", 1)[0] + f"/{name}",
        "WEIGHBRIDGE_CLICKHOUSE_URL": engines.clickhouse_url,
        "WEIGHBRIDGE_CLICKHOUSE_DATABASE": name,
        "WEIGHBRIDGE_TOPIC_PREFIX": f"{name}.",
        "WEIGHBRIDGE_EVENT_PARTITIONS": str(partitions),
        "WEIGHBRIDGE_BALANCE_PARTITIONS": str(partitions),
        "WEIGHBRIDGE_LOG_LEVEL": "warning",
    }
    subprocess.run(
        [sys.executable, str(_SCRIPTS / "migrate.py"), "--quiet"],
        env={**os.environ, **environment},
        timeout=_MIGRATE_SECONDS,
        check=True,
    )
    made = Product(bench, environment)
    with ExitStack() as stack:
        for each in processes:
            stack.enter_context(made.process(each))
        yield made
