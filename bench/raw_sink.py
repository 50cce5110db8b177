"""The limit beside the sink: consume, decode, insert raw rows into `events`, and nothing else.

`python -m bench.raw_sink COUNT` prints events/s over the whole topic.
"""

import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import msgspec
import pyarrow as pa
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

from metering.clickhouse.client import INSERT_SETTINGS, connect
from metering.domain.event import Event
from metering.kafka.consumer import reader_config
from metering.settings import EngineSettings

_ROWS: Final = 50_000  # an insert, as the sink's
_WAIT_SECONDS: Final = 0.2  # as the sink's
_EVENTS: Final = msgspec.json.Decoder(list[Event])
_US: Final = pa.timestamp("us", tz="UTC")
_MS: Final = pa.timestamp("ms", tz="UTC")


def table(messages: list[Message]) -> pa.Table:
    events = _EVENTS.decode(b"[" + b",".join(message.value() for message in messages) + b"]")
    now = pa.array([time.time_ns() // 1_000_000] * len(events), pa.int64()).cast(_MS)
    return pa.table(
        {
            "namespace": [event.namespace for event in events],
            "type": [event.type for event in events],
            "subject": [event.subject for event in events],
            "time": pa.array([event.time for event in events], pa.int64()).cast(_US),
            "id": [event.id for event in events],
            "source": [event.source for event in events],
            "key": pa.array([message.key() for message in messages], pa.binary(16)),
            "data": pa.array([bytes(event.data) for event in events], pa.binary()),
            "ingest_time": now,
            "stored_at": now,
            "partition": pa.array([message.partition() for message in messages], pa.uint32()),
            "offset": pa.array([message.offset() for message in messages], pa.uint64()),
        }
    )


def main() -> None:
    count, settings = int(sys.argv[1]), EngineSettings()
    consumer = Consumer({**reader_config(settings.kafka_bootstrap), "enable.partition.eof": False})
    topic, partitions = settings.events_topic, settings.event_partitions
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(partitions)])
    client = connect(settings)
    done = first = 0
    began = 0.0
    # Inserts overlap with reading and decoding, as in anything that wants to be fast.
    with ThreadPoolExecutor(max_workers=1) as pool:
        inserting: Future[object] | None = None
        while done < count:
            messages = [message for message in consumer.consume(_ROWS, _WAIT_SECONDS) if message.error() is None]
            if not messages:
                continue
            rows = table(messages)
            if inserting is not None:
                inserting.result()
                if not began:  # from the first insert on, as the sink is measured
                    began, first = time.perf_counter(), done
            inserting = pool.submit(client.insert_arrow, "events", rows, settings=INSERT_SETTINGS)
            done += len(messages)
        if inserting is not None:
            inserting.result()
    print((done - first) / (time.perf_counter() - began))
    client.close()
    consumer.close()


if __name__ == "__main__":
    main()
