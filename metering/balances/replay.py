"""Reading a partition of the balances or entitlements topic from its beginning to an end."""

from collections.abc import Iterator
from typing import Final

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from metering.balances.codec import decode, key_of
from metering.domain.balance import Record
from metering.domain.balance_book import Change, Key
from metering.domain.balance_log import BalanceLog
from metering.domain.errors import Unavailable
from metering.kafka.topics import RECORD_BYTES_MAX
from metering.kafka.wire import CHANGE_DECODER, EPOCH_KEY, PASSED_DECODER, PASSED_KEY, RECORD_DECODER, BalanceRecord

_BATCH: Final = 2000
_POLL_SECONDS: Final = 0.5
_TIMEOUT_SECONDS: Final = 60.0


def consumer_config(bootstrap: str) -> dict[str, object]:
    """A consumer that belongs to no group in truth: partitions are assigned by hand and nothing is committed."""
    return {
        "bootstrap.servers": bootstrap,
        "group.id": "weighbridge-reader",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": 50,
        "fetch.message.max.bytes": RECORD_BYTES_MAX,
        "reconnect.backoff.max.ms": 1000,
        "log_level": 3,
    }


def replay_balances(bootstrap: str, topic: str, partition: int) -> BalanceLog[Key, Record]:
    """What the partition says up to its present end. Blocks; raises Unavailable if Kafka is away for a minute."""
    log: BalanceLog[Key, BalanceRecord] = BalanceLog()
    for message in _until_end(bootstrap, topic, partition):
        take(log, message.key() or b"", message.value())
    records = {key: decode(wire) for key, wire in log.records.items()}
    return BalanceLog(log.epoch, log.passed, records, log.displaced)


def replay_changes(bootstrap: str, topic: str, partition: int) -> list[Change]:
    """Every entitlement's newest change up to the partition's present end."""
    return [change_of(value) for message in _until_end(bootstrap, topic, partition) if (value := message.value())]


def change_of(value: bytes) -> Change:
    """A record of the entitlements topic."""
    wire = CHANGE_DECODER.decode(value)
    return Change(wire.sequence, Key(wire.namespace, wire.customer, wire.feature), wire.entitlement)


def take(log: BalanceLog[Key, BalanceRecord], key: bytes, value: bytes | None) -> Key | None:
    """Feed one message to the log; returns the key of the balance that it changed, if it did."""
    if value is None:
        return None
    if key == EPOCH_KEY:
        log.admits(PASSED_DECODER.decode(value).epoch)
    elif key == PASSED_KEY:
        passed = PASSED_DECODER.decode(value)
        log.take_passed(passed.epoch, passed.vector)
    else:
        wire = RECORD_DECODER.decode(value)
        name = key_of(key)
        if log.take_record(wire.epoch, name, wire):
            return name
    return None


def fetch(consumer: Consumer, timeout_seconds: float) -> list[Message]:
    """What is there, at once; or the first that comes. `consume` alone would wait for a full batch."""
    first = consumer.poll(timeout_seconds)
    return [] if first is None else [first, *consumer.consume(_BATCH, 0)]


def _until_end(bootstrap: str, topic: str, partition: int) -> Iterator[Message]:
    consumer = Consumer(consumer_config(bootstrap))
    place = TopicPartition(topic, partition)
    try:
        low, end = consumer.get_watermark_offsets(place, timeout=_TIMEOUT_SECONDS)
        # From the offset itself: asking for "the beginning" costs the client half a second.
        consumer.assign([TopicPartition(topic, partition, low)])
        waited, position = 0.0, low
        while position < end:
            messages = fetch(consumer, _POLL_SECONDS)
            for message in messages:
                yield _checked(message)
            # Compaction leaves holes, so it is the position that tells.
            position = max(position, consumer.position([place])[0].offset)
            waited = 0.0 if messages else waited + _POLL_SECONDS
            if waited > _TIMEOUT_SECONDS:
                raise Unavailable(f"Kafka sends nothing of {topic}/{partition}")
    except KafkaException as error:
        raise Unavailable(f"Kafka can't be read: {error.args[0].str()}") from error
    finally:
        consumer.close()


def _checked(message: Message) -> Message:
    error = message.error()
    if error is not None:
        raise KafkaException(error)
    return message
