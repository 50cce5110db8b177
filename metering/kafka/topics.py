"""The topics and how each is kept.

| topic | kept | why |
|---|---|---|
| events | 32 days, by the broker's time | ranges can be done again from it, and the dedupe window ends within it |
| usage-deltas | 7 days | a balance that misses some is computed anew from the source |
| entitlements | compacted | the newest state of each is all that is needed, and all of it |
| balances | compacted, not before a day | an owner's record stays until a successor saw what displaced it |
"""

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from metering.domain.errors import InvalidInput, Unavailable
from metering.settings import EngineSettings

_TIMEOUT_SECONDS: Final = 30.0
_DAY_MS: Final = 24 * 3600 * 1000
#: A balance of a UNIQUE_COUNT meter holds the values of its usage period, 16 bytes each.
RECORD_BYTES_MAX: Final = 8 * 1024 * 1024

Config = Mapping[str, str]
_COMPACTED: Final[Config] = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.2"}


def definitions(settings: EngineSettings) -> dict[str, tuple[int, Config]]:
    """Each topic's name, its number of partitions and its configuration."""
    replicas = {"min.insync.replicas": "2" if settings.topic_replication > 2 else "1"}  # noqa: PLR2004 - a majority of 3
    return {
        settings.events_topic: (
            settings.event_partitions,
            {"message.timestamp.type": "LogAppendTime", "retention.ms": str(32 * _DAY_MS), **replicas},
        ),
        settings.deltas_topic: (
            settings.balance_partitions,
            {"retention.ms": str(7 * _DAY_MS), "max.message.bytes": str(RECORD_BYTES_MAX), **replicas},
        ),
        settings.entitlements_topic: (settings.balance_partitions, {**_COMPACTED, **replicas}),
        settings.balances_topic: (
            settings.balance_partitions,
            {
                **_COMPACTED,
                "min.compaction.lag.ms": str(_DAY_MS),
                "max.message.bytes": str(RECORD_BYTES_MAX),
                **replicas,
            },
        ),
    }


def ensure_topics(settings: EngineSettings) -> None:
    """Make the topics that are missing; doing it again changes nothing.

    Raises InvalidInput if a topic has another number of partitions than the settings say: keys would move.
    Raises Unavailable if Kafka does not answer in time.
    """
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap, "log_level": 0})
    wanted = definitions(settings)
    new = [
        NewTopic(name, partitions, settings.topic_replication, config=dict(config))
        for name, (partitions, config) in wanted.items()
    ]
    try:
        for future in admin.create_topics(new, operation_timeout=_TIMEOUT_SECONDS).values():
            _made(future)
        found = admin.list_topics(timeout=_TIMEOUT_SECONDS).topics
    except (KafkaException, TimeoutError) as error:
        raise Unavailable(f"Kafka at {settings.kafka_bootstrap} did not make or list the topics: {error}") from error
    for name, (partitions, _) in wanted.items():
        has = len(found[name].partitions) if name in found else partitions
        if has != partitions:
            raise InvalidInput(f"topic {name} has {has} partitions, but the settings say {partitions}")


def _made(future: Future[None]) -> None:
    try:
        future.result(_TIMEOUT_SECONDS)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
