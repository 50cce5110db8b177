"""The epoch of a balance partition's owner, in Postgres."""

from typing import Final

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.postgres.tables import balance_epochs

_FIRST: Final = 1


async def raise_epoch(engine: AsyncEngine, topic: str, partition: int) -> int:
    """Take the partition: the epoch returned is above every earlier one, for as long as this database lives."""
    row = insert(balance_epochs).values(topic=topic, partition=partition, epoch=_FIRST)
    raised = row.on_conflict_do_update(
        index_elements=[balance_epochs.c.topic, balance_epochs.c.partition],
        set_={"epoch": balance_epochs.c.epoch + 1},
    ).returning(balance_epochs.c.epoch)
    async with engine.begin() as connection:
        return int((await connection.execute(raised)).scalar_one())
