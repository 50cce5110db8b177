"""Balance records as bytes and back: between `metering.domain.balance` and what travels on the balances topic."""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

import msgspec

from metering.domain.balance import Record
from metering.domain.balance_book import Key
from metering.domain.consumption import Latest, Point
from metering.kafka.wire import ENCODER, ENTITLEMENT_DECODER, BalanceRecord, UsagePoints, record_key

_NOTHING: Final = UsagePoints({}, {}, {})


@dataclass(slots=True)
class RecordEncoder:
    """Encodes records of one owner. Keeps each entitlement's bytes: it changes seldom, and is most of a record."""

    epoch: int
    _entitlements: dict[Key, tuple[int, msgspec.Raw]] = field(default_factory=dict)

    def encode(self, key: Key, record: Record) -> tuple[bytes, bytes]:
        """The Kafka key and value."""
        known = self._entitlements.get(key)
        if known is None or known[0] != record.sequence:
            known = record.sequence, msgspec.Raw(ENCODER.encode(record.entitlement))
            self._entitlements[key] = known
        wire = BalanceRecord(
            self.epoch, record.sequence, known[1], record.snapshot, _points(record), record.through, record.vector
        )
        return record_key(*key), ENCODER.encode(wire)


def decode(wire: BalanceRecord) -> Record:
    """The record that was written. Raises msgspec.DecodeError if it is none."""
    usage: dict[int, Point] = {**wire.usage.sums, **wire.usage.uniques, **wire.usage.latest}
    entitlement = ENTITLEMENT_DECODER.decode(wire.entitlement)
    return Record(wire.sequence, entitlement, wire.snapshot, usage, wire.through, wire.vector)


def key_of(raw: bytes) -> Key:
    """The key of a record on the balances or entitlements topic."""
    return Key(*raw.decode().split("/", 2))


def _points(record: Record) -> UsagePoints:
    if not record.usage:
        return _NOTHING
    sums: dict[int, Decimal] = {}
    uniques: dict[int, frozenset[bytes]] = {}
    latest: dict[int, Latest] = {}
    for minute, each in record.usage.items():
        if isinstance(each, Decimal):
            sums[minute] = each
        elif isinstance(each, Latest):
            latest[minute] = each
        else:
            uniques[minute] = each
    return UsagePoints(sums, uniques, latest)
