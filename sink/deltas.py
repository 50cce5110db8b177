"""What the sink sends to Kafka: deltas to every balance partition, and ticks."""

from collections.abc import Iterable
from typing import Final

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from metering.domain.columns import Measured
from metering.domain.registry import Registry
from metering.domain.rows import cell_rows, cells
from metering.kafka.wire import DELTA_ENCODER, Cell, Delta, balance_partition
from metering.settings import EngineSettings
from sink.plan import Answer, Plan

log = structlog.get_logger()
DELIVERY_TIMEOUT_MS: Final = 20_000
QUEUE_KILOBYTES_MAX: Final = 131_072


def range_deltas(
    partition: int, *, plan: Plan, reached: int, measured: Measured, registry: Registry, balance_partitions: int
) -> list[Delta]:
    """The deltas of a range, one for each balance partition in order. Pure."""
    by_partition: list[list[Cell]] = [[] for _ in range(balance_partitions)]
    for row in cell_rows(cells(measured.usage, registry.customer_of)):
        cell = Cell(*row)
        by_partition[balance_partition(cell.namespace, cell.customer, balance_partitions)].append(cell)
    return [
        Delta(partition, plan.a, plan.end, plan.epoch, plan.revision, reached, cells_of) for cells_of in by_partition
    ]


class SinkProducer:
    """An idempotent producer, acks=all. Safe for threads."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._producer = Producer(
            {
                "bootstrap.servers": settings.kafka_bootstrap,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 1,
                "compression.type": "lz4",
                "message.max.bytes": 64 * 1024 * 1024,
                "delivery.timeout.ms": DELIVERY_TIMEOUT_MS,
                "queue.buffering.max.kbytes": QUEUE_KILOBYTES_MAX,
            }
        )

    def send_deltas(self, deltas: Iterable[Delta]) -> Answer:
        """Send each to the balance partition of its place, and wait until all are acknowledged."""
        topic = self._settings.deltas_topic
        sent = [(topic, place, DELTA_ENCODER.encode(delta)) for place, delta in enumerate(deltas)]
        return self._send(sent)

    def send_tick(self, partition: int) -> Answer:
        """Append a tick to the events partition, so that time and revisions pass in it."""
        return self._send([(self._settings.events_topic, partition, b"")])

    def _send(self, records: list[tuple[str, int, bytes]]) -> Answer:
        answers: list[KafkaError | None] = []

        def delivered(error: KafkaError | None, _message: Message) -> None:
            answers.append(error)  # any thread's poll may call this

        try:
            for topic, partition, value in records:
                self._producer.produce(topic, value=value, partition=partition, on_delivery=delivered)
            while len(answers) < len(records):
                self._producer.poll(0.05)
        except (KafkaException, BufferError) as failure:
            log.warning("send unclear", error=str(failure))
            return Answer.UNCLEAR
        for error in answers:
            if error is not None:
                log.warning("send unclear", error=error.str())
                return Answer.UNCLEAR
        return Answer.DONE

    def close(self) -> None:
        self._producer.flush(5)
