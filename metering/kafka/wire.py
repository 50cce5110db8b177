"""What travels on Kafka between the sink, the balances app and the API. All of it is msgpack by msgspec.

Amounts are Decimals (msgpack texts), instants are microseconds since the epoch unless the name says otherwise.
"""

from decimal import Decimal
from hashlib import blake2b
from typing import Final

import msgspec

from metering.domain.burndown import Snapshot
from metering.domain.consumption import Latest
from metering.domain.entitlement import Entitlement


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
    latest_ingest: int = 0  # ingest time of the latest, in minutes since the epoch


class Delta(msgspec.Struct, frozen=True, array_like=True):
    """What a range [start, end) of a source partition adds to the customers of one balance partition.

    Sent for every range to every balance partition, with or without cells, so that "passed" is always known.
    `ingest_time` is what the range reaches, in milliseconds.
    """

    partition: int
    start: int
    end: int
    epoch: int
    revision: int
    ingest_time: int
    cells: list[Cell]


class EntitlementChange(msgspec.Struct, frozen=True, array_like=True):
    """The newest state of a customer's entitlement to a feature, from the outbox; `entitlement` None: there is none.

    Of two changes of a key the one with the higher `sequence` is newer. Sent again, without any change, after what it
    measures has changed otherwise (a backfill is done, an amendment), it has the balance computed anew.
    """

    sequence: int
    namespace: str
    customer: str
    feature: str
    entitlement: Entitlement | None


class UsagePoints(msgspec.Struct, frozen=True, array_like=True):
    """Usage by minute; of the three the one that the meter's aggregation has."""

    sums: dict[int, Decimal]
    uniques: dict[int, frozenset[bytes]]
    latest: dict[int, Latest]


class BalanceRecord(msgspec.Struct, frozen=True, array_like=True):
    """What the balances app knows of one balance; `metering.domain.balance.Record` tells what each part means.

    `entitlement` is the msgpack of an Entitlement, or of None, left as it is until somebody asks.
    """

    epoch: int
    sequence: int
    entitlement: msgspec.Raw
    snapshot: Snapshot | None
    usage: UsagePoints
    through: int
    vector: tuple[int, ...]


class Passed(msgspec.Struct, frozen=True, array_like=True):
    """Under PASSED_KEY: every balance of the partition has passed `vector`. Under EPOCH_KEY: an owner took over."""

    epoch: int
    vector: tuple[int, ...] = ()


# No record's key starts with a zero byte.
EPOCH_KEY: Final = b"\x00epoch"
PASSED_KEY: Final = b"\x00passed"

ENCODER: Final = msgspec.msgpack.Encoder()
DELTA_ENCODER: Final = ENCODER
DELTA_DECODER: Final = msgspec.msgpack.Decoder(Delta)
CHANGE_DECODER: Final = msgspec.msgpack.Decoder(EntitlementChange)
RECORD_DECODER: Final = msgspec.msgpack.Decoder(BalanceRecord)
PASSED_DECODER: Final = msgspec.msgpack.Decoder(Passed)
ENTITLEMENT_DECODER: Final = msgspec.msgpack.Decoder(Entitlement | None)


def record_key(namespace: str, customer: str, feature: str) -> bytes:
    """The Kafka key of a customer's balance of a feature."""
    return f"{namespace}/{customer}/{feature}".encode()


def balance_partition(namespace: str, customer: str, partitions: int) -> int:
    """The balance partition that keeps all balances of a customer."""
    digest = blake2b(f"{namespace}/{customer}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % partitions
