"""What travels on Kafka between the sink, the balances app and the API. All of it is msgpack by msgspec.

Amounts are Decimals (msgpack texts), instants are microseconds since the epoch unless the name says otherwise.
"""

from decimal import Decimal
from hashlib import blake2b
from typing import Final

import msgspec


class Cell(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one range adds for (customer, meter, dims, minute of event time)."""

    namespace: str
    customer: str
    meter: str  # Meter.key
    dims: tuple[str, ...]
    minute: int  # minutes since the epoch
    events: int
    count: int  # events with a usable value
    sum: Decimal
    min: Decimal | None
    max: Decimal | None
    latest: Decimal | None
    latest_time: int  # microseconds
    latest_offset: int
    uniques: tuple[str, ...]


class Delta(msgspec.Struct, frozen=True, array_like=True):
    """What a range [start, end) of a source partition adds to the customers of one balance partition.

    Sent for every range to every balance partition, with or without cells, so that "passed" is always known.
    `ingest_time` is what the range reaches, in milliseconds;
    """

    partition: int
    start: int
    end: int
    epoch: int
    revision: int
    ingest_time: int
    cells: list[Cell]


DELTA_ENCODER: Final = msgspec.msgpack.Encoder()
DELTA_DECODER: Final = msgspec.msgpack.Decoder(Delta)


def record_key(namespace: str, customer: str, feature: str) -> bytes:
    """The Kafka key of a customer's balance of a feature."""
    return f"{namespace}/{customer}/{feature}".encode()


def balance_partition(namespace: str, customer: str, partitions: int) -> int:
    """The balance partition that keeps all balances of a customer."""
    digest = blake2b(f"{namespace}/{customer}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % partitions
