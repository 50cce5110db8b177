"""The epoch of a balance partition's owner, in Postgres (table `balance_epochs`).

One statement over plain psycopg: importing SQLAlchemy would take longer than all else between a kill and the first
balance after it.
"""

from typing import Final

import psycopg

_CONNECT_SECONDS: Final = 5
_RAISE: Final = """
INSERT INTO balance_epochs AS known (topic, partition, epoch) VALUES (%s, %s, 1)
ON CONFLICT (topic, partition) DO UPDATE SET epoch = known.epoch + 1
RETURNING epoch"""


async def raise_epoch(url: str, topic: str, partition: int) -> int:
    """Take the partition: the epoch returned is above every earlier one, for as long as this database lives.

    Raises psycopg.OperationalError if Postgres is away.
    """
    connection = await psycopg.AsyncConnection.connect(
        url, connect_timeout=_CONNECT_SECONDS, autocommit=True, application_name="weighbridge-balances"
    )
    async with connection:
        cursor = await connection.execute(_RAISE, (topic, partition))
        row = await cursor.fetchone()
    assert row is not None
    return int(row[0])
