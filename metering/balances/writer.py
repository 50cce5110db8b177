"""Writing to the balances topic: in order, idempotent, and known to be safe before anything else happens."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from metering.domain.errors import Unavailable
from metering.kafka.topics import RECORD_BYTES_MAX

_POLL_SECONDS: Final = 0.1
_DELIVERY_SECONDS: Final = 120
_CLOSE_SECONDS: Final = 5.0


class TopicWriter:
    """One producer for all partitions of a topic. Records of a partition keep their order."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._topic = topic
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "acks": "all",
                "compression.type": "lz4",
                "linger.ms": 0,
                "delivery.timeout.ms": _DELIVERY_SECONDS * 1000,
                "message.max.bytes": RECORD_BYTES_MAX,
                "reconnect.backoff.max.ms": 1000,
                "log_level": 3,
            }
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name=f"writer of {topic}", daemon=True)
        self._thread.start()

    async def send(self, partition: int, records: Sequence[tuple[bytes, bytes]]) -> list[int]:
        """Write (key, value) records and return their offsets once all are acknowledged.

        Raises Unavailable if one is not within two minutes; those before it may have been written.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[int]] = loop.create_future()
        offsets: list[int] = []

        def report(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                loop.call_soon_threadsafe(_fail, done, error)
                return
            offsets.append(message.offset() or 0)
            if len(offsets) == len(records):
                loop.call_soon_threadsafe(_resolve, done, offsets)

        for key, value in records:
            await self._produce(partition, key, value, report)
        return await done if records else []

    def close(self) -> None:
        """Give what is on its way a moment, then stop."""
        self._producer.flush(_CLOSE_SECONDS)
        self._stop.set()
        self._thread.join()

    async def _produce(self, partition: int, key: bytes, value: bytes, report: object) -> None:
        while True:
            try:
                self._producer.produce(self._topic, value, key, partition, on_delivery=report)
            except BufferError:
                await asyncio.sleep(_POLL_SECONDS / 10)
            except KafkaException as error:
                raise Unavailable(f"Kafka does not take a balance: {error.args[0].str()}") from error
            else:
                return

    def _poll(self) -> None:
        while not self._stop.is_set():
            self._producer.poll(_POLL_SECONDS)


def _resolve(done: asyncio.Future[list[int]], offsets: list[int]) -> None:
    if not done.done():
        done.set_result(offsets)


def _fail(done: asyncio.Future[list[int]], error: KafkaError) -> None:
    if not done.done():
        done.set_exception(Unavailable(f"Kafka did not acknowledge a balance: {error.str()}"))
