"""Puts events and what the sink makes of them into ClickHouse, in ranges, some of them twice."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import msgspec
import pyarrow as pa
from clickhouse_connect.driver.client import Client

from metering.clickhouse.client import INSERT_SETTINGS
from metering.domain.columns import EventColumns, measure
from metering.domain.event import event_key
from metering.domain.meter import Meter
from metering.domain.rows import arrow

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class FedEvent:
    """An event as it was stored."""

    id: str
    type: str
    subject: str
    time: datetime
    data: object
    ingest: datetime
    partition: int
    offset: int


def us(instant: datetime) -> int:
    return (instant - EPOCH) // timedelta(microseconds=1)


def lay_out(
    rng: random.Random, drafts: Sequence[tuple[str, str, datetime, object, datetime]], partitions: int = 2
) -> list[FedEvent]:
    """Give (type, subject, time, data, ingest) their places: offsets follow ingest times in each partition."""
    offsets = dict.fromkeys(range(partitions), 0)
    events = []
    for number, (kind, subject, time, data, came) in enumerate(sorted(drafts, key=lambda draft: draft[4])):
        partition = rng.randrange(partitions)
        ingest = came.replace(microsecond=came.microsecond // 1000 * 1000)
        events.append(FedEvent(f"e{number}", kind, subject, time, data, ingest, partition, offsets[partition]))
        offsets[partition] += 1
    return events


def columns_of(events: Sequence[FedEvent], namespace: str = "default") -> EventColumns:
    return EventColumns(
        namespace=[namespace] * len(events),
        id=[e.id for e in events],
        source=["src"] * len(events),
        type=[e.type for e in events],
        subject=[e.subject for e in events],
        time_us=[us(e.time) for e in events],
        data=[msgspec.json.encode(e.data) for e in events],
        ingest_us=[us(e.ingest) for e in events],
        partition=[e.partition for e in events],
        offset=[e.offset for e in events],
    )


def feed(
    client: Client,
    rng: random.Random,
    events: Sequence[FedEvent],
    meters: Sequence[Meter],
    *,
    reached: datetime,
    partitions: int = 2,
) -> None:
    """Write everything. Ingest time has reached `reached` in every partition afterwards."""
    for partition in range(partitions):
        mine = [e for e in events if e.partition == partition]
        cuts = sorted({0, len(mine), *(rng.randrange(len(mine) + 1) for _ in range(4))})
        for a, end in pairwise(cuts):
            last = end == len(mine)
            for _ in range(rng.choice((1, 1, 2))):
                write_range(client, mine[a:end], meters, partition=partition, a=a, reached=reached if last else None)
        if not mine:
            write_range(client, [], meters, partition=partition, a=0, reached=reached, ticks=1)


def write_range(
    client: Client,
    events: Sequence[FedEvent],
    meters: Sequence[Meter],
    *,
    partition: int,
    a: int,
    reached: datetime | None,
    ticks: int = 0,
) -> None:
    """One range as the sink would write it."""
    columns = columns_of(events)
    if events:
        client.insert_arrow("events", _events(events, columns), settings=INSERT_SETTINGS)
    write_usage(client, events, meters, a)
    end = a + len(events) + ticks
    ingest = reached or events[-1].ingest
    row = [partition, a, end, len(events), 0, 0, ticks, 1, ingest, b"d" * 16, datetime.now(UTC)]
    client.insert("flushes", [row], settings=INSERT_SETTINGS)


def write_usage(client: Client, events: Sequence[FedEvent], meters: Sequence[Meter], a: int) -> None:
    usage = measure(columns_of(events), lambda n, t: tuple(m for m in meters if m.event_type == t)).usage
    if usage.height:
        table = arrow(usage)
        table = table.append_column("a", pa.array([a] * table.num_rows, pa.uint64()))
        client.insert_arrow("usage", table, settings=INSERT_SETTINGS)


def _events(events: Sequence[FedEvent], columns: EventColumns) -> pa.Table:
    return pa.table(
        {
            "namespace": columns.namespace,
            "type": columns.type,
            "subject": columns.subject,
            "time": pa.array(columns.time_us, pa.timestamp("us", "UTC")),
            "id": columns.id,
            "source": columns.source,
            "key": pa.array([event_key("default", "src", e.id) for e in events], pa.binary(16)),
            "data": [d.decode() for d in columns.data],
            "ingest_time": pa.array([u // 1000 for u in columns.ingest_us], pa.timestamp("ms", "UTC")),
            "stored_at": pa.array([u // 1000 for u in columns.ingest_us], pa.timestamp("ms", "UTC")),
            "partition": pa.array(columns.partition, pa.uint32()),
            "offset": pa.array(columns.offset, pa.uint64()),
        }
    )
