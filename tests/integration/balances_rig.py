"""What the tests of the balances process share: the process itself, and sinks played by hand."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import clickhouse_connect
from confluent_kafka import Producer

from metering.balances.view import BalanceView
from metering.clickhouse.schema import create_all
from metering.domain.entitlement import Entitlement
from metering.kafka.topics import ensure_topics
from metering.kafka.wire import ENCODER, Cell, Delta, EntitlementChange, balance_partition, record_key
from metering.postgres.migrate import upgrade
from metering.settings import EngineSettings

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 60


def wait_for(what: str, condition: Callable[[], object], seconds: float = DEADLINE_SECONDS) -> None:
    """Until `condition` holds; fails with `what` after a while."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


@dataclass(frozen=True)
class Use:
    """One event of one unit or more, as the played sink counts it."""

    customer: str
    minute: int
    amount: int
    subject: str = "s"
    meter: str = "M.1"


@dataclass
class Rig:
    """Engines with tables and topics, a played sink for each source partition, and the balances process."""

    settings: EngineSettings
    home: Path
    ends: list[int] = field(default_factory=list)
    sequence: int = 0
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        upgrade(self.settings)
        create_all(self.settings)
        ensure_topics(self.settings)
        self.ends = [0] * self.settings.event_partitions
        self.producer = Producer({"bootstrap.servers": self.settings.kafka_bootstrap, "linger.ms": 0, "log_level": 3})
        self.clickhouse = clickhouse_connect.get_client(
            dsn=self.settings.clickhouse_url.get_secret_value(), database=self.settings.clickhouse_database,
            autogenerate_session_id=False, settings={"async_insert": 0},
        )  # fmt: skip

    # --- the balances process -------------------------------------------------------------------------------------

    def start(self, name: str = "balances-0") -> subprocess.Popen[bytes]:
        with (self.home / "balances.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, str(ROOT / "cmd" / "run_balances.py")],
                env=self.environment(name), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def environment(self, name: str) -> dict[str, str]:
        s = self.settings
        return os.environ | {
            "WEIGHBRIDGE_HOME": str(self.home),
            "WEIGHBRIDGE_KAFKA_BOOTSTRAP": s.kafka_bootstrap,
            "WEIGHBRIDGE_TOPIC_PREFIX": s.topic_prefix,
            "WEIGHBRIDGE_POSTGRES_URL": s.postgres_url.get_secret_value(),
            "WEIGHBRIDGE_CLICKHOUSE_URL": s.clickhouse_url.get_secret_value(),
            "WEIGHBRIDGE_CLICKHOUSE_DATABASE": s.clickhouse_database,
            "WEIGHBRIDGE_EVENT_PARTITIONS": str(s.event_partitions),
            "WEIGHBRIDGE_BALANCE_PARTITIONS": str(s.balance_partitions),
            "WEIGHBRIDGE_BALANCES_INSTANCE": name,
            "WEIGHBRIDGE_BALANCES_METRICS_PORT": "0",
            "PYTHONPATH": str(ROOT),
        }

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGKILL)
        process.wait()

    def log(self) -> list[dict[str, object]]:
        path = self.home / "balances.log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.startswith("{")]

    # --- the played sink ------------------------------------------------------------------------------------------

    def flush(self, partition: int, uses: list[Use], *, revision: int = 1, send: bool = True) -> Delta:
        """Count a range: rows in `usage`, the range in `flushes`, and its deltas, one per balance partition."""
        start = self.ends[partition]
        self.ends[partition] = end = start + max(1, len(uses))
        now = datetime.now(UTC).replace(microsecond=0)
        rows = [
            ["default", u.meter, u.subject, [], datetime.fromtimestamp(u.minute * 60, UTC), now.replace(second=0), partition, start,
             1, 1, Decimal(u.amount)]
            for u in self._by_series(uses)
        ]  # fmt: skip
        if rows:
            names = [
                "namespace",
                "meter",
                "subject",
                "dims",
                "minute",
                "ingest_minute",
                "partition",
                "a",
                "events",
                "count",
                "sum",
            ]
            self.clickhouse.insert("usage", rows, column_names=names)
        self.clickhouse.insert(
            "flushes", [[partition, start, end, len(uses), revision, now]],
            column_names=["partition", "a", "end", "counted", "revision", "ingest_time"],
        )  # fmt: skip
        cells = [
            Cell("default", u.customer, u.meter, (), u.minute, 1, 1, Decimal(u.amount), None, None, None, 0, 0, ())
            for u in uses
        ]
        delta = Delta(partition, start, end, 1, revision, int(now.timestamp() * 1000), cells)
        if send:
            self.send(delta)
        return delta

    def send(self, delta: Delta) -> None:
        """Its deltas, as a sink (or one that has lost its partition) sends them."""
        n = self.settings.balance_partitions
        for p in range(n):
            cells = [c for c in delta.cells if balance_partition(c.namespace, c.customer, n) == p]
            mine = Delta(delta.partition, delta.start, delta.end, delta.epoch, delta.revision, delta.ingest_time, cells)
            self.producer.produce(self.settings.deltas_topic, ENCODER.encode(mine), partition=p)
        self.producer.flush(30)

    def change(self, customer: str, feature: str, entitlement: Entitlement | None) -> int:
        self.sequence += 1
        change = EntitlementChange(self.sequence, "default", customer, feature, entitlement)
        self.producer.produce(
            self.settings.entitlements_topic, ENCODER.encode(change), record_key("default", customer, feature),
            balance_partition("default", customer, self.settings.balance_partitions),
        )  # fmt: skip
        self.producer.flush(30)
        return self.sequence

    @staticmethod
    def _by_series(uses: list[Use]) -> list[Use]:
        sums: dict[tuple[str, str, int], int] = {}
        for u in uses:
            sums[u.meter, u.subject, u.minute] = sums.get((u.meter, u.subject, u.minute), 0) + u.amount
        return [Use("", minute, amount, subject, meter) for (meter, subject, minute), amount in sums.items()]

    # --- what came of it ------------------------------------------------------------------------------------------

    @contextmanager
    def view(self) -> Iterator[BalanceView]:
        view = BalanceView(self.settings)
        view.start()
        try:
            assert view.wait_ready(DEADLINE_SECONDS)
            yield view
        finally:
            view.close()

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                self.kill(process)
        self.clickhouse.close()


def is_serving(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1) as answer:
            return answer.status == 200
    except (URLError, OSError):
        return False
