"""An ingest server with an events topic of its own, for the rows that load it."""

from collections.abc import Iterator
from contextlib import contextmanager

from bench.load import LoadResult
from bench.processes import free_port, python_process
from bench.row import Bench
from bench.topics import create_topics, drop_topics, new_prefix

PARTITIONS = 4


@contextmanager
def ingest_server(bench: Bench) -> Iterator[int]:
    """The port of a running ingest server."""
    engines, prefix, port = bench.engines(), new_prefix(), free_port()
    topic = f"{prefix}events"
    create_topics(engines.kafka_bootstrap, {topic: PARTITIONS})
    environment = {
        "WEIGHBRIDGE_KAFKA_BOOTSTRAP": engines.kafka_bootstrap,
        "WEIGHBRIDGE_TOPIC_PREFIX": prefix,
        "WEIGHBRIDGE_EVENT_PARTITIONS": str(PARTITIONS),
    }
    server = ["-m", "bench.ingest_server", str(port)]
    log = bench.scratch / f"ingest-{port}.log"
    try:
        with python_process(server, log=log, ready_url=f"http://127.0.0.1:{port}/readyz", environment=environment):
            yield port
    finally:
        drop_topics(engines.kafka_bootstrap, [topic])


def others(result: LoadResult, expected: str) -> tuple[str, ...]:
    """A miss for every answer that was not the expected one."""
    wrong = {status: count for status, count in result.statuses.items() if status != expected}
    return (f"other answers: {wrong}",) if wrong else ()
