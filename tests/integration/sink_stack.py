"""A sink on real engines, its input, and a count of that input that knows nothing of the sink."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from metering.clickhouse.client import connect
from metering.clickhouse.schema import create_all
from metering.domain.event import Event, event_key, partition_of
from metering.domain.meter import Aggregation, Meter
from metering.kafka.wire import DELTA_DECODER, Delta
from metering.postgres.engine import sync_engine
from metering.postgres.migrate import upgrade
from metering.postgres.registry import Change, append_changes_sync, meter_changed, namespace_added, subject_attributed
from sink.settings import SinkSettings

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 90
FLIGHTS = Meter("default", "01METERFLIGHTS000000000000", 1, "flights", "flight", Aggregation.COUNT)
MILES = Meter(
    "default", "01METERMILES00000000000000", 1, "miles", "flight", Aggregation.SUM, "$.miles", (("origin", "$.origin"),)
)


def wait_until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_SECONDS) -> Any:
    """The first true value of `condition`; fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)
    return value


def flight(number: int, *, subject: str | None = None, miles: str = "12.5") -> Event:
    """The nth flight; its time is its number in seconds."""
    data = f'{{"miles": {miles}, "origin": "{"JFK" if number % 3 else "EWR"}"}}'
    return Event(
        "default",
        f"flight-{number}",
        "test",
        "flight",
        subject or f"airline-{number % 5}",
        1_700_000_000_000_000 + number * 1_000_000,
        msgspec.Raw(data.encode()),
    )


@dataclass(slots=True)
class Sent:
    """What was put on the topic."""

    accepted: int = 0
    flights: dict[str, Event] = field(default_factory=dict)
    duplicates: int = 0
    rejected: int = 0

    def usage(self) -> dict[tuple[str, str], tuple[int, Decimal]]:
        """(meter slug, subject) -> (events, sum), counted from the input alone."""
        totals: dict[tuple[str, str], tuple[int, Decimal]] = defaultdict(lambda: (0, Decimal(0)))
        for event in self.flights.values():
            miles = json.loads(bytes(event.data), parse_float=Decimal, parse_int=Decimal).get("miles")
            for slug, value in (("flights", Decimal(0)), ("miles", miles)):
                events, total = totals[slug, event.subject]
                totals[slug, event.subject] = (events + 1, total + (value if isinstance(value, Decimal) else 0))
        return dict(totals)


