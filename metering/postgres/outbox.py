"""The outbox: what must go to Kafka is written with the change it tells of, in one transaction.

Changes of one customer are written under that customer's row lock, so the order of their sequences is the order of
the changes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.postgres.tables import outbox

CHANNEL: Final = "weighbridge_outbox"
_NEXT: Final = text("SELECT nextval(pg_get_serial_sequence('outbox', 'sequence'))")
_NOTIFY: Final = text("SELECT pg_notify(:channel, '')")


@dataclass(frozen=True, slots=True)
class Target:
    """A topic, and among how many partitions its records are spread.

    `told` hears of every change that is written, before it is committed: customer, feature and sequence.
    """

    topic: str
    partitions: int
    told: Callable[[str, str, int], None] | None = None


async def append(
    connection: AsyncConnection, *, topic: str, partition: int, key: bytes, payload: Callable[[int], bytes]
) -> int:
    """Write one record to be sent after the commit. `payload` makes its bytes from its sequence, which is returned."""
    sequence: int = (await connection.execute(_NEXT)).scalar_one()
    row = {
        "sequence": sequence,
        "topic": topic,
        "partition": partition,
        "key": key,
        "payload": payload(sequence),
    }
    await connection.execute(insert(outbox), row)
    await connection.execute(_NOTIFY, {"channel": CHANNEL})  # Postgres delivers it at the commit, once
    return sequence
