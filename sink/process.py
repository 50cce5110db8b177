"""The sink process: which partitions this process works on, and that it ends when one of them can't go on."""

import os
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import structlog
from confluent_kafka import Consumer, KafkaException, TopicPartition

from metering.clickhouse.client import connect
from metering.observability import serve_metrics
from metering.postgres.engine import sync_engine
from sink import metrics
from sink.audit import Audit
from sink.backfill import Backfill
from sink.deltas import SinkProducer
from sink.failpoint import Failpoint
from sink.fence import PostgresFence
from sink.partition import Engines, PartitionLoop
from sink.registry import RegistryWatch
from sink.settings import SinkSettings
from sink.writer import ClickHouseWriter

log = structlog.get_logger()
TURN_SECONDS: Final = 0.2
REVOKE_SECONDS: Final = 5
STOP_SECONDS: Final = 10
COMMIT_SECONDS: Final = 5


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Sink:
    """Takes the partitions that the consumer group hints at, and runs a loop for each. `run` until `stop` is set."""

    def __init__(self, settings: SinkSettings) -> None:
        self._settings = settings
        self.stop = threading.Event()
        self._joined = False
        self._told_at = 0.0
        self._loops: dict[int, PartitionLoop] = {}
        self._postgres = sync_engine(settings, application="sink", pool_size=settings.event_partitions + 4)
        self._registry = RegistryWatch(self._postgres, settings.sink_registry_seconds)
        self._clickhouse = connect(settings)
        self._audit = Audit(settings, self._clickhouse, _now_ms)
        self._producer = SinkProducer(settings)
        self._backfill = Backfill(settings, self._postgres, self._clickhouse, self._registry)
        self._engines = Engines(
            settings,
            PostgresFence(self._postgres, settings.events_topic),
            self._registry,
            ClickHouseWriter(self._clickhouse),
            self._audit,
            self._producer,
            Failpoint.from_environment(os.environ),
            _now_ms,
        )

    def ready(self) -> bool:
        return self._registry.loaded and self._joined

    def run(self) -> None:
        """Work until `stop` is set. Raises what a partition's loop failed with, ProtocolViolation above all."""
        server = serve_metrics(self._settings.sink_metrics_port, self.ready)
        self._registry.start()
        self._audit.start()
        self._backfill.start()
        group = self._join_group()
        try:
            while not self.stop.is_set():
                group.poll(TURN_SECONDS)
                self._look_after_loops()
                self._tell_lag_monitors(group)
        finally:
            self._stop_loops(list(self._loops), STOP_SECONDS)
            with suppress(KafkaException):
                group.close()
            self._backfill.close()
            self._audit.close()
            self._registry.close()
            self._producer.close()
            self._clickhouse.close()
            self._postgres.dispose()
            server.close()

    def _join_group(self) -> Consumer:
        """A member of the group that fetches nothing: the loops read for themselves, from where the fence says."""
        settings = self._settings
        group = Consumer(
            {
                "bootstrap.servers": settings.kafka_bootstrap,
                "group.id": f"{settings.topic_prefix}{settings.sink_group}",
                "client.id": f"weighbridge-{settings.sink_name}",
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": int(settings.sink_session_seconds * 1000),
                "heartbeat.interval.ms": int(settings.sink_session_seconds * 1000 / 4),
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 500,
                "queued.max.messages.kbytes": 1024,
            }
        )
        group.subscribe([settings.events_topic], on_assign=self._on_assign, on_revoke=self._on_revoke)
        return group

    def _on_assign(self, group: Consumer, partitions: list[TopicPartition]) -> None:
        group.incremental_assign(partitions)
        group.pause(partitions)
        self._joined = True
        for partition in partitions:
            self._start_loop(partition.partition)

    def _on_revoke(self, _group: Consumer, partitions: list[TopicPartition]) -> None:
        self._stop_loops([partition.partition for partition in partitions], REVOKE_SECONDS)

    def _start_loop(self, partition: int) -> None:
        loop = PartitionLoop(self._engines, partition)
        self._loops[partition] = loop
        metrics.OWNED.set(len(self._loops))
        loop.start()

    def _stop_loops(self, partitions: Iterable[int], seconds: float) -> None:
        """Ask the loops to end and wait a while. One that hangs in a request is fenced by the next owner."""
        loops = [loop for partition in partitions if (loop := self._loops.pop(partition, None))]
        for loop in loops:
            loop.stop.set()
        deadline = time.monotonic() + seconds
        for loop in loops:
            loop.join(max(0.0, deadline - time.monotonic()))
        metrics.OWNED.set(len(self._loops))

    def _tell_lag_monitors(self, group: Consumer) -> None:
        """Commit how far the partitions are flushed. Nothing here ever reads it."""
        if time.monotonic() - self._told_at < COMMIT_SECONDS:
            return
        self._told_at = time.monotonic()
        topic = self._settings.events_topic
        reached = [
            TopicPartition(topic, partition, loop.flushed_to)
            for partition, loop in self._loops.items()
            if loop.flushed_to
        ]
        if reached:
            with suppress(KafkaException):
                group.commit(offsets=reached, asynchronous=True)

    def _look_after_loops(self) -> None:
        if self._backfill.failure is not None:
            raise self._backfill.failure
        for partition, loop in list(self._loops.items()):
            if loop.running:
                continue
            if loop.failure is not None:
                raise loop.failure
            if time.monotonic() - loop.ended_at >= self._settings.sink_retake_seconds:
                log.info("fenced, but still assigned: taking again", partition=partition)
                self._start_loop(partition)