class SinkStack:
    """Topics, tables and meters of one test, and the sink processes that it starts."""

    def __init__(self, settings: SinkSettings) -> None:
        self.settings = settings
        self.sent = Sent()
        self.processes: list[subprocess.Popen[bytes]] = []
        create_all(settings)
        upgrade(settings)
        self.postgres = sync_engine(settings, application="test")
        self.clickhouse = connect(settings)
        self._create_topics()
        self.producer = Producer({"bootstrap.servers": settings.kafka_bootstrap, "linger.ms": 5})
        self.change(
            namespace_added("default"),
            meter_changed(FLIGHTS),
            meter_changed(MILES),
            *(subject_attributed("default", f"airline-{n}", f"customer-{n}") for n in range(4)),
        )

    def _create_topics(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.settings.kafka_bootstrap})
        append_time = {"message.timestamp.type": "LogAppendTime"}
        topics = [
            NewTopic(self.settings.events_topic, self.settings.event_partitions, 1, config=append_time),
            NewTopic(self.settings.deltas_topic, self.settings.balance_partitions, 1, config=append_time),
        ]
        for future in admin.create_topics(topics).values():
            future.result()

    def change(self, *changes: Change) -> int:
        with self.postgres.begin() as connection:
            return append_changes_sync(connection, changes)

    def send(self, events: Iterable[Event], *, twice_each: int = 0) -> None:
        """Put events on the topic; every `twice_each`-th of them twice."""
        for number, event in enumerate(events):
            for _ in range(2 if twice_each and number % twice_each == 0 else 1):
                self._send_one(event)
        self.producer.flush(30)

    def _send_one(self, event: Event) -> None:
        key = event_key(event.namespace, event.source, event.id)
        self.sent.accepted += 1
        if event.id in self.sent.flights:
            self.sent.duplicates += 1
        else:
            self.sent.flights[event.id] = event
        self._produce(partition_of(key, self.settings.event_partitions), key, msgspec.json.encode(event))

    def send_broken(self, key: bytes, value: bytes) -> None:
        self.sent.accepted += 1
        self.sent.rejected += 1
        self._produce(partition_of(key, self.settings.event_partitions), key, value)
        self.producer.flush(30)

    def _produce(self, partition: int, key: bytes, value: bytes) -> None:
        while True:
            try:
                self.producer.produce(self.settings.events_topic, key=key, value=value, partition=partition)
            except BufferError:
                self.producer.poll(0.1)
            else:
                return

    def start(self, name: str = "sink", **environment: str) -> subprocess.Popen[bytes]:
        """A sink process; more settings by their variables without the prefix."""
        own = {
            "KAFKA_BOOTSTRAP": self.settings.kafka_bootstrap,
            "POSTGRES_URL": self.settings.postgres_url.get_secret_value(),
            "CLICKHOUSE_URL": self.settings.clickhouse_url.get_secret_value(),
            "CLICKHOUSE_DATABASE": self.settings.clickhouse_database,
            "TOPIC_PREFIX": self.settings.topic_prefix,
            "HOME": str(self.settings.home),
            "EVENT_PARTITIONS": str(self.settings.event_partitions),
            "BALANCE_PARTITIONS": str(self.settings.balance_partitions),
            "SINK_NAME": name,
            "SINK_METRICS_PORT": "0",
            "SINK_SESSION_SECONDS": "2",
            "SINK_TICK_SECONDS": "1",
            "SINK_RETAKE_SECONDS": "1",
            "SINK_FLUSH_EVENTS": "200",
            "SINK_FLUSH_MS": "50",
            **environment,
        }
        variables = {f"WEIGHBRIDGE_{name}": value for name, value in own.items()}
        log = self.settings.home / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "cmd/run_sink.py"],
                cwd=ROOT,
                env={**os.environ, **variables},
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )
        self.processes.append(process)
        return process

    def log(self, name: str = "sink") -> str:
        return (self.settings.home / f"{name}.log").read_text()

    def ends(self) -> dict[int, int]:
        """The end of the topic, by partition."""
        consumer = Consumer({"bootstrap.servers": self.settings.kafka_bootstrap, "group.id": "test-ends"})
        try:
            partitions = range(self.settings.event_partitions)
            return {
                p: consumer.get_watermark_offsets(TopicPartition(self.settings.events_topic, p), timeout=10)[1]
                for p in partitions
            }
        finally:
            consumer.close()

    def wait_flushed(self, seconds: float = DEADLINE_SECONDS) -> None:
        """Until all that is on the topic now is in `flushes`."""
        ends = self.ends()

        def flushed() -> bool:
            reached = dict(self.query("SELECT partition, max(end) FROM flushes GROUP BY partition"))
            return all(reached.get(p, 0) >= end for p, end in ends.items())

        wait_until(flushed, "all records to be flushed", seconds)

    def query(self, sql: str) -> Sequence[Sequence[Any]]:
        return self.clickhouse.query(sql).result_rows

    def usage(self) -> dict[tuple[str, str], tuple[int, Decimal]]:
        slugs = {FLIGHTS.key: "flights", MILES.key: "miles"}
        rows = self.query("SELECT meter, subject, sum(events), sum(sum) FROM usage FINAL GROUP BY meter, subject")
        return {
            (slugs[meter], subject): (events, Decimal(total))
            for meter, subject, events, total in rows
            if meter in slugs
        }

    def deltas(self) -> list[list[Delta]]:
        """All deltas, by balance partition."""
        consumer = Consumer({"bootstrap.servers": self.settings.kafka_bootstrap, "group.id": "test-deltas"})
        found: list[list[Delta]] = []
        try:
            for partition in range(self.settings.balance_partitions):
                where = TopicPartition(self.settings.deltas_topic, partition, 0)
                _, end = consumer.get_watermark_offsets(where, timeout=10)
                consumer.assign([where])
                read: list[Delta] = []
                deadline = time.monotonic() + 30
                while len(read) < end and time.monotonic() < deadline:
                    read += [DELTA_DECODER.decode(m.value()) for m in consumer.consume(1000, 0.5) if not m.error()]
                found.append(read)
        finally:
            consumer.close()
        return found

    def check(self) -> None:
        """Everything that must hold once all is flushed."""
        assert self.usage() == self.sent.usage()
        stored = self.query("SELECT uniqExact(id), count() FROM events FINAL")[0]
        assert tuple(stored) == (len(self.sent.flights), len(self.sent.flights))
        self._check_flushes()
        self._check_deltas()

    def _check_flushes(self) -> None:
        counted = duplicate = rejected = 0
        next_start: dict[int, int] = {}
        rows = self.query(
            "SELECT partition, a, end, counted, duplicate, rejected, ticks FROM flushes FINAL ORDER BY partition, a"
        )
        for partition, a, end, *outcome in rows:
            assert a == next_start.get(partition, 0), "ranges touch without gap or overlap"
            assert sum(outcome) == end - a
            next_start[partition] = end
            counted, duplicate, rejected = counted + outcome[0], duplicate + outcome[1], rejected + outcome[2]
        sent = self.sent
        assert (counted, duplicate, rejected) == (len(sent.flights), sent.duplicates, sent.rejected)
        assert counted + duplicate + rejected == sent.accepted

    def _check_deltas(self) -> None:
        totals: dict[tuple[str, str], tuple[int, Decimal]] = defaultdict(lambda: (0, Decimal(0)))
        slugs = {FLIGHTS.key: "flights", MILES.key: "miles"}
        for deltas in self.deltas():
            vector: dict[int, int] = defaultdict(int)
            for delta in deltas:
                if delta.end <= vector[delta.partition]:
                    continue
                assert delta.start == vector[delta.partition], "no gap and no overlap in deltas"
                vector[delta.partition] = delta.end
                for cell in delta.cells:
                    key = (slugs[cell.meter], cell.customer)
                    totals[key] = (totals[key][0] + cell.events, totals[key][1] + cell.sum)
        expected = {
            (slug, subject.replace("airline", "customer")): total
            for (slug, subject), total in self.sent.usage().items()
            if subject != "airline-4"  # belongs to nobody
        }
        assert dict(totals) == expected

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
        self.clickhouse.close()
        self.postgres.dispose()


def get(url: str) -> tuple[int, str]:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.status, answer.read().decode()
