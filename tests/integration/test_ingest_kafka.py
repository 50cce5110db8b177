"""What got 204 is in Kafka, whatever is killed or stopped; and what can't be sent is refused in time."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import httpx
import msgspec
import pytest

from deploy.local.engines import Engines, Ports
from deploy.local.engines.home import prepare
from metering.domain.event import Event
from metering.kafka.consumer import read_to_end
from tests.integration.ingest_load import PARTITIONS, Clients, create_events_topic, event, ingest_process

_BROKER_READY_SECONDS = 90


def stored_ids(bootstrap: str, topic: str) -> list[str]:
    return [
        msgspec.json.decode(record.value or b"", type=Event).id
        for record in read_to_end(bootstrap, topic, timeout_seconds=60)
    ]


@pytest.fixture
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """A broker of the test's own, to stop and to kill; the other engines are not started."""
    engines = Engines(prepare(tmp_path_factory.mktemp("kafka")), Ports.free())
    engines.kafka.start()
    engines.kafka.wait_ready(time.monotonic() + _BROKER_READY_SECONDS)
    yield engines
    os.kill(engines.kafka.pid, signal.SIGCONT)
    engines.kafka.stop()


def test_an_acknowledged_event_lies_in_its_partition_under_its_key(
    kafka_bootstrap: str, topic_prefix: str, tmp_path: Path
) -> None:
    topic = create_events_topic(kafka_bootstrap, topic_prefix)
    body = [{**event(f"e-{n}"), "source": f"s-{n % 3}", "time": "2031-02-03T04:05:06.5Z"} for n in range(40)]
    with ingest_process(kafka_bootstrap, topic_prefix, tmp_path / "log") as server:
        text = json.dumps(body).replace('"n": 1,', '"n": 1.00000000000000000001,')
        answer = httpx.post(server.url, content=text, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.content) == (204, b"")
        assert httpx.post(server.url, json=event("single")).status_code == 204
    records = list(read_to_end(kafka_bootstrap, topic))
    assert len(records) == 41
    assert {record.partition for record in records} == set(range(PARTITIONS))
    for record in records:
        found = msgspec.json.decode(record.value or b"", type=Event)
        text = f"7:{len(found.source)}:default{found.source}{found.id}"
        assert record.key == blake2b(text.encode(), digest_size=16).digest()
        assert record.partition == int.from_bytes(record.key[:8], "big") % PARTITIONS
        if found.id != "single":
            assert found.time == 1_927_857_906_500_000
            assert b'"n": 1.00000000000000000001,' in bytes(found.data)


async def test_a_killed_server_loses_nothing_that_it_acknowledged(
    kafka_bootstrap: str, topic_prefix: str, tmp_path: Path
) -> None:
    topic = create_events_topic(kafka_bootstrap, topic_prefix)
    acknowledged: set[str] = set()
    for round_ in range(3):
        with ingest_process(kafka_bootstrap, topic_prefix, tmp_path / "log") as server:
            clients = Clients(server.url)
            clients._ids = iter(range(round_ * 10**9, 10**10))
            enough = 500 * (round_ + 1)

            def killed(enough: int = enough, clients: Clients = clients, server: object = server) -> bool:
                if len(clients.acknowledged) < enough:
                    return False
                server.kill()  # type: ignore[attr-defined]
                return True

            await clients.run_until(killed)
            acknowledged |= clients.acknowledged
    stored = await asyncio.to_thread(stored_ids, kafka_bootstrap, topic)
    assert len(acknowledged) >= 3000
    assert acknowledged <= set(stored)


async def test_a_stopped_broker_is_told_in_time_within_bounded_memory_and_heals(
    own_kafka: Engines, tmp_path: Path
) -> None:
    bootstrap, prefix = own_kafka.kafka_bootstrap, "stopped-"
    topic = create_events_topic(bootstrap, prefix)
    bounds = {
        "ack_timeout_seconds": "1.5",
        "delivery_timeout_seconds": "4",
        "in_flight_events_max": "400",
    }
    with ingest_process(bootstrap, prefix, tmp_path / "log", **bounds) as server:
        clients = Clients(server.url, count=16, batch=50)
        await clients.run_until(lambda: len(clients.acknowledged) > 500)
        memory = server.memory_bytes()
        os.kill(own_kafka.kafka.pid, signal.SIGSTOP)
        clients.seconds_max = 0.0
        refused = clients.statuses.get(503, 0)
        await clients.run_until(lambda: clients.statuses.get(503, 0) > refused + 300)
        answer = clients.answers[-1]
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["title"] == "Service Unavailable"
        assert clients.seconds_max < 4 + 5  # the bound, and a busy machine
        details = {each.json()["detail"].split(";")[0] for each in clients.answers}
        assert details == {"Kafka did not acknowledge the events", "too many events wait for Kafka"}
        assert server.memory_bytes() < memory + 64 * 1024 * 1024
        os.kill(own_kafka.kafka.pid, signal.SIGCONT)
        before = len(clients.acknowledged)
        await clients.run_until(lambda: len(clients.acknowledged) > before + 500)
    stored = await asyncio.to_thread(stored_ids, bootstrap, topic)
    assert clients.acknowledged <= set(stored)


async def test_a_killed_broker_loses_nothing_and_ingest_goes_on_by_itself(own_kafka: Engines, tmp_path: Path) -> None:
    bootstrap, prefix = own_kafka.kafka_bootstrap, "killed-"
    topic = create_events_topic(bootstrap, prefix)
    with ingest_process(bootstrap, prefix, tmp_path / "log", ack_timeout_seconds="3") as server:
        clients = Clients(server.url)
        await clients.run_until(lambda: len(clients.acknowledged) > 500)

        async def restarted() -> bool:
            await asyncio.to_thread(own_kafka.kafka.restart, timeout_seconds=_BROKER_READY_SECONDS)
            return True

        await clients.run_until(restarted, seconds_max=120)
        before = len(clients.acknowledged)
        await clients.run_until(lambda: len(clients.acknowledged) > before + 500)
    stored = await asyncio.to_thread(stored_ids, bootstrap, topic)
    assert clients.acknowledged <= set(stored)
