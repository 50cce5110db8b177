"""An accepted event, as it lies on Kafka's `events` topic.

The record's key is a hash of what makes the event the same event, (namespace, source, id), and names the partition:
all copies of an event meet in one partition, whatever their subject, so that dedupe is local and exact.
"""

from hashlib import blake2b
from typing import Final

import msgspec

KEY_BYTES: Final = 16
TIME_MIN_US: Final = 1  # the epoch itself is refused: it is what a lost time looks like
TIME_MAX_US: Final = 7_258_118_400_000_000  # 2200-01-01T00:00:00Z


class Event(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One CloudEvent with its namespace. `data` is the JSON text as sent, so that no digit is lost.

    `time` is in microseconds since the epoch, UTC. `data` is an object or null.
    """

    namespace: str
    id: str
    source: str
    type: str
    subject: str
    time: int
    data: msgspec.Raw


def event_key(namespace: str, source: str, event_id: str) -> bytes:
    """The 16 bytes that stand for (namespace, source, id). Lengths are hashed too: no two triples meet by joining."""
    n, s = namespace.encode(), source.encode()
    return blake2b(b"%d:%d:" % (len(n), len(s)) + n + s + event_id.encode(), digest_size=KEY_BYTES).digest()


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of the `events` topic that holds every copy of the event with this key."""
    return int.from_bytes(key[:8], "big") % partitions
