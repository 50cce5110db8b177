"""Events in batches of a hundred over HTTP, beside what the Kafka client does when it has nothing else to do."""

import os
import time
from itertools import islice

from confluent_kafka import Producer

from bench.events import BATCH, batch
from bench.load import Load, others, request, run_load
from bench.product import PARTITIONS, product
from bench.row import Bench, Result, Row
from bench.topics import create_topics, drop_topics, new_prefix
from ingest.limits import IngestSettings
from metering.kafka.producer import producer_config

_CONNECTIONS = 32
_VALUE = (
    b'["default","req-000000012345-07","edge-gw-2","llm.request","customer-7",1927944307789000,'
    b'{"model":"m-0","prompt_tokens":107,"tokens":"17.5"}]'
)


def _measure(bench: Bench) -> Result:
    with product(bench, processes=("api",)) as running:
        load = Load(
            port=running.api_port,
            requests=[request("POST", "/api/v1/events", batch())],
            connections=_CONNECTIONS,
            seconds=bench.seconds(10, 3),
        )
        result = run_load(load)
    limit = _producer_alone(bench, 2_000_000 if not bench.quick else 400_000)
    notes = f"{_CONNECTIONS} connections, p50 {result.p50_ms:.0f} ms, p99 {result.p99_ms:.0f} ms"
    return Result(result.per_second * BATCH, limit, notes, others(result, "204"))


def _producer_alone(bench: Bench, count: int) -> float:
    """Events/s of the client fed from a list, each with its delivery report, under the configuration of ingest."""
    bootstrap = bench.engines().kafka_bootstrap
    topic = f"{new_prefix()}events"
    create_topics(bootstrap, {topic: PARTITIONS})
    producer = Producer(producer_config(bootstrap, IngestSettings().producer_limits))
    records = [(os.urandom(16), _VALUE) for _ in range(count)]
    acknowledged = 0

    def delivered(error: object, _message: object) -> None:
        nonlocal acknowledged
        if error is not None:
            raise RuntimeError(str(error))
        acknowledged += 1

    began = time.perf_counter()
    feed = iter(records)
    while group := list(islice(feed, BATCH)):
        while len(producer) > 100_000:
            producer.poll(0.01)
        for key, value in group:
            producer.produce(topic, value, key, key[7] % PARTITIONS, delivered)
        producer.poll(0)
    while acknowledged < count:
        producer.poll(0.01)
    seconds = time.perf_counter() - began
    drop_topics(bootstrap, [topic])
    return count / seconds


ROW = Row(
    name="batches",
    what=f"events over HTTP in batches of {BATCH}, acknowledged by Kafka",
    limit="the Python producer alone, fed from a list",
    unit="/s",
    measure=_measure,
    goal=0.5,
    goal_value=150_000,
)
